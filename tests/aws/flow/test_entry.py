"""What the Lambda entry makes of events, of the time it has, and of an application's own factories."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from taskloom import EventFactoryAddedTask, Settings, StepFunctionTaskEvent, TaskQueueEvent, TaskStatus
from taskloom.aws.backend import NEEDED
from taskloom.errors import InvalidInput
from taskloom.execution.dispatch import MAX_FAILURES
from tests.aws.flow.pump import Context, MakePump
from tests.aws.moving_clock import MovingClock
from tests.aws.stack import Stack
from tests.cli.program import Program, run


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"Records": []},
        {"Records": [{"eventSource": "aws:kinesis", "kinesis": {}}]},
        {"requestContext": {"http": {}}, "rawPath": "/"},
        {"step": "leap"},
        {"detail-type": "Something Else", "detail": {}},
        ["Records"],
        None,
    ],
)
def test_an_unknown_event_is_an_error_that_shows_its_keys(
    make_pump: MakePump, moving_clock: MovingClock, event: Any
) -> None:
    pump = make_pump()
    pump.module.task("cat")(_nothing)
    with pytest.raises(InvalidInput) as caught:
        pump.module.lambda_handler(event, Context(moving_clock, 1))
    if isinstance(event, dict):
        assert all(name in str(caught.value) for name in event)


def test_a_message_of_somebody_else_goes_to_the_dead_letters(make_pump: MakePump, moving_clock: MovingClock) -> None:
    """It alone: the others of the batch are done."""
    pump = make_pump()
    pump.module.task("cat")(_nothing)
    bodies = ["no json", "{}", json.dumps({"action": "task-execute"}), json.dumps({"action": "other"})]
    records = [
        {"messageId": str(n), "receiptHandle": "x", "body": body, "eventSource": "aws:sqs", "attributes": {}}
        for n, body in enumerate(bodies)
    ]
    answer = pump.module.lambda_handler({"Records": records}, Context(moving_clock, 1))
    assert [failure["itemIdentifier"] for failure in answer["batchItemFailures"]] == ["0", "1", "2", "3"]


def test_an_execution_of_somebody_else_is_none_of_ours(make_pump: MakePump, moving_clock: MovingClock) -> None:
    pump = make_pump()
    pump.module.task("cat")(_nothing)
    for detail in ({}, {"executionArn": "arn:x", "stateMachineArn": "arn:y", "status": "FAILED"}):
        event = {"detail-type": "Step Functions Execution Status Change", "detail": detail}
        assert pump.module.lambda_handler(event, Context(moving_clock, 1)) is None


# --- the time of a function ------------------------------------------------------------------------------------------


def test_a_handler_knows_how_long_its_function_has(make_pump: MakePump) -> None:
    pump = make_pump()
    seen: dict[str, Any] = {}

    @pump.module.task("cat", timeout=20)
    async def cat(event: TaskQueueEvent) -> None:
        seen["cat"] = event.remaining(), event.task.lease_until - event.task.updated_at  # type: ignore[operator]

    @pump.module.task("dog")
    def dog(event: TaskQueueEvent) -> None:
        seen["dog"] = event.remaining(), event.task.lease_until - event.task.updated_at  # type: ignore[operator]

    service = pump.module.sync.task_service
    for task_type in ("cat", "dog"):
        service.create_task(tenant_code="mbc", task_type=task_type)
    pump.settle()
    remaining, lease = seen["cat"]
    assert 0 < remaining <= 20
    assert lease == timedelta(seconds=30)
    remaining, lease = seen["dog"]
    assert 20 < remaining < pump.timeout.total_seconds()
    assert timedelta(seconds=20) < lease <= pump.timeout


def test_a_handler_that_outlives_its_function_goes_on_where_it_saved(make_pump: MakePump) -> None:
    """No attempt is counted."""
    pump = make_pump()
    pump.timeout = timedelta(seconds=2)

    @pump.module.task("cat")
    async def cat(event: TaskQueueEvent) -> Any:
        done: Any = event.state or 0
        while done < 3:
            done += 1
            await event.checkpoint(done)
            if done < 3:
                await asyncio.Event().wait()
        return [done, event.attempt]

    service = pump.module.sync.task_service
    task = service.create_task(tenant_code="mbc", task_type="cat")
    pump.settle()
    done = service.get_task(task.key)
    assert (done.status, done.result) == (TaskStatus.COMPLETED, [3, 1])
    assert [entry.reason for entry in done.history].count("the time of its function was over") == 2


def test_a_handler_that_needs_more_than_its_function_has_fails(make_pump: MakePump) -> None:
    """Otherwise it would begin again for ever."""
    pump = make_pump()
    pump.timeout = timedelta(seconds=1)

    @pump.module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        await asyncio.Event().wait()

    service = pump.module.sync.task_service
    task = service.create_task(tenant_code="mbc", task_type="cat")
    pump.settle()
    done = service.get_task(task.key)
    assert done.error is not None
    assert (done.status, done.error.type) == (TaskStatus.FAILED, "TimeoutError")
    assert "checkpoint" in done.error.message


def test_a_chunk_begins_nothing_for_which_there_is_no_time(make_pump: MakePump) -> None:
    """What is left is run in the next pass; no attempt is lost."""
    pump = make_pump()
    pump.timeout = timedelta(seconds=2)

    @pump.module.step_function_task("dogs", chunk_size=10, timeout=1.4)
    async def dog(event: StepFunctionTaskEvent) -> int:
        if event.task.input % 2 == 0:  # longer than what is left then for another one
            await pump.module._backend.clock.wait(
                asyncio.Event(), pump.module._backend.clock.now() + timedelta(seconds=0.3)
            )
        return event.attempt

    service = pump.module.sync.task_service
    task = service.create_step_function_task(tenant_code="mbc", task_type="dogs", input=range(4))
    pump.settle()
    done = service.get_task(task.key)
    assert done.status is TaskStatus.COMPLETED
    assert [sub.result for sub in service.iter_sub_tasks(task.key)] == [1, 1, 1, 1]
    chunks = [event for event, _ in pump.events if event.get("step") == "chunk"]
    assert len(chunks) > 1


# --- an application's own event factory ------------------------------------------------------------------------------


class Factory(EventFactoryAddedTask):
    """Fails, or drops tasks, as their input says."""

    failures = 0
    seen: list[Mapping[str, Any]]

    def __init__(self) -> None:
        self.seen = []

    async def transform_dynamodb_stream(self, event: Mapping[str, Any]) -> Sequence[Any]:
        self.seen.append(event)
        events = await super().transform_dynamodb_stream(event)
        wish = events[0].task_entity.input
        if wish == "drop":
            return []
        if isinstance(wish, int) and self.failures < wish:
            self.failures += 1
            raise ValueError("not now")
        return [*events, *events]


def test_the_factory_gets_records_as_aws_hands_them_over(make_pump: MakePump, stack: Stack) -> None:
    """And a task is dispatched once, however many events are made of it."""
    factory = Factory()
    pump = make_pump(event_factory=lambda module: factory)
    pump.module.task("cat")(_nothing)
    service = pump.module.sync.task_service
    task = service.create_task(tenant_code="mbc", task_type="cat")
    pump.settle()
    (event,) = factory.seen
    (record,) = event["Records"]
    assert record["eventSourceARN"] == stack.stream_arn
    assert record["dynamodb"]["Keys"] == {"pk": {"S": task.pk}, "sk": {"S": task.sk}}
    done = service.get_task(task.key)
    assert [entry.status for entry in done.history] == ["PENDING", "IN_PROGRESS", "COMPLETED"]


def test_a_factory_that_drops_a_task_ends_it(make_pump: MakePump) -> None:
    pump = make_pump(event_factory=Factory)
    pump.module.task("cat")(_nothing)
    service = pump.module.sync.task_service
    dropped = service.create_task(tenant_code="mbc", task_type="cat", input="drop")
    other = service.create_task(tenant_code="mbc", task_type="cat", input="keep")
    pump.settle()
    done = service.get_task(dropped.key)
    assert done.error is not None
    assert (done.status, done.error.type) == (TaskStatus.FAILED, "EventFactory")
    assert service.get_task(other.key).status is TaskStatus.COMPLETED


def test_a_factory_that_fails_is_asked_again(make_pump: MakePump, moving_clock: MovingClock) -> None:
    """No other task waits for that."""
    pump = make_pump(event_factory=Factory)
    pump.module.task("cat")(_nothing)
    service = pump.module.sync.task_service
    task = service.create_task(tenant_code="mbc", task_type="cat", input=2)
    other = service.create_task(tenant_code="mbc", task_type="cat", input="keep")
    pump.settle()
    assert service.get_task(other.key).status is TaskStatus.COMPLETED
    assert service.get_task(task.key).status is TaskStatus.PENDING
    moving_clock.advance(60)
    pump.settle()
    assert service.get_task(task.key).status is TaskStatus.COMPLETED


def test_a_factory_that_fails_for_good_makes_a_dead_letter(make_pump: MakePump, moving_clock: MovingClock) -> None:
    pump = make_pump(event_factory=Factory)
    pump.module.task("cat")(_nothing)
    service = pump.module.sync.task_service
    task = service.create_task(tenant_code="mbc", task_type="cat", input=MAX_FAILURES)
    for _ in range(MAX_FAILURES):
        pump.settle()
        moving_clock.advance(61)
    done = service.get_task(task.key)
    assert done.error is not None
    assert done.status is TaskStatus.FAILED
    assert "not now" in done.error.message
    (letter,) = asyncio.run(pump.module.task_service.queues.dead_letters())
    assert (letter.key, letter.failures) == (task.key, MAX_FAILURES)


# --- workers ---------------------------------------------------------------------------------------------------------


def test_a_worker_takes_what_is_marked_for_it(make_pump: MakePump) -> None:
    """From a queue of its own, into which the dispatching function puts it."""
    pump = make_pump()
    ran = []

    @pump.module.task("long", runs_on="worker")
    async def long(event: TaskQueueEvent) -> str:
        ran.append("long")
        return "in a worker"

    @pump.module.task("short")
    async def short(event: TaskQueueEvent) -> None:
        ran.append("short")

    service = pump.module.sync.task_service
    task = service.create_task(tenant_code="mbc", task_type="long")
    service.create_task(tenant_code="mbc", task_type="short")
    pump.settle()
    assert ran == ["short"]

    async def work() -> None:
        async with pump.module.worker(concurrency=2) as worker:
            working = asyncio.create_task(worker.run())
            await pump.module.task_service.wait(task.key, timeout=30)
            worker.stop()
            await working

    asyncio.run(work())
    done = service.get_task(task.key)
    assert (done.status, done.result) == (TaskStatus.COMPLETED, "in a worker")
    assert "lambda" not in (done.history[-1].by or "")


def test_a_task_without_a_handler_waits_for_one(make_pump: MakePump, moving_clock: MovingClock) -> None:
    """A function that has it may be deployed later."""
    pump = make_pump()
    pump.module.task("cat")(_nothing)
    service = pump.module.sync.task_service
    tasks = [
        service.create_task(tenant_code="mbc", task_type="dog"),
        service.create_step_function_task(tenant_code="mbc", task_type="dog", input=[1]),
    ]
    pump.settle()
    assert [service.get_task(task.key).status for task in tasks] == ["PENDING"] * 2

    @pump.module.step_function_task("dog")
    async def dogs(event: StepFunctionTaskEvent) -> None: ...

    pump.module.task("dog")(_nothing)
    moving_clock.advance(61)
    pump.settle()
    assert [service.get_task(task.key).status for task in tasks] == ["COMPLETED"] * 2


def test_a_worker_without_its_queue_says_so(make_pump: MakePump, stack: Stack, moving_clock: MovingClock) -> None:
    pump = make_pump(settings=replace(stack.settings, worker_queue_url=None))
    pump.module.task("cat")(_nothing)

    async def work() -> None:
        async with pump.module.worker() as worker:
            await worker.run()

    with pytest.raises(InvalidInput, match="TASKLOOM_WORKER_QUEUE_URL"):
        asyncio.run(work())


def test_the_command_line_works_on_aws(make_pump: MakePump, stack: Stack, tmp_path: Path) -> None:
    """With nothing but its environment: a worker of the application, and looking at tasks."""
    pump = make_pump()

    @pump.module.task("long", runs_on="worker")
    async def long(event: TaskQueueEvent) -> None: ...

    (tmp_path / "app.py").write_text(APPLICATION)
    environment = {
        f"TASKLOOM_{field.name.upper()}": str(getattr(stack.settings, field.name))
        for field in fields(Settings)
        if field.name in ("backend", *NEEDED, "worker_queue_url")
    }
    service = pump.module.sync.task_service
    task = service.create_task(tenant_code="mbc", task_type="long")
    pump.settle()
    with Program(tmp_path, "worker", "app:module", environment=environment) as worker:
        assert service.wait(task.key, timeout=60).result == "by the program"
        worker.process.terminate()
        assert worker.ended().code == 0
    shown = run(tmp_path, "show", task.id, "--json", environment=environment)
    assert json.loads(shown.out)["status"] == "COMPLETED"


APPLICATION = """
from taskloom import TaskModule

module = TaskModule.register()

@module.task("long", runs_on="worker")
def long(event):
    return "by the program"
"""


async def _nothing(event: TaskQueueEvent) -> None: ...
