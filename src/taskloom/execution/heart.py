"""What must go on while handlers run, from a thread of its own: leases are renewed, progress and log lines written."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from taskloom import lifecycle
from taskloom.errors import StoreError
from taskloom.events.context import RunContext
from taskloom.execution.loop_thread import LoopThread
from taskloom.lifecycle import Refused
from taskloom.model import Kind, TaskEntity, TaskStatus
from taskloom.ports import Backend, Receipt, WorkerFacts

if TYPE_CHECKING:
    from taskloom.execution.attempt import Attempt

LOOK_EVERY: Final = timedelta(seconds=0.95)
"""How often a worker looks whether somebody cancelled what it runs: a handler is told within a second."""
PROGRESS_EVERY: Final = timedelta(seconds=1)
SAY_EVERY: Final = timedelta(seconds=10)
"""How often a worker says that it lives."""
MAX_RUNNING: Final = 100
"""Tasks that it names then."""
LOGS_EVERY: Final = timedelta(seconds=1)
BEATS_PER_LEASE: Final = 3
LONGEST_BEAT: Final = timedelta(minutes=1)
NEVER: Final = timedelta(days=3650)

log = logging.getLogger(__name__)


class Heart:
    """Renews the leases of running attempts and the visibility of their messages, three times per lease; and notices
    when a running task is cancelled, at the latest after *look*.

    A handler that blocks the worker's event loop does not stop it. Without a *lease* nothing is renewed, and nobody is
    told that the worker lives: it ends before its claims do.
    """

    def __init__(
        self,
        backend: Backend,
        lease: timedelta | None,
        on_lost: "Callable[[Attempt, bool], None]",
        describe: Callable[[Sequence[str]], WorkerFacts],
        look: timedelta = LOOK_EVERY,
    ) -> None:
        self._backend = backend
        self._lease = lease
        self._look_every = look
        self._on_lost = on_lost
        self._describe = describe
        self._lock = threading.Lock()
        self._attempts: set[Attempt] = set()
        self._receipts: set[Receipt] = set()
        self._progressed: set[RunContext] = set()
        self._thread = LoopThread("taskloom-heart")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._stopped = False
        self._beating: Future[None] | None = None
        self._storing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to beat."""
        self._beating = self._thread.submit(self._beat())

    @property
    def beats(self) -> bool:
        """Whether it has begun."""
        return self._beating is not None

    def stop(self) -> None:
        """End; what is left of progress is written with the end of its attempt."""
        self._stopped = True
        self._rouse()
        if self._beating is not None:
            self._beating.result()
        self._thread.close()

    def watch(self, attempt: "Attempt") -> None:
        """Renew the lease of *attempt* until it is forgotten."""
        with self._lock:
            self._attempts.add(attempt)

    def forget(self, attempt: "Attempt") -> None:
        """The attempt is over."""
        with self._lock:
            self._attempts.discard(attempt)
            self._progressed.discard(attempt.context)

    def hold(self, receipt: Receipt) -> None:
        """Keep the message of *receipt* invisible until it is let go."""
        with self._lock:
            self._receipts.add(receipt)

    def let_go(self, receipt: Receipt) -> None:
        """The message is done with."""
        with self._lock:
            self._receipts.discard(receipt)

    def progressed(self, context: RunContext) -> None:
        """There is progress to be written; from any thread."""
        with self._lock:
            first = not self._progressed
            self._progressed.add(context)
        if first:
            self._rouse()

    def _rouse(self) -> None:
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._wake.set)
            except RuntimeError:
                log.debug("the heart has stopped")

    async def _beat(self) -> None:
        self._loop = asyncio.get_running_loop()
        clock = self._backend.clock
        every = NEVER if self._lease is None else self._lease / BEATS_PER_LEASE
        renewal, progress, look = clock.now() + every, clock.now(), clock.now() + self._look_every
        said = clock.now() if self._lease is not None else renewal
        logs = clock.now() + LOGS_EVERY
        while not self._stopped:
            due = min(renewal, look, said)
            if self._progressed:
                due = min(due, progress)
            if self._logged():
                due = min(due, logs)
            await clock.wait(self._wake, due)
            self._wake.clear()
            now = clock.now()
            try:
                # Nobody rouses the heart for a log line: it looks often enough, and short attempts never need it.
                if now >= logs and (logged := self._logged()):
                    logs = now + LOGS_EVERY
                    self._store(logged)
                if self._progressed and now >= progress:
                    progress = now + PROGRESS_EVERY
                    await self._write_progress(now)
                if now >= said:
                    said = now + SAY_EVERY
                    await self._say(now)
                if now >= look:
                    look = now + self._look_every
                    await self._look()
                if now >= renewal:
                    renewal = now + every
                    await self._renew(now)
            except StoreError as error:
                log.warning("leases could not be renewed; trying again", extra={"error": str(error)})
                await clock.wait(self._wake, now + min(every, LONGEST_BEAT) / 10)
                renewal = look = clock.now()
                if self._lease is None:
                    renewal += every
        if self._storing is not None:
            await asyncio.wait([self._storing])
        if self._lease is None:
            return
        try:
            await self._backend.admin.leave(self._describe(()).name)
        except StoreError as error:
            log.warning("the worker could not be signed off", extra={"error": str(error)})

    def _logged(self) -> list[RunContext]:
        """The attempts with log lines that are not stored yet."""
        with self._lock:
            contexts = [attempt.context for attempt in self._attempts]
        return [context for context in contexts if context.lines is not None and context.lines.has_lines]

    def _store(self, contexts: Sequence[RunContext]) -> None:
        # In a task of its own: however slow that is, leases are renewed. The lines wait for the next time meanwhile.
        if self._storing is None or self._storing.done():
            self._storing = asyncio.create_task(self._write_logs(contexts))

    async def _write_logs(self, contexts: Sequence[RunContext]) -> None:
        found = [(context.lines, context.lines.batch(context.task)) for context in contexts if context.lines]
        batches = [(lines, batch) for lines, batch in found if batch is not None]
        if not batches:  # the attempts have ended meanwhile
            return
        try:
            await self._backend.logs.append([batch for _, batch in batches])
        except StoreError as error:
            log.warning("log lines could not be written; trying again", extra={"error": str(error)})
        else:
            for lines, batch in batches:
                lines.stored(batch)

    async def _say(self, now: datetime) -> None:
        """Tell whoever looks that the worker lives."""
        with self._lock:
            running = sorted(attempt.task.id for attempt in self._attempts)[:MAX_RUNNING]
        await self._backend.admin.beat(replace(self._describe(running), seen_at=now))

    async def _write_progress(self, now: datetime) -> None:
        with self._lock:
            contexts, self._progressed = self._progressed, set()
        changes = [
            lifecycle.progressed(context.task, context.latest, now=now)
            for context in contexts
            if context.latest is not None
        ]
        if changes:
            await self._backend.store.update_many(changes)

    async def _renew(self, now: datetime) -> None:
        with self._lock:
            attempts, receipts = list(self._attempts), list(self._receipts)
        until = now + (self._lease or timedelta())
        if receipts:
            await self._backend.queue.extend(receipts, until)
        if attempts:
            outcomes = await self._backend.store.update_many(
                [lifecycle.renewed(attempt.task, until=until, now=now) for attempt in attempts]
            )
            for attempt, outcome in zip(attempts, outcomes, strict=True):
                if isinstance(outcome, Refused):
                    self._on_lost(attempt, _is_cancelled(outcome.current))

    async def _look(self) -> None:
        """Find out who was cancelled: single tasks have ended, and fan-outs are asked to end."""
        with self._lock:
            attempts = list(self._attempts)
        keys = {attempt.task.key.parent for attempt in attempts}
        found = {key: await self._backend.store.get(key) for key in keys}
        for attempt in attempts:
            task = found[attempt.task.key.parent]
            # A sub-task of a fan-out that has ended was begun too late, and counts for nobody.
            is_over = _is_cancelled(task) or (task is not None and task.is_terminal and task.kind is Kind.SFN_TASK)
            if task is None or is_over or task.run != attempt.task.run:
                self._on_lost(attempt, is_over)


def _is_cancelled(task: TaskEntity | None) -> bool:
    return task is not None and (task.status is TaskStatus.CANCELLED or task.cancel_requested is not None)
