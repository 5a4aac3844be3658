"""Names of files as JSON text. A file system takes any bytes; JSON takes Unicode."""

import base64
import os
from collections.abc import Mapping
from typing import Any


def to_json(name: str, path: str) -> dict[str, str]:
    """*path* as the field *name*.

    A path that is no valid UTF-8 is shown there with `\\xNN` for each bad byte, and the field `<name>Base64` beside it
    holds its bytes.
    """
    raw = os.fsencode(path)
    try:
        return {name: raw.decode()}
    except UnicodeDecodeError:
        shown = raw.decode("utf-8", "backslashreplace")
        return {name: shown, f"{name}Base64": base64.b64encode(raw).decode()}


def from_json(name: str, item: Mapping[str, Any]) -> str:
    """The path that `to_json` put into *item*, as Python names it."""
    encoded = item.get(f"{name}Base64")
    return os.fsdecode(item[name].encode() if encoded is None else base64.b64decode(encoded))


def shown(path: str) -> str:
    """*path* as text that can be stored; not always the way back."""
    return to_json("path", path)["path"]
