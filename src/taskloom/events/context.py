"""The context of the running handler, as a context variable: it follows the handler into threads and tasks."""

import math
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

from taskloom.errors import NotRunning
from taskloom.model import Progress, TaskEntity
from taskloom.policy import number
from taskloom.values import EncodedJson, Json, check_text, decode, encode

ResultT = TypeVar("ResultT")


class Saves(Protocol):
    """Keeps what a handler saves."""

    def now(self) -> datetime:
        """The time."""

    async def save(self, run: "RunContext", state: EncodedJson) -> None:
        """Keep *state* with the task that runs."""

    def blocking(self, call: Coroutine[Any, Any, ResultT]) -> ResultT:
        """What *call* returns, for a thread of a `def` handler."""


class RunContext:
    """One attempt while it runs. Methods are plain calls, from any thread."""

    __slots__ = ("_on_progress", "_saves", "cancelled", "event", "latest", "state", "task", "until")

    def __init__(
        self,
        task: TaskEntity[Any],
        event: object = None,
        on_progress: Callable[["RunContext"], None] | None = None,
        saves: "Saves | None" = None,
    ) -> None:
        self.task = task
        """The task or sub-task that runs, as it was claimed."""
        self.event = event
        """What the task queue event factory got; events that it makes by hand look things up here."""
        self.cancelled = False
        """Whether the attempt is over although the handler still runs: its worker stops, its time is up, or its claim
        is lost. An async handler gets CancelledError; a thread cannot be stopped, so its handler may look here."""
        self._on_progress = on_progress
        self._saves = saves
        self.state: Json = None if task is None else task.state
        """What the attempt or slice before saved, or this one by now; None when nothing was."""
        self.until: datetime | None = None
        """When the attempt is stopped, as far as that is known."""
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

    def remaining(self) -> float:
        """Seconds until the attempt is stopped: by its timeout, by the deadline of its task, or because its worker
        stops. Infinite when nothing of that is known."""
        if self.until is None or self._saves is None:
            return math.inf
        return max(0.0, (self.until - self._saves.now()).total_seconds())

    async def checkpoint(self, state: Json) -> None:
        """Save *state* for the next attempt or slice, which finds it in `state`. It is on disk when this returns.

        Raises: InvalidInput or InvalidType for what cannot be stored, or is larger than a row may be; ClaimLost when
        somebody else has the task by now; StoreError.
        """
        text = encode(state, "state")
        if self._saves is not None:
            await self._saves.save(self, text)
        self.state = decode(text)

    @property
    def sync(self) -> "Sync":
        """The same for `def` handlers: blocking."""
        return Sync(self)

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


class Sync:
    """What is awaited in `async def` handlers, blocking, for `def` handlers."""

    def __init__(self, run: RunContext) -> None:
        self._run = run

    def checkpoint(self, state: Json) -> None:
        """See `RunContext.checkpoint`."""
        saves = self._run._saves
        call = self._run.checkpoint(state)
        if saves is not None:
            saves.blocking(call)
            return
        with suppress(StopIteration):
            call.send(None)  # outside of a run there is nothing to wait for


CURRENT: Final[ContextVar[RunContext]] = ContextVar("taskloom.current")


def current() -> RunContext:
    """The context of the handler that calls, directly or from further down.

    Raises: NotRunning outside of a handler.
    """
    try:
        return CURRENT.get()
    except LookupError:
        raise NotRunning("no task runs here; current() is for handlers and what they call") from None
