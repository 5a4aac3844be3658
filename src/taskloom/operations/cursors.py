"""Cursors: places in a list, as text that means nothing to its holder."""

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any

from taskloom.errors import InvalidInput


def of(position: str | int | Sequence[int]) -> str:
    """The cursor of *position*."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def text(cursor: str) -> str:
    """The position of a list in the order of texts. Raises: InvalidInput for a cursor of another list."""
    position = _position(cursor)
    if not isinstance(position, str):
        raise _refused(cursor)
    return position


def number(cursor: str, end: int) -> int:
    """The position, below *end*, of a list in the order of numbers. Raises: as `text`."""
    position = _position(cursor)
    if not _is_number(position, end):
        raise _refused(cursor)
    return position  # type: ignore[no-any-return]


def numbers(cursor: str, count: int, end: int) -> Sequence[int]:
    """The position, *count* numbers below *end*, of a list in the order of tuples. Raises: as `text`."""
    position = _position(cursor)
    if not isinstance(position, list) or len(position) != count or not all(_is_number(item, end) for item in position):
        raise _refused(cursor)
    return position


def _position(cursor: str) -> Any:
    try:
        return json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (TypeError, ValueError, binascii.Error):
        raise _refused(cursor) from None


def _is_number(position: object, end: int) -> bool:
    return type(position) is int and 0 <= position < end


def _refused(cursor: object) -> InvalidInput:
    return InvalidInput("cursor", f"{cursor!r} is none of this list", "pass on the cursor of the page before")
