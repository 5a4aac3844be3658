"""Every text stands in both languages, and every page asks only for texts that there are."""

import re
import string
from pathlib import Path

import pytest

from taskloom.model import Kind, TaskStatus
from taskloom.operations.explaining import Cause
from taskloom.ports import PauseScope
from taskloom.web import dashboard
from taskloom.web.dashboard.pages import DONE
from taskloom.web.dashboard.text import LANGUAGES, TEXTS, language_of, translator

FOLDER = Path(dashboard.__file__).parent
SOURCES = sorted([*FOLDER.glob("*.py"), *FOLDER.glob("templates/**/*.html")])
COMPOSED = {
    *(f"status.{status}" for status in TaskStatus),
    *(f"kind.{kind}" for kind in Kind),
    *(f"cause.{cause}" for cause in Cause),
    *(f"scope.{scope}" for scope in PauseScope),
    *(f"segment.{kind}" for kind in ("wait", "attempt", "unknown")),
    *(f"{what}.{action}" for what in ("confirm", "do") for action in ("cancel", "retry", "redrive")),
    *(f"confirm_{action}_help" for action in ("cancel", "retry", "redrive")),
    *(f"done.{done}" for done in DONE),
    *("overview", "tasks", "queues"),
    *("started", "finished", "next_attempt", "deadline", "lease", "kept_until"),
    *("status.PENDING", "grid_mixed", "days", "hours", "minutes", "seconds", "error.busy", "error.too_large"),
    *("error.not_found", "error.failed", "cause.suspended"),
}
"""Keys that the code puts together or keeps in a table."""


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def asked_for() -> dict[str, set[str]]:
    """The keys that stand as they are, by the files in which they do."""
    found: dict[str, set[str]] = {}
    for source in SOURCES:
        for key in re.findall(r"""\bt\(\s*["']([a-z_.]+)["']\s*[,)]""", source.read_text()):
            found.setdefault(key, set()).add(source.name)
    return found


def test_no_text_is_missing() -> None:
    found = asked_for()
    assert len(found) > 80
    assert {key: sources for key, sources in found.items() if key not in TEXTS} == {}
    assert COMPOSED - set(TEXTS) == set()


def test_no_text_is_left_over() -> None:
    assert set(TEXTS) - set(asked_for()) - COMPOSED == set()


@pytest.mark.parametrize("key", TEXTS)
def test_each_text_has_the_same_places_in_both_languages(key: str) -> None:
    english, japanese = TEXTS[key]
    assert english
    assert japanese
    assert places(english) == places(japanese)


def test_numbers_in_texts_are_grouped() -> None:
    assert translator("en")("of", done=1234, total=100000) == "1,234 of 100,000"
    assert translator("ja")("of", done=1234, total=100000) == "100,000 件中 1,234 件"


@pytest.mark.parametrize(
    ("chosen", "accepted", "language"),
    [
        (None, "", "en"),
        (None, "ja", "ja"),
        (None, "ja-JP,ja;q=0.9,en;q=0.8", "ja"),
        (None, "de-DE,de;q=0.9,ja;q=0.5,en;q=0.4", "ja"),
        (None, "en;q=0.5, ja;q=0.4", "en"),
        (None, "ja;q=0", "en"),
        (None, "ja;q=nonsense,*;q=;;", "en"),
        ("ja", "en", "ja"),
        ("en", "ja", "en"),
        ("xx", "ja", "ja"),
    ],
)
def test_the_language_is_chosen_or_what_the_browser_likes_best(
    chosen: str | None, accepted: str, language: str
) -> None:
    assert language_of(chosen, accepted) == language
    assert language in LANGUAGES
