"""Calls that were carried out although nobody heard of it, and calls that never arrived (rules 1, 2 and 4)."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from taskloom.aws.admin import DynamoQueueAdmin
from taskloom.aws.clients import Clients
from taskloom.aws.dynamo import Dynamo
from taskloom.aws.ends import Ends
from taskloom.aws.store import DynamoTaskStore
from taskloom.aws.task_logs import DynamoTaskLogs
from taskloom.errors import StoreBusy
from taskloom.execution.writes import patiently, write
from taskloom.lifecycle import Written
from taskloom.model import LogLine, TaskStatus, TenantCode
from taskloom.ports import Backend, ChunkRow, Idempotency, Known, LogBatch
from tests.support.clock import FakeClock
from tests.support.rows import Rows


class Unreliable(Clients):
    """Clients that fail or repeat the calls that the test names by their number."""

    def __init__(self, real: Clients) -> None:
        super().__init__()
        self._real = real
        self._calls = itertools.count(1)
        self.made = 0
        self.fail_at: int | None = None
        self.effect_first = True

    async def run(self, work: Callable[[], Any]) -> Any:
        return await self._real.run(work)

    def send(self, service: str, operation: str, **parameters: Any) -> Any:
        self.made = number = next(self._calls)
        if number != self.fail_at:
            return self._real.send(service, operation, **parameters)
        if self.effect_first:
            self._real.send(service, operation, **parameters)
        raise StoreBusy("AWS did not answer")


class Bed:
    """The table, seen through unreliable clients."""

    def __init__(self, backend: Backend, dynamo: Dynamo, clock: FakeClock) -> None:
        self.clients = Unreliable(dynamo.clients)
        own = Dynamo(self.clients, dynamo.table_name, clock)
        self.backend = replace(
            backend,
            store=DynamoTaskStore(own, Ends(own)),
            logs=DynamoTaskLogs(own),
            admin=DynamoQueueAdmin(own, Ends(own)),
        )
        self.rows = Rows(self.backend)
        self.real = Rows(backend)
        self.real.tenant, self.real.task_type = self.rows.tenant, self.rows.task_type


@pytest.fixture
def bed(backend: Backend, dynamo: Dynamo, clock: FakeClock) -> Bed:
    return Bed(backend, dynamo, clock)


Story = Callable[[Bed], Awaitable[None]]


async def create(bed: Bed) -> None:
    """Creations: single, many, under idempotency keys."""
    rows, store, clock = bed.rows, bed.backend.store, bed.backend.clock
    expires_at = rows.now + timedelta(hours=1)
    keyed = [
        replace(row, idempotency=Idempotency(key=f"key {n}", fingerprint="print", expires_at=expires_at))
        for n, row in enumerate((rows.single(1), rows.fan_out(2)))
    ]
    new = [rows.single(), *keyed, rows.fan_out(1)]
    assert list(await patiently(clock, lambda: store.create(new))) == [None] * 4
    for row in new:
        assert await bed.real.stored(row.entity.key) == row.entity
    for n, row in enumerate(keyed):
        known = Known(task=row.entity.key, fingerprint="print")
        assert await patiently(clock, lambda n=n: store.known(TenantCode(rows.tenant), f"key {n}")) == known  # type: ignore[misc]


async def run_one(bed: Bed) -> None:
    """A task from its creation to its end, as a worker does it."""
    (task,) = await bed.real.create(bed.real.single(deadline_at=bed.rows.now + timedelta(hours=1)))
    for step in (bed.rows.claim, bed.rows.waits_for_retry):
        outcome = await write(bed.backend, step(task))
        assert isinstance(outcome, Written)
        task = await bed.real.stored(task.key)
    bed.backend.clock.advance(61)  # type: ignore[attr-defined]
    for step in (bed.rows.claim, bed.rows.completed):
        assert isinstance(await write(bed.backend, step(task)), Written)
        task = await bed.real.stored(task.key)
    assert (task.status, task.attempt, task.fence) == (TaskStatus.COMPLETED, 2, 2)
    assert [entry.status for entry in task.history] == [
        *(TaskStatus.PENDING, TaskStatus.IN_PROGRESS, TaskStatus.PENDING, TaskStatus.IN_PROGRESS),
        TaskStatus.COMPLETED,
    ]


async def run_chunk(bed: Bed) -> None:
    """A sub-task and the row of its chunk."""
    parent = await bed.real.claimed(bed.real.fan_out(1))
    claim = bed.rows.first_claim(parent, 0)
    assert isinstance(await write(bed.backend, claim), Written)
    child = await bed.real.stored(claim.key)
    assert isinstance(await write(bed.backend, bed.rows.completed(child)), Written)
    row = ChunkRow(parent=parent.key, run=1, chunk=0, succeeded=1, failed=0)
    await patiently(bed.backend.clock, lambda: bed.backend.store.put_chunk(row))
    child = await bed.real.stored(claim.key)
    assert [entry.status for entry in child.history] == [TaskStatus.IN_PROGRESS, TaskStatus.COMPLETED]
    assert list(await bed.real.backend.store.list_chunks(parent.key, 1)) == [row]


async def keep_log(bed: Bed) -> None:
    """Lines of a task, some of which are dropped."""
    rows, clock = bed.rows, bed.backend.clock
    key = bed.real.single().entity.key
    lines = [
        LogLine(at=rows.now, level="INFO", logger="a", run=1, attempt=1, message=f"{n}", fields={}) for n in range(250)
    ]
    for first, dropped in ((0, 0), (150, 120)):
        batch = LogBatch(key=key, run=1, fence=1, first=first, lines=lines[first : first + 150], dropped=dropped)
        await patiently(clock, lambda batch=batch: bed.backend.logs.append([batch]))  # type: ignore[misc]
    found = await bed.real.backend.logs.read(key, None, 1000)
    assert [line.message for _, line in found] == [f"{n}" for n in range(120, 250)]


STORIES: list[Story] = [create, run_one, run_chunk, keep_log]


def calls_of(story: Story, bed: Bed) -> int:
    asyncio.run(story(bed))  # type: ignore[arg-type]
    return bed.clients.made


class TickingClock(FakeClock):
    """Time passes while somebody waits between two tries."""

    async def wait(self, event: asyncio.Event, until: Any) -> bool:
        if until is not None:
            self.advance(max(0.0, (until - self.now()).total_seconds()))
        return event.is_set()


@pytest.fixture
def clock() -> FakeClock:
    return TickingClock()


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
@pytest.mark.parametrize("effect_first", [True, False], ids=["answer lost", "call lost"])
def test_each_call_may_fail(story: Story, effect_first: bool, bed: Bed) -> None:
    """One after the other, with or without its effect; the same call is made again and all is as if nothing was."""
    calls = calls_of(story, bed)
    assert calls >= 3
    for number in range(1, calls + 1):
        bed.clients._calls, bed.clients.fail_at = itertools.count(1), number
        bed.clients.effect_first = effect_first
        asyncio.run(_afresh(story, bed))


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_each_write_may_arrive_twice(story: Story, bed: Bed) -> None:
    """Without anybody knowing: botocore repeats what it had no answer to."""

    class Twice(Unreliable):
        def send(self, service: str, operation: str, **parameters: Any) -> Any:
            if not operation.startswith(("get", "query", "batch_get")):
                self._real.send(service, operation, **parameters)
            return self._real.send(service, operation, **parameters)

    bed.clients.__class__ = Twice
    asyncio.run(_afresh(story, bed))


async def _afresh(story: Story, bed: Bed) -> None:
    """In a tenant of its own."""
    for rows in (bed.rows, bed.real):
        rows.tenant = f"t-{next(_TENANTS)}"
    bed.real.tenant = bed.rows.tenant
    await story(bed)


_TENANTS = itertools.count(1)


def test_answers_of_ones_own_writes(bed: Bed) -> None:
    """Whoever wrote a chunk row, or took a duty, learns so although a driver repeated the call."""

    async def main() -> None:
        clients = bed.clients
        parent = await bed.real.claimed(bed.real.fan_out(1))

        class Twice(Unreliable):
            def send(self, service: str, operation: str, **parameters: Any) -> Any:
                try:
                    self._real.send(service, operation, **parameters)
                finally:
                    answer = self._real.send(service, operation, **parameters)
                return answer

        clients.__class__ = Twice
        row = ChunkRow(parent=parent.key, run=1, chunk=0, succeeded=1, failed=0)
        assert await bed.backend.store.put_chunk(row) is True
        assert await bed.backend.store.put_chunk(row) is False
        now = bed.rows.now
        assert await bed.backend.admin.take_duty(bed.rows.tenant, now, now + timedelta(minutes=1)) is True
        assert await bed.backend.admin.take_duty(bed.rows.tenant, now, now + timedelta(minutes=1)) is False

    asyncio.run(main())


def test_a_creation_that_arrives_late_changes_nothing(backend: Backend) -> None:
    """A driver may repeat it when the task has been claimed, or has ended, long since (rule 4)."""

    async def main() -> None:
        rows = Rows(backend)
        plain = rows.single({"a": 1})
        expires_at = rows.now + timedelta(hours=1)
        keyed = replace(rows.single(2), idempotency=Idempotency(key="key", fingerprint="f", expires_at=expires_at))
        for row in (plain, keyed):
            claimed = await rows.claimed(row)
            assert list(await backend.store.create([row])) == [None]
            assert await rows.stored(claimed.key) == claimed
            ended = await rows.carry_out(rows.completed(claimed))
            assert list(await backend.store.create([row])) == [None]
            assert await rows.stored(claimed.key) == ended

    asyncio.run(main())
