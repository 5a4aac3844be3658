"""`ports.StateMachine` over SQLite: Map over chunks → Collect → Finalize.

An execution is a row of `executions`, and what it waits for are messages of its own in the queue: at most `at_once`
chunks, or one collect, or one finalize. Whoever reports a step queues the next one in the same transaction, so that an
execution always has a message on its way until it has ended.

A chunk with something left frees its place for others, and comes again in the same pass, as soon as it is due and a
place is free: there is no need to wait for the rest of the pass, as Step Functions must.
"""

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from taskloom.clock import from_milliseconds, to_milliseconds
from taskloom.embedded.database import Database, Transaction
from taskloom.embedded.lanes import ENGINE
from taskloom.embedded.queues import send_step
from taskloom.errors import TaskTokenNotFound
from taskloom.model import Kind, TaskKey
from taskloom.ports import (
    Clock,
    Delivery,
    Execution,
    ExecutionInput,
    ExecutionStatus,
    MessageKind,
    StepOutcome,
)
from taskloom.values import Json

ARN_PREFIX: Final = "arn:taskloom:states:local:000000000000:execution:sfn-task:"

_COLUMNS: Final = "name, pk, sk, run, status, chunks, at_once, started_at, stopped_at"
_START: Final = (
    "INSERT INTO executions (name, pk, sk, run, status, chunks, at_once, next, flying, started_at, todo) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_FIND: Final = f"SELECT {_COLUMNS} FROM executions WHERE name = ?"
_PROMISED: Final = "SELECT 1 FROM tasks WHERE execution_arn = ? AND (ttl IS NULL OR ttl > ?)"
_EXPIRED: Final = "SELECT 1 FROM tasks WHERE pk = ? AND code = ? AND ttl <= ?"
_STATE: Final = (
    "SELECT chunks, at_once, next, todo, flying FROM executions WHERE pk = ? AND sk = ? AND run = ? "
    "AND name = ? AND status = 'RUNNING'"
)
_ADVANCE: Final = "UPDATE executions SET next = ?, flying = ? WHERE name = ?"
_AGAIN: Final = "UPDATE executions SET pass = pass + 1, todo = ?, next = ?, flying = ? WHERE name = ?"
_WAIT: Final = "INSERT INTO chunk_waits (execution, at, chunk) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_FIRST_WAIT: Final = "SELECT at, chunk FROM chunk_waits WHERE execution = ? ORDER BY at, chunk LIMIT 1"
_WAIT_OVER: Final = "DELETE FROM chunk_waits WHERE execution = ? AND at = ? AND chunk = ?"
_NO_WAITS: Final = "DELETE FROM chunk_waits WHERE execution = ?"
_HURRY: Final = (  # also past a pause, and past what waits before it
    f"UPDATE queue SET visible_at = CASE held WHEN 0 THEN ?1 ELSE visible_at END, priority = {ENGINE} "
    "WHERE route = ?2 AND kind != 'task' "
    "AND pk = ?3 AND code = ?4 AND run = ?5"
)
_STALL: Final = (
    "UPDATE executions SET flying = 1 WHERE name = ?1 AND status = 'RUNNING' "
    "AND NOT EXISTS (SELECT 1 FROM queue WHERE pk = ?2 AND code = ?3 AND run = ?4 AND kind != 'task')"
)
_WAKE_MESSAGE: Final = (  # of a chunk; one in the hands of a worker is marked
    "UPDATE queue SET woken = held, visible_at = CASE held WHEN 0 THEN min(visible_at, ?1) ELSE visible_at END "
    "WHERE route = ?2 AND kind = 'chunk' AND pk = ?3 AND code = ?4 AND run = ?5 AND chunk = ?6"
)
_WAKE_WAIT: Final = "DELETE FROM chunk_waits WHERE execution = ? AND chunk = ?"
_PUT_OFF: Final = (  # the chunk that is on its way, but not due, and last in time
    "SELECT id, chunk, visible_at FROM queue WHERE route = ?2 AND kind = 'chunk' AND pk = ?3 AND code = ?4 "
    "AND run = ?5 AND held = 0 AND visible_at > ?1 ORDER BY visible_at DESC, id DESC LIMIT 1"
)
_TAKE_BACK: Final = "DELETE FROM queue WHERE id = ?"
_SETTLE: Final = "DELETE FROM queue WHERE id = ? AND received = ? RETURNING woken"
_END: Final = "UPDATE executions SET status = 'SUCCEEDED', stopped_at = ? WHERE name = ?"


class SqliteStateMachine:
    """Executions of the one state machine there is, `sfn-task`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def arn(self, name: str) -> str:
        """See `ports.StateMachine`."""
        return ARN_PREFIX + name

    async def start(self, name: str, input: ExecutionInput) -> Execution:
        """See `ports.StateMachine`."""
        now = to_milliseconds(self._clock.now())
        key = input.key
        chunks = range(input.chunks) if input.todo is None else input.todo
        first = min(len(chunks), input.at_once)

        def work(transaction: Transaction) -> Execution:
            values = (
                name,
                key.pk,
                key.sk,
                input.run,
                ExecutionStatus.RUNNING,
                input.chunks,
                input.at_once,
                first,
                max(first, 1),
                now,
                None if input.todo is None else json.dumps(list(input.todo)),
            )
            if transaction.execute(_START, values).rowcount == 1:
                for chunk in chunks[:first]:
                    send_step(transaction, MessageKind.CHUNK, key, run=input.run, chunk=chunk, at=now)
                if not first:
                    send_step(transaction, MessageKind.COLLECT, key, run=input.run, chunk=None, at=now)
            return _execution(transaction.execute(_FIND, (name,)).fetchone())

        return await self._database.write(work)

    async def describe(self, arn: str) -> Execution | None:
        """See `ports.StateMachine`."""
        if not arn.startswith(ARN_PREFIX):
            return None
        name, now = arn.removeprefix(ARN_PREFIX), to_milliseconds(self._clock.now()) // 1000

        def work(connection: sqlite3.Connection) -> Execution | None:
            row = connection.execute(_FIND, (name,)).fetchone()
            if row is not None:
                execution = _execution(row)
                task = (row[1], row[2].partition("#")[2], now)  # an execution goes with its task
                return None if connection.execute(_EXPIRED, task).fetchone() else execution
            promised = connection.execute(_PROMISED, (arn, now)).fetchone() is not None
            return _pending(name) if promised else None

        return await self._database.read(work)

    async def report(self, delivery: Delivery, outcome: StepOutcome) -> None:
        """See `ports.StateMachine`."""
        now = to_milliseconds(self._clock.now())
        await self._database.write(lambda transaction: _report(transaction, delivery, outcome, now))

    async def hurry(self, key: TaskKey, run: int) -> None:
        """See `ports.StateMachine`."""
        parts = key.parts
        route = f"{Kind.SFN_TASK}#{parts.task_type}"
        values = (to_milliseconds(self._clock.now()), route, key.pk, parts.code, run)

        def work(transaction: Transaction) -> None:
            if transaction.execute(_HURRY, values).rowcount:
                transaction.work = True

        await self._database.write(work, durable=False)

    async def revive(self, key: TaskKey, run: int) -> bool:
        """See `ports.StateMachine`."""
        parts, now = key.parts, to_milliseconds(self._clock.now())
        name = _name(parts.code, run)

        def work(transaction: Transaction) -> bool:
            if transaction.execute(_STALL, (name, key.pk, parts.code, run)).rowcount == 0:
                return False
            transaction.execute(_NO_WAITS, (name,))  # the collect finds them all
            send_step(transaction, MessageKind.COLLECT, key, run=run, chunk=None, at=now)
            return True

        return await self._database.write(work)

    async def resume(self, task_token: str, output: Json) -> None:  # noqa: ARG002 - no step waits for a token
        """See `ports.StateMachine`. No step of this machine waits for a token, so every token is unknown."""
        raise TaskTokenNotFound("nobody waits for this task token (any more)")


def wake_chunk(transaction: Transaction, key: TaskKey, run: int, chunk: int, now: int) -> None:
    """The *chunk* of the fan-out *key* has something to do now: what it waits for is over."""
    parts = key.parts
    name, route = _name(parts.code, run), f"{Kind.SFN_TASK}#{parts.task_type}"
    transaction.work = True
    if transaction.execute(_WAKE_MESSAGE, (now, route, key.pk, parts.code, run, chunk)).rowcount:
        return
    if not transaction.execute(_WAKE_WAIT, (name, chunk)).rowcount:
        return
    # It takes the place of one that is not due yet; where all of them run, it is next as soon as one of them has.
    last = transaction.execute(_PUT_OFF, (now, route, key.pk, parts.code, run)).fetchone()
    if last is None:
        transaction.execute(_WAIT, (name, now, chunk))
        return
    message, other, at = last
    transaction.execute(_TAKE_BACK, (message,))
    transaction.execute(_WAIT, (name, at, other))
    send_step(transaction, MessageKind.CHUNK, key, run=run, chunk=chunk, at=now)


def _name(code: str, run: int) -> str:
    return code if run == 1 else f"{code}-{run}"


def _report(transaction: Transaction, delivery: Delivery, outcome: StepOutcome, now: int) -> None:
    settled = transaction.execute(_SETTLE, (delivery.receipt.id, delivery.receipt.count)).fetchone()
    if settled is None:
        return
    name = _name(delivery.key.parts.code, delivery.run)
    row = transaction.execute(_STATE, (delivery.key.pk, delivery.key.sk, delivery.run, name)).fetchone()
    if row is None:
        return
    chunks, at_once, next_, todo, flying = row
    match delivery.kind:
        case MessageKind.CHUNK:
            left = json.loads(todo) if todo is not None else range(chunks)
            if outcome.again_at is not None:
                again_at = now if settled[0] else to_milliseconds(outcome.again_at)
                transaction.execute(_WAIT, (name, again_at, delivery.chunk))
            if outcome.stop:
                next_ = len(left)
                transaction.execute(_NO_WAITS, (name,))
            wait = transaction.execute(_FIRST_WAIT, (name,)).fetchone()
            if wait is not None and (wait[0] <= now or next_ == len(left)):
                at, chunk = wait
                transaction.execute(_WAIT_OVER, (name, at, chunk))
                _send(transaction, delivery, MessageKind.CHUNK, chunk, at)
            elif next_ < len(left):
                _send(transaction, delivery, MessageKind.CHUNK, left[next_], now)
                next_ += 1
            elif flying == 1:
                _send(transaction, delivery, MessageKind.COLLECT, None, now)
            else:
                flying -= 1
            transaction.execute(_ADVANCE, (next_, flying, name))
        case MessageKind.COLLECT if not outcome.left:
            _send(transaction, delivery, MessageKind.FINALIZE, None, now)
        case MessageKind.COLLECT | MessageKind.FINALIZE if outcome.left:
            _map_again(transaction, delivery, outcome.left, at_once, now)
        case _:
            transaction.execute(_END, (now, name))


def _map_again(transaction: Transaction, delivery: Delivery, left: Sequence[int], at_once: int, at: int) -> None:
    first = min(len(left), at_once)
    for chunk in left[:first]:
        _send(transaction, delivery, MessageKind.CHUNK, chunk, at)
    name = _name(delivery.key.parts.code, delivery.run)
    transaction.execute(_AGAIN, (json.dumps(list(left)), first, first, name))


def _send(transaction: Transaction, delivery: Delivery, kind: MessageKind, chunk: int | None, at: int) -> None:
    send_step(transaction, kind, delivery.key, run=delivery.run, chunk=chunk, at=at)


def _pending(name: str) -> Execution:
    return Execution(
        arn=ARN_PREFIX + name,
        name=name,
        status=ExecutionStatus.PENDING,
        input=None,
        started_at=None,
        stopped_at=None,
    )


def _execution(row: Sequence[Any]) -> Execution:
    name, pk, sk, run, status, chunks, at_once, started_at, stopped_at = row
    return Execution(
        arn=ARN_PREFIX + name,
        name=name,
        status=ExecutionStatus(status),
        input=ExecutionInput(key=TaskKey(pk, sk), run=run, chunks=chunks, at_once=at_once),
        started_at=from_milliseconds(started_at),
        stopped_at=None if stopped_at is None else from_milliseconds(stopped_at),
    )
