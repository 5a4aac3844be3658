"""`ports.TaskLogs` over SQLite."""

from collections.abc import Sequence
from typing import Any, Final

from taskloom.clock import from_milliseconds, to_milliseconds
from taskloom.embedded.database import Database, Transaction
from taskloom.model import LogLine, TaskKey
from taskloom.ports import LogBatch, LogPosition
from taskloom.values import decode, encode_checked

TOP_LEVEL: Final = -1
"""Stands for the index where there is none."""
_FIRST: Final = LogPosition(0, 0, -1)
"""Lies before every line."""

_TASK: Final = "pk = ? AND code = ? AND idx = ?"
_DROPPED: Final = f"SELECT dropped FROM task_logs WHERE {_TASK} AND run = ? AND fence = ? ORDER BY number DESC LIMIT 1"
"""The newest line of an attempt knows how many were dropped."""
_KEEP: Final = (
    "INSERT INTO task_logs (pk, code, idx, run, fence, number, dropped, attempt, at, level, logger, message, fields, "
    f"exception) VALUES ({', '.join('?' * 14)}) ON CONFLICT DO NOTHING"
)
_DROP: Final = f"DELETE FROM task_logs WHERE {_TASK} AND run = ? AND fence = ? AND number < ?"
_READ: Final = (
    "SELECT run, fence, number, attempt, at, level, logger, message, fields, exception FROM task_logs "
    f"WHERE {_TASK} AND (run, fence, number) > (?, ?, ?) ORDER BY run, fence, number LIMIT ?"
)


class SqliteTaskLogs:
    """Log lines in the table `task_logs`.

    Its commits do not wait for the disk by themselves; one that holds the end of a task as well does.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, batches: Sequence[LogBatch]) -> None:
        """See `ports.TaskLogs`."""
        plans = [_Plan(batch) for batch in batches]

        def work(transaction: Transaction) -> None:
            for plan in plans:
                plan.carry_out(transaction)

        await self._database.write(work, durable=False)

    async def read(self, key: TaskKey, after: LogPosition | None, limit: int) -> Sequence[tuple[LogPosition, LogLine]]:
        """See `ports.TaskLogs`."""
        values = (*_task(key), *(after or _FIRST), limit)
        rows = await self._database.read(lambda connection: connection.execute(_READ, values).fetchall())
        return [_line(row) for row in rows]


class _Plan:
    """A batch as rows. Made before the transaction, which other processes wait for."""

    def __init__(self, batch: LogBatch) -> None:
        self._attempt = (*_task(batch.key), batch.run, batch.fence)
        self._dropped = batch.dropped
        self._first = batch.first
        self._rows = [
            (
                *self._attempt,
                number,
                batch.dropped,
                line.attempt,
                to_milliseconds(line.at),
                line.level,
                line.logger,
                line.message,
                encode_checked(dict(line.fields)) if line.fields else None,
                line.exception,
            )
            for number, line in enumerate(batch.lines, batch.first)
        ]

    def carry_out(self, transaction: Transaction) -> None:
        found = transaction.execute(_DROPPED, self._attempt).fetchone()
        dropped = 0 if found is None else found[0]
        # What comes late, behind a batch that dropped it, stays away.
        transaction.executemany(_KEEP, self._rows[max(0, dropped - self._first) :])
        if self._dropped > dropped:
            transaction.execute(_DROP, (*self._attempt, self._dropped))


def _task(key: TaskKey) -> tuple[str, str, int]:
    parts = key.parts
    return key.parent.pk, parts.code, TOP_LEVEL if parts.index is None else parts.index


def _line(row: Sequence[Any]) -> tuple[LogPosition, LogLine]:
    run, fence, number, attempt, at, level, logger, message, fields, exception = row
    line = LogLine(
        at=from_milliseconds(at),
        level=level,
        logger=logger,
        run=run,
        attempt=attempt,
        message=message,
        fields={} if fields is None else decode(fields),
        exception=exception,
    )
    return LogPosition(run, fence, number), line
