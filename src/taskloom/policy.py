"""Decisions that need no state: retries, backoff, chunks, tolerance. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from taskloom.errors import GiveUp, InvalidInput, InvalidType, RetryAfter
from taskloom.model import MAX_SUB_TASKS, FanOut, RetryNumbers

MAX_CHUNKS: Final = 10_000
"""Items of one Map run in flight that Step Functions takes; the state input holds chunk numbers only (rule 6).
Source: AWS Step Functions developer guide, "Map Run quotas" (10,000 pending child executions)."""
MAX_SECONDS: Final = 366 * 86400.0
"""The longest duration that can be given."""
MAX_DEFAULT_CHUNK: Final = 100
DEFAULT_MAX_CONCURRENCY: Final = 40
DEFAULT_MAX_ATTEMPTS: Final = 3
MAX_LOST_LEASES: Final = 3
"""Attempts of a task whose workers die, unless its retry policy says otherwise."""

_RETRY_ON: Final = (Exception,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Try a failed attempt again, after a growing, random delay.

    The delay before attempt n + 1 is drawn evenly from 0 to min(*maximum*, *initial* · *multiplier*^(n-1)) seconds
    ("full jitter"; source: AWS Architecture Blog, Marc Brooker, "Exponential Backoff And Jitter", 2015); without
    *jitter* it is that upper bound itself. Raises: InvalidInput naming the argument.
    """

    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    """Tries in all, the first included; at least 1."""
    initial: float = 1.0
    multiplier: float = 2.0
    maximum: float = 300.0
    jitter: bool = True
    retry_on: Sequence[type[BaseException]] = _RETRY_ON
    give_up_on: Sequence[type[BaseException]] = ()
    """Final although `retry_on` matches."""

    def __post_init__(self) -> None:
        whole_number(self.max_attempts, "retry.max_attempts", low=1, high=1_000_000)
        for name, low in (("initial", 0.0), ("multiplier", 1.0), ("maximum", 0.0)):
            number(getattr(self, name), f"retry.{name}", low=low, high=MAX_SECONDS)
        for name in ("retry_on", "give_up_on"):
            classes = getattr(self, name)
            if isinstance(classes, type) or not all(
                isinstance(item, type) and issubclass(item, BaseException) for item in classes
            ):
                raise InvalidType(
                    f"retry.{name}", f"{classes!r} is no list of exception classes", "give a tuple of them"
                )

    def backoff(self, attempt: int) -> timedelta:
        """The longest delay after failed attempt number *attempt* (from 1)."""
        try:
            bound = self.initial * float(self.multiplier) ** (attempt - 1)
        except OverflowError:
            bound = self.maximum if self.initial else 0.0
        return timedelta(seconds=min(self.maximum, bound))


def retry_numbers(retry: object, field: str) -> RetryNumbers:
    """What can be stored of *retry*. Raises: InvalidInput or InvalidType naming *field*."""
    if not isinstance(retry, Retry):
        raise InvalidType(field, f"{retry!r} is no Retry", "give taskloom.Retry(...) or None")
    for name, default in (("retry_on", _RETRY_ON), ("give_up_on", ())):
        if tuple(getattr(retry, name)) != default:
            raise InvalidInput(
                f"{field}.{name}", "cannot be stored with a task", "give exception classes to the task type instead"
            )
    return RetryNumbers(
        max_attempts=retry.max_attempts,
        initial=retry.initial,
        multiplier=retry.multiplier,
        maximum=retry.maximum,
        jitter=retry.jitter,
    )


def retry_of(retry: Retry | None, numbers: RetryNumbers | None) -> Retry | None:
    """The policy of a task: *retry* is its type's, *numbers* are its creator's, which count if there are any."""
    if numbers is None:
        return retry
    kept = Retry() if retry is None else retry
    return Retry(
        max_attempts=numbers.max_attempts,
        initial=numbers.initial,
        multiplier=numbers.multiplier,
        maximum=numbers.maximum,
        jitter=numbers.jitter,
        retry_on=kept.retry_on,
        give_up_on=kept.give_up_on,
    )


def next_attempt_in(retry: Retry | None, error: BaseException, attempt: int, fraction: float) -> timedelta | None:
    """How long to wait before the next attempt, None when *error* of failed attempt number *attempt* is final.

    *fraction* is the random draw, 0 ≤ fraction ≤ 1. `RetryAfter` needs no policy: without one the default limit counts.
    """
    limit = DEFAULT_MAX_ATTEMPTS if retry is None else retry.max_attempts
    if isinstance(error, GiveUp) or attempt >= limit:
        return None
    if isinstance(error, RetryAfter):
        return timedelta(seconds=error.seconds)
    if retry is None or isinstance(error, tuple(retry.give_up_on)) or not isinstance(error, tuple(retry.retry_on)):
        return None
    return retry.backoff(attempt) * (fraction if retry.jitter else 1.0)


def lost_lease_limit(retry: Retry | None) -> int:
    """After how many attempts a task whose worker died is given up."""
    return MAX_LOST_LEASES if retry is None else retry.max_attempts


def fan_out_plan(
    count: int,
    *,
    chunk_size: int | None = None,
    chunk_concurrency: int = 1,
    max_concurrency: int | None = None,
    tolerated_failure_percentage: float = 0.0,
) -> FanOut:
    """How *count* sub-tasks are cut into chunks.

    Without *chunk_size*: 1 up to 100 inputs, so that each is on its own, then ceil(count / 100), at most 100. Either
    way more where there would be over 10,000 chunks otherwise.
    """
    if chunk_size is None:
        chunk_size = 1 if count <= 100 else min(MAX_DEFAULT_CHUNK, math.ceil(count / 100))
    max_concurrency = DEFAULT_MAX_CONCURRENCY if max_concurrency is None else max_concurrency
    return FanOut(
        chunk_size=max(chunk_size, math.ceil(count / MAX_CHUNKS)),
        chunk_concurrency=min(chunk_concurrency, max_concurrency),
        max_concurrency=max_concurrency,
        tolerated_failure_percentage=tolerated_failure_percentage,
    )


def chunk_count(count: int, chunk_size: int) -> int:
    """How many chunks *count* sub-tasks make."""
    return -(-count // chunk_size)


def chunk_range(chunk: int, count: int, chunk_size: int) -> range:
    """The indexes of the sub-tasks of *chunk*."""
    return range(chunk * chunk_size, min(count, (chunk + 1) * chunk_size))


def chunks_at_once(plan: FanOut) -> int:
    """How many chunks may run at the same time, so that at most `max_concurrency` sub-tasks run."""
    return plan.max_concurrency // plan.chunk_concurrency


def is_tolerated(failed: int, count: int, percentage: float) -> bool:
    """Whether a fan-out of *count* with *failed* failures counts as COMPLETED."""
    return failed * 100 <= percentage * count


def check_fan_out_options(
    chunk_size: object, chunk_concurrency: object, max_concurrency: object, tolerated_failure_percentage: object
) -> None:
    """Raise InvalidInput or InvalidType that names the option which no fan-out can have."""
    if chunk_size is not None:
        whole_number(chunk_size, "chunk_size", low=1, high=MAX_SUB_TASKS)
    whole_number(chunk_concurrency, "chunk_concurrency", low=1, high=MAX_CHUNKS)
    if max_concurrency is not None:
        whole_number(max_concurrency, "max_concurrency", low=1, high=MAX_CHUNKS)
    number(tolerated_failure_percentage, "tolerated_failure_percentage", low=0, high=100)


def whole_number(value: object, field: str, *, low: int, high: int) -> int:
    """*value* as a whole number from *low* to *high*. Raises: InvalidInput or InvalidType naming *field*."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidType(field, f"{value!r} is no whole number", f"give one from {low} to {high}")
    if not low <= value <= high:
        raise InvalidInput(field, f"{value} is out of range", f"give a whole number from {low} to {high}")
    return value


MAX_TTL: Final = 100 * MAX_SECONDS


def retention(value: object, field: str) -> float | None:
    """*value*, for how long an ended task is kept, in seconds; None: for ever. Raises: as `number`."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    return None if value is None else number(value, field, low=1, high=MAX_TTL)


def number(value: object, field: str, *, low: float, high: float) -> float:
    """*value* as a number from *low* to *high*. Raises: InvalidInput or InvalidType naming *field*."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidType(field, f"{value!r} is no number", f"give one from {low:g} to {high:g}")
    if not low <= value <= high:
        raise InvalidInput(field, f"{value} is out of range", f"give a number from {low:g} to {high:g}")
    return float(value)
