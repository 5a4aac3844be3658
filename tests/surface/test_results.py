"""Results: what is stored of what handlers return, and what fails an attempt."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from taskloom import StepFunctionTaskEvent, TaskQueueEvent, TaskStatus, event_handler
from tests.surface.running import Entity, MakeModule, drained, fan_out, single, sub_tasks


class Red(TaskQueueEvent): ...


class Blue(TaskQueueEvent): ...


class Grey(TaskQueueEvent):
    """No handler takes it."""


ran: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


@event_handler(Red)
class FirstRed:
    async def execute(self, event: Red) -> str:
        ran.append("first red")
        return "first red"


@event_handler(Red)
class SecondRed:
    def execute(self, event: Red) -> dict[str, int]:
        ran.append("second red")
        return {"second": 2}


@event_handler(Blue)
class OnlyBlue:
    async def execute(self, event: Blue) -> None:
        ran.append("blue")


@event_handler(Red)
class RaisingRed:
    async def execute(self, event: Red) -> None:
        ran.append("raising red")
        raise LookupError("no red left")


class TupleOfBoth:
    def transform_task(self, event: TaskQueueEvent) -> tuple[Any, ...]:
        return Red.from_sqs_record(event), Blue.from_sqs_record(event)


def returning(make: Callable[[Any], Any]) -> Any:
    """A factory whose methods both return what *make* makes of the event."""

    class Factory:
        async def transform_task(self, event: TaskQueueEvent) -> Any:
            return make(event)

        async def transform_step_function_task(self, event: StepFunctionTaskEvent) -> Any:
            return make(event)

    return Factory


def test_results_are_a_list_per_event_of_a_list_per_handler(make_module: MakeModule) -> None:
    module = make_module(task_queue_event_factory=TupleOfBoth, providers=[FirstRed, SecondRed, OnlyBlue])
    task = asyncio.run(single(module))
    assert task.attributes.results == [["first red", {"second": 2}], [None]]
    assert task.attributes.result is None


def test_result_is_the_bare_value_when_there_is_exactly_one(make_module: MakeModule) -> None:
    module = make_module(task_queue_event_factory=returning(lambda event: [Red()]), providers=[FirstRed])
    task = asyncio.run(single(module))
    assert task.attributes.results == [["first red"]]
    assert task.attributes.result == "first red"
    assert task.result == "first red"


@pytest.mark.parametrize("handlers", [[FirstRed, SecondRed], [FirstRed]])
def test_result_is_nothing_when_there_are_several(make_module: MakeModule, handlers: list[type]) -> None:
    """Several handlers of one event, or several events with one handler each."""
    count = 3 - len(handlers)
    module = make_module(task_queue_event_factory=returning(lambda event: [Red()] * count), providers=handlers)
    task = asyncio.run(single(module))
    assert task.attributes.results is not None
    assert sum(len(of_event) for of_event in task.attributes.results) == 2
    assert task.attributes.result is None


def test_results_of_decorated_functions_have_the_same_shape(make_module: MakeModule) -> None:
    module = make_module()
    module.task("job")(lambda event: {"n": 1})
    module.step_function_task("job")(lambda event: event.input.input)

    async def scenario() -> Any:
        task, parent = await single(module), await fan_out(module, [[1, 2]])
        return task, parent, await sub_tasks(module, parent)

    task, parent, (sub,) = asyncio.run(scenario())
    assert (task.attributes.results, task.result) == ([[{"n": 1}]], {"n": 1})
    assert (sub.attributes.results, sub.result) == ([[[1, 2]]], [1, 2])
    assert parent.attributes.results is None


def test_a_large_result_comes_back_equal(make_module: MakeModule) -> None:
    """More than 64 KB do not fit into the task's row."""
    large = {"text": "ä" * 50_000, "list": list(range(10_000))}
    module = make_module()
    module.task("job")(lambda event: large)
    module.step_function_task("job")(lambda event: large)

    async def scenario() -> Any:
        return await single(module), await sub_tasks(module, await fan_out(module, [0]))

    task, (sub,) = asyncio.run(scenario())
    assert task.result == sub.result == large
    assert task.attributes.result_ref
    assert sub.attributes.result_ref


def test_a_tuple_is_a_list(make_module: MakeModule) -> None:
    module = make_module()
    module.task("job")(lambda event: (1, (2, 3)))
    assert asyncio.run(single(module)).result == [1, [2, 3]]


def test_a_result_that_is_no_json_value_fails_the_task_with_its_path(make_module: MakeModule) -> None:
    module = make_module()
    module.task("job")(lambda event: {"items": [1, {2}]})
    task = asyncio.run(single(module))
    assert task.status is TaskStatus.FAILED
    assert task.error is not None
    assert "result.items[1]" in task.error.message


def test_one_handler_that_raises_fails_the_attempt(make_module: MakeModule) -> None:
    module = make_module(task_queue_event_factory=TupleOfBoth, providers=[FirstRed, RaisingRed, SecondRed, OnlyBlue])
    task = asyncio.run(single(module))
    assert task.status is TaskStatus.FAILED
    assert task.attributes.results is None
    assert task.error is not None
    assert (task.error.type, task.error.message) == ("LookupError", "no red left")
    assert task.error.traceback is not None
    assert "in execute" in task.error.traceback
    assert ran == ["first red", "raising red"]


@pytest.mark.parametrize(
    ("exception", "type_", "message"),
    [
        (KeyError("k"), "KeyError", "'k'"),
        (RuntimeError(), "RuntimeError", "(RuntimeError without a message)"),
        (ValueError("lone \ud800"), "ValueError", "lone \\ud800"),
        (SystemExit(3), "RuntimeError", "3"),
        (StopIteration("over"), "RuntimeError", "StopIteration"),
    ],
)
@pytest.mark.parametrize("colour", ["async", "def"])
def test_whatever_a_handler_raises_is_kept_as_data(
    make_module: MakeModule, exception: BaseException, type_: str, message: str, colour: str
) -> None:
    module = make_module()

    async def coroutine(event: TaskQueueEvent) -> None:
        raise exception

    def function(event: TaskQueueEvent) -> None:
        raise exception

    module.task("job")(coroutine if colour == "async" else function)
    task = asyncio.run(single(module))
    assert task.status is TaskStatus.FAILED
    assert task.error is not None
    assert task.error.type == type_
    assert message in task.error.message
    assert (task.error.attempt, task.error.will_retry) == (1, False)


REASONS = [
    pytest.param(lambda event: [], "returned no event for task type 'job'", id="no event"),
    pytest.param(lambda event: None, "returned NoneType, not a list of events", id="None"),
    pytest.param(lambda event: Red(), "returned Red, not a list of events", id="a bare event"),
    pytest.param(lambda event: {"a": 1}, "returned dict, not a list of events", id="a dict"),
    pytest.param(lambda event: [Red(), Grey()], "no handler takes Grey", id="an event without handler"),
]


@pytest.mark.parametrize(("make", "reason"), REASONS)
def test_a_single_task_whose_events_cannot_be_handled_fails_with_that_reason(
    make_module: MakeModule, make: Callable[[Any], Any], reason: str
) -> None:
    task = asyncio.run(single(make_module(task_queue_event_factory=returning(make), providers=[FirstRed])))
    _failed_because(task, reason)
    assert ran == []  # nothing is half done for want of a handler


@pytest.mark.parametrize(("make", "reason"), REASONS)
def test_a_sub_task_whose_events_cannot_be_handled_fails_with_that_reason(
    make_module: MakeModule, make: Callable[[Any], Any], reason: str
) -> None:
    module = make_module(task_queue_event_factory=returning(make), providers=[FirstRed])

    async def scenario() -> Any:
        parent = await fan_out(module, [1, 2])
        return parent, await sub_tasks(module, parent)

    parent, subs = asyncio.run(scenario())
    assert parent.status is TaskStatus.FAILED
    for sub in subs:
        _failed_because(sub, reason)


def test_a_factory_that_raises_fails_the_attempt(make_module: MakeModule) -> None:
    def make(event: Any) -> Any:
        raise LookupError("no such shop")

    task = asyncio.run(single(make_module(task_queue_event_factory=returning(make))))
    assert task.error is not None
    assert (task.status, task.error.type, task.error.message) == ("FAILED", "LookupError", "no such shop")


class OnlySingle:
    async def transform_task(self, event: TaskQueueEvent) -> list[Any]:
        return [Red()]


class OnlyFanOut:
    async def transform_step_function_task(self, event: StepFunctionTaskEvent) -> list[Any]:
        return [Red()]


def test_a_factory_without_transform_task_fails_single_tasks_with_that_reason(make_module: MakeModule) -> None:
    module = make_module(task_queue_event_factory=OnlyFanOut, providers=[FirstRed])

    async def scenario() -> Any:
        return await single(module), await fan_out(module, [1])

    task, parent = asyncio.run(scenario())
    _failed_because(task, "OnlyFanOut has no method transform_task")
    assert parent.status is TaskStatus.COMPLETED  # either method may be missing


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_factory_without_transform_step_function_task_fails_fan_outs_with_that_reason(
    make_module: MakeModule, count: int
) -> None:
    module = make_module(task_queue_event_factory=OnlySingle(), providers=[FirstRed])

    async def scenario() -> Any:
        parent, task = await fan_out(module, range(count)), await single(module)
        execution = await module.step_function_service.describe_execution(parent.execution_arn or "")
        assert execution.status == "PENDING"  # it was not started in vain
        return parent, await sub_tasks(module, parent), task

    parent, subs, task = asyncio.run(scenario())
    _failed_because(parent, "OnlySingle has no method transform_step_function_task")
    assert [sub.status for sub in subs] == ["CANCELLED"] * count  # none was begun, and none ever will be
    assert task.status is TaskStatus.COMPLETED


def test_a_decorated_function_wins_over_the_factory(make_module: MakeModule) -> None:
    module = make_module(task_queue_event_factory=OnlySingle, providers=[FirstRed])
    module.task("own")(lambda event: "own")

    async def scenario() -> Any:
        service = module.task_service
        own = await service.create_task(tenant_code="acme", task_type="own")
        other = await service.create_task(tenant_code="acme", task_type="other")
        await drained(module)
        return (await service.get_task(own.key)).result, (await service.get_task(other.key)).result

    assert asyncio.run(scenario()) == ("own", "first red")


def _failed_because(task: Entity, reason: str) -> None:
    assert task.status is TaskStatus.FAILED
    assert task.error is not None
    assert task.error.type == "NoHandler"
    assert reason in task.error.message
    assert task.history[-1].reason == task.error.message
