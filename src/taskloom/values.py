"""JSON values at the border: what is accepted, and their one encoding.

The limits are those of a DynamoDB number and document, on every backend, so that what runs embedded runs on AWS.
Source: Amazon DynamoDB developer guide, "Supported data types" (38 digits, ±1e-130 … 9.99…e125, 32 levels).
"""

import json
import math
from typing import Any, Final, NewType, TypeAlias

from taskloom.errors import InvalidInput, InvalidType

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

EncodedJson = NewType("EncodedJson", str)
"""A checked JSON text, compact, UTF-8 encodable."""

MAX_DEPTH: Final = 32
MAX_INTEGER: Final = 10**38 - 1
MAX_FLOAT: Final = 9.9999999999999e125
MIN_FLOAT: Final = 1e-130

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # typeshed does not know it


def encode(value: object, field: str) -> EncodedJson:
    """The compact text of *value*, decoded again it is `==` to it (a tuple counts as a list).

    Raises: InvalidInput or InvalidType that names the path of what cannot be stored, beginning with *field*.
    """
    check(value, field)
    return encode_checked(value)


def encode_checked(value: object) -> EncodedJson:
    """Like `encode`, for a value that is made of checked ones."""
    return EncodedJson(_encode(value))


def decode(text: str) -> Any:
    """The value of a compact JSON *text*, one that `encode` made."""
    # Half the time of json.loads, which first looks for white space around the value.
    try:
        return _scan(text, 0)[0]
    except StopIteration as error:
        raise ValueError(f"no JSON value at position {error.value}") from None


def check(value: object, field: str, depth: int = 0) -> None:
    """Raise InvalidInput or InvalidType unless *value* is a JSON value that every backend keeps exactly."""
    kind = type(value)
    if kind is str:
        if not value.isascii():  # type: ignore[attr-defined]
            check_text(value, field)  # type: ignore[arg-type]
    elif value is None or kind is bool:
        pass
    elif kind is int:
        _check_integer(value, field)  # type: ignore[arg-type]
    elif kind is float:
        _check_float(value, field)  # type: ignore[arg-type]
    elif isinstance(value, dict):
        _check_depth(field, depth)
        for name, item in value.items():
            if not isinstance(name, str):
                raise InvalidType(field, f"has the key {name!r}, which is no string", "use strings as keys")
            check_text(name, field)
            check(item, f"{field}.{name}", depth + 1)
    elif isinstance(value, (list, tuple)):
        _check_depth(field, depth)
        for index, item in enumerate(value):
            check(item, f"{field}[{index}]", depth + 1)
    elif isinstance(value, str):
        check_text(value, field)
    elif isinstance(value, int):
        _check_integer(value, field)
    elif isinstance(value, float):
        _check_float(value, field)
    else:
        raise InvalidType(
            field,
            f"a value of type {kind.__name__} is no JSON value",
            "use None, bool, int, float, str, list or dict",
        )


def check_text(value: str, field: str) -> None:
    """Raise InvalidInput if *value* cannot be written as UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            field, f"has a lone surrogate at position {error.start}", "decode the text properly"
        ) from error


def _check_integer(value: int, field: str) -> None:
    if not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise InvalidInput(field, "is an integer of more than 38 digits", "send it as a string")


def _check_float(value: float, field: str) -> None:
    if not math.isfinite(value):
        raise InvalidInput(field, f"{value} is no JSON number", "send None or a string instead")
    if value and not MIN_FLOAT <= abs(value) <= MAX_FLOAT:
        raise InvalidInput(field, f"{value} is outside ±1e-130…9.99e125", "scale it, or send it as a string")


def _check_depth(field: str, depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise InvalidInput(field, f"is nested deeper than {MAX_DEPTH} levels", "flatten it, or send it as a string")


def copy(value: Any) -> Any:
    """*value* as it comes back from a store."""
    return decode(_encode(value))
