"""What a handler does once and for all: steps, sleeps, callbacks."""

import asyncio
import inspect
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

from taskloom import lifecycle
from taskloom.errors import (
    CallbackFailed,
    CallbackTimeout,
    ClaimLost,
    InvalidInput,
    InvalidType,
    NotRunning,
    Suspend,
)
from taskloom.policy import MAX_SECONDS, number
from taskloom.ports import Answer, Step, StepKind
from taskloom.record import time_text
from taskloom.values import Json, check_text, decode, encode

if TYPE_CHECKING:
    from taskloom.events.context import RunContext

MAX_NAME: Final = 128
LOOK_AGAIN: Final = timedelta(days=7)
"""How often a task looks by itself that waits for a callback without a timeout."""


class Keeps(Protocol):
    """Keeps what handlers do once and for all."""

    def now(self) -> datetime:
        """The time."""

    def new_id(self) -> str:
        """A new `Step.write_id`."""

    async def get(self, run: "RunContext", kind: StepKind, name: str) -> Step | None:
        """What is kept under this name of the task that runs."""

    async def find(self, token: str) -> Step | None:
        """The callback with this token, of whatever task."""

    async def put(self, run: "RunContext", step: Step) -> Step:
        """Keep *step*; or what is kept already in its place. Raises: ClaimLost."""

    async def value(self, step: Step) -> Json:
        """What came of it."""

    async def call(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What *function* returns: an `async def` is awaited, a `def` is called in a thread."""


async def step(
    run: "RunContext", name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Json:
    """See `RunContext.step`."""
    _begin(run, StepKind.STEP, name)
    saves = run.saves
    if saves is None:
        result: Json = function(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result
    kept = await saves.get(run, StepKind.STEP, name)
    if kept is not None:
        return await saves.value(kept)
    return await _record(run, saves, name, await saves.call(function, args, kwargs))


def step_sync(
    run: "RunContext", name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Json:
    """The same for `def` handlers: a `def` is called in the thread of the handler."""
    _begin(run, StepKind.STEP, name)
    saves = run.saves
    if saves is None:
        result: Json = function(*args, **kwargs)
        return asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result
    kept = saves.blocking(saves.get(run, StepKind.STEP, name))
    if kept is not None:
        return saves.blocking(saves.value(kept))
    result = function(*args, **kwargs)
    if inspect.isawaitable(result):
        result = saves.blocking(_awaited(result))
    return saves.blocking(_record(run, saves, name, result))


async def sleep(run: "RunContext", seconds: float, name: str | None) -> None:
    """See `RunContext.sleep`."""
    number(seconds, "seconds", low=0, high=MAX_SECONDS)
    run.sleeps += 1
    name = f"#{run.sleeps}" if name is None else name
    _begin(run, StepKind.SLEEP, name)
    saves = run.saves
    if saves is None:
        return
    kept = await saves.get(run, StepKind.SLEEP, name)
    if kept is None:
        until = saves.now() + timedelta(seconds=seconds)
        kept = await _own(run, saves, replace(_new(run, saves, StepKind.SLEEP, name), until=until))
    over = kept.until or kept.at
    if over > saves.now():
        raise Suspend(over, reason=lifecycle.sleeps(time_text(over)))


async def callback(run: "RunContext", name: str) -> str:
    """See `RunContext.callback`."""
    _begin(run, StepKind.CALLBACK, name)
    saves = run.saves
    if saves is None:
        return secrets.token_urlsafe(32)
    kept = await saves.get(run, StepKind.CALLBACK, name)
    if kept is None or not _counts(run, kept):
        version = 1 if kept is None else kept.version + 1
        fresh = replace(
            _new(run, saves, StepKind.CALLBACK, name), version=version, token=secrets.token_urlsafe(32)
        )  # 256 bits
        kept = await _own(run, saves, fresh)
    return kept.token or ""


async def wait_for(run: "RunContext", token: str, timeout: float | None) -> Json:
    """See `RunContext.wait_for`."""
    if not isinstance(token, str):
        raise InvalidType("token", f"{token!r} is no string", "give what event.callback returned")
    if timeout is not None:
        number(timeout, "timeout", low=0, high=MAX_SECONDS)
    saves = run.saves
    if saves is None:
        raise NotRunning("outside of a run nobody answers; in a unit test give the handler another event")
    kept = await saves.find(token)
    if kept is None or kept.key != run.task.key or not _counts(run, kept):  # rule 7: of another task is of none
        raise InvalidInput("token", "is no token of this task", "give what event.callback returned in this run")
    while kept.answer is None:
        if kept.until is None and timeout is not None:
            changed = replace(kept, until=saves.now() + timedelta(seconds=timeout))
        elif kept.until is not None and kept.until <= saves.now():
            changed = replace(kept, answer=Answer.TIMED_OUT)
        else:
            until = None if kept.until is None else time_text(kept.until)
            raise Suspend(
                kept.until or saves.now() + LOOK_AGAIN, reason=lifecycle.waits(kept.name, until), callback=kept.name
            )
        # An answer that comes meanwhile is kept in its place.
        kept = await saves.put(run, replace(changed, version=kept.version + 1, write_id=saves.new_id()))
    match kept.answer:
        case Answer.RESUMED:
            return await saves.value(kept)
        case Answer.FAILED:
            raise CallbackFailed(kept.name, str(await saves.value(kept)))
        case Answer.TIMED_OUT:
            raise CallbackTimeout(kept.name)


def _begin(run: "RunContext", kind: StepKind, name: str) -> None:
    if not isinstance(name, str):
        raise InvalidType("name", f"{name!r} is no string", "give a short text")
    if not 0 < len(name) <= MAX_NAME:
        raise InvalidInput("name", f"has {len(name)} characters", f"give 1 to {MAX_NAME}")
    check_text(name, "name")
    if (kind, name) in run.names:
        raise InvalidInput("name", f"{name!r} is the name of another {kind} of this task", "give each its own")
    run.names.add((kind, name))


def _counts(run: "RunContext", kept: Step) -> bool:
    """Whether the callback goes on: that of an earlier run only with a good answer."""
    return kept.run == run.task.run or kept.answer is Answer.RESUMED


def _new(run: "RunContext", saves: Keeps, kind: StepKind, name: str) -> Step:
    return Step(key=run.task.key, kind=kind, name=name, write_id=saves.new_id(), run=run.task.run, at=saves.now())


async def _record(run: "RunContext", saves: Keeps, name: str, result: Any) -> Json:
    text = encode(result, f"step {name!r}")
    await _own(run, saves, replace(_new(run, saves, StepKind.STEP, name), result=text))
    return decode(text)  # type: ignore[no-any-return]  # what a later slice gets, too


async def _own(run: "RunContext", saves: Keeps, fresh: Step) -> Step:
    kept = await saves.put(run, fresh)
    if kept.write_id != fresh.write_id:  # rule 2: by whoever has the task now
        raise ClaimLost(f"{run.task.id} was claimed again since: nothing was saved")
    return kept


async def _awaited(result: Awaitable[Json]) -> Json:
    return await result
