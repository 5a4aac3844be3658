"""What the reconciler writes."""

from datetime import datetime, timedelta
from typing import Final

from taskloom.lifecycle.changes import IN_PROGRESS, NEXT, Change, Guard, Patch, Trigger, entry
from taskloom.model import Kind, TaskEntity

REPAIRED: Final = "repaired"
"""How the reason of a repair begins in the history."""
FIRST_PAUSE: Final = timedelta(minutes=1)
"""Between the first and the second repair of a task; each further pause is twice as long."""


def repaired(task: TaskEntity, reason: str, *, now: datetime, by: str, dispatch: str, claim_id: str) -> Change:
    """The open *task* has nothing that would bring it back, so it gets another message.

    A running fan-out does not, since its execution owns it (rule 3): the change only tells what was done.
    """
    status = NEXT[task.status, Trigger.CARRY_ON if task.status is IN_PROGRESS else Trigger.REPAIR]
    patch: Patch = {"status": status, "claim_id": claim_id, "updated_at": now}
    runs_by_itself = task.kind is Kind.SFN_TASK and status is IN_PROGRESS
    if not runs_by_itself:
        patch["dispatch"] = dispatch
    return Change(
        key=task.key,
        guard=Guard(
            status=frozenset({task.status}),
            fence=task.fence,
            run=task.run,
            lease_ended_by=None if runs_by_itself else now,
        ),
        patch=patch,
        history=entry(task, status, now, by, f"{REPAIRED}: {reason}"),
    )


def next_repair(task: TaskEntity) -> datetime | None:
    """From when on *task* may be repaired again, None: at once. What does not help is not done over and over."""
    before = [
        item.at for item in task.history if item.run == task.run and (item.reason or "").startswith(f"{REPAIRED}: ")
    ]
    return before[-1] + FIRST_PAUSE * 2 ** min(len(before) - 1, 20) if before else None


def may_be_repaired(task: TaskEntity, now: datetime) -> bool:
    """Whether it is time to repair *task*."""
    at = next_repair(task)
    return at is None or now >= at
