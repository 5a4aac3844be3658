"""Pumps in threads of their own: what a listener does there holds up nobody else."""

import asyncio
import logging
import threading
from collections.abc import Sequence
from typing import Final

from taskloom.notifications.pump import LAST_SECONDS, Pump

JOIN_SECONDS: Final = 3 * LAST_SECONDS
"""After which a thread that does not end is left to itself; it keeps no process alive."""

log = logging.getLogger(__name__)


class PumpThread:
    """Runs *pumps* in one event loop, in a thread that begins at once."""

    def __init__(self, name: str, pumps: Sequence[Pump]) -> None:
        self._pumps = pumps
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing more; the thread ends soon."""
        for pump in self._pumps:
            pump.stop()

    def join(self) -> None:
        """Wait for the end of the thread, but not for one that hangs."""
        if self._thread is not threading.current_thread():
            self._thread.join(JOIN_SECONDS)
            if self._thread.is_alive():
                log.warning("a subscriber hangs; its thread is left behind", extra={"thread": self._thread.name})

    def _run(self) -> None:
        async def run() -> None:
            await asyncio.gather(*map(_guarded, self._pumps))

        asyncio.run(run())


async def _guarded(pump: Pump) -> None:
    try:
        await pump.run()
    except Exception:
        log.exception("a listener is served no more; its notices wait for another process")
