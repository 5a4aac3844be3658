"""What has expired is removed, and what nothing refers to: slowly, so that tasks do not wait for it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Final, TypeVar

from taskloom.errors import StoreError
from taskloom.ports import Backend
from taskloom.record import time_text
from taskloom.values import Json

DUTY: Final = "retention"
ORPHANS: Final = "orphans"
EVERY: Final = timedelta(seconds=60)
ORPHANS_EVERY: Final = timedelta(days=1)
ORPHANS_AFTER: Final = timedelta(days=1)
"""A payload is written before the row that names it, so a younger one may still get its row."""
BATCH: Final = 200
"""Rows of one transaction."""
REST: Final = 19
"""After each batch others have the storage to themselves for so many times as long as it took."""

ResultT = TypeVar("ResultT")

log = logging.getLogger(__name__)


class Sweeper:
    """Looks once a minute, in one worker of all, for what may be removed."""

    def __init__(self, backend: Backend, by: str) -> None:
        self._backend = backend
        self._by = by

    async def run(self, stopping: asyncio.Event) -> None:
        """Look again and again, until *stopping*."""
        clock = self._backend.clock
        began = clock.now()
        while not await clock.wait(stopping, began + EVERY):
            began = clock.now()
            try:
                await self.look(stopping)
            except StoreError as error:
                log.warning("the retention could not remove anything; it tries again", extra={"error": str(error)})

    async def look(self, stopping: asyncio.Event) -> bool:
        """Remove what there is to remove, for a minute at most; whether it was this worker's turn. Raises: StoreError.

        What is cut short here, or by a crash, is gone on with at the next look.
        """
        admin, now = self._backend.admin, self._backend.clock.now()
        if not await admin.take_duty(DUTY, now, now + EVERY):
            return False
        removed = await self._expired(stopping, now + EVERY)
        if await admin.take_duty(ORPHANS, now, now + ORPHANS_EVERY):
            await self._orphans(stopping, now - ORPHANS_AFTER)
        facts: dict[str, Json] = {"at": time_text(now), "by": self._by, "removed": removed}
        await admin.report_duty(DUTY, facts)
        if removed:
            log.info("what had expired was removed", extra={"rows": removed})
        return True

    async def _expired(self, stopping: asyncio.Event, until: datetime) -> int:
        removed = 0
        while not stopping.is_set() and self._backend.clock.now() < until:
            rows = await self._paced(stopping, lambda: self._backend.retention.remove_expired(BATCH))
            removed += rows
            if rows < BATCH:
                break
        return removed

    async def _orphans(self, stopping: asyncio.Event, before: datetime) -> None:
        after: str | None = ""
        while after is not None and not stopping.is_set():
            remove = partial(self._backend.retention.remove_orphans, before, after, BATCH)
            after = await self._paced(stopping, remove)

    async def _paced(self, stopping: asyncio.Event, work: Callable[[], Awaitable[ResultT]]) -> ResultT:
        clock = self._backend.clock
        began = clock.now()
        result = await work()
        now = clock.now()
        await clock.wait(stopping, now + (now - began) * REST)
        return result
