"""The way from a record of the change stream to task messages, and from a message to the event of a task."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from taskloom.events import shapes
from taskloom.events.registry import Call, Registry
from taskloom.events.task_events import TaskEvent, TaskQueueEvent
from taskloom.model import TaskEntity
from taskloom.ports import Backend, Delivery, StreamRecord, TaskMessage


class Interrupted(Exception):
    """The worker ends, and the event factory did not."""


@dataclass(frozen=True, slots=True)
class EventService:
    """Hands raw events to the event factory, and what it makes of them to those who handle it."""

    backend: Backend
    registry: Registry
    _asked: set[asyncio.Task[Any]] = field(default_factory=set)
    """Those that wait for the event factory, or for handlers of the application's own events."""
    _interrupted: set[asyncio.Task[Any]] = field(default_factory=set)

    def interrupt(self) -> None:
        """End what waits for the event factory: CancelledError is raised there."""
        self._interrupted.update(self._asked)
        for task in self._asked:
            task.cancel()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the types: these are coroutines
        self._asked.add(task)
        try:
            yield
        except asyncio.CancelledError as error:
            if task in self._interrupted:
                raise Interrupted from error
            raise
        finally:
            self._asked.discard(task)
            self._interrupted.discard(task)

    async def message(self, record: StreamRecord, call: Call) -> TaskMessage | None:
        """What *record* sends to the task queue: one message however many events the factory makes of the task, so
        that none is dispatched twice; None when it makes none.

        Events of the application's own go to their handlers at once. Raises: whatever the factory or a handler raises.
        """
        raw = shapes.stream_record(
            event_id=record.event_id,
            event_name=record.event_name,
            arn=self.backend.stream_arn,
            sequence=str(record.sequence),
            image=record.image,
            at=record.image.updated_at,
        )
        with self._asking():
            events = await self.registry.event_factory.transform_dynamodb_stream({"Records": [raw]})
            await self._handle_others(events, TaskEvent, call)
        mine = (event for event in events if isinstance(event, TaskEvent) and event.task_key == record.image.key)
        return next((_message(event.event_id, event.task_entity) for event in mine), None)

    async def task_event(self, delivery: Delivery, task: TaskEntity[Any], call: Call) -> TaskQueueEvent[Any] | None:
        """The event of the message *delivery* about *task*; None when the event factory drops it.

        Events of the application's own go to their handlers at once. Raises: whatever the factory or a handler raises.
        """
        if not self.registry.watches_queue:
            return self._task_event(delivery, task)
        raw = shapes.sqs_event(
            delivery.message_id,
            f"{delivery.receipt.id}/{delivery.receipt.count}",
            shapes.task_message(
                shapes.stream_record(
                    event_id=delivery.event_id,
                    event_name="INSERT",
                    arn=self.backend.stream_arn,
                    sequence=str(delivery.receipt.id),
                    image=task,
                    at=task.updated_at,
                )
            ),
            arn=self.backend.queue_arn,
            received=delivery.received,
        )
        with self._asking():
            events = await self.registry.event_factory.transform_sqs(raw)
            await self._handle_others(events, TaskQueueEvent, call)
        return next(
            (event for event in events if isinstance(event, TaskQueueEvent) and event.task_event.task_key == task.key),
            None,
        )

    def _task_event(self, delivery: Delivery, task: TaskEntity[Any]) -> TaskQueueEvent[Any]:
        return TaskQueueEvent(
            message_id=delivery.message_id,
            task_event=TaskEvent(
                event_id=delivery.event_id,
                event_name="INSERT",
                event_source_arn=self.backend.stream_arn,
                task_entity=task,
            ),
            task=task,
        )

    async def _handle_others(self, events: Sequence[Any], own: type, call: Call) -> None:
        for event in events:
            if not isinstance(event, own):
                for handler in self.registry.handlers(event):
                    await call(handler, event)


def _message(event_id: str, task: TaskEntity[Any]) -> TaskMessage:
    return TaskMessage(event_id=event_id, key=task.key, kind=task.kind, task_type=task.task_type)
