"""The context of the running handler, as a context variable: it follows the handler into threads and tasks."""

from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final

from taskloom.errors import NotRunning
from taskloom.model import Progress, TaskEntity
from taskloom.policy import number
from taskloom.values import check_text


class RunContext:
    """One attempt while it runs. Methods are plain calls, from any thread."""

    __slots__ = ("_on_progress", "cancelled", "event", "latest", "task")

    def __init__(
        self, task: TaskEntity[Any], event: object = None, on_progress: Callable[["RunContext"], None] | None = None
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


CURRENT: Final[ContextVar[RunContext]] = ContextVar("taskloom.current")


def current() -> RunContext:
    """The context of the handler that calls, directly or from further down.

    Raises: NotRunning outside of a handler.
    """
    try:
        return CURRENT.get()
    except LookupError:
        raise NotRunning("no task runs here; current() is for handlers and what they call") from None
