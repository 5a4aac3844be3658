"""The demonstration on the screen: bars on a terminal, lines elsewhere, and the table at the end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Table

from taskloom.cli.output import cell
from taskloom.cli.views import seconds_text
from taskloom.demo.report import SHOWN
from taskloom.demo.run import Observer, Outcome
from taskloom.model import TaskEntity

LINE_EVERY: Final = 5.0
"""Seconds between two lines where there is no terminal."""


@contextmanager
def observer(console: Console) -> Iterator[Observer]:
    """An observer that shows on *console* how far the demonstration is."""
    if not console.is_terminal:
        yield Lines(console)
        return
    with Progress(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        console=console,
        refresh_per_second=5,
    ) as progress:
        yield Bars(progress)


class Bars:
    """A bar per step."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def inventory(self, task: TaskEntity[Any]) -> None:
        """See `Observer`."""
        files = task.progress.done if task.progress else 0
        self._show("Taking the inventory", files, files if task.is_terminal else None)

    def fingerprints(self, task: TaskEntity[Any]) -> None:
        """See `Observer`."""
        self._show("Taking fingerprints", _done(task), task.attributes.sub_task_count or 0, _speed(task))

    def report(self, done: int, total: int) -> None:
        """See `Observer`."""
        self._show("Writing the report", done, total)

    def _show(self, step: str, done: float, total: float | None, speed: str = "") -> None:
        if step not in self._bars:
            self._bars[step] = self._progress.add_task(step, total=total, speed=speed)
        self._progress.update(self._bars[step], completed=done, total=total, speed=speed)


class Lines:
    """A line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._step = ""
        self._next = 0.0

    def inventory(self, task: TaskEntity[Any]) -> None:
        """See `Observer`."""
        files = task.progress.done if task.progress else 0
        self._say("Taking the inventory", f"{files:,} files", last=task.is_terminal)

    def fingerprints(self, task: TaskEntity[Any]) -> None:
        """See `Observer`."""
        text = f"{_done(task):,} of {task.attributes.sub_task_count or 0:,} files"
        speed = _speed(task)
        self._say("Taking fingerprints", f"{text}, {speed}" if speed else text, last=task.is_terminal)

    def report(self, done: int, total: int) -> None:
        """See `Observer`."""
        self._say("Writing the report", f"{done:,} of {total:,} files", last=done == total)

    def _say(self, step: str, text: str, *, last: bool) -> None:
        now = time.monotonic()
        if step != self._step:
            self._step, self._next = step, now + LINE_EVERY
        if last or now >= self._next:
            self._next = now + LINE_EVERY
            self._console.print(f"{step}: {text}", soft_wrap=True)


def _done(task: TaskEntity[Any]) -> int:
    return task.attributes.sub_task_succeed_count + task.attributes.sub_task_failed_count


def _speed(task: TaskEntity[Any]) -> str:
    if task.rate is None:
        return ""
    speed = f"{task.rate:,.0f} files/s"
    return speed if task.is_terminal else f"{speed}, {seconds_text(task.seconds_left)} left"


def print_outcome(console: Console, folder: Path, outcome: Outcome) -> None:
    """The table of what was found below *folder*."""
    console.print()
    console.print(_sums(folder, outcome))
    summary = outcome.summary
    if summary.slowest:
        console.print()
        slowest = _table("SLOWEST FILES", "SECONDS")
        for seconds, path in summary.slowest:
            slowest.add_row(cell(path), cell(f"{seconds:.3f}"))
        console.print(slowest)
    if summary.failures:
        console.print()
        failures = _table("FAILED FILES", "REASON")
        failures.columns[1].justify = "left"
        for path, reason in summary.failures:
            failures.add_row(cell(path), cell(reason, "red"))
        if summary.failed > SHOWN:
            failures.add_row(cell(f"… and {summary.failed - SHOWN:,} more, all in the report"), cell(""))
        console.print(failures)
    console.print()


def _sums(folder: Path, outcome: Outcome) -> Table:
    summary, counts = outcome.summary, outcome.inventory.result
    links = counts["linksToFolders"] if isinstance(counts, dict) else 0
    started, finished = outcome.inventory.started_at, outcome.fingerprints.finished_at
    table = _table("FOLDER", str(folder))
    for name, value in (
        ("files", f"{summary.files:,}"),
        ("failed", f"{summary.failed:,}"),
        ("bytes", f"{summary.bytes:,}"),
        ("lines", f"{summary.lines:,}"),
        ("functions", f"{summary.functions:,}"),
        ("classes", f"{summary.classes:,}"),
        ("links to folders, not followed", f"{links:,}" if links else ""),
        ("time", seconds_text((finished - started).total_seconds()) if started and finished else ""),
        ("files per second", f"{outcome.fingerprints.rate:,.0f}" if outcome.fingerprints.rate else ""),
        ("database", str(outcome.database)),
    ):
        if value:
            table.add_row(cell(name), cell(value))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, column in enumerate(columns):
        table.add_column(cell(column), justify="right" if number else "left")
    return table
