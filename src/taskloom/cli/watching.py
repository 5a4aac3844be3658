"""Watching one task until it has ended: a bar on a terminal, lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from taskloom.cli.output import visible
from taskloom.cli.views import progress_text, rate_text, seconds_text
from taskloom.model import TaskEntity, TaskKey, TaskStatus
from taskloom.service import TaskService

LOOK_EVERY: Final = 0.5
"""Seconds between two looks; the end is seen at once."""
EXPLAIN_AFTER: Final = 1.0
"""Seconds that a task may wait before the watcher is told why."""
EXPLAIN_EVERY: Final = 5.0
LINE_EVERY: Final = 5.0
"""Seconds between two lines about the progress, where there is no terminal."""


class Observer(Protocol):
    """Is told how a task stands."""

    def show(self, task: TaskEntity[Any], why: str) -> None:
        """It has not ended; *why*: what it waits for, where that is known."""


async def watch(service: TaskService, key: TaskKey, timeout: float | None, observer: Observer) -> TaskEntity[Any]:
    """The task *key* once it has ended, or as it stands after *timeout* seconds. Raises: TaskNotFound."""
    began = time.monotonic()
    until = None if timeout is None else began + timeout
    why, explain_at = "", began + EXPLAIN_AFTER
    while True:
        task, now = await service.get_task(key), time.monotonic()
        if task.is_terminal or (until is not None and now >= until):
            return task
        if task.status is not TaskStatus.PENDING:
            why = ""
        elif now >= explain_at:
            why, explain_at = (await service.explain(key)).text, now + EXPLAIN_EVERY
        observer.show(task, why)
        with suppress(TimeoutError):
            await service.wait(key, LOOK_EVERY if until is None else max(0.0, min(LOOK_EVERY, until - now)))


@contextmanager
def observer(console: Console) -> Iterator[Observer]:
    """An observer that shows on *console* how far the task is."""
    if not console.is_terminal:
        yield Lines(console)
        return
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        console=console,
        refresh_per_second=5,
        transient=True,  # what comes of the task is said afterwards
    ) as progress:
        yield Bar(progress)


class Bar:
    """A bar that moves."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar = progress.add_task("", total=None, text="")

    def show(self, task: TaskEntity[Any], why: str) -> None:
        """See `Observer`."""
        done, total = _measured(task)
        text = _text(task, why)
        self._progress.update(self._bar, description=str(task.status), completed=done, total=total, text=text)


class Lines:
    """A line when the task stands differently, and now and then about its progress."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._before: tuple[TaskStatus, str] | None = None
        self._next = 0.0

    def show(self, task: TaskEntity[Any], why: str) -> None:
        """See `Observer`."""
        now = time.monotonic()
        if (task.status, why) == self._before and now < self._next:
            return
        text = _text(task, why)
        if (task.status, why) != self._before or not why:
            self._console.print(f"{task.status}: {text}" if text else str(task.status), soft_wrap=True)
        self._before, self._next = (task.status, why), now + LINE_EVERY


def outcome_text(task: TaskEntity[Any]) -> str:
    """What became of *task*, in a line."""
    text = str(task.status) if task.is_terminal else f"still {task.status}"
    if task.is_terminal and task.started_at is not None and task.finished_at is not None:
        text += f" in {seconds_text((task.finished_at - task.started_at).total_seconds())}"
    if progress := progress_text(task):
        text += f", {progress}"
    if task.status is TaskStatus.FAILED and task.error is not None:
        text += f": {task.error.type}: {task.error.message}"
    elif task.status is TaskStatus.CANCELLED and task.history:
        last = task.history[-1]
        text += f": {last.reason}" if last.reason else ""
        text += f" (by {last.by})" if last.by else ""
    return visible(text)


def _measured(task: TaskEntity[Any]) -> tuple[float, float | None]:
    attributes = task.attributes
    if attributes.sub_task_count is not None:
        return attributes.sub_task_succeed_count + attributes.sub_task_failed_count, attributes.sub_task_count
    return (0.0, None) if task.progress is None else (task.progress.done, task.progress.total)


def _text(task: TaskEntity[Any], why: str) -> str:
    return visible(why or ", ".join(text for text in (progress_text(task), rate_text(task)) if text))
