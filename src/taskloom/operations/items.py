"""Figures, workers, pauses, letters, deliveries and explanations as JSON, and back: camelCase, as tasks are stored."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, Final, TypeAlias, TypeVar, get_type_hints

from taskloom.model import TaskAttributes, TaskKey
from taskloom.operations.explaining import Explanation
from taskloom.operations.queues import QueueFigures
from taskloom.ports import Cap, DeadLetter, ListenerFigures, Notice, Pause, Throughput, WorkerFacts
from taskloom.record import attributes_item, attributes_of, parse_time, time_text

Value: TypeAlias = (
    QueueFigures | WorkerFacts | Pause | DeadLetter | Explanation | Throughput | Cap | ListenerFigures | Notice
)
ValueT = TypeVar("ValueT", bound=Value)

_NAMES: Final = {"task_type": "type", "key": "task"}
"""As in the stored form of a task."""


def item(value: Value) -> dict[str, Any]:
    """*value* as JSON."""
    return {_name(field.name): _plain(getattr(value, field.name)) for field in fields(value)}


def of_item(kind: type[ValueT], item: Mapping[str, Any]) -> ValueT:
    """The value whose JSON is *item*. Raises: KeyError, TypeError, ValueError when it is none."""
    hints = get_type_hints(kind)
    return kind(**{field.name: _value(hints[field.name], item[_name(field.name)]) for field in fields(kind)})


def _value(kind: Any, value: Any) -> Any:
    if kind is TaskKey:
        return TaskKey.parse(value)
    if value is not None and kind in (datetime, datetime | None):
        return parse_time(value)
    if kind is TaskAttributes:
        return attributes_of(value)
    if kind == Mapping[str, Cap]:
        return {task_type: of_item(Cap, part) for task_type, part in value.items()}
    if isinstance(value, Mapping):
        return {re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", name): part for name, part in value.items()}
    return kind(value) if isinstance(kind, type) and issubclass(kind, str) else value


def _name(name: str) -> str:
    if name in _NAMES:
        return _NAMES[name]
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def _entry(name: str, part: Any) -> tuple[str, Any]:
    # Caps stand under task types, which are no names of ours.
    return (name, item(part)) if isinstance(part, Cap) else (_name(name), part)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return time_text(value)
    if isinstance(value, TaskAttributes):
        return attributes_item(value)
    if isinstance(value, Mapping):
        return dict(_entry(name, part) for name, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(value)
    return value.id if isinstance(value, TaskKey) else value
