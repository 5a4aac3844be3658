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
        type=_clean(name, MAX_MESSAGE),
        message=_clean(_message(error), MAX_MESSAGE),
        traceback=_traceback(error),
        attempt=attempt,
        will_retry=will_retry,
    )


def reason(error: BaseException) -> str:
    """*error* in one bounded, encodable line."""
    return _clean(f"{type(error).__name__}: {_message(error)}", MAX_MESSAGE)


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as broken:  # noqa: BLE001 - the user's __str__ may raise anything
        return f"(its __str__ raised {type(broken).__name__})"
    return text or f"({type(error).__name__} without a message)"


def _traceback(error: BaseException) -> str | None:
    if error.__traceback__ is None:
        return None
    try:
        text = "".join(traceback.format_exception(error))
    except Exception as broken:  # noqa: BLE001 - it calls the user's __str__ and __notes__
        text = "".join(traceback.format_tb(error.__traceback__)) + f"(not all could be shown: {type(broken).__name__})"
    # The end says where it happened.
    return _clean(text, MAX_TRACEBACK, keep_end=True)


def _clean(text: str, limit: int, *, keep_end: bool = False) -> str:
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text) <= limit:
        return text
    return "… " + text[-limit:] if keep_end else text[:limit] + " …"
