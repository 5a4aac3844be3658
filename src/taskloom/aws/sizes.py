"""How large an item is, as DynamoDB counts (source: developer guide, "DynamoDB item sizes and formats")."""

from collections.abc import Mapping
from typing import Any


def item_bytes(item: Mapping[str, Mapping[str, Any]]) -> int:
    """The size of an item in typed JSON: the UTF-8 names of its attributes and their values."""
    return sum(len(name.encode()) + value_bytes(value) for name, value in item.items())


def value_bytes(value: Mapping[str, Any]) -> int:
    """The size of a value in typed JSON."""
    ((kind, content),) = value.items()
    match kind:
        case "S":
            return len(content.encode())
        case "N":
            return _number_bytes(content)
        case "B":
            return len(content)
        case "NULL" | "BOOL":
            return 1
        case "L":
            return 3 + sum(1 + value_bytes(item) for item in content)
        case "M":
            return 3 + sum(1 + len(name.encode()) + value_bytes(item) for name, item in content.items())
        case "NS":
            return sum(map(_number_bytes, content))
        case _:
            return sum(len(item.encode() if isinstance(item, str) else item) for item in content)


def _number_bytes(text: str) -> int:
    """A byte per two significant digits, and one; one more for a sign. At most 21."""
    digits = text.lower().partition("e")[0].replace(".", "").lstrip("-").strip("0")
    return min(21, (len(digits) + 1) // 2 + 1 + text.startswith("-"))
