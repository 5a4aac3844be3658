"""DynamoDB's typed JSON: `{"N": "1"}`, `{"S": "text"}`, and which values go through it unchanged."""

from collections.abc import Mapping
from typing import Any, Final

from taskloom.errors import InvalidInput
from taskloom.values import MAX_INTEGER, Json

MAX_NATIVE_DEPTH: Final = 26
"""Levels of a value that fit into an item: of its 32 (source: Amazon DynamoDB developer guide, "Quotas", nested
attribute depth) some are the item's own, and a list per event and per handler around a result."""


def to_typed(value: Json) -> dict[str, Any]:
    """*value* in typed JSON; read by `from_typed` it is `==` to it."""
    if value is None:
        return {"NULL": True}
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, (int, float)):
        return {"N": number_text(value)}
    if isinstance(value, str):
        return {"S": value}
    if isinstance(value, dict):
        return {"M": {name: to_typed(item) for name, item in value.items()}}
    return {"L": [to_typed(item) for item in value]}


def from_typed(value: Mapping[str, Any]) -> Any:
    """The value of typed JSON. Raises: InvalidInput for a type that Taskloom never writes."""
    ((kind, content),) = value.items()
    match kind:
        case "S" | "BOOL":
            return content
        case "N":
            return number(content)
        case "NULL":
            return None
        case "M":
            return {name: from_typed(item) for name, item in content.items()}
        case "L":
            return [from_typed(item) for item in content]
        case _:
            raise InvalidInput("record", f"has a value of type {kind!r}", "store JSON values only")


def number_text(value: int | float) -> str:
    """The text of a number, from which `number` makes one that is `==`, in whatever way DynamoDB spells it.

    Above 2^53 the shortest text of a float is no longer its value, and DynamoDB may give it back as plain digits: so
    whole floats are written digit by digit while they fit (38 digits; source: "Supported data types", Number).
    """
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_INTEGER:
        value = int(value)
    return repr(value)


def number(text: str) -> int | float:
    """The number of a text of DynamoDB, whose spelling may differ from what was written: 1E+2, 100, 1.00E2."""
    digits = text.lstrip("-")
    if digits.isdecimal() and len(digits) <= 38:
        return int(text)
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else _large(text, value)


def _large(text: str, value: float) -> int | float:
    """An integer of up to 38 digits may come back with an exponent; anything larger was a float."""
    mantissa, _, exponent = text.upper().partition("E")
    whole, _, fraction = mantissa.partition(".")
    shift = int(exponent or 0) - len(fraction)
    if not value.is_integer() or not -130 <= shift <= 38:
        return value
    digits = int(whole + fraction)
    exact, rest = (digits * 10**shift, 0) if shift >= 0 else divmod(digits, 10**-shift)
    return exact if not rest and abs(exact) <= MAX_INTEGER else value


def is_native(value: Json, depth: int = MAX_NATIVE_DEPTH) -> bool:
    """Whether an item can hold *value* as it is: not too deep, and without an empty name in an object."""
    if isinstance(value, dict):
        return depth > 0 and "" not in value and all(is_native(item, depth - 1) for item in value.values())
    if isinstance(value, (list, tuple)):
        return depth > 0 and all(is_native(item, depth - 1) for item in value)
    return True
