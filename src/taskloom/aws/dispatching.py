"""From the records of the table's stream to task messages."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from taskloom import lifecycle
from taskloom.aws.invocation import Invocation
from taskloom.aws.queue import Again, SqsSender
from taskloom.errors import InvalidInput, StoreError
from taskloom.events import shapes
from taskloom.events.registry import Registry
from taskloom.events.service import EventService
from taskloom.execution.dispatch import MAX_FAILURES
from taskloom.execution.failures import reason
from taskloom.execution.writes import write
from taskloom.model import Failure, Kind, TaskEntity, TaskKey

FAR: Final = "worker"

Bury = Callable[[TaskKey, int, str], Awaitable[None]]
"""Keeps a dead letter: of which task, after how many failures, why."""

log = logging.getLogger(__name__)


class Dispatching:
    """Sends the messages of tasks that need one.

    Where the application has its own say on the records and that fails, the record itself goes to the task queue. So
    no other record waits for it, and the queue counts how often it failed.
    """

    def __init__(self, registry: Registry, tasks: SqsSender, far: SqsSender | None, bury: Bury) -> None:
        self._registry = registry
        self._bury = bury
        self._tasks = tasks
        self._far = far
        """To the queue of workers."""

    async def dispatch(self, records: Sequence[Mapping[str, Any]], invocation: Invocation) -> list[str]:
        """Send a message for each of *records* that shows a task in need of one.

        Returns the sequence numbers of those for which that failed, and which are to come again.
        """
        mine = [record for record in records if shapes.is_task_record(record)]
        actions = await asyncio.gather(*(self._action(record, invocation) for record in mine))
        near: list[Mapping[str, Any] | Again] = []
        far: list[Mapping[str, Any]] = []
        failed: list[Mapping[str, Any]] = []
        for record, action in zip(mine, actions, strict=True):
            match action:
                case "send" if self._runs_on_worker(record):
                    far.append(record)
                case "send":
                    near.append(record)
                case "again":
                    near.append(Again(record))
                case "failed":
                    failed.append(record)
                case _:
                    log.info("the event factory dropped a task", extra={"event_id": record.get("eventID")})
        failed += await _unsent(self._tasks, near)
        if far and self._far is None:
            failed += far
            log.error("tasks with runs_on='worker' need a queue of their own: set worker_queue_url")
        elif self._far is not None:
            failed += await _unsent(self._far, far)
        return [record["dynamodb"]["SequenceNumber"] for record in failed]

    async def _action(self, record: Mapping[str, Any], invocation: Invocation) -> str:
        """What becomes of *record*: send, again, failed or dropped."""
        if not self._registry.watches_stream:
            return "send"
        try:
            return "send" if await self.is_wanted(record, invocation) else "dropped"
        except StoreError as error:
            log.warning("the storage fails; the record comes again", extra={"error": str(error)})
            return "failed"
        except Exception:  # the application's factory may raise anything
            log.warning("the event factory failed", extra={"event_id": record.get("eventID")}, exc_info=True)
            return "again"

    async def is_wanted(self, record: Mapping[str, Any], invocation: Invocation) -> bool:
        """Whether the event factory makes an event of the task; if not, the task has ended with that reason.

        Raises: StoreError; whatever the factory raises.
        """
        events = EventService(invocation.backend, self._registry)
        entity = shapes.entity_of(record)
        if await events.message_of(record, entity.key, invocation.attempts.call) is not None:
            return True
        await _reject(entity, "the event factory returned no event for this task", invocation)
        return False

    async def fails(self, record: Mapping[str, Any], failures: int, error: Exception, invocation: Invocation) -> bool:
        """The event factory failed so often for *record*; whether that was the last time. Raises: StoreError."""
        log.warning("the event factory failed", extra={"failures": failures}, exc_info=error)
        if failures < MAX_FAILURES:
            return False
        entity, why = shapes.entity_of(record), reason(error)
        await _reject(entity, f"the event factory failed {failures} times: {why}", invocation)
        await self._bury(entity.key, failures, why)
        return True

    def _runs_on_worker(self, record: Mapping[str, Any]) -> bool:
        try:
            parts = shapes.key_of(record).parts
        except InvalidInput:
            return False
        return parts.kind is Kind.TASK and self._registry.policy(parts.kind, parts.task_type).runs_on == FAR


async def _unsent(sender: SqsSender, records: Sequence[Mapping[str, Any] | Again]) -> list[Mapping[str, Any]]:
    if not records:
        return []
    unsent = [record for record, sent in zip(records, await sender.send(records), strict=True) if not sent]
    return [record.record if isinstance(record, Again) else record for record in unsent]


async def _reject(task: TaskEntity[Any], why: str, invocation: Invocation) -> None:
    """Nothing will ever run the task, so it must not wait for ever."""
    backend = invocation.backend
    change = lifecycle.rejected(
        task,
        Failure(type="EventFactory", message=why),
        now=backend.clock.now(),
        by=invocation.by,
        claim_id=backend.ids.token(),
    )
    await write(backend, change)
