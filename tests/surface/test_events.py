"""Events: what factories and handlers are given."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from taskloom import (
    EventFactory,
    EventFactoryAddedTask,
    IEvent,
    StepFunctionTaskEvent,
    TaskEvent,
    TaskKey,
    TaskQueueEvent,
    TaskStatus,
    current,
    event_factory,
    event_handler,
)
from taskloom.errors import InvalidInput, NotRunning
from tests.support.clock import FakeClock
from tests.surface.running import PATIENCE, MakeModule, drained, fan_out, single, sub_tasks

CODE = "01J00000000000000000000000"


def raw_record(pk: str, sk: str, *, dispatch: bool = True, event_id: str = "e1", status: str = "PENDING") -> Any:
    """A record as DynamoDB streams hand it to Lambda (source: DynamoDB Streams API reference, "Record")."""
    image: dict[str, Any] = {
        "pk": {"S": pk},
        "sk": {"S": sk},
        "status": {"S": status},
        "createdAt": {"S": "2026-05-01T12:00:00.000Z"},
        "input": {"M": {"price": {"N": "12.5"}, "tags": {"L": [{"S": "a"}, {"NULL": True}, {"BOOL": False}]}}},
    }
    if dispatch:
        image["dispatch"] = {"S": "x"}
    return {
        "eventID": event_id,
        "eventName": "INSERT",
        "eventSource": "aws:dynamodb",
        "eventSourceARN": "arn:aws:dynamodb:eu-west-1:123456789012:table/tasks/stream/2026-05-01T00:00:00.000",
        "dynamodb": {"Keys": {"pk": {"S": pk}, "sk": {"S": sk}}, "NewImage": image},
    }


class Added(TaskQueueEvent): ...


class SubAdded(StepFunctionTaskEvent): ...


class Factory:
    """Hands every task on to the handlers of `Added` and `SubAdded`."""

    def transform_task(self, event: TaskQueueEvent) -> list[Added]:
        return [Added.from_sqs_record(event)]

    def transform_step_function_task(self, event: StepFunctionTaskEvent) -> list[SubAdded]:
        return [SubAdded.from_event(event)]


# --- the event factory ---------------------------------------------------------------------------------------------


def test_added_task_yields_one_task_event_per_record_of_a_top_level_task_with_dispatch() -> None:
    records = [
        raw_record("TASK#acme", f"job#{CODE}", event_id="single"),
        raw_record("SFN_TASK#acme", f"job#{CODE}", event_id="parent"),
        raw_record(f"SFN_TASK#acme#{CODE}#0", f"job#{CODE}#0000003", event_id="sub-task"),
        raw_record("TASK#acme", f"job#{CODE}", event_id="claimed", dispatch=False),
        {"eventID": "gone", "eventName": "REMOVE", "dynamodb": {"Keys": {"pk": {"S": "TASK#acme"}}}},
        raw_record("CHUNK#acme", f"job#{CODE}", event_id="of another kind"),
    ]
    events = asyncio.run(EventFactoryAddedTask().transform_dynamodb_stream({"Records": records}))
    assert [type(event) for event in events] == [TaskEvent, TaskEvent]
    assert [event.event_id for event in events] == ["single", "parent"]


def test_the_base_event_factory_yields_nothing() -> None:
    records = [raw_record("TASK#acme", f"job#{CODE}")]
    assert asyncio.run(EventFactory().transform_dynamodb_stream({"Records": records})) == []


def test_task_event_shows_the_record() -> None:
    event = TaskEvent.from_dynamodb_record(raw_record("TASK#acme", f"job#{CODE}", event_id="e7"))
    assert (event.event_id, event.event_name) == ("e7", "INSERT")
    assert event.event_source_arn.startswith("arn:aws:dynamodb:")
    assert event.task_key == TaskKey("TASK#acme", f"job#{CODE}")
    assert event.task_entity.key == event.task_key
    assert event.task_entity.input == {"price": 12.5, "tags": ["a", None, False]}


@pytest.mark.parametrize(
    ("stored", "meant"),
    [
        ("CREATED", TaskStatus.PENDING),
        ("QUEUED", TaskStatus.PENDING),
        ("PROCESSING", TaskStatus.IN_PROGRESS),
        ("STARTED", TaskStatus.IN_PROGRESS),
        ("FINISHED", TaskStatus.COMPLETED),
        ("ERRORED", TaskStatus.FAILED),
    ],
)
def test_statuses_of_the_original_are_read_tolerantly(stored: str, meant: TaskStatus) -> None:
    assert TaskStatus(stored) is meant
    event = TaskEvent.from_dynamodb_record(raw_record("TASK#acme", f"job#{CODE}", status=stored))
    assert event.task_entity.status is meant


def test_a_status_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="LOST"):
        TaskStatus("LOST")
    with pytest.raises(InvalidInput):
        TaskEvent.from_dynamodb_record(raw_record("TASK#acme", f"job#{CODE}", status="LOST"))


@pytest.mark.parametrize("name", ["eventID", "eventName", "eventSourceARN", "dynamodb"])
def test_a_record_that_lacks_something_is_refused_by_name(name: str) -> None:
    record = raw_record("TASK#acme", f"job#{CODE}")
    del record[name]
    with pytest.raises(InvalidInput, match=name):
        TaskEvent.from_dynamodb_record(record)


def test_the_event_factory_gets_the_dict_of_aws_embedded_too(make_module: MakeModule) -> None:
    seen: list[Any] = []

    @event_factory
    class Looking(EventFactoryAddedTask):
        async def transform_dynamodb_stream(self, event: Mapping[str, Any]) -> Sequence[Any]:
            seen.append(event)
            return await super().transform_dynamodb_stream(event)

    module = make_module(event_factory=Looking)
    module.task("job")(lambda event: None)
    task = asyncio.run(single(module, {"price": 12.5, "n": 3, "tags": ["a", None, True]}))
    assert task.status is TaskStatus.COMPLETED

    (event,) = seen
    (record,) = event["Records"]
    assert record.keys() == {
        "eventID", "eventName", "eventVersion", "eventSource", "awsRegion", "eventSourceARN", "dynamodb"
    }  # fmt: skip
    assert record["eventName"] == "INSERT"
    assert record["eventSource"] == "aws:dynamodb"
    assert ":table/tasks/stream/" in record["eventSourceARN"]
    change = record["dynamodb"]
    assert change.keys() >= {"ApproximateCreationDateTime", "Keys", "NewImage", "SequenceNumber", "StreamViewType"}
    assert change["Keys"] == {"pk": {"S": task.pk}, "sk": {"S": task.sk}}
    image = change["NewImage"]
    assert image["input"] == {
        "M": {
            "price": {"N": "12.5"},
            "n": {"N": "3"},
            "tags": {"L": [{"S": "a"}, {"NULL": True}, {"BOOL": True}]},
        }
    }
    texts = {"id": task.id, "pk": task.pk, "sk": task.sk, "code": task.code, "type": "job", "status": "PENDING"}
    assert {name: image[name] for name in texts} == {name: {"S": value} for name, value in texts.items()}
    assert image["tenantCode"] == {"S": "acme"}
    assert image["run"] == {"N": "1"}
    assert image["createdAt"]["S"].endswith("Z")
    assert image["dispatch"]["S"]


def test_events_with_the_same_event_id_are_dispatched_once(make_module: MakeModule) -> None:
    """The documentation's own factory yields each task twice: by `super()` and by itself."""

    @event_factory
    class Twice(EventFactoryAddedTask):
        async def transform_dynamodb_stream(self, event: Mapping[str, Any]) -> Sequence[Any]:
            events = await super().transform_dynamodb_stream(event)
            return [*events, *(TaskEvent.from_dynamodb_record(record) for record in event["Records"])]

    ran: list[str] = []
    module = make_module(event_factory=Twice)
    module.task("job")(lambda event: ran.append(event.message_id))
    task = asyncio.run(single(module))
    assert len(ran) == 1
    assert [entry.status for entry in task.history] == ["PENDING", "IN_PROGRESS", "COMPLETED"]


def test_other_events_of_the_event_factory_go_to_their_handlers(make_module: MakeModule) -> None:
    class Arrived(IEvent):
        def __init__(self, key: TaskKey) -> None:
            self.key = key

    @event_factory
    class Announcing(EventFactoryAddedTask):
        async def transform_dynamodb_stream(self, event: Mapping[str, Any]) -> Sequence[Any]:
            tasks = await super().transform_dynamodb_stream(event)
            return [*tasks, *(Arrived(task.task_key) for task in tasks)]

    arrived: list[TaskKey] = []

    @event_handler(Arrived)
    class Doorman:
        async def execute(self, event: Arrived) -> None:
            arrived.append(event.key)

    module = make_module(providers=[Announcing, Doorman])  # an event factory may stand among the providers
    module.task("job")(lambda event: "done")
    task = asyncio.run(single(module))
    assert arrived == [task.key]
    assert task.result == "done"


def test_a_task_that_the_event_factory_drops_fails_with_that_reason(make_module: MakeModule) -> None:
    module = make_module(event_factory=EventFactory())
    module.task("job")(lambda event: None)
    task = asyncio.run(single(module))
    assert task.status is TaskStatus.FAILED
    assert task.error is not None
    assert task.error.message == "the event factory returned no event for this task"
    assert task.history[-1].reason == task.error.message


def test_a_task_whose_event_factory_keeps_raising_fails_with_that_reason(
    make_module: MakeModule, clock: FakeClock
) -> None:
    calls = 0

    class Broken(EventFactoryAddedTask):
        async def transform_dynamodb_stream(self, event: Mapping[str, Any]) -> Sequence[Any]:
            nonlocal calls
            calls += 1
            raise LookupError("no such table")

    module = make_module(event_factory=Broken, clock=clock)
    module.task("job")(lambda event: None)

    async def scenario() -> Any:
        task = await single(module)
        while not task.is_terminal:
            assert task.status is TaskStatus.PENDING
            clock.advance(60)
            await drained(module)
            task = await module.task_service.get_task(task.key)
        return task

    task = asyncio.run(scenario())
    assert calls == 5
    assert task.status is TaskStatus.FAILED
    assert "the event factory failed 5 times: LookupError: no such table" in task.error.message


def test_a_record_at_which_the_event_factory_raised_comes_again(make_module: MakeModule, clock: FakeClock) -> None:
    calls = 0

    class Shaky(EventFactoryAddedTask):
        async def transform_dynamodb_stream(self, event: Mapping[str, Any]) -> Sequence[Any]:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise ConnectionError("try again")
            return await super().transform_dynamodb_stream(event)

    module = make_module(event_factory=Shaky, clock=clock)
    module.task("job")(lambda event: "done")

    async def scenario() -> Any:
        task = await single(module)
        assert task.status is TaskStatus.PENDING
        clock.advance(60)
        await drained(module)
        return await module.task_service.get_task(task.key)

    assert asyncio.run(scenario()).result == "done"


def test_the_event_factory_has_its_say_on_the_messages_of_the_queue_too(make_module: MakeModule) -> None:
    seen: list[Any] = []

    class Looking(EventFactoryAddedTask):
        async def transform_sqs(self, event: Mapping[str, Any]) -> Sequence[Any]:
            seen.append(event)
            return await super().transform_sqs(event)

    module = make_module(event_factory=Looking)
    module.task("job")(lambda event: event.task_event.task_entity.input)
    assert asyncio.run(single(module, {"key": "v"})).result == {"key": "v"}
    ((record,),) = [event["Records"] for event in seen]
    assert record["eventSource"] == "aws:sqs"
    assert record["messageAttributes"]["action"]["stringValue"] == "task-execute"
    assert record.keys() >= {"messageId", "receiptHandle", "body", "attributes", "eventSourceARN", "awsRegion"}


@pytest.mark.parametrize("raises", [True, False])
def test_a_task_whose_message_the_event_factory_refuses_fails_with_that_reason(
    make_module: MakeModule, raises: bool
) -> None:
    class Refusing(EventFactoryAddedTask):
        async def transform_sqs(self, event: Mapping[str, Any]) -> Sequence[Any]:
            if raises:
                raise LookupError("not today")
            return []

    module = make_module(event_factory=Refusing)
    module.task("job")(lambda event: None)
    task = asyncio.run(single(module))
    assert task.status is TaskStatus.FAILED
    assert task.error is not None
    expected = "failed: LookupError: not today" if raises else "dropped the message of this task"
    assert task.error.message == f"the event factory {expected}"


# --- the events of running tasks -----------------------------------------------------------------------------------


def test_a_task_queue_event_shows_message_record_and_the_task_that_runs(make_module: MakeModule) -> None:
    seen: list[Any] = []

    @event_handler(Added)
    class Handler:
        async def execute(self, event: Added) -> None:
            seen.append((event.message_id, event.task_event, event.task, event.attempt))

    task = asyncio.run(single(make_module(task_queue_event_factory=Factory, providers=[Handler]), {"key": "v"}))
    ((message_id, task_event, running, attempt),) = seen
    assert isinstance(message_id, str)
    assert message_id
    assert task_event.event_id
    assert task_event.event_name == "INSERT"
    assert ":table/tasks/stream/" in task_event.event_source_arn
    assert task_event.task_key == task.key
    assert task_event.task_entity.input == {"key": "v"}
    assert (running.key, running.status, running.attempt, attempt) == (task.key, TaskStatus.IN_PROGRESS, 1, 1)
    assert running.input == {"key": "v"}


def test_a_step_function_task_event_shows_sub_task_and_context(make_module: MakeModule) -> None:
    seen: list[Any] = []

    @event_handler(SubAdded)
    class Handler:
        async def execute(self, event: SubAdded) -> None:
            seen.append((event.task_key, event.input, event.task, event.context))

    parent = asyncio.run(fan_out(make_module(task_queue_event_factory=Factory, providers=[Handler]), [{"key": "v"}]))
    ((key, input, task, context),) = seen
    assert key == TaskKey.sub_task("acme", "job", parent.code, 0)
    assert input is task
    assert (task.key, task.status, task.attempt, task.index) == (key, TaskStatus.IN_PROGRESS, 1, 0)
    assert input.input == {"key": "v"}
    assert context["Execution"]["Id"] == parent.execution_arn
    assert context["Execution"]["Name"] == parent.code
    assert context["StateMachine"]["Name"] == "sfn-task"
    assert context.keys() == {"Execution", "State", "StateMachine"}


def test_the_context_tells_when_the_fan_out_was_started(make_module: MakeModule, clock: FakeClock) -> None:
    """Which is later than its creation when no worker was there."""
    module = make_module(clock=clock)
    seen: list[str] = []
    module.step_function_task("job")(lambda event: seen.append(event.context["Execution"]["StartTime"]))

    async def scenario() -> Any:
        made = await module.task_service.create_step_function_task(tenant_code="acme", task_type="job", input=[1])
        clock.advance(5)
        await drained(module)
        return await module.task_service.get_task(made.key)

    parent = asyncio.run(scenario())
    assert parent.started_at == parent.created_at + timedelta(seconds=5)
    assert [datetime.fromisoformat(text) for text in seen] == [parent.started_at]


def test_events_are_generic_in_the_input_with_a_default() -> None:
    """The alias makes real events, and a class may be derived from it or from the bare name."""

    class Order(TaskQueueEvent[dict[str, str]]): ...

    class SubOrder(StepFunctionTaskEvent[int]): ...

    class Bare(TaskQueueEvent): ...

    assert isinstance(Order.from_sqs_record(TaskQueueEvent(message_id="m")), TaskQueueEvent)
    assert isinstance(SubOrder.from_event(StepFunctionTaskEvent()), StepFunctionTaskEvent)
    assert Bare.from_sqs_record(Order(message_id="m")).message_id == "m"


def test_the_current_run_is_known_in_async_handlers_and_what_they_start(make_module: MakeModule) -> None:
    module = make_module()

    @module.task("job")
    async def job(event: TaskQueueEvent) -> list[Any]:
        async def deeper() -> TaskKey:
            return current().task.key

        assert current().attempt == 1
        assert current().lease_until is not None
        return [key.id for key in (await deeper(), await asyncio.create_task(deeper()), event.task.key)]

    task = asyncio.run(single(module))
    assert task.result == [task.id] * 3


def test_the_current_run_is_known_in_thread_handlers(make_module: MakeModule) -> None:
    module = make_module()

    @module.task("job")
    def job(event: TaskQueueEvent) -> list[str]:
        return [current().task.id, event.task.id]

    @module.step_function_task("job")
    def sub_job(event: StepFunctionTaskEvent) -> list[str]:
        return [current().task.id, event.task.id]

    async def scenario() -> Any:
        task, parent = await single(module), await fan_out(module, [1, 2])
        return task, await sub_tasks(module, parent)

    task, subs = asyncio.run(scenario())
    assert task.result == [task.id] * 2
    assert [sub.result for sub in subs] == [[sub.id] * 2 for sub in subs]


def test_runs_that_go_on_side_by_side_do_not_mix_up_their_contexts(make_module: MakeModule) -> None:
    module, together = make_module(), asyncio.Barrier(4)

    @module.step_function_task("job")
    async def job(event: StepFunctionTaskEvent) -> str:
        async with asyncio.timeout(PATIENCE):
            await together.wait()
        return current().task.id

    async def scenario() -> Any:
        return await sub_tasks(module, await fan_out(module, range(4)))

    assert all(sub.result == sub.id for sub in asyncio.run(scenario()))


def test_an_event_that_a_factory_built_by_hand_has_the_context_of_the_run_too(make_module: MakeModule) -> None:
    class ByHand(TaskQueueEvent):
        def __init__(self, colour: str) -> None:
            super().__init__()
            self.colour = colour

    class SubByHand(StepFunctionTaskEvent): ...

    class Plain:
        pass

    class ByHandFactory:
        async def transform_task(self, event: TaskQueueEvent) -> list[Any]:
            return [ByHand("red"), Plain()]

        async def transform_step_function_task(self, event: StepFunctionTaskEvent) -> list[Any]:
            return [SubByHand()]

    @event_handler(ByHand)
    class Handler:
        def execute(self, event: ByHand) -> list[Any]:
            event.progress(1, 2)
            return [event.colour, event.task.id, event.attempt, event.cancelled]

    @event_handler(Plain)
    class PlainHandler:
        async def execute(self, event: Plain) -> str:
            return current().task.id

    @event_handler(SubByHand)
    class SubHandler:
        def execute(self, event: SubByHand) -> list[Any]:
            return [event.input.input, event.task_key.id]

    module = make_module(task_queue_event_factory=ByHandFactory, providers=[Handler, PlainHandler, SubHandler])

    async def scenario() -> Any:
        return await single(module), await sub_tasks(module, await fan_out(module, ["x"]))

    task, (sub,) = asyncio.run(scenario())
    assert task.attributes.results == [[["red", task.id, 1, False]], [task.id]]
    assert task.progress is not None
    assert (task.progress.done, task.progress.total) == (1, 2)
    assert sub.result == ["x", sub.id]


def test_an_event_may_be_a_dataclass(make_module: MakeModule) -> None:
    """Its `__init__` calls no `super().__init__()`, and neither do most that are written by hand."""

    @dataclass
    class Order(TaskQueueEvent):
        colour: str

    @dataclass
    class SubOrder(StepFunctionTaskEvent):
        colour: str

    class OrderFactory:
        async def transform_task(self, event: TaskQueueEvent) -> list[Any]:
            return [Order("red")]

        async def transform_step_function_task(self, event: StepFunctionTaskEvent) -> list[Any]:
            return [SubOrder("blue")]

    @event_handler(Order)
    class Handler:
        async def execute(self, event: Order) -> list[Any]:
            return [event.colour, event.task.input]

    @event_handler(SubOrder)
    class SubHandler:
        async def execute(self, event: SubOrder) -> list[Any]:
            return [event.colour, event.input.input]

    module = make_module(task_queue_event_factory=OrderFactory, providers=[Handler, SubHandler])

    async def scenario() -> Any:
        return await single(module, 7), await sub_tasks(module, await fan_out(module, [8]))

    task, (sub,) = asyncio.run(scenario())
    assert (task.error, sub.error) == (None, None)
    assert (task.result, sub.result) == (["red", 7], ["blue", 8])


def test_current_says_clearly_that_nothing_runs() -> None:
    with pytest.raises(NotRunning, match="no task runs here"):
        current()
    with pytest.raises(NotRunning):
        TaskQueueEvent().task  # noqa: B018
    with pytest.raises(NotRunning):
        StepFunctionTaskEvent().input  # noqa: B018
    with pytest.raises(NotRunning, match="message_id"):
        TaskQueueEvent().message_id  # noqa: B018
    with pytest.raises(NotRunning, match="context"):
        StepFunctionTaskEvent().context  # noqa: B018


def test_the_current_run_is_over_when_the_handler_is(make_module: MakeModule) -> None:
    module = make_module()
    module.task("job")(lambda event: None)

    async def scenario() -> None:
        await single(module)
        with pytest.raises(NotRunning):
            current()

    asyncio.run(scenario())


def test_a_handler_may_be_called_by_hand_with_an_event_by_hand(make_module: MakeModule) -> None:
    """As in a unit test: no run is there, and progress goes nowhere."""
    module = make_module()

    @module.task("job")
    def job(event: TaskQueueEvent[int]) -> int:
        event.progress(1, 2)
        return event.task.input + 1

    entity = TaskEvent.from_dynamodb_record(raw_record("TASK#acme", f"job#{CODE}")).task_entity
    event = TaskQueueEvent[int](
        message_id="m",
        task_event=TaskEvent(event_id="e", event_name="INSERT", event_source_arn="arn", task_entity=entity),
    )
    assert event.task is entity
    assert not event.cancelled
    with pytest.raises(TypeError):  # the function's own error: it is called as it is
        job(event)


def test_the_attempt_that_timed_out_is_seen_as_cancelled_by_its_thread(
    make_module: MakeModule, clock: FakeClock
) -> None:
    """A thread cannot be stopped, so its handler may look."""
    module, started, seen = make_module(clock=clock), asyncio.Event(), asyncio.Event()

    async def scenario() -> Any:
        loop = asyncio.get_running_loop()

        @module.task("job", timeout=5)
        def job(event: TaskQueueEvent) -> None:
            loop.call_soon_threadsafe(started.set)
            while not event.cancelled:
                pass
            loop.call_soon_threadsafe(seen.set)

        task = await module.task_service.create_task(tenant_code="acme", task_type="job")
        async with module.worker(), asyncio.timeout(PATIENCE):
            await started.wait()
            clock.advance(6)
            await seen.wait()
            return await module.task_service.wait(task.key)

    task = asyncio.run(scenario())
    assert task.status is TaskStatus.FAILED
    assert task.error.type == "TimeoutError"
