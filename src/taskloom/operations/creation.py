"""Creating tasks: everything is checked, and what is large is put aside, before the first row is written."""

from collections.abc import AsyncIterable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from taskloom import model
from taskloom.capabilities import Feature, refusal
from taskloom.errors import IdempotencyConflict, InvalidInput, InvalidType
from taskloom.events.registry import Registry
from taskloom.execution.writes import patiently
from taskloom.model import (
    DEFAULT_PRIORITY,
    HIGHEST_PRIORITY,
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
    task_entity,
)
from taskloom.operations.checks import elements, idempotency_key, name_or, tenant
from taskloom.operations.finding import Finding
from taskloom.operations.fingerprint import Fingerprint
from taskloom.policy import MAX_SECONDS, Retry, number, retention, retry_numbers, whole_number
from taskloom.ports import Backend, Idempotency, ItemWriter, NewTaskRow
from taskloom.values import EncodedJson, Json, decode, encode
from taskloom.webhooks import checked_url

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
    ttl: float | timedelta | None = None
    idempotency_key: str | None = None
    priority: int = DEFAULT_PRIORITY
    notify_url: str | None = None


class Creation:
    """Creates tasks."""

    def __init__(
        self,
        backend: Backend,
        registry: Registry,
        finding: Finding,
        *,
        idempotency_ttl: float,
        ttl: float | None = None,
        has_webhook_secret: bool = False,
        allow_private: bool = False,
    ) -> None:
        self._backend = backend
        self._has_webhook_secret = has_webhook_secret
        self._allow_private = allow_private
        self._registry = registry
        self._finding = finding
        self._idempotency_ttl = timedelta(seconds=idempotency_ttl)
        self._ttl = ttl

    async def single(self, new: NewTask, context: InvokeContext | None) -> TaskEntity[Any]:
        """See `TaskService.create_task`."""
        (task,) = await self._store([await self._put_aside(self._row(new, context, ""))])
        return task

    async def singles(self, tasks: Iterable[NewTask], context: InvokeContext | None) -> Sequence[TaskEntity[Any]]:
        """See `TaskService.create_tasks`."""
        rows = [self._row(task, context, f"tasks[{index}].") for index, task in enumerate(tasks)]
        await self._refuse_conflicts(rows)
        created: list[TaskEntity[Any]] = []
        for start in range(0, len(rows), BULK):
            created += await self._store([await self._put_aside(row) for row in rows[start : start + BULK]])
        return created

    async def fan_out(
        self, new: NewTask, input: Iterable[object] | AsyncIterable[object], context: InvokeContext | None
    ) -> TaskEntity[Any]:
        """See `TaskService.create_step_function_task`; the *input* of *new* itself is not looked at."""
        entity = self._entity(Kind.SFN_TASK, new, context, "", None)
        key = entity.key
        fingerprint = None
        if new.idempotency_key is not None:
            idempotency_key(new.idempotency_key, "")
            fingerprint = Fingerprint(Kind.SFN_TASK, entity.task_type, entity.name)
        text, reference, count = await self._read(input, key, fingerprint)
        entity = replace(
            entity,
            input=None if text is None else decode(text),
            input_ref=reference,
            attributes=TaskAttributes(sub_task_count=count),
            execution_arn=self._backend.machine.arn(key.parts.code),
        )
        row = NewTaskRow(entity=entity, input=text, idempotency=self._idempotency(new, fingerprint, entity.created_at))
        (task,) = await self._store([row])
        return task

    def _refuse_priority(self, field: str) -> None:
        # rule 8: a number that nobody looks at would be a promise that is not kept.
        refused = refusal(self._backend.name, Feature.PRIORITY)
        if refused is not None:
            raise InvalidInput(field, f"the backend {self._backend.name!r} refuses priorities", refused.why)

    async def _store(self, rows: Sequence[NewTaskRow]) -> list[TaskEntity[Any]]:
        answers = await self._backend.store.create(rows)
        for row, known in zip(rows, answers, strict=True):
            if known is not None and row.entity.input_ref is not None:  # which nothing refers to now
                await self._backend.payloads.discard(row.entity.input_ref)
        tasks = []
        for row, known in zip(rows, answers, strict=True):
            if known is None:
                tasks.append(row.entity)
            else:
                _refuse_conflict(row.idempotency, known.fingerprint)
                tasks.append(await self._finding.whole(known.task))
        return tasks

    async def _refuse_conflicts(self, rows: Sequence[NewTaskRow]) -> None:
        """Before anything of many is stored. What others create in the same moment is refused by the store."""
        seen: dict[tuple[str, str], str] = {}
        for row in rows:
            if row.idempotency is None:
                continue
            tenant_code, key = row.entity.key.tenant_code, row.idempotency.key
            if (tenant_code, key) not in seen:
                known = await self._backend.store.known(tenant_code, key)
                seen[tenant_code, key] = row.idempotency.fingerprint if known is None else known.fingerprint
            _refuse_conflict(row.idempotency, seen[tenant_code, key])

    def _row(self, new: NewTask, context: InvokeContext | None, path: str) -> NewTaskRow:
        """A new single task, checked; nothing is written."""
        if not isinstance(new, NewTask):
            raise InvalidType(path.rstrip("."), f"{new!r} is no NewTask", "give taskloom.NewTask(...)")
        text = encode(new.input, f"{path}input")
        value = decode(text)
        entity = self._entity(Kind.TASK, new, context, path, value)
        if new.idempotency_key is None:
            return NewTaskRow(entity=entity, input=text)
        idempotency_key(new.idempotency_key, path)
        fingerprint = Fingerprint(Kind.TASK, entity.task_type, entity.name)
        fingerprint.add(value)
        return NewTaskRow(entity=entity, input=text, idempotency=self._idempotency(new, fingerprint, entity.created_at))

    async def _put_aside(self, row: NewTaskRow) -> NewTaskRow:
        """The *row* with its input put aside, if that is large."""
        text, entity = row.input, row.entity
        if text is None or _bytes(text) <= self._backend.payloads.inline_limit:
            return row
        reference = await patiently(self._backend.clock, lambda: self._backend.payloads.put(f"{entity.id}/input", text))
        return replace(row, entity=replace(entity, input_ref=reference), input=None)

    def _entity(
        self, kind: Kind, new: NewTask, context: InvokeContext | None, path: str, input: Json
    ) -> TaskEntity[Any]:
        """What a new task begins as, everything but its input checked; of a fan-out without what its input decides."""
        tenant_code = tenant(new.tenant_code, context, path)
        type_ = model.task_type(new.task_type, f"{path}task_type")
        name = name_or(new.name, type_, path)
        options = NO_OPTIONS
        policy = self._registry.policy(kind, type_)
        deadline = policy.deadline if new.deadline is None else new.deadline
        ttl = policy.ttl if new.ttl is None else retention(new.ttl, f"{path}ttl")
        if ttl is None:
            ttl = self._ttl
        if new.retry is not None or deadline is not None or ttl is not None or new.notify_url is not None:
            options = TaskOptions(
                retry=None if new.retry is None else retry_numbers(new.retry, f"{path}retry"),
                deadline=None if deadline is None else number(deadline, f"{path}deadline", low=0.001, high=MAX_SECONDS),
                ttl=ttl,
                notify_url=None if new.notify_url is None else self._notify_url(new.notify_url, f"{path}notify_url"),
            )
        priority = whole_number(new.priority, f"{path}priority", low=0, high=HIGHEST_PRIORITY)
        if priority != DEFAULT_PRIORITY:
            self._refuse_priority(f"{path}priority")
        now = self._backend.clock.now()
        code = self._backend.ids.code(now)
        user, ip, request = (
            (None, None, None) if context is None else (context.user_id, context.source_ip, context.request_id)
        )
        return task_entity(
            key=(TaskKey.single if kind is Kind.TASK else TaskKey.step_function)(tenant_code, type_, code),
            kind=kind,
            code=code,
            task_type=type_,
            name=name,
            tenant_code=tenant_code,
            status=TaskStatus.PENDING,
            version=0,
            input=input,
            input_ref=None,
            index=None,
            attributes=_NOTHING,
            request_id=request,
            created_at=now,
            updated_at=now,
            created_by=user,
            updated_by=user,
            created_ip=ip,
            updated_ip=ip,
            run=1,
            attempt=0,
            fence=0,
            claim_id=None,
            lease_until=None,
            dispatch=self._backend.ids.token(),
            next_attempt_at=None,
            started_at=None,
            finished_at=None,
            deadline_at=None if options.deadline is None else now + timedelta(seconds=options.deadline),
            ttl=None,
            lost=0,
            priority=priority,
            options=options,
            state=None,
            progress=None,
            execution_arn=None,
            fan_out=None,
            cancel_requested=None,
            history=(HistoryEntry(at=now, status=TaskStatus.PENDING, run=1, attempt=0, by=user),),
            history_dropped=0,
        )

    def _notify_url(self, url: str, field: str) -> str:
        refused = refusal(self._backend.name, Feature.WEBHOOKS)
        if refused is not None:
            raise InvalidInput(field, f"is refused by the backend {self._backend.name!r}", refused.why)
        checked_url(url, field, allow_private=self._allow_private)
        if not self._has_webhook_secret:
            remedy = "set Settings.webhook_secret, here and where the worker runs"
            raise InvalidInput(field, "is given, but there is no secret to sign with", remedy)
        return url

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
        values = elements(input)
        limit = self._backend.payloads.inline_limit
        writer: ItemWriter | None = None
        batch: list[EncodedJson] = []
        count = size = 0
        try:
            async for value in values:
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


_NOTHING: Final = TaskAttributes()


def _refuse_conflict(idempotency: Idempotency | None, fingerprint: str) -> None:
    if idempotency is not None and idempotency.fingerprint != fingerprint:
        raise IdempotencyConflict(idempotency.key, fingerprint, idempotency.fingerprint)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
