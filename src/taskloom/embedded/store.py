"""`ports.TaskStore` over SQLite."""

import sqlite3
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from taskloom.clock import to_milliseconds
from taskloom.embedded import rows
from taskloom.embedded.database import Database, Transaction
from taskloom.lifecycle import Change, Guard, Refused, Written
from taskloom.model import TERMINAL, Kind, TaskCode, TaskEntity, TaskKey
from taskloom.ports import ChunkRow, NewTaskRow, TaskQuery

_TASK: Final = f"SELECT {rows.TASK_COLUMNS} FROM tasks WHERE pk = ? AND code = ? AND type = ?"
_SUB_TASK: Final = (
    f"SELECT {rows.SUB_TASK_COLUMNS} FROM sub_tasks WHERE parent = ? AND idx = ? AND tenant = ? AND type = ?"
)
_SUB_TASKS: Final = (
    f"SELECT {rows.SUB_TASK_COLUMNS} FROM sub_tasks "
    "WHERE parent = ? AND idx >= ? AND idx < ? AND tenant = ? AND type = ? ORDER BY idx"
)
_CREATE: Final = f"INSERT INTO tasks ({rows.TASK_COLUMNS}) VALUES ({', '.join('?' * 34)})"
_STREAM: Final = "INSERT INTO stream (pk, code, event_name) VALUES (?, ?, ?)"
_CHUNK: Final = (
    "INSERT INTO chunks (parent, run, chunk, succeeded, failed) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_CHUNKS: Final = "SELECT chunk, succeeded, failed FROM chunks WHERE parent = ? AND run = ? ORDER BY chunk"


class SqliteTaskStore:
    """Tasks, sub-tasks and chunk rows in the tables of the same names."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, rows_: Sequence[NewTaskRow]) -> None:
        """See `ports.TaskStore`."""
        values = [rows.task_values(row.entity, row.input) for row in rows_]
        stream = [(row.entity.pk, row.entity.code, "INSERT") for row in rows_ if row.entity.dispatch is not None]

        def work(transaction: Transaction) -> None:
            transaction.executemany(_CREATE, values)
            transaction.executemany(_STREAM, stream)  # rule 1: the same transaction
            transaction.work = True

        await self._database.write(work)

    async def update(self, change: Change) -> Written | Refused:
        """See `ports.TaskStore`."""
        return await self._database.write(lambda transaction: _carry_out(transaction, change))

    async def update_many(self, changes: Sequence[Change]) -> Sequence[Written | Refused]:
        """See `ports.TaskStore`."""
        return await self._database.write(lambda transaction: [_carry_out(transaction, change) for change in changes])

    async def get(self, key: TaskKey) -> TaskEntity[Any] | None:
        """See `ports.TaskStore`."""
        return await self._database.read(lambda connection: _get(connection, key))

    async def list_tasks(self, query: TaskQuery) -> tuple[Sequence[TaskEntity[Any]], TaskCode | None]:
        """See `ports.TaskStore`."""
        sql = [f"SELECT {rows.TASK_COLUMNS} FROM tasks WHERE pk = ?"]
        values: list[Any] = [f"{query.kind}#{query.tenant_code}"]
        if query.after is not None:
            sql.append("AND code < ?" if query.newest_first else "AND code > ?")
            values.append(query.after)
        if query.status is not None:
            sql.append("AND status = ?")
            values.append(rows.STATUS_LETTER[query.status])
        if query.task_type is not None:
            sql.append("AND type = ?")
            values.append(query.task_type)
        sql.append(f"ORDER BY code {'DESC' if query.newest_first else 'ASC'} LIMIT ?")
        values.append(query.limit + 1)

        def work(connection: sqlite3.Connection) -> list[TaskEntity[Any]]:
            return [rows.task_of(row) for row in connection.execute(" ".join(sql), values)]

        found = await self._database.read(work)
        tasks = found[: query.limit]
        return tasks, TaskCode(tasks[-1].code) if len(found) > query.limit else None

    async def list_sub_tasks(self, parent: TaskKey, indexes: range) -> Sequence[TaskEntity[Any]]:
        """See `ports.TaskStore`."""
        parts = parent.parts
        values = (parts.code, indexes.start, indexes.stop, parts.tenant_code, parts.task_type)
        return await self._database.read(
            lambda connection: [rows.sub_task_of(row) for row in connection.execute(_SUB_TASKS, values)]
        )

    async def put_chunk(self, row: ChunkRow) -> bool:
        """See `ports.TaskStore`."""
        values = (row.parent.parts.code, row.run, row.chunk, row.succeeded, row.failed)
        return await self._database.write(lambda transaction: transaction.execute(_CHUNK, values).rowcount == 1)

    async def list_chunks(self, parent: TaskKey, run: int) -> Sequence[ChunkRow]:
        """See `ports.TaskStore`."""
        code = parent.parts.code

        def work(connection: sqlite3.Connection) -> list[ChunkRow]:
            return [
                ChunkRow(parent=parent, run=run, chunk=chunk, succeeded=succeeded, failed=failed)
                for chunk, succeeded, failed in connection.execute(_CHUNKS, (code, run))
            ]

        return await self._database.read(work)


def _carry_out(transaction: Transaction, change: Change) -> Written | Refused:
    parts = change.key.parts
    history = None if change.history is None else rows.history_text(change.history)
    if parts.kind is Kind.SUB_TASK:
        where: tuple[Any, ...] = (parts.code, parts.index, parts.tenant_code, parts.task_type)
    else:
        where = (change.key.pk, parts.code, parts.task_type)
    if change.guard.absent:
        sql = _insert(tuple(change.patch))
        values = [*rows.patch_values(change.patch), history, *where]
    else:
        guard, guard_values = _guard(change.guard)
        adds = tuple(change.add or ())
        sql = _update(parts.kind is Kind.SUB_TASK, tuple(change.patch), adds, history is not None, guard)
        values = [*rows.patch_values(change.patch), *(change.add or {}).values()]
        if history is not None:
            values.append(history)
        values += [*where, *guard_values]
    row = transaction.execute(sql, values).fetchone()
    if row is None:
        return Refused(_get(transaction, change.key))
    if parts.kind is Kind.SUB_TASK:
        return Written(rows.sub_task_of(row))
    status = change.patch.get("status")
    if change.patch.get("dispatch") is not None:
        transaction.execute(_STREAM, (change.key.pk, parts.code, "MODIFY"))
        transaction.work = True
    if status in TERMINAL:
        transaction.ended.append(parts.code)
    return Written(rows.task_of(row))


def _get(connection: sqlite3.Connection | Transaction, key: TaskKey) -> TaskEntity[Any] | None:
    parts = key.parts
    if parts.kind is Kind.SUB_TASK:
        values: tuple[Any, ...] = (parts.code, parts.index, parts.tenant_code, parts.task_type)
        row = connection.execute(_SUB_TASK, values).fetchone()
        return None if row is None else rows.sub_task_of(row)
    row = connection.execute(_TASK, (key.pk, parts.code, parts.task_type)).fetchone()
    return None if row is None else rows.task_of(row)


def _guard(guard: Guard) -> tuple[str, list[Any]]:
    conditions = ""
    values: list[Any] = []
    if guard.status is not None:
        conditions += f" AND status IN ({', '.join('?' * len(guard.status))})"
        values += [rows.STATUS_LETTER[status] for status in guard.status]
    if guard.fence is not None:
        conditions += " AND fence = ?"
        values.append(guard.fence)
    if guard.run is not None:
        conditions += " AND run = ?"
        values.append(guard.run)
    if guard.lease_ended_by is not None:
        conditions += " AND (lease_until IS NULL OR lease_until <= ?)"
        values.append(to_milliseconds(guard.lease_ended_by))
    return conditions, values


@cache
def _update(sub_task: bool, names: tuple[str, ...], adds: tuple[str, ...], history: bool, guard: str) -> str:
    assignments = [f"{name} = ?" for name in names]
    assignments += [f"{name} = {name} + ?" for name in adds]
    if history:
        assignments.append("history = history || ',' || ?")  # rule 5: the same write
    assignments.append("version = version + 1")
    if sub_task:
        table, columns = "sub_tasks", rows.SUB_TASK_COLUMNS
        where = "parent = ? AND idx = ? AND tenant = ? AND type = ?"
    else:
        table, columns, where = "tasks", rows.TASK_COLUMNS, "pk = ? AND code = ? AND type = ?"
    return f"UPDATE {table} SET {', '.join(assignments)} WHERE {where}{guard} RETURNING {columns}"


@cache
def _insert(names: tuple[str, ...]) -> str:
    columns = (*names, "history", "parent", "idx", "tenant", "type")
    return (
        f"INSERT INTO sub_tasks ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "
        f"ON CONFLICT DO NOTHING RETURNING {rows.SUB_TASK_COLUMNS}"
    )
