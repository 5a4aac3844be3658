"""A page of tasks that match what an operator asks for, of one kind or of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, get_args

from taskloom.clock import to_milliseconds
from taskloom.ids import encode_ulid
from taskloom.model import TaskEntity, TaskStatus
from taskloom.operations import cursors
from taskloom.service import TaskService, TopKind

LIMIT: Final = 50
MAX_LOOKS: Final = 10
"""Into the lists for one page, however rare a match is."""
PORTION: Final = 100
KINDS: Final[Sequence[TopKind]] = get_args(TopKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to list. Times are those of the creation."""

    tenant: str
    kind: TopKind | None = None
    status: TaskStatus | None = None
    task_type: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str = ""
    """Part of a name or of a code; upper and lower case are the same."""
    before: str | None = None
    """Go on behind the task with this code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What was found, newest first."""

    tasks: Sequence[TaskEntity[Any]]
    before: str | None
    """Where to go on; None at the end. A page may be short, or empty, though more follows."""


async def listed(service: TaskService, wanted: Wanted, *, limit: int = LIMIT) -> Listed:
    """At most *limit* tasks that match, newest first. Raises: InvalidInput."""
    found: list[TaskEntity[Any]] = []
    before = _start(wanted)
    for _ in range(MAX_LOOKS):
        tasks, horizon = await _portion(service, wanted, before)
        for task in tasks:
            if wanted.since is not None and task.created_at < wanted.since:
                return Listed(tasks=found, before=None)
            if _matches(task, wanted):
                found.append(task)
            if len(found) == limit:
                is_last = task is tasks[-1] and horizon is None
                return Listed(tasks=found, before=None if is_last else task.code)
        before = horizon
        if before is None:
            break
    return Listed(tasks=found, before=before)


async def _portion(
    service: TaskService, wanted: Wanted, before: str | None
) -> tuple[Sequence[TaskEntity[Any]], str | None]:
    """The next tasks in the order of their codes, and the code to go on behind; None at the end."""
    tasks: list[TaskEntity[Any]] = []
    horizons: list[str] = []
    for kind in KINDS if wanted.kind is None else (wanted.kind,):
        page = await service.list_tasks(
            wanted.tenant,
            type=kind,
            status=wanted.status,
            task_type=wanted.task_type,
            limit=PORTION,
            cursor=None if before is None else cursors.of(before),
        )
        tasks += page.items
        if page.cursor is not None:
            horizons.append(cursors.text(page.cursor))
    # Where one list broke off, more of it may follow: what the other one has behind that place must wait.
    horizon = max(horizons, default=None)
    known = [task for task in tasks if horizon is None or task.code >= horizon]
    return sorted(known, key=lambda task: task.code, reverse=True), horizon


def _start(wanted: Wanted) -> str | None:
    """The code to begin behind: codes tell the time, so what is too new need not be looked at."""
    starts = [] if wanted.before is None else [wanted.before]
    if wanted.until is not None:
        starts.append(encode_ulid(to_milliseconds(wanted.until) + 1 << 80))
    return min(starts, default=None)


def _matches(task: TaskEntity[Any], wanted: Wanted) -> bool:
    text = wanted.text.strip().casefold()
    return not text or text in task.name.casefold() or text in task.code.casefold()
