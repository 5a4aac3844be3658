"""What waits by tenant, kind and type, told from the tasks themselves."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from taskloom.model import Kind, TaskEntity, TaskStatus
from taskloom.ports import LaneFigures


def figures(tasks: Iterable[TaskEntity[Any]], now: datetime) -> Sequence[LaneFigures]:
    """The figures of open *tasks*. Running fan-outs have no message; their executions have."""
    waiting: dict[tuple[str, Kind, str], list[datetime]] = {}
    others: dict[tuple[str, Kind, str], list[int]] = {}
    for task in tasks:
        lane = (task.tenant_code, task.kind, task.task_type)
        due, (delayed, running) = waiting.setdefault(lane, []), others.setdefault(lane, [0, 0])
        if task.status is TaskStatus.IN_PROGRESS:
            others[lane] = [delayed, running + (task.kind is Kind.TASK)]
        elif task.status is TaskStatus.PENDING:
            at = task.next_attempt_at or task.updated_at
            if at > now:
                others[lane] = [delayed + 1, running]
            else:
                due.append(at)
    return [
        LaneFigures(
            tenant_code=tenant,
            kind=kind,
            task_type=task_type,
            waiting=len(due),
            delayed=others[tenant, kind, task_type][0],
            in_flight=others[tenant, kind, task_type][1],
            oldest_at=min(due, default=None),
        )
        for (tenant, kind, task_type), due in sorted(waiting.items())
        if due or any(others[tenant, kind, task_type])
    ]
