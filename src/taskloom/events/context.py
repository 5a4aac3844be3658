"""The context of the running handler, as a context variable: it follows the handler into threads and tasks."""

import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final

from taskloom.errors import NotRunning
from taskloom.events.log_lines import LogBuffer, LogKeeping, line_of
from taskloom.events.task_log import TaskLog
from taskloom.model import Progress, TaskEntity
from taskloom.policy import number
from taskloom.ports import LogBatch
from taskloom.values import check_text


class RunContext:
    """One attempt while it runs. Methods are plain calls, from any thread."""

    __slots__ = ("_keeping", "_lines", "_log", "_on_progress", "cancelled", "event", "latest", "task")

    def __init__(
        self,
        task: TaskEntity[Any],
        event: object = None,
        on_progress: Callable[["RunContext"], None] | None = None,
        keeping: LogKeeping | None = None,
    ) -> None:
        self.task = task
        """The task or sub-task that runs, as it was claimed."""
        self.event = event
        """What the task queue event factory got; events that it makes by hand look things up here."""
        self.cancelled = False
        """Whether the attempt is over although the handler still runs: its worker stops, its time is up, or its claim
        is lost. An async handler gets CancelledError; a thread cannot be stopped, so its handler may look here."""
        self._on_progress = on_progress
        self.latest: Progress | None = None
        """The last progress that the handler reported in this attempt."""
        self._keeping = keeping
        self._lines: LogBuffer | None = None
        self._log: TaskLog | None = None

    @property
    def attempt(self) -> int:
        """Which try within the run this is, from 1."""
        return self.task.attempt

    @property
    def lease_until(self) -> datetime | None:
        """Until when the claim held when it was made; a worker renews it."""
        return self.task.lease_until

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the handler is. Cheap: written at most once a second, and the last one with the end.

        Raises: InvalidInput or InvalidType when *done* or *total* is no number ≥ 0.
        """
        number(done, "progress.done", low=0, high=1e15)
        if total is not None:
            number(total, "progress.total", low=0, high=1e15)
        if message is not None:
            message = str(message)[:1000]
            check_text(message, "progress.message")
        self.latest = Progress(done=done, total=total, message=message)
        if self._on_progress is not None:
            self._on_progress(self)

    @property
    def log(self) -> TaskLog:
        """A logger whose lines are kept with the task: see `TaskService.logs`."""
        if self._log is None:
            # What runs goes first: whoever kept the log of an attempt that is over still logs for the one that runs.
            # In a thread that the handler started by hand nothing does, but the log may have been passed on to it.
            self._log = TaskLog(lambda: CURRENT.get(self))
        return self._log

    def keeps(self, level: int) -> bool:
        """Whether log lines of this level are kept."""
        keeping = self._keeping  # once: the attempt may end in another thread
        return keeping is not None and level >= keeping.level

    def keep(self, record: logging.LogRecord, extra: Mapping[Any, Any]) -> None:
        """Keep a log line, with the fields *extra*, until it is stored."""
        keeping = self._keeping
        if keeping is None:
            return
        if self._lines is None:
            with keeping.lock:
                if self._lines is None:
                    self._lines = LogBuffer()
        self._lines.add(line_of(record, extra, keeping, self.task))

    @property
    def lines(self) -> LogBuffer | None:
        """Log lines that are not stored yet; None while nothing was logged."""
        return self._lines

    def end_log(self) -> LogBatch | None:
        """Keep no more lines; what is left to be stored."""
        self._keeping = None
        return None if self._lines is None else self._lines.batch(self.task)


CURRENT: Final[ContextVar[RunContext]] = ContextVar("taskloom.current")


def current() -> RunContext:
    """The context of the handler that calls, directly or from further down.

    Raises: NotRunning outside of a handler.
    """
    try:
        return CURRENT.get()
    except LookupError:
        raise NotRunning("no task runs here; current() is for handlers and what they call") from None
