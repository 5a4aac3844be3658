"""ULIDs sort in the order of creation whatever the clock does, and no two are equal."""

import threading
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from taskloom.clock import from_milliseconds, to_milliseconds
from taskloom.ids import CODE_LENGTH, RandomIds, encode_ulid
from taskloom.model import TaskKey
from tests.core.strategies import instants

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def decode_ulid(code: str) -> int:
    """The 128-bit value of a code, read as the ULID specification says."""
    value = 0
    for letter in code:
        value = value * 32 + ALPHABET.index(letter)
    return value


@given(st.integers(0, 2**128 - 1))
def test_the_encoding(value: int) -> None:
    code = encode_ulid(value)
    assert len(code) == CODE_LENGTH
    assert decode_ulid(code) == value


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1))
def test_codes_sort_as_their_values(one: int, other: int) -> None:
    assert (encode_ulid(one) < encode_ulid(other)) == (one < other)


def test_an_example_of_the_specification() -> None:
    """Source: the ULID specification, "Encoding" (time 1469918176385)."""
    assert encode_ulid(1469918176385 << 80)[:10] == "01ARYZ6S41"


@given(instants)
def test_a_code_begins_with_its_instant(now: datetime) -> None:
    code = RandomIds().code(now)
    assert decode_ulid(code) >> 80 == to_milliseconds(now)
    assert TaskKey.single("acme", "cat", code).parts == TaskKey.parse(f"TASK#acme#cat#{code}").parts


@given(st.lists(st.integers(-5000, 5000), min_size=2, max_size=50))
def test_codes_grow_also_when_the_clock_steps_back(steps: list[int]) -> None:
    ids, now = RandomIds(), NOON
    codes = []
    for step in steps:
        now += timedelta(milliseconds=step)
        codes.append(ids.code(now))
    assert codes == sorted(codes)
    assert len(set(codes)) == len(codes)


def test_codes_grow_within_a_millisecond() -> None:
    ids = RandomIds()
    codes = [ids.code(NOON) for _ in range(1000)]
    assert codes == sorted(codes)
    assert len(set(codes)) == 1000
    assert all(decode_ulid(code) >> 80 == to_milliseconds(NOON) for code in codes), "not driven into the future"


def test_a_clock_that_is_set_right_is_believed_again() -> None:
    """After a step back, codes follow the clock again as soon as it has passed the time before."""
    ids = RandomIds()
    ids.code(NOON)
    ids.code(NOON - timedelta(hours=1))
    later = NOON + timedelta(milliseconds=1)
    assert decode_ulid(ids.code(later)) >> 80 == to_milliseconds(later)


def test_codes_of_many_threads() -> None:
    """Each thread sees its own codes grow, and no two threads get the same."""
    ids = RandomIds()
    codes: list[list[str]] = [[] for _ in range(4)]

    def take(own: list[str]) -> None:
        own += (ids.code(NOON) for _ in range(500))

    threads = [threading.Thread(target=take, args=(own,)) for own in codes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(own == sorted(own) for own in codes)
    assert len({code for own in codes for code in own}) == 2000


def test_two_objects_share_nothing() -> None:
    """As two processes do: at the same instant they must not give the same code."""
    codes = {RandomIds().code(NOON) for _ in range(500)}
    assert len(codes) == 500


def test_tokens() -> None:
    """As `ports.Ids` asks for: 1 to 64 letters and digits, at least 80 bits."""
    ids = RandomIds()
    tokens = {ids.token() for _ in range(2000)}
    assert len(tokens) == 2000
    assert all(token.isalnum() and token.isascii() and 16 <= len(token) <= 64 for token in tokens)


@given(instants)
def test_milliseconds(instant: datetime) -> None:
    assert from_milliseconds(to_milliseconds(instant)) == instant
    assert from_milliseconds(to_milliseconds(instant)).tzinfo is UTC
