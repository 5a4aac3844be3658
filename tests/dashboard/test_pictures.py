"""The pictures are to scale, and what they leave out is nothing."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.model import HistoryEntry, Kind, TaskEntity, TaskKey, TaskStatus
from taskloom.operations.fan_outs import Cell
from taskloom.ports import Throughput
from taskloom.web.dashboard import chart, grid, timeline, values
from taskloom.web.dashboard.durations import duration, size
from taskloom.web.dashboard.text import translator

T = translator("en")
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
PENDING, RUNNING, COMPLETED, FAILED = (
    TaskStatus.PENDING,
    TaskStatus.IN_PROGRESS,
    TaskStatus.COMPLETED,
    TaskStatus.FAILED,
)


def task(*history: HistoryEntry, **fields: Any) -> TaskEntity[Any]:
    code = "01JTZ3ABCDEFGHJKMNPQRSTVWX"
    values: dict[str, Any] = {
        "key": TaskKey.single("acme", "job", code),
        "kind": Kind.TASK,
        "code": code,
        "task_type": "job",
        "name": "job",
        "tenant_code": "acme",
        "status": history[-1].status if history else PENDING,
        "input": None,
        "created_at": NOON,
        "updated_at": NOON,
        "history": history,
    }
    return TaskEntity(**(values | fields))


def entry(
    seconds: float, status: TaskStatus, *, run: int = 1, attempt: int = 0, reason: str | None = None
) -> HistoryEntry:
    return HistoryEntry(NOON + timedelta(seconds=seconds), status, run, attempt, reason)


# --- the timeline ----------------------------------------------------------------------------------------------------


def test_a_timeline_is_drawn_to_scale() -> None:
    one = task(
        entry(0, PENDING),
        entry(10, RUNNING, attempt=1),
        entry(40, PENDING, attempt=1, reason="no luck"),
        entry(60, RUNNING, attempt=2),
        entry(100, COMPLETED, attempt=2),
    )
    (run,) = timeline.runs(one, NOON + timedelta(hours=1))
    assert [(part.kind, part.x, part.width, part.attempt) for part in run.segments] == [
        ("wait", 0, 100, 0),
        ("attempt", 100, 300, 1),
        ("wait", 400, 200, 1),
        ("attempt", 600, 400, 2),
    ]
    assert [part.ending for part in run.segments] == [RUNNING, PENDING, RUNNING, COMPLETED]
    assert run.segments[1].reason == "no luck"
    assert (run.time, run.attempts) == (timedelta(seconds=100), 2)


def test_what_goes_on_reaches_up_to_now() -> None:
    (run,) = timeline.runs(task(entry(0, PENDING), entry(30, RUNNING, attempt=1)), NOON + timedelta(seconds=60))
    assert [(part.kind, part.width, part.ending) for part in run.segments] == [
        ("wait", 500, RUNNING),
        ("attempt", 500, None),
    ]


def test_each_run_has_a_scale_of_its_own() -> None:
    """Between two runs a task may rest for weeks."""
    one = task(
        entry(0, PENDING),
        entry(1, RUNNING, attempt=1),
        entry(2, FAILED, attempt=1),
        entry(1_000_000, PENDING, run=2),
        entry(1_000_003, RUNNING, run=2, attempt=1),
        entry(1_000_004, COMPLETED, run=2, attempt=1),
    )
    first, second = timeline.runs(one, NOON + timedelta(days=99))
    assert [part.width for part in first.segments] == [500, 500]
    assert [part.width for part in second.segments] == [750, 250]
    assert (first.number, second.number) == (1, 2)


def test_dropped_history_is_drawn_as_unknown() -> None:
    one = task(entry(0, PENDING), entry(50, RUNNING, attempt=9), history_dropped=17)
    (run,) = timeline.runs(one, NOON + timedelta(seconds=100))
    assert [part.kind for part in run.segments] == ["unknown", "attempt"]


@given(st.lists(st.sampled_from([0, 0.001, 1, 60, 86400]), min_size=1, max_size=60))
def test_nothing_is_too_short_to_be_seen_and_all_fits(gaps: list[float]) -> None:
    at, history = 0.0, [entry(0, PENDING)]
    for number, gap in enumerate(gaps):
        at += gap
        history.append(entry(at, PENDING if number % 2 else RUNNING, attempt=number // 2 + 1))
    (run,) = timeline.runs(task(*history), NOON + timedelta(seconds=at + 1))
    assert sum(part.width for part in run.segments) == pytest.approx(timeline.WIDTH, abs=3.1)
    assert all(part.width >= min(timeline.SHORTEST, timeline.WIDTH / len(run.segments)) - 0.1 for part in run.segments)


def test_a_sub_task_that_nobody_claimed_has_no_timeline() -> None:
    assert timeline.runs(task(), NOON) == []


# --- the chart -------------------------------------------------------------------------------------------------------


def test_the_chart_stacks_what_ended_within_the_hour() -> None:
    minutes = [
        Throughput(minute=NOON, kind=Kind.TASK, task_type="a", completed=3, failed=1),
        Throughput(minute=NOON, kind=Kind.TASK, task_type="b", completed=5, failed=0),
        Throughput(minute=NOON - timedelta(minutes=59), kind=Kind.TASK, task_type="a", completed=2, failed=0),
        Throughput(minute=NOON - timedelta(minutes=60), kind=Kind.TASK, task_type="a", completed=99, failed=0),
    ]
    drawn = chart.chart(chart.of_throughput(minutes), NOON + timedelta(seconds=30))
    assert [(bar.minute, bar.completed, bar.failed) for bar in drawn.bars] == [
        (NOON - timedelta(minutes=59), 2, 0),
        (NOON, 8, 1),
    ]
    assert (drawn.completed, drawn.failed, drawn.top) == (10, 1, 10)
    first, last = drawn.bars
    assert first.x == pytest.approx(chart.LEFT + 1)
    assert last.x + last.width < chart.WIDTH
    assert last.completed_height == pytest.approx(8 * last.failed_height, abs=0.5)
    assert last.failed_y + last.failed_height == pytest.approx(last.completed_y, abs=0.2)
    assert [mark for _, mark in drawn.lines] == [0, 5, 10]


def test_an_empty_chart_has_a_scale() -> None:
    drawn = chart.chart({}, NOON)
    assert (drawn.bars, drawn.top) == ([], 1)


def test_a_tenants_chart_counts_its_own_tasks() -> None:
    ended = [replace(task(entry(0, status)), status=status, finished_at=NOON) for status in (COMPLETED, FAILED)]
    assert chart.of_tasks([*ended, task(entry(0, RUNNING))]) == {NOON: (1, 1)}


# --- the grid --------------------------------------------------------------------------------------------------------


def cell(first: int, end: int, **counts: int) -> Cell:
    return Cell(first=first, end=end, counts={TaskStatus(name): count for name, count in counts.items()})


@pytest.mark.parametrize(
    ("counts", "letter"),
    [
        ({"PENDING": 100}, "p"),
        ({"IN_PROGRESS": 1, "PENDING": 99}, "i"),
        ({"COMPLETED": 100}, "c"),
        ({"COMPLETED": 50, "PENDING": 50}, "m"),
        ({"COMPLETED": 50, "CANCELLED": 50}, "x"),
        ({"FAILED": 1, "COMPLETED": 99}, "f1"),
        ({"FAILED": 10, "IN_PROGRESS": 90}, "f2"),
        ({"FAILED": 50, "COMPLETED": 50}, "f3"),
        ({"FAILED": 100}, "f"),
    ],
)
def test_a_cell_shows_what_a_person_should_notice_first(counts: dict[str, int], letter: str) -> None:
    assert grid.letter(cell(0, 100, **counts)) == letter


def test_a_cell_says_what_it_holds_and_what_opens_it() -> None:
    drawn = grid.grid([cell(0, 100, COMPLETED=98, FAILED=2), cell(100, 101, PENDING=1)], T)
    first, second = drawn.squares
    assert first.label == "0–99: Completed 98, Failed 2"
    assert first.query == "first=0&end=100"
    assert second.label == "100: Pending"
    assert second.query == "at=100"
    assert (drawn.width, drawn.height, drawn.each) == (24, 12, 100)


def test_cells_stand_in_rows() -> None:
    drawn = grid.grid([cell(n, n + 1, PENDING=1) for n in range(120)], T)
    assert (drawn.squares[51].x, drawn.squares[51].y) == (12, 12)
    assert (drawn.width, drawn.height) == (600, 36)


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.041, "0.041 s"),
        (9.96, "10 s"),
        (41.4, "41 s"),
        (59.9, "60 s"),
        (60, "1 min"),
        (250, "4 min 10 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (93784, "1 d 2 h"),
        (-5, "0 s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds, T) == text
    assert duration(timedelta(seconds=seconds), T) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.23 KB"), (3_400_000, "3.4 MB")])
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def test_a_large_value_is_folded_and_a_very_large_one_is_cut() -> None:
    small, large, huge = values.shown({"a": 1}), values.shown(["x" * 5000]), values.shown(["ä" * 100_000])
    assert (small.text, small.is_folded, small.is_cut) == ('{\n  "a": 1\n}', False, False)
    assert (large.is_folded, large.is_cut) == (True, False)
    assert (huge.is_folded, huge.is_cut, len(huge.text), huge.size) == (True, True, values.CUT, "200 KB")
