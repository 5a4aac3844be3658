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


def test_a_sleep_and_a_step(make_pump: MakePump, moving_clock: Any) -> None:
    """No attempt is counted, and the step runs once."""
    pump, charged, calls = make_pump(), [], []

    @pump.module.task("cat")
    async def cat(event: TaskQueueEvent) -> Any:
        calls.append(event.attempt)
        receipt = await event.step("charge", charge)
        await event.sleep(60)
        return receipt

    def charge() -> str:
        charged.append(1)
        return "paid"

    service = pump.module.sync.task_service
    task = service.create_task(tenant_code="mbc", task_type="cat")
    pump.settle()
    assert service.get_task(task.key).status is TaskStatus.PENDING
    moving_clock.advance(61)
    pump.settle()
    done = service.get_task(task.key)
    assert (done.status, done.result, charged, calls) == (TaskStatus.COMPLETED, "paid", [1], [1, 1])


def test_a_callback_wakes_its_task(make_pump: MakePump, moving_clock: Any) -> None:
    pump, tokens = make_pump(), []

    @pump.module.task("cat")
    async def cat(event: TaskQueueEvent) -> Any:
        tokens.append(await event.callback("approval"))
        return await event.wait_for(tokens[-1], timeout=3600)

    service = pump.module.sync.task_service
    task = service.create_task(tenant_code="mbc", task_type="cat")
    pump.settle()
    assert service.get_task(task.key).status is TaskStatus.PENDING
    service.resume(tokens[0], {"by": "ann"})
    pump.settle()
    done = service.get_task(task.key)
    assert (done.status, done.result) == (TaskStatus.COMPLETED, {"by": "ann"})
    assert set(tokens) == {tokens[0]}


def test_sub_tasks_sleep_and_wait(make_pump: MakePump, moving_clock: Any) -> None:
    pump, tokens = make_pump(), []

    @pump.module.step_function_task("cat", chunk_size=2)
    async def cat(event: StepFunctionTaskEvent) -> Any:
        if event.input.input == 0:
            await event.sleep(5)
            return "slept"
        if event.input.input == 1:
            tokens.append(await event.callback("approval"))
            return await event.wait_for(tokens[-1], timeout=3600)
        return "at once"

    service = pump.module.sync.task_service
    task = service.create_step_function_task(tenant_code="mbc", task_type="cat", input=range(3))
    for _ in range(200):
        pump.round()
        moving_clock.advance(1)
        if tokens:
            break
    service.resume(tokens[0], "yes")
    pump.settle()
    done = service.get_task(task.key)
    assert done.status is TaskStatus.COMPLETED, done
    assert [sub.result for sub in service.iter_sub_tasks(task.key)] == ["slept", "yes", "at once"]


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
