"""A change of a task as one conditional write."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from taskloom import record
from taskloom.aws import items, table
from taskloom.aws.items import ATTRIBUTES, COUNTERS
from taskloom.clock import to_milliseconds
from taskloom.lifecycle import Change, Guard
from taskloom.model import TERMINAL, TaskEntity, TaskStatus
from taskloom.record import PK

MAX_HISTORY: Final = 100
"""Entries of the history from which on older ones make room for newer ones."""
KEEP_HISTORY: Final = 3000
"""Characters of the newest entries that are kept then, beside the creation; at least the newest one."""
LONGEST_WITH_MESSAGE: Final = timedelta(minutes=15)
"""A task that waits no longer than this keeps its message; the reconciler gives one to those that wait longer."""

_MAX_HISTORY_VALUE: Final = {"N": str(MAX_HISTORY)}


@dataclass(slots=True)
class Expression:
    """Names and values of an expression, each once."""

    names: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    _aliases: dict[str, str] = field(default_factory=dict)

    def path(self, *parts: str) -> str:
        """The path to an attribute."""
        for part in parts:
            if part not in self._aliases:
                self._aliases[part] = alias = f"#{len(self._aliases)}"
                self.names[alias] = part
        return ".".join(self._aliases[part] for part in parts)

    def value(self, typed: Mapping[str, Any]) -> str:
        """The placeholder of a value."""
        name = f":{len(self.values)}"
        self.values[name] = typed
        return name

    def parameters(self) -> dict[str, Any]:
        """As a call takes them: it refuses empty ones."""
        parameters: dict[str, Any] = {}
        if self.names:
            parameters["ExpressionAttributeNames"] = self.names
        if self.values:
            parameters["ExpressionAttributeValues"] = self.values
        return parameters


def creation(table_name: str, change: Change, seconds: int) -> dict[str, Any]:
    """PutItem of a sub-task that is not there yet; *seconds* since 1970 tell what has expired."""
    expression = Expression()
    return {
        "TableName": table_name,
        "Item": items.new_sub_task_item(change),
        "ConditionExpression": is_absent(expression, seconds),
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        **expression.parameters(),
    }


def is_absent(expression: Expression, seconds: int) -> str:
    """The condition that nothing stands there, or what does has expired."""
    pk, ttl = expression.path(PK), expression.path(table.TTL)
    return f"attribute_not_exists({pk}) OR {ttl} <= {expression.value({'N': str(seconds)})}"


def is_present(expression: Expression, seconds: int) -> str:
    """The condition that something stands there that has not expired."""
    pk, ttl = expression.path(PK), expression.path(table.TTL)
    now = expression.value({"N": str(seconds)})
    return f"attribute_exists({pk}) AND (attribute_not_exists({ttl}) OR {ttl} > {now})"


def update(table_name: str, change: Change, seconds: int, standing: TaskEntity[Any] | None = None) -> dict[str, Any]:
    """UpdateItem that carries out *change*.

    Without *standing* it is refused when the history has grown too long. With it, the task as it stands, the same write
    shortens the history, and is refused when anything has been written since.
    """
    expression = Expression()
    sets, removes = _assignments(expression, change)
    conditions = [is_present(expression, seconds), *_conditions(expression, change.guard)]
    if change.history is not None:  # rule 5: the same write
        if standing is None:
            conditions.append(_has_room(expression))
            sets.append(_appended(expression, record.entry_text(change.history)))
        else:
            sets += _shortened(expression, standing, record.entry_text(change.history))
            conditions.append(_is_as(expression, standing))
    version = expression.path("version")
    zero, one = expression.value({"N": "0"}), expression.value({"N": "1"})
    sets.append(f"{version} = if_not_exists({version}, {zero}) + {one}")
    text = f"SET {', '.join(sets)}" + (f" REMOVE {', '.join(removes)}" if removes else "")
    return {
        "TableName": table_name,
        "Key": items.key_item(change.key),
        "UpdateExpression": text,
        "ConditionExpression": " AND ".join(conditions),
        "ReturnValues": "ALL_NEW" if change.returning else "NONE",
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        **expression.parameters(),
    }


def _assignments(expression: Expression, change: Change) -> tuple[list[str], list[str]]:
    sets: list[str] = []
    removes: list[str] = []
    for name, value in change.patch.items():
        place, typed = items.encoded(name, value)
        if typed is None:
            removes.append(expression.path(*place))
        else:
            sets.append(f"{expression.path(*place)} = {expression.value(typed)}")
        other = items.other_form(place)
        if other is not None:
            removes.append(expression.path(*other))
    for name, amount in (change.add or {}).items():
        path, zero = expression.path(ATTRIBUTES, COUNTERS[name]), expression.value({"N": "0"})
        sets.append(f"{path} = if_not_exists({path}, {zero}) + {expression.value({'N': str(amount)})}")
    if items.is_top_level(change.key.kind):
        _index(expression, change, sets, removes)
    return sets, removes


def _index(expression: Expression, change: Change, sets: list[str], removes: list[str]) -> None:
    """Keep the attributes of the indexes in step. An index is only paid for when one of its keys changes."""
    patch, code = change.patch, change.key.parts.code
    path = expression.path

    def put(name: str, text: str, *, once: bool = False) -> None:
        value = expression.value({"S": text})
        sets.append(f"{path(name)} = " + (f"if_not_exists({path(name)}, {value})" if once else value))

    def remove(*names: str) -> None:
        removes.extend(path(name) for name in names)

    status = patch.get("status")
    if status in TERMINAL:
        remove(table.OPEN, table.OPEN_AT)
        if status is TaskStatus.FAILED:
            put(table.MARK, table.failed_mark(change.key.pk))
            put(table.MARK_AT, code)
        else:
            remove(table.MARK, table.MARK_AT)
        return
    look = _late_look(change)
    if status is not None:
        put(table.OPEN, table.bucket(code), once=True)
    if look is not None:
        put(table.OPEN_AT, look)
    elif status is not None:
        put(table.OPEN_AT, _first_look(change), once=True)
    deadline = patch.get("deadline_at")
    if deadline is not None:
        put(table.MARK, table.due_mark(table.bucket(code)))
        put(table.MARK_AT, record.time_text(deadline))
    elif "run" in patch or "deadline_at" in patch or patch.get("cancel_requested") is not None:
        remove(table.MARK, table.MARK_AT)  # an earlier failure is over; or its execution will end it


def _late_look(change: Change) -> str | None:
    """From when on to look after a task that waits longer than its message could."""
    at, now = change.patch.get("next_attempt_at"), change.patch.get("updated_at")
    if at is None or now is None or at - now <= LONGEST_WITH_MESSAGE:
        return None
    return table.looked_after_from(change.key.parts.code, to_milliseconds(at))


def _first_look(change: Change) -> str:
    code, at = change.key.parts.code, change.patch.get("updated_at")
    return code if table.is_ulid(code) else table.looked_after_from(code, 0 if at is None else to_milliseconds(at))


def _conditions(expression: Expression, guard: Guard) -> list[str]:
    conditions = []
    if guard.status is not None:
        allowed = [expression.value({"S": spelling}) for status in guard.status for spelling in _spellings(status)]
        if not allowed:
            return [f"attribute_not_exists({expression.path(PK)})"]  # nothing is let through
        conditions.append(f"{expression.path('status')} IN ({', '.join(allowed)})")
    if guard.fence is not None:
        conditions.append(_number_is(expression, "fence", guard.fence, missing=0))
    if guard.run is not None:
        conditions.append(_number_is(expression, "run", guard.run, missing=1))
    if guard.lease_ended_by is not None:
        path, at = expression.path("leaseUntil"), expression.value(items.time_value(guard.lease_ended_by))
        conditions.append(f"(attribute_not_exists({path}) OR {path} <= {at})")
    return conditions


def _spellings(status: TaskStatus) -> list[str]:
    """The status, and what the original may have stored for it."""
    return [str(status), *record.foreign_spellings(status)]


def _number_is(expression: Expression, name: str, number: int, *, missing: int) -> str:
    path, value = expression.path(name), expression.value({"N": str(number)})
    condition = f"{path} = {value}"
    return f"({condition} OR attribute_not_exists({path}))" if number == missing else condition


def _has_room(expression: Expression) -> str:
    path = expression.path("history")
    return f"(attribute_not_exists({path}) OR size({path}) < {expression.value(_MAX_HISTORY_VALUE)})"


def _appended(expression: Expression, entry: str) -> str:
    path = expression.path("history")
    empty, last = expression.value({"L": []}), expression.value({"L": [{"S": entry}]})
    return f"{path} = list_append(if_not_exists({path}, {empty}), {last})"


def _shortened(expression: Expression, standing: TaskEntity[Any], entry: str) -> list[str]:
    first, *rest = [record.entry_text(old) for old in standing.history]
    kept: list[str] = []
    room = KEEP_HISTORY
    for old in reversed(rest):
        room -= len(old)
        if room < 0 and kept:
            break
        kept.append(old)
    kept.reverse()
    dropped = standing.history_dropped + len(rest) - len(kept)
    history = {"L": [{"S": text} for text in (first, *kept, entry)]}
    return [
        f"{expression.path('history')} = {expression.value(history)}",
        f"{expression.path('historyDropped')} = {expression.value({'N': str(dropped)})}",
    ]


def _is_as(expression: Expression, standing: TaskEntity[Any]) -> str:
    return f"{expression.path('version')} = {expression.value({'N': str(standing.version)})}"


def holds(guard: Guard, task: TaskEntity[Any]) -> bool:
    """Whether *guard* lets a change of *task* through."""
    return (
        not guard.absent
        and (guard.status is None or task.status in guard.status)
        and guard.fence in (None, task.fence)
        and guard.run in (None, task.run)
        and (guard.lease_ended_by is None or task.lease_until is None or task.lease_until <= guard.lease_ended_by)
    )


def is_end(change: Change) -> bool:
    """Whether *change* ends its task, and says when."""
    return change.patch.get("status") in TERMINAL and change.patch.get("finished_at") is not None


def lacks_room(change: Change, standing: TaskEntity[Any]) -> bool:
    """Whether nothing but the length of its history, or a write that came between, stood against *change*."""
    return change.history is not None and len(standing.history) >= MAX_HISTORY and holds(change.guard, standing)
