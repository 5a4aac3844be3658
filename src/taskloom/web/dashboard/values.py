"""Values of tasks for people: pretty-printed, folded when large, cut when very large."""

import json
from dataclasses import dataclass
from typing import Any, Final

from taskloom.web.dashboard.durations import size

FOLD: Final = 2_000
"""Characters from which on a value is folded."""
CUT: Final = 40_000
"""Characters of a value that a page holds at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A value as a page shows it."""

    text: str
    """The JSON of it, or its beginning."""
    is_folded: bool
    is_cut: bool
    size: str
    """Of the whole."""


def shown(value: Any) -> Shown:
    """*value* as a page shows it."""
    text = json_text(value)
    return Shown(text=text[:CUT], is_folded=len(text) > FOLD, is_cut=len(text) > CUT, size=size(len(text.encode())))


def json_text(value: Any) -> str:
    """*value* as JSON, indented."""
    return json.dumps(value, indent=2, ensure_ascii=False)
