"""Who may run a task now."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from taskloom.lifecycle.changes import (
    COMPLETED,
    IN_PROGRESS,
    NEXT,
    PENDING,
    Change,
    Guard,
    Patch,
    Standing,
    Trigger,
    ended,
)
from taskloom.lifecycle.steering import expired
from taskloom.model import (
    TERMINAL,
    Failure,
    FanOut,
    HistoryEntry,
    Kind,
    TaskAttributes,
    TaskEntity,
    TaskKey,
    TaskStatus,
)
from taskloom.values import Json


@dataclass(frozen=True, slots=True)
class Come:
    """Nothing can be done now: come again at *at*."""

    at: datetime


class Verdict(Enum):
    """Why there is nothing to claim."""

    ENDED = "the task has ended, or is gone"
    RUNS_BY_ITSELF = "the fan-out was claimed; its execution owns it"


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

    A change is either the claim, or the end of a task whose workers died too often or whose deadline has passed. The
    claim of a fan-out writes its *plan* beside: how it is run, fixed from here on.
    """
    if standing is None or standing.status in TERMINAL:
        return Verdict.ENDED
    runs_by_itself = kind is Kind.SFN_TASK and standing.status is IN_PROGRESS  # rule 3: it has no lease to run out
    if standing.deadline_at is not None and standing.deadline_at <= who.now and not runs_by_itself:
        return expired(key, standing, now=who.now, by=who.by, claim_id=who.claim_id)
    if standing.status is PENDING:
        if standing.next_attempt_at is not None and standing.next_attempt_at > who.now:
            return Come(standing.next_attempt_at)
        change = _claimed(key, standing, kind, who, Trigger.CLAIM, None)
        if plan is not None:
            # The counters of an earlier run stand until here; this one counts anew, what it takes over included.
            change.patch |= {"fan_out": plan, "sub_task_succeed_count": 0, "sub_task_failed_count": 0}
        return change
    if runs_by_itself:
        return Verdict.RUNS_BY_ITSELF
    if standing.lease_until is not None and standing.lease_until > who.now:
        return Come(standing.lease_until)
    if standing.attempt >= who.max_lost:
        return ended(
            key,
            standing,
            Guard(status=frozenset({IN_PROGRESS}), fence=standing.fence, lease_ended_by=who.now),
            Trigger.ABANDON,
            Failure(type="WorkerDied", message=_deaths(standing), attempt=standing.attempt),
            now=who.now,
            by=who.by,
            claim_id=who.claim_id,
        )
    return _claimed(key, standing, kind, who, Trigger.RECLAIM, "the lease of the attempt before ended")


def _deaths(standing: Standing) -> str:
    died = standing.lost + 1
    times = f"the worker died {died} time" + ("s" if died > 1 else "")
    return times if died == standing.attempt else f"{times}, in {standing.attempt} attempts"


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
    if standing.lost or trigger is Trigger.RECLAIM:
        patch["lost"] = standing.lost + (trigger is Trigger.RECLAIM)
    if kind is not Kind.SUB_TASK:  # sub-tasks are dispatched by their chunk, never one by one
        patch["dispatch"] = None
    return Change(
        key=key,
        # rule 2: the fence alone would let a claim overwrite a lease that was renewed meanwhile.
        guard=Guard(
            status=_ONLY[standing.status],
            fence=standing.fence,
            lease_ended_by=who.now if trigger is Trigger.RECLAIM else None,
        ),
        patch=patch,
        history=HistoryEntry(at=who.now, status=status, run=standing.run, attempt=attempt, reason=reason, by=who.by),
    )


def is_last_chance(claim: Change, max_lost: int) -> bool:
    """Whether workers of the task died before *claim*, and it is given up should this one die too."""
    return "lost" in claim.patch and claim.patch.get("attempt", 0) >= max_lost


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
            "lost": 0,
            "state": None,
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
        deadline_at=parent.deadline_at,
        priority=parent.priority,
        options=parent.options,
        history=(entry,),
    )
    return change, task


_ONLY: Final = {status: frozenset({status}) for status in TaskStatus}
_ABSENT: Final = Guard(absent=True)
_NOTHING: Final = TaskAttributes()
