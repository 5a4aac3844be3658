"""What two creations under one idempotency key have in common, or have not."""

import hashlib
import json
from typing import Any, Final

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
LENGTH: Final = 32
"""Hexadecimal digits: 128 bits."""


class Fingerprint:
    """A digest of kind, task type, name and inputs: equal content has equal fingerprints.

    The order of the names in an object does not count, and neither does the difference between 1 and 1.0.
    """

    def __init__(self, kind: str, task_type: str, name: str) -> None:
        self._hash = hashlib.sha256(_canonical([kind, task_type, name]).encode())

    def add(self, value: Any) -> None:
        """The next input; a checked JSON value."""
        self._hash.update(b"\n" + _canonical(_plain(value)).encode())

    def text(self) -> str:
        """The fingerprint of what was added so far."""
        return self._hash.hexdigest()[:LENGTH]


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
