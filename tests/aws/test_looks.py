"""Which tasks count as stranded: told by their times alone, since nobody can look into SQS."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from taskloom import lifecycle
from taskloom.aws import looks, table
from taskloom.aws.dynamo import Dynamo
from taskloom.aws.looks import BACKLOG_GRACE, EXECUTION_GRACE, GRACE
from taskloom.aws.store import DynamoTaskStore
from taskloom.model import Failure, FanOut, TaskEntity
from taskloom.ports import Backend, NewTaskRow
from tests.support.clock import FakeClock
from tests.support.rows import LEASE, Rows

MS = timedelta(milliseconds=1)
Make = Callable[[Rows], Awaitable[TaskEntity]]


async def created(rows: Rows) -> TaskEntity:
    return (await rows.create(rows.single()))[0]


async def created_with_another_code(rows: Rows) -> TaskEntity:
    """One that says nothing of its time."""
    return (await rows.create(rows.single(code="order-4711")))[0]


async def claimed(rows: Rows) -> TaskEntity:
    return await rows.claimed()


async def given_back(rows: Rows) -> TaskEntity:
    return await rows.carry_out(rows.given_back(await rows.claimed()))


async def waits(rows: Rows, seconds: int) -> TaskEntity:
    task = await rows.claimed()
    failure = Failure(type="ValueError", message="no", attempt=1, will_retry=True)
    at = rows.now + timedelta(seconds=seconds)
    change = lifecycle.waits_for_retry(
        task, failure, at=at, progress=None, now=rows.now, by="worker", claim_id=rows.backend.ids.token()
    )
    return await rows.carry_out(change)


async def waits_shortly(rows: Rows) -> TaskEntity:
    return await waits(rows, 900)


async def waits_long(rows: Rows) -> TaskEntity:
    """Longer than a message can be delayed."""
    return await waits(rows, 901)


async def runs_by_itself(rows: Rows) -> TaskEntity:
    (parent,) = await rows.create(rows.fan_out(2))
    return await rows.carry_out(rows.claim(parent, plan=FanOut(chunk_size=1)))


async def retried(rows: Rows) -> TaskEntity:
    ended = await rows.carry_out(rows.failed(await rows.claimed()))
    change = lifecycle.retried(
        ended,
        only_failed=True,
        execution_arn=None,
        reason=None,
        by=None,
        now=rows.now,
        dispatch="again",
        claim_id=rows.backend.ids.token(),
    )
    return await rows.carry_out(change)


@pytest.mark.parametrize(
    ("make", "after"),
    [
        (created, GRACE),
        (created_with_another_code, GRACE),
        (retried, GRACE),
        (claimed, LEASE + GRACE),
        (given_back, GRACE),
        (waits_shortly, timedelta(seconds=900) + GRACE),
        (waits_long, timedelta(seconds=901)),
        (runs_by_itself, EXECUTION_GRACE),
    ],
)
def test_a_task_is_stranded_when_nothing_can_be_on_its_way(
    make: Make, after: timedelta, backend: Backend, clock: FakeClock
) -> None:
    """From that instant on, not before; and until somebody did something about it."""

    async def main() -> None:
        rows = Rows(backend)
        task = await make(rows)
        clock.advance((after - MS).total_seconds())
        assert list(await backend.store.list_stranded(10)) == []
        clock.advance(0.001)
        assert list(await backend.store.list_stranded(10)) == [task]
        mended = lifecycle.repaired(task, "why", now=rows.now, by="worker", dispatch="d", claim_id="c")
        await rows.carry_out(mended)
        assert list(await backend.store.list_stranded(10)) == []

    asyncio.run(main())


def test_what_has_ended_and_sub_tasks_are_nobodys_matter(backend: Backend, clock: FakeClock) -> None:
    async def main() -> None:
        rows = Rows(backend)
        await rows.carry_out(rows.completed(await rows.claimed()))
        await rows.carry_out(rows.failed(await rows.claimed()))
        parent = await rows.claimed(rows.fan_out(1))
        await rows.sub_task(0, parent)
        await rows.carry_out(
            lifecycle.finalized(parent, succeeded=1, failed=0, now=rows.now, by="worker", claim_id="ended")
        )
        clock.advance(86400)
        assert list(await backend.store.list_stranded(10)) == []

    asyncio.run(main())


def test_a_backlog_breeds_no_messages(backend: Backend, dynamo: Dynamo, clock: FakeClock) -> None:
    """While messages wait, those of old tasks may be among them; what never had one is found all the same."""

    async def main() -> None:
        rows, has_backlog = Rows(backend), True

        async def ask() -> bool:
            return has_backlog

        store = DynamoTaskStore(dynamo, has_backlog=ask)
        late = await waits_long(rows)
        (task,) = await rows.create(rows.single())
        clock.advance(3600)
        assert list(await store.list_stranded(10)) == [late]
        has_backlog = False
        assert {found.key for found in await store.list_stranded(10)} == {task.key, late.key}
        has_backlog = True
        clock.advance(BACKLOG_GRACE.total_seconds())
        assert {found.key for found in await store.list_stranded(10)} == {task.key, late.key}

    asyncio.run(main())


def test_a_bucket_that_fills_a_look_does_not_hide_the_others(
    backend: Backend, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last page ends the look; the next one begins behind it, not with the same bucket again."""
    monkeypatch.setattr(looks, "MAX_LOOK", 3)

    async def main() -> None:
        rows = Rows(backend)
        by_bucket: dict[str, list[NewTaskRow]] = {}
        for _ in range(200):
            row = rows.single()
            by_bucket.setdefault(table.bucket(row.entity.code), []).append(row)
        full, other = [kept for _, kept in sorted(by_bucket.items())][:2]
        tasks = await rows.create(*full[:3], *other[:1])
        clock.advance(GRACE.total_seconds())
        found = {task.id for _ in range(2) for task in await backend.store.list_stranded(100)}
        assert found == {task.id for task in tasks}

    asyncio.run(main())


def test_the_next_look_goes_on_behind_the_last_one(
    backend: Backend, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So what nobody can mend hides nothing; in small pages, and when a call looks at a part only."""
    monkeypatch.setattr(looks, "PART", 3)
    monkeypatch.setattr(looks, "MAX_LOOK", 5)

    async def main() -> None:
        rows = Rows(backend)
        tasks = await rows.create(*(rows.single() for _ in range(12)))
        clock.advance(GRACE.total_seconds())
        for limit, calls in ((1, 12), (5, 5), (100, 3)):
            seen: set[str] = set()
            for _ in range(calls):
                found = await backend.store.list_stranded(limit)
                assert len(found) <= limit
                seen |= {task.id for task in found}
            assert seen == {task.id for task in tasks}

    asyncio.run(main())


def test_young_tasks_cost_no_reads(backend: Backend, dynamo: Dynamo) -> None:
    """However many there are: the index alone tells their age."""

    async def main() -> None:
        rows = Rows(backend)
        await rows.create(*(rows.single() for _ in range(20)))
        operations: list[str] = []
        clients = dynamo.clients

        class Listening(Dynamo):
            def get_many(self, keys: object, *, consistent: bool = True) -> list[object]:  # type: ignore[override]
                assert not keys
                operations.append("get_many")
                return []

        store = DynamoTaskStore(Listening(clients, dynamo.table_name, backend.clock))
        assert list(await store.list_stranded(100)) == []
        assert operations

    asyncio.run(main())


def test_a_lagging_index_is_checked_against_the_table(backend: Backend, dynamo: Dynamo) -> None:
    """An entry may still be there although its task has ended, or was to end, since."""

    async def main() -> None:
        rows = Rows(backend)
        late = rows.now - timedelta(hours=1)
        stale = []
        for end in (rows.completed, rows.failed):
            task = await rows.claimed(rows.single(deadline_at=late))
            stale.append(await rows.carry_out(end(task)))
        parent = await rows.claimed(rows.fan_out(deadline_at=late))
        wish = lifecycle.cancel_requested(parent, reason=None, by=None, now=rows.now)
        stale.append(await rows.carry_out(wish))
        fresh = await rows.create(rows.single(deadline_at=late))
        entries = [{"pk": {"S": task.pk}, "sk": {"S": task.sk}, "markAt": {"S": "x"}} for task in (*stale, *fresh)]
        assert looks.Looks(dynamo, None).overdue([entries], 10) == fresh

    asyncio.run(main())


def test_waiting_survives_that_its_cursor_moved(backend: Backend) -> None:
    """A task that waits for long stands elsewhere in the index than its code says; each comes once all the same."""

    async def main() -> None:
        rows = Rows(backend)
        keys = {(await waits_long(rows)).key for _ in range(3)}
        keys |= {task.key for task in await rows.create(*(rows.single() for _ in range(20)))}
        found: list[object] = []
        last = None
        while page := await backend.admin.waiting(rows.tenant, None, last, 1):
            (last,) = page
            found.append(last)
        assert sorted(map(str, found)) == sorted(map(str, keys))

    asyncio.run(main())


def test_is_stranded_asks_nothing_of_what_has_ended(backend: Backend) -> None:
    rows = Rows(backend)
    task = rows.single().entity
    later = rows.now + timedelta(days=1)
    assert looks.is_stranded(task, later, GRACE)
    for status in lifecycle.NEXT.values():
        if status.is_terminal:
            assert not looks.is_stranded(replace(task, status=status), later, GRACE)
