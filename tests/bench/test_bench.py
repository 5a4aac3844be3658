"""The benchmark at tiny sizes: it runs to its end, and says what it promises. Nothing here looks at a time."""

import json
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench import options, plan, report
from bench.job import Job, Measurement
from bench.loom import fan_out, run, turns
from bench.peers import bare_sqlite
from bench.plan import Case, Metric, Workload
from bench.runner import Series

ROOT = Path(__file__).parents[2]
ROW = {"workload", "title", "metric", "contender", "unit", "median", "min", "max", "ratio", "change", "values"}
OWN = "taskloom,sqlite"  # the others are there only with the extra `bench`


def bench(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "bench", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_every_workload_gives_its_figures(tmp_path: Path) -> None:
    """Each measurement checks its own results, so a figure means that the work was done, each task once."""
    path = tmp_path / "figures.json"
    sizes = ["--repeat", "1", "--scale", "0.001", "--large"]
    # Not in tmp_path: with a path so long processes cannot wake each other, and each waits for its own next look.
    with tempfile.TemporaryDirectory() as folder:
        ended = bench(*sizes, "--contenders", OWN, "--json", str(path), "--folder", folder)
        assert not list(Path(folder).iterdir()), "databases were left behind"
    assert ended.returncode == 0, ended.stdout + ended.stderr
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["failures"] == document["left_out"] == []
    assert document["settings"]["repeat"] == 1
    assert {"commit", "cores", "python", "sqlite", "fsync_ms", "file_system"} <= document["machine"].keys()
    listed = {line.split()[0] for line in bench("--list", "--large").stdout.splitlines()}
    assert {row["workload"] for row in document["rows"]} == listed
    for row in document["rows"]:
        assert row.keys() == ROW
        assert len(row["values"]) == 1
        assert row["title"] in ended.stdout


def test_a_failed_measurement_is_told(tmp_path: Path) -> None:
    """A benchmark that leaves out what went wrong would look better than it is."""
    path = tmp_path / "figures.json"
    ended = bench(
        *("--only", "create-bulk", "--contenders", "taskloom", "--repeat", "1", "--limit", "0.001"),
        *("--json", str(path), "--folder", str(tmp_path)),
    )
    assert ended.returncode == 1
    (failure,) = json.loads(path.read_text(encoding="utf-8"))["failures"]
    assert "more than 0.001 seconds" in failure
    assert failure in ended.stdout


def test_a_contender_that_is_not_there_is_left_out_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The benchmark must run on any machine, and must not hide whom it did not compare with."""
    monkeypatch.setenv("PATH", str(tmp_path))
    chosen = options.parse(["--contenders", "taskloom,dramatiq"])
    contenders = {case.contender for workload in plan.workloads(chosen) for case in workload.cases}
    assert contenders == {"taskloom"}
    reason = plan.missing("dramatiq")
    assert reason is not None
    assert re.search("pip install|apt-get install", reason)


@pytest.mark.parametrize(
    ("measurement", "bare", "table"),
    [
        (run.MEASUREMENTS["end-to-end"], bare_sqlite.MEASUREMENTS["end-to-end"], "tasks"),
        (run.MEASUREMENTS["end-to-end"], bare_sqlite.MEASUREMENTS["end-to-end-as-queue"], "tasks"),
        (fan_out.MEASUREMENTS["join"], bare_sqlite.MEASUREMENTS["join"], "sub_tasks"),
    ],
)
def test_bare_sqlite_writes_the_rows_of_taskloom(
    measurement: Measurement, bare: Measurement, table: str, tmp_path: Path
) -> None:
    """Else the comparison drifts when a column comes or goes: the same columns are filled, with values as long."""
    filled = []
    for name, measure in (("taskloom", measurement), ("bare", bare)):
        folder = tmp_path / name
        folder.mkdir()
        measure(Job(folder=str(folder), count=3, concurrency=2))
        filled.append(last_row(folder / "tasks.db", table))
    ours, theirs = filled
    assert ours.keys() == theirs.keys()
    assert {name: width(value) for name, value in ours.items()} == {
        name: width(value) for name, value in theirs.items()
    }


def last_row(path: Path, table: str) -> dict[str, Any]:
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    *_, row = connection.execute(f"SELECT * FROM {table}").fetchall()
    connection.close()
    return {name: row[name] for name in row.keys() if row[name] is not None}  # noqa: SIM118 - a Row has no items


def width(value: object) -> object:
    """Numbers take what they take; a text counts with its length, give or take a process id."""
    return len(value) // 16 if isinstance(value, str) else type(value)


@pytest.mark.parametrize(
    ("spans", "most"),
    [([], 0), ([(1, 2)], 1), ([(1, 3), (3, 5)], 1), ([(1, 4), (3, 5)], 2), ([(1, 9), (2, 3), (4, 6), (5, 7)], 3)],
)
def test_what_overlaps_is_counted(spans: Sequence[tuple[int, int]], most: int) -> None:
    """A limit is held, or not, by this count alone."""
    assert turns.most_at_once(spans) == most


def test_ratio_and_change_are_those_of_medians() -> None:
    """The two columns that decisions rest on: against the first contender, and against the other commit."""
    workload = Workload(name="w", title="work", metrics=(Metric("rate", "", "tasks/s"),), cases=())

    def series(contender: str, values: Sequence[float], *, other_commit: bool = False) -> Series:
        case = Case(contender=contender, measurement="w", count=1, other_commit=other_commit)
        return Series(workload, case, figures=[{"rate": value} for value in values])

    now, before, bare = report.rows(
        [
            series("taskloom", [90.0, 100.0, 900.0]),
            series("taskloom", [80.0, 1.0, 81.0], other_commit=True),
            series("sqlite", [400.0]),
        ]
    )
    assert (now.median, now.min, now.max, now.ratio, now.change) == (100.0, 90.0, 900.0, None, 1.25)
    assert (before.median, before.ratio, before.change) == (80.0, 0.8, None)
    assert (bare.ratio, bare.change) == (4.0, None)
    text = report.table([now, before, bare], compared="v1")
    head, _, first, *_ = text.splitlines()
    assert [cell.strip() for cell in head.split("|")[1:-1]] == [
        *("workload", "contender", "median", "spread", "unit", "ratio", "to v1")
    ]
    assert [cell.strip() for cell in first.split("|")[1:-1]] == [
        *("work", "Taskloom", "100", "90.0 – 900", "tasks/s", "", "1.25")
    ]
