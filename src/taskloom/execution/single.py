"""From a task message to the end of an attempt of a single task."""

import asyncio
import logging
from datetime import datetime, timedelta
from typing import Any

from taskloom import lifecycle, payloads
from taskloom.events.registry import Registry
from taskloom.events.service import EventService
from taskloom.execution.attempt import Attempts
from taskloom.execution.failures import reason
from taskloom.execution.writes import write
from taskloom.lifecycle import Change, Claimant, Come, Refused, Standing, Verdict
from taskloom.model import Failure, TaskEntity, TaskStatus
from taskloom.policy import lost_lease_limit
from taskloom.ports import Backend, Delivery

log = logging.getLogger(__name__)


class SingleTasks:
    """Runs single tasks for one worker."""

    def __init__(self, backend: Backend, registry: Registry, attempts: Attempts, lease: timedelta, by: str) -> None:
        self._backend = backend
        self._registry = registry
        self._events = EventService(backend, registry)
        self._attempts = attempts
        self._lease = lease
        self._by = by

    async def handle(self, delivery: Delivery) -> datetime | None:
        """Do what the message asks for; when it is to come again, None when it is done with.

        Raises: StoreError; the message will come again by itself then.
        """
        claimed = await self._claim(delivery)
        if not isinstance(claimed, TaskEntity):
            return claimed
        task = await payloads.whole(self._backend, claimed)
        change = await self._run(delivery, task)
        if change is None:
            return None
        outcome = await write(self._backend, change)
        if isinstance(outcome, Refused):
            # rule 2: whoever lost its claim loses its result too.
            log.warning(
                "the claim was lost; its result is dropped",
                extra={"task": task.id, "attempt": task.attempt, "status": str(change.patch["status"])},
            )
            return None
        if change.patch["status"] is TaskStatus.PENDING:
            return change.patch.get("next_attempt_at") or self._backend.clock.now()
        return None

    async def _run(self, delivery: Delivery, task: TaskEntity[Any]) -> Change | None:
        try:
            event = await self._events.task_event(delivery, task, self._attempts.call)
        except BaseException as error:
            runner = asyncio.current_task()
            if isinstance(error, KeyboardInterrupt) or (runner is not None and runner.cancelling()):
                raise  # the worker itself is ended
            log.warning("the event factory failed", extra={"task": task.id}, exc_info=True)
            return self._rejected(task, f"the event factory failed: {reason(error)}")
        if event is None:
            return self._rejected(task, "the event factory dropped the message of this task")
        return await self._attempts.run(task, event)

    def _rejected(self, task: TaskEntity[Any], why: str) -> Change:
        return lifecycle.failed(
            task,
            Failure(type="EventFactory", message=why, attempt=task.attempt),
            progress=None,
            now=self._backend.clock.now(),
            by=self._by,
            claim_id=self._backend.ids.token(),
        )

    async def _claim(self, delivery: Delivery) -> TaskEntity[Any] | datetime | None:
        standing: Standing | None = delivery.standing or await self._backend.store.get(delivery.key)
        policy = self._registry.policy(delivery.task_kind, delivery.task_type)
        while True:
            decision = lifecycle.claim(
                delivery.key,
                standing,
                delivery.task_kind,
                Claimant(
                    by=self._by,
                    claim_id=self._backend.ids.token(),
                    now=self._backend.clock.now(),
                    lease=self._lease,
                    max_lost=lost_lease_limit(policy.retry),
                ),
            )
            match decision:
                case Come(at):
                    return at
                case Verdict():
                    return None
                case _:
                    outcome = await write(self._backend, decision)
                    if isinstance(outcome, Refused):
                        standing = outcome.current  # somebody was faster: look again at what it left
                        continue
                    # None: its workers died too often, and that was its end.
                    return outcome.entity if decision.patch["status"] is TaskStatus.IN_PROGRESS else None
