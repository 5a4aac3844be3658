"""A fan-out on AWS as discrete events: chunks compete for Lambda functions, their writes for the table.

What is modelled: Lambda's concurrency limit and its ramp; the rate at which a Map starts children; a chunk that Lambda
throttles comes again after the state machine's backoff with full jitter; per sub-task two writes of one unit, each
against the table's and its partition's token bucket (one second of burst), and a throttled one comes again after the
SDK's backoff; per chunk one write for its row and one for the counters on display; functions that die in the middle,
whose chunk is called again and goes on where it was, with the sub-task that ran then once more.

What is not: cold starts, network trouble, other tenants' load but for a share of Lambda's concurrency.
"""

import heapq
import random
from collections.abc import Generator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from bench.scale import quotas
from bench.scale.prices import Bill
from taskloom import policy
from taskloom.model import SHARD_SIZE

WRITE_SECONDS: Final = 0.006
"""One conditional write, as seen from a function in the same region."""
CALL_SECONDS: Final = 0.03
"""From the state machine's call to the first line of the function, and back: a warm one."""
MEMORY_GB: Final = 0.5
SDK_BACKOFF: Final = (0.025, 20.0)
"""First and longest delay before a throttled write is made again, with full jitter."""
THROTTLE_BACKOFF: Final = (1.0, 2.0, 30.0)
"""First delay, multiplier and longest delay before a throttled chunk is called again, with full jitter."""
CRASH_BACKOFF: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is simulated."""

    sub_tasks: int = 1_000_000
    at_once: int = 1_000
    """`max_concurrency` of the fan-out."""
    seconds: float = 1.0
    """How long a handler takes on average; each one between half and one and a half of it."""
    others: int = 100
    """Functions of other work that run all the time, under the same limit."""
    table_units: int = quotas.NEW_TABLE_WRITE_UNITS
    """Write units per second that the table takes when it begins."""
    crashes: float = 0.001
    """Share of the calls of a chunk in which the function dies."""
    seed: int = 1


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    seconds: float = 0
    function_seconds: float = 0
    calls: int = 0
    lambda_throttles: int = 0
    table_throttles: int = 0
    crashes: int = 0
    """Functions that died; each leaves one sub-task that runs once more."""
    done: int = 0
    most_at_once: int = 0
    bill: Bill = field(default_factory=Bill)


class _Bucket:
    """Tokens that come at a steady *rate* per second; at most *size* are kept, by default those of one second."""

    __slots__ = ("at", "rate", "size", "tokens")

    def __init__(self, rate: float, size: float | None = None) -> None:
        self.rate, self.at = rate, 0.0
        self.size = self.tokens = rate if size is None else size

    def take(self, now: float) -> bool:
        self.tokens = min(self.size, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Simulation:
    """One run of the model."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._fan_out = policy.fan_out_plan(plan.sub_tasks, max_concurrency=plan.at_once)
        self._table = _Bucket(plan.table_units)
        self._partitions: dict[int, _Bucket] = {}
        self._starts = _Bucket(quotas.START_RATE, quotas.START_BUCKET)
        self._running = 0
        self.now = 0.0
        """Seconds since the Map began."""
        self._events: list[tuple[float, int, Generator[float, None, None]]] = []
        self._count = 0
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Simulate to the end."""
        plan, outcome = self._plan, self.outcome
        chunks = policy.chunk_count(plan.sub_tasks, self._fan_out.chunk_size)
        waiting = iter(range(chunks))
        for chunk in islice(waiting, policy.chunks_at_once(self._fan_out)):
            self._go_on(self.now, self._chunk(chunk))
        while self._events:
            self.now, _, process = heapq.heappop(self._events)
            try:
                self._go_on(self.now + next(process), process)
            except StopIteration:
                for chunk in islice(waiting, 1):
                    self._go_on(self.now, self._chunk(chunk))
        outcome.seconds = self.now
        self._charge(chunks)
        return outcome

    def _go_on(self, at: float, process: Generator[float, None, None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (at, self._count, process))

    def _chunk(self, chunk: int) -> Generator[float, None, None]:
        """One child of the Map: yields how long it waits, and ends when its chunk has."""
        while not self._starts.take(self.now):
            yield 1 / quotas.START_RATE
        indexes = policy.chunk_range(chunk, self._plan.sub_tasks, self._fan_out.chunk_size)
        position, attempt = indexes.start, 0
        while True:
            if not self._admitted():
                self.outcome.lambda_throttles += 1
                first, multiplier, longest = THROTTLE_BACKOFF
                attempt += 1
                yield self._random.uniform(0, min(longest, first * multiplier ** min(attempt, 16)))
                continue
            self._running += 1
            self.outcome.calls += 1
            self.outcome.most_at_once = max(self.outcome.most_at_once, self._running)
            begin, attempt = self.now, 0
            last = range(position, indexes.stop)
            dies_at = self._random.choice(last) if self._random.random() < self._plan.crashes else -1
            yield CALL_SECONDS
            while position < indexes.stop:
                yield from self._write(position // SHARD_SIZE)  # the claim
                handler = self._plan.seconds * self._random.uniform(0.5, 1.5)
                if position == dies_at:
                    yield handler * self._random.random()
                    break
                yield handler
                yield from self._write(position // SHARD_SIZE)  # the end
                position += 1
                self.outcome.done += 1
            if position < indexes.stop:  # comes again, and goes on where it was
                self.outcome.crashes += 1
                self._end_call(begin)
                yield self._random.uniform(0, CRASH_BACKOFF)
                continue
            yield from self._write(indexes.start // SHARD_SIZE)  # the chunk's row
            yield from self._write(-1)  # the counters of the parent
            self._end_call(begin)
            return

    def _admitted(self) -> bool:
        ramp = quotas.LAMBDA_RAMP * (1 + int(self.now / quotas.LAMBDA_RAMP_SECONDS))
        return self._running < min(ramp, quotas.LAMBDA_CONCURRENCY - self._plan.others)

    def _end_call(self, begin: float) -> None:
        self._running -= 1
        self.outcome.function_seconds += self.now - begin

    def _write(self, shard: int) -> Generator[float, None, None]:
        partition = self._partitions.get(shard)
        if partition is None:
            partition = self._partitions[shard] = _Bucket(quotas.PARTITION_WRITE_UNITS)
        delay, longest = SDK_BACKOFF
        while True:
            doublings = int(self.now / quotas.GROWTH_SECONDS)
            self._table.rate = self._table.size = min(quotas.TABLE_WRITE_UNITS, self._plan.table_units * 2.0**doublings)
            if partition.take(self.now) and self._table.take(self.now):
                break
            self.outcome.table_throttles += 1
            yield self._random.uniform(0, delay)
            delay = min(longest, delay * 2)
        self.outcome.bill.write_units += 1
        yield WRITE_SECONDS

    def _charge(self, chunks: int) -> None:
        bill, outcome = self.outcome.bill, self.outcome
        bill.lambda_requests = outcome.calls
        bill.lambda_gb_seconds = outcome.function_seconds * MEMORY_GB
        # Of a child: its start, its one state, and each call that is made again; of the machine a handful.
        bill.transitions = 2 * chunks + outcome.crashes + outcome.lambda_throttles + 10
        bill.s3_gets = outcome.calls
        bill.s3_puts = 2
        bill.read_units = outcome.calls * 0.5  # each call reads its parent once
        bill.sqs_requests, bill.sns_publishes = 3, 1
