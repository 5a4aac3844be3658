"""Where a task stands, and why: in plain words, and as data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from taskloom import lifecycle
from taskloom.execution.reconciler import DUTY as RECONCILE
from taskloom.execution.reconciler import EVERY as RECONCILE_EVERY
from taskloom.model import Kind, TaskEntity, TaskKey, TaskStatus
from taskloom.operations.finding import Finding
from taskloom.operations.queues import ALIVE, RATE_OVER, observed, paused_by, rate_of
from taskloom.policy import chunk_count
from taskloom.ports import Backend, Cap, LaneFigures, Place, WorkerFacts
from taskloom.record import parse_time, time_text
from taskloom.values import Json

NO_CAP: Final = Cap()
COUNT_TO: Final = 10_000
"""Messages before a task that are counted."""


class Cause(StrEnum):
    """What a task waits for, or what became of it."""

    ENDED = "ended"
    RUNNING = "running"
    LEASE_OVER = "lease over"
    """Its worker is gone; it is claimed again."""
    FAN_OUT_RUNS = "fan-out runs"
    ENDING = "ending"
    """A fan-out that was cancelled, or is behind its deadline, ends."""
    PAUSED = "paused"
    BACKOFF = "backoff"
    SUSPENDED = "suspended"
    """It sleeps, or waits for a callback, and holds no worker."""
    NO_WORKER = "no worker"
    """No live worker serves its type."""
    CAPPED = "capped"
    """As many of its type run as may."""
    DISPATCH = "dispatch"
    """It was created, and has no message yet."""
    TURN = "turn"
    """Others are before it."""
    TAKEN = "taken"
    """A worker has its message, and claims it."""
    REPAIR = "repair"
    """It lost its message; the reconciler will find it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Where a task stands, and why."""

    key: TaskKey
    status: TaskStatus
    cause: Cause
    text: str
    """In plain words, one sentence or a few."""
    facts: Mapping[str, Json] = field(default_factory=dict)
    """The figures in the text, by name; times are ISO 8601."""


class Explaining:
    """Finds out why a task stands where it does."""

    def __init__(self, backend: Backend, finding: Finding) -> None:
        self._backend = backend
        self._finding = finding

    async def explain(self, key: TaskKey) -> Explanation:
        """See `TaskService.explain`."""
        task = await self._finding.stored(key)
        now = self._backend.clock.now()
        parent = task if task.kind is not Kind.SUB_TASK else await self._finding.stored(key.parent)
        if task.is_terminal:
            return _ended(task, parent)
        if task.status is TaskStatus.IN_PROGRESS and task.kind is not Kind.SFN_TASK:
            return _running(task, now)
        if parent.cancel_requested is not None:
            return _says(task, Cause.ENDING, "its fan-out starts nothing more, and ends as soon as what runs has")
        if task.next_attempt_at is not None and task.next_attempt_at > now:
            return _suspended(task, now) or _backoff(task, now)
        workers = await self._backend.admin.workers(now - ALIVE)
        held_up = await self._held_up(task, parent, workers)
        if held_up is not None:
            return held_up
        if parent.kind is Kind.SFN_TASK and parent.status is TaskStatus.IN_PROGRESS:
            return _in_fan_out(task, parent)
        return await self._queued(parent, task, workers, now)

    async def _held_up(
        self, task: TaskEntity[Any], parent: TaskEntity[Any], workers: Sequence[WorkerFacts]
    ) -> Explanation | None:
        """Paused, or nobody there who would run it."""
        pause = paused_by(await self._backend.admin.pauses(), task.tenant_code, task.task_type)
        if pause is not None:
            what = "the task type" if pause.scope == "type" else "the tenant"
            text = f"{what} {pause.name!r} is paused since {time_text(pause.at)}"
            text += f" by {pause.by}" if pause.by else ""
            text += f": {pause.reason}" if pause.reason else ""
            return _says(
                task, Cause.PAUSED, text, scope=str(pause.scope), name=pause.name, since=pause.at, by=pause.by,
                reason=pause.reason,
            )  # fmt: skip
        if any(worker.serves(parent.kind, parent.task_type) for worker in workers):
            return None
        if not workers:
            return _says(task, Cause.NO_WORKER, "no worker is alive; start one with: taskloom worker APP", workers=[])
        what = "single tasks" if parent.kind is Kind.TASK else "fan-outs"
        text = f"no live worker serves {what} of type {task.task_type!r}; alive are " + "; ".join(map(_served, workers))
        return _says(task, Cause.NO_WORKER, text, workers=[worker.name for worker in workers])

    async def _queued(
        self, top: TaskEntity[Any], task: TaskEntity[Any], workers: Sequence[WorkerFacts], now: datetime
    ) -> Explanation:
        # Before the queue is asked: a record that becomes a message meanwhile is seen here or there.
        is_streamed = top.dispatch is not None and await self._backend.stream.next_due() is not None
        place = await self._backend.admin.place(top.key, COUNT_TO)
        if place is None:
            current = await self._backend.store.get(top.key)
            if current is None or current.version != top.version:  # it went on meanwhile
                return await self.explain(task.key)
            if is_streamed:
                return _says(task, Cause.DISPATCH, "it is saved, and a worker is about to put it into the queue")
            return await self._repair(top, task, now)
        if place.is_held:
            return _says(task, Cause.TAKEN, "a worker has taken its message and is about to start it")
        if place.visible_at > now:
            text = f"its message comes again at {time_text(place.visible_at)}"
            return _says(task, Cause.BACKOFF, text, until=place.visible_at)
        lanes = [
            lane
            for lane in await self._backend.admin.lanes()
            if (lane.kind, lane.task_type) == (top.kind, top.task_type)
        ]
        capped = _capped(top, task, lanes, workers) if top.kind is Kind.TASK else None
        return capped or await self._turn(top, task, place, lanes, now)

    async def _repair(self, top: TaskEntity[Any], task: TaskEntity[Any], now: datetime) -> Explanation:
        """When the reconciler comes: it looks once a minute, but does not mend the same task every time."""
        text = "it has no message in the queue; the reconciler gives it one "
        last = await self._backend.admin.duty(RECONCILE)
        at = now if last is None else max(now, parse_time(str(last["at"])) + RECONCILE_EVERY)
        again_at = lifecycle.next_repair(top)
        if again_at is not None and again_at > at:
            at = again_at
        left = "within a minute" if last is None else f"at {time_text(at)} (in {_seconds(at - now)})"
        return _says(task, Cause.REPAIR, text + left, repair_at=None if last is None else at)

    async def _turn(
        self,
        top: TaskEntity[Any],
        task: TaskEntity[Any],
        place: Place,
        lanes: Sequence[LaneFigures],
        now: datetime,
    ) -> Explanation:
        throughput = await self._backend.admin.throughput(now - RATE_OVER)
        seen = observed(throughput, await self._backend.admin.workers(now - ALIVE), now)
        rate = rate_of(throughput, top.kind, top.task_type, seen)
        oldest = min((lane.oldest_at for lane in lanes if lane.oldest_at is not None), default=now)
        tenants = sum(1 for lane in lanes if lane.waiting)
        text = f"{place.ahead}{'' if place.is_exact else ' or more'} of its tenant and type are before it"
        text += f", and {tenants - 1} other tenants take turns with it" if tenants > 1 else ""
        text += f"; the oldest of its type has waited for {_seconds(now - oldest)}"
        starts_at = None
        if rate and place.is_exact:
            left = timedelta(seconds=(place.ahead + 1) * max(1, tenants) / rate)
            starts_at = now + left
            text += f"; at {rate:.3g} per second it starts in about {_seconds(left)}"
        return _says(
            task,
            Cause.TURN,
            text,
            ahead=place.ahead,
            is_exact=place.is_exact,
            tenants=tenants,
            oldest_age=(now - oldest).total_seconds(),
            rate=rate,
            starts_at=starts_at,
        )


def _capped(
    top: TaskEntity[Any], task: TaskEntity[Any], lanes: Sequence[LaneFigures], workers: Sequence[WorkerFacts]
) -> Explanation | None:
    """It is, if it is to every live worker that serves its type: caps are those of the workers' code."""
    running = sum(lane.in_flight for lane in lanes)
    own = sum(lane.in_flight for lane in lanes if lane.tenant_code == top.tenant_code)
    serving = [worker for worker in workers if worker.serves(top.kind, top.task_type)]
    full = [_full(task, worker.caps.get(top.task_type, NO_CAP), running, own) for worker in serving]
    return None if None in full else next(iter(full), None)


def _full(task: TaskEntity[Any], cap: Cap, running: int, own: int) -> Explanation | None:
    if cap.total is not None and running >= cap.total:
        text = f"{running} of its type run, and no more may (max_concurrency={cap.total})"
        return _says(task, Cause.CAPPED, text, running=running, max_concurrency=cap.total)
    if cap.per_tenant is not None and own >= cap.per_tenant:
        text = f"{own} of its tenant run, and no more may (max_concurrency_per_tenant={cap.per_tenant})"
        return _says(task, Cause.CAPPED, text, running=own, max_concurrency_per_tenant=cap.per_tenant)
    return None


def _ended(task: TaskEntity[Any], parent: TaskEntity[Any]) -> Explanation:
    last = task.history[-1] if task.history else None
    text = f"it is {task.status}"
    text += "" if task.history else f": it was never started, and its fan-out is {parent.status}"
    if task.finished_at is not None:
        text += f" since {time_text(task.finished_at)}"
    text += f", in run {task.run}, attempt {task.attempt}" if task.attempt else ""
    if task.error is not None and task.status is TaskStatus.FAILED:
        text += f": {task.error.type}: {task.error.message}"
    elif last is not None and last.reason:
        text += f": {last.reason}" + (f" (by {last.by})" if last.by else "")
    facts = {} if last is None else {"reason": last.reason, "by": last.by}
    return _says(task, Cause.ENDED, text, finished_at=task.finished_at, **facts)


def _running(task: TaskEntity[Any], now: datetime) -> Explanation:
    who = task.history[-1].by if task.history else None
    started = task.history[-1].at if task.history else task.updated_at
    text = f"attempt {task.attempt} runs since {time_text(started)} ({_seconds(now - started)}) in the worker {who}"
    facts: dict[str, Any] = {"by": who, "since": started, "attempt": task.attempt, "lease_until": task.lease_until}
    if task.lease_until is not None and task.lease_until <= now:
        text += f"; its lease ended at {time_text(task.lease_until)} and was not renewed, so it is claimed again"
        return _says(task, Cause.LEASE_OVER, text, **facts)
    if task.lease_until is not None:
        text += f"; its lease holds until {time_text(task.lease_until)} and is renewed"
    if task.progress is not None:
        done = f"{task.progress.done:g}" + ("" if task.progress.total is None else f" of {task.progress.total:g}")
        text += f"; it has done {done}" + (f" ({task.progress.message})" if task.progress.message else "")
        facts |= {"done": task.progress.done, "total": task.progress.total}
    if task.seconds_left is not None:
        text += f"; about {task.seconds_left:.0f} s are left"
        facts["seconds_left"] = task.seconds_left
    if task.deadline_at is not None:
        text += f"; it must end by {time_text(task.deadline_at)}"
        facts["deadline_at"] = task.deadline_at
    return _says(task, Cause.RUNNING, text, **facts)


def _suspended(task: TaskEntity[Any], now: datetime) -> Explanation | None:
    reason, at = lifecycle.suspension(task), task.next_attempt_at or now
    if reason is None:
        return None
    facts: dict[str, Any] = {"callback": lifecycle.callback_of(reason)}
    if reason.endswith(time_text(at)):
        return _says(task, Cause.SUSPENDED, f"it {reason} (in {_seconds(at - now)})", until=at, **facts)
    return _says(task, Cause.SUSPENDED, f"it {reason}, however long that takes", until=None, **facts)


def _backoff(task: TaskEntity[Any], now: datetime) -> Explanation:
    at = task.next_attempt_at or now
    text = f"attempt {task.attempt + 1} follows at {time_text(at)} (in {_seconds(at - now)})"
    if task.error is not None:
        text += f", after {task.error.type}: {task.error.message}"
    return _says(task, Cause.BACKOFF, text, until=at, attempt=task.attempt, error=task.error and task.error.message)


def _in_fan_out(task: TaskEntity[Any], parent: TaskEntity[Any]) -> Explanation:
    attributes, plan = parent.attributes, parent.fan_out
    count = attributes.sub_task_count or 0
    ended = attributes.sub_task_succeed_count + attributes.sub_task_failed_count
    text = f"{ended} of {count} sub-tasks have ended, {attributes.sub_task_failed_count} of them badly"
    facts: dict[str, Any] = {"ended": ended, "count": count, "failed": attributes.sub_task_failed_count}
    if plan is not None:
        chunks = chunk_count(count, plan.chunk_size)
        text += f"; at most {plan.max_concurrency} run at the same time, in {chunks} chunks of {plan.chunk_size}"
        facts |= {"max_concurrency": plan.max_concurrency, "chunks": chunks, "chunk_size": plan.chunk_size}
        if task.index is not None:
            chunk = task.index // plan.chunk_size
            text = f"it waits until chunk {chunk} is its turn: {text}"
            facts["chunk"] = chunk
    if parent.seconds_left is not None:
        text += f"; about {parent.seconds_left:.0f} s are left"
        facts["seconds_left"] = parent.seconds_left
    return _says(task, Cause.FAN_OUT_RUNS if task is parent else Cause.TURN, text, **facts)


def _served(worker: WorkerFacts) -> str:
    sides = (("single tasks", worker.tasks), ("fan-outs", worker.fan_outs))
    served = [f"{what}: {', '.join(types)}" for what, types in sides if types]
    return f"{worker.name} (serves {'; '.join(served) or 'nothing'})"


def _seconds(time: timedelta) -> str:
    return f"{max(0.0, time.total_seconds()):.0f} s"


def _says(task: TaskEntity[Any], cause: Cause, text: str, **facts: Any) -> Explanation:
    plain = {name: time_text(value) if isinstance(value, datetime) else value for name, value in facts.items()}
    return Explanation(key=task.key, status=task.status, cause=cause, text=text, facts=plain)
