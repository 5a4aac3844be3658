"""Factories: raw AWS events in, events for handlers out."""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from taskloom.events import shapes
from taskloom.events.task_events import StepFunctionTaskEvent, TaskEvent, TaskQueueEvent


@runtime_checkable
class TransformsTask(Protocol):
    """A factory for single tasks."""

    def transform_task(self, event: TaskQueueEvent[Any], /) -> Awaitable[Sequence[Any]] | Sequence[Any]:
        """The events whose handlers make up the task; at least one."""


@runtime_checkable
class TransformsStepFunctionTask(Protocol):
    """A factory for the sub-tasks of fan-outs."""

    def transform_step_function_task(
        self, event: StepFunctionTaskEvent[Any], /
    ) -> Awaitable[Sequence[Any]] | Sequence[Any]:
        """The events whose handlers make up the sub-task; at least one."""


ITaskQueueEventFactory: TypeAlias = TransformsTask | TransformsStepFunctionTask
"""Turns a task into events of your own; either method may be missing, and either may be `async`."""


class EventFactory:
    """Turns raw AWS events into events for handlers; the base yields none. Override what you need.

    An error makes the raw event come again, and after some attempts puts it with the dead letters.
    """

    async def transform_dynamodb_stream(self, event: Mapping[str, Any]) -> Sequence[Any]:
        """*event* as DynamoDB streams hand it to Lambda: `Records` with `eventID`, `eventName`, `dynamodb` …"""
        del event
        return []

    async def transform_sqs(self, event: Mapping[str, Any]) -> Sequence[Any]:
        """*event* as SQS hands it to Lambda: `Records` with `messageId`, `body` …"""
        del event
        return []


class EventFactoryAddedTask(EventFactory):
    """The factory that knows tasks; call `super()` first and add events of your own."""

    async def transform_dynamodb_stream(self, event: Mapping[str, Any]) -> Sequence[Any]:
        """One `TaskEvent` per record of a top-level task that needs a message."""
        return [TaskEvent.from_dynamodb_record(record) for record in event["Records"] if shapes.is_task_record(record)]

    async def transform_sqs(self, event: Mapping[str, Any]) -> Sequence[Any]:
        """One `TaskQueueEvent` per task message."""
        return [
            TaskQueueEvent.from_sqs_record(record)
            for record in event["Records"]
            if record.get("messageAttributes", {}).get("action", {}).get("stringValue") == shapes.TASK_EXECUTE
        ]
