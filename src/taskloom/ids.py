"""Identifiers: ULIDs for tasks, random tokens for claims."""

import os
import threading
from datetime import datetime
from typing import Final

from taskloom import forks
from taskloom.clock import to_milliseconds

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = [a + b for a in _ALPHABET for b in _ALPHABET]
CODE_LENGTH: Final = 26


class RandomIds:
    """`ports.Ids` from the system's random source.

    Codes are ULIDs (48 bits of milliseconds, 80 random bits, Crockford's base 32; source: the ULID specification), and
    each code of one object is greater than the one before it, also within a millisecond and when the clock steps back,
    so that codes sort in the order of creation.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        self._forks = forks.count()
        self._bytes = b""

    def code(self, now: datetime) -> str:
        """A new ULID."""
        self._check_process()
        with self._lock:
            fresh = int.from_bytes(self._random(10), "big")
            value = (to_milliseconds(now) << 80) | fresh
            if value >> 80 <= self._last >> 80:
                # The step is random, so that a forked process, which goes on from the same value, meets nobody.
                value = self._last + 1 + (fresh & 0xFFFF_FFFF_FFFF_FFFF)
            self._last = value
        return encode_ulid(value)

    def token(self) -> str:
        """20 hexadecimal digits that nobody else writes (80 random bits)."""
        self._check_process()
        with self._lock:
            return self._random(10).hex()

    def _check_process(self) -> None:
        if self._forks != forks.count():
            # After a fork: another thread of the parent may have held the lock, and the random bytes are the parent's.
            self._lock, self._bytes, self._forks = threading.Lock(), b"", forks.count()

    def _random(self, count: int) -> bytes:
        # Asked for in large portions: the system's source gives up the interpreter's lock at each call.
        if len(self._bytes) < count:
            self._bytes = os.urandom(4096)
        taken, self._bytes = self._bytes[:count], self._bytes[count:]
        return taken


def encode_ulid(value: int) -> str:
    """The 26 characters of a 128-bit *value* in Crockford's base 32."""
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10)])
