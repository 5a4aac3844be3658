"""A clock that moves only when a test says so."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta


class FakeClock:
    """`ports.Clock` in virtual time, for any number of event loops and threads."""

    def __init__(self, start: datetime = datetime(2026, 5, 1, 12, tzinfo=UTC)) -> None:
        self._now = start
        self._lock = threading.Lock()
        self._waiters: set[tuple[datetime, asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def now(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move on, and wake everybody whose time has come."""
        with self._lock:
            self._now += timedelta(milliseconds=round(seconds * 1000))
            due = [waiter for waiter in self._waiters if waiter[0] <= self._now]
        for _, loop, expired in due:
            loop.call_soon_threadsafe(expired.set)

    async def wait(self, event: asyncio.Event, until: datetime | None) -> bool:
        if until is None:
            return await event.wait()
        expired = asyncio.Event()
        waiter = (until, asyncio.get_running_loop(), expired)
        with self._lock:
            if until <= self._now:
                return event.is_set()
            self._waiters.add(waiter)
        sides = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(expired.wait())]
        try:
            await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for side in sides:
                side.cancel()
            with self._lock:
                self._waiters.discard(waiter)
        return event.is_set()
