"""Which status may follow which, and under which guard: the rules as data and as pure functions.

Every function here turns what is known of a task into a `Change`: one conditional write that a store carries out. A
change holds absolute values, so carrying it out twice gives the same task, and the guard refuses it when the task has
moved on (rules 2, 3 and 4). The history entry is part of the change (rule 5).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Final, Protocol, TypedDict

from taskloom.model import (
    OPEN,
    TERMINAL,
    CancelRequest,
    Failure,
    FanOut,
    HistoryEntry,
    Kind,
    Progress,
    TaskAttributes,
    TaskEntity,
    TaskKey,
    TaskStatus,
)
from taskloom.policy import is_tolerated
from taskloom.values import EncodedJson, Json

PENDING, IN_PROGRESS = TaskStatus.PENDING, TaskStatus.IN_PROGRESS
COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED


class Trigger(Enum):
    """What makes a task change its status."""

    CLAIM = "a worker claims it"
    RECLAIM = "its lease ended, and a worker claims it"
    SUCCEED = "its handlers returned"
    FAIL = "a handler raised, and that is final"
    RETRY = "a handler raised, and another attempt follows"
    GIVE_BACK = "its worker stops before it is done"
    ABANDON = "its lease ended too often"
    REJECT = "nothing will ever run it"
    CANCEL = "somebody cancels it"
    FINALIZE_WELL = "its sub-tasks ended within the tolerance"
    FINALIZE_BADLY = "too many of its sub-tasks failed"
    FINALIZE_CANCELLED = "it was to end before all of its sub-tasks had"
    RETRY_RUN = "somebody retries it: a new run"
    CLAIM_IN_NEW_RUN = "a worker claims it in a new run of its fan-out"


NEXT: Final[Mapping[tuple[TaskStatus, Trigger], TaskStatus]] = {
    (PENDING, Trigger.CLAIM): IN_PROGRESS,
    (PENDING, Trigger.REJECT): FAILED,
    (IN_PROGRESS, Trigger.RECLAIM): IN_PROGRESS,
    (IN_PROGRESS, Trigger.SUCCEED): COMPLETED,
    (IN_PROGRESS, Trigger.FAIL): FAILED,
    (IN_PROGRESS, Trigger.RETRY): PENDING,
    (IN_PROGRESS, Trigger.GIVE_BACK): PENDING,
    (IN_PROGRESS, Trigger.ABANDON): FAILED,
    (IN_PROGRESS, Trigger.REJECT): FAILED,
    (IN_PROGRESS, Trigger.FINALIZE_WELL): COMPLETED,
    (IN_PROGRESS, Trigger.FINALIZE_BADLY): FAILED,
    (IN_PROGRESS, Trigger.FINALIZE_CANCELLED): CANCELLED,
    (PENDING, Trigger.CANCEL): CANCELLED,
    (IN_PROGRESS, Trigger.CANCEL): CANCELLED,
    **{(ended, Trigger.RETRY_RUN): PENDING for ended in (COMPLETED, FAILED, CANCELLED)},
    **{(left, Trigger.CLAIM_IN_NEW_RUN): IN_PROGRESS for left in TaskStatus},
}
"""Every status change there is. What is not in the table cannot happen; only a new run leaves an end."""


class Patch(TypedDict, total=False):
    """New values of a task, by the entity's names; None removes."""

    status: TaskStatus
    run: int
    attempt: int
    fence: int
    claim_id: str | None
    lease_until: datetime | None
    dispatch: str | None
    next_attempt_at: datetime | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    progress: Progress | None
    execution_arn: str | None
    results: EncodedJson | None
    result_ref: str | None
    error: Failure | None
    sub_task_succeed_count: int
    sub_task_failed_count: int
    fan_out: FanOut | None
    cancel_requested: CancelRequest | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What must hold of the stored task for a change to be carried out; all of it."""

    absent: bool = False
    """There is no such task yet: the change creates it. Only for sub-tasks, and with nothing else in the guard."""
    status: frozenset[TaskStatus] | None = None
    fence: int | None = None
    run: int | None = None
    lease_ended_by: datetime | None = None
    """It has no lease, or one that ended at this instant or before."""


@dataclass(slots=True, kw_only=True)  # not frozen, which would make it three times as expensive
class Change:
    """One conditional write: guard, values, counters and history entry stand or fall together."""

    key: TaskKey
    guard: Guard
    patch: Patch
    add: Mapping[str, int] | None = None
    """Amounts to add to `sub_task_succeed_count` and `sub_task_failed_count`."""
    history: HistoryEntry | None = None
    returning: bool = True
    """Whether the caller needs the task as it is after the change."""


@dataclass(frozen=True, slots=True)
class Written:
    """The change was carried out; *entity* is the task after it, if the change asks for it."""

    entity: TaskEntity | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The guard did not hold, nothing was changed; *current* is the task as it stands, None when there is none."""

    current: TaskEntity | None


@dataclass(frozen=True, slots=True)
class Come:
    """Nothing can be done now: come again at *at*."""

    at: datetime


class Verdict(Enum):
    """Why there is nothing to claim."""

    ENDED = "the task has ended, or is gone"
    RUNS_BY_ITSELF = "the fan-out was claimed; its execution owns it"


class Standing(Protocol):
    """What a claim must know of a task. An entity will do, and so will what a message says of it."""

    @property
    def status(self) -> TaskStatus: ...
    @property
    def run(self) -> int: ...
    @property
    def attempt(self) -> int: ...
    @property
    def fence(self) -> int: ...
    @property
    def lease_until(self) -> datetime | None: ...
    @property
    def next_attempt_at(self) -> datetime | None: ...
    @property
    def started_at(self) -> datetime | None: ...


@dataclass(slots=True, kw_only=True)
class Claimant:
    """Who claims, and on which terms."""

    by: str
    """The worker, as it stands in the history."""
    claim_id: str
    now: datetime
    lease: timedelta
    max_lost: int
    """Attempts after which a task whose worker died is given up."""


def claim(
    key: TaskKey, standing: Standing | None, kind: Kind, who: Claimant, plan: FanOut | None = None
) -> Change | Come | Verdict:
    """What to do about a message for the task *key* that stands at *standing*.

    A change is either the claim, or the end of a task whose workers died too often. The claim of a fan-out writes its
    *plan* beside: how it is run, fixed from here on.
    """
    if standing is None or standing.status in TERMINAL:
        return Verdict.ENDED
    if standing.status is PENDING:
        if standing.next_attempt_at is not None and standing.next_attempt_at > who.now:
            return Come(standing.next_attempt_at)
        change = _claimed(key, standing, kind, who, Trigger.CLAIM, None)
        if plan is not None:
            # The counters of an earlier run stand until here; this one counts anew, what it takes over included.
            change.patch |= {"fan_out": plan, "sub_task_succeed_count": 0, "sub_task_failed_count": 0}
        return change
    if kind is Kind.SFN_TASK:  # rule 3: a running parent has no lease to run out
        return Verdict.RUNS_BY_ITSELF
    if standing.lease_until is not None and standing.lease_until > who.now:
        return Come(standing.lease_until)
    if standing.attempt >= who.max_lost:
        times = f"{standing.attempt} time" + ("s" if standing.attempt > 1 else "")
        return _ended(
            key,
            standing,
            Guard(status=frozenset({IN_PROGRESS}), fence=standing.fence, lease_ended_by=who.now),
            Trigger.ABANDON,
            Failure(type="WorkerDied", message=f"the worker died {times}", attempt=standing.attempt),
            now=who.now,
            by=who.by,
            claim_id=who.claim_id,
        )
    return _claimed(key, standing, kind, who, Trigger.RECLAIM, "the lease of the attempt before ended")


def _claimed(
    key: TaskKey, standing: Standing, kind: Kind, who: Claimant, trigger: Trigger, reason: str | None
) -> Change:
    status = NEXT[standing.status, trigger]
    attempt = standing.attempt + 1
    patch: Patch = {
        "status": status,
        "attempt": attempt,
        "fence": standing.fence + 1,
        "claim_id": who.claim_id,
        "lease_until": None if kind is Kind.SFN_TASK else who.now + who.lease,
        "next_attempt_at": None,
        "started_at": standing.started_at or who.now,
        "updated_at": who.now,
    }
    if kind is not Kind.SUB_TASK:  # sub-tasks are dispatched by their chunk, never one by one
        patch["dispatch"] = None
    return Change(
        key=key,
        # rule 2: the fence alone would let a claim overwrite a lease that was renewed meanwhile.
        guard=Guard(
            status=frozenset({standing.status}),
            fence=standing.fence,
            lease_ended_by=who.now if trigger is Trigger.RECLAIM else None,
        ),
        patch=patch,
        history=HistoryEntry(at=who.now, status=status, run=standing.run, attempt=attempt, reason=reason, by=who.by),
    )


def claim_in_run(task: TaskEntity, parent: TaskEntity, who: Claimant) -> Change | Come | Verdict:
    """What to do about the sub-task *task* that stands there already, in the run that *parent* is in.

    What an earlier run left is claimed as the first attempt of this one, with a higher fence, so that nothing of the
    earlier run can finish it. What was COMPLETED stays, unless everything is to run again.
    """
    if task.run == parent.run:
        return claim(task.key, task, task.kind, who)
    if task.status is COMPLETED and (parent.fan_out is None or parent.fan_out.only_failed):
        return Verdict.ENDED
    if task.lease_until is not None and task.lease_until > who.now:
        return Come(task.lease_until)
    status = NEXT[task.status, Trigger.CLAIM_IN_NEW_RUN]
    return Change(
        key=task.key,
        guard=Guard(
            status=frozenset({task.status}),
            fence=task.fence,
            run=task.run,
            lease_ended_by=who.now if task.status is IN_PROGRESS else None,
        ),
        patch={
            "status": status,
            "run": parent.run,
            "attempt": 1,
            "fence": task.fence + 1,
            "claim_id": who.claim_id,
            "lease_until": who.now + who.lease,
            "next_attempt_at": None,
            "results": None,
            "result_ref": None,
            "error": None,
            "progress": None,
            "started_at": who.now,
            "finished_at": None,
            "updated_at": who.now,
        },
        history=HistoryEntry(at=who.now, status=status, run=parent.run, attempt=1, by=who.by),
    )


def cancelled(
    task: TaskEntity, *, reason: str | None, by: str | None, now: datetime, claim_id: str, worker: bool = False
) -> Change:
    """The open *task* ends because somebody wants it to; whoever runs it has lost its claim (rule 2).

    With *worker* it is the one that holds the claim who says so. Not for running fan-outs, which their executions own.
    """
    status = NEXT[task.status, Trigger.CANCEL]
    patch: Patch = {
        "status": status,
        "fence": task.fence + 1,
        "claim_id": claim_id,
        "lease_until": None,
        "next_attempt_at": None,
        "updated_at": now,
        "finished_at": now,
    }
    if task.kind is not Kind.SUB_TASK:
        patch["dispatch"] = None
    guard = _mine(task) if worker else Guard(status=frozenset({task.status}), fence=task.fence, run=task.run)
    return Change(key=task.key, guard=guard, patch=patch, history=_entry(task, status, now, by, _why(reason)))


def cancel_requested(parent: TaskEntity, *, reason: str | None, by: str | None, now: datetime) -> Change:
    """The running fan-out *parent* is to start no more sub-tasks, and to end CANCELLED."""
    return Change(
        key=parent.key,
        guard=Guard(status=frozenset({IN_PROGRESS}), run=parent.run),  # rule 3
        patch={"cancel_requested": CancelRequest(at=now, reason=reason, by=by), "updated_at": now},
    )


def _why(reason: str | None) -> str:
    return f"cancelled: {reason}" if reason else "cancelled"


def retried(
    task: TaskEntity,
    *,
    only_failed: bool,
    execution_arn: str | None,
    reason: str | None,
    by: str | None,
    now: datetime,
    dispatch: str,
    claim_id: str,
) -> Change:
    """A new run of the ended *task*. The fence grows on, so nothing of an earlier run can end it (rule 2)."""
    status, run = NEXT[task.status, Trigger.RETRY_RUN], task.run + 1
    patch: Patch = {
        "status": status,
        "run": run,
        "attempt": 0,
        "fence": task.fence + 1,
        "claim_id": claim_id,
        "dispatch": dispatch,
        "next_attempt_at": None,
        "results": None,
        "result_ref": None,
        "error": None,
        "progress": None,
        "started_at": None,
        "finished_at": None,
        "cancel_requested": None,
        "updated_at": now,
    }
    if task.kind is Kind.SFN_TASK:
        patch["execution_arn"] = execution_arn
        if task.fan_out is not None:
            patch["fan_out"] = replace(task.fan_out, only_failed=only_failed)
    return Change(
        key=task.key,
        guard=Guard(status=frozenset({task.status}), fence=task.fence, run=task.run),
        patch=patch,
        history=HistoryEntry(
            at=now, status=status, run=run, attempt=0, reason=f"retried: {reason}" if reason else "retried", by=by
        ),
    )


def first_claim(parent: TaskEntity, index: int, input: Json, who: Claimant) -> tuple[Change, TaskEntity]:
    """The claim that creates the row of a sub-task (rule 6: no write before it), and the sub-task that it makes."""
    key = TaskKey.sub_task(parent.tenant_code, parent.task_type, parent.code, index)
    entry = HistoryEntry(at=who.now, status=IN_PROGRESS, run=parent.run, attempt=1, by=who.by)
    until = who.now + who.lease
    change = Change(
        key=key,
        guard=_ABSENT,
        patch={
            "status": IN_PROGRESS,
            "run": parent.run,
            "attempt": 1,
            "fence": 1,
            "claim_id": who.claim_id,
            "lease_until": until,
            "created_at": who.now,
            "updated_at": who.now,
            "started_at": who.now,
        },
        history=entry,
        returning=False,
    )
    task = TaskEntity(
        key=key,
        kind=Kind.SUB_TASK,
        code=parent.code,
        task_type=parent.task_type,
        name=parent.name,
        tenant_code=parent.tenant_code,
        status=IN_PROGRESS,
        input=input,
        index=index,
        attributes=_NOTHING,
        request_id=parent.request_id,
        created_at=who.now,
        updated_at=who.now,
        created_by=parent.created_by,
        created_ip=parent.created_ip,
        run=parent.run,
        attempt=1,
        fence=1,
        claim_id=who.claim_id,
        lease_until=until,
        started_at=who.now,
        history=(entry,),
    )
    return change, task


_ABSENT: Final = Guard(absent=True)
_NOTHING: Final = TaskAttributes()


def completed(
    task: TaskEntity,
    *,
    results: EncodedJson | None,
    result_ref: str | None,
    progress: Progress | None,
    now: datetime,
    by: str,
    claim_id: str,
) -> Change:
    """The claimed *task* ended well. Exactly one of *results* and *result_ref* is given."""
    status = NEXT[IN_PROGRESS, Trigger.SUCCEED]
    patch: Patch = {
        "status": status,
        "claim_id": claim_id,
        "lease_until": None,
        "results": results,
        "result_ref": result_ref,
        "error": None,
        "updated_at": now,
        "finished_at": now,
    }
    if progress is not None:
        patch["progress"] = progress
    return Change(key=task.key, guard=_mine(task), patch=patch, history=_entry(task, status, now, by), returning=False)


def failed(
    task: TaskEntity, failure: Failure, *, progress: Progress | None, now: datetime, by: str, claim_id: str
) -> Change:
    """The claimed *task* ended badly."""
    change = _ended(task.key, task, _mine(task), Trigger.FAIL, failure, now=now, by=by, claim_id=claim_id)
    if progress is not None:
        change.patch["progress"] = progress
    return change


def waits_for_retry(
    task: TaskEntity,
    failure: Failure,
    *,
    at: datetime,
    progress: Progress | None,
    now: datetime,
    by: str,
    claim_id: str,
) -> Change:
    """The claimed *task* failed and is tried again at *at*; its message comes again then, so it needs no dispatch."""
    status = NEXT[IN_PROGRESS, Trigger.RETRY]
    patch: Patch = {
        "status": status,
        "claim_id": claim_id,
        "lease_until": None,
        "next_attempt_at": at,
        "error": failure,
        "updated_at": now,
    }
    if progress is not None:
        patch["progress"] = progress
    return Change(key=task.key, guard=_mine(task), patch=patch, history=_entry(task, status, now, by, failure.message))


def given_back(task: TaskEntity, reason: str, *, now: datetime, by: str, claim_id: str) -> Change:
    """The worker of the claimed *task* stops: somebody else tries, and the attempt does not count."""
    status = NEXT[IN_PROGRESS, Trigger.GIVE_BACK]
    return Change(
        key=task.key,
        guard=_mine(task),
        patch={
            "status": status,
            "attempt": task.attempt - 1,
            "claim_id": claim_id,
            "lease_until": None,
            "updated_at": now,
        },
        history=_entry(task, status, now, by, reason),
    )


def renewed(task: TaskEntity, *, until: datetime, now: datetime) -> Change:
    """The claim of *task* holds until *until*."""
    return Change(key=task.key, guard=_mine(task), patch={"lease_until": until, "updated_at": now}, returning=False)


def progressed(task: TaskEntity, progress: Progress, *, now: datetime) -> Change:
    """The claimed *task* is at *progress*."""
    return Change(key=task.key, guard=_mine(task), patch={"progress": progress, "updated_at": now}, returning=False)


def rejected(task: TaskEntity, failure: Failure, *, now: datetime, by: str, claim_id: str) -> Change:
    """Nothing will ever run *task*, which nobody has claimed since it was read."""
    guard = Guard(status=frozenset({PENDING}), fence=task.fence)
    change = _ended(task.key, task, guard, Trigger.REJECT, failure, now=now, by=by, claim_id=claim_id)
    change.patch["dispatch"] = None
    return change


def counted(parent: TaskKey, run: int, *, succeeded: int, failed: int, now: datetime) -> Change:
    """One chunk more of the running fan-out has ended; for display only (rule 4)."""
    return Change(
        key=parent,
        guard=Guard(status=frozenset({IN_PROGRESS}), run=run),
        patch={"updated_at": now},
        add={"sub_task_succeed_count": succeeded, "sub_task_failed_count": failed},
        returning=False,
    )


def finalized(parent: TaskEntity, *, succeeded: int, failed: int, now: datetime, by: str, claim_id: str) -> Change:
    """The running fan-out *parent* ends: all of its sub-tasks have, or it is to be cancelled."""
    count = parent.attributes.sub_task_count or 0
    plan = parent.fan_out
    percentage = plan.tolerated_failure_percentage if plan is not None else 0.0
    well = is_tolerated(failed, count, percentage)
    trigger = Trigger.FINALIZE_WELL if well else Trigger.FINALIZE_BADLY
    reason = f"{failed} of {count} sub-tasks failed; tolerated are {percentage:g} %" if failed else None
    if succeeded + failed < count:
        trigger = Trigger.FINALIZE_CANCELLED
        request = parent.cancel_requested
        reason, by = _why(request.reason if request else None), (request.by if request else None) or by
    status = NEXT[IN_PROGRESS, trigger]
    patch: Patch = {
        "status": status,
        "fence": parent.fence + 1,
        "claim_id": claim_id,
        "sub_task_succeed_count": succeeded,
        "sub_task_failed_count": failed,
        "updated_at": now,
        "finished_at": now,
    }
    if trigger is Trigger.FINALIZE_BADLY:
        patch["error"] = Failure(type="SubTasksFailed", message=str(reason), attempt=parent.attempt)
    return Change(
        key=parent.key,
        guard=Guard(status=frozenset({IN_PROGRESS}), run=parent.run),  # rule 3
        patch=patch,
        history=_entry(parent, status, now, by, reason),
    )


def rejected_fan_out(parent: TaskEntity, failure: Failure, *, now: datetime, by: str, claim_id: str) -> Change:
    """The claimed *parent* can never be run: no sub-task was started."""
    guard = Guard(status=OPEN, run=parent.run, fence=parent.fence)
    return _ended(parent.key, parent, guard, Trigger.REJECT, failure, now=now, by=by, claim_id=claim_id)


def is_mine(change: Change, refused: Refused) -> bool:
    """Whether the refused *change* was carried out before: its answer was lost, and a driver repeated it (rule 2)."""
    claim_id = change.patch.get("claim_id")
    return claim_id is not None and refused.current is not None and refused.current.claim_id == claim_id


def _mine(task: TaskEntity) -> Guard:
    return Guard(status=frozenset({IN_PROGRESS}), fence=task.fence)


def _ended(
    key: TaskKey,
    standing: Standing,
    guard: Guard,
    trigger: Trigger,
    failure: Failure,
    *,
    now: datetime,
    by: str,
    claim_id: str,
) -> Change:
    status = NEXT[standing.status, trigger]
    return Change(
        key=key,
        guard=guard,
        patch={
            "status": status,
            "claim_id": claim_id,
            "lease_until": None,
            "next_attempt_at": None,
            "error": failure,
            "updated_at": now,
            "finished_at": now,
        },
        history=HistoryEntry(
            at=now, status=status, run=standing.run, attempt=standing.attempt, reason=failure.message, by=by
        ),
    )


def _entry(
    task: TaskEntity, status: TaskStatus, now: datetime, by: str | None, reason: str | None = None
) -> HistoryEntry:
    return HistoryEntry(at=now, status=status, run=task.run, attempt=task.attempt, reason=reason, by=by)


def totals(rows: Sequence["Counts"]) -> tuple[int, int]:
    """Succeeded and failed sub-tasks over all chunks: the final counters of a fan-out (rule 4)."""
    return sum(row.succeeded for row in rows), sum(row.failed for row in rows)


class Counts(Protocol):
    """What a chunk row says of its sub-tasks."""

    @property
    def succeeded(self) -> int: ...
    @property
    def failed(self) -> int: ...
