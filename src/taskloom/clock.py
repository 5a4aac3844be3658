"""The time of the machine: the one place that reads it, and the one that waits for it."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND: Final = timedelta(milliseconds=1)


class SystemClock:
    """`ports.Clock` over the machine's clocks."""

    def now(self) -> datetime:
        """The instant in UTC, cut to whole milliseconds, so that it survives storage unchanged."""
        return from_milliseconds(time.time_ns() // 1_000_000)

    async def wait(self, event: asyncio.Event, until: datetime | None) -> bool:
        """Wait for *event*, at most to *until* (None: for ever); whether the event is set."""
        if until is None:
            await event.wait()
            return True
        seconds = (until - self.now()).total_seconds()
        if seconds <= 0 or event.is_set():
            return event.is_set()
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return event.is_set()
        return True


@lru_cache(maxsize=4096)
def from_milliseconds(value: int) -> datetime:
    """The instant *value* milliseconds after 1970-01-01T00:00:00Z."""
    return EPOCH + timedelta(milliseconds=value)


@lru_cache(maxsize=4096)
def to_milliseconds(instant: datetime) -> int:
    """Milliseconds from 1970-01-01T00:00:00Z to *instant*, exactly."""
    return (instant - EPOCH) // MILLISECOND
