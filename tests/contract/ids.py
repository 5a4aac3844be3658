"""The contract of `ports.Ids`."""

import math
import re
from datetime import UTC, datetime, timedelta

from taskloom.clock import from_milliseconds
from taskloom.model import TaskKey
from taskloom.ports import Backend
from tests.contract.base import HOUR, Contract, in_threads

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32 (source: the ULID specification)."""


class IdsContract(Contract):
    """Every sentence of `ports.Ids`, for the ids of a backend, which go on from far in the future afterwards."""

    def test_a_code_is_a_ulid_of_its_instant(self, backend: Backend) -> None:
        """To the millisecond, as long as the instants go on."""
        last = datetime(9999, 12, 31, 23, 59, 59, 999000, UTC)
        for now in (backend.clock.now() + HOUR, backend.clock.now() + 2 * HOUR, last):
            code = backend.ids.code(now)
            assert re.fullmatch(f"[0-7][{ALPHABET}]{{25}}", code)
            assert _instant(code) == now
            assert TaskKey.parse(TaskKey.single("t", "cat", code).id).parts.code == code

    def test_a_code_is_greater_than_every_one_before(self, backend: Backend) -> None:
        """Within a millisecond, and when the clock steps back."""
        now = backend.clock.now()
        instants = [now] * 500 + [now - HOUR] * 500 + [now + timedelta(milliseconds=n) for n in range(500)] + [now]
        codes = [backend.ids.code(instant) for instant in instants]
        assert codes == sorted(set(codes))

    def test_codes_differ_over_threads(self, backend: Backend) -> None:
        """And each thread sees its own ones grow."""
        now = backend.clock.now()

        async def draw(_: int) -> list[str]:
            return [backend.ids.code(now) for _ in range(1000)]

        drawn = in_threads(4, draw)
        assert len({code for codes in drawn for code in codes}) == 4000
        assert all(codes == sorted(codes) for codes in drawn)

    def test_a_token_is_short_and_plain(self, backend: Backend) -> None:
        for _ in range(200):
            assert re.fullmatch("[A-Za-z0-9]{1,64}", backend.ids.token())

    def test_a_token_is_random(self, backend: Backend) -> None:
        """At least 80 bits: so many characters, each from so large an alphabet, and every one of them changes."""
        tokens = [backend.ids.token() for _ in range(2000)]
        assert len(set(tokens)) == 2000
        columns = list(zip(*tokens, strict=True))
        assert sum(math.log2(len(set(column))) for column in columns) >= 80


def _instant(code: str) -> datetime:
    milliseconds = 0
    for letter in code[:10]:
        milliseconds = milliseconds * 32 + ALPHABET.index(letter)
    return from_milliseconds(milliseconds)
