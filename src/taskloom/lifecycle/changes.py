"""What a change of a task is, and which there are: the rules as data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final, NamedTuple, Protocol, TypedDict

from taskloom.model import (
    CancelRequest,
    Failure,
    FanOut,
    HistoryEntry,
    Kind,
    Progress,
    TaskEntity,
    TaskKey,
    TaskOptions,
    TaskStatus,
)
from taskloom.values import EncodedJson

MAX_REASON: Final = 500
"""Characters of a reason in the history; the error itself keeps more."""
MAX_REASON_BYTES: Final = 4 * MAX_REASON
"""Of a reason as JSON in UTF-8, where a control character takes six."""

PENDING, IN_PROGRESS = TaskStatus.PENDING, TaskStatus.IN_PROGRESS
COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED
RUNNING: Final = frozenset({IN_PROGRESS})


_dump = json.JSONEncoder(ensure_ascii=False).encode


class Trigger(Enum):
    """What makes a task change its status."""

    CLAIM = "a worker claims it"
    RECLAIM = "its lease ended, and a worker claims it"
    SUCCEED = "its handlers returned"
    FAIL = "a handler raised, and that is final"
    RETRY = "a handler raised, and another attempt follows"
    GIVE_BACK = "its worker stops before it is done"
    CONTINUE = "it goes on in another slice"
    SUSPEND = "it sleeps, or waits for a callback"
    WAKE = "its callback was answered"
    ABANDON = "its lease ended too often"
    REJECT = "nothing will ever run it"
    CANCEL = "somebody cancels it"
    FINALIZE_WELL = "its sub-tasks ended within the tolerance"
    FINALIZE_BADLY = "too many of its sub-tasks failed"
    FINALIZE_CANCELLED = "it was to end before all of its sub-tasks had"
    RETRY_RUN = "somebody retries it: a new run"
    CLAIM_IN_NEW_RUN = "a worker claims it in a new run of its fan-out"
    EXPIRE = "its deadline passed"
    REPAIR = "it had lost its message, and gets another one"
    CARRY_ON = "it stood still, and goes on"
    FINALIZE_LATE = "its deadline passed before all of its sub-tasks had ended"


NEXT: Final[Mapping[tuple[TaskStatus, Trigger], TaskStatus]] = {
    (PENDING, Trigger.CLAIM): IN_PROGRESS,
    (PENDING, Trigger.REJECT): FAILED,
    (IN_PROGRESS, Trigger.RECLAIM): IN_PROGRESS,
    (IN_PROGRESS, Trigger.SUCCEED): COMPLETED,
    (IN_PROGRESS, Trigger.FAIL): FAILED,
    (IN_PROGRESS, Trigger.RETRY): PENDING,
    (IN_PROGRESS, Trigger.GIVE_BACK): PENDING,
    (IN_PROGRESS, Trigger.CONTINUE): PENDING,
    (IN_PROGRESS, Trigger.SUSPEND): PENDING,
    (PENDING, Trigger.WAKE): PENDING,
    (IN_PROGRESS, Trigger.ABANDON): FAILED,
    (IN_PROGRESS, Trigger.REJECT): FAILED,
    (IN_PROGRESS, Trigger.FINALIZE_WELL): COMPLETED,
    (IN_PROGRESS, Trigger.FINALIZE_BADLY): FAILED,
    (IN_PROGRESS, Trigger.FINALIZE_CANCELLED): CANCELLED,
    (IN_PROGRESS, Trigger.FINALIZE_LATE): FAILED,
    (PENDING, Trigger.REPAIR): PENDING,
    (IN_PROGRESS, Trigger.CARRY_ON): IN_PROGRESS,
    (PENDING, Trigger.EXPIRE): FAILED,
    (IN_PROGRESS, Trigger.EXPIRE): FAILED,
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
    deadline_at: datetime | None
    ttl: datetime | None
    lost: int
    state: EncodedJson | None


class Guard(NamedTuple):
    """What must hold of the stored task for a change to be carried out; all of it."""

    absent: bool = False
    """There is no such task yet: the change creates it. Only for sub-tasks, and with nothing else in the guard."""
    status: frozenset[TaskStatus] | None = None
    fence: int | None = None
    run: int | None = None
    lease_ended_by: datetime | None = None
    """It has no lease, or one that ended at this instant or before."""
    unanswered: str | None = None
    """Its callback of this name has no answer."""


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
    otherwise: "Change | None" = None
    """What the owner of the claim writes instead when nothing but `unanswered` stands against this."""


@dataclass(frozen=True, slots=True)
class Written:
    """The change was carried out; *entity* is the task after it, if the change asks for it."""

    entity: TaskEntity | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The guard did not hold, nothing was changed; *current* is the task as it stands, None when there is none."""

    current: TaskEntity | None


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
    def lost(self) -> int: ...
    @property
    def lease_until(self) -> datetime | None: ...
    @property
    def deadline_at(self) -> datetime | None: ...
    @property
    def next_attempt_at(self) -> datetime | None: ...
    @property
    def started_at(self) -> datetime | None: ...
    @property
    def options(self) -> TaskOptions: ...


def is_mine(change: Change, refused: Refused) -> bool:
    """Whether the refused *change* was carried out before: its answer was lost, and a driver repeated it (rule 2)."""
    claim_id = change.patch.get("claim_id")
    return claim_id is not None and refused.current is not None and refused.current.claim_id == claim_id


def mine(task: TaskEntity) -> Guard:
    """What holds as long as the claim of *task* does."""
    return Guard(status=RUNNING, fence=task.fence)


def ended(
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
    """The open task at *standing* ends with *failure*."""
    status = NEXT[standing.status, trigger]
    patch: Patch = {
        "status": status,
        "claim_id": claim_id,
        "lease_until": None,
        "next_attempt_at": None,
        "error": failure,
        "updated_at": now,
        "finished_at": now,
    }
    expire(patch, key.kind, standing.options)
    return Change(
        key=key,
        guard=guard,
        patch=patch,
        history=entry(standing, status, now, by, failure.message),
    )


def expire(patch: Patch, kind: Kind, options: TaskOptions) -> None:
    """Have *patch*, which ends a task, say from when on it counts as absent. A sub-task goes with its fan-out."""
    if options.ttl is None or kind is Kind.SUB_TASK:
        return
    at = patch["finished_at"]
    if at is not None:
        at += timedelta(seconds=options.ttl)
        if at.microsecond:  # whole seconds, and never too early
            at = at.replace(microsecond=0) + timedelta(seconds=1)
        patch["ttl"] = at


def entry(task: Standing, status: TaskStatus, now: datetime, by: str | None, reason: str | None = None) -> HistoryEntry:
    """The entry of the change of *task* to *status*."""
    if reason is not None:
        reason = _bounded(reason)
    return HistoryEntry(at=now, status=status, run=task.run, attempt=task.attempt, reason=reason, by=by)


def _bounded(reason: str) -> str:
    """*reason*, cut where it is too long as text or as what is stored of it."""
    cut = reason[:MAX_REASON]
    while (over := len(_dump(cut).encode(errors="surrogatepass")) - 2 - MAX_REASON_BYTES) > 0:
        cut = cut[: len(cut) - max(1, over // 6)]  # six bytes is the most that a character takes
    return reason if len(cut) == len(reason) else f"{cut} …"
