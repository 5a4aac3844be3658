"""From a task message to the end of an attempt of a single task."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from taskloom import lifecycle, payloads
from taskloom.errors import StoreError
from taskloom.events.registry import Registry
from taskloom.events.service import EventService
from taskloom.execution.attempt import Attempts
from taskloom.execution.failures import reason
from taskloom.execution.quarantine import LOOK_AGAIN, Quarantine
from taskloom.execution.writes import write, write_many
from taskloom.lifecycle import Change, Claimant, Come, Refused, Standing, Verdict, Written
from taskloom.model import Failure, TaskEntity, TaskStatus
from taskloom.policy import lost_lease_limit, retry_of
from taskloom.ports import Backend, Delivery

Claimed: TypeAlias = TaskEntity[Any] | datetime | StoreError | None
"""The task, if it is to be run; else when its message is to come again, None when it is done with."""

log = logging.getLogger(__name__)


class SingleTasks:
    """Runs single tasks for one worker."""

    def __init__(
        self,
        backend: Backend,
        registry: Registry,
        attempts: Attempts,
        lease: timedelta,
        by: str,
        quarantine: Quarantine,
    ) -> None:
        self._backend = backend
        self._registry = registry
        self._events = EventService(backend, registry)
        self._attempts = attempts
        self._lease = lease
        self._by = by
        self._quarantine = quarantine

    async def claim(self, deliveries: Sequence[Delivery]) -> Sequence[Claimed]:
        """Claim the tasks of these messages, all in one write as far as that goes; for each what came of it.

        Raises: StoreError when none was claimed; the messages will come again by themselves then.
        """
        decisions = [self._decide(delivery, await self._standing(delivery)) for delivery in deliveries]
        changes = [decision for decision in decisions if isinstance(decision, Change)]
        try:
            outcomes = iter(await write_many(self._backend, changes) if changes else ())
        except StoreError:
            for change in changes:
                self._quarantine.leave(change.patch["claim_id"])
            raise
        claims: list[Claimed] = []
        for delivery, decision in zip(deliveries, decisions, strict=True):
            if isinstance(decision, Change):
                claims.append(await self._outcome(delivery, decision, next(outcomes)))
            else:
                claims.append(_nothing(decision))
        return claims

    async def run(self, delivery: Delivery, claimed: TaskEntity[Any]) -> Change | None:
        """Run the claimed task; the change that ends the attempt, None when there is nothing to write.

        Raises: StoreError; the message will come again by itself then.
        """
        task = await payloads.whole(self._backend, claimed)
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

    def interrupt(self) -> None:
        """End what waits for the event factory. As after a kill, its message and its lease bring the task back."""
        self._events.interrupt()

    def _rejected(self, task: TaskEntity[Any], why: str) -> Change:
        return lifecycle.failed(
            task,
            Failure(type="EventFactory", message=why, attempt=task.attempt),
            progress=None,
            now=self._backend.clock.now(),
            by=self._by,
            claim_id=self._backend.ids.token(),
        )

    async def _standing(self, delivery: Delivery) -> Standing | None:
        return delivery.standing or await self._backend.store.get(delivery.key)

    def _decide(self, delivery: Delivery, standing: Standing | None) -> Change | Come | Verdict:
        retry = self._registry.policy(delivery.task_kind, delivery.task_type).retry
        who = Claimant(
            by=self._by,
            claim_id=self._backend.ids.token(),
            now=self._backend.clock.now(),
            lease=self._lease,
            max_lost=lost_lease_limit(retry if standing is None else retry_of(retry, standing.options.retry)),
        )
        decision = lifecycle.claim(delivery.key, standing, delivery.task_kind, who)
        if isinstance(decision, Change) and not self._quarantine.admits(decision, who, who.claim_id):
            return Come(who.now + LOOK_AGAIN)
        return decision

    async def _outcome(self, delivery: Delivery, change: Change, outcome: Written | Refused) -> Claimed:
        try:
            while isinstance(outcome, Refused):  # somebody was faster: look again at what it left
                self._quarantine.leave(change.patch["claim_id"])
                decision = self._decide(delivery, outcome.current)
                if not isinstance(decision, Change):
                    return _nothing(decision)
                change = decision
                outcome = await write(self._backend, change)
        except StoreError as error:  # concerns this message only
            self._quarantine.leave(change.patch["claim_id"])
            return error
        # None: its workers died too often, and that was its end.
        return outcome.entity if change.patch["status"] is TaskStatus.IN_PROGRESS else None


def _nothing(decision: Come | Verdict) -> datetime | None:
    return decision.at if isinstance(decision, Come) else None
