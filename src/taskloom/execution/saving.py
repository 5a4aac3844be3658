"""What handlers save while they run: their state, and what they did once and for all."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from taskloom import lifecycle
from taskloom.errors import ClaimLost, InvalidInput
from taskloom.events.context import RunContext
from taskloom.execution.writes import patiently, write
from taskloom.lifecycle import Refused, Written
from taskloom.ports import Backend, Step, StepKind
from taskloom.values import EncodedJson, Json, decode

ResultT = TypeVar("ResultT")


class Saving:
    """`events.context.Saves` of one worker."""

    def __init__(self, backend: Backend, call: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        self._backend = backend
        self._call = call
        self._loop = asyncio.get_running_loop()

    def now(self) -> datetime:
        """See `events.context.Saves`."""
        return self._backend.clock.now()

    async def save(self, run: RunContext, state: EncodedJson) -> None:
        """See `events.context.Saves`."""
        change = lifecycle.checkpointed(run.task, fitting(state, self._backend), now=self.now())
        if isinstance(await write(self._backend, change), Refused):
            raise _lost(run)
        run.has_saved = True

    def blocking(self, call: Coroutine[Any, Any, ResultT]) -> ResultT:
        """See `events.context.Saves`."""
        if _running_loop() is self._loop:
            call.close()
            raise InvalidInput("event.sync", "would block the event loop of its worker", "await the method of event")
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    def new_id(self) -> str:
        """See `events.steps.Keeps`."""
        return self._backend.ids.token()

    async def call(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """See `events.steps.Keeps`."""
        return await self._call(function, *args, **kwargs)

    async def get(self, run: RunContext, kind: StepKind, name: str) -> Step | None:
        """See `events.steps.Keeps`."""
        steps = self._backend.steps
        return await patiently(self._backend.clock, lambda: steps.get(run.task.key, kind, name))

    async def find(self, token: str) -> Step | None:
        """See `events.steps.Keeps`."""
        return await patiently(self._backend.clock, lambda: self._backend.steps.find(token))

    async def put(self, run: RunContext, step: Step) -> Step:
        """See `events.steps.Keeps`."""
        task = run.task
        if step.result is not None:
            step = await stored(self._backend, step, f"{task.fence}")
        change = lifecycle.touched(task, now=self.now())  # rule 2: whoever lost its claim keeps nothing
        outcome = await patiently(self._backend.clock, lambda: self._backend.steps.put(step, change))
        if isinstance(outcome, Refused):
            raise _lost(run)
        return step if isinstance(outcome, Written) else outcome

    async def value(self, step: Step) -> Json:
        """See `events.steps.Keeps`."""
        text = step.result
        if text is None and step.result_ref is not None:
            reference = step.result_ref
            text = await patiently(self._backend.clock, lambda: self._backend.payloads.get(reference))
        return None if text is None else decode(text)


async def stored(backend: Backend, step: Step, mark: str) -> Step:
    """*step* with its result where it belongs: in its row, or in the payload store under a name that ends in *mark*."""
    text, limit = step.result or EncodedJson(""), backend.payloads.inline_limit
    if len(text) * 4 <= limit or len(text.encode()) <= limit:
        return step
    name = f"{step.key.id}/{step.kind}/{mark}/{step.write_id}"
    reference = await patiently(backend.clock, lambda: backend.payloads.put(name, text))
    return replace(step, result=None, result_ref=reference)


def fitting(state: EncodedJson, backend: Backend) -> EncodedJson:
    """*state*, which fits into the row of a task. Raises: InvalidInput."""
    limit, size = backend.payloads.inline_limit, len(state.encode())
    if size > limit:
        raise InvalidInput("state", f"has {size} bytes", f"save at most {limit}, and put the rest elsewhere")
    return state


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _lost(run: RunContext) -> ClaimLost:
    return ClaimLost(f"{run.task.id} was ended, or claimed again, since: nothing was saved")
