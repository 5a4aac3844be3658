"""Exceptions as data."""

import traceback
from typing import Final

from taskloom.model import Failure

MAX_MESSAGE: Final = 2_000
MAX_TRACEBACK: Final = 8_000


def failure(error: BaseException, *, attempt: int, will_retry: bool) -> Failure:
    """What is kept of *error*: bounded, always encodable, never empty."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ in ("builtins", None) else f"{kind.__module__}.{kind.__qualname__}"
    return Failure(
        type=clean(name, MAX_MESSAGE),
        message=clean(_message(error), MAX_MESSAGE),
        traceback=None if error.__traceback__ is None else traceback_text(error),
        attempt=attempt,
        will_retry=will_retry,
    )


def reason(error: BaseException) -> str:
    """*error* in one bounded, encodable line."""
    return clean(f"{type(error).__name__}: {_message(error)}", MAX_MESSAGE)


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as broken:  # noqa: BLE001 - the user's __str__ may raise anything
        return f"(its __str__ raised {type(broken).__name__})"
    return text or f"({type(error).__name__} without a message)"


def traceback_text(error: BaseException) -> str:
    """*error* as Python prints it, causes included: bounded, encodable."""
    try:
        text = "".join(traceback.format_exception(error))
    except Exception as broken:  # noqa: BLE001 - it calls the user's __str__ and __notes__
        text = "".join(traceback.format_tb(error.__traceback__)) + f"(not all could be shown: {type(broken).__name__})"
    # The end says where it happened.
    return clean(text, MAX_TRACEBACK, keep_end=True)


def clean(text: str, limit: int, *, keep_end: bool = False) -> str:
    """*text*, encodable as UTF-8, cut to *limit* characters and a mark that says so."""
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text) <= limit:
        return text
    return "… " + text[-limit:] if keep_end else text[:limit] + " …"
