"""What is left of the log lines of attempts that have ended."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from taskloom.errors import StoreError
from taskloom.events import log_lines
from taskloom.execution.writes import patiently
from taskloom.ports import Backend, LogBatch

ResultT = TypeVar("ResultT")

MAX_WAITING: Final = 16 * 1024 * 1024
"""Bytes of lines that wait for a slow storage at most."""

log = logging.getLogger(__name__)


class LogWriter:
    """Writes log lines beside the ends of their attempts; whatever becomes of them, the ends neither wait nor fail."""

    def __init__(self, backend: Backend, spawn: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self._backend = backend
        self._spawn = spawn
        self._batches: list[LogBatch] = []
        self._waiting = 0

    def add(self, batch: LogBatch) -> None:
        """Have *batch* written with the next write that is `beside`, or by `write`."""
        size = log_lines.size(batch.lines)
        if self._waiting + size > MAX_WAITING:
            _lost([batch], "the storage is too slow")
            return
        self._waiting += size
        self._batches.append(batch)

    async def beside(self, write: Coroutine[Any, Any, ResultT]) -> ResultT:
        """What *write* comes to; the lines that wait are given to the storage right before it, to share its commit."""
        if not self._batches:
            return await write
        self.write()
        # Both begin in the next round of the loop, one right behind the other.
        return await asyncio.create_task(write)

    def write(self) -> None:
        """Begin to write the lines that wait."""
        if self._batches:
            batches, self._batches = self._batches, []
            self._spawn(self._write(batches))

    async def _write(self, batches: list[LogBatch]) -> None:
        try:
            await patiently(self._backend.clock, lambda: self._backend.logs.append(batches))
        except StoreError as error:
            _lost(batches, str(error))
        finally:
            self._waiting -= sum(log_lines.size(batch.lines) for batch in batches)


def _lost(batches: list[LogBatch], why: str) -> None:
    lines = sum(len(batch.lines) for batch in batches)
    log.warning("log lines of tasks are lost", extra={"tasks": len(batches), "lines": lines, "error": why})
