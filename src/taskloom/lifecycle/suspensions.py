"""Tasks that sleep, or wait for a callback: PENDING, and in nobody's hands."""

import json
from datetime import datetime
from typing import Final

from taskloom.lifecycle.changes import NEXT, PENDING, Change, Guard, Patch, Trigger, entry, mine
from taskloom.lifecycle.ends import continued, sliced
from taskloom.model import Kind, Progress, TaskEntity
from taskloom.values import EncodedJson

ANSWERED: Final = "its callback was answered, and it goes on"
_SLEEPS: Final = "sleeps until "
_WAITS: Final = "waits for callback "


def sleeps(until: str) -> str:
    """The reason, in the history, of a task that sleeps until then."""
    return _SLEEPS + until


def waits(name: str, until: str | None) -> str:
    """The reason, in the history, of a task that waits for the callback *name* until then (None: for ever)."""
    return _waits(name) + ("" if until is None else f" until {until}")


def suspended(
    task: TaskEntity,
    *,
    until: datetime,
    callback: str | None,
    state: EncodedJson | None,
    progress: Progress | None,
    reason: str,
    now: datetime,
    by: str,
    claim_id: str,
) -> Change:
    """The claimed *task* is in nobody's hands until *until*, or until its *callback* is answered.

    The attempt goes on then. If the answer is there already, the task goes on at once.
    """
    change = sliced(
        task, Trigger.SUSPEND, state=state, progress=progress, reason=reason, now=now, by=by, claim_id=claim_id
    )
    change.patch["next_attempt_at"] = until
    if callback is not None:
        change.guard = change.guard._replace(unanswered=callback)
        change.otherwise = continued(
            task, state=state, progress=progress, reason=ANSWERED, now=now, by=by, claim_id=claim_id
        )
    return change


def touched(task: TaskEntity, *, now: datetime) -> Change:
    """Nothing changes, but the claim of the running *task* still holds."""
    return Change(key=task.key, guard=mine(task), patch={"updated_at": now}, returning=False)


def answered(task: TaskEntity, name: str, *, now: datetime, by: str | None, dispatch: str, claim_id: str) -> Change:
    """What the answer to its callback *name* does to the open *task*: if it waits for it, it goes on at once."""
    guard = Guard(status=frozenset({task.status}), fence=task.fence, run=task.run)
    if not waits_for(task, name):
        # The guard alone matters: should the task begin to wait meanwhile, this is refused.
        return Change(key=task.key, guard=guard, patch={"updated_at": now}, returning=False)
    status = NEXT[PENDING, Trigger.WAKE]
    patch: Patch = {"status": status, "claim_id": claim_id, "next_attempt_at": now, "updated_at": now}
    if task.kind is not Kind.SUB_TASK:
        patch["dispatch"] = dispatch
    reason = f"callback {json.dumps(name, ensure_ascii=False)} was answered"
    return Change(key=task.key, guard=guard, patch=patch, history=entry(task, status, now, by, reason))


def suspension(task: TaskEntity) -> str | None:
    """What the *task* sleeps or waits for, in the words of its history; None when it does neither."""
    if task.status is not PENDING or not task.history:
        return None
    reason = task.history[-1].reason or ""
    return reason if reason.startswith((_SLEEPS, _WAITS)) else None


def waits_for(task: TaskEntity, name: str) -> bool:
    """Whether the *task* waits for its callback *name*."""
    reason, waiting = suspension(task) or "", _waits(name)
    return reason == waiting or reason.startswith(f"{waiting} until ")


def callback_of(reason: str) -> str | None:
    """The callback for which a task waits, of its `suspension`; None when it sleeps."""
    if not reason.startswith(_WAITS):
        return None
    name, _ = json.JSONDecoder().raw_decode(reason, len(_WAITS))
    return str(name)


def _waits(name: str) -> str:
    return _WAITS + json.dumps(name, ensure_ascii=False)
