"""`module.sync`: the same services for Django, Flask and scripts."""

import asyncio
import inspect
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskloom import NewTask, StepFunctionService, StepFunctionTaskEvent, TaskQueueEvent, TaskService, TaskStatus
from taskloom.errors import ExecutionNotFound, InvalidInput, TaskNotFound
from taskloom.operations.queues import Queues
from tests.surface.running import PATIENCE, MakeModule, drained


@pytest.mark.parametrize(
    ("name", "service"),
    [("task_service", TaskService), ("task_service.queues", Queues), ("step_function_service", StepFunctionService)],
)
def test_sync_has_every_method_of_the_service(make_module: MakeModule, name: str, service: type) -> None:
    """So that there is no second half that lags behind the first; each with its documentation."""
    methods = {name for name, value in vars(service).items() if callable(value) and not name.startswith("_")}
    sync = make_module().sync
    for part in name.split("."):
        sync = getattr(sync, part)
    assert methods
    for method in methods:
        assert getattr(sync, method).__doc__ == getattr(service, method).__doc__
    own = {name for name in dir(sync) if not name.startswith("_") and callable(getattr(sync, name))}
    assert own == methods


def test_sync_does_what_the_service_does(make_module: MakeModule) -> None:
    module = make_module()
    tasks, machine = module.sync.task_service, module.sync.step_function_service
    module.task("job")(lambda event: event.task.input)
    module.step_function_task("job")(lambda event: event.task.input)

    one = tasks.create_task(tenant_code="acme", task_type="job", input=0)
    many = tasks.create_tasks(NewTask(tenant_code="acme", task_type="job", input=number) for number in (1, 2))
    parent = tasks.create_step_function_task(tenant_code="acme", task_type="job", input=iter([3, 4]))
    assert parent.execution_arn is not None
    assert machine.describe_execution(parent.execution_arn).status == "PENDING"
    asyncio.run(drained(module))

    assert tasks.get_task(one.key).result == 0
    assert [task.key for task in tasks.list_tasks("acme").items] == [many[1].key, many[0].key, one.key]
    assert [task.result for task in tasks.iter_tasks("acme", order="asc")] == [0, 1, 2]
    assert [task.result for task in tasks.list_sub_tasks(parent.key).items] == [3, 4]
    assert [task.result for task in tasks.iter_sub_tasks(parent.key)] == [3, 4]
    assert tasks.wait(parent.key, timeout=PATIENCE).status is TaskStatus.COMPLETED
    assert machine.describe_execution(parent.execution_arn).status == "SUCCEEDED"


def test_iterators_are_plain_iterators_over_all_pages(make_module: MakeModule) -> None:
    tasks = make_module().sync.task_service
    tasks.create_tasks(NewTask(tenant_code="acme", task_type="job", input=number) for number in range(250))
    found = tasks.iter_tasks("acme", order="asc")
    assert isinstance(found, Iterator)
    assert next(found).input == 0
    assert [task.input for task in found] == list(range(1, 250))
    assert list(found) == []


def test_an_iterator_may_be_left_in_the_middle(make_module: MakeModule) -> None:
    tasks = make_module().sync.task_service
    tasks.create_tasks(NewTask(tenant_code="acme", task_type="job") for _ in range(3))
    for _ in tasks.iter_tasks("acme"):
        break
    assert len(list(tasks.iter_tasks("acme"))) == 3


def test_errors_come_through_as_they_are(make_module: MakeModule) -> None:
    module = make_module()
    tasks = module.sync.task_service
    task = tasks.create_task(tenant_code="acme", task_type="job")
    with pytest.raises(InvalidInput, match="tenant_code"):
        tasks.create_task(tenant_code="a b", task_type="job")
    with pytest.raises(InvalidInput, match="cursor"):
        tasks.list_tasks("acme", cursor="x")
    with pytest.raises(TaskNotFound):
        tasks.get_task(type(task.key).single("acme", "job", "01J00000000000000000000000"))
    with pytest.raises(InvalidInput, match="no step function task"):
        next(tasks.iter_sub_tasks(task.key))
    with pytest.raises(TimeoutError):
        tasks.wait(task.key, timeout=0)
    with pytest.raises(ExecutionNotFound):
        module.sync.step_function_service.describe_execution("arn:none")


def test_sync_takes_an_async_iterable_too(make_module: MakeModule) -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    tasks = make_module().sync.task_service
    parent = tasks.create_step_function_task(tenant_code="acme", task_type="job", input=numbers())
    assert parent.input == [0, 1, 2]


def test_sync_works_from_plain_threads_at_once(make_module: MakeModule) -> None:
    module, together, failures = make_module(), threading.Barrier(5), list[BaseException]()

    def create(number: int) -> None:
        try:
            together.wait(PATIENCE)
            for _ in range(4):
                task = module.sync.task_service.create_task(tenant_code="acme", task_type="job", input=number)
                assert module.sync.task_service.get_task(task.key).input == number
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert failures == []
    inputs = [task.input for task in module.sync.task_service.iter_tasks("acme")]
    assert sorted(inputs) == [number for number in range(5) for _ in range(4)]


def test_sync_waits_in_one_thread_while_a_worker_runs_in_another(make_module: MakeModule) -> None:
    module = make_module()
    module.task("job")(lambda event: "done")
    task = module.sync.task_service.create_task(tenant_code="acme", task_type="job")
    worker = threading.Thread(target=lambda: asyncio.run(drained(module)))
    worker.start()
    assert module.sync.task_service.wait(task.key, timeout=PATIENCE).result == "done"
    worker.join(PATIENCE)


def test_sync_works_in_thread_handlers(make_module: MakeModule) -> None:
    module = make_module()

    @module.task("job")
    def job(event: TaskQueueEvent) -> str:
        own = module.sync.task_service.get_task(event.task.key)
        module.sync.task_service.create_step_function_task(tenant_code="acme", task_type="parts", input=[1])
        return own.status

    @module.step_function_task("parts")
    def part(event: StepFunctionTaskEvent[int]) -> int:
        return event.task.input

    task = module.sync.task_service.create_task(tenant_code="acme", task_type="job")
    asyncio.run(drained(module))
    assert module.sync.task_service.get_task(task.key).result == "IN_PROGRESS"
    (parent,) = module.sync.task_service.iter_tasks("acme", type="SFN_TASK")
    assert [sub.result for sub in module.sync.task_service.iter_sub_tasks(parent.key)] == [1]


def test_sync_works_in_a_script(make_module: MakeModule, database: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        """
import sys
from taskloom import NewTask, Settings, TaskModule

module = TaskModule.register(settings=Settings(database=sys.argv[1]))
tasks = module.sync.task_service
task = tasks.create_task(tenant_code="acme", task_type="job", input={"key": "v"})
parent = tasks.create_step_function_task(tenant_code="acme", task_type="job", input=(n for n in range(3)))
print(tasks.get_task(task.key).input, *(sub.input for sub in tasks.iter_sub_tasks(parent.key)))
"""
    )
    done = subprocess.run([sys.executable, str(script), str(database)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{'key': 'v'} 0 1 2\n", "")
    assert [task.input for task in make_module().sync.task_service.iter_tasks("acme")] == [{"key": "v"}]


def test_sync_methods_are_no_coroutines(make_module: MakeModule) -> None:
    value: Any = make_module().sync.task_service.list_tasks("acme")
    assert not inspect.isawaitable(value)
    assert value.items == []
