"""The context of the running handler, as a context variable: it follows the handler into threads and tasks."""

import logging
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final, ParamSpec, Protocol, TypeVar, overload

from taskloom.clock import EPOCH
from taskloom.errors import NotRunning
from taskloom.events import resumable, steps
from taskloom.events.log_lines import LogBuffer, LogKeeping, line_of
from taskloom.events.task_log import TaskLog
from taskloom.model import Progress, TaskEntity
from taskloom.policy import number
from taskloom.ports import LogBatch, StepKind
from taskloom.values import EncodedJson, Json, check_text, decode, encode, encode_checked

ResultT = TypeVar("ResultT")
ItemT = TypeVar("ItemT")
P = ParamSpec("P")


class Saves(steps.Keeps, Protocol):
    """Keeps what a handler saves."""

    async def save(self, run: "RunContext", state: EncodedJson) -> None:
        """Keep *state* with the task that runs."""

    def blocking(self, call: Coroutine[Any, Any, ResultT]) -> ResultT:
        """What *call* returns, for a thread of a `def` handler."""


class RunContext:
    """One attempt while it runs. Methods are plain calls, from any thread."""

    __slots__ = (
        *("_keeping", "_lines", "_log", "_on_progress"),
        *("has_saved", "longest_item", "loops", "margin", "names", "positions", "saves", "sleeps", "state", "until"),
        *("cancelled", "event", "latest", "task"),
    )

    def __init__(
        self,
        task: TaskEntity[Any],
        event: object = None,
        on_progress: Callable[["RunContext"], None] | None = None,
        saves: "Saves | None" = None,
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
        self.saves = saves
        """Where is kept what the handler saves; None outside of a run."""
        self.state, self.positions = _opened(None if task is None else task.state)
        """What the attempt or slice before saved, or this one by now; None when nothing was."""
        self.has_saved = False
        """Whether something was saved in this attempt."""
        self.longest_item = 0.0
        """Seconds that an item of a resumable loop took at most, in this slice."""
        self.loops: set[str] = set()
        """Names of the resumable loops that were begun."""
        self.names: set[tuple[StepKind, str]] = set()
        """Names of the steps, sleeps and callbacks that were begun."""
        self.sleeps = 0
        """How many of them were sleeps."""
        self.until: datetime | None = None
        """When the attempt is stopped, as far as that is known."""
        self.margin = 0.0
        """How many seconds before that a resumable loop stops by itself."""
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

    def remaining(self) -> float:
        """Seconds until the attempt is stopped: by its timeout, by the deadline of its task, or because its worker
        stops. Infinite when nothing of that is known."""
        if self.until is None or self.saves is None:
            return math.inf
        return max(0.0, (self.until - self.saves.now()).total_seconds())

    async def checkpoint(self, state: Json) -> None:
        """Save *state* for the next attempt or slice, which finds it in `state`. It is on disk when this returns.

        Raises: InvalidInput or InvalidType for what cannot be stored, or is larger than a row may be; ClaimLost when
        somebody else has the task by now; StoreError.
        """
        text = encode(state, "state")
        self.state = decode(text)
        await self.save()

    async def save(self) -> None:
        """Save the state, and how far resumable loops are."""
        if self.saves is not None:
            await self.saves.save(self, self.kept())

    def kept(self) -> EncodedJson:
        """What is saved: the state, and beside it how far resumable loops are."""
        value = {_POSITIONS: self.positions, "state": self.state} if self.positions else self.state
        return encode_checked(value)

    def now(self) -> datetime:
        """The time."""
        return EPOCH if self.saves is None else self.saves.now()

    def limit(self, until: datetime | None) -> None:
        """The attempt is stopped at *until* (None: whenever it likes)."""
        self.until = until
        if until is not None:
            self.margin = min(resumable.LONGEST_MARGIN, resumable.MARGIN * self.remaining())

    def resumable(self, items: "resumable.Items[ItemT]", name: str = "items") -> AsyncIterator[ItemT]:
        """The *items*, for `async for`, beginning with the first one that was not done in an earlier attempt or slice.

        *items* is a sequence, or a function (`def` or `async def`) from a cursor (at first None) to a page: the items,
        and the cursor of the next page (None: there is none); cursors are JSON. Before the attempt's time is up the
        loop ends the slice and goes on in another one. An item counts as done when the next one is asked for; after a
        crash the last ones may come again. Several loops of a handler need names.
        Raises: Continue, InvalidType, InvalidInput.
        """
        return resumable.resumable(self, items, name)

    @overload
    async def step(
        self, name: str, function: Callable[P, Coroutine[Any, Any, ResultT]], /, *args: P.args, **kwargs: P.kwargs
    ) -> ResultT: ...
    @overload
    async def step(
        self, name: str, function: Callable[P, ResultT], /, *args: P.args, **kwargs: P.kwargs
    ) -> ResultT: ...
    async def step(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """What `function(*args, **kwargs)` returned, as JSON: it is called once per task, whatever comes afterwards.

        An `async def` is awaited, a `def` is called in a thread. What it returned is kept with the task under *name*
        (at most 128 characters, unique among the steps of the task) before this returns, and every later attempt,
        slice and run gets it without a call. If it raises nothing is kept. Should the process die between its end and
        the record, it is called again: once per task means once recorded.
        Raises: what *function* raises; InvalidInput or InvalidType for a result that is no JSON value, or a name that
        was used before; ClaimLost when somebody else has the task by now; StoreError.
        """
        return await steps.step(self, name, function, args, kwargs)

    async def sleep(self, seconds: float, name: str | None = None) -> None:
        """Go on after *seconds*. Until then the task is PENDING and holds no worker; no attempt is counted.

        The handler is called again from its beginning then, and this returns at once. Sleeps are known by the order in
        which the handler comes to them; give them a *name* where that may change.
        Raises: Suspend; InvalidInput or InvalidType; ClaimLost; StoreError.
        """
        await steps.sleep(self, seconds, name)

    async def callback(self, name: str) -> str:
        """A token by which somebody else answers, once: see `wait_for`, `TaskService.resume` and `TaskService.fail`.

        It cannot be guessed, and is the same in every later attempt and slice. A new run gets a new one, unless this
        was answered with a result. *name* is unique among the callbacks of the task.
        Raises: InvalidInput or InvalidType; ClaimLost; StoreError.
        """
        return await steps.callback(self, name)

    async def wait_for(self, token: str, timeout: float | None = None) -> Json:
        """The output with which the callback *token* is answered. Until then the task is PENDING and holds no worker.

        The handler is called again from its beginning when the answer is there, or when *timeout* seconds are over,
        counted from the first wait (None: it waits for ever). An answer that came before is there at once.
        Raises: Suspend; CallbackFailed, when it was answered by `fail`; CallbackTimeout; InvalidInput for a token of
        another task; StoreError. The task fails for good if its handler lets CallbackFailed or CallbackTimeout pass.
        """
        return await steps.wait_for(self, token, timeout)

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


class Sync:
    """What is awaited in `async def` handlers, blocking, for `def` handlers."""

    def __init__(self, run: RunContext) -> None:
        self._run = run

    def checkpoint(self, state: Json) -> None:
        """See `RunContext.checkpoint`."""
        self._blocking(self._run.checkpoint(state))

    def save(self) -> None:
        """See `RunContext.save`."""
        if self._run.saves is not None:
            self._run.saves.blocking(self._run.save())

    def resumable(self, items: "resumable.Items[ItemT]", name: str = "items") -> Iterator[ItemT]:
        """See `RunContext.resumable`; for `for`, and without `async def` for pages."""
        return resumable.resumable_sync(self._run, items, name)

    @overload
    def step(
        self, name: str, function: Callable[P, Coroutine[Any, Any, ResultT]], /, *args: P.args, **kwargs: P.kwargs
    ) -> ResultT: ...
    @overload
    def step(self, name: str, function: Callable[P, ResultT], /, *args: P.args, **kwargs: P.kwargs) -> ResultT: ...
    def step(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """See `RunContext.step`; a `def` is called in the thread of the handler."""
        return steps.step_sync(self._run, name, function, args, kwargs)

    def sleep(self, seconds: float, name: str | None = None) -> None:
        """See `RunContext.sleep`."""
        self._blocking(self._run.sleep(seconds, name))

    def callback(self, name: str) -> str:
        """See `RunContext.callback`."""
        return self._blocking(self._run.callback(name))

    def wait_for(self, token: str, timeout: float | None = None) -> Json:
        """See `RunContext.wait_for`."""
        return self._blocking(self._run.wait_for(token, timeout))

    def _blocking(self, call: Coroutine[Any, Any, ResultT]) -> ResultT:
        saves = self._run.saves
        if saves is not None:
            return saves.blocking(call)
        try:
            call.send(None)  # outside of a run there is nothing to wait for
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        raise AssertionError("it waits, though nothing runs")


_POSITIONS: Final = "$positions"


def _opened(kept: Json) -> tuple[Json, dict[str, Json]]:
    """The state, and how far resumable loops were, of what was saved."""
    if isinstance(kept, dict) and isinstance(kept.get(_POSITIONS), dict):
        positions: Any = kept[_POSITIONS]
        return kept.get("state"), dict(positions)
    return kept, {}


CURRENT: Final[ContextVar[RunContext]] = ContextVar("taskloom.current")


def current() -> RunContext:
    """The context of the handler that calls, directly or from further down.

    Raises: NotRunning outside of a handler.
    """
    try:
        return CURRENT.get()
    except LookupError:
        raise NotRunning("no task runs here; current() is for handlers and what they call") from None
