"""How many handlers a worker may run at a time."""

import asyncio
from collections.abc import Callable


class Slots:
    """Permits to run one handler each; for one event loop."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._changed = asyncio.Event()

    async def take_all_unless(self, over: Callable[[], bool]) -> int:
        """All free slots, at least one; 0 when *over* becomes true before there is one (see `nudge`)."""
        if not await self._wait(over):
            return 0
        count, self._free = self._free, 0
        return count

    async def take_unless(self, over: Callable[[], bool]) -> bool:
        """Take one slot as soon as there is one; False when *over* becomes true before (see `nudge`)."""
        if not await self._wait(over):
            return False
        self._free -= 1
        return True

    def give_back(self, count: int = 1) -> None:
        """These are free again."""
        self._free += count
        self._changed.set()

    def nudge(self) -> None:
        """Let all that wait look again whether it is over."""
        self._changed.set()

    async def _wait(self, over: Callable[[], bool]) -> bool:
        while not over():
            if self._free > 0:
                return True
            self._changed.clear()
            await self._changed.wait()
        return False
