"""One invocation of a Lambda function: what a worker is elsewhere, for as long as it lasts."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from taskloom.aws.queue import is_paused
from taskloom.errors import StoreError
from taskloom.events.registry import Registry
from taskloom.execution.attempt import Allotment, Attempt, Attempts, Interruption
from taskloom.execution.deadlines import Deadlines
from taskloom.execution.endings import FIRST_PAUSE, LONGEST_PAUSE
from taskloom.execution.fan_out import FanOuts
from taskloom.execution.heart import Heart
from taskloom.execution.log_writer import LogWriter
from taskloom.execution.quarantine import Quarantine
from taskloom.execution.reconciler import Reconciler
from taskloom.execution.single import SingleTasks
from taskloom.execution.slots import Slots
from taskloom.execution.threads import HandlerThreads
from taskloom.execution.writes import again_at, write
from taskloom.lifecycle import Change, Refused
from taskloom.model import Kind, TaskStatus
from taskloom.ports import Backend, Delivery, Pause, PauseScope, WorkerFacts

LOOK_EVERY: Final = timedelta(seconds=5)
"""How often to look whether somebody cancelled what runs: each look is a read that is paid for."""
RESERVE: Final = timedelta(seconds=3)
"""Kept of the function's time for writing how things stand."""
MARGIN: Final = timedelta(seconds=10)
"""How much longer than its handler's timeout a claim holds."""
MAX_LANES: Final = 1000

log = logging.getLogger(__name__)


class _LateHeart(Heart):
    """Begins to beat with the first attempt: many invocations have none."""

    def watch(self, attempt: Attempt) -> None:
        """See `Heart`."""
        super().watch(attempt)
        if not self.beats:
            self.start()


class Invocation:
    """Runs tasks until the function's time is over; for one event loop, within `async with`.

    *until*: when Lambda ends the function. *request* names the invocation in the history of tasks.
    """

    def __init__(
        self,
        backend: Backend,
        registry: Registry,
        *,
        until: datetime,
        request: str,
        log_level: int,
        threads: HandlerThreads,
    ) -> None:
        self.backend = backend
        self.registry = registry
        self.by = f"lambda/{request}"
        self._until = until
        start = backend.clock.now()
        self._allotment = Allotment(start, max(start, until - min(RESERVE, (until - start) / 4)))
        self._needs = timedelta()
        self._began = False
        self._spawned: set[asyncio.Task[None]] = set()
        self._heart = _LateHeart(backend, None, _claim_lost, self._facts, look=LOOK_EVERY)
        self._logs = LogWriter(backend, self._spawn)
        self.attempts = Attempts(
            backend, registry, self._heart, threads, self._logs, self.by, log_level, self._allotment
        )
        quarantine = Quarantine()
        self._single = SingleTasks(backend, registry, self.attempts, self._lease, self.by, quarantine)
        self.fan_outs = FanOuts(
            backend,
            registry,
            self.attempts,
            self._lease,
            self.by,
            may_start=self._may_start,
            slots=Slots(MAX_LANES),
            quarantine=quarantine,
            logs=self._logs,
        )
        self.reconciler = Reconciler(backend, self.fan_outs, self.by)
        self.deadlines = Deadlines(backend, self.by)

    async def __aenter__(self) -> "Invocation":
        return self

    async def __aexit__(self, *_: object) -> None:
        # Nothing may be left: Lambda freezes the process until the next invocation, or for good.
        self._logs.write()
        while self._spawned:
            await asyncio.wait(self._spawned)
        if self._heart.beats:
            await asyncio.get_running_loop().run_in_executor(None, self._heart.stop)

    async def run(self, delivery: Delivery) -> tuple[datetime | None, Change | None]:
        """Run the single task of a message; when the message is to come again, if at all, and how the attempt ended.

        Raises: StoreError; the message is to come again then.
        """
        (claimed,) = await self._single.claim([delivery])
        if isinstance(claimed, StoreError):
            raise claimed
        if claimed is None or isinstance(claimed, datetime):
            return claimed, None
        change = await self._single.run(delivery, claimed)
        if change is None:
            return None, None
        outcome = await self._logs.beside(write(self.backend, change))
        status = change.patch["status"]
        if isinstance(outcome, Refused):
            # rule 2: whoever lost its claim loses its result too.
            log.warning(
                "the claim was lost; its result is dropped", extra={"task": delivery.key.id, "status": str(status)}
            )
            return None, None
        if status is TaskStatus.PENDING:
            return again_at(change, outcome, self.backend.clock.now()), change
        return None, change

    async def step(self, delivery: Delivery) -> Any:
        """Do a step of an execution: see `FanOuts.step`."""
        seconds = self.registry.policy(Kind.SFN_TASK, delivery.task_type).timeout
        whole = self._allotment.until - self._allotment.start
        self._needs = whole / 10 if seconds is None else timedelta(seconds=seconds)
        return await self.fan_outs.step(delivery)

    def postponed(self, received: int) -> datetime:
        """When a message is to come again for which the storage failed: later each time."""
        pause: timedelta = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(received, 12))
        return self.backend.clock.now() + pause

    def _lease(self, timeout: float | None) -> timedelta:
        """No longer than the function lives: nobody renews it, and nobody waits for it in vain."""
        left = max(timedelta(), self._until - self.backend.clock.now())
        return left if timeout is None else min(left, timedelta(seconds=timeout) + MARGIN)

    def _may_start(self) -> bool:
        """Whether one more sub-task has time to run. The first one has, however long it may take: it gets all."""
        if not self._began:
            self._began = True
            return True
        return self.backend.clock.now() + self._needs <= self._allotment.until

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)
        return task

    def _facts(self, running: Sequence[str]) -> WorkerFacts:
        raise AssertionError(f"a function says to nobody that it lives: {running}")


class Pauses:
    """What is paused, looked up now and then."""

    EVERY: Final = timedelta(seconds=5)

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._pauses: set[tuple[PauseScope, str]] = set()
        self._until: datetime | None = None

    async def hold(self, delivery: Delivery) -> bool:
        """Whether the task of this message may not start now."""
        now = self._backend.clock.now()
        if self._until is None or now >= self._until:
            found: Sequence[Pause] = await self._backend.admin.pauses()
            self._pauses = {(pause.scope, pause.name) for pause in found}
            self._until = now + self.EVERY
        return is_paused(self._pauses, delivery)


def _claim_lost(attempt: Attempt, cancelled: bool) -> None:
    attempt.interrupt(Interruption.CANCELLED if cancelled else Interruption.CLAIM_LOST)
