"""`ports.Notifier` over SQLite."""

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from taskloom.clock import from_milliseconds, to_milliseconds
from taskloom.embedded import listeners, rows
from taskloom.embedded.database import Database, Transaction
from taskloom.model import TaskKey
from taskloom.ports import Clock, Listener, ListenerFigures, Notice, NoticeFailure

_COLUMNS: Final = (
    "number, taken, listener, action, pk, code, idx, type, at, status, run, attempt, version, results, result_ref, "
    "error, sub_task_count, sub_task_succeed_count, sub_task_failed_count, options, failures, reason, given_up_at"
)
_TAKE: Final = (
    "UPDATE notices SET take_at = ?3, taken = taken + 1 WHERE number IN (SELECT number FROM notices "
    "WHERE listener = ?1 AND given_up_at IS NULL AND take_at <= ?2 ORDER BY take_at, number LIMIT ?4) "
    f"RETURNING {_COLUMNS}"
)
_DONE: Final = "DELETE FROM notices WHERE number = ?"
_LATER: Final = (
    "UPDATE notices SET take_at = ?, failures = failures + ?, reason = coalesce(?, reason) "
    "WHERE number = ? AND taken = ?"
)
_GIVE_UP: Final = (
    "UPDATE notices SET given_up_at = ?, failures = failures + ?, reason = ? WHERE number = ? AND taken = ?"
)
_NEXT_DUE: Final = "SELECT min(take_at) FROM notices WHERE listener = ? AND given_up_at IS NULL"
_LISTENERS: Final = (
    "SELECT l.name, l.action, l.until, "
    "(SELECT count(*) FROM notices WHERE listener = l.name AND given_up_at IS NULL), "
    "(SELECT count(*) FROM notices WHERE listener = l.name AND given_up_at IS NOT NULL), "
    "(SELECT min(at) FROM notices WHERE listener = l.name AND given_up_at IS NULL) "
    "FROM listeners AS l ORDER BY l.name"
)
_NOTICES: Final = (
    f"SELECT {_COLUMNS} FROM notices WHERE number > ?1 AND (?2 IS NULL OR listener = ?2) "
    "AND (NOT ?3 OR given_up_at IS NOT NULL) ORDER BY number LIMIT ?4"
)
_REPLAY: Final = (
    "UPDATE notices SET given_up_at = NULL, take_at = 0, failures = 0, taken = taken + 1 "
    "WHERE given_up_at IS NOT NULL AND (?1 IS NULL OR listener = ?1) AND (?2 IS NULL OR number = ?2)"
)


class SqliteNotifier:
    """Notices in the table of that name, made by the triggers of `embedded.listeners`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def announce(self, listener: Listener, until: datetime) -> None:
        """See `ports.Notifier`."""
        self._database.before_next_write(lambda transaction: listeners.follow(transaction, listener, until))

    async def follow(self, listener: Listener, until: datetime) -> None:
        """See `ports.Notifier`."""
        await self._database.write(lambda transaction: listeners.follow(transaction, listener, until))

    async def tidy(self) -> None:
        """See `ports.Notifier`."""
        now = to_milliseconds(self._clock.now())
        await self._database.write(lambda transaction: listeners.tidy(transaction, now), durable=False)

    async def forget(self, name: str) -> bool:
        """See `ports.Notifier`."""
        was = await self._database.write(lambda transaction: listeners.forget(transaction, name))
        # In portions: nobody waits for a long one.
        while not await self._database.write(lambda transaction: listeners.drop_notices(transaction, name)):
            pass
        return was

    async def take(self, name: str, limit: int, *, again_at: datetime) -> Sequence[Notice]:
        """See `ports.Notifier`."""
        values = (name, to_milliseconds(self._clock.now()), to_milliseconds(again_at), limit)
        # Not durable: who loses this in a power cut was not there to deliver anything.
        found = await self._database.write(
            lambda transaction: transaction.execute(_TAKE, values).fetchall(), durable=False
        )
        return [_notice(row) for row in sorted(found)]

    async def settle(self, done: Sequence[Notice], failures: Sequence[NoticeFailure]) -> None:
        """See `ports.Notifier`."""
        now = to_milliseconds(self._clock.now())

        def work(transaction: Transaction) -> None:
            transaction.executemany(_DONE, [(notice.number,) for notice in done])
            for failure in failures:
                notice = failure.notice
                at = now if failure.retry_at is None else to_milliseconds(failure.retry_at)
                sql = _GIVE_UP if failure.retry_at is None else _LATER
                transaction.execute(sql, (at, failure.counts, failure.reason, notice.number, notice.taken))

        # Not durable: what a power cut takes back is delivered once more.
        await self._database.write(work, durable=False)

    async def next_due(self, name: str) -> datetime | None:
        """See `ports.Notifier`."""
        found = await self._database.glance(lambda connection: connection.execute(_NEXT_DUE, (name,)).fetchone())
        return None if found[0] is None else from_milliseconds(found[0])

    async def listeners(self) -> Sequence[ListenerFigures]:
        """See `ports.Notifier`."""
        return [
            ListenerFigures(
                name=name,
                action=action,
                until=from_milliseconds(until),
                waiting=waiting,
                given_up=given_up,
                oldest_at=None if oldest is None else from_milliseconds(oldest),
            )
            for name, action, until, waiting, given_up, oldest in await self._rows(_LISTENERS, ())
        ]

    async def notices(self, name: str | None, *, given_up: bool, after: int, limit: int) -> Sequence[Notice]:
        """See `ports.Notifier`."""
        return [_notice(row) for row in await self._rows(_NOTICES, (after, name, given_up, limit))]

    async def replay(self, name: str | None, number: int | None) -> int:
        """See `ports.Notifier`."""

        def work(transaction: Transaction) -> int:
            transaction.work = True  # wakes whoever delivers
            return transaction.execute(_REPLAY, (name, number)).rowcount

        return await self._database.write(work)

    async def _rows(self, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        def look(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            return connection.execute(sql, values).fetchall()

        return await self._database.read(look)


def _notice(row: Sequence[Any]) -> Notice:
    (
        number, taken, listener, action, pk, code, index, type_, at, status, run, attempt, version, results, result_ref,
        error, count, succeeded, failed, options, failures, reason, given_up_at,
    ) = row  # fmt: skip
    tenant = pk.partition("#")[2]
    return Notice(
        number=number,
        taken=taken,
        listener=listener,
        action=action,
        key=TaskKey(pk, f"{type_}#{code}") if index is None else TaskKey.sub_task(tenant, type_, code, index),
        task_type=type_,
        at=from_milliseconds(at),
        status=rows.STATUS_OF[status],
        run=run,
        attempt=attempt,
        version=version,
        attributes=rows.attributes_of(results, result_ref, error, count, succeeded, failed),
        url=rows.options_of(options).notify_url,
        failures=failures,
        reason=reason,
        given_up_at=None if given_up_at is None else from_milliseconds(given_up_at),
    )
