"""Creating tasks: everything is checked, and what is large is put aside, before the first row is written."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from taskloom import model
from taskloom.errors import IdempotencyConflict, InvalidInput, InvalidType
from taskloom.events.registry import Registry
from taskloom.execution.writes import patiently
from taskloom.model import (
    MAX_SUB_TASKS,
    NO_OPTIONS,
    HistoryEntry,
    InvokeContext,
    Kind,
    TaskAttributes,
    TaskEntity,
    TaskKey,
    TaskOptions,
    TaskStatus,
)
from taskloom.operations.checks import idempotency_key, name_or, tenant
from taskloom.operations.finding import Finding
from taskloom.operations.fingerprint import Fingerprint
from taskloom.policy import MAX_SECONDS, Retry, number, retry_numbers
from taskloom.ports import Backend, Idempotency, ItemWriter, Known, NewTaskRow
from taskloom.values import EncodedJson, decode, encode

BULK: Final = 500
"""Tasks of one call that one write holds."""
ITEM_BATCH: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """A single task to be created by `TaskService.create_tasks`; the fields are the arguments of `create_task`."""

    tenant_code: str
    task_type: str
    input: object = None
    name: str | None = None
    retry: Retry | None = None
    deadline: float | None = None
    idempotency_key: str | None = None


class Creation:
    """Creates tasks."""

    def __init__(self, backend: Backend, registry: Registry, finding: Finding, *, idempotency_ttl: float) -> None:
        self._backend = backend
        self._registry = registry
        self._finding = finding
        self._idempotency_ttl = timedelta(seconds=idempotency_ttl)

    async def single(self, new: NewTask, context: InvokeContext | None) -> TaskEntity[Any]:
        """See `TaskService.create_task`."""
        (task,) = await self._store([await self._single(new, context, "")])
        return task

    async def singles(self, tasks: Iterable[NewTask], context: InvokeContext | None) -> Sequence[TaskEntity[Any]]:
        """See `TaskService.create_tasks`."""
        rows = [await self._single(task, context, f"tasks[{index}].") for index, task in enumerate(tasks)]
        await self._refuse_conflicts(rows)
        created: list[TaskEntity[Any]] = []
        for start in range(0, len(rows), BULK):
            created += await self._store(rows[start : start + BULK])
        return created

    async def fan_out(
        self, new: NewTask, input: Iterable[object] | AsyncIterable[object], context: InvokeContext | None
    ) -> TaskEntity[Any]:
        """See `TaskService.create_step_function_task`; the *input* of *new* itself is not looked at."""
        new_entity = self._checked(Kind.SFN_TASK, new, context, "")
        key = new_entity.key
        fingerprint = None
        if new.idempotency_key is not None:
            idempotency_key(new.idempotency_key, "")
            fingerprint = Fingerprint(Kind.SFN_TASK, key.parts.task_type, new_entity.name)
        text, reference, count = await self._read(input, key, fingerprint)
        entity = new_entity.task(
            context,
            input=None if text is None else decode(text),
            input_ref=reference,
            attributes=TaskAttributes(sub_task_count=count),
            execution_arn=self._backend.machine.arn(key.parts.code),
        )
        row = NewTaskRow(entity=entity, input=text, idempotency=self._idempotency(new, fingerprint, entity.created_at))
        (task,) = await self._store([row])
        return task

    async def _store(self, rows: Sequence[NewTaskRow]) -> list[TaskEntity[Any]]:
        answers = await self._backend.store.create(rows)
        return [
            row.entity if known is None else await self._first(row, known)
            for row, known in zip(rows, answers, strict=True)
        ]

    async def _first(self, row: NewTaskRow, known: Known) -> TaskEntity[Any]:
        """The task that was created before under the idempotency key of *row*."""
        if row.entity.input_ref is not None:  # which nothing refers to now
            await self._backend.payloads.discard(row.entity.input_ref)
        _refuse_conflict(row, known.fingerprint)
        return await self._finding.whole(known.task)

    async def _refuse_conflicts(self, rows: Sequence[NewTaskRow]) -> None:
        """Before the first of many is stored. What others create in the same moment is refused by the store."""
        seen: dict[tuple[str, str], str] = {}
        for row in rows:
            if row.idempotency is None:
                continue
            tenant, key = row.entity.key.tenant_code, row.idempotency.key
            if (tenant, key) not in seen:
                known = await self._backend.store.known(tenant, key)
                seen[tenant, key] = row.idempotency.fingerprint if known is None else known.fingerprint
            _refuse_conflict(row, seen[tenant, key])

    async def _single(self, new: NewTask, context: InvokeContext | None, path: str) -> NewTaskRow:
        if not isinstance(new, NewTask):
            raise InvalidType(path.rstrip("."), f"{new!r} is no NewTask", "give taskloom.NewTask(...)")
        new_entity = self._checked(Kind.TASK, new, context, path)
        key = new_entity.key
        text = encode(new.input, f"{path}input")
        value = decode(text)
        fingerprint = None
        if new.idempotency_key is not None:
            idempotency_key(new.idempotency_key, path)
            fingerprint = Fingerprint(Kind.TASK, key.parts.task_type, new_entity.name)
            fingerprint.add(value)
        reference = None
        if _bytes(text) > self._backend.payloads.inline_limit:
            name = f"{key.pk}#{key.sk}/input"
            reference = await patiently(self._backend.clock, lambda: self._backend.payloads.put(name, text))
        entity = new_entity.task(context, input=value, input_ref=reference, attributes=_NOTHING, execution_arn=None)
        return NewTaskRow(
            entity=entity,
            input=None if reference else text,
            idempotency=self._idempotency(new, fingerprint, entity.created_at),
        )

    def _checked(self, kind: Kind, new: NewTask, context: InvokeContext | None, path: str) -> "_NewEntity":
        tenant_code = tenant(new.tenant_code, context, path)
        type_ = model.task_type(new.task_type, f"{path}task_type")
        name = name_or(new.name, type_, path)
        options = NO_OPTIONS
        deadline = new.deadline
        if deadline is None:
            deadline = self._registry.policy(kind, type_).deadline
        if new.retry is not None or deadline is not None:
            options = TaskOptions(
                retry=None if new.retry is None else retry_numbers(new.retry, f"{path}retry"),
                deadline=None if deadline is None else number(deadline, f"{path}deadline", low=0.001, high=MAX_SECONDS),
            )
        now = self._backend.clock.now()
        code = self._backend.ids.code(now)
        make = TaskKey.single if kind is Kind.TASK else TaskKey.step_function
        return _NewEntity(make(tenant_code, type_, code), name, now, options, self._backend.ids.token())

    def _idempotency(self, new: NewTask, fingerprint: Fingerprint | None, now: datetime) -> Idempotency | None:
        if new.idempotency_key is None or fingerprint is None:
            return None
        return Idempotency(
            key=new.idempotency_key, fingerprint=fingerprint.text(), expires_at=now + self._idempotency_ttl
        )

    async def _read(
        self, input: Iterable[object] | AsyncIterable[object], key: TaskKey, fingerprint: Fingerprint | None
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
                if fingerprint is not None:
                    fingerprint.add(value)
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


@dataclass(slots=True)
class _NewEntity:
    """What is known of a new task before its input is."""

    key: TaskKey
    name: str
    now: datetime
    options: TaskOptions
    dispatch: str

    def task(
        self,
        context: InvokeContext | None,
        *,
        input: Any,
        input_ref: str | None,
        attributes: TaskAttributes,
        execution_arn: str | None,
    ) -> TaskEntity[Any]:
        context = context or _NOBODY
        parts, now, deadline = self.key.parts, self.now, self.options.deadline
        return TaskEntity(
            key=self.key,
            kind=parts.kind,
            code=parts.code,
            task_type=parts.task_type,
            name=self.name,
            tenant_code=parts.tenant_code,
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
            dispatch=self.dispatch,
            deadline_at=None if deadline is None else now + timedelta(seconds=deadline),
            options=self.options,
            execution_arn=execution_arn,
            history=(HistoryEntry(at=now, status=TaskStatus.PENDING, run=1, attempt=0, by=context.user_id),),
        )


_NOBODY: Final = InvokeContext()
_NOTHING: Final = TaskAttributes()


def _refuse_conflict(row: NewTaskRow, fingerprint: str) -> None:
    idempotency = row.idempotency
    if idempotency is not None and idempotency.fingerprint != fingerprint:
        raise IdempotencyConflict(idempotency.key, fingerprint, idempotency.fingerprint)


async def _elements(input: Iterable[object] | AsyncIterable[object]) -> AsyncIterator[object]:
    if isinstance(input, AsyncIterable):
        async for value in input:
            yield value
    else:
        for value in input:
            yield value


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
