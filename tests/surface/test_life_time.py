"""Life time: when a module works, where from, what it keeps alive, and what its workers take."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskloom import Settings, StepFunctionTaskEvent, TaskModule, TaskQueueEvent, TaskStatus, event_handler
from tests.surface.running import PATIENCE, Entity, MakeModule, drained, single, within_patience

RunScript = Callable[[str], str]

HEAD = """
import asyncio, logging, os, sys, threading
from taskloom import Settings, TaskModule
logging.disable(logging.WARNING)  # that a handler is given back is said there
module = TaskModule.register(settings=Settings(database=sys.argv[1]))
create = module.task_service.create_task
"""


@pytest.fixture
def run_script(database: Path, tmp_path: Path) -> RunScript:
    """Runs code in a fresh interpreter, where `module` is a module over `database`; what it printed."""

    def run(code: str) -> str:
        script = tmp_path / "script.py"
        script.write_text(HEAD + code)
        # Python 3.12 and later warn of every fork with threads about; the tests fork on purpose.
        command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", str(script), str(database)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    return run


async def names(module: TaskModule) -> list[str]:
    return sorted([task.name async for task in module.task_service.iter_tasks("acme")])


# --- right after register --------------------------------------------------------------------------------------------


def test_the_service_works_right_after_register(make_module: MakeModule) -> None:
    """No start, no worker; and nobody closes it before the next loop uses it."""
    module = make_module()
    task = asyncio.run(module.task_service.create_task(tenant_code="acme", task_type="job"))
    assert task.status is TaskStatus.PENDING
    assert asyncio.run(module.task_service.get_task(task.key)) == task


def test_files_open_at_first_use(make_module: MakeModule, database: Path) -> None:
    module = make_module()
    assert list(database.parent.iterdir()) == []
    asyncio.run(module.task_service.list_tasks("acme"))
    assert database.exists()


def test_the_database_is_where_it_was_when_the_module_was_registered(
    make_module: MakeModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path must not follow a program that changes its folder."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    module = make_module(settings=Settings(database="here.db"))
    monkeypatch.chdir(elsewhere)
    asyncio.run(module.task_service.list_tasks("acme"))
    assert (tmp_path / "here.db").exists()
    assert list(elsewhere.iterdir()) == []


def test_the_service_works_from_any_loop_and_thread_at_once(make_module: MakeModule) -> None:
    module, together, failures = make_module(), threading.Barrier(6), list[BaseException]()

    def create(number: int) -> None:
        try:
            together.wait(PATIENCE)
            for part in range(3):
                name = f"{number}/{part}"
                asyncio.run(module.task_service.create_task(tenant_code="acme", task_type="job", name=name))
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert failures == []
    assert asyncio.run(names(module)) == [f"{number}/{part}" for number in range(6) for part in range(3)]


def test_decorators_may_follow_register_and_even_the_creation_of_tasks(make_module: MakeModule) -> None:
    module = make_module()

    async def scenario() -> Any:
        task = await module.task_service.create_task(tenant_code="acme", task_type="job")
        module.task("job")(lambda event: "done")
        await drained(module)
        return await module.task_service.get_task(task.key)

    assert asyncio.run(scenario()).result == "done"


def test_creating_needs_no_handler_in_this_process(make_module: MakeModule) -> None:
    creator, runner = make_module(), make_module()
    runner.task("job")(lambda event: "done")

    async def scenario() -> Any:
        task = await creator.task_service.create_task(tenant_code="acme", task_type="job")
        await drained(runner)
        return await creator.task_service.get_task(task.key)

    assert asyncio.run(scenario()).result == "done"


def test_a_closed_module_opens_again_when_it_is_used(make_module: MakeModule) -> None:
    module = make_module()

    async def scenario() -> None:
        await module.task_service.create_task(tenant_code="acme", task_type="job", name="before")
        module.sync.task_service.create_task(tenant_code="acme", task_type="job", name="before, sync")
        await module.aclose()
        await module.task_service.create_task(tenant_code="acme", task_type="job", name="after")
        module.sync.task_service.create_task(tenant_code="acme", task_type="job", name="after, sync")
        module.close()
        assert await names(module) == ["after", "after, sync", "before", "before, sync"]

    asyncio.run(scenario())


def test_the_service_works_after_a_fork(run_script: RunScript, make_module: MakeModule) -> None:
    """As in a pre-forking web server: parent and children use the module that was registered and used before."""
    run_script("""
asyncio.run(create(tenant_code="acme", task_type="job", name="before"))
module.sync.task_service.create_task(tenant_code="acme", task_type="job", name="before, sync")
children = []
for number in range(2):
    child = os.fork()
    if child == 0:
        asyncio.run(create(tenant_code="acme", task_type="job", name=f"child {number}"))
        module.sync.task_service.create_task(tenant_code="acme", task_type="job", name=f"child {number}, sync")
        os._exit(0)
    children.append(child)
asyncio.run(create(tenant_code="acme", task_type="job", name="parent"))
for child in children:
    assert os.waitpid(child, 0)[1] == 0
""")
    assert asyncio.run(names(make_module())) == [
        "before",
        "before, sync",
        "child 0",
        "child 0, sync",
        "child 1",
        "child 1, sync",
        "parent",
    ]


def test_a_worker_works_after_a_fork(run_script: RunScript, make_module: MakeModule) -> None:
    run_script("""
module.task("job")(lambda event: "done by the child")

async def work():
    async with module.worker() as worker:
        await worker.drain()

asyncio.run(create(tenant_code="acme", task_type="job", name="before"))
child = os.fork()
if child == 0:
    asyncio.run(work())
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
""")

    async def results() -> list[Any]:
        return [task.result async for task in make_module().task_service.iter_tasks("acme")]

    assert asyncio.run(results()) == ["done by the child"]


# --- nothing keeps a process alive -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("asyncio.run(create(tenant_code='acme', task_type='job'))", id="created in a loop"),
        pytest.param("module.sync.task_service.create_task(tenant_code='acme', task_type='job')", id="created by sync"),
        pytest.param(
            "threading.Thread(target=asyncio.run, args=(create(tenant_code='acme', task_type='job'),)).start()",
            id="created in a thread",
        ),
        pytest.param(
            """
async def main():
    task = await create(tenant_code='acme', task_type='job')
    try:
        await module.task_service.wait(task.key, timeout=0)
    except TimeoutError:
        pass
asyncio.run(main())
""",
            id="waited",
        ),
        pytest.param(
            """
started, for_ever = threading.Event(), threading.Event()

@module.task('hung')
def hung(event):
    started.set()
    for_ever.wait()

async def main():
    await create(tenant_code='acme', task_type='job')
    await create(tenant_code='acme', task_type='hung')
    async with module.worker(grace=0) as worker:
        await asyncio.to_thread(started.wait)
asyncio.run(main())
""",
            id="a stopped worker's thread handler hangs",
        ),
    ],
)
def test_nothing_keeps_the_process_alive(run_script: RunScript, make_module: MakeModule, code: str) -> None:
    """The script ends by itself, without any close, and what it created is there."""
    assert run_script(code + "\nprint('end of script')") == "end of script\n"

    async def jobs() -> int:
        page = await make_module().task_service.list_tasks("acme", task_type="job")
        return len(page.items)

    assert asyncio.run(jobs()) == 1


# --- what a worker takes ---------------------------------------------------------------------------------------------


class Anything:
    """An event for every task."""


class ForAnything:
    async def transform_task(self, event: TaskQueueEvent) -> list[Any]:
        return [Anything()]

    async def transform_step_function_task(self, event: StepFunctionTaskEvent) -> list[Any]:
        return [Anything()]


@event_handler(Anything)
class AnythingHandler:
    async def execute(self, event: Anything) -> None: ...


async def statuses(module: TaskModule, **options: Any) -> dict[str, str]:
    """How a task of each kind and type ends when a worker of *module* has drained what it takes."""
    service = module.task_service
    tasks: dict[str, Entity] = {}
    for task_type in ("a", "b"):
        tasks[f"single {task_type}"] = await service.create_task(tenant_code="acme", task_type=task_type)
        tasks[f"fan-out {task_type}"] = await service.create_step_function_task(
            tenant_code="acme", task_type=task_type, input=[1]
        )
    await drained(module, **options)
    return {name: (await service.get_task(task.key)).status for name, task in tasks.items()}


def decorated(module: TaskModule) -> TaskModule:
    module.task("a")(lambda event: None)
    module.step_function_task("b")(lambda event: None)
    return module


def test_a_worker_claims_only_the_types_that_are_decorated(make_module: MakeModule) -> None:
    assert asyncio.run(statuses(decorated(make_module()))) == {
        "single a": "COMPLETED",
        "fan-out a": "PENDING",
        "single b": "PENDING",
        "fan-out b": "COMPLETED",
    }


def test_with_a_factory_a_worker_claims_every_type(make_module: MakeModule) -> None:
    module = decorated(make_module(task_queue_event_factory=ForAnything, providers=[AnythingHandler]))
    assert set(asyncio.run(statuses(module)).values()) == {"COMPLETED"}


@pytest.mark.parametrize("with_factory", [True, False])
def test_task_types_narrows_what_a_worker_claims(make_module: MakeModule, with_factory: bool) -> None:
    factory = {"task_queue_event_factory": ForAnything, "providers": [AnythingHandler]} if with_factory else {}
    assert asyncio.run(statuses(decorated(make_module(**factory)), task_types=["a"])) == {
        "single a": "COMPLETED",
        "fan-out a": "COMPLETED" if with_factory else "PENDING",
        "single b": "PENDING",
        "fan-out b": "PENDING",
    }


def test_what_one_worker_leaves_another_takes(make_module: MakeModule) -> None:
    """Also while both look at the same queue: one's types never reach the other's handlers."""
    one, other = make_module(), make_module()
    one.task("a")(lambda event: "by one")
    other.task("b")(lambda event: "by the other")

    async def scenario() -> Any:
        service = one.task_service
        tasks = [await service.create_task(tenant_code="acme", task_type=type_) for type_ in "abab"]
        async with one.worker(), other.worker():
            return [(await service.wait(task.key, timeout=PATIENCE)).result for task in tasks]

    assert asyncio.run(scenario()) == ["by one", "by the other"] * 2


# --- the end of a worker ---------------------------------------------------------------------------------------------


def test_a_worker_that_stops_lets_running_handlers_finish(make_module: MakeModule) -> None:
    module = make_module()

    async def scenario() -> Any:
        started, go_on = asyncio.Event(), asyncio.Event()

        @module.task("job")
        async def job(event: TaskQueueEvent) -> str:
            started.set()
            await go_on.wait()
            return "finished"

        task = await module.task_service.create_task(tenant_code="acme", task_type="job")
        async with module.worker(grace=PATIENCE) as worker:
            await within_patience(started.wait())
            worker.stop()
            later = await module.task_service.create_task(tenant_code="acme", task_type="job")
            go_on.set()
        return await module.task_service.get_task(task.key), await module.task_service.get_task(later.key)

    task, later = asyncio.run(scenario())
    assert task.result == "finished"
    assert later.status is TaskStatus.PENDING  # it claims nothing more


def test_a_worker_gives_back_what_does_not_finish_in_the_grace_time(make_module: MakeModule) -> None:
    """The next worker runs it at once, and the broken attempt does not count."""
    module = make_module()

    async def scenario() -> Any:
        started, broken = asyncio.Event(), list[bool]()

        @module.task("job")
        async def job(event: TaskQueueEvent) -> int:
            if broken:
                return event.attempt
            try:
                started.set()
                await asyncio.Event().wait()
            finally:
                broken.append(True)
            raise AssertionError

        task = await module.task_service.create_task(tenant_code="acme", task_type="job")
        async with module.worker(grace=0):
            await within_patience(started.wait())
        given_back = await module.task_service.get_task(task.key)
        await drained(module)
        return given_back, await module.task_service.get_task(task.key)

    given_back, done = asyncio.run(scenario())
    assert (given_back.status, given_back.attempt) == (TaskStatus.PENDING, 0)
    assert given_back.history[-1].reason == "the worker stopped"
    assert (done.status, done.result) == (TaskStatus.COMPLETED, 1)


def test_run_works_until_stop_is_called(make_module: MakeModule) -> None:
    module = make_module()

    async def scenario() -> Any:
        async with module.worker() as worker:

            @module.task("job")
            async def job(event: TaskQueueEvent) -> None:
                worker.stop()

            await module.task_service.create_task(tenant_code="acme", task_type="job")
            await within_patience(worker.run())
        return [task.status async for task in module.task_service.iter_tasks("acme")]

    module.task("other")(lambda event: None)
    assert asyncio.run(scenario()) == ["COMPLETED"]


def test_concurrency_is_how_many_handlers_run_at_a_time(make_module: MakeModule) -> None:
    """Three handlers wait for each other, so three run together; and a fourth never does."""
    module, running, most = make_module(), 0, 0

    async def scenario() -> None:
        together = asyncio.Barrier(3)

        @module.task("job")
        async def job(event: TaskQueueEvent) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            async with asyncio.timeout(PATIENCE):
                await together.wait()
            running -= 1

        for _ in range(9):
            await module.task_service.create_task(tenant_code="acme", task_type="job")
        await drained(module, concurrency=3)

    asyncio.run(scenario())
    assert most == 3


def test_thread_handlers_leave_the_loop_free(make_module: MakeModule) -> None:
    """`def` runs in a thread: it may block until something else happens on the loop."""
    module, on_loop = make_module(), threading.Event()

    @module.task("blocking")
    def blocking(event: TaskQueueEvent) -> bool:
        return on_loop.wait(PATIENCE)

    @module.task("job")
    async def job(event: TaskQueueEvent) -> None:
        on_loop.set()

    async def scenario() -> Any:
        task = await module.task_service.create_task(tenant_code="acme", task_type="blocking")
        await single(module)
        return await module.task_service.get_task(task.key)

    assert asyncio.run(scenario()).result is True
