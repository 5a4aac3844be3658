"""The parents of fan-outs: owned by their executions, not by a claim (rule 3)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from taskloom.lifecycle.changes import FAILED, IN_PROGRESS, NEXT, Change, Guard, Patch, Trigger, ended, entry, expire
from taskloom.lifecycle.steering import TOO_LATE, too_late, why
from taskloom.model import OPEN, CancelRequest, Failure, TaskEntity, TaskKey
from taskloom.policy import is_tolerated


def cancel_requested(parent: TaskEntity, *, reason: str | None, by: str | None, now: datetime) -> Change:
    """The running fan-out *parent* is to start no more sub-tasks, and to end before all have run."""
    return Change(
        key=parent.key,
        guard=Guard(status=frozenset({IN_PROGRESS}), run=parent.run),  # rule 3
        patch={"cancel_requested": CancelRequest(at=now, reason=reason, by=by), "updated_at": now},
    )


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
    if _is_late(parent, now):
        trigger, reason = Trigger.FINALIZE_LATE, too_late(parent)
    elif succeeded + failed < count:
        trigger = Trigger.FINALIZE_CANCELLED
        request = parent.cancel_requested
        reason, by = why(request.reason if request else None), (request.by if request else None) or by
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
    expire(patch, parent.kind, parent.options)
    if status is FAILED:
        kind = TOO_LATE if trigger is Trigger.FINALIZE_LATE else "SubTasksFailed"
        patch["error"] = Failure(type=kind, message=str(reason), attempt=parent.attempt)
    return Change(
        key=parent.key,
        guard=Guard(status=frozenset({IN_PROGRESS}), run=parent.run),  # rule 3
        patch=patch,
        history=entry(parent, status, now, by, reason),
    )


def _is_late(parent: TaskEntity, now: datetime) -> bool:
    """Whether the deadline of *parent* has passed, and nobody had cancelled it before that."""
    deadline, request = parent.deadline_at, parent.cancel_requested
    return deadline is not None and deadline <= now and (request is None or request.at >= deadline)


def rejected_fan_out(parent: TaskEntity, failure: Failure, *, now: datetime, by: str, claim_id: str) -> Change:
    """The claimed *parent* can never be run: no sub-task was started."""
    guard = Guard(status=OPEN, run=parent.run, fence=parent.fence)
    return ended(parent.key, parent, guard, Trigger.REJECT, failure, now=now, by=by, claim_id=claim_id)


def totals(rows: Sequence["Counts"]) -> tuple[int, int]:
    """Succeeded and failed sub-tasks over all chunks: the final counters of a fan-out (rule 4)."""
    return sum(row.succeeded for row in rows), sum(row.failed for row in rows)


class Counts(Protocol):
    """What a chunk row says of its sub-tasks."""

    @property
    def succeeded(self) -> int: ...
    @property
    def failed(self) -> int: ...
