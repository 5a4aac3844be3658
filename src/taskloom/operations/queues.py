"""What operators see of the queues, and do with them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from taskloom import lifecycle, model
from taskloom.errors import InvalidInput, TaskNotFound, TaskOpen
from taskloom.execution.reconciler import DUTY
from taskloom.execution.writes import write_many
from taskloom.lifecycle import Written
from taskloom.model import Kind, TaskKey, TaskStatus
from taskloom.operations.checks import short
from taskloom.operations.finding import Finding
from taskloom.operations.paging import all_behind
from taskloom.operations.steering import Steering
from taskloom.policy import number, whole_number
from taskloom.ports import Backend, DeadLetter, LaneFigures, Pause, PauseScope, Throughput, WorkerFacts
from taskloom.values import Json

ALIVE: Final = timedelta(seconds=30)
"""How long a worker counts as alive that was not seen again: it says three times as often that it lives."""
RATE_OVER: Final = timedelta(minutes=5)
"""Over how long the rate is measured."""
PAGE: Final = 200
MAX_LETTERS: Final = 1000
MAX_EXPIRED: Final = 100_000
MAX_ID: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFigures:
    """One tenant's tasks of one type in the queue."""

    tenant_code: str
    kind: Kind
    task_type: str
    waiting: int
    """Messages that are due: tasks to be started, and of fan-outs the chunks too."""
    delayed: int
    """Not due yet: they wait for another attempt."""
    in_flight: int
    """In the hands of workers."""
    oldest_age: float
    """Seconds for which the oldest of those that wait has been due; 0 when none is."""
    rate: float
    """Tasks of this type that ended per second, of all tenants, over the last five minutes; while workers have been
    there for a shorter time, over that."""
    dead_letters: int
    is_paused: bool


class Queues:
    """Depths, workers, pauses, purging and dead letters: `TaskService.queues`.

    It speaks of all tenants unless one is named, so it is for operators, not for tenants.
    """

    def __init__(self, backend: Backend, finding: Finding, steering: Steering) -> None:
        self._backend = backend
        self._finding = finding
        self._steering = steering

    async def figures(self, *, tenant_code: str | None = None) -> Sequence[QueueFigures]:
        """How much there is to do, per tenant, kind and task type; costs as much as there are messages.

        Raises: InvalidInput, InvalidType.
        """
        tenant = None if tenant_code is None else model.tenant_code(tenant_code)
        now, admin = self._backend.clock.now(), self._backend.admin
        lanes, pauses, workers = await asyncio.gather(admin.lanes(), admin.pauses(), self.workers())
        throughput = await admin.throughput(now - RATE_OVER)
        seen = observed(throughput, workers, now)
        letters: dict[tuple[str, Kind, str], int] = {}
        async for letter in self.iter_dead_letters(tenant_code=tenant):
            parts = letter.key.parts
            name = (parts.tenant_code, parts.kind, parts.task_type)
            letters[name] = letters.get(name, 0) + 1
        found = {(lane.tenant_code, lane.kind, lane.task_type): lane for lane in lanes}
        names = sorted(name for name in {*found, *letters} if tenant in (None, name[0]))
        return [_figures(*name, found.get(name), letters.get(name, 0), pauses, throughput, seen, now) for name in names]

    async def workers(self) -> Sequence[WorkerFacts]:
        """Workers that were alive within the last half minute, and what they run."""
        return await self._backend.admin.workers(self._backend.clock.now() - ALIVE)

    async def throughput(self, minutes: int = 60) -> Sequence[Throughput]:
        """What ended per minute, by kind and type, in the last *minutes* (at most a day)."""
        number(minutes, "minutes", low=1, high=24 * 60)
        return await self._backend.admin.throughput(self._backend.clock.now() - timedelta(minutes=minutes))

    async def pause(
        self,
        *,
        task_type: str | None = None,
        tenant_code: str | None = None,
        reason: str | None = None,
        by: str | None = None,
    ) -> None:
        """Start nothing more of a task type, or of a tenant, until `resume`; survives restarts. What runs goes on.

        A fan-out of theirs starts no further chunk. Raises: InvalidInput unless exactly one of both is given.
        """
        scope, name = _scope(task_type, tenant_code)
        short(reason, "reason")
        short(by, "by")
        pause = Pause(scope=scope, name=name, at=self._backend.clock.now(), reason=reason, by=by)
        await self._backend.admin.pause(pause)

    async def resume(self, *, task_type: str | None = None, tenant_code: str | None = None) -> bool:
        """End a pause; whether there was one. Raises: as `pause`."""
        return await self._backend.admin.resume(*_scope(task_type, tenant_code))

    async def pauses(self) -> Sequence[Pause]:
        """What is paused, since when, why and by whom."""
        return await self._backend.admin.pauses()

    async def expired(self) -> int:
        """How many tasks have expired, and wait to be removed; 100,000 stands for that many or more."""
        return await self._backend.retention.expired(MAX_EXPIRED)

    async def repairs(self) -> Mapping[str, Json] | None:
        """What the reconciler did when it looked last: `at`, `by` and `repaired`, counts by what was done."""
        return await self._backend.admin.duty(DUTY)

    async def purge(
        self,
        *,
        task_type: str | None = None,
        tenant_code: str | None = None,
        reason: str | None = None,
        by: str | None = None,
    ) -> int:
        """Cancel all tasks that are PENDING, of a type, a tenant, or a tenant's of a type; how many.

        They end CANCELLED, with the reason. Raises: InvalidInput unless at least one of both is given.
        """
        if task_type is None and tenant_code is None:
            raise InvalidInput("task_type", "is not given, and neither is tenant_code", "say what is to be purged")
        type_ = None if task_type is None else model.task_type(task_type)
        tenant = None if tenant_code is None else model.tenant_code(tenant_code)
        short(reason, "reason")
        short(by, "by")
        purged, last = 0, None
        while found := await self._backend.admin.waiting(tenant, type_, last, PAGE):
            last = found[-1]
            purged += await self._purge(found, reason, by)
        return purged

    async def _purge(self, keys: Sequence[TaskKey], reason: str | None, by: str | None) -> int:
        now, token = self._backend.clock.now(), self._backend.ids.token
        tasks = [task for key in keys if (task := await self._backend.store.get(key)) is not None]
        why = f"purged: {reason}" if reason else "purged"
        changes = [
            lifecycle.cancelled(task, reason=why, by=by, now=now, claim_id=token())
            for task in tasks
            if task.status is TaskStatus.PENDING
        ]
        if not changes:
            return 0
        return sum(isinstance(outcome, Written) for outcome in await write_many(self._backend, changes))

    async def dead_letters(
        self, *, tenant_code: str | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[DeadLetter]:
        """Tasks that could not be dispatched, with the reason, behind the id *after*; at most *limit* (up to 1,000).

        Raises: InvalidInput, InvalidType.
        """
        tenant = None if tenant_code is None else model.tenant_code(tenant_code)
        whole_number(after, "after", low=0, high=MAX_ID)
        whole_number(limit, "limit", low=1, high=MAX_LETTERS)
        return await self._backend.admin.dead_letters(tenant, after, limit)

    def iter_dead_letters(self, *, tenant_code: str | None = None) -> AsyncIterator[DeadLetter]:
        """All of them."""
        return all_behind(
            lambda after: self.dead_letters(tenant_code=tenant_code, after=after, limit=PAGE), lambda letter: letter.id
        )

    async def redrive(
        self,
        id: int | None = None,
        *,
        tenant_code: str | None = None,
        per_second: float | None = None,
        by: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Run the task of one dead letter again, or those of all; how many.

        Each starts a new run, and the letter goes. What runs again already, or has ended well since, is left alone, but
        its letter goes. *per_second* spreads them over time. *progress* is called after each letter, with how many were
        redriven so far. Raises: InvalidInput when there is no letter *id*.
        """
        if per_second is not None:
            number(per_second, "per_second", low=0.001, high=1e6)
        short(by, "by")
        redriven = 0
        if id is not None:
            whole_number(id, "id", low=1, high=MAX_ID)
            found = await self.dead_letters(tenant_code=tenant_code, after=id - 1, limit=1)
            if not found or found[0].id != id:
                raise InvalidInput("id", f"there is no dead letter {id}", "list the dead letters")
            return await self._redrive(found[0], by)
        clock = self._backend.clock
        began = clock.now()
        async for letter in self.iter_dead_letters(tenant_code=tenant_code):
            if letter.at > began:  # it was redriven, and has died again
                break
            if redriven and per_second is not None:
                await clock.wait(asyncio.Event(), clock.now() + timedelta(seconds=1 / per_second))
            redriven += await self._redrive(letter, by)
            if progress is not None:
                progress(redriven)
        return redriven

    async def _redrive(self, letter: DeadLetter, by: str | None) -> int:
        try:
            await self._steering.retry(letter.key, only_failed=True, reason="redriven from the dead letters", by=by)
            redriven = 1
        except (TaskOpen, TaskNotFound, InvalidInput):
            redriven = 0
        await self._backend.admin.remove_dead_letters([letter.id])
        return redriven


def _scope(task_type: str | None, tenant_code: str | None) -> tuple[PauseScope, str]:
    if (task_type is None) == (tenant_code is None):
        raise InvalidInput("task_type", "or tenant_code must be given, and only one of them", "say what is meant")
    if task_type is not None:
        return PauseScope.TASK_TYPE, model.task_type(task_type)
    return PauseScope.TENANT, model.tenant_code(tenant_code)


def observed(throughput: Sequence[Throughput], workers: Sequence[WorkerFacts], now: datetime) -> timedelta:
    """Over how long *throughput*, of the last five minutes, was measured: shorter when the workers have just started.

    At least a second; while nobody works, the five minutes.
    """
    if not workers:
        return RATE_OVER
    since = (now - RATE_OVER).replace(second=0, microsecond=0)  # whole minutes are counted
    started = min(worker.started_at for worker in workers)
    earlier = [minute.minute for minute in throughput if minute.minute + timedelta(minutes=1) <= started]
    return max(now - max(min([started, *earlier]), since), timedelta(seconds=1))


def rate_of(throughput: Sequence[Throughput], kind: Kind, task_type: str, seen: timedelta) -> float:
    """Tasks of this type that ended per second, measured over *seen*."""
    ended = sum(
        minute.completed + minute.failed
        for minute in throughput
        if (minute.kind, minute.task_type) == (kind, task_type)
    )
    return ended / seen.total_seconds()


def paused_by(pauses: Sequence[Pause], tenant_code: str, task_type: str) -> Pause | None:
    """The pause that holds up these tasks."""
    names = {PauseScope.TASK_TYPE: task_type, PauseScope.TENANT: tenant_code}
    return next((pause for pause in pauses if names[pause.scope] == pause.name), None)


def _figures(
    tenant: str,
    kind: Kind,
    type_: str,
    lane: LaneFigures | None,
    letters: int,
    pauses: Sequence[Pause],
    throughput: Sequence[Throughput],
    seen: timedelta,
    now: datetime,
) -> QueueFigures:
    oldest_at = None if lane is None else lane.oldest_at
    return QueueFigures(
        tenant_code=tenant,
        kind=kind,
        task_type=type_,
        waiting=0 if lane is None else lane.waiting,
        delayed=0 if lane is None else lane.delayed,
        in_flight=0 if lane is None else lane.in_flight,
        oldest_age=0.0 if oldest_at is None else (now - oldest_at).total_seconds(),
        rate=rate_of(throughput, kind, type_, seen),
        dead_letters=letters,
        is_paused=paused_by(pauses, tenant, type_) is not None,
    )
