"""A clock that the tests move on, and the emulator's with it."""

import asyncio
import mmap
import struct
from datetime import datetime, timedelta
from pathlib import Path

from taskloom.clock import SystemClock


class MovingClock:
    """`ports.Clock`: the machine's time, and what the tests have added to it. Only forwards."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(struct.pack("d", 0.0))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 8)
        self._moved = timedelta()
        self._system = SystemClock()

    def now(self) -> datetime:
        return self._system.now() + self._moved

    def advance(self, seconds: float) -> None:
        """Let this time pass, for this process and for the emulator."""
        self._moved += timedelta(milliseconds=round(seconds * 1000))
        self._shared[:8] = struct.pack("d", self._moved.total_seconds())

    async def wait(self, event: asyncio.Event, until: datetime | None) -> bool:
        return await self._system.wait(event, None if until is None else until - self._moved)
