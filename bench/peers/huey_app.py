"""The Huey application, for the measuring process and for its consumer: `fsync=True`, four worker threads."""

import importlib
import time
from typing import Any, Final

THREADS: Final = 4
BUSY_SECONDS: Final = 60
"""Both processes write to one file; Huey's own 5 seconds would do, but an error would end the measurement."""


class HueyApp:
    """Huey over the file *path*."""

    def __init__(self, path: str) -> None:
        # By name: the extra `bench` is not installed for development, and types must not depend on it.
        library: Any = importlib.import_module("huey")
        self.huey: Any = library.SqliteHuey(filename=path, fsync=True, timeout=BUSY_SECONDS)
        self.runs: list[int] = []
        self.noop: Any = self.huey.task(name="noop")(self._noop)
        self.stamp: Any = self.huey.task(name="stamp")(time.monotonic_ns)

    def _noop(self, number: int) -> int:
        self.runs.append(number)
        return number

    def consumer(self) -> Any:
        """Its own consumer, as its command makes it, not started."""
        return self.huey.create_consumer(workers=THREADS, periodic=False)
