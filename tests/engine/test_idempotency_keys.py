"""The table of idempotency keys: what it keeps, for how long, and what a failed write leaves in it."""

import asyncio
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from taskloom.errors import StoreError
from taskloom.ports import Backend
from tests.contract.base import in_threads
from tests.contract.idempotency import keyed
from tests.support.clock import FakeClock
from tests.support.rows import Rows
from tests.support.scenarios import open_backend

MINUTE = timedelta(minutes=1)


def kept(database: Path) -> list[str]:
    """The keys in the table, in the order of their expiry."""
    with closing(sqlite3.connect(database)) as connection:
        return [key for (key,) in connection.execute("SELECT key FROM idempotency ORDER BY expires_at, key")]


def test_expired_keys_do_not_pile_up(backend: Backend, clock: FakeClock, database: Path) -> None:
    """With keys that live a minute and a new one every six seconds, there are never many more than ten."""
    rows = Rows(backend)

    async def main() -> None:
        for number in range(200):
            await rows.create(keyed(rows.single(), f"{number:03}", ttl=MINUTE))
            clock.advance(6)
            assert len(kept(database)) <= 12
        assert kept(database)[-10:] == [f"{number:03}" for number in range(190, 200)]

    asyncio.run(main())


def test_a_burst_of_keys_is_removed_by_those_that_come_later(
    backend: Backend, clock: FakeClock, database: Path
) -> None:
    """Faster than those come, and never one that still lives."""
    rows = Rows(backend)

    async def main() -> None:
        living = [f"living {number}" for number in range(5)]
        await rows.create(*(keyed(rows.single(), key, ttl=2 * MINUTE) for key in living))
        await rows.create(*(keyed(rows.single(), f"old {number}", ttl=MINUTE) for number in range(100)))
        clock.advance(59.999)
        await rows.create(*(keyed(rows.single(), f"new {number:03}", ttl=3 * MINUTE) for number in range(50)))
        assert len(kept(database)) == 155
        clock.advance(0.001)
        for number in range(50, 120):
            await rows.create(keyed(rows.single(), f"new {number:03}", ttl=3 * MINUTE))
        assert kept(database) == living + [f"new {number:03}" for number in range(120)]

    asyncio.run(main())


def test_a_creation_removes_few_at_a_time(backend: Backend, clock: FakeClock, database: Path) -> None:
    """However many have expired: nobody's creation waits until thousands of rows are gone."""
    rows = Rows(backend)

    async def main() -> None:
        await rows.create(*(keyed(rows.single(), f"old {number}", ttl=MINUTE) for number in range(100)))
        clock.advance(60)
        await rows.create(keyed(rows.single(), "new"))
        assert 90 <= len(kept(database)) <= 100

    asyncio.run(main())


def test_a_creation_that_fails_keeps_no_key(backend: Backend, database: Path) -> None:
    """Key and task are one transaction: the key of a task that was never created would stand for nothing."""
    rows = Rows(backend)

    async def main() -> None:
        there = rows.single()
        await rows.create(there)
        refused = [keyed(rows.single(), "before"), keyed(there, "refused"), keyed(rows.single(), "behind")]
        with pytest.raises(StoreError):
            await backend.store.create(refused)
        assert kept(database) == []
        assert [await backend.store.get(row.entity.key) for row in refused] == [None, there.entity, None]
        again = [keyed(rows.single(), key) for key in ("before", "refused", "behind")]
        assert list(await backend.store.create(again)) == [None] * 3

    asyncio.run(main())


def test_a_creation_that_fails_beside_others_changes_none_of_their_answers(backend: Backend, database: Path) -> None:
    """Those who share a commit with it are carried out anew, and are told what came of that."""
    rows = Rows(backend)

    async def main() -> None:
        there = rows.single()
        await rows.create(there)
        for number in range(5):
            good = [keyed(rows.single(), f"{number}/{place}") for place in range(10)]
            answers = await asyncio.gather(
                *(backend.store.create([row]) for row in good[:5]),
                backend.store.create([keyed(there, f"{number}/refused")]),
                *(backend.store.create([row]) for row in good[5:]),
                return_exceptions=True,
            )
            assert isinstance(answers.pop(5), StoreError)
            assert answers == [[None]] * 10
            assert [await backend.store.get(row.entity.key) for row in good] == [row.entity for row in good]
        assert len(kept(database)) == 50

    asyncio.run(main())


def test_one_of_many_creates_over_connections(backend: Backend, clock: FakeClock, database: Path) -> None:
    """As processes are: each with the file open for itself, nothing shared but the file."""
    rows, keys = Rows(backend), 15
    new = [[keyed(rows.single(side), f"{key:02}") for key in range(keys)] for side in range(3)]

    with closing(open_backend(database, clock)) as second, closing(open_backend(database, clock)) as third:

        async def create(side: int) -> list[bool]:
            store = (backend, second, third)[side].store
            return [(await store.create([row]))[0] is None for row in new[side]]

        created = in_threads(3, create)
    assert [sum(sides) for sides in zip(*created, strict=True)] == [1] * keys
    assert kept(database) == [f"{key:02}" for key in range(keys)]
