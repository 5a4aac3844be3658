"""What tests run in processes of their own, most of which are killed.

Virtual time, handed over as milliseconds: nobody waits for a lease.
"""

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Final

from taskloom import Settings, StepFunctionTaskEvent, TaskModule, TaskQueueEvent, Webhook
from taskloom.clock import SystemClock, from_milliseconds, to_milliseconds
from taskloom.ports import Clock
from tests.support.clock import FakeClock
from tests.support.faults import DEADLINE, CrashAt, tapped
from tests.support.scenarios import SCENARIOS, TENANT, module_over, open_backend, tell

CONTEXT: Final[ForkServerContext] = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.engine.processes", "taskloom.module"])


def start(target: Callable[..., None], *args: Any) -> BaseProcess:
    """A process that runs *target*."""
    process = CONTEXT.Process(target=target, args=args, daemon=True)
    process.start()
    return process


def killed(target: Callable[..., None], *args: Any) -> bool:
    """Whether the process that runs *target* was killed; False when it came to its end."""
    process = start(target, *args)
    process.join(DEADLINE)
    code = process.exitcode
    assert code in (0, -signal.SIGKILL), f"the process ended with {code}"
    return code != 0


def kill_me() -> None:
    """No `finally`, no `atexit`, nothing flushed."""
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()  # not one instruction more


def note(file: Path, effect: object) -> None:
    """Append a line, in one write, so that processes do not mix theirs."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{effect}\n".encode())
    os.close(descriptor)


def effects(file: Path) -> list[str]:
    """The lines of `note`."""
    return file.read_text().splitlines() if file.exists() else []


def _clock(now: int) -> FakeClock:
    return FakeClock(from_milliseconds(now))


def create(database: Path, kind: str, then_die: bool) -> None:
    """Create a task of type "cat", and perhaps die as soon as `create_…` has returned."""

    async def main() -> None:
        module = TaskModule.register(settings=Settings(database=database))
        service = module.task_service
        if kind == "TASK":
            await service.create_task(tenant_code=TENANT, task_type="cat", input={"key": "v"})
        else:
            await service.create_step_function_task(tenant_code=TENANT, task_type="cat", input=[1, 2, 3])
        if then_die:
            kill_me()
        await module.aclose()

    asyncio.run(main())


def tell_and_die(database: Path, scenario: str, now: int, number: int, after: bool) -> None:
    """Tell a scenario, and die at call *number* of a port."""
    clock = _clock(now)
    (story,) = (story for story in SCENARIOS if story.name == scenario)
    backend = open_backend(database, clock)
    asyncio.run(tell(story, tapped(backend, CrashAt(number, after=after, die=kill_me)), clock))
    backend.close()


def define(module: TaskModule, file: Path) -> None:
    """Handlers that note each call, and die when the input says so."""

    def handle(event: TaskQueueEvent | StepFunctionTaskEvent) -> str:
        moment = event.task.input["die"] if isinstance(event.task.input, dict) else None
        if moment == "at its start":
            kill_me()
        note(file, event.task.id)
        if moment == "at its end":
            kill_me()
        return "done"

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> str:
        return handle(event)

    @module.task("tiger")
    def tiger(event: TaskQueueEvent) -> str:
        return handle(event)

    @module.step_function_task("cat", chunk_size=5)
    async def cats(event: StepFunctionTaskEvent) -> str:
        return handle(event)


def run(database: Path, file: Path, now: int) -> None:
    """A worker that runs what is due; tasks with "die" in their input kill it."""
    backend = open_backend(database, _clock(now))

    async def main() -> None:
        module = module_over(backend)
        define(module, file)
        async with module.worker(concurrency=1) as worker:
            await worker.drain()

    asyncio.run(main())
    backend.close()


def race(database: Path, file: Path, barrier: Barrier) -> None:
    """A worker on real time; its first handlers wait until those of the other workers are there too."""
    backend = open_backend(database, SystemClock())
    module = module_over(backend)
    everybody = threading.Event()
    met = threading.Lock()

    def meet() -> None:
        with met:
            if not everybody.is_set():
                barrier.wait(DEADLINE)
                everybody.set()

    @module.task("cat")
    def cat(event: TaskQueueEvent) -> int:
        meet()
        note(file, event.task.id)
        return os.getpid()

    @module.step_function_task("cat", chunk_size=7)
    def cats(event: StepFunctionTaskEvent) -> int:
        meet()
        note(file, event.task.id)
        if event.task.input % 10 == 3:
            raise ValueError("every tenth fails")
        return os.getpid()

    async def main() -> None:
        async with module.worker(concurrency=4) as worker:
            await worker.drain()
            # Chunks that the other one holds are not waited for by drain.
            async for parent in module.task_service.iter_tasks(TENANT, type="SFN_TASK"):
                await module.task_service.wait(parent.key, timeout=DEADLINE)
            await worker.drain()

    asyncio.run(main())
    backend.close()


def milliseconds(clock: Clock) -> int:
    """The time, as processes are given it."""
    return to_milliseconds(clock.now())


def create_with_webhook(database: Path, url: str, secret: str) -> None:
    """Create a task in a module that has a webhook, and die as soon as it is created: no worker ever ran."""

    async def main() -> None:
        settings = Settings(database=database, webhook_private_addresses=True)
        module = TaskModule.register(settings=settings, webhooks=[Webhook(url, secret)])
        await module.task_service.create_task(tenant_code=TENANT, task_type="cat")
        kill_me()

    asyncio.run(main())


def die_when_told(database: Path, file: Path, now: int) -> None:
    """Subscribe, create a task, and die in the middle of being told of it."""
    module = TaskModule.register(settings=Settings(database=database), clock=_clock(now))

    @module.subscribe(name="audit")
    def tell(message: dict[str, Any]) -> None:
        note(file, message["eventId"])
        kill_me()

    module.sync.task_service.create_task(tenant_code=TENANT, task_type="cat")
    threading.Event().wait(DEADLINE)
