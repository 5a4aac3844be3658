"""`ports.Steps` over SQLite."""

from collections.abc import Sequence
from typing import Any, Final

from taskloom.clock import from_milliseconds, to_milliseconds
from taskloom.embedded.database import Database, Transaction
from taskloom.embedded.state_machine import wake_chunk
from taskloom.embedded.store import carry_out, outcome_of, plan_of
from taskloom.embedded.task_logs import TOP_LEVEL
from taskloom.lifecycle import Change, Refused, Written
from taskloom.model import TaskKey
from taskloom.ports import Answer, Clock, Step, StepKind
from taskloom.values import EncodedJson

_COLUMNS: Final = (
    "pk, code, idx, kind, name, type, version, write_id, run, at, until, token, answer, result, result_ref"
)
_STEP: Final = "pk = ? AND code = ? AND idx = ? AND kind = ? AND name = ?"
_GET: Final = f"SELECT {_COLUMNS} FROM steps WHERE {_STEP}"
_FIND: Final = f"SELECT {_COLUMNS} FROM steps WHERE token = ?"
_PUT: Final = (
    f"INSERT INTO steps ({_COLUMNS}) VALUES ({', '.join('?' * 15)}) ON CONFLICT (pk, code, idx, kind, name) DO UPDATE "
    "SET version = excluded.version, write_id = excluded.write_id, run = excluded.run, at = excluded.at, "
    "until = excluded.until, token = excluded.token, answer = excluded.answer, result = excluded.result, "
    "result_ref = excluded.result_ref"
)
_DROP_MESSAGE: Final = (  # by the time for which it was put off, so that the index finds it
    "DELETE FROM queue WHERE route = ?1 AND priority = (SELECT priority FROM tasks WHERE pk = ?2 AND code = ?3) "
    "AND tenant = ?4 AND visible_at = ?5 AND pk = ?2 AND code = ?3 AND held = 0"
)
_NEXT_ATTEMPT: Final = "SELECT next_attempt_at FROM tasks WHERE pk = ? AND code = ?"


class SqliteSteps:
    """Steps in the table of the same name."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def get(self, key: TaskKey, kind: StepKind, name: str) -> Step | None:
        """See `ports.Steps`."""
        values = (*_task(key), kind, name)
        row = await self._database.glance(lambda connection: connection.execute(_GET, values).fetchone())
        return None if row is None else _step(row)

    async def find(self, token: str) -> Step | None:
        """See `ports.Steps`."""
        row = await self._database.glance(lambda connection: connection.execute(_FIND, (token,)).fetchone())
        return None if row is None else _step(row)

    async def put(self, step: Step, change: Change, *, chunk: int | None = None) -> Written | Refused | Step:
        """See `ports.Steps`."""
        plan, values = plan_of(change, self._clock), _values(step)
        now = to_milliseconds(self._clock.now())

        def work(transaction: Transaction) -> tuple[bool | None, Sequence[Any] | None]:
            standing = transaction.execute(_GET, values[:5]).fetchone()
            if (0 if standing is None else standing[_VERSION]) != step.version - 1:
                return None, standing
            put_off = None
            if plan.record is not None:
                put_off = transaction.execute(_NEXT_ATTEMPT, (change.key.pk, change.key.parts.code)).fetchone()
            raw = carry_out(transaction, plan)
            if raw[0]:
                transaction.execute(_PUT, values)
                if put_off is not None and put_off[0] is not None:
                    _drop_message(transaction, change.key, put_off[0])
                if chunk is not None:
                    wake_chunk(transaction, step.key.parent, step.run, chunk, now)
            return raw

        done, row = await self._database.write(work)
        if done is None:
            return Refused(None) if row is None else _step(row)
        return outcome_of(plan, (done, row), self._clock)


def _drop_message(transaction: Transaction, key: TaskKey, visible_at: int) -> None:
    """The message of a task that waited, which gets another one now."""
    parts = key.parts
    route = f"{parts.kind}#{parts.task_type}"
    transaction.execute(_DROP_MESSAGE, (route, key.pk, parts.code, parts.tenant_code, visible_at))


def _task(key: TaskKey) -> tuple[str, str, int]:
    parts = key.parts
    return key.parent.pk, parts.code, TOP_LEVEL if parts.index is None else parts.index


_VERSION: Final = 6


def _values(step: Step) -> tuple[Any, ...]:
    until = None if step.until is None else to_milliseconds(step.until)
    return (
        *_task(step.key),
        step.kind,
        step.name,
        step.key.parts.task_type,
        step.version,
        step.write_id,
        step.run,
        to_milliseconds(step.at),
        until,
        step.token,
        step.answer,
        step.result,
        step.result_ref,
    )


def _step(row: Sequence[Any]) -> Step:
    pk, code, index, kind, name, type_, version, write_id, run, at, until, token, answer, result, result_ref = row
    key = TaskKey(pk, f"{type_}#{code}")
    if index != TOP_LEVEL:
        key = TaskKey.sub_task(key.tenant_code, type_, code, index)
    return Step(
        key=key,
        kind=StepKind(kind),
        name=name,
        version=version,
        write_id=write_id,
        run=run,
        at=from_milliseconds(at),
        until=None if until is None else from_milliseconds(until),
        token=token,
        answer=None if answer is None else Answer(answer),
        result=None if result is None else EncodedJson(result),
        result_ref=result_ref,
    )
