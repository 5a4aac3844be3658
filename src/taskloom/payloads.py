"""Entities made whole: what lies in the payload store is fetched."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from taskloom.model import Kind, TaskEntity, TaskKey, TaskStatus
from taskloom.ports import Backend
from taskloom.values import EncodedJson, decode

SUB_TASK_PAGE: Final = 1000
"""Indexes of a fan-out that one look at its sub-tasks covers: one shard's worth."""


async def whole(backend: Backend, task: TaskEntity[Any]) -> TaskEntity[Any]:
    """*task* with its input and its results, wherever they lie; the inputs of a large fan-out stay away."""
    if task.input_ref is not None and task.kind is Kind.TASK:
        task = replace(task, input=decode(await backend.payloads.get(task.input_ref)))
    reference = task.attributes.result_ref
    if reference is not None and task.attributes.results is None:
        results = decode(await backend.payloads.get(reference))
        task = replace(task, attributes=replace(task.attributes, results=results))
    return task


async def inputs(backend: Backend, parent: TaskEntity[Any], indexes: range) -> Sequence[Any]:
    """The inputs of these sub-tasks of *parent* (consecutive), in order."""
    if parent.input_ref is None:
        elements: list[Any] = parent.input
        return elements[indexes.start : indexes.stop]
    texts: Sequence[EncodedJson] = await backend.payloads.read_items(parent.input_ref, indexes)
    return [decode(text) for text in texts]


def sub_task(parent: TaskEntity[Any], row: TaskEntity[Any], input: Any) -> TaskEntity[Any]:
    """The stored sub-task *row* with what only its parent knows."""
    return replace(
        row,
        input=input,
        name=parent.name,
        request_id=parent.request_id,
        created_by=parent.created_by,
        created_ip=parent.created_ip,
        deadline_at=parent.deadline_at,
        priority=parent.priority,
        options=parent.options,
    )


def unclaimed(parent: TaskEntity[Any], index: int, input: Any) -> TaskEntity[Any]:
    """The sub-task *index* that nobody has claimed yet, so that nothing of it is stored.

    PENDING; but once the fan-out has ended nobody ever will claim it in this run: it is CANCELLED.
    """
    return TaskEntity(
        key=TaskKey.sub_task(parent.tenant_code, parent.task_type, parent.code, index),
        kind=Kind.SUB_TASK,
        code=parent.code,
        task_type=parent.task_type,
        name=parent.name,
        tenant_code=parent.tenant_code,
        status=TaskStatus.CANCELLED if parent.is_terminal else TaskStatus.PENDING,
        input=input,
        index=index,
        request_id=parent.request_id,
        created_at=parent.created_at,
        updated_at=parent.created_at,
        created_by=parent.created_by,
        created_ip=parent.created_ip,
        run=parent.run,
        deadline_at=parent.deadline_at,
        priority=parent.priority,
        options=parent.options,
    )
