"""The three events of the task module."""

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Final, Generic, ParamSpec, Self, TypeVar, cast, overload

from taskloom.errors import InvalidInput, NotRunning
from taskloom.events import shapes
from taskloom.events.context import CURRENT, RunContext, Sync, current
from taskloom.events.marks import IEvent
from taskloom.events.resumable import Items
from taskloom.events.task_log import TaskLog
from taskloom.model import InputT, TaskEntity, TaskKey
from taskloom.values import Json

_LOG: Final = TaskLog(lambda: CURRENT.get(None))
EventT = TypeVar("EventT", bound="_RunEvent")
ValueT = TypeVar("ValueT")
ItemT = TypeVar("ItemT")
P = ParamSpec("P")


class TaskEvent(IEvent):
    """A record of the task table's change stream: a task was created, or needs a message again."""

    def __init__(self, *, event_id: str, event_name: str, event_source_arn: str, task_entity: TaskEntity[Any]) -> None:
        self.event_id = event_id
        """Unique per record; events with the same id are dispatched once."""
        self.event_name = event_name
        """INSERT or MODIFY."""
        self.event_source_arn = event_source_arn
        self.task_entity = task_entity
        """The task as the record shows it."""

    @property
    def task_key(self) -> TaskKey:
        """The key of the task."""
        return self.task_entity.key

    @classmethod
    def from_dynamodb_record(cls, record: Mapping[str, Any]) -> Self:
        """From one of `Records` of a DynamoDB stream event.

        Raises: InvalidInput when the record holds no task.
        """
        return cls(
            event_id=shapes.member(record, "eventID"),
            event_name=shapes.member(record, "eventName"),
            event_source_arn=shapes.member(record, "eventSourceARN"),
            task_entity=shapes.entity_of(record),
        )


class _RunEvent(IEvent):
    """What events of running tasks share."""

    @property
    def attempt(self) -> int:
        """Which try within the run this is, from 1."""
        return current().attempt

    @property
    def cancelled(self) -> bool:
        """See `RunContext.cancelled`; False outside of a run."""
        run = CURRENT.get(None)
        return run is not None and run.cancelled

    @property
    def log(self) -> TaskLog:
        """See `RunContext.log`; outside of a run, as in a unit test of a handler, its lines are not kept."""
        run = CURRENT.get(None)
        return _LOG if run is None else run.log

    @property
    def state(self) -> Json:
        """What the attempt or slice before saved, or this one by now; see `checkpoint`."""
        run = CURRENT.get(None)
        return None if run is None else run.state

    @property
    def sync(self) -> Sync:
        """For `def` handlers: what is awaited in others, blocking."""
        return _run().sync

    def remaining(self) -> float:
        """See `RunContext.remaining`; infinite outside of a run."""
        return _run().remaining()

    async def checkpoint(self, state: Json) -> None:
        """See `RunContext.checkpoint`; outside of a run, as in a unit test of a handler, it only checks *state*."""
        await _run().checkpoint(state)

    def resumable(self, items: "Items[ItemT]", name: str = "items") -> AsyncIterator[ItemT]:
        """See `RunContext.resumable`; outside of a run it gives all items."""
        return _run().resumable(items, name)

    @overload
    async def step(
        self, name: str, function: Callable[P, Coroutine[Any, Any, ValueT]], /, *args: P.args, **kwargs: P.kwargs
    ) -> ValueT: ...
    @overload
    async def step(self, name: str, function: Callable[P, ValueT], /, *args: P.args, **kwargs: P.kwargs) -> ValueT: ...
    async def step(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """See `RunContext.step`; outside of a run it only calls *function*."""
        return await _run().step(name, function, *args, **kwargs)

    async def sleep(self, seconds: float, name: str | None = None) -> None:
        """See `RunContext.sleep`; outside of a run it returns at once."""
        await _run().sleep(seconds, name)

    async def callback(self, name: str) -> str:
        """See `RunContext.callback`; outside of a run nobody knows the token."""
        return await _run().callback(name)

    async def wait_for(self, token: str, timeout: float | None = None) -> Json:
        """See `RunContext.wait_for`; outside of a run it raises NotRunning."""
        return await _run().wait_for(token, timeout)

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """See `RunContext.progress`; outside of a run, as in a unit test of a handler, it only checks its arguments."""
        _run().progress(done, total, message)


def _run() -> RunContext:
    return CURRENT.get(None) or RunContext(cast("TaskEntity[Any]", None))


class TaskQueueEvent(_RunEvent, Generic[InputT]):
    """A message of the task queue: a single task is to be run.

    A subclass may have any constructor: what it does not set is looked up in the run that is going on.
    """

    _message_id: str | None = None
    _task_event: TaskEvent | None = None
    _task: TaskEntity[InputT] | None = None

    def __init__(
        self,
        *,
        message_id: str | None = None,
        task_event: TaskEvent | None = None,
        task: TaskEntity[InputT] | None = None,
    ) -> None:
        self._message_id = message_id
        self._task_event = task_event
        self._task = task

    @property
    def message_id(self) -> str:
        """The queue's name of the message."""
        return _given(self._message_id or _running_event(TaskQueueEvent, self)._message_id, "message_id")

    @property
    def task_event(self) -> TaskEvent:
        """The stream record that the message carries."""
        return _given(self._task_event or _running_event(TaskQueueEvent, self)._task_event, "task_event")

    @property
    def task(self) -> TaskEntity[InputT]:
        """The task that runs, as it was claimed; before the claim, as the message shows it."""
        if self._task is not None:
            return self._task
        run = CURRENT.get(None)
        if run is not None:
            return run.task
        if self._task_event is not None:
            return self._task_event.task_entity
        return current().task

    @classmethod
    def from_sqs_record(cls, record: "TaskQueueEvent[Any] | Mapping[str, Any]") -> Self:
        """The same message as an event of this class, from another event or from one of `Records` of an SQS event.

        Raises: InvalidInput when the record holds no task message.
        """
        event = cls.__new__(cls)
        if isinstance(record, TaskQueueEvent):
            TaskQueueEvent.__init__(
                event, message_id=record._message_id, task_event=record._task_event, task=record._task
            )
        else:
            task_event = TaskEvent.from_dynamodb_record(shapes.body_of(record))
            TaskQueueEvent.__init__(event, message_id=shapes.member(record, "messageId"), task_event=task_event)
        return event


class StepFunctionTaskEvent(_RunEvent, Generic[InputT]):
    """One sub-task of a fan-out is to be run.

    A subclass may have any constructor: what it does not set is looked up in the run that is going on.
    """

    _input: TaskEntity[InputT] | None = None
    _context: Mapping[str, Any] | None = None

    def __init__(self, *, input: TaskEntity[InputT] | None = None, context: Mapping[str, Any] | None = None) -> None:
        self._input = input
        self._context = context

    @property
    def input(self) -> TaskEntity[InputT]:
        """The sub-task; `event.input.input` is its element of the list."""
        if self._input is not None:
            return self._input
        return current().task

    @property
    def task(self) -> TaskEntity[InputT]:
        """The same as `input`."""
        return self.input

    @property
    def context(self) -> Mapping[str, Any]:
        """The state machine's context: `Execution`, `State`, `StateMachine`."""
        return _given(self._context or _running_event(StepFunctionTaskEvent, self)._context, "context")

    @property
    def task_key(self) -> TaskKey:
        """The key of the sub-task."""
        return self.input.key

    @classmethod
    def from_event(cls, event: "StepFunctionTaskEvent[Any]") -> Self:
        """The same sub-task as an event of this class."""
        if not isinstance(event, StepFunctionTaskEvent):
            raise InvalidInput("event", f"{event!r} is no StepFunctionTaskEvent", "pass the event of the factory on")
        new = cls.__new__(cls)
        StepFunctionTaskEvent.__init__(new, input=event._input, context=event._context)
        return new


def _running_event(kind: type[EventT], own: EventT) -> EventT:
    """The event of the run that is going on, if it is of this kind, else the event *own* itself."""
    run = CURRENT.get(None)
    return run.event if run is not None and isinstance(run.event, kind) else own


def _given(value: ValueT | None, name: str) -> ValueT:
    if value is None:
        raise NotRunning(f"this event was made by hand, without {name}")
    return value
