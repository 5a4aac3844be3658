"""`ports.ChangeStream` and `ports.Queue` over SQLite."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from taskloom.clock import from_milliseconds, to_milliseconds
from taskloom.embedded import lanes, rows
from taskloom.embedded.database import Database, Transaction
from taskloom.model import Kind, TaskKey, TaskOptions, TaskStatus
from taskloom.ports import (
    Clock,
    Delivery,
    MessageKind,
    Receipt,
    Served,
    StreamFailure,
    StreamRecord,
    TaskMessage,
)

_TAKE: Final = (
    "UPDATE stream SET take_at = ? WHERE sequence IN "
    "(SELECT sequence FROM stream WHERE take_at <= ? ORDER BY sequence LIMIT ?) "
    "RETURNING sequence, pk, code, event_name, failures"
)
_IMAGE: Final = f"SELECT {rows.TASK_COLUMNS} FROM tasks WHERE pk = ? AND code = ? AND dispatch IS NOT NULL"
_SETTLE: Final = "DELETE FROM stream WHERE sequence = ?"
_KEEP: Final = "UPDATE stream SET take_at = ?, failures = failures + 1 WHERE sequence = ? AND failures = ?"
_BURY: Final = (
    "INSERT INTO dead_letters (at, pk, code, type, event_name, failures, reason) SELECT ?, s.pk, s.code, "
    "coalesce(t.type, 'unknown'), s.event_name, s.failures + 1, ? FROM stream AS s "
    "LEFT JOIN tasks AS t ON t.pk = s.pk AND t.code = s.code WHERE s.sequence = ?"
)
_SEND: Final = (
    "INSERT INTO queue (kind, route, visible_at, event_id, pk, code, run, chunk, tenant, priority) "
    "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, substr(?5, instr(?5, '#') + 1), "
    "coalesce(?9, (SELECT priority FROM tasks WHERE pk = ?5 AND code = ?6), 5))"
)
_MESSAGE: Final = (  # with how its task stands, if it is a single one
    "SELECT q.id, q.kind, q.route, q.received + 1, q.event_id, q.pk, q.code, q.run, q.chunk, t.status, t.run, "
    "t.attempt, t.fence, t.lost, t.lease_until, t.next_attempt_at, t.started_at, t.options, t.deadline_at "
    "FROM queue AS q LEFT JOIN tasks AS t ON q.route GLOB 'TASK#*' AND t.pk = q.pk AND t.code = q.code WHERE q.id = ?"
)
_RECEIVE: Final = "UPDATE queue SET visible_at = ?, received = received + 1, held = 1 WHERE id = ?"
_FORWARD: Final = (
    "INSERT INTO queue (kind, route, visible_at, event_id, pk, code, tenant, priority) "
    "SELECT 'task', substr(s.pk, 1, instr(s.pk, '#')) || t.type, ?1, printf('%032x', s.sequence), s.pk, s.code, "
    "substr(s.pk, instr(s.pk, '#') + 1), t.priority "
    "FROM (SELECT sequence, pk, code FROM stream WHERE take_at <= ?1 ORDER BY sequence LIMIT ?2) AS s "
    "JOIN tasks AS t ON t.pk = s.pk AND t.code = s.code WHERE t.dispatch IS NOT NULL ORDER BY s.sequence"
)
_FORGET: Final = (
    "DELETE FROM stream WHERE sequence IN (SELECT sequence FROM stream WHERE take_at <= ?1 ORDER BY sequence LIMIT ?2)"
)
_DELETE: Final = "DELETE FROM queue WHERE id = ? AND received = ?"
_RELEASE: Final = "UPDATE queue SET visible_at = ?, held = 0 WHERE id = ? AND received = ?"
_EXTEND: Final = "UPDATE queue SET visible_at = ? WHERE id = ? AND received = ? AND held = 1"

_KINDS: Final = {str(kind): kind for kind in MessageKind}


class SqliteChangeStream:
    """The records of the table `stream`, each written in the transaction of the write that it tells of."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def take(self, limit: int, *, again_at: datetime) -> Sequence[StreamRecord]:
        """See `ports.ChangeStream`."""
        now, later = to_milliseconds(self._clock.now()), to_milliseconds(again_at)

        def work(transaction: Transaction) -> list[StreamRecord]:
            records = []
            for sequence, pk, code, event_name, failures in transaction.execute(_TAKE, (later, now, limit)).fetchall():
                row = transaction.execute(_IMAGE, (pk, code)).fetchone()
                if row is None:
                    transaction.execute(_SETTLE, (sequence,))
                    continue
                records.append(
                    StreamRecord(
                        sequence=sequence,
                        event_id=f"{sequence:032x}",
                        event_name=event_name,
                        image=rows.task_of(row),
                        failures=failures,
                    )
                )
            records.sort(key=lambda record: record.sequence)
            return records

        return await self._database.write(work, durable=False)

    async def forward(self, limit: int) -> int:
        """See `ports.ChangeStream`."""
        values = (to_milliseconds(self._clock.now()), limit)

        def work(transaction: Transaction) -> int:
            transaction.execute(_FORWARD, values)
            count = transaction.execute(_FORGET, values).rowcount
            transaction.work = transaction.work or count > 0
            return count

        # Not durable: what a power cut takes back is both, the removal of the record and the message.
        return await self._database.write(work, durable=False)

    async def settle(self, done: Sequence[tuple[int, TaskMessage | None]], failures: Sequence[StreamFailure]) -> None:
        """See `ports.ChangeStream`."""
        now = to_milliseconds(self._clock.now())

        def work(transaction: Transaction) -> None:
            for sequence, message in done:
                removed = transaction.execute(_SETTLE, (sequence,)).rowcount
                if removed and message is not None:
                    code = message.key.parts.code
                    route = f"{message.kind}#{message.task_type}"
                    values = (MessageKind.TASK, route, now, message.event_id, message.key.pk, code, 1, None, None)
                    transaction.execute(_SEND, values)
            for failure in failures:
                if failure.retry_at is None:
                    transaction.execute(_BURY, (now, failure.reason, failure.sequence))
                    transaction.execute(_SETTLE, (failure.sequence,))
                else:
                    transaction.execute(_KEEP, (to_milliseconds(failure.retry_at), failure.sequence, failure.failures))
            transaction.work = True

        # Not durable: what a power cut takes back is both, the removal of the record and the message.
        await self._database.write(work, durable=False)

    async def next_due(self) -> datetime | None:
        """See `ports.ChangeStream`."""
        return await self._database.read(
            lambda connection: _instant(connection.execute("SELECT min(take_at) FROM stream").fetchone()[0])
        )


class SqliteQueue:
    """The messages of the table `queue`: tasks to be run, and the steps of executions."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._is_capped = False
        """Whether a message that is done with may make room for others that are due."""

    async def receive(self, served: Served, limit: int, *, visible_at: datetime) -> Sequence[Delivery]:
        """See `ports.Queue`."""
        now, until = to_milliseconds(self._clock.now()), to_milliseconds(visible_at)
        self._is_capped = self._is_capped or bool(served.caps)

        def work(transaction: Transaction) -> list[tuple[Any, ...]]:
            with lanes.taking_turns(transaction, served, now, limit) as ids:
                # Entities are made of them after the transaction, which other processes wait for.
                messages = [transaction.execute(_MESSAGE, (id_,)).fetchone() for id_ in ids]
                transaction.executemany(_RECEIVE, [(until, id_) for id_ in ids])
                return messages

        # Not durable: whoever loses a delivery in a power cut was not there to make use of it.
        return [_delivery(row) for row in await self._database.write(work, durable=False)]

    async def delete(self, receipts: Sequence[Receipt]) -> None:
        """See `ports.Queue`."""
        values = [(receipt.id, receipt.count) for receipt in receipts]

        def work(transaction: Transaction) -> None:
            transaction.executemany(_DELETE, values)
            transaction.work = transaction.work or self._is_capped

        await self._database.write(work, durable=False)

    async def release(self, receipt: Receipt, at: datetime) -> None:
        """See `ports.Queue`."""

        def work(transaction: Transaction) -> None:
            transaction.execute(_RELEASE, (to_milliseconds(at), receipt.id, receipt.count))
            transaction.work = True

        await self._database.write(work, durable=False)

    async def extend(self, receipts: Sequence[Receipt], visible_at: datetime) -> None:
        """See `ports.Queue`."""
        values = [(to_milliseconds(visible_at), receipt.id, receipt.count) for receipt in receipts]
        await self._database.write(lambda transaction: _ignore(transaction.executemany(_EXTEND, values)), durable=False)

    async def next_due(self, served: Served) -> datetime | None:
        """See `ports.Queue`."""

        now = to_milliseconds(self._clock.now())
        return _instant(await self._database.read(lambda connection: lanes.next_due(connection, served, now)))


def _delivery(raw: tuple[Any, ...]) -> Delivery:
    id_, kind, route, received, event_id, pk, code, run, chunk, *standing = raw
    task_kind, _, task_type = route.partition("#")
    return Delivery(
        receipt=Receipt(id=id_, count=received),
        kind=_KINDS[kind],
        message_id=f"{id_:032x}",
        event_id=event_id,
        key=TaskKey.single(pk.partition("#")[2], task_type, code)
        if task_kind == Kind.TASK
        else TaskKey(pk, f"{task_type}#{code}"),
        task_kind=Kind.TASK if task_kind == Kind.TASK else Kind.SFN_TASK,
        task_type=task_type,
        run=run,
        chunk=chunk,
        standing=None if standing[0] is None else _standing(standing),
        received=received,
    )


def send_step(
    transaction: Transaction, kind: MessageKind, key: TaskKey, *, run: int, chunk: int | None, at: int
) -> None:
    """Queue a step of an execution."""
    parts = key.parts
    priority = None if kind is MessageKind.CHUNK else lanes.ENGINE
    values = (kind, f"{Kind.SFN_TASK}#{parts.task_type}", at, "", key.pk, parts.code, run, chunk, priority)
    transaction.execute(_SEND, values)
    transaction.work = True


class _Standing(NamedTuple):
    """`lifecycle.Standing` of a row."""

    status: TaskStatus
    run: int
    attempt: int
    fence: int
    lost: int
    lease_until: datetime | None
    next_attempt_at: datetime | None
    started_at: datetime | None
    options: TaskOptions
    deadline_at: datetime | None


def _standing(row: Sequence[Any]) -> _Standing:
    status, run, attempt, fence, lost, lease_until, next_attempt_at, started_at, options, deadline_at = row
    return _Standing(
        rows.STATUS_OF[status],
        run,
        attempt,
        fence,
        lost,
        _instant(lease_until),
        _instant(next_attempt_at),
        _instant(started_at),
        rows.options_of(options),
        _instant(deadline_at),
    )


def _instant(value: int | None) -> datetime | None:
    return None if value is None else from_milliseconds(value)


def _ignore(_: object) -> None:
    return None
