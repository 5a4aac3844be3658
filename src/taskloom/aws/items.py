"""Tasks as items of the table, in typed JSON, and back."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias

from taskloom import record
from taskloom.aws import table
from taskloom.clock import to_milliseconds
from taskloom.errors import InvalidInput, StoreCorrupt
from taskloom.lifecycle import Change
from taskloom.model import DEFAULT_PRIORITY, NO_OPTIONS, Kind, TaskEntity, TaskKey
from taskloom.ports import NewTaskRow
from taskloom.record import AS_TEXT, PK, SK
from taskloom.typed_json import from_typed, is_native, to_typed
from taskloom.values import EncodedJson, decode

Item: TypeAlias = Mapping[str, Any]
"""An item in typed JSON."""

ATTRIBUTES: Final = "attributes"


def key_item(key: TaskKey) -> dict[str, Any]:
    """The primary key of a task."""
    return {PK: {"S": key.pk}, SK: {"S": key.sk}}


def json_attribute(name: str, text: EncodedJson) -> tuple[str, dict[str, Any]]:
    """How the value of *text* is stored under *name*: as it is, or as text where an item cannot hold it."""
    value = decode(text)
    return (name, to_typed(value)) if is_native(value) else (name + AS_TEXT, {"S": text})


def time_value(instant: datetime) -> dict[str, Any]:
    """An instant, ISO 8601."""
    return {"S": record.time_text(instant)}


def new_task_item(row: NewTaskRow) -> dict[str, Any]:
    """The item of a new top-level task."""
    task = row.entity
    item: dict[str, Any] = {
        **key_item(task.key),
        "id": {"S": task.id},
        "version": {"N": str(task.version)},
        table.CODE: {"S": task.code},
        "type": {"S": task.task_type},
        "name": {"S": task.name},
        "tenantCode": {"S": task.tenant_code},
        "status": {"S": str(task.status)},
        ATTRIBUTES: {"M": _new_attributes(task)},
        "createdAt": time_value(task.created_at),
        "updatedAt": time_value(task.updated_at),
        "run": {"N": str(task.run)},
        "attempt": {"N": str(task.attempt)},
        "fence": {"N": str(task.fence)},
        "history": {"L": [{"S": record.entry_text(entry)} for entry in task.history]},
    }
    if row.input is not None:
        name, value = json_attribute("input", row.input)
        item[name] = value
    texts = {
        "inputRef": task.input_ref,
        "requestId": task.request_id,
        "createdBy": task.created_by,
        "updatedBy": task.updated_by,
        "createdIp": task.created_ip,
        "updatedIp": task.updated_ip,
        "dispatch": task.dispatch,
        "executionArn": task.execution_arn,
    }
    item |= {name: {"S": text} for name, text in texts.items() if text is not None}
    if task.options != NO_OPTIONS:
        item["options"] = to_typed(record.options_item(task.options))
    if task.priority != DEFAULT_PRIORITY:
        item["priority"] = {"N": str(task.priority)}
    item |= _new_index_keys(task)
    return item


def _new_attributes(task: TaskEntity[Any]) -> dict[str, Any]:
    count = task.attributes.sub_task_count
    if count is None:
        return {}
    # subTaskRunningCount is what is left of the others: nobody has to keep it in step.
    return {
        "subTaskCount": {"N": str(count)},
        "subTaskSucceedCount": {"N": str(task.attributes.sub_task_succeed_count)},
        "subTaskFailedCount": {"N": str(task.attributes.sub_task_failed_count)},
    }


def _new_index_keys(task: TaskEntity[Any]) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    if not task.is_terminal:
        keys |= {table.OPEN: {"S": table.bucket(task.code)}, table.OPEN_AT: {"S": first_look(task)}}
    if task.deadline_at is not None:
        keys |= {
            "deadlineAt": time_value(task.deadline_at),
            table.MARK: {"S": table.due_mark(table.bucket(task.code))},
            table.MARK_AT: time_value(task.deadline_at),
        }
    return keys


def first_look(task: TaskEntity[Any]) -> str:
    """The `openAt` with which a task begins: its code, which everybody can tell from its key."""
    code = task.code
    return code if table.is_ulid(code) else table.looked_after_from(code, to_milliseconds(task.created_at))


def new_sub_task_item(change: Change) -> dict[str, Any]:
    """The item that a change with the guard `absent` creates: without all that the parent knows."""
    patch = change.patch
    item: dict[str, Any] = {
        **key_item(change.key),
        "version": {"N": "0"},
        "status": {"S": "PENDING"},
        "run": {"N": "1"},
        "attempt": {"N": "0"},
        "fence": {"N": "0"},
        ATTRIBUTES: {"M": {}},
        "history": {"L": [] if change.history is None else [{"S": record.entry_text(change.history)}]},
    }
    for name, value in patch.items():
        place, typed = encoded(name, value)
        if typed is not None:
            target = item[ATTRIBUTES]["M"] if place[0] == ATTRIBUTES else item
            target[place[-1]] = typed
    return item


_TIMES: Final = {
    "lease_until": "leaseUntil",
    "next_attempt_at": "nextAttemptAt",
    "created_at": "createdAt",
    "updated_at": "updatedAt",
    "started_at": "startedAt",
    "finished_at": "finishedAt",
    "deadline_at": "deadlineAt",
}
_TEXTS: Final = {
    "status": "status",
    "claim_id": "claimId",
    "dispatch": "dispatch",
    "execution_arn": "executionArn",
}
_NUMBERS: Final = {"run": "run", "attempt": "attempt", "fence": "fence", "lost": "lost"}
_OBJECTS: Final[Mapping[str, tuple[str, Any]]] = {
    "progress": ("progress", record.progress_item),
    "fan_out": ("fanOut", record.fan_out_item),
    "cancel_requested": ("cancelRequested", record.cancel_item),
}
COUNTERS: Final = {"sub_task_succeed_count": "subTaskSucceedCount", "sub_task_failed_count": "subTaskFailedCount"}


def encoded(name: str, value: Any) -> tuple[tuple[str, ...], dict[str, Any] | None]:
    """Where a value of a patch lies in the item, and what it is there; None removes it."""
    if name in _TIMES:
        return (_TIMES[name],), None if value is None else time_value(value)
    if name in _TEXTS:
        return (_TEXTS[name],), None if value is None else {"S": str(value)}
    if name in _NUMBERS:
        return (_NUMBERS[name],), {"N": str(value)}
    if name in _OBJECTS:
        stored, item_of = _OBJECTS[name]
        return (stored,), None if value is None else to_typed(item_of(value))
    if name in COUNTERS:
        return (ATTRIBUTES, COUNTERS[name]), {"N": str(value)}
    match name:
        case "state":
            return _json_place((), "state", value)
        case "results":
            return _json_place((ATTRIBUTES,), "result", value)
        case "result_ref":
            return (ATTRIBUTES, "resultRef"), None if value is None else {"S": value}
        case "error":
            return (ATTRIBUTES, "error"), None if value is None else to_typed(record.failure_item(value))
        case _:
            raise InvalidInput(name, "is nothing that a change may write", "add it to taskloom.aws.items")


def _json_place(
    parents: tuple[str, ...], name: str, text: EncodedJson | None
) -> tuple[tuple[str, ...], dict[str, Any] | None]:
    if text is None:
        return (*parents, name), None
    stored, value = json_attribute(name, text)
    return (*parents, stored), value


def other_form(place: tuple[str, ...]) -> tuple[str, ...] | None:
    """Where the same value may lie in its other form, native or text; None when it has one form only."""
    *parents, name = place
    bare = name.removesuffix(AS_TEXT)
    if bare not in ("state", "result"):
        return None
    return (*parents, bare if bare != name else name + AS_TEXT)


def task_of(item: Item) -> TaskEntity[Any]:
    """The task of an item. Raises: StoreCorrupt."""
    try:
        return record.from_item({name: from_typed(value) for name, value in item.items() if name in _READ})
    except InvalidInput as error:
        raise StoreCorrupt(f"the table holds something that is no task: {error}") from error


_READ: Final = frozenset(
    {
        *(PK, SK, "version", "code", "type", "name", "tenantCode", "status", "run", "attempt", "fence", "lost"),
        *("input", "inputJson", "inputRef", "state", "stateJson", ATTRIBUTES, "requestId", "createdBy", "updatedBy"),
        *("createdIp", "updatedIp", "claimId", "dispatch", "executionArn", "leaseUntil", "nextAttemptAt", "createdAt"),
        *("updatedAt", "startedAt", "finishedAt", "deadlineAt", "progress", "fanOut", "cancelRequested", "options"),
        *("priority", "history", "historyDropped"),
    }
)
"""Other attributes are the table's, or somebody else's, and may have any type."""


def is_expired(item: Item, seconds: float) -> bool:
    """Whether an item counts as absent at this instant (seconds since 1970)."""
    ttl = item.get(table.TTL)
    return ttl is not None and float(ttl.get("N", "inf")) <= seconds


def is_top_level(kind: Kind) -> bool:
    """Whether tasks of this kind are listed, dispatched and looked after one by one."""
    return kind is not Kind.SUB_TASK
