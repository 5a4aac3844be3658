"""`ports.Retention` over SQLite."""

import sqlite3
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from taskloom.clock import to_milliseconds
from taskloom.embedded.database import Database, Transaction
from taskloom.errors import InvalidInput
from taskloom.model import Kind, TaskKey
from taskloom.ports import Clock

_EXPIRED: Final = "SELECT pk, code, type, ttl FROM tasks WHERE ttl <= ? ORDER BY ttl LIMIT ?"
_COUNT: Final = "SELECT count(*) FROM (SELECT 1 FROM tasks WHERE ttl <= ? LIMIT ?)"
_BEGUN: Final = "UPDATE tasks SET ttl = -abs(ttl) WHERE pk = ? AND code = ?"
_TASK: Final = "DELETE FROM tasks WHERE pk = ? AND code = ?"


def _portion(table: str, key: str, where: str) -> str:
    """Deletes at most ?5 rows; ?1: pk, ?2: code, ?3: tenant, ?4: the id of the task."""
    return f"DELETE FROM {table} WHERE {where} AND ({key}) IN (SELECT {key} FROM {table} WHERE {where} LIMIT ?5)"


# '0' is the character behind '/', '$' the one behind '#', and '.' the one behind '-': what begins with a prefix.
_OWN: Final = "reference >= ?4 || '/' AND reference < ?4 || '0'"
_SUB_TASKS_OWN: Final = "reference >= ?1 || '#' || ?2 || '#' AND reference < ?1 || '#' || ?2 || '$'"
_RUNS: Final = "{0} >= ?2 || '-' AND {0} < ?2 || '.'"

_OF_EVERY_TASK: Final = (
    _portion("task_logs", "idx, run, fence, number", "pk = ?1 AND code = ?2"),
    _portion("steps", "idx, kind, name", "pk = ?1 AND code = ?2"),
    _portion("payloads", "reference", _OWN),
    _portion("dead_letters", "id", "pk = ?1 AND code = ?2"),
)
"""What is kept beside the row of a task; each is found by an index. Further tables with rows of tasks belong here."""
_OF_FAN_OUTS: Final = (
    _portion("payload_items", "reference, first", _OWN),
    _portion("payloads", "reference", _SUB_TASKS_OWN),
    _portion("sub_tasks", "idx", "parent = ?2 AND tenant = ?3"),
    _portion("chunks", "run, chunk", "parent = ?2 AND tenant = ?3"),
    _portion("chunk_waits", "execution, at, chunk", "execution = ?2"),
    _portion("chunk_waits", "execution, at, chunk", _RUNS.format("execution")),
    _portion("executions", "name", "name = ?2"),
    _portion("executions", "name", _RUNS.format("name")),
)

_PAYLOADS: Final = "SELECT reference, at FROM payloads WHERE reference > ? ORDER BY reference LIMIT ?"
_NEXT_ITEMS: Final = "SELECT reference FROM payload_items WHERE reference > ? ORDER BY reference LIMIT 1"
_LAST_BLOCK: Final = "SELECT at FROM payload_items WHERE reference = ? ORDER BY first DESC LIMIT 1"
_NAMED_BY_TASK: Final = "SELECT 1 FROM tasks WHERE pk = ?1 AND code = ?2 AND ?3 IN (input_ref, result_ref)"
_NAMED_BY_SUB_TASK: Final = "SELECT 1 FROM sub_tasks WHERE parent = ? AND tenant = ? AND idx = ? AND result_ref = ?"
_NAMED_BY_STEP: Final = "SELECT 1 FROM steps WHERE pk = ? AND code = ? AND idx = ? AND result_ref = ?"
_DISCARD: Final = ("DELETE FROM payload_items WHERE reference = ?", "DELETE FROM payloads WHERE reference = ?")


class SqliteRetention:
    """Removes rows of all tables, a few per transaction.

    Its commits do not wait for the disk: what a power cut brings back is removed again.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def remove_expired(self, limit: int) -> int:
        """See `ports.Retention`."""
        values = (to_milliseconds(self._clock.now()) // 1000, limit)
        # Looked at before the transaction, which other processes wait for.
        if not await self._database.read(lambda connection: connection.execute(_EXPIRED, values).fetchone()):
            return 0

        def work(transaction: Transaction) -> int:
            left = limit
            for pk, code, type_, _ in transaction.execute(_EXPIRED, values).fetchall():
                left = _remove(transaction, pk, code, type_, left)
                if left <= 0:
                    break
            return limit - left

        return await self._database.write(work, durable=False)

    async def expired(self, limit: int) -> int:
        """See `ports.Retention`."""
        values = (to_milliseconds(self._clock.now()) // 1000, limit)
        found = await self._database.read(lambda connection: connection.execute(_COUNT, values).fetchone())
        return int(found[0])

    async def remove_orphans(self, before: datetime, after: str, limit: int) -> str | None:
        """See `ports.Retention`."""
        until = to_milliseconds(before)

        def look(connection: sqlite3.Connection) -> tuple[list[str], str | None]:
            references = list(_references(connection, after, limit))
            orphans = [name for name, at in references if at < until and not _is_named(connection, name)]
            return orphans, references[-1][0] if len(references) == limit else None

        orphans, last = await self._database.read(look)

        def work(transaction: Transaction) -> None:
            for reference in orphans:
                if not _is_named(transaction, reference):
                    for statement in _DISCARD:
                        transaction.execute(statement, (reference,))

        if orphans:
            await self._database.write(work, durable=False)
        return last


def _remove(transaction: Transaction, pk: str, code: str, type_: str, limit: int) -> int:
    """Remove the task and what belongs to it, the task last, at most *limit* rows; how many more might have been."""
    tenant = pk.partition("#")[2]
    statements = _OF_EVERY_TASK + (_OF_FAN_OUTS if pk.startswith(f"{Kind.SFN_TASK}#") else ())
    for statement in statements:
        limit -= transaction.execute(statement, (pk, code, tenant, f"{pk}#{type_}#{code}", limit)).rowcount
        if limit <= 0:
            transaction.execute(_BEGUN, (pk, code))
            return 0
    transaction.execute(_TASK, (pk, code))
    return limit - 1


def _references(connection: sqlite3.Connection, after: str, limit: int) -> Iterator[tuple[str, int]]:
    """At most *limit* references behind *after*, in order, and when each was written last."""
    found: list[tuple[str, int]] = connection.execute(_PAYLOADS, (after, limit)).fetchall()
    name = after
    for _ in range(limit):
        row = connection.execute(_NEXT_ITEMS, (name,)).fetchone()
        if row is None:
            break
        name = row[0]
        found.append((name, connection.execute(_LAST_BLOCK, (name,)).fetchone()[0]))
    yield from sorted(found)[:limit]


def _is_named(connection: Any, reference: str) -> bool:
    """Whether a row refers to it. What is not named after a task is left alone."""
    try:
        key = TaskKey.parse(reference.partition("/")[0])
    except InvalidInput:
        return True
    parts = key.parts
    step = (key.parent.pk, parts.code, -1 if parts.index is None else parts.index, reference)
    if connection.execute(_NAMED_BY_STEP, step).fetchone() is not None:
        return True
    if parts.kind is Kind.SUB_TASK:
        values: tuple[Any, ...] = (parts.code, parts.tenant_code, parts.index, reference)
        return connection.execute(_NAMED_BY_SUB_TASK, values).fetchone() is not None
    return connection.execute(_NAMED_BY_TASK, (key.pk, parts.code, reference)).fetchone() is not None
