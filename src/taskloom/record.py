"""The stored form of a task: a JSON object with the original's camelCase names. The only border where names turn."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from taskloom.clock import from_milliseconds, to_milliseconds
from taskloom.errors import InvalidInput
from taskloom.model import (
    DEFAULT_PRIORITY,
    FOREIGN,
    NO_OPTIONS,
    CancelRequest,
    Failure,
    FanOut,
    HistoryEntry,
    Kind,
    LogLine,
    Progress,
    RetryNumbers,
    TaskAttributes,
    TaskEntity,
    TaskKey,
    TaskOptions,
    TaskStatus,
)
from taskloom.values import decode, encode_checked

PK: Final = "pk"
SK: Final = "sk"

_OPTIONAL_TEXT: Final = {
    "requestId": "request_id",
    "createdBy": "created_by",
    "updatedBy": "updated_by",
    "createdIp": "created_ip",
    "updatedIp": "updated_ip",
    "claimId": "claim_id",
    "dispatch": "dispatch",
    "executionArn": "execution_arn",
    "inputRef": "input_ref",
}
_OPTIONAL_TIMES: Final = {
    "leaseUntil": "lease_until",
    "nextAttemptAt": "next_attempt_at",
    "startedAt": "started_at",
    "finishedAt": "finished_at",
    "deadlineAt": "deadline_at",
}


STATUS_LETTER: Final[Mapping[TaskStatus, str]] = {
    TaskStatus.PENDING: "P",
    TaskStatus.IN_PROGRESS: "I",
    TaskStatus.COMPLETED: "C",
    TaskStatus.FAILED: "F",
    TaskStatus.CANCELLED: "X",
}
STATUS_OF: Final = {letter: status for status, letter in STATUS_LETTER.items()}
AS_TEXT: Final = "Json"
"""Ends the name of a value that the table cannot hold as it is: `inputJson` is `input` as JSON text."""

_RETRY_NUMBERS: Final = {
    "maxAttempts": "max_attempts",
    "initial": "initial",
    "multiplier": "multiplier",
    "maximum": "maximum",
    "jitter": "jitter",
}


def to_item(task: TaskEntity[Any]) -> dict[str, Any]:
    """*task* as it is stored and shown: JSON values only, absent where there is no value."""
    item: dict[str, Any] = {
        "id": task.id,
        PK: task.pk,
        SK: task.sk,
        "version": task.version,
        "code": task.code,
        "type": task.task_type,
        "name": task.name,
        "tenantCode": task.tenant_code,
        "status": str(task.status),
        "createdAt": time_text(task.created_at),
        "updatedAt": time_text(task.updated_at),
        "run": task.run,
        "attempt": task.attempt,
        "fence": task.fence,
        "history": [_entry_item(entry) for entry in task.history],
    }
    if task.input_ref is None and not (task.kind is Kind.SFN_TASK and task.input is None):
        item["input"] = task.input
    for name, attribute in _OPTIONAL_TEXT.items():
        value = getattr(task, attribute)
        if value is not None:
            item[name] = value
    for name, attribute in _OPTIONAL_TIMES.items():
        value = getattr(task, attribute)
        if value is not None:
            item[name] = time_text(value)
    attributes = attributes_item(task.attributes)
    if attributes:
        item["attributes"] = attributes
    if task.progress is not None:
        item["progress"] = progress_item(task.progress)
    if task.fan_out is not None:
        item["fanOut"] = fan_out_item(task.fan_out)
    if task.options != NO_OPTIONS:
        item["options"] = options_item(task.options)
    if task.priority != DEFAULT_PRIORITY:
        item["priority"] = task.priority
    if task.state is not None:
        item["state"] = task.state
    if task.ttl is not None:
        item["ttl"] = to_milliseconds(task.ttl) // 1000  # seconds, as DynamoDB wants them
    if task.lost:
        item["lost"] = task.lost
    if task.history_dropped:
        item["historyDropped"] = task.history_dropped
    if task.cancel_requested is not None:
        item["cancelRequested"] = cancel_item(task.cancel_requested)
    return item


def from_item(item: Mapping[str, Any]) -> TaskEntity[Any]:
    """The task of a stored *item*; tolerant of what the TypeScript original stored.

    Raises: InvalidInput when it is no task.
    """
    try:
        key = TaskKey(item[PK], item[SK])
        parts = key.parts
        created = parse_time(item["createdAt"])
        return TaskEntity(
            key=key,
            kind=parts.kind,
            code=item.get("code", parts.code),
            task_type=item.get("type", parts.task_type),
            name=item.get("name", parts.task_type),
            tenant_code=item.get("tenantCode", parts.tenant_code),
            status=TaskStatus(item["status"]),
            version=int(item.get("version", 0)),
            input=_value(item, "input"),
            index=parts.index,
            attributes=attributes_of(item.get("attributes") or {}),
            created_at=created,
            updated_at=parse_time(item["updatedAt"]) if item.get("updatedAt") else created,
            run=int(item.get("run", 1)),
            attempt=int(item.get("attempt", 0)),
            fence=int(item.get("fence", 0)),
            progress=progress_of(item.get("progress")),
            fan_out=fan_out_of(item.get("fanOut")),
            cancel_requested=cancel_of(item.get("cancelRequested")),
            options=options_of(item.get("options")),
            ttl=None if item.get("ttl") is None else from_milliseconds(int(item["ttl"]) * 1000),
            lost=int(item.get("lost", 0)),
            state=_value(item, "state"),
            priority=int(item.get("priority", DEFAULT_PRIORITY)),
            history_dropped=int(item.get("historyDropped", 0)),
            history=tuple(_entry(entry) for entry in item.get("history", ())),
            **_optional(item),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidInput("item", f"is no stored task: {error!r}", "pass the item as the table holds it") from error


def _value(item: Mapping[str, Any], name: str) -> Any:
    text = item.get(name + AS_TEXT)
    return item.get(name) if text is None else decode(text)


def _optional(item: Mapping[str, Any]) -> dict[str, Any]:
    values = {attribute: item.get(name) for name, attribute in _OPTIONAL_TEXT.items()}
    times = {attribute: item.get(name) for name, attribute in _OPTIONAL_TIMES.items()}
    return values | {attribute: parse_time(text) if text else None for attribute, text in times.items()}


def foreign_spellings(status: TaskStatus) -> list[str]:
    """What the TypeScript original may have stored for *status*."""
    return [spelling for spelling, meaning in FOREIGN.items() if meaning is status]


def time_text(instant: datetime) -> str:
    """ISO 8601, UTC, milliseconds: `2026-05-01T12:00:00.123Z`."""
    return from_milliseconds(to_milliseconds(instant)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_time(text: str) -> datetime:
    """The instant of an ISO 8601 *text* with a zone, in UTC, cut to milliseconds."""
    return from_milliseconds(to_milliseconds(datetime.fromisoformat(text)))


def progress_item(progress: Progress) -> dict[str, Any]:
    """The stored form of a progress."""
    item = {"done": progress.done, "total": progress.total, "message": progress.message}
    return {name: value for name, value in item.items() if value is not None}


def progress_of(item: Mapping[str, Any] | None) -> Progress | None:
    """The progress of its stored form."""
    if item is None:
        return None
    return Progress(done=item["done"], total=item.get("total"), message=item.get("message"))


def fan_out_item(plan: FanOut) -> dict[str, Any]:
    """The stored form of a fan-out's plan."""
    return {
        "chunkSize": plan.chunk_size,
        "chunkConcurrency": plan.chunk_concurrency,
        "maxConcurrency": plan.max_concurrency,
        "toleratedFailurePercentage": plan.tolerated_failure_percentage,
        "onlyFailed": plan.only_failed,
    }


def fan_out_of(item: Mapping[str, Any] | None) -> FanOut | None:
    """The plan of its stored form."""
    if item is None:
        return None
    return FanOut(
        chunk_size=item["chunkSize"],
        chunk_concurrency=item.get("chunkConcurrency", 1),
        max_concurrency=item.get("maxConcurrency", 40),
        tolerated_failure_percentage=item.get("toleratedFailurePercentage", 0.0),
        only_failed=item.get("onlyFailed", True),
    )


def options_item(options: TaskOptions) -> dict[str, Any]:
    """The stored form of what the creator of a task set."""
    item: dict[str, Any] = {}
    if options.retry is not None:
        item["retry"] = {name: getattr(options.retry, attribute) for name, attribute in _RETRY_NUMBERS.items()}
    if options.deadline is not None:
        item["deadline"] = options.deadline
    if options.ttl is not None:
        item["ttl"] = options.ttl
    if options.notify_url is not None:
        item["notifyUrl"] = options.notify_url
    return item


def options_of(item: Mapping[str, Any] | None) -> TaskOptions:
    """The options of their stored form."""
    if not item:
        return NO_OPTIONS
    retry = item.get("retry")
    numbers = retry and RetryNumbers(**{attribute: retry[name] for name, attribute in _RETRY_NUMBERS.items()})
    return TaskOptions(
        retry=numbers, deadline=item.get("deadline"), ttl=item.get("ttl"), notify_url=item.get("notifyUrl")
    )


def log_item(line: LogLine) -> dict[str, Any]:
    """A log line as it is shown: JSON values only, absent where there is no value."""
    item: dict[str, Any] = {
        "at": time_text(line.at),
        "level": line.level,
        "logger": line.logger,
        "run": line.run,
        "attempt": line.attempt,
        "message": line.message,
    }
    if line.fields:
        item["fields"] = dict(line.fields)
    if line.exception is not None:
        item["exception"] = line.exception
    if line.dropped:
        item["dropped"] = line.dropped
    return item


def cancel_item(request: CancelRequest) -> dict[str, Any]:
    """The stored form of the wish to end a fan-out."""
    item = {"at": time_text(request.at), "reason": request.reason, "by": request.by}
    return {name: value for name, value in item.items() if value is not None}


def cancel_of(item: Mapping[str, Any] | None) -> CancelRequest | None:
    """The wish of its stored form."""
    if item is None:
        return None
    return CancelRequest(at=parse_time(item["at"]), reason=item.get("reason"), by=item.get("by"))


def failure_item(failure: Failure) -> dict[str, Any]:
    """The stored form of an error."""
    item: dict[str, Any] = {"type": failure.type, "message": failure.message, "attempt": failure.attempt}
    if failure.traceback is not None:
        item["traceback"] = failure.traceback
    if failure.will_retry:
        item["willRetry"] = True
    return item


def failure_of(item: object) -> Failure | None:
    """The error of its stored form; the original stored any value, or a bare text."""
    if item is None:
        return None
    if not isinstance(item, Mapping):
        return Failure(type="Error", message=str(item))
    return Failure(
        type=str(item.get("type", "Error")),
        message=str(item.get("message", "")) or "(no message was stored)",
        traceback=item.get("traceback"),
        attempt=int(item.get("attempt", 0)),
        will_retry=bool(item.get("willRetry", False)),
    )


def attributes_item(attributes: TaskAttributes) -> dict[str, Any]:
    """The stored form of attributes."""
    item: dict[str, Any] = {}
    if attributes.results is not None:
        item["result"] = attributes.results
    if attributes.result_ref is not None:
        item["resultRef"] = attributes.result_ref
    if attributes.error is not None:
        item["error"] = failure_item(attributes.error)
    if attributes.sub_task_count is not None:
        item["subTaskCount"] = attributes.sub_task_count
        item["subTaskSucceedCount"] = attributes.sub_task_succeed_count
        item["subTaskFailedCount"] = attributes.sub_task_failed_count
        item["subTaskRunningCount"] = attributes.sub_task_running_count
    return item


def attributes_of(item: Mapping[str, Any]) -> TaskAttributes:
    """The attributes of their stored form."""
    return TaskAttributes(
        results=_results(_value(item, "result")),
        result_ref=item.get("resultRef"),
        error=failure_of(item.get("error")),
        sub_task_count=item.get("subTaskCount"),
        sub_task_succeed_count=item.get("subTaskSucceedCount", 0),
        sub_task_failed_count=item.get("subTaskFailedCount", 0),
    )


def _results(value: Any) -> Sequence[Sequence[Any]] | None:
    if value is None:
        return None
    return value if isinstance(value, list) and all(isinstance(inner, list) for inner in value) else [[value]]


def _entry_item(entry: HistoryEntry) -> dict[str, Any]:
    item: dict[str, Any] = {
        "at": time_text(entry.at),
        "status": str(entry.status),
        "run": entry.run,
        "attempt": entry.attempt,
    }
    if entry.reason is not None:
        item["reason"] = entry.reason
    if entry.by is not None:
        item["by"] = entry.by
    return item


def entry_text(entry: HistoryEntry) -> str:
    """An entry of the history as short as it gets; stored where each byte is paid for."""
    values: list[Any] = [to_milliseconds(entry.at), STATUS_LETTER[entry.status], entry.run, entry.attempt]
    if entry.reason is not None or entry.by is not None:
        values += [entry.reason] if entry.by is None else [entry.reason, entry.by]
    return encode_checked(values)


def _entry(item: Mapping[str, Any] | str) -> HistoryEntry:
    if isinstance(item, str):
        at, letter, run, attempt, reason, by = (*decode(item), None, None)[:6]
        return HistoryEntry(
            at=from_milliseconds(at), status=STATUS_OF[letter], run=run, attempt=attempt, reason=reason, by=by
        )
    return HistoryEntry(
        at=parse_time(item["at"]),
        status=TaskStatus(item["status"]),
        run=int(item["run"]),
        attempt=int(item["attempt"]),
        reason=item.get("reason"),
        by=item.get("by"),
    )
