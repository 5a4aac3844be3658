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
PORTION: Final = 256
"""Random values that are asked for at once."""


class RandomIds:
    """`ports.Ids` from the system's random source.

    Codes are ULIDs (48 bits of milliseconds, 80 more of which 79 are random, Crockford's base 32; source: the ULID
    specification), and each code of one object is greater than the one before it, also within a millisecond and when
    the clock steps back, so that codes sort in the order of creation.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        self._forks = forks.count()
        self._tokens: list[str] = []

    def code(self, now: datetime) -> str:
        """A new ULID."""
        self._check_process()
        with self._lock:
            fresh = int(self._random(), 16)
            # The highest random bit is left free for the steps of those that follow within the millisecond.
            value = (to_milliseconds(now) << 80) | (fresh >> 1)
            if value >> 80 <= self._last >> 80:
                # The step is random, so that a forked process, which goes on from the same value, meets nobody.
                value = self._last + 1 + (fresh & 0xFFFF_FFFF_FFFF_FFFF)
            self._last = value
        return encode_ulid(value)

    def token(self) -> str:
        """20 hexadecimal digits that nobody else writes (80 random bits)."""
        self._check_process()
        return self._random()

    def _check_process(self) -> None:
        if self._forks != forks.count():
            # After a fork: another thread of the parent may have held the lock, and the random bytes are the parent's.
            self._lock, self._tokens, self._forks = threading.Lock(), [], forks.count()

    def _random(self) -> str:
        """80 random bits in hexadecimal."""
        try:
            return self._tokens.pop()  # one step, which no other thread can be amid
        except IndexError:
            # Asked for in large portions: the system's source gives up the interpreter's lock at each call.
            digits = os.urandom(10 * PORTION).hex()
            fresh = [digits[at : at + 20] for at in range(0, len(digits), 20)]
            taken = fresh.pop()
            self._tokens += fresh
            return taken


def encode_ulid(value: int) -> str:
    """The 26 characters of a 128-bit *value* in Crockford's base 32."""
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10)])
