"""What comes from outside: somebody cancels or retries a task, or its deadline passes."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from taskloom.lifecycle.changes import NEXT, Change, Guard, Patch, Standing, Trigger, ended, entry, expire, mine
from taskloom.model import Failure, HistoryEntry, Kind, TaskEntity, TaskKey

TOO_LATE: Final = "DeadlineExceeded"
"""The type of the error of a task that did not end in time."""
FAN_OUT_ENDS: Final = "its fan-out ends"
"""Why a sub-task is cancelled."""


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
    expire(patch, task.kind, task.options)
    if task.kind is not Kind.SUB_TASK:
        patch["dispatch"] = None
    guard = mine(task) if worker else Guard(status=frozenset({task.status}), fence=task.fence, run=task.run)
    return Change(key=task.key, guard=guard, patch=patch, history=entry(task, status, now, by, why(reason)))


def why(reason: str | None) -> str:
    """The reason of a cancellation as it stands in the history."""
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
        "lost": 0,
        "state": None,
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
        "ttl": None,
        "cancel_requested": None,
        "updated_at": now,
    }
    if task.options.deadline is not None:
        patch["deadline_at"] = now + timedelta(seconds=task.options.deadline)
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


def overdue(task: TaskEntity, *, now: datetime, by: str, claim_id: str) -> Change:
    """The open *task* ends because its deadline has passed; whoever runs it has lost its claim (rule 2).

    Not for running fan-outs, which their executions own.
    """
    return expired(task.key, task, now=now, by=by, claim_id=claim_id)


def expired(key: TaskKey, task: Standing, *, now: datetime, by: str, claim_id: str) -> Change:
    """The same for what is known of a task by its message."""
    failure = Failure(type=TOO_LATE, message=too_late(task), attempt=task.attempt)
    guard = Guard(status=frozenset({task.status}), fence=task.fence, run=task.run)
    change = ended(key, task, guard, Trigger.EXPIRE, failure, now=now, by=by, claim_id=claim_id)
    change.patch["fence"] = task.fence + 1
    change.patch["dispatch"] = None
    return change


def too_late(task: Standing) -> str:
    """Why a task is ended whose deadline has passed."""
    since = "creation" if task.run == 1 else "retry"
    return f"it did not end within {task.options.deadline or 0:g} s of its {since}"
