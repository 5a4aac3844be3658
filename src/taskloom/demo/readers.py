"""Processes that fingerprint files: parsing keeps a whole core busy, and a strange file may crash the parser."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

from taskloom.demo import fingerprint
from taskloom.demo.fingerprint import Fingerprint

COMMAND: Final = (sys.executable, "-I", "-S", fingerprint.__file__)
GONE_WITHIN: Final = 5.0
"""Seconds that a process has to be gone; one that hangs in the file system is not waited for."""


class Readers:
    """At most *count* processes, started when they are needed and ended with the `async with` block.

    Every call of `fingerprint` has returned, or was cancelled, when the block ends.
    """

    def __init__(self, count: int, command: Sequence[str] = COMMAND) -> None:
        self._room = asyncio.Semaphore(count)
        self._command = command
        self._idle: list[Process] = []
        self._all: set[Process] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._idle.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(GONE_WITHIN):
                # Closes their input, which ends them.
                await asyncio.gather(*(process.communicate(b"") for process in self._all))

    async def fingerprint(self, path: str) -> Fingerprint:
        """The fingerprint of the file *path*; whatever happens to the process that takes it becomes its `error`.

        When the caller is cancelled, the process is killed: it may hang in the file system.
        """
        async with self._room:
            found = await self._ask(path, parse=True)
            if isinstance(found, int):
                reason = f"ReaderCrashed: {_ended(found)} while it looked at the file"
                found = await self._ask(path, parse=False)
                found = Fingerprint(error=reason) if isinstance(found, int) else replace(found, error=reason)
            return found

    async def _ask(self, path: str, *, parse: bool) -> Fingerprint | int:
        """The answer of a process, or the return code with which it ended instead."""
        process = self._idle.pop() if self._idle else await self._start()
        assert process.stdin is not None  # noqa: S101 - asked for in _start
        assert process.stdout is not None  # noqa: S101
        answer = b""
        try:
            process.stdin.write(json.dumps([path, parse]).encode() + b"\n")
            with suppress(ConnectionError):
                answer = await process.stdout.readline()
        except BaseException:
            with suppress(ProcessLookupError):
                process.kill()
            raise
        if answer.endswith(b"\n"):
            self._idle.append(process)
            return Fingerprint(**json.loads(answer))
        self._all.discard(process)
        await process.communicate(b"")
        return process.returncode or 0

    async def _start(self) -> Process:
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._all.add(process)
        return process


def cores() -> int:
    """How many processes can work at the same time here."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _ended(code: int) -> str:
    if code >= 0:
        return f"the reading process ended with code {code}"
    with suppress(ValueError):
        return f"the reading process was ended by {signal.Signals(-code).name}"
    return f"the reading process was ended by signal {-code}"
