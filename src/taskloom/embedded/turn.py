"""Whose turn it is to write, among the processes that share a file."""

import os
from pathlib import Path
from types import TracebackType
from typing import Final

try:
    import fcntl
except ImportError:  # no such locks on this system: SQLite's own waiting has to do
    fcntl = None  # type: ignore[assignment]

NAME: Final = "turn"


class Turn:
    """A lock that wakes the next process as soon as it is free.

    SQLite waits for its write lock by sleeping and looking again, up to 100 ms at a time (source: SQLite source,
    sqliteDefaultBusyCallback), which starves one of two busy processes. The lock here only brings order: what it must
    keep apart SQLite keeps apart.
    """

    def __init__(self, folder: Path) -> None:
        self._file: int | None = None
        if fcntl is not None:
            folder.mkdir(exist_ok=True)
            self._file = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def __enter__(self) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
