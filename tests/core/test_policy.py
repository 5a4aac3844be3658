"""Retries, backoff, chunks and tolerance: decisions that need no state."""

import math
from dataclasses import FrozenInstanceError, asdict, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.errors import GiveUp, InvalidInput, InvalidType, RetryAfter
from taskloom.model import MAX_SUB_TASKS, FanOut, RetryNumbers
from taskloom.policy import (
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_MAX_CONCURRENCY,
    MAX_CHUNKS,
    Retry,
    check_fan_out_options,
    chunk_count,
    chunk_range,
    chunks_at_once,
    fan_out_plan,
    is_tolerated,
    lost_lease_limit,
    next_attempt_in,
    number,
    retry_numbers,
    retry_of,
    whole_number,
)

YEAR = 366 * 86400.0
delays = st.floats(0, YEAR) | st.integers(0, int(YEAR))
retries = st.builds(
    Retry,
    max_attempts=st.integers(1, 1_000_000),
    initial=delays,
    multiplier=st.floats(1, YEAR) | st.integers(1, 10),
    maximum=delays,
    jitter=st.booleans(),
)
attempts = st.integers(1, 1_000_000)


@given(retries, attempts)
def test_backoff_is_bounded_and_grows(retry: Retry, attempt: int) -> None:
    """For any attempt that a policy can come to, however large its power would be."""
    now, later = retry.backoff(attempt), retry.backoff(attempt + 1)
    assert timedelta() <= now <= later <= timedelta(seconds=retry.maximum)


@given(retries, attempts, st.floats(0, 1))
def test_a_delay_is_between_nothing_and_the_backoff(retry: Retry, attempt: int, fraction: float) -> None:
    delay = next_attempt_in(retry, ValueError(), attempt, fraction)
    if attempt >= retry.max_attempts:
        assert delay is None
    else:
        assert delay is not None
        assert timedelta() <= delay <= retry.backoff(attempt)
        if not retry.jitter:
            assert delay == retry.backoff(attempt)


def test_backoff_doubles_up_to_its_maximum() -> None:
    retry = Retry(initial=1, multiplier=2, maximum=10)
    assert [retry.backoff(attempt).total_seconds() for attempt in range(1, 7)] == [1, 2, 4, 8, 10, 10]


def test_a_power_beyond_all_numbers_is_the_maximum() -> None:
    """Of nothing it stays nothing."""
    assert Retry(initial=1, multiplier=10, maximum=7).backoff(1_000_000) == timedelta(seconds=7)
    assert Retry(initial=0, multiplier=10, maximum=7).backoff(1_000_000) == timedelta()


def test_the_policy_without_arguments() -> None:
    """As the reference has it."""
    retry = Retry()
    assert (retry.max_attempts, retry.initial, retry.multiplier, retry.maximum) == (3, 1.0, 2.0, 300.0)
    assert retry.jitter
    assert (tuple(retry.retry_on), tuple(retry.give_up_on)) == ((Exception,), ())
    assert DEFAULT_MAX_ATTEMPTS == 3


def test_a_policy_is_a_value_with_named_fields() -> None:
    with pytest.raises(TypeError):
        Retry(3)  # type: ignore[call-arg]
    with pytest.raises(FrozenInstanceError):
        Retry().max_attempts = 4  # type: ignore[misc]


stored = st.builds(
    RetryNumbers,
    max_attempts=st.integers(4, 9),
    initial=st.floats(2, 9),
    multiplier=st.floats(3, 9),
    maximum=st.floats(400, 900),
    jitter=st.booleans(),
)


@given(stored)
def test_a_policy_with_a_task_comes_back_as_it_was(numbers: RetryNumbers) -> None:
    retry = retry_of(None, numbers)
    assert retry is not None
    assert retry_numbers(retry, "retry") == numbers
    assert (tuple(retry.retry_on), tuple(retry.give_up_on)) == ((Exception,), ())


@given(stored)
def test_the_creator_of_a_task_counts_before_its_type(numbers: RetryNumbers) -> None:
    """In all numbers, but the classes are those of the type: they cannot be stored."""
    of_type = Retry(max_attempts=20, retry_on=(OSError,), give_up_on=(FileNotFoundError,))
    found = retry_of(of_type, numbers)
    assert found == replace(Retry(**asdict(numbers)), retry_on=(OSError,), give_up_on=(FileNotFoundError,))
    assert retry_of(of_type, None) is of_type
    assert retry_of(None, None) is None


@pytest.mark.parametrize(
    ("retry", "error", "field"),
    [
        (3, InvalidType, "retry"),
        (Retry, InvalidType, "retry"),
        (Retry(retry_on=(OSError,)), InvalidInput, "retry.retry_on"),
        (Retry(give_up_on=(OSError,)), InvalidInput, "retry.give_up_on"),
    ],
    ids=str,
)
def test_policies_that_cannot_be_stored(retry: object, error: type[InvalidInput], field: str) -> None:
    with pytest.raises(error) as caught:
        retry_numbers(retry, "retry")
    assert type(caught.value) is error
    assert caught.value.field == field


def test_full_jitter_is_even() -> None:
    """Half the draw is half the delay."""
    retry = Retry(max_attempts=5, initial=8)
    assert next_attempt_in(retry, ValueError(), 1, 0.5) == timedelta(seconds=4)
    assert next_attempt_in(retry, ValueError(), 1, 0.0) == timedelta(0)


@given(attempts)
def test_without_a_policy_an_exception_is_final(attempt: int) -> None:
    assert next_attempt_in(None, ValueError(), attempt, 0.5) is None


@given(retries | st.none(), attempts, st.floats(0, YEAR))
def test_retry_after_says_when_within_the_limit_of_attempts(retry: Retry | None, attempt: int, seconds: float) -> None:
    limit = DEFAULT_MAX_ATTEMPTS if retry is None else retry.max_attempts
    delay = next_attempt_in(retry, RetryAfter(seconds), attempt, 0.0)
    assert delay == (timedelta(seconds=seconds) if attempt < limit else None)


@given(retries | st.none(), attempts)
def test_give_up_is_final(retry: Retry | None, attempt: int) -> None:
    assert next_attempt_in(retry, GiveUp("never"), attempt, 0.5) is None


def test_which_errors_are_tried_again() -> None:
    retry = Retry(retry_on=(LookupError, OSError), give_up_on=(KeyError,))
    assert next_attempt_in(retry, IndexError(), 1, 1) is not None
    assert next_attempt_in(retry, ConnectionError(), 1, 1) is not None
    assert next_attempt_in(retry, KeyError(), 1, 1) is None
    assert next_attempt_in(retry, ValueError(), 1, 1) is None


def test_lost_leases() -> None:
    assert lost_lease_limit(None) == 3
    assert lost_lease_limit(Retry(max_attempts=7)) == 7


@pytest.mark.parametrize(
    ("options", "error", "field"),
    [
        ({"max_attempts": 0}, InvalidInput, "retry.max_attempts"),
        ({"max_attempts": 1.5}, InvalidType, "retry.max_attempts"),
        ({"max_attempts": True}, InvalidType, "retry.max_attempts"),
        ({"max_attempts": 1_000_001}, InvalidInput, "retry.max_attempts"),
        ({"initial": -1}, InvalidInput, "retry.initial"),
        ({"initial": math.nan}, InvalidInput, "retry.initial"),
        ({"initial": "1"}, InvalidType, "retry.initial"),
        ({"multiplier": 0.5}, InvalidInput, "retry.multiplier"),
        ({"multiplier": math.inf}, InvalidInput, "retry.multiplier"),
        ({"maximum": YEAR + 1}, InvalidInput, "retry.maximum"),
        ({"maximum": -0.5}, InvalidInput, "retry.maximum"),
        ({"retry_on": ValueError}, InvalidType, "retry.retry_on"),
        ({"retry_on": ["ValueError"]}, InvalidType, "retry.retry_on"),
        ({"give_up_on": [int]}, InvalidType, "retry.give_up_on"),
    ],
    ids=str,
)
def test_policies_that_make_no_sense(options: dict[str, Any], error: type[InvalidInput], field: str) -> None:
    with pytest.raises(error) as caught:
        Retry(**options)
    assert type(caught.value) is error
    assert caught.value.field == field


@pytest.mark.parametrize("seconds", [-1, YEAR + 1, math.nan, math.inf])
def test_delays_that_make_no_sense(seconds: float) -> None:
    with pytest.raises(InvalidInput):
        RetryAfter(seconds)


counts = st.integers(0, 2000) | st.integers(0, MAX_SUB_TASKS)
sizes = st.none() | st.integers(1, 200) | st.integers(1, MAX_SUB_TASKS)
concurrencies = st.integers(1, 50) | st.integers(1, MAX_CHUNKS)


@given(counts, sizes)
def test_a_fan_out_never_has_more_chunks_than_a_map_takes(count: int, size: int | None) -> None:
    plan = fan_out_plan(count, chunk_size=size)
    assert chunk_count(count, plan.chunk_size) <= MAX_CHUNKS == 10_000
    if size is not None:
        assert plan.chunk_size >= size


@given(st.integers(0, 3000), st.none() | st.integers(1, 3500))
def test_each_input_is_in_exactly_one_chunk(count: int, size: int | None) -> None:
    plan = fan_out_plan(count, chunk_size=size)
    chunks = [chunk_range(chunk, count, plan.chunk_size) for chunk in range(chunk_count(count, plan.chunk_size))]
    assert [index for chunk in chunks for index in chunk] == list(range(count))
    assert all(0 < len(chunk) <= plan.chunk_size for chunk in chunks)


@given(st.integers(1, MAX_SUB_TASKS), sizes)
def test_chunks_of_a_large_fan_out_meet(count: int, size: int | None) -> None:
    """As above, without going through ten million numbers: neighbours meet, and the ends are the ends."""
    plan = fan_out_plan(count, chunk_size=size)
    last = chunk_count(count, plan.chunk_size) - 1
    assert chunk_range(0, count, plan.chunk_size).start == 0
    assert chunk_range(last, count, plan.chunk_size).stop == count
    for chunk in {0, last // 2, max(0, last - 1)}:
        if chunk < last:
            following = chunk_range(chunk + 1, count, plan.chunk_size)
            assert chunk_range(chunk, count, plan.chunk_size).stop == following.start
            assert len(following) > 0


@pytest.mark.parametrize(
    ("count", "size"),
    [
        *((0, 1), (1, 1), (99, 1), (100, 1)),
        *((101, 2), (200, 2), (201, 3), (1_000, 10), (9_900, 99), (9_901, 100), (10_000, 100)),
        *((10_001, 100), (100_000, 100), (1_000_000, 100)),
        *((1_000_001, 101), (1_010_001, 102), (MAX_SUB_TASKS, 1000)),
    ],
)
def test_default_sizes(count: int, size: int) -> None:
    """As documented: 1 up to 100 inputs, then ceil(n / 100), at most 100, more only to keep to 10,000 chunks."""
    assert fan_out_plan(count).chunk_size == size


@pytest.mark.parametrize(("count", "given_", "size"), [(6, 2, 2), (10_001, 1, 2), (10_000, 1, 1), (50, 80, 80)])
def test_given_sizes(count: int, given_: int, size: int) -> None:
    assert fan_out_plan(count, chunk_size=given_).chunk_size == size


@given(counts, sizes, concurrencies, st.none() | concurrencies)
def test_never_more_sub_tasks_at_once_than_allowed(
    count: int, size: int | None, chunk_concurrency: int, max_concurrency: int | None
) -> None:
    """Chunks at once times sub-tasks at once in each; and never none, or nothing would ever run."""
    plan = fan_out_plan(count, chunk_size=size, chunk_concurrency=chunk_concurrency, max_concurrency=max_concurrency)
    assert chunks_at_once(plan) >= 1
    assert plan.chunk_concurrency >= 1
    assert chunks_at_once(plan) * plan.chunk_concurrency <= plan.max_concurrency
    assert plan.max_concurrency == (DEFAULT_MAX_CONCURRENCY if max_concurrency is None else max_concurrency)


def test_the_plan_without_options() -> None:
    """One failure is one too many; one sub-task of a chunk at a time."""
    assert fan_out_plan(10) == FanOut(chunk_size=1, chunk_concurrency=1, max_concurrency=40)
    assert fan_out_plan(10).tolerated_failure_percentage == 0
    assert fan_out_plan(10, tolerated_failure_percentage=12.5).tolerated_failure_percentage == 12.5
    assert fan_out_plan(10, chunk_concurrency=8, max_concurrency=5).chunk_concurrency == 5
    assert fan_out_plan(10, chunk_concurrency=4, max_concurrency=5).chunk_concurrency == 4


def test_default_concurrency() -> None:
    assert chunks_at_once(fan_out_plan(1000)) == DEFAULT_MAX_CONCURRENCY == 40
    assert chunks_at_once(FanOut(chunk_size=1, chunk_concurrency=8, max_concurrency=40)) == 5
    assert chunks_at_once(FanOut(chunk_size=1, chunk_concurrency=9, max_concurrency=40)) == 4


@given(st.integers(0, MAX_SUB_TASKS), st.data(), st.floats(0, 100))
def test_tolerance_is_a_limit_of_the_share(count: int, data: st.DataObject, percentage: float) -> None:
    """One failure less never makes it worse, a higher tolerance neither; 100 % takes everything."""
    failed = data.draw(st.integers(0, count))
    tolerated = is_tolerated(failed, count, percentage)
    assert is_tolerated(0, count, percentage)
    assert is_tolerated(failed, count, 100)
    assert is_tolerated(failed, count, 0) == (failed == 0)
    if tolerated and failed:
        assert is_tolerated(failed - 1, count, percentage)
    if tolerated:
        assert is_tolerated(failed, count, min(100.0, percentage * 1.5 + 0.1))


@pytest.mark.parametrize(
    ("failed", "count", "percentage", "tolerated"),
    [
        (1, 10, 10, True),
        (2, 10, 10, False),
        (1, 3, 33.3, False),
        (1, 3, 33.34, True),
        (0, 0, 0, True),
        (3, 3, 99.9, False),
    ],
)
def test_tolerance_at_its_limit(failed: int, count: int, percentage: float, tolerated: bool) -> None:
    assert is_tolerated(failed, count, percentage) is tolerated


@pytest.mark.parametrize(
    ("options", "error", "field"),
    [
        ((0, 1, 40, 0), InvalidInput, "chunk_size"),
        (("10", 1, 40, 0), InvalidType, "chunk_size"),
        ((None, 0, 40, 0), InvalidInput, "chunk_concurrency"),
        ((None, None, 40, 0), InvalidType, "chunk_concurrency"),
        ((None, 1, 0, 0), InvalidInput, "max_concurrency"),
        ((None, 1, 10_001, 0), InvalidInput, "max_concurrency"),
        ((None, 1, 40, -0.1), InvalidInput, "tolerated_failure_percentage"),
        ((None, 1, 40, 100.1), InvalidInput, "tolerated_failure_percentage"),
        ((None, 1, 40, math.nan), InvalidInput, "tolerated_failure_percentage"),
        ((None, 1, 40, "5"), InvalidType, "tolerated_failure_percentage"),
    ],
    ids=str,
)
def test_fan_outs_that_make_no_sense(options: tuple[Any, ...], error: type[InvalidInput], field: str) -> None:
    with pytest.raises(error) as caught:
        check_fan_out_options(*options)
    assert type(caught.value) is error
    assert caught.value.field == field


def test_fan_outs_that_make_sense() -> None:
    check_fan_out_options(None, 1, None, 0)
    check_fan_out_options(1, 1, 1, 100)
    check_fan_out_options(MAX_SUB_TASKS, MAX_CHUNKS, MAX_CHUNKS, 0.5)


@given(st.integers(-5, 15))
def test_whole_numbers(value: int) -> None:
    if 0 <= value <= 10:
        assert whole_number(value, "field", low=0, high=10) == value
    else:
        with pytest.raises(InvalidInput, match=f"^field: {value} is out of range"):
            whole_number(value, "field", low=0, high=10)


@pytest.mark.parametrize("value", [0, 10, 2.5, 10.0])
def test_numbers(value: float) -> None:
    """Whatever is stored of them is a float."""
    found = number(value, "field", low=0, high=10)
    assert found == value
    assert type(found) is float


@pytest.mark.parametrize("value", [None, "1", True, 1j, [1]])
def test_what_is_no_number(value: object) -> None:
    with pytest.raises(InvalidType):
        number(value, "field", low=0, high=10)
    with pytest.raises(InvalidType):
        whole_number(value, "field", low=0, high=10)
