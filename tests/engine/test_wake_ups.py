"""A worker that has nothing to do sleeps, and is woken: no time passes in these tests, so nobody polls."""

import asyncio
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from taskloom import StepFunctionTaskEvent, TaskModule, TaskQueueEvent, TaskStatus
from taskloom.model import TaskEntity
from taskloom.ports import Backend
from tests.engine import processes
from tests.support.clock import FakeClock
from tests.support.faults import DEADLINE, Probe, tapped
from tests.support.rules import check_rules
from tests.support.scenarios import TENANT, Effects, all_tasks, module_over, open_backend

# The path of a socket must be short; on Linux there is a way around it.
FOLDERS = ["short", "long" * 30] if Path("/proc/self/fd").exists() else ["short"]


@pytest.fixture(params=FOLDERS, ids=lambda name: name[:5])
def database(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A path whose length is known: that of `tmp_path` depends on the test."""
    with tempfile.TemporaryDirectory(prefix="wake-") as folder:
        path = Path(folder) / request.param / "t.db"
        path.parent.mkdir()
        yield path
        check_rules(path)


def with_cats(backend: Backend) -> tuple[TaskModule, Effects]:
    module, effects = module_over(backend), Effects()

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> str:
        effects.add(event.task.input)
        if event.task.input == "mother":
            await module.task_service.create_task(tenant_code=TENANT, task_type="cat", input="kitten")
        return "done"

    @module.step_function_task("cat")
    async def cats(event: StepFunctionTaskEvent) -> None:
        effects.add(event.task.input)

    return module, effects


async def ended(module: TaskModule, task: TaskEntity) -> TaskEntity:
    """The task when it has ended; in virtual time, so that only a signal ends the waiting."""
    async with asyncio.timeout(DEADLINE):
        return await module.task_service.wait(task.key)


async def rounds(number: int) -> None:
    """Give everybody who could do something the time to do it, some times over."""
    for _ in range(number):
        await asyncio.to_thread(lambda: None)


def test_a_task_that_is_created_while_the_worker_sleeps(backend: Backend) -> None:
    async def main() -> None:
        module, effects = with_cats(backend)
        async with module.worker() as worker:
            await worker.drain()
            for number in range(3):
                task = await module.task_service.create_task(tenant_code=TENANT, task_type="cat", input=number)
                assert (await ended(module, task)).status is TaskStatus.COMPLETED
                await worker.drain()
        assert effects.all == [0, 1, 2]

    asyncio.run(main())


def test_a_fan_out_that_is_created_while_the_worker_sleeps(backend: Backend) -> None:
    """Every step of its execution wakes the worker again."""

    async def main() -> None:
        module, effects = with_cats(backend)
        async with module.worker() as worker:
            await worker.drain()
            parent = await module.task_service.create_step_function_task(
                tenant_code=TENANT, task_type="cat", input=range(5)
            )
            assert (await ended(module, parent)).status is TaskStatus.COMPLETED
        assert sorted(effects.all) == [0, 1, 2, 3, 4]

    asyncio.run(main())


def test_a_task_that_a_handler_creates(backend: Backend) -> None:
    async def main() -> None:
        module, effects = with_cats(backend)
        async with module.worker(concurrency=1) as worker:
            await module.task_service.create_task(tenant_code=TENANT, task_type="cat", input="mother")
            await worker.drain()
        assert effects.all == ["mother", "kitten"]

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["TASK", "SFN_TASK"])
def test_a_task_that_another_process_creates(backend: Backend, database: Path, kind: str) -> None:
    """Through the socket beside the file."""

    async def main() -> None:
        module, effects = with_cats(backend)
        async with module.worker() as worker:
            await worker.drain()
            process = await asyncio.to_thread(processes.start, processes.create, database, kind, False)
            await asyncio.to_thread(process.join, DEADLINE)
            assert process.exitcode == 0
            (task,) = await all_tasks(backend)
            assert (await ended(module, task)).status is TaskStatus.COMPLETED
            await worker.drain()
        assert len(effects.all) == (1 if kind == "TASK" else 3)

    asyncio.run(main())


def test_a_task_that_another_process_ends_wakes_who_waits_for_it(
    backend: Backend, database: Path, clock: FakeClock
) -> None:
    """`wait` sleeps too: the worker that runs the task may live anywhere."""

    async def main() -> None:
        module = module_over(backend)
        task = await module.task_service.create_task(tenant_code=TENANT, task_type="cat")
        waiting = asyncio.create_task(ended(module, task))
        process = await asyncio.to_thread(
            processes.start, processes.run, database, database.with_name("effects"), processes.milliseconds(clock)
        )
        assert (await waiting).status is TaskStatus.COMPLETED
        await asyncio.to_thread(process.join, DEADLINE)

    asyncio.run(main())


def _create_in_a_fork(module: TaskModule) -> None:
    asyncio.run(module.task_service.create_task(tenant_code=TENANT, task_type="cat", input="from the child"))


def _fork_beside_a_worker(database: Path) -> None:
    """Runs in a process of its own: there are no other tests whose threads a fork would meet."""
    backend = open_backend(database, FakeClock())
    module, effects = with_cats(backend)

    async def main() -> None:
        async with module.worker() as worker:
            await worker.drain()
            child = multiprocessing.get_context("fork").Process(target=_create_in_a_fork, args=(module,))
            child.start()
            await asyncio.to_thread(child.join, DEADLINE)
            assert child.exitcode == 0
            (task,) = await all_tasks(backend)
            await ended(module, task)
        assert effects.all == ["from the child"]

    asyncio.run(main())
    backend.close()


def test_a_task_that_a_forked_child_creates(database: Path) -> None:
    """The child has inherited the sockets of its parent, and must wake it all the same."""
    process = processes.CONTEXT.Process(target=_fork_beside_a_worker, args=(database,))
    process.start()
    process.join(DEADLINE * 2)
    assert process.exitcode == 0


def test_two_workers_are_both_woken(backend: Backend) -> None:
    """Whoever is faster takes the task; it is run once."""

    async def main() -> None:
        first, effects = with_cats(backend)
        second, others = with_cats(backend)
        async with first.worker() as one, second.worker() as other:
            await asyncio.gather(one.drain(), other.drain())
            for number in range(20):
                task = await first.task_service.create_task(tenant_code=TENANT, task_type="cat", input=number)
                await ended(second, task)
        assert sorted([*effects.all, *others.all]) == list(range(20))

    asyncio.run(main())


def test_a_sleeping_worker_asks_for_nothing(backend: Backend) -> None:
    """Between two signals it makes no call at all."""

    async def main() -> None:
        probe = Probe()
        module, _ = with_cats(tapped(backend, probe))
        async with module.worker() as worker:
            await worker.drain()
            before = len(probe.made)
            await rounds(50)
            assert len(probe.made) == before
            await module.task_service.create_task(tenant_code=TENANT, task_type="cat")
            await worker.drain()
            assert len(probe.made) > before

    asyncio.run(main())


class Deaf:
    """`ports.Signals` all of which are lost."""

    def on_work(self, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    def on_any(self, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    def on_change(self, code: str, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


def test_a_worker_looks_by_itself_now_and_then(backend: Backend, clock: FakeClock) -> None:
    """Signals may be lost: who hears none finds the task, and its end, a few seconds later all the same."""

    async def main() -> None:
        module, effects = with_cats(replace(backend, signals=Deaf()))
        async with module.worker() as worker:
            await worker.drain()
            task = await module.task_service.create_task(tenant_code=TENANT, task_type="cat", input=1)
            waiting = asyncio.create_task(ended(module, task))
            await rounds(50)
            assert effects.all == [], "it heard something"
            async with asyncio.timeout(DEADLINE):
                while not waiting.done():
                    clock.advance(5)
                    await rounds(1)
            assert (await waiting).status is TaskStatus.COMPLETED
        assert effects.all == [1]

    asyncio.run(main())


class Counted:
    """`ports.Signals` that know how many listen for work."""

    def __init__(self) -> None:
        self.listeners = 0

    def on_work(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.listeners += 1

        def end() -> None:
            self.listeners -= 1

        return end

    def on_any(self, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    def on_change(self, code: str, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


def test_a_worker_listens_as_long_as_it_lives(backend: Backend) -> None:
    """A module may start one worker after the other."""
    signals = Counted()
    module, _ = with_cats(replace(backend, signals=signals))

    async def main() -> None:
        for _ in range(2):
            async with module.worker() as worker:
                await worker.drain()
                assert signals.listeners == 1
            assert signals.listeners == 0

    asyncio.run(main())
