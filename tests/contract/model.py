"""A task store as a dict: what `ports.TaskStore` promises, in the fewest words."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from taskloom.lifecycle import Change, Guard, Patch, Refused, Written
from taskloom.model import Kind, TaskEntity, TaskKey, TaskStatus
from taskloom.ports import ChunkRow, NewTaskRow, Step, TaskQuery
from taskloom.values import decode

_ATTRIBUTES = ("results", "result_ref", "error", "sub_task_succeed_count", "sub_task_failed_count")


class Model:
    """The tasks and chunk rows that a store should hold."""

    def __init__(self) -> None:
        self.tasks: dict[TaskKey, TaskEntity] = {}
        self.chunks: dict[tuple[TaskKey, int, int], ChunkRow] = {}
        self.steps: dict[tuple[TaskKey, str], Step] = {}
        """Callbacks, by task and name."""

    def create(self, rows: Sequence[NewTaskRow]) -> None:
        self.tasks |= {row.entity.key: row.entity for row in rows}

    def update(self, change: Change) -> Written | Refused:
        task = self.tasks.get(change.key)
        if not self.allows(change, task):
            return Refused(task)
        if task is None:
            task = replace(_absent(change.key, change.patch["created_at"]), version=-1)
        after = patched(task, change)
        self.tasks[change.key] = after
        return Written(after)

    def allows(self, change: Change, task: TaskEntity | None) -> bool:
        """Whether *change* may be carried out on *task*."""
        name = change.guard.unanswered
        callback = None if name is None else self.steps.get((change.key, name))
        return holds(change.guard, task) and (callback is None or callback.answer is None)

    def put(self, step: Step, change: Change) -> Written | Refused | Step:
        standing = self.steps.get((step.key, step.name))
        if step.version != 1 + (0 if standing is None else standing.version):
            return Refused(None) if standing is None else standing
        outcome = self.update(change)
        if isinstance(outcome, Written):
            self.steps[step.key, step.name] = step
        return outcome

    def list_tasks(self, query: TaskQuery) -> list[TaskEntity]:
        found = [
            task
            for task in self.tasks.values()
            if (task.tenant_code, task.kind) == (query.tenant_code, query.kind)
            and query.status in (None, task.status)
            and query.task_type in (None, task.task_type)
        ]
        found.sort(key=lambda task: task.code, reverse=query.newest_first)
        return found

    def list_sub_tasks(self, parent: TaskKey, indexes: range) -> list[TaskEntity]:
        found = [task for key, task in self.tasks.items() if key.parent == parent and task.index in indexes]
        return sorted(found, key=lambda task: task.index or 0)

    def put_chunk(self, row: ChunkRow) -> bool:
        name = (row.parent, row.run, row.chunk)
        is_new = name not in self.chunks
        self.chunks.setdefault(name, row)
        return is_new

    def list_chunks(self, parent: TaskKey, run: int) -> list[ChunkRow]:
        found = [row for row in self.chunks.values() if (row.parent, row.run) == (parent, run)]
        return sorted(found, key=lambda row: row.chunk)


def holds(guard: Guard, task: TaskEntity | None) -> bool:
    """Whether a change under *guard* may be carried out on *task*."""
    if guard.absent or task is None:
        return guard.absent and task is None
    return (
        (guard.status is None or task.status in guard.status)
        and guard.fence in (None, task.fence)
        and guard.run in (None, task.run)
        and (guard.lease_ended_by is None or task.lease_until is None or task.lease_until <= guard.lease_ended_by)
    )


def patched(task: TaskEntity, change: Change) -> TaskEntity:
    """*task* after *change*."""
    patch: Patch = change.patch
    fields: dict[str, Any] = {name: value for name, value in patch.items() if name not in _ATTRIBUTES}
    attributes: dict[str, Any] = {name: value for name, value in patch.items() if name in _ATTRIBUTES}
    if fields.get("state") is not None:
        fields["state"] = decode(fields["state"])
    if attributes.get("results") is not None:
        attributes["results"] = decode(attributes["results"])
    for name, amount in (change.add or {}).items():
        attributes[name] = getattr(task.attributes, name) + amount
    if change.history is not None:
        fields["history"] = (*task.history, change.history)
    return replace(task, **fields, attributes=replace(task.attributes, **attributes), version=task.version + 1)


def _absent(key: TaskKey, created_at: datetime) -> TaskEntity:
    parts = key.parts
    return TaskEntity(
        key=key,
        kind=Kind.SUB_TASK,
        code=parts.code,
        task_type=parts.task_type,
        name=parts.task_type,
        tenant_code=parts.tenant_code,
        status=TaskStatus.PENDING,
        input=None,
        index=parts.index,
        created_at=created_at,
        updated_at=created_at,
    )
