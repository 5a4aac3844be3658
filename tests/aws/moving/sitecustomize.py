"""Moves the emulator's clock: Python imports this by its name when it starts, if it is on the path.

Its time is the machine's, and the number of seconds that the tests keep in a file.
"""

import datetime
import mmap
import os
import struct
import time
from pathlib import Path

_real_time = time.time  # noqa: TID251 - it is the machine's clock that is moved

with Path(os.environ["MOVED_CLOCK"]).open("r+b") as _file:
    _shared = mmap.mmap(_file.fileno(), 8)


def _moved_time() -> float:
    (seconds,) = struct.unpack("d", _shared[:8])
    return _real_time() + float(seconds)


class _Moved(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> "_Moved":
        return cls.fromtimestamp(_moved_time(), tz)

    @classmethod
    def utcnow(cls) -> "_Moved":
        return cls.fromtimestamp(_moved_time(), datetime.UTC).replace(tzinfo=None)


time.time = _moved_time  # noqa: TID251
datetime.datetime = _Moved  # type: ignore[misc]
