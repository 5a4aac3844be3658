"""The rules of the design on AWS: duplicates, crashes, lost messages, ends from outside."""

import asyncio
import os
from datetime import timedelta
from typing import Any

import pytest

from taskloom import NewTask, Retry, StepFunctionTaskEvent, TaskKey, TaskQueueEvent, TaskStatus, lifecycle
from taskloom.errors import StoreError
from taskloom.lifecycle import Change, Claimant
from taskloom.ports import PauseScope
from tests.aws.emulator import Emulator
from tests.aws.flow.pump import Crash, MakePump, Pump, notices, wait_scale
from tests.aws.moving_clock import MovingClock
from tests.aws.stack import Stack

GRACE = 6 * 60
"""Seconds after which a task that nothing brings back counts as lost."""


def test_everything_delivered_twice_is_done_once(make_pump: MakePump) -> None:
    """Rule 4: records, messages and calls of the state machine."""
    pump = make_pump()
    ran: list[object] = []
    pump.copies = 2

    @pump.module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        ran.append(event.task.input)

    @pump.module.step_function_task("dogs")
    async def dog(event: StepFunctionTaskEvent) -> None:
        ran.append(event.task.input)

    service = pump.module.sync.task_service
    single = service.create_task(tenant_code="mbc", task_type="cat", input="one")
    many = service.create_step_function_task(tenant_code="mbc", task_type="dogs", input=range(5))
    pump.settle()
    assert sorted(ran, key=str) == [0, 1, 2, 3, 4, "one"]
    done = service.get_task(single.key)
    assert [entry.status for entry in done.history] == ["PENDING", "IN_PROGRESS", "COMPLETED"]
    assert service.get_task(many.key).attributes.sub_task_succeed_count == 5


def test_a_process_that_dies_costs_an_attempt(make_pump: MakePump, moving_clock: MovingClock, tmp_path: Any) -> None:
    """The message comes again when its visibility ends, and by then the lease has, too."""
    pump = make_pump()
    pump.mortal = lambda event: "Records" in event and "body" in event["Records"][0]

    @pump.module.task("cat")
    async def cat(event: TaskQueueEvent) -> str:
        if event.attempt == 1:
            os._exit(9)
        return "alive"

    service = pump.module.sync.task_service
    task = service.create_task(tenant_code="mbc", task_type="cat")
    pump.settle()
    assert service.get_task(task.key).status is TaskStatus.IN_PROGRESS
    moving_clock.advance((pump.timeout + timedelta(seconds=31)).total_seconds())
    pump.settle()
    done = service.get_task(task.key)
    assert (done.status, done.result, done.attempt, done.lost) == (TaskStatus.COMPLETED, "alive", 2, 1)


def test_a_process_that_dies_in_a_chunk_costs_the_suspect_an_attempt(make_pump: MakePump) -> None:
    """And nobody else; the chunk is called again."""
    pump = make_pump()
    pump.mortal = lambda event: event.get("chunk") == 1

    @pump.module.step_function_task("dogs", chunk_size=3)
    async def dog(event: StepFunctionTaskEvent) -> int:
        if event.task.input == 4 and event.attempt < 3:
            os._exit(9)
        return int(event.task.input)

    service = pump.module.sync.task_service
    task = service.create_step_function_task(tenant_code="mbc", task_type="dogs", input=range(6))
    pump.settle()
    done = service.get_task(task.key)
    assert (done.status, done.attributes.sub_task_succeed_count) == (TaskStatus.COMPLETED, 6)
    assert [sub.attempt for sub in service.iter_sub_tasks(task.key)] == [1, 1, 1, 1, 3, 1]


def test_poison_in_a_chunk_is_given_up(make_pump: MakePump) -> None:
    pump = make_pump()
    pump.mortal = lambda event: event.get("chunk") == 0

    @pump.module.step_function_task("dogs", chunk_size=3, tolerated_failure_percentage=20)
    async def dog(event: StepFunctionTaskEvent) -> int:
        if event.task.input == 1:
            os._exit(9)
        return int(event.task.input)

    service = pump.module.sync.task_service
    task = service.create_step_function_task(tenant_code="mbc", task_type="dogs", input=range(6))
    pump.settle()
    done = service.get_task(task.key)
    assert (done.status, done.attributes.sub_task_failed_count) == (TaskStatus.COMPLETED, 1)
    (failed,) = service.iter_sub_tasks(task.key, status="FAILED")
    assert failed.error is not None
    assert (failed.index, failed.error.type) == (1, "WorkerDied")


def test_a_function_that_cannot_even_begin_is_given_up(make_pump: MakePump, stack: Stack) -> None:
    """After some crashes in a row without anything having changed; the fan-out says so."""
    pump = make_pump()

    @pump.module.step_function_task("dogs")
    async def dog(event: StepFunctionTaskEvent) -> int:
        return int(event.task.input)

    def crash(event: Any) -> None:
        if event.get("step") == "chunk" and event["chunk"] == 2:
            raise Crash

    pump.before = crash
    service = pump.module.sync.task_service
    with notices(stack) as told:
        task = service.create_step_function_task(tenant_code="mbc", task_type="dogs", input=range(4))
        pump.settle()
        done = service.get_task(task.key)
        assert done.error is not None
        assert (done.status, done.error.type) == (TaskStatus.FAILED, "ExecutionFailed")
        assert "chunk 2" in done.error.message
        assert (done.attributes.sub_task_succeed_count, done.attributes.sub_task_failed_count) == (3, 0)
        alarm = next(message for message in told() if message["action"] == "sfn-alarm")
    assert alarm["content"] == {"errorMessage": done.error.message}
    pump.before = lambda event: None
    service.retry_task(task.key)
    pump.settle()
    again = service.get_task(task.key)
    assert (again.status, again.run, again.attributes.sub_task_succeed_count) == (TaskStatus.COMPLETED, 2, 4)
    assert again.execution_arn is not None
    assert again.execution_arn.endswith(f"{task.code}-2")


def test_an_execution_that_fails_ends_its_fan_out(make_pump: MakePump) -> None:
    """Rule 3: its end is an event, and the parent is not left open."""
    pump = make_pump()

    @pump.module.step_function_task("dogs")
    async def dog(event: StepFunctionTaskEvent) -> int:
        return int(event.task.input)

    def crash(event: Any) -> None:
        if event.get("step") == "collect" or (event.get("step") == "chunk" and event["chunk"] == 1):
            raise Crash

    pump.before = crash
    service = pump.module.sync.task_service
    task = service.create_step_function_task(tenant_code="mbc", task_type="dogs", input=range(3))
    pump.settle()
    done = service.get_task(task.key)
    assert done.error is not None
    assert (done.status, done.error.type) == (TaskStatus.FAILED, "ExecutionFailed")
    assert done.attributes.sub_task_succeed_count == 2


def test_a_fan_out_is_cancelled_in_the_middle(make_pump: MakePump) -> None:
    pump = make_pump()
    service = pump.module.sync.task_service
    keys: list[TaskKey] = []

    @pump.module.step_function_task("dogs", max_concurrency=1)
    async def dog(event: StepFunctionTaskEvent) -> None:
        if event.task.input == 2:
            await pump.module.task_service.cancel_task(keys[0], reason="enough", by="ann")

    task = service.create_step_function_task(tenant_code="mbc", task_type="dogs", input=range(20))
    keys.append(task.key)
    pump.settle()
    done = service.get_task(task.key)
    assert done.status is TaskStatus.CANCELLED
    assert done.history[-1].reason == "cancelled: enough"
    assert 2 <= done.attributes.sub_task_succeed_count <= 4


def test_a_fan_out_that_only_waits_is_cancelled_at_once(make_pump: MakePump, moved: Emulator) -> None:
    """Its execution waits for an hour: it is stopped, and its end finishes the fan-out."""
    pump = make_pump()
    pump.waits_pass = False
    wait_scale(moved, 1)
    service = pump.module.sync.task_service

    @pump.module.step_function_task("dogs", retry=Retry(max_attempts=2, initial=3600, jitter=False))
    async def dog(event: StepFunctionTaskEvent) -> None:
        if event.task.input == 1:
            raise ValueError("no")

    task = service.create_step_function_task(tenant_code="mbc", task_type="dogs", input=range(3))
    _until(pump, lambda: "WaitStateEntered" in _last_event(pump, task.execution_arn or ""))
    assert service.cancel_task(task.key).cancel_requested is not None
    _until(pump, lambda: service.get_task(task.key).is_terminal)
    done = service.get_task(task.key)
    assert (done.status, done.attributes.sub_task_succeed_count) == (TaskStatus.CANCELLED, 2)
    assert [sub.status for sub in service.iter_sub_tasks(task.key)] == ["COMPLETED", "CANCELLED", "COMPLETED"]


def test_sub_tasks_wait_for_their_retry_without_a_function(make_pump: MakePump, moving_clock: MovingClock) -> None:
    pump = make_pump()
    times = []

    @pump.module.step_function_task(
        "dogs", chunk_size=2, retry=Retry(max_attempts=3, initial=600, maximum=1200, jitter=False)
    )
    async def dog(event: StepFunctionTaskEvent) -> int:
        if event.task.input == 2:
            times.append(moving_clock.now())
            if event.attempt < 3:
                raise ValueError("no")
        return event.attempt

    service = pump.module.sync.task_service
    task = service.create_step_function_task(tenant_code="mbc", task_type="dogs", input=range(4))
    pump.settle()
    assert service.get_task(task.key).status is TaskStatus.COMPLETED
    assert [sub.result for sub in service.iter_sub_tasks(task.key)] == [1, 1, 3, 1]
    first, second, third = times
    assert second - first >= timedelta(seconds=600)
    assert third - second >= timedelta(seconds=1200)


def test_a_task_that_somebody_runs_is_left_alone_until_his_lease_ends(
    make_pump: MakePump, moving_clock: MovingClock
) -> None:
    pump = make_pump()
    ran = []

    @pump.module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        ran.append(event.attempt)

    service, store = pump.module.sync.task_service, pump.module._backend.store
    task = service.create_task(tenant_code="mbc", task_type="cat")
    who = Claimant(by="other", claim_id="c1", now=moving_clock.now(), lease=timedelta(seconds=40), max_lost=3)
    change = lifecycle.claim(task.key, task, task.kind, who)
    assert isinstance(change, Change)
    asyncio.run(store.update(change))
    pump.settle()
    moving_clock.advance(30)
    pump.settle()
    assert ran == []
    moving_clock.advance(12)
    pump.settle()
    assert ran == [2]


def test_a_long_wait_holds_no_message(make_pump: MakePump, moving_clock: MovingClock, stack: Stack) -> None:
    """The reconciler gives the task another one in time."""
    pump = make_pump()
    ran = []

    @pump.module.task("cat", retry=Retry(max_attempts=2, initial=3600, maximum=7200, jitter=False))
    async def cat(event: TaskQueueEvent) -> None:
        ran.append(event.attempt)
        if event.attempt == 1:
            raise ValueError("no")

    service = pump.module.sync.task_service
    task = service.create_task(tenant_code="mbc", task_type="cat")
    pump.settle()
    assert _messages(stack) == 0
    moving_clock.advance(3500)
    pump.schedule()
    pump.settle()
    assert ran == [1]
    moving_clock.advance(200)
    pump.schedule()
    pump.settle()
    assert ran == [1, 2]
    assert service.get_task(task.key).status is TaskStatus.COMPLETED


def test_a_lost_message_is_made_up_for(make_pump: MakePump, moving_clock: MovingClock, stack: Stack) -> None:
    pump = make_pump()

    @pump.module.task("cat")
    async def cat(event: TaskQueueEvent) -> str:
        return "here"

    service = pump.module.sync.task_service
    task = service.create_task(tenant_code="mbc", task_type="cat")
    pump._stream.records()  # and nobody sends its message
    moving_clock.advance(GRACE)
    pump.schedule()
    pump.settle()
    assert service.get_task(task.key).result == "here"


def test_a_deadline_ends_a_task_that_nobody_ran(make_pump: MakePump, moving_clock: MovingClock) -> None:
    pump = make_pump()

    @pump.module.task("cat")
    async def cat(event: TaskQueueEvent) -> None: ...

    service = pump.module.sync.task_service
    task = service.create_task(tenant_code="mbc", task_type="cat", deadline=100)
    moving_clock.advance(101)
    pump.schedule()
    done = service.get_task(task.key)
    assert done.error is not None
    assert (done.status, done.error.type) == (TaskStatus.FAILED, "DeadlineExceeded")


def test_a_dead_letter_ends_its_task(make_pump: MakePump, stack: Stack) -> None:
    """With the reason; what has ended by itself stays as it is."""
    pump = make_pump()

    @pump.module.task("cat")
    async def cat(event: TaskQueueEvent) -> None: ...

    service = pump.module.sync.task_service
    tasks = service.create_tasks([NewTask(tenant_code="mbc", task_type="cat") for _ in range(2)])
    pump._records()
    service.cancel_task(tasks[1].key)
    source = stack.settings.task_queue_url
    while messages := stack.send("sqs", "receive_message", QueueUrl=source).get("Messages"):
        for message in messages:
            stack.send("sqs", "send_message", QueueUrl=stack.dead_queue_url, MessageBody=message["Body"])
            stack.send("sqs", "delete_message", QueueUrl=source, ReceiptHandle=message["ReceiptHandle"])
    pump.settle()
    done, cancelled = (service.get_task(task.key) for task in tasks)
    assert done.error is not None
    assert (done.status, done.error.type) == (TaskStatus.FAILED, "DeadLetter")
    assert cancelled.status is TaskStatus.CANCELLED


@pytest.mark.parametrize(("scope", "name"), [(PauseScope.TENANT, "mbc"), (PauseScope.TASK_TYPE, "cat")])
def test_what_is_paused_waits(make_pump: MakePump, moving_clock: MovingClock, scope: PauseScope, name: str) -> None:
    pump = make_pump()

    @pump.module.task("cat")
    async def cat(event: TaskQueueEvent) -> None: ...

    queues, service = pump.module.task_service.queues, pump.module.sync.task_service
    chosen: dict[str, Any] = {"tenant_code": name} if scope is PauseScope.TENANT else {"task_type": name}
    asyncio.run(queues.pause(**chosen))
    task = service.create_task(tenant_code="mbc", task_type="cat")
    pump.settle()
    moving_clock.advance(31)
    pump.settle()
    assert service.get_task(task.key).status is TaskStatus.PENDING
    asyncio.run(queues.resume(**chosen))
    moving_clock.advance(31)
    pump.settle()
    assert service.get_task(task.key).status is TaskStatus.COMPLETED


def _messages(stack: Stack) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    answer = stack.send("sqs", "get_queue_attributes", QueueUrl=stack.settings.task_queue_url, AttributeNames=names)
    return sum(int(answer["Attributes"][name]) for name in names)


def _until(pump: Pump, over: Any) -> None:
    for _ in range(2000):
        if over():
            return
        pump.round()
    raise AssertionError("it does not happen")


def _last_event(pump: Pump, arn: str) -> str:
    try:
        history = pump._stack.send(
            "stepfunctions", "get_execution_history", executionArn=arn, reverseOrder=True, maxResults=1
        )
    except StoreError as error:
        if "ExecutionDoesNotExist" not in str(error):
            raise
        return ""
    return str(history["events"][0]["type"])
