"""`ports.TaskStore` over SQLite."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final, TypeAlias

from taskloom.clock import from_milliseconds, to_milliseconds
from taskloom.embedded import listeners, rows
from taskloom.embedded.database import MINUTE, Database, Transaction
from taskloom.lifecycle import Change, Guard, Refused, Written
from taskloom.model import TERMINAL, Kind, TaskCode, TaskEntity, TaskKey, TaskStatus, TenantCode
from taskloom.ports import ChunkRow, Clock, Known, NewTaskRow, TaskQuery

MAX_LOOK: Final = 2000
"""Tasks that one page with a filter looks at: bounds its time, however rare a match is."""

_TASK: Final = f"SELECT {rows.TASK_COLUMNS} FROM tasks WHERE pk = ? AND code = ? AND type = ?"
_SUB_TASK: Final = (
    f"SELECT {rows.SUB_TASK_COLUMNS} FROM sub_tasks WHERE parent = ? AND idx = ? AND tenant = ? AND type = ?"
)
_SUB_TASKS: Final = (
    f"SELECT {rows.SUB_TASK_COLUMNS} FROM sub_tasks "
    "WHERE parent = ? AND idx >= ? AND idx < ? AND tenant = ? AND type = ? ORDER BY idx"
)
_CREATE: Final = (
    f"INSERT INTO tasks ({rows.TASK_COLUMNS}) VALUES ({', '.join('?' * len(rows.TASK_COLUMNS.split(',')))})"
)
_OVERDUE: Final = "deadline_at IS NOT NULL AND cancel_requested IS NULL AND status IN ('P', 'I')"
_LIST_OVERDUE: Final = (
    f"SELECT {rows.TASK_COLUMNS} FROM tasks WHERE {_OVERDUE} AND deadline_at <= ? ORDER BY deadline_at LIMIT ?"
)
_STRANDED: Final = (
    f"SELECT {rows.TASK_COLUMNS} FROM tasks WHERE status IN ('P', 'I') "
    "AND (pk, code) NOT IN (SELECT pk, code FROM queue UNION SELECT pk, code FROM stream) "
    "AND coalesce(next_attempt_at, 0) <= ?1 AND coalesce(lease_until, 0) <= ?1 LIMIT ?2"
)
_NEXT_DEADLINE: Final = f"SELECT min(deadline_at) FROM tasks WHERE {_OVERDUE}"
_KNOWN: Final = (
    "SELECT i.pk, i.sk, i.fingerprint FROM idempotency AS i WHERE i.tenant = ?1 AND i.key = ?2 AND i.expires_at > ?3 "
    "AND EXISTS (SELECT 1 FROM tasks AS t WHERE t.pk = i.pk AND t.code = substr(i.sk, instr(i.sk, '#') + 1) "
    "AND (t.ttl IS NULL OR t.ttl > ?3 / 1000))"
)
_EXPIRED_AT: Final = "SELECT abs(ttl) FROM tasks WHERE pk = ? AND code = ? AND type = ? AND ttl <= ?"
_KEEP_KEY: Final = (
    "INSERT INTO idempotency (tenant, key, fingerprint, pk, sk, expires_at) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (tenant, key) DO UPDATE SET fingerprint = excluded.fingerprint, pk = excluded.pk, sk = excluded.sk, "
    "expires_at = excluded.expires_at"
)
_FORGET_KEYS: Final = (
    "DELETE FROM idempotency WHERE (tenant, key) IN "
    "(SELECT tenant, key FROM idempotency WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)"
)
FORGET_AT_ONCE: Final = 2
"""Expired idempotency keys that each creation with a new one removes: they cannot pile up."""
_STREAM: Final = "INSERT INTO stream (pk, code, event_name) VALUES (?, ?, ?)"
_CHUNK: Final = (
    "INSERT INTO chunks (parent, tenant, run, chunk, succeeded, failed) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT DO NOTHING"
)
_CHUNKS: Final = (
    "SELECT chunk, succeeded, failed FROM chunks WHERE parent = ? AND tenant = ? AND run = ? ORDER BY chunk"
)


class SqliteTaskStore:
    """Tasks, sub-tasks and chunk rows in the tables of the same names."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(self, rows_: Sequence[NewTaskRow]) -> Sequence[Known | None]:
        """See `ports.TaskStore`."""
        if any(row.idempotency is not None for row in rows_):
            return await self._create_unknown(rows_)
        values = [rows.task_values(row.entity, row.input) for row in rows_]
        stream = [(row.entity.pk, row.entity.code, "INSERT") for row in rows_ if row.entity.dispatch is not None]
        is_notified = any(row.entity.options.notify_url is not None for row in rows_)
        now = self._clock.now() if is_notified else None

        def work(transaction: Transaction) -> None:
            if now is not None:
                listeners.follow_tasks(transaction, now)
            if len(values) == 1:
                transaction.execute(_CREATE, values[0])
            else:
                transaction.executemany(_CREATE, values)
            if stream:  # rule 1: the same transaction
                transaction.executemany(_STREAM, stream)
                transaction.work = True

        await self._database.write(work)
        return [None] * len(rows_)

    async def _create_unknown(self, rows_: Sequence[NewTaskRow]) -> Sequence[Known | None]:
        now = to_milliseconds(self._clock.now())

        is_notified = any(row.entity.options.notify_url is not None for row in rows_)

        def work(transaction: Transaction) -> list[Known | None]:
            if is_notified:
                listeners.follow_tasks(transaction, from_milliseconds(now))
            return [_create_unknown(transaction, row, now) for row in rows_]

        return await self._database.write(work)

    async def known(self, tenant: TenantCode, key: str) -> Known | None:
        """See `ports.TaskStore`."""
        values = (tenant, key, to_milliseconds(self._clock.now()))
        return await self._database.glance(lambda connection: _known(connection.execute(_KNOWN, values).fetchone()))

    async def list_overdue(self, limit: int) -> Sequence[TaskEntity[Any]]:
        """See `ports.TaskStore`."""
        values = (to_milliseconds(self._clock.now()), limit)
        return await self._database.read(
            lambda connection: [rows.task_of(row) for row in connection.execute(_LIST_OVERDUE, values)]
        )

    async def list_stranded(self, limit: int) -> Sequence[TaskEntity[Any]]:
        """See `ports.TaskStore`. Exact."""
        values = (to_milliseconds(self._clock.now()), limit)
        return await self._database.read(
            lambda connection: [rows.task_of(row) for row in connection.execute(_STRANDED, values)]
        )

    async def next_deadline(self) -> datetime | None:
        """See `ports.TaskStore`."""
        (at,) = await self._database.read(lambda connection: connection.execute(_NEXT_DEADLINE).fetchone())
        return None if at is None else from_milliseconds(at)

    async def update(self, change: Change) -> Written | Refused:
        """See `ports.TaskStore`."""
        plan = plan_of(change, self._clock)
        raw = await self._database.write(lambda transaction: carry_out(transaction, plan))
        return outcome_of(plan, raw, self._clock)

    async def update_many(self, changes: Sequence[Change]) -> Sequence[Written | Refused]:
        """See `ports.TaskStore`."""
        plans = [plan_of(change, self._clock) for change in changes]
        raws = await self._database.write(lambda transaction: [carry_out(transaction, plan) for plan in plans])
        return [outcome_of(plan, raw, self._clock) for plan, raw in zip(plans, raws, strict=True)]

    async def get(self, key: TaskKey) -> TaskEntity[Any] | None:
        """See `ports.TaskStore`."""
        find, values = _find(key)
        row = await self._database.glance(lambda connection: connection.execute(find, values).fetchone())
        if row is None:
            return None
        return rows.sub_task_of(row) if find is _SUB_TASK else _kept(rows.task_of(row), self._clock)

    async def expired_at(self, key: TaskKey) -> datetime | None:
        """See `ports.TaskStore`."""
        values = (*_find(key)[1], to_milliseconds(self._clock.now()) // 1000)
        row = await self._database.glance(lambda connection: connection.execute(_EXPIRED_AT, values).fetchone())
        return None if row is None else from_milliseconds(row[0] * 1000)

    async def list_tasks(self, query: TaskQuery) -> tuple[Sequence[TaskEntity[Any]], TaskCode | None]:
        """See `ports.TaskStore`. Looks at no more than `MAX_LOOK` tasks, so a page with a filter may be short."""
        sql, values = _listing(query, to_milliseconds(self._clock.now()) // 1000)

        def work(connection: sqlite3.Connection) -> tuple[list[TaskEntity[Any]], str | None]:
            found = connection.execute(sql, values).fetchall()
            tasks = [rows.task_of(row) for row in found[: query.limit]]
            if len(found) > query.limit:
                return tasks, tasks[-1].code
            return tasks, _next_look(connection, query)

        tasks, after = await self._database.read(work)
        return tasks, None if after is None else TaskCode(after)

    async def list_sub_tasks(self, parent: TaskKey, indexes: range) -> Sequence[TaskEntity[Any]]:
        """See `ports.TaskStore`."""
        parts = parent.parts
        values = (parts.code, indexes.start, indexes.stop, parts.tenant_code, parts.task_type)
        return await self._database.read(
            lambda connection: [rows.sub_task_of(row) for row in connection.execute(_SUB_TASKS, values)]
        )

    async def put_chunk(self, row: ChunkRow) -> bool:
        """See `ports.TaskStore`."""
        parts = row.parent.parts
        values = (parts.code, parts.tenant_code, row.run, row.chunk, row.succeeded, row.failed)
        return await self._database.write(lambda transaction: transaction.execute(_CHUNK, values).rowcount == 1)

    async def list_chunks(self, parent: TaskKey, run: int) -> Sequence[ChunkRow]:
        """See `ports.TaskStore`."""
        values = (parent.parts.code, parent.parts.tenant_code, run)

        def work(connection: sqlite3.Connection) -> list[ChunkRow]:
            return [
                ChunkRow(parent=parent, run=run, chunk=chunk, succeeded=succeeded, failed=failed)
                for chunk, succeeded, failed in connection.execute(_CHUNKS, values)
            ]

        return await self._database.read(work)


def _create_unknown(transaction: Transaction, row: NewTaskRow, now: int) -> Known | None:
    """Store the task, unless its idempotency key is known."""
    entity, idempotency = row.entity, row.idempotency
    if idempotency is not None:
        known = transaction.execute(_KNOWN, (entity.tenant_code, idempotency.key, now)).fetchone()
        if known is not None:
            return _known(known)
        expires_at = to_milliseconds(idempotency.expires_at)
        key = entity.key
        values = (entity.tenant_code, idempotency.key, idempotency.fingerprint, key.pk, key.sk, expires_at)
        transaction.execute(_KEEP_KEY, values)
        transaction.execute(_FORGET_KEYS, (now, FORGET_AT_ONCE))
    transaction.execute(_CREATE, rows.task_values(entity, row.input))
    if entity.dispatch is not None:  # rule 1: the same transaction
        transaction.execute(_STREAM, (entity.pk, entity.code, "INSERT"))
        transaction.work = True
    return None


def _known(row: Sequence[Any] | None) -> Known | None:
    return None if row is None else Known(task=TaskKey(row[0], row[1]), fingerprint=row[2])


def _kept(task: TaskEntity[Any], clock: Clock) -> TaskEntity[Any] | None:
    """The *task*, unless it has expired."""
    return None if task.ttl is not None and task.ttl <= clock.now() else task


def _listing(query: TaskQuery, now: int) -> tuple[str, list[Any]]:
    """The statement that finds one task more than the page holds."""
    look, values = _look(query)
    filters = ["(ttl IS NULL OR ttl > ?)"]
    values.append(now)
    if query.status is not None:
        filters.append("status = ?")
        values.append(rows.STATUS_LETTER[query.status])
    if query.task_type is not None:
        filters.append("type = ?")
        values.append(query.task_type)
    order = "DESC" if query.newest_first else "ASC"
    # The order is the key's, so the look breaks off after MAX_LOOK rows however many there are.
    source = f"SELECT * FROM tasks WHERE {look} ORDER BY code {order} LIMIT {MAX_LOOK}"
    sql = f"SELECT {rows.TASK_COLUMNS} FROM ({source}) WHERE {' AND '.join(filters)} ORDER BY code {order} LIMIT ?"
    return sql, [*values, query.limit + 1]


def _next_look(connection: sqlite3.Connection, query: TaskQuery) -> str | None:
    """Where to go on when the look broke off before its page was full; None when there was no more to look at."""
    look, values = _look(query)
    order = "DESC" if query.newest_first else "ASC"
    sql = f"SELECT code FROM tasks WHERE {look} ORDER BY code {order} LIMIT 2 OFFSET {MAX_LOOK - 1}"
    at = connection.execute(sql, values).fetchall()
    return at[0][0] if len(at) == 2 else None


def _look(query: TaskQuery) -> tuple[str, list[Any]]:
    pk = f"{query.kind}#{query.tenant_code}"
    failed = " AND status = 'F'" if query.status is TaskStatus.FAILED else ""  # has an index of its own
    if query.after is None:
        return f"pk = ?{failed}", [pk]
    return f"pk = ?{failed} AND code {'<' if query.newest_first else '>'} ?", [pk, query.after]


@dataclass(slots=True)
class Plan:
    """A change as SQL. Made before, and read after the transaction, which other processes wait for."""

    change: Change
    sql: str
    values: Sequence[Any]
    find: tuple[str, tuple[Any, ...]]
    """How to see what stands there when the change is refused."""
    record: tuple[str, str, str] | None
    ended: str | None
    throughput: tuple[int, str, bool] | None


Raw: TypeAlias = tuple[bool, Sequence[Any] | None]
"""Whether the change was carried out; and the row, after it if asked for, or which stood against it."""


def plan_of(change: Change, clock: Clock) -> Plan:
    """How *change* is carried out."""
    parts = change.key.parts
    is_sub_task = parts.kind is Kind.SUB_TASK
    names, values = tuple(change.patch), rows.patch_values(change.patch)
    find = _find(change.key)
    where = find[1]
    if change.guard.absent:
        history = "" if change.history is None else rows.history_text(change.history)
        return Plan(change, _insert(names), (*values, history, *where), find, None, None, None)
    guard, guard_values = _guard(change.guard, is_sub_task)
    if not is_sub_task and (change.guard.status is None or change.guard.status & TERMINAL):
        guard += " AND (ttl IS NULL OR ttl > ?)"
        guard_values.append(to_milliseconds(clock.now()) // 1000)
    adds = change.add or {}
    values += adds.values()
    if change.history is not None:
        values.append(rows.history_text(change.history))
    sql = _update(is_sub_task, names, tuple(adds), change.history is not None, guard)
    record = ended = throughput = None
    if change.patch.get("status") in TERMINAL:
        finished_at = change.patch.get("finished_at")
        if finished_at is not None:
            is_well = change.patch["status"] is TaskStatus.COMPLETED
            throughput = (to_milliseconds(finished_at) // MINUTE, f"{parts.kind}#{parts.task_type}", is_well)
        ended = None if is_sub_task else parts.code
    if not is_sub_task and change.patch.get("dispatch") is not None:
        record = (change.key.pk, parts.code, "MODIFY")
    return Plan(change, sql, (*values, *where, *guard_values), find, record, ended, throughput)


def carry_out(transaction: Transaction, plan: Plan) -> Raw:
    """Do it, if its guard holds."""
    done = transaction.execute(plan.sql, plan.values).rowcount == 1
    row = None
    if plan.change.returning or not done:  # a look in the same transaction costs less than RETURNING
        row = transaction.execute(*plan.find).fetchone()
    if not done:
        return False, row
    if plan.record is not None:  # rule 1: the same transaction
        transaction.execute(_STREAM, plan.record)
        transaction.work = True
    if plan.ended is not None:
        transaction.ended.append(plan.ended)
    if plan.throughput is not None:
        transaction.throughput[plan.throughput] += 1
    return True, row


def outcome_of(plan: Plan, raw: Raw, clock: Clock) -> Written | Refused:
    """What came of it, in the words of the port."""
    done, row = raw
    if row is None:
        return _WRITTEN if done else Refused(None)
    entity = rows.sub_task_of(row) if plan.find[0] is _SUB_TASK else rows.task_of(row)
    return Written(entity) if done else Refused(_kept(entity, clock))


_WRITTEN: Final = Written()


def _find(key: TaskKey) -> tuple[str, tuple[Any, ...]]:
    parts = key.parts
    if parts.kind is Kind.SUB_TASK:
        return _SUB_TASK, (parts.code, parts.index, parts.tenant_code, parts.task_type)
    return _TASK, (key.pk, parts.code, parts.task_type)


def _guard(guard: Guard, is_sub_task: bool) -> tuple[str, list[Any]]:
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
    if guard.unanswered is not None:
        conditions += f" AND NOT EXISTS (SELECT 1 FROM steps WHERE {_OWN_STEP[is_sub_task]} AND {_ANSWERED})"
        values.append(guard.unanswered)
    return conditions, values


_OWN_STEP: Final = {
    False: "steps.pk = tasks.pk AND steps.code = tasks.code AND steps.idx = -1",
    True: "steps.pk = 'SFN_TASK#' || sub_tasks.tenant AND steps.code = sub_tasks.parent AND steps.idx = sub_tasks.idx",
}
_ANSWERED: Final = "steps.kind = 'callback' AND steps.name = ? AND steps.answer IS NOT NULL"


@cache
def _update(sub_task: bool, names: tuple[str, ...], adds: tuple[str, ...], history: bool, guard: str) -> str:
    assignments = [f"{name} = ?" for name in names]
    assignments += [f"{name} = {name} + ?" for name in adds]
    if history:
        # rule 5: the same write
        assignments.append(
            f"history = CASE WHEN length(history) > {rows.MAX_HISTORY} "
            "THEN shortened_history(history) ELSE history END || CASE history WHEN '' THEN '' ELSE ',' END || ?"
        )
    assignments.append("version = version + 1")
    if sub_task:
        table, where = "sub_tasks", "parent = ? AND idx = ? AND tenant = ? AND type = ?"
    else:
        table, where = "tasks", "pk = ? AND code = ? AND type = ?"
    return f"UPDATE {table} SET {', '.join(assignments)} WHERE {where}{guard}"


@cache
def _insert(names: tuple[str, ...]) -> str:
    columns = (*names, "history", "parent", "idx", "tenant", "type")
    return (
        f"INSERT INTO sub_tasks ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) ON CONFLICT DO NOTHING"
    )
