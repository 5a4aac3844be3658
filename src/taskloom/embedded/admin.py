"""`ports.QueueAdmin` over SQLite."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any, Final

from taskloom.clock import from_milliseconds, to_milliseconds
from taskloom.embedded.database import MINUTE, Database, Transaction
from taskloom.model import Kind, TaskKey
from taskloom.ports import Cap, Clock, DeadLetter, LaneFigures, Pause, PauseScope, Place, Throughput, WorkerFacts
from taskloom.values import Json

FORGET_WORKERS_AFTER: Final = 24 * 60 * MINUTE
"""Milliseconds after which a worker that died is removed."""

_FACTS: Final = frozenset(item.name for item in fields(WorkerFacts))

_PAUSE: Final = "INSERT OR REPLACE INTO pauses (scope, name, at, reason, by) VALUES (?, ?, ?, ?, ?)"
_RESUME: Final = "DELETE FROM pauses WHERE scope = ? AND name = ?"
_PAUSES: Final = "SELECT scope, name, at, reason, by FROM pauses ORDER BY at, scope, name"
_LANES: Final = (
    "SELECT tenant, route, sum(visible_at <= ?1), sum(visible_at > ?1 AND held = 0), "
    "sum(visible_at > ?1 AND held = 1), min(CASE WHEN visible_at <= ?1 THEN visible_at END) FROM ("
    "SELECT q.tenant, q.route, q.visible_at, q.held FROM queue AS q "  # but for those whose task has ended
    "JOIN tasks AS t ON t.pk = q.pk AND t.code = q.code WHERE t.status IN ('P', 'I') "
    "UNION ALL "  # and what no worker has put into it yet:
    "SELECT substr(s.pk, instr(s.pk, '#') + 1), substr(s.pk, 1, instr(s.pk, '#')) || t.type, "
    "max(s.take_at, t.updated_at), 0 FROM stream AS s JOIN tasks AS t ON t.pk = s.pk AND t.code = s.code "
    "WHERE t.dispatch IS NOT NULL) GROUP BY tenant, route ORDER BY tenant, route"
)
_THROUGHPUT: Final = "SELECT minute, route, completed, failed FROM throughput WHERE minute >= ? ORDER BY minute, route"
_MESSAGE: Final = (
    "SELECT id, priority, visible_at, held FROM queue WHERE route = ?1 AND priority BETWEEN 0 AND 9 AND tenant = ?2 "
    "AND pk = ?3 AND code = ?4 AND kind = 'task'"
)
_AHEAD: Final = (
    "SELECT count(*) FROM (SELECT 1 FROM queue WHERE route = ? AND priority = ? AND tenant = ? "
    "AND (visible_at, id) < (?, ?) AND visible_at <= ? LIMIT ?)"
)
_LANES_DUE: Final = "SELECT count(*) FROM lanes WHERE priority >= ? AND due_at <= ?"
_WAITING: Final = (
    "SELECT pk, type, code FROM tasks WHERE status IN ('P', 'I') AND (pk, code) > (?1, ?2) AND status = 'P' "
    "AND (?3 IS NULL OR pk IN ('SFN_TASK#' || ?3, 'TASK#' || ?3)) AND (?4 IS NULL OR type = ?4) "
    "ORDER BY pk, code LIMIT ?5"
)
_LETTERS: Final = (
    "SELECT id, at, pk, type, code, failures, reason FROM dead_letters "
    "WHERE id > ?1 AND (?2 IS NULL OR substr(pk, instr(pk, '#') + 1) = ?2) ORDER BY id LIMIT ?3"
)
_FORGET: Final = "DELETE FROM dead_letters WHERE id = ?"
_TAKE_DUTY: Final = (
    "INSERT INTO duties (name, until) VALUES (?1, ?3) "
    "ON CONFLICT DO UPDATE SET until = excluded.until WHERE until <= ?2"
)
_REPORT_DUTY: Final = "UPDATE duties SET facts = ? WHERE name = ?"
_DUTY: Final = "SELECT facts FROM duties WHERE name = ?"
_BEAT: Final = "INSERT OR REPLACE INTO workers (name, seen_at, facts) VALUES (?, ?, ?)"
_LEAVE: Final = "DELETE FROM workers WHERE name = ?"
_GONE: Final = "DELETE FROM workers WHERE seen_at < ?"
_WORKERS: Final = "SELECT facts, seen_at FROM workers WHERE seen_at >= ? ORDER BY name"


class SqliteQueueAdmin:
    """Looks at the table `queue` and those beside it."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def pause(self, pause: Pause) -> None:
        """See `ports.QueueAdmin`."""
        values = (str(pause.scope), pause.name, to_milliseconds(pause.at), pause.reason, pause.by)
        await self._database.write(lambda transaction: _ignore(transaction.execute(_PAUSE, values)))

    async def resume(self, scope: PauseScope, name: str) -> bool:
        """See `ports.QueueAdmin`."""

        def work(transaction: Transaction) -> bool:
            transaction.work = True
            return transaction.execute(_RESUME, (str(scope), name)).rowcount == 1

        return await self._database.write(work)

    async def pauses(self) -> Sequence[Pause]:
        """See `ports.QueueAdmin`."""
        return [
            Pause(scope=PauseScope(scope), name=name, at=from_milliseconds(at), reason=reason, by=by)
            for scope, name, at, reason, by in await self._rows(_PAUSES, ())
        ]

    async def lanes(self) -> Sequence[LaneFigures]:
        """See `ports.QueueAdmin`."""
        found = await self._rows(_LANES, (to_milliseconds(self._clock.now()),))
        return [
            LaneFigures(
                tenant_code=tenant,
                kind=Kind(route.partition("#")[0]),
                task_type=route.partition("#")[2],
                waiting=waiting,
                delayed=delayed,
                in_flight=in_flight,
                oldest_at=None if oldest is None else from_milliseconds(oldest),
            )
            for tenant, route, waiting, delayed, in_flight, oldest in found
        ]

    async def throughput(self, since: datetime) -> Sequence[Throughput]:
        """See `ports.QueueAdmin`."""
        found = await self._rows(_THROUGHPUT, (to_milliseconds(since) // MINUTE,))
        return [
            Throughput(
                minute=from_milliseconds(minute * MINUTE),
                kind=Kind(route.partition("#")[0]),
                task_type=route.partition("#")[2],
                completed=completed,
                failed=failed,
            )
            for minute, route, completed, failed in found
        ]

    async def place(self, key: TaskKey, limit: int) -> Place | None:
        """See `ports.QueueAdmin`."""
        parts, now = key.parts, to_milliseconds(self._clock.now())
        route = f"{parts.kind}#{parts.task_type}"

        def work(connection: sqlite3.Connection) -> Place | None:
            row = connection.execute(_MESSAGE, (route, parts.tenant_code, key.pk, parts.code)).fetchone()
            if row is None:
                return None
            id_, priority, visible_at, held = row
            values = (route, priority, parts.tenant_code, visible_at, id_, now, limit + 1)
            (ahead,) = connection.execute(_AHEAD, values).fetchone()
            (lanes,) = connection.execute(_LANES_DUE, (priority, now)).fetchone()
            return Place(
                visible_at=from_milliseconds(visible_at),
                is_held=bool(held) and visible_at > now,
                ahead=min(ahead, limit),
                is_exact=ahead <= limit,
                lanes=lanes,
            )

        return await self._database.read(work)

    async def waiting(
        self, tenant_code: str | None, task_type: str | None, after: TaskKey | None, limit: int
    ) -> Sequence[TaskKey]:
        """See `ports.QueueAdmin`."""
        last = ("", "") if after is None else (after.pk, after.parts.code)
        found = await self._rows(_WAITING, (*last, tenant_code, task_type, limit))
        return [TaskKey(pk, f"{type_}#{code}") for pk, type_, code in found]

    async def dead_letters(self, tenant_code: str | None, after: int, limit: int) -> Sequence[DeadLetter]:
        """See `ports.QueueAdmin`."""
        return [
            DeadLetter(
                id=id_, at=from_milliseconds(at), key=TaskKey(pk, f"{type_}#{code}"), failures=failures, reason=reason
            )
            for id_, at, pk, type_, code, failures, reason in await self._rows(_LETTERS, (after, tenant_code, limit))
        ]

    async def remove_dead_letters(self, ids: Sequence[int]) -> None:
        """See `ports.QueueAdmin`."""
        values = [(id_,) for id_ in ids]
        await self._database.write(lambda transaction: _ignore(transaction.executemany(_FORGET, values)))

    async def take_duty(self, name: str, now: datetime, until: datetime) -> bool:
        """See `ports.QueueAdmin`."""
        values = (name, to_milliseconds(now), to_milliseconds(until))
        return await self._database.write(
            lambda transaction: transaction.execute(_TAKE_DUTY, values).rowcount == 1, durable=False
        )

    async def report_duty(self, name: str, facts: Mapping[str, Json]) -> None:
        """See `ports.QueueAdmin`."""
        values = (json.dumps(facts), name)
        await self._database.write(
            lambda transaction: _ignore(transaction.execute(_REPORT_DUTY, values)), durable=False
        )

    async def duty(self, name: str) -> Mapping[str, Json] | None:
        """See `ports.QueueAdmin`."""
        found = await self._rows(_DUTY, (name,))
        return None if not found or found[0][0] is None else json.loads(found[0][0])

    async def beat(self, worker: WorkerFacts) -> None:
        """See `ports.QueueAdmin`."""
        seen_at = to_milliseconds(worker.seen_at)
        facts = asdict(worker) | {"started_at": to_milliseconds(worker.started_at)}
        del facts["seen_at"]

        def work(transaction: Transaction) -> None:
            transaction.execute(_BEAT, (worker.name, seen_at, json.dumps(facts, ensure_ascii=False)))
            transaction.execute(_GONE, (seen_at - FORGET_WORKERS_AFTER,))

        await self._database.write(work, durable=False)

    async def leave(self, name: str) -> None:
        """See `ports.QueueAdmin`."""
        await self._database.write(lambda transaction: _ignore(transaction.execute(_LEAVE, (name,))), durable=False)

    async def workers(self, seen_since: datetime) -> Sequence[WorkerFacts]:
        """See `ports.QueueAdmin`."""
        found = await self._rows(_WORKERS, (to_milliseconds(seen_since),))
        return [_worker(json.loads(text), seen_at) for text, seen_at in found]

    async def _rows(self, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        return await self._database.read(lambda connection: connection.execute(sql, values).fetchall())


def _worker(facts: dict[str, Any], seen_at: int) -> WorkerFacts:
    # What a worker of a newer version says beside that is left out: versions live side by side while they are replaced.
    known = {name: value for name, value in facts.items() if name in _FACTS}
    known |= {"started_at": from_milliseconds(facts["started_at"]), "seen_at": from_milliseconds(seen_at)}
    known["caps"] = {type_: Cap(**cap) for type_, cap in facts.get("caps", {}).items()}
    return WorkerFacts(**known)


def _ignore(_: object) -> None:
    return None
