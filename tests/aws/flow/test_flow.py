"""From a created task to its end, through every service of the stack; the functions run in this process."""

from typing import Any

import pytest

from taskloom import Retry, StepFunctionTaskEvent, TaskQueueEvent, TaskStatus
from tests.aws.flow.pump import MakePump, notices
from tests.aws.stack import Stack


def test_a_single_task(make_pump: MakePump, stack: Stack) -> None:
    pump = make_pump()

    @pump.module.task("cat")
    async def cat(event: TaskQueueEvent) -> Any:
        event.log.info("here")
        event.progress(1, 2)
        return {"got": event.task.input}

    service = pump.module.sync.task_service
    with notices(stack) as told:
        task = service.create_task(tenant_code="mbc", task_type="cat", input={"n": 1.5, "s": "käse"})
        pump.settle()
        done = service.get_task(task.key)
        assert (done.status, done.result) == (TaskStatus.COMPLETED, {"got": {"n": 1.5, "s": "käse"}})
        assert [entry.status for entry in done.history] == ["PENDING", "IN_PROGRESS", "COMPLETED"]
        assert done.progress is not None
        assert [line.message for line in service.logs(task.key).items] == ["here"]
        (message,) = told()
    assert message["action"] == "task-status"
    assert (message["pk"], message["sk"], message["id"]) == (task.pk, task.sk, task.id)
    assert message["content"]["status"] == "COMPLETED"
    assert message["content"]["attributes"]["result"] == [[{"got": {"n": 1.5, "s": "käse"}}]]


def test_a_fan_out(make_pump: MakePump, stack: Stack) -> None:
    """The documentation's six items."""
    pump = make_pump()

    @pump.module.step_function_task("cat")
    def cat(event: StepFunctionTaskEvent) -> Any:
        return event.task.input["key"]

    service = pump.module.sync.task_service
    task = service.create_step_function_task(
        tenant_code="mbc", task_type="cat", input=[{"key": f"value{i}"} for i in range(1, 7)]
    )
    pump.settle()
    done = service.get_task(task.key)
    assert done.status is TaskStatus.COMPLETED
    assert (done.attributes.sub_task_succeed_count, done.attributes.sub_task_failed_count) == (6, 0)
    assert [sub.result for sub in service.iter_sub_tasks(task.key)] == [f"value{i}" for i in range(1, 7)]


@pytest.mark.parametrize("count", [0, 250])
def test_an_empty_and_a_larger_list(make_pump: MakePump, count: int) -> None:
    pump = make_pump()

    @pump.module.step_function_task("cat", tolerated_failure_percentage=5)
    def cat(event: StepFunctionTaskEvent) -> Any:
        if event.task.input % 50 == 7:
            raise ValueError("no")
        return "x" * 20

    service = pump.module.sync.task_service
    task = service.create_step_function_task(tenant_code="mbc", task_type="cat", input=range(count))
    pump.settle()
    done = service.get_task(task.key)
    assert done.status is TaskStatus.COMPLETED
    assert done.attributes.sub_task_failed_count == count // 50
    assert done.attributes.sub_task_succeed_count == count - count // 50


def test_a_retry_waits_as_a_message(make_pump: MakePump, moving_clock: Any) -> None:
    pump = make_pump()
    attempts = []

    @pump.module.task("cat", retry=Retry(max_attempts=3, initial=30, jitter=False))
    async def cat(event: TaskQueueEvent) -> Any:
        attempts.append(event.attempt)
        if event.attempt < 3:
            raise ValueError("not yet")
        return "now"

    service = pump.module.sync.task_service
    task = service.create_task(tenant_code="mbc", task_type="cat")
    pump.settle()
    assert attempts == [1]
    assert service.get_task(task.key).status is TaskStatus.PENDING
    for waited in (31, 61):
        moving_clock.advance(waited)
        pump.settle()
    assert attempts == [1, 2, 3]
    assert service.get_task(task.key).result == "now"
