"""Delivers what waits for one listener."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from taskloom.errors import StoreError
from taskloom.policy import Retry, next_attempt_in
from taskloom.ports import NOTIFY_URL, Backend, Listener, Notice, NoticeFailure

LOOK_EVERY: Final = timedelta(seconds=1)
"""No signal tells of each change: how late one may be noticed."""
KEEP: Final = timedelta(days=7)
"""How long what happens is kept for a webhook, or a name, that no process serves any more."""
RENEW_EVERY: Final = timedelta(hours=1)
MARGIN: Final = timedelta(seconds=60)
"""How long after its time limit a delivery counts as lost, so that somebody else tries."""
LAST_SECONDS: Final = 2.0
"""How long a pump that is to end waits for what it has begun."""
FIRST_PAUSE: Final = timedelta(milliseconds=100)
LONGEST_PAUSE: Final = timedelta(seconds=30)
MAX_REASON: Final = 500

log = logging.getLogger(__name__)


class Undeliverable(Exception):
    """Trying again would not help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On which terms a listener is served."""

    keep: timedelta
    """How long notices are kept for it after this process was seen last."""
    retry: Retry
    timeout: timedelta
    """Of one delivery."""
    at_once: int
    """Deliveries at a time: bounds what is in memory."""
    ends_with_pump: bool = False
    """Whether nothing is kept for it once the pump has ended."""


class Pump:
    """Takes the notices of one listener and delivers them, until it is stopped. Runs in an event loop of its own."""

    def __init__(
        self, backend: Backend, listener: Listener, terms: Terms, deliver: Callable[[Notice], Awaitable[object]]
    ) -> None:
        self._backend = backend
        self._listener = listener
        self._terms = terms
        self._deliver = deliver
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = False
        self._end_signals: Callable[[], None] | None = None
        self._running: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Begin nothing more; `run` ends soon. From any thread."""
        self._stopped = True
        self._rouse()

    async def run(self) -> None:
        """Deliver until `stop`."""
        self._loop = asyncio.get_running_loop()
        if self._listener.name != NOTIFY_URL:
            self._listen()
        try:
            await self._work()
            await self._end()
        finally:
            if self._end_signals is not None:
                self._end_signals()

    def _listen(self) -> None:
        # Not before there was anything: who has a secret, but no task with an address, is to pay for nothing.
        if self._end_signals is None:
            self._end_signals = self._backend.signals.on_any(self._rouse)

    def _rouse(self) -> None:
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._wake.set)
            except RuntimeError:
                log.debug("the pump has ended")

    async def _work(self) -> None:
        clock, failures, renew_at = self._backend.clock, 0, self._backend.clock.now()
        while not self._stopped:
            self._wake.clear()
            now = clock.now()
            try:
                if now >= renew_at:
                    await self._renew(now)
                    renew_at = now + min(RENEW_EVERY, self._terms.keep / 3)
                due = await self._take()
                failures = 0
            except StoreError as error:
                failures += 1
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failures, 12))
                extra = {"listener": self._listener.name, "error": str(error), "in": str(pause)}
                log.warning("the storage fails; notices wait", extra=extra)
                await clock.wait(self._wake, now + pause)
                continue
            until = min(renew_at, now + LOOK_EVERY)
            await clock.wait(self._wake, until if due is None else min(until, due))

    async def _renew(self, now: datetime) -> None:
        if self._listener.name != NOTIFY_URL:  # which the tasks themselves ask for
            await self._backend.notifier.follow(self._listener, now + self._terms.keep)
        await self._backend.notifier.tidy()

    async def _take(self) -> datetime | None:
        """Begin to deliver what is due, as far as there is room; when to look again."""
        clock, notifier, name = self._backend.clock, self._backend.notifier, self._listener.name
        while room := self._terms.at_once - len(self._running):
            now = clock.now()
            due = await notifier.next_due(name)
            if due is None:
                return None
            self._listen()
            if due > now:
                return due
            again_at = now + self._terms.timeout + MARGIN
            notices = await notifier.take(name, room, again_at=again_at)
            for notice in notices:
                self._spawn(self._handle(notice))
            if not notices:  # somebody else was faster
                return None
        return None  # the end of a delivery wakes

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._running.discard(task)
            self._wake.set()

        task.add_done_callback(done)

    async def _handle(self, notice: Notice) -> None:
        failure: NoticeFailure | None = None
        try:
            if self._stopped:
                raise asyncio.CancelledError
            await self._within(self._deliver(notice))
        except asyncio.CancelledError:  # the pump ends: somebody else may try at once
            failure = NoticeFailure(notice=notice, reason=None, retry_at=self._backend.clock.now(), counts=False)
        except Exception as error:  # noqa: BLE001 - whatever a listener raises is its own business
            failure = self._failure(notice, error)
        try:
            if failure is None:
                await self._backend.notifier.settle([notice], [])
            else:
                await self._backend.notifier.settle([], [failure])
        except StoreError as error:
            extra = {"listener": notice.listener, "event": notice.event_id, "error": str(error)}
            log.warning("the storage fails; a notice will come once more", extra=extra)

    def _failure(self, notice: Notice, error: Exception) -> NoticeFailure:
        failures = notice.failures + 1
        delay = None
        if not isinstance(error, Undeliverable):
            delay = next_attempt_in(self._terms.retry, error, failures, random.random())  # noqa: S311 - jitter
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        extra = {"listener": notice.listener, "event": notice.event_id, "failures": failures, "error": reason}
        if delay is None:
            log.error("a notice is given up", extra=extra)
        else:
            log.warning("a notice could not be delivered; trying again", extra={**extra, "in": str(delay)})
        retry_at = None if delay is None else self._backend.clock.now() + delay
        return NoticeFailure(notice=notice, reason=reason[:MAX_REASON], retry_at=retry_at)

    async def _within(self, work: Awaitable[object]) -> None:
        """Wait for *work*, at most for the time limit; whoever ignores its cancellation is not waited for."""
        clock, task, over = self._backend.clock, asyncio.ensure_future(work), asyncio.Event()

        def ended(task: asyncio.Future[object]) -> None:
            over.set()
            if not task.cancelled():
                task.exception()  # which nobody may be there to see any more

        task.add_done_callback(ended)
        try:
            if await clock.wait(over, clock.now() + self._terms.timeout):
                await task
                return
        finally:
            task.cancel()
        raise TimeoutError(f"it did not end within {self._terms.timeout.total_seconds():g} s")

    async def _end(self) -> None:
        if self._running:
            await asyncio.wait(self._running, timeout=LAST_SECONDS)
        for task in list(self._running):
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=LAST_SECONDS)
        if self._terms.ends_with_pump:
            try:
                await self._backend.notifier.forget(self._listener.name)
            except StoreError as error:
                extra = {"listener": self._listener.name, "error": str(error)}
                log.warning("a listener could not be signed off; nothing is kept for it soon", extra=extra)
