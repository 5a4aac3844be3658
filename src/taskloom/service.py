"""TaskService: what a program does with tasks."""

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias, TypeVar

from taskloom import lifecycle, model, payloads
from taskloom.errors import InvalidInput, InvalidType, TaskEnded, TaskNotFound, TaskOpen
from taskloom.execution.writes import patiently, write
from taskloom.lifecycle import Refused, Written
from taskloom.model import (
    MAX_SUB_TASKS,
    HistoryEntry,
    InvokeContext,
    Kind,
    NewTask,
    Page,
    TaskAttributes,
    TaskCode,
    TaskEntity,
    TaskKey,
    TaskStatus,
    TenantCode,
)
from taskloom.policy import number, whole_number
from taskloom.ports import Backend, ItemWriter, NewTaskRow, TaskQuery
from taskloom.values import EncodedJson, check_text, decode, encode

CursorT = TypeVar("CursorT", str, int)
Order: TypeAlias = Literal["asc", "desc"]
TopKind: TypeAlias = Literal["TASK", "SFN_TASK"]

MAX_NAME: Final = 256
MAX_PAGE: Final = 1000
BULK: Final = 500
"""Tasks of `create_tasks` that one write holds."""
ITEM_BATCH: Final = 100
LOOK_ANYWAY: Final = timedelta(seconds=1)
"""Signals may be lost: how often `wait` looks by itself."""


class TaskService:
    """Creates tasks, finds them, waits for them. Usable from any event loop and thread, without worker or start."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def create_task(
        self,
        *,
        tenant_code: str,
        task_type: str,
        input: object = None,
        name: str | None = None,
        invoke_context: InvokeContext | None = None,
    ) -> TaskEntity[Any]:
        """The new single task, PENDING; it is on disk, and will be run by a worker that serves *task_type*.

        *input* is any JSON value; *name* is for people, at most 256 characters (default: the task type).
        Raises: InvalidInput, InvalidType.
        """
        new = NewTask(tenant_code=tenant_code, task_type=task_type, input=input, name=name)
        row = await self._single(new, invoke_context, "")
        await self._backend.store.create([row])
        return row.entity

    async def create_tasks(
        self, tasks: Iterable[NewTask], *, invoke_context: InvokeContext | None = None
    ) -> Sequence[TaskEntity[Any]]:
        """Many new single tasks, in the order given; far cheaper than one call each.

        All are checked before the first one is stored. They are stored in portions of 500: should the storage fail in
        between, the first ones exist.
        Raises: InvalidInput or InvalidType, with the path of the task (`tasks[3].input.price`).
        """
        rows = [await self._single(task, invoke_context, f"tasks[{index}].") for index, task in enumerate(tasks)]
        for start in range(0, len(rows), BULK):
            await self._backend.store.create(rows[start : start + BULK])
        return [row.entity for row in rows]

    async def create_step_function_task(
        self,
        *,
        tenant_code: str,
        task_type: str,
        input: Iterable[object] | AsyncIterable[object],
        name: str | None = None,
        invoke_context: InvokeContext | None = None,
    ) -> TaskEntity[Any]:
        """The new fan-out, PENDING: one sub-task per element of *input*, an iterable that is read here, to its end.

        A long input goes to the payload store while it is read and is never held in memory. If reading it raises, or
        an element is refused, nothing is created. An empty input makes a fan-out that ends COMPLETED.
        Raises: InvalidInput, InvalidType (*input* is a str, bytes, a mapping, or no iterable).
        """
        tenant = _tenant(tenant_code, invoke_context, "")
        type_ = model.task_type(task_type)
        name = _name(name, type_, "")
        now = self._backend.clock.now()
        code = self._backend.ids.code(now)
        key = TaskKey.step_function(tenant, type_, code)
        text, reference, count = await self._read(input, key)
        entity = _new_entity(
            key,
            Kind.SFN_TASK,
            code,
            tenant,
            type_,
            name,
            now=now,
            dispatch=self._backend.ids.token(),
            context=invoke_context,
            input=None if text is None else decode(text),
            input_ref=reference,
            attributes=TaskAttributes(sub_task_count=count),
            execution_arn=self._backend.machine.arn(code),
        )
        await self._backend.store.create([NewTaskRow(entity=entity, input=text)])
        return entity

    async def get_task(self, key: TaskKey) -> TaskEntity[Any]:
        """The task or sub-task *key* as it stands now. Raises: TaskNotFound; InvalidInput for what is no key."""
        return await payloads.whole(self._backend, await self._get(key))

    async def list_tasks(
        self,
        tenant_code: str,
        *,
        type: TopKind = "TASK",
        status: TaskStatus | str | None = None,
        task_type: str | None = None,
        limit: int = 20,
        order: Order = "desc",
        cursor: str | None = None,
    ) -> Page[TaskEntity[Any]]:
        """At most *limit* (1–1000) tasks of a tenant in the order of their creation, newest first unless "asc".

        *type*: single tasks ("TASK") or the parents of fan-outs ("SFN_TASK"). Raises: InvalidInput, InvalidType.
        """
        query = TaskQuery(
            tenant_code=model.tenant_code(tenant_code),
            kind=Kind(_one_of(type, "type", ("TASK", "SFN_TASK"))),
            status=None if status is None else _status(status),
            task_type=None if task_type is None else model.task_type(task_type),
            newest_first=_one_of(order, "order", ("asc", "desc")) == "desc",
            after=None if cursor is None else TaskCode(_from_cursor(cursor, str)),
            limit=whole_number(limit, "limit", low=1, high=MAX_PAGE),
        )
        tasks, after = await self._backend.store.list_tasks(query)
        items = [await payloads.whole(self._backend, task) for task in tasks]
        return Page(items=items, cursor=None if after is None else _to_cursor(after))

    async def iter_tasks(
        self,
        tenant_code: str,
        *,
        type: TopKind = "TASK",
        status: TaskStatus | str | None = None,
        task_type: str | None = None,
        order: Order = "desc",
    ) -> AsyncIterator[TaskEntity[Any]]:
        """All tasks of a tenant, page by page; see `list_tasks`."""
        cursor = None
        while True:
            page = await self.list_tasks(
                tenant_code, type=type, status=status, task_type=task_type, limit=100, order=order, cursor=cursor
            )
            for task in page.items:
                yield task
            cursor = page.cursor
            if cursor is None:
                return

    async def list_sub_tasks(
        self, key: TaskKey, *, status: TaskStatus | str | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page[TaskEntity[Any]]:
        """At most *limit* (1–1000) sub-tasks of the fan-out *key* in the order of its input; the page may be short.

        Those that nobody has claimed yet are PENDING. Raises: TaskNotFound, InvalidInput, InvalidType.
        """
        wanted = None if status is None else _status(status)
        whole_number(limit, "limit", low=1, high=MAX_PAGE)
        start = 0 if cursor is None else _from_cursor(cursor, int)
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
        return Page(items=found, cursor=_to_cursor(end) if end < count else None)

    async def iter_sub_tasks(
        self, key: TaskKey, *, status: TaskStatus | str | None = None
    ) -> AsyncIterator[TaskEntity[Any]]:
        """All sub-tasks of the fan-out *key* in the order of its input; see `list_sub_tasks`."""
        cursor = None
        while True:
            page = await self.list_sub_tasks(key, status=status, limit=payloads.SUB_TASK_PAGE, cursor=cursor)
            for task in page.items:
                yield task
            cursor = page.cursor
            if cursor is None:
                return

    async def wait(self, key: TaskKey, timeout: float | None = None) -> TaskEntity[Any]:
        """The task *key* once it has ended, well or badly; at most *timeout* seconds (None: for ever).

        Raises: TimeoutError, TaskNotFound.
        """
        clock = self._backend.clock
        until = None
        if timeout is not None:
            until = clock.now() + timedelta(seconds=number(timeout, "timeout", low=0, high=366 * 86400))
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(changed.set)
            except RuntimeError:
                return  # the loop is closed, and nobody waits any more

        end = self._backend.signals.on_change(key.parts.code, wake)
        try:
            while True:
                changed.clear()
                task = await self._get(key)
                now = clock.now()
                if task.is_terminal:
                    return await payloads.whole(self._backend, task)
                if until is not None and now >= until:
                    raise TimeoutError(f"{key} is still {task.status} after {timeout:g} s")
                await clock.wait(changed, now + LOOK_ANYWAY if until is None else min(until, now + LOOK_ANYWAY))
        finally:
            end()

    async def cancel_task(self, key: TaskKey, *, reason: str | None = None, by: str | None = None) -> TaskEntity[Any]:
        """End the task *key*. It is CANCELLED when this returns, but a running fan-out ends a little later: see `wait`.

        A running `async def` handler gets CancelledError within a second; a `def` handler goes on, sees
        `event.cancelled`, and its result is dropped. A fan-out starts no more sub-tasks, and its running ones are
        cancelled. *reason* and *by* (who) stand in the history.
        Raises: TaskEnded (nothing was changed), TaskNotFound, InvalidInput for a sub-task.
        """
        _short(reason, "reason")
        _short(by, "by")
        task = await self._top_level(key)
        while not task.is_terminal:
            now, running = self._backend.clock.now(), task.status is TaskStatus.IN_PROGRESS
            if task.kind is Kind.SFN_TASK and running:
                if task.cancel_requested is None:
                    change = lifecycle.cancel_requested(task, reason=reason, by=by, now=now)
                    outcome = await write(self._backend, change)
                    if isinstance(outcome, Refused):
                        task = await self._top_level(key)
                        continue
                    task = outcome.entity or task
                await self._backend.machine.hurry(key, task.run)
                return task
            change = lifecycle.cancelled(task, reason=reason, by=by, now=now, claim_id=self._backend.ids.token())
            if isinstance(await write(self._backend, change), Written):
                return await self.get_task(key)
            task = await self._top_level(key)
        raise TaskEnded(key, task.status)

    async def retry_task(
        self, key: TaskKey, *, only_failed: bool = True, reason: str | None = None, by: str | None = None
    ) -> TaskEntity[Any]:
        """The ended task *key* in a new run, PENDING: its attempts begin at 1 again, its history goes on.

        Of a fan-out only what has FAILED, was CANCELLED or never started runs again; with *only_failed* false
        everything. *reason* and *by* (who) stand in the history.
        Raises: TaskOpen (nothing was changed), TaskNotFound, InvalidInput for a sub-task, and for a single task that is
        COMPLETED unless *only_failed* is false.
        """
        _short(reason, "reason")
        _short(by, "by")
        while True:
            task = await self._top_level(key)
            if not task.is_terminal:
                raise TaskOpen(key, task.status)
            if task.status is TaskStatus.COMPLETED and only_failed and not task.attributes.sub_task_failed_count:
                raise InvalidInput("key", f"{key} is COMPLETED, nothing of it failed", "pass only_failed=False")
            arn = None
            if task.kind is Kind.SFN_TASK:
                arn = self._backend.machine.arn(f"{task.code}-{task.run + 1}")
            change = lifecycle.retried(
                task,
                only_failed=only_failed,
                execution_arn=arn,
                reason=reason,
                by=by,
                now=self._backend.clock.now(),
                dispatch=self._backend.ids.token(),
                claim_id=self._backend.ids.token(),
            )
            if isinstance(await write(self._backend, change), Written):
                return await self.get_task(key)

    async def _top_level(self, key: TaskKey) -> TaskEntity[Any]:
        task = await self._get(key)
        if task.kind is Kind.SUB_TASK:
            raise InvalidInput("key", f"{key} is a sub-task", "give the key of its fan-out: key.parent")
        return task

    async def _single(self, new: NewTask, context: InvokeContext | None, path: str) -> NewTaskRow:
        if not isinstance(new, NewTask):
            raise InvalidType(path.rstrip("."), f"{new!r} is no NewTask", "give taskloom.NewTask(...)")
        tenant = _tenant(new.tenant_code, context, path)
        type_ = model.task_type(new.task_type, f"{path}task_type")
        name = _name(new.name, type_, path)
        text = encode(new.input, f"{path}input")
        now = self._backend.clock.now()
        code = self._backend.ids.code(now)
        key = TaskKey.single(tenant, type_, code)
        reference = None
        if _bytes(text) > self._backend.payloads.inline_limit:
            reference = await self._put(f"{key.pk}#{key.sk}/input", text)
        entity = _new_entity(
            key,
            Kind.TASK,
            code,
            tenant,
            type_,
            name,
            now=now,
            dispatch=self._backend.ids.token(),
            context=context,
            input=decode(text),
            input_ref=reference,
            attributes=TaskAttributes(),
            execution_arn=None,
        )
        return NewTaskRow(entity=entity, input=None if reference else text)

    async def _put(self, name: str, text: EncodedJson) -> str:
        return await patiently(self._backend.clock, lambda: self._backend.payloads.put(name, text))

    async def _read(
        self, input: Iterable[object] | AsyncIterable[object], key: TaskKey
    ) -> tuple[EncodedJson | None, str | None, int]:
        """The input as one text, or the reference under which it lies; and how many elements it has."""
        if isinstance(input, (str, bytes, bytearray, memoryview, Mapping)) or not isinstance(
            input, (Iterable, AsyncIterable)
        ):
            raise InvalidType(
                "input",
                f"{type(input).__name__} is no list of inputs",
                "give an iterable with one JSON value per sub-task",
            )
        limit = self._backend.payloads.inline_limit
        writer: ItemWriter | None = None
        batch: list[EncodedJson] = []
        count = size = 0
        try:
            async for value in _elements(input):
                if count >= MAX_SUB_TASKS:
                    raise InvalidInput("input", f"has more than {MAX_SUB_TASKS} elements", "make several tasks of it")
                text = encode(value, f"input[{count}]")
                batch.append(text)
                count += 1
                size += _bytes(text) + 1
                if writer is None and size > limit:
                    writer = self._backend.payloads.items(f"{key.pk}#{key.sk}/items")
                if writer is not None and len(batch) >= ITEM_BATCH:
                    await writer.add(batch)
                    batch = []
            if writer is None:
                return EncodedJson(f"[{','.join(batch)}]"), None, count
            if batch:
                await writer.add(batch)
            return None, await writer.close(), count
        except BaseException:
            if writer is not None:
                await writer.discard()
            raise

    async def _get(self, key: TaskKey) -> TaskEntity[Any]:
        if not isinstance(key, TaskKey):
            raise InvalidType("key", f"{key!r} is no TaskKey", "give the key of a task entity, or TaskKey(pk, sk)")
        if key.kind is Kind.SUB_TASK:
            # Through its parent, which knows the tenant (rule 7) and what the sub-task's own row does not hold.
            parent = await self._backend.store.get(key.parent)
            index = key.parts.index or 0
            if parent is None or index >= (parent.attributes.sub_task_count or 0):
                raise TaskNotFound(key)
            return (await self._sub_tasks(parent, range(index, index + 1)))[0]
        task = await self._backend.store.get(key)
        if task is None:
            raise TaskNotFound(key)
        return task

    async def _fan_out(self, key: TaskKey) -> TaskEntity[Any]:
        task = await self._get(key)
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


async def _elements(input: Iterable[object] | AsyncIterable[object]) -> AsyncIterator[object]:
    if isinstance(input, AsyncIterable):
        async for value in input:
            yield value
    else:
        for value in input:
            yield value


def _new_entity(
    key: TaskKey,
    kind: Kind,
    code: str,
    tenant: TenantCode,
    type_: str,
    name: str,
    *,
    now: Any,
    dispatch: str,
    context: InvokeContext | None,
    input: Any,
    input_ref: str | None,
    attributes: TaskAttributes,
    execution_arn: str | None,
) -> TaskEntity[Any]:
    context = context or _NOBODY
    return TaskEntity(
        key=key,
        kind=kind,
        code=code,
        task_type=type_,
        name=name,
        tenant_code=tenant,
        status=TaskStatus.PENDING,
        input=input,
        input_ref=input_ref,
        attributes=attributes,
        request_id=context.request_id,
        created_at=now,
        updated_at=now,
        created_by=context.user_id,
        updated_by=context.user_id,
        created_ip=context.source_ip,
        updated_ip=context.source_ip,
        dispatch=dispatch,
        execution_arn=execution_arn,
        history=(HistoryEntry(at=now, status=TaskStatus.PENDING, run=1, attempt=0, by=context.user_id),),
    )


_NOBODY: Final = InvokeContext()


def _tenant(tenant_code: str, context: InvokeContext | None, path: str) -> TenantCode:
    tenant = model.tenant_code(tenant_code, f"{path}tenant_code")
    if context is not None and not isinstance(context, InvokeContext):
        raise InvalidType("invoke_context", f"{context!r} is no InvokeContext", "give taskloom.InvokeContext(...)")
    if context is not None and context.tenant_code is not None and context.tenant_code != tenant:
        raise InvalidInput(  # rule 7
            f"{path}tenant_code", f"{tenant!r} is not the tenant of the caller", "create tasks in the caller's tenant"
        )
    return tenant


def _name(name: str | None, default: str, path: str) -> str:
    if name is None:
        return default
    if not isinstance(name, str):
        raise InvalidType(f"{path}name", f"{name!r} is no string", "give a short text, or None")
    if not 0 < len(name) <= MAX_NAME:
        raise InvalidInput(f"{path}name", f"has {len(name)} characters", f"give 1 to {MAX_NAME}")
    check_text(name, f"{path}name")
    return name


def _short(text: str | None, field: str) -> None:
    if text is None:
        return
    if not isinstance(text, str):
        raise InvalidType(field, f"{text!r} is no string", "give a short text, or None")
    if len(text) > MAX_NAME:
        raise InvalidInput(field, f"has {len(text)} characters", f"give at most {MAX_NAME}")
    check_text(text, field)


def _status(status: TaskStatus | str) -> TaskStatus:
    return TaskStatus(_one_of(str(status), "status", tuple(TaskStatus)))


def _one_of(value: str, field: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise InvalidInput(field, f"{value!r} is not known", f"give one of {', '.join(map(str, allowed))}")
    return value


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _to_cursor(position: str | int) -> str:
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def _from_cursor(cursor: str, kind: type[CursorT]) -> CursorT:
    try:
        position = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (TypeError, ValueError, binascii.Error):
        position = None
    if type(position) is not kind or (isinstance(position, int) and not 0 <= position < MAX_SUB_TASKS):
        raise InvalidInput("cursor", f"{cursor!r} is none of this list", "pass on the cursor of the page before")
    return position
