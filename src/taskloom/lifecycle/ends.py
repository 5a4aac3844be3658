"""What the owner of a claim writes; and the end of what nobody will ever claim."""

from datetime import datetime

from taskloom.lifecycle.changes import (
    IN_PROGRESS,
    NEXT,
    PENDING,
    Change,
    Guard,
    Patch,
    Trigger,
    ended,
    entry,
    expire,
    mine,
)
from taskloom.model import Failure, Progress, TaskEntity
from taskloom.values import EncodedJson


def completed(
    task: TaskEntity,
    *,
    results: EncodedJson | None,
    result_ref: str | None,
    progress: Progress | None,
    has_state: bool = False,
    now: datetime,
    by: str,
    claim_id: str,
) -> Change:
    """The claimed *task* ended well. Exactly one of *results* and *result_ref* is given.

    What it saved (*has_state*) is of no use any more, and goes.
    """
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
    expire(patch, task.kind, task.options)
    if has_state:
        patch["state"] = None
    if progress is not None:
        patch["progress"] = progress
    return Change(key=task.key, guard=mine(task), patch=patch, history=entry(task, status, now, by), returning=False)


def failed(
    task: TaskEntity, failure: Failure, *, progress: Progress | None, now: datetime, by: str, claim_id: str
) -> Change:
    """The claimed *task* ended badly."""
    change = ended(task.key, task, mine(task), Trigger.FAIL, failure, now=now, by=by, claim_id=claim_id)
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
    return Change(key=task.key, guard=mine(task), patch=patch, history=entry(task, status, now, by, failure.message))


def given_back(task: TaskEntity, reason: str, *, now: datetime, by: str, claim_id: str) -> Change:
    """The worker of the claimed *task* stops: somebody else tries, and the attempt does not count."""
    status = NEXT[IN_PROGRESS, Trigger.GIVE_BACK]
    return Change(
        key=task.key,
        guard=mine(task),
        patch={
            "status": status,
            "attempt": task.attempt - 1,
            "claim_id": claim_id,
            "lease_until": None,
            "updated_at": now,
        },
        history=entry(task, status, now, by, reason),
    )


def continued(
    task: TaskEntity,
    *,
    state: EncodedJson | None,
    progress: Progress | None,
    reason: str,
    now: datetime,
    by: str,
    claim_id: str,
) -> Change:
    """The claimed *task* goes on in another slice, with *state* (None: with what it has); the attempt goes on."""
    return sliced(
        task, Trigger.CONTINUE, state=state, progress=progress, reason=reason, now=now, by=by, claim_id=claim_id
    )


def sliced(
    task: TaskEntity,
    trigger: Trigger,
    *,
    state: EncodedJson | None,
    progress: Progress | None,
    reason: str,
    now: datetime,
    by: str,
    claim_id: str,
) -> Change:
    """A slice of the claimed *task* ends by *trigger*; the attempt does not."""
    status = NEXT[IN_PROGRESS, trigger]
    patch: Patch = {
        "status": status,
        "attempt": task.attempt - 1,
        "claim_id": claim_id,
        "lease_until": None,
        "updated_at": now,
    }
    if state is not None:
        patch["state"] = state
    if progress is not None:
        patch["progress"] = progress
    return Change(key=task.key, guard=mine(task), patch=patch, history=entry(task, status, now, by, reason))


def checkpointed(task: TaskEntity, state: EncodedJson, *, now: datetime) -> Change:
    """The claimed *task* has saved *state* for its next attempt or slice."""
    return Change(key=task.key, guard=mine(task), patch={"state": state, "updated_at": now}, returning=False)


def renewed(task: TaskEntity, *, until: datetime, now: datetime) -> Change:
    """The claim of *task* holds until *until*."""
    return Change(key=task.key, guard=mine(task), patch={"lease_until": until, "updated_at": now}, returning=False)


def progressed(task: TaskEntity, progress: Progress, *, now: datetime) -> Change:
    """The claimed *task* is at *progress*."""
    return Change(key=task.key, guard=mine(task), patch={"progress": progress, "updated_at": now}, returning=False)


def rejected(task: TaskEntity, failure: Failure, *, now: datetime, by: str, claim_id: str) -> Change:
    """Nothing will ever run *task*, which nobody has claimed since it was read."""
    guard = Guard(status=frozenset({PENDING}), fence=task.fence)
    change = ended(task.key, task, guard, Trigger.REJECT, failure, now=now, by=by, claim_id=claim_id)
    change.patch["dispatch"] = None
    return change
