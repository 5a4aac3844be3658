"""Finding tasks, and waiting for them."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from taskloom import model, payloads
from taskloom.errors import InvalidInput, InvalidType, TaskExpired, TaskNotFound
from taskloom.model import MAX_SUB_TASKS, Kind, Page, TaskCode, TaskEntity, TaskKey, TaskStatus
from taskloom.operations import cursors
from taskloom.operations.checks import one_of, status_of
from taskloom.policy import number, whole_number
from taskloom.ports import Backend, TaskQuery
from taskloom.record import time_text

MAX_PAGE: Final = 1000
LOOK_ANYWAY: Final = timedelta(seconds=1)
"""Signals may be lost: how often `wait` looks by itself."""


class Finding:
    """Reads tasks."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def whole(self, key: TaskKey) -> TaskEntity[Any]:
        """See `TaskService.get_task`."""
        return await payloads.whole(self._backend, await self.stored(key))

    async def stored(self, key: TaskKey) -> TaskEntity[Any]:
        """The task or sub-task *key* without what lies elsewhere. Raises: TaskNotFound, InvalidInput, InvalidType."""
        if not isinstance(key, TaskKey):
            raise InvalidType("key", f"{key!r} is no TaskKey", "give the key of a task entity, or TaskKey(pk, sk)")
        if key.kind is Kind.SUB_TASK:
            # Through its parent, which knows the tenant (rule 7) and what the sub-task's own row does not hold.
            parent = await self._backend.store.get(key.parent)
            index = key.parts.index or 0
            if parent is None:
                raise await self._absent(key)
            if index >= (parent.attributes.sub_task_count or 0):
                raise TaskNotFound(key)
            return (await self._sub_tasks(parent, range(index, index + 1)))[0]
        task = await self._backend.store.get(key)
        if task is None:
            raise await self._absent(key)
        return task

    async def _absent(self, key: TaskKey) -> TaskNotFound:
        at = await self._backend.store.expired_at(key.parent)
        return TaskNotFound(key) if at is None else TaskExpired(key, time_text(at))

    async def page(
        self,
        tenant_code: str,
        *,
        type: str,
        status: TaskStatus | str | None,
        task_type: str | None,
        limit: int,
        order: str,
        cursor: str | None,
    ) -> Page[TaskEntity[Any]]:
        """See `TaskService.list_tasks`."""
        query = TaskQuery(
            tenant_code=model.tenant_code(tenant_code),
            kind=Kind(one_of(type, "type", ("TASK", "SFN_TASK"))),
            status=None if status is None else status_of(status),
            task_type=None if task_type is None else model.task_type(task_type),
            newest_first=one_of(order, "order", ("asc", "desc")) == "desc",
            after=None if cursor is None else TaskCode(cursors.text(cursor)),
            limit=whole_number(limit, "limit", low=1, high=MAX_PAGE),
        )
        tasks, after = await self._backend.store.list_tasks(query)
        items = [await payloads.whole(self._backend, task) for task in tasks]
        return Page(items=items, cursor=None if after is None else cursors.of(after))

    async def sub_task_page(
        self, key: TaskKey, *, status: TaskStatus | str | None, limit: int, cursor: str | None
    ) -> Page[TaskEntity[Any]]:
        """See `TaskService.list_sub_tasks`."""
        wanted = None if status is None else status_of(status)
        whole_number(limit, "limit", low=1, high=MAX_PAGE)
        start = 0 if cursor is None else cursors.number(cursor, MAX_SUB_TASKS)
        parent = await self._fan_out(key)
        count = parent.attributes.sub_task_count or 0
        indexes = range(start, min(count, start + max(limit, payloads.SUB_TASK_PAGE if wanted else 0)))
        found: list[TaskEntity[Any]] = []
        end = indexes.start
        if indexes:
            tasks = await self._sub_tasks(parent, indexes)
            for task in tasks:
                if len(found) == limit:
                    break
                end += 1
                if wanted is None or task.status is wanted:
                    found.append(task)
        return Page(items=found, cursor=cursors.of(end) if end < count else None)

    async def ended(self, key: TaskKey, timeout: float | None) -> TaskEntity[Any]:
        """See `TaskService.wait`."""
        clock = self._backend.clock
        until = None
        if timeout is not None:
            until = clock.now() + timedelta(seconds=number(timeout, "timeout", low=0, high=366 * 86400))
        with self.changes(key) as changed:
            while True:
                changed.clear()
                task = await self.stored(key)
                now = clock.now()
                if task.is_terminal:
                    return await payloads.whole(self._backend, task)
                if until is not None and now >= until:
                    raise TimeoutError(f"{key} is still {task.status} after {timeout:g} s")
                await clock.wait(changed, now + LOOK_ANYWAY if until is None else min(until, now + LOOK_ANYWAY))

    @contextmanager
    def changes(self, key: TaskKey) -> Iterator[asyncio.Event]:
        """An event that is set whenever the task *key* may have ended; of a sub-task, its fan-out."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(changed.set)
            except RuntimeError:
                return  # the loop is closed, and nobody waits any more

        end = self._backend.signals.on_change(key.parts.code, wake)
        try:
            yield changed
        finally:
            end()

    async def _fan_out(self, key: TaskKey) -> TaskEntity[Any]:
        task = await self.stored(key)
        if task.kind is not Kind.SFN_TASK:
            raise InvalidInput("key", f"{key} is no step function task, so it has no sub-tasks", "give a fan-out's key")
        return task

    async def _sub_tasks(self, parent: TaskEntity[Any], indexes: range) -> list[TaskEntity[Any]]:
        inputs = await payloads.inputs(self._backend, parent, indexes)
        rows = {row.index: row for row in await self._backend.store.list_sub_tasks(parent.key, indexes)}
        tasks = []
        for index, value in zip(indexes, inputs, strict=True):
            row = rows.get(index)
            if row is None:
                tasks.append(payloads.unclaimed(parent, index, value))
            else:
                tasks.append(await payloads.whole(self._backend, payloads.sub_task(parent, row, value)))
        return tasks
