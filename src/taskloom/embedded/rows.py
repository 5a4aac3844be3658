"""Rows of the tables and what they stand for."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, overload

from taskloom import record
from taskloom.clock import from_milliseconds, to_milliseconds
from taskloom.lifecycle import Patch
from taskloom.model import (
    NO_OPTIONS,
    HistoryEntry,
    Kind,
    TaskAttributes,
    TaskEntity,
    TaskKey,
    TaskOptions,
    TenantCode,
    task_entity,
)
from taskloom.values import decode

STATUS_LETTER: Final = record.STATUS_LETTER
_NO_ATTRIBUTES: Final = TaskAttributes()
STATUS_OF: Final = record.STATUS_OF

TASK_COLUMNS: Final = (
    "pk, code, type, name, status, version, input, input_ref, results, result_ref, error, sub_task_count, "
    "sub_task_succeed_count, sub_task_failed_count, fan_out, request_id, created_at, updated_at, created_by, "
    "updated_by, created_ip, updated_ip, run, attempt, fence, claim_id, lease_until, dispatch, next_attempt_at, "
    "started_at, finished_at, progress, execution_arn, history, cancel_requested, options, deadline_at, lost, "
    "priority, state, ttl"
)
SUB_TASK_COLUMNS: Final = (
    "parent, idx, tenant, type, status, version, results, result_ref, error, created_at, updated_at, run, attempt, "
    "fence, claim_id, lease_until, next_attempt_at, started_at, finished_at, progress, history, lost, state"
)

_dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def task_of(row: Sequence[Any]) -> TaskEntity[Any]:
    """The task of a row of `TASK_COLUMNS`."""
    (
        pk, code, type_, name, status, version, input_, input_ref, results, result_ref, error, count, succeeded, failed,
        fan_out, request_id, created_at, updated_at, created_by, updated_by, created_ip, updated_ip, run, attempt,
        fence, claim_id, lease_until, dispatch, next_attempt_at, started_at, finished_at, progress, execution_arn,
        history, cancel_requested, options, deadline_at, lost, priority, state, ttl,
    ) = row  # fmt: skip
    kind, _, tenant = pk.partition("#")
    single = kind == Kind.TASK
    return task_entity(
        key=(TaskKey.single if single else TaskKey.step_function)(tenant, type_, code),
        kind=Kind.TASK if single else Kind.SFN_TASK,
        code=code,
        task_type=type_,
        name=type_ if name is None else name,
        tenant_code=tenant,
        status=STATUS_OF[status],
        version=version,
        input=None if input_ is None else decode(input_),
        input_ref=input_ref,
        index=None,
        attributes=_NO_ATTRIBUTES
        if not (results or result_ref or error or count is not None or succeeded or failed)
        else attributes_of(results, result_ref, error, count, succeeded, failed),
        request_id=request_id,
        created_at=from_milliseconds(created_at),
        updated_at=from_milliseconds(updated_at),
        created_by=created_by,
        updated_by=updated_by,
        created_ip=created_ip,
        updated_ip=updated_ip,
        run=run,
        attempt=attempt,
        fence=fence,
        claim_id=claim_id,
        lease_until=_time(lease_until),
        dispatch=dispatch,
        next_attempt_at=_time(next_attempt_at),
        started_at=_time(started_at),
        finished_at=_time(finished_at),
        deadline_at=_time(deadline_at),
        ttl=None if ttl is None else from_milliseconds(ttl * 1000),
        lost=lost,
        state=None if state is None else decode(state),
        priority=priority,
        options=options_of(options),
        progress=None if progress is None else record.progress_of(decode(progress)),
        execution_arn=execution_arn,
        fan_out=None if fan_out is None else record.fan_out_of(decode(fan_out)),
        cancel_requested=None if cancel_requested is None else record.cancel_of(decode(cancel_requested)),
        history=History(history),
        history_dropped=dropped(history),
    )


def sub_task_of(row: Sequence[Any]) -> TaskEntity[Any]:
    """The sub-task of a row of `SUB_TASK_COLUMNS`, without what its parent knows."""
    (
        parent, index, tenant, type_, status, version, results, result_ref, error, created_at, updated_at, run, attempt,
        fence, claim_id, lease_until, next_attempt_at, started_at, finished_at, progress, history, lost, state,
    ) = row  # fmt: skip
    return TaskEntity(
        key=TaskKey.sub_task(tenant, type_, parent, index),
        kind=Kind.SUB_TASK,
        code=parent,
        task_type=type_,
        name=type_,
        tenant_code=TenantCode(tenant),
        status=STATUS_OF[status],
        version=version,
        input=None,
        index=index,
        attributes=attributes_of(results, result_ref, error),
        created_at=from_milliseconds(created_at),
        updated_at=from_milliseconds(updated_at),
        run=run,
        attempt=attempt,
        fence=fence,
        claim_id=claim_id,
        lease_until=_time(lease_until),
        next_attempt_at=_time(next_attempt_at),
        started_at=_time(started_at),
        finished_at=_time(finished_at),
        lost=lost,
        state=None if state is None else decode(state),
        progress=None if progress is None else record.progress_of(decode(progress)),
        history=History(history),
        history_dropped=dropped(history),
    )


def attributes_of(
    results: str | None,
    result_ref: str | None,
    error: str | None,
    count: int | None = None,
    succeeded: int = 0,
    failed: int = 0,
) -> TaskAttributes:
    """The attributes of the columns of the same names, and those of the counters."""
    return TaskAttributes(
        results=None if results is None else decode(results),
        result_ref=result_ref,
        error=None if error is None else record.failure_of(decode(error)),
        sub_task_count=count,
        sub_task_succeed_count=succeeded,
        sub_task_failed_count=failed,
    )


def task_values(task: TaskEntity[Any], input_text: str | None) -> tuple[Any, ...]:
    """The row of a new top-level task, in the order of `TASK_COLUMNS`."""
    attributes = task.attributes
    return (
        task.pk,
        task.code,
        task.task_type,
        None if task.name == task.task_type else task.name,
        STATUS_LETTER[task.status],
        task.version,
        input_text,
        task.input_ref,
        None,
        None,
        None,
        attributes.sub_task_count,
        attributes.sub_task_succeed_count,
        attributes.sub_task_failed_count,
        None,
        task.request_id,
        to_milliseconds(task.created_at),
        to_milliseconds(task.updated_at),
        task.created_by,
        task.updated_by,
        task.created_ip,
        task.updated_ip,
        task.run,
        task.attempt,
        task.fence,
        None,
        None,
        task.dispatch,
        None,
        None,
        None,
        None,
        task.execution_arn,
        ",".join(map(history_text, task.history)),
        None,
        None if task.options is NO_OPTIONS else _dump(record.options_item(task.options)),
        _milliseconds(task.deadline_at),
        0,
        task.priority,
        None,
        None,
    )


def options_of(text: str | None) -> TaskOptions:
    """The options of their column."""
    return NO_OPTIONS if text is None else record.options_of(decode(text))


def history_text(entry: HistoryEntry) -> str:
    """One entry as it is appended to the column."""
    at, letter = to_milliseconds(entry.at), STATUS_LETTER[entry.status]
    reason = "null" if entry.reason is None else _dump(entry.reason)
    return f'[{at},"{letter}",{entry.run},{entry.attempt},{reason},{_name_text(entry.by)}]'


@lru_cache(maxsize=256)
def _name_text(by: str | None) -> str:
    return _dump(by)


MAX_HISTORY: Final = 6000
"""Characters of the column from which on older entries make room for newer ones; about 100 entries."""
KEEP_HISTORY: Final = 3000
"""Characters of the newest entries that are kept then, beside the creation: at least 5 entries."""


def shortened(text: str) -> str:
    """The history *text* cut down to its creation and its newest entries: a SQL function.

    It begins with the number of those that were dropped.
    """
    entries = json.loads(f"[{text}]")
    before = entries.pop(0) if isinstance(entries[0], int) else 0
    first, *rest = [_dump(entry) for entry in entries]
    kept: list[str] = []
    room = KEEP_HISTORY
    for entry in reversed(rest):
        room -= len(entry)
        if room < 0 and kept:
            break
        kept.append(entry)
    return ",".join([str(before + len(rest) - len(kept)), first, *reversed(kept)])


def dropped(history: str) -> int:
    """How many entries were dropped of the column."""
    return 0 if not history or history[0] == "[" else int(history[: history.index(",")])


class History(Sequence[HistoryEntry]):
    """The entries of the column, decoded when somebody looks."""

    __slots__ = ("_entries", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._entries: tuple[HistoryEntry, ...] | None = None

    @property
    def entries(self) -> tuple[HistoryEntry, ...]:
        """All of them."""
        if self._entries is None:
            items = decode(f"[{self._text}]")
            self._entries = tuple(
                HistoryEntry(
                    at=from_milliseconds(at), status=STATUS_OF[status], run=run, attempt=attempt, reason=reason, by=by
                )
                for at, status, run, attempt, reason, by in items[1 if items and isinstance(items[0], int) else 0 :]
            )
        return self._entries

    @overload
    def __getitem__(self, index: int) -> HistoryEntry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[HistoryEntry]: ...
    def __getitem__(self, index: int | slice) -> HistoryEntry | Sequence[HistoryEntry]:
        return self.entries[index]

    def __len__(self) -> int:
        return len(self.entries)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, History):
            return self._text == other._text or self.entries == other.entries
        return self.entries == other

    def __hash__(self) -> int:
        return hash(self.entries)

    def __repr__(self) -> str:
        return repr(self.entries)

    def __reduce__(self) -> tuple[type, tuple[tuple[HistoryEntry, ...]]]:
        return tuple, (self.entries,)


def _time(value: int | None) -> datetime | None:
    return None if value is None else from_milliseconds(value)


def _milliseconds(value: datetime | None) -> int | None:
    return None if value is None else to_milliseconds(value)


def _optional(encode: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else encode(value)


def _as_is(value: Any) -> Any:
    return value


_ENCODERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "status": STATUS_LETTER.__getitem__,
    "run": _as_is,
    "attempt": _as_is,
    "fence": _as_is,
    "claim_id": _as_is,
    "lease_until": _milliseconds,
    "dispatch": _as_is,
    "next_attempt_at": _milliseconds,
    "created_at": _milliseconds,
    "updated_at": _milliseconds,
    "started_at": _milliseconds,
    "finished_at": _milliseconds,
    "progress": _optional(lambda progress: _dump(record.progress_item(progress))),
    "execution_arn": _as_is,
    "results": _as_is,
    "result_ref": _as_is,
    "error": _optional(lambda failure: _dump(record.failure_item(failure))),
    "sub_task_succeed_count": _as_is,
    "sub_task_failed_count": _as_is,
    "fan_out": _optional(lambda plan: _dump(record.fan_out_item(plan))),
    "cancel_requested": _optional(lambda request: _dump(record.cancel_item(request))),
    "deadline_at": _milliseconds,
    "ttl": _optional(lambda at: to_milliseconds(at) // 1000),
    "lost": _as_is,
    "state": _as_is,
}


def patch_values(patch: Patch) -> list[Any]:
    """The values of *patch* as the columns of the same names hold them."""
    return [_ENCODERS[name](value) for name, value in patch.items()]
