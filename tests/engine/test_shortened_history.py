"""The column of a long history, when it is shortened: what stays, what is counted, and how long it may be."""

import json
from datetime import datetime
from itertools import cycle, islice
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.clock import from_milliseconds
from taskloom.embedded import rows
from taskloom.lifecycle import MAX_REASON
from taskloom.model import HistoryEntry, TaskStatus
from tests.core.strategies import instants, statuses

_TEXT: Final = st.characters(exclude_categories=["Cs"])
_LENGTHS: Final = st.sampled_from([0, 40, 250, MAX_REASON, MAX_REASON + 2])
reasons = st.none() | st.text(_TEXT, max_size=30) | _LENGTHS.map("x".__mul__) | _LENGTHS.map("\0".__mul__)
"""The last ones take up to 3,012 characters in JSON: more than there is room for."""
entries = st.builds(
    HistoryEntry,
    at=instants,
    status=statuses,
    run=st.integers(1, 10**6),
    attempt=st.integers(0, 10**6),
    reason=reasons,
    by=st.none() | st.text(_TEXT, max_size=30),
)
histories = st.lists(entries, min_size=1, max_size=60)


def column(history: list[HistoryEntry], dropped: int = 0) -> str:
    """The column as it grows, entry by entry; once something was dropped it begins with how many."""
    texts = [rows.history_text(entry) for entry in history]
    return ",".join([str(dropped), *texts] if dropped else texts)


@given(histories, st.integers(0, 10**6))
def test_the_creation_and_the_newest_stay(history: list[HistoryEntry], before: int) -> None:
    """Whole, unchanged, in their order, without a gap; and what is missing is counted."""
    text = rows.shortened(column(history, before))
    kept = list(rows.History(text))
    assert kept[0] == history[0]
    assert kept[1:] == (history[-len(kept) + 1 :] if len(kept) > 1 else [])
    assert len(kept) + rows.dropped(text) == len(history) + before
    assert len(kept) > 1 or len(history) == 1, "the newest one always stays"


@given(histories)
def test_as_much_stays_as_there_is_room_for(history: list[HistoryEntry]) -> None:
    """At least five entries behind the creation, whatever their reasons say in plain text."""
    text = rows.shortened(column(history))
    kept = list(rows.History(text))
    sizes = [len(rows.history_text(entry)) for entry in history[1:]]
    stays = sizes[len(sizes) - len(kept) + 1 :]
    assert sum(stays) <= rows.KEEP_HISTORY or len(stays) == 1
    if rows.dropped(text):
        assert sum(sizes[-len(kept) :]) > rows.KEEP_HISTORY, "there was room for one more"


@given(histories, st.lists(histories, max_size=4))
def test_it_survives_being_shortened_again_and_again(
    history: list[HistoryEntry], more: list[list[HistoryEntry]]
) -> None:
    """Between two times it grows as the store lets it grow."""
    text, whole = rows.shortened(column(history)), list(history)
    for entries_ in more:
        text = ",".join([text, *map(rows.history_text, entries_)])
        whole += entries_
        text = rows.shortened(text)
        assert rows.shortened(text) == text, "nothing is dropped twice"
        kept = list(rows.History(text))
        assert len(kept) + rows.dropped(text) == len(whole)
        assert [kept[0], *kept[1:]] == [whole[0], *whole[len(whole) - len(kept) + 1 :]]


@settings(max_examples=25)
@given(entries, st.lists(entries, min_size=1, max_size=12))
def test_the_column_stays_short_however_often_it_grows(first: HistoryEntry, several: list[HistoryEntry]) -> None:
    """As the store does it: shortened when it is over its limit, then the new entry is appended."""
    texts = [rows.history_text(entry) for entry in several]
    text, longest, commas = rows.history_text(first), max(map(len, texts)), rows.KEEP_HISTORY // min(map(len, texts))
    most = max(rows.MAX_HISTORY, len("999,") + len(text) + max(rows.KEEP_HISTORY + commas, longest + 1))
    for count, new in enumerate(islice(cycle(texts), 300), start=2):
        if len(text) > rows.MAX_HISTORY:
            text = rows.shortened(text)
            assert len(rows.History(text)) + rows.dropped(text) == count - 1
        text += "," + new
        assert len(text) <= most + len(",") + longest
    history = rows.History(text)
    assert len(history) + rows.dropped(text) == 301
    assert (history[0], history[-1]) == (first, several[299 % len(several)])


def test_a_shortened_column_is_json_without_its_brackets() -> None:
    """Whoever reads the file with SQL finds the entries behind the number."""
    history = [
        HistoryEntry(at=_at(n), status=TaskStatus.PENDING, run=1, attempt=n, reason="ü" * 300, by="w")
        for n in range(40)
    ]
    first, *others = json.loads(f"[{rows.shortened(column(history))}]")
    assert first == 40 - len(others) > 0
    assert [entry[3] for entry in others] == [0, *range(40 - len(others) + 1, 40)]
    assert all(entry[4] == "ü" * 300 for entry in others)


def test_a_column_that_was_never_shortened_has_dropped_nothing() -> None:
    assert rows.dropped("") == 0
    assert rows.dropped(column([HistoryEntry(at=_at(1), status=TaskStatus.PENDING, run=1, attempt=0)])) == 0


def test_five_of_the_longest_entries_stay() -> None:
    """What the constants promise for reasons in plain text, a worker's name beside each."""
    reason = "ö" * MAX_REASON + " …"
    history = [
        HistoryEntry(at=_at(n), status=TaskStatus.FAILED, run=999, attempt=999, reason=reason, by="host/12345/abcdef")
        for n in range(12)
    ]
    assert len(rows.History(rows.shortened(column(history)))) >= 6


@pytest.mark.parametrize(("spare", "stay"), [(1, 10), (0, 10), (-1, 9)])
def test_entries_stay_while_there_is_room(spare: int, stay: int) -> None:
    """To the character."""
    newest = [_of_size(n, rows.KEEP_HISTORY // 10) for n in range(1, 10)]
    last_to_fit = _of_size(0, rows.KEEP_HISTORY // 10 - spare)
    history = [_of_size(n, 100) for n in range(4)] + [last_to_fit, *newest]
    assert sum(len(rows.history_text(entry)) for entry in history[4:]) == rows.KEEP_HISTORY - spare
    assert list(rows.History(rows.shortened(column(history)))) == [history[0], *history[-stay:]]


def test_nothing_older_stays_for_what_has_no_room() -> None:
    """A history without gaps: what is small and older goes with what is too long."""
    newest = [_of_size(n, 290) for n in range(10, 20)]
    history = [_of_size(n, 60) for n in range(10)] + [_of_size(10, 500), *newest]
    text = rows.shortened(column(history))
    assert list(rows.History(text)) == [history[0], *newest]
    assert rows.dropped(text) == 10


def test_the_newest_entry_stays_however_long_it_is() -> None:
    history = [_of_size(n, 100) for n in range(5)] + [_of_size(5, rows.KEEP_HISTORY + 1)]
    assert list(rows.History(rows.shortened(column(history)))) == [history[0], history[-1]]


def _of_size(number: int, size: int) -> HistoryEntry:
    """An entry that takes *size* characters of the column."""
    entry = HistoryEntry(at=_at(number), status=TaskStatus.PENDING, run=1, attempt=1, reason="")
    entry = entry._replace(reason="x" * (size - len(rows.history_text(entry))))
    assert len(rows.history_text(entry)) == size
    return entry


def _at(number: int) -> datetime:
    return from_milliseconds(1_777_636_800_000 + number)
