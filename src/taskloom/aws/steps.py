"""The steps of the state machine: what its function is asked, and what it answers.

A chunk answers 0 when it is done, else with its number and when to look at it again. Collect takes the whole state of
the machine and answers with the next one; so does Finalize, which answers with nothing when the fan-out has ended.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from taskloom.aws.invocation import Invocation
from taskloom.aws.state_machine import input_of
from taskloom.errors import InvalidInput, StoreError
from taskloom.execution.quarantine import LOOK_AGAIN
from taskloom.model import Kind, TaskEntity, TaskKey
from taskloom.policy import chunk_range
from taskloom.ports import Delivery, MessageKind, Receipt, StepOutcome
from taskloom.record import time_text
from taskloom.values import Json

CHUNK: Final = "chunk"
COLLECT: Final = "collect"
FINALIZE: Final = "finalize"
MAX_STALLS: Final = 5
"""How often the function may fail for a chunk, in a row, without anything of the chunk having changed."""
LOOKED_AT: Final = 3
"""Chunks by which it is told whether anything changed."""
LONGEST_PAUSE: Final = timedelta(seconds=60)

log = logging.getLogger(__name__)


async def chunk(event: Mapping[str, Any], invocation: Invocation) -> Json:
    """Run a chunk; see above."""
    number = int(event["chunk"])
    clock = invocation.backend.clock
    delivery = _delivery(MessageKind.CHUNK, TaskKey(event["pk"], event["sk"]), int(event["run"]), number)
    try:
        outcome: StepOutcome | None = await invocation.step(delivery)
    except StoreError as error:
        if not error.retryable:
            raise
        log.warning("the storage fails; the chunk comes again", extra={"task": delivery.key.id, "chunk": number})
        return [number, _seconds(clock.now() + LOOK_AGAIN)]
    if outcome is None:  # there was no time left; what has not run is run in the next pass
        return [number, _seconds(clock.now())]
    return 0 if outcome.again_at is None else [number, _seconds(outcome.again_at)]


async def collect(state: Mapping[str, Any], invocation: Invocation) -> dict[str, Json]:
    """The next state: what is left to be run, and from when on."""
    facts = input_of(state)
    outcome: StepOutcome = await invocation.step(_delivery(MessageKind.COLLECT, facts.key, facts.run, None))
    if not outcome.left:
        return _state(state, todo=[])
    waits: dict[int, int] = dict(filter(_is_wait, state.get("answers") or ()))
    crashed = [chunk for chunk in outcome.left if chunk not in waits]
    times = [waits[chunk] for chunk in outcome.left if chunk in waits]
    stalls, mark = 0, None
    now = invocation.backend.clock.now()
    if crashed:
        mark = await _mark(facts.key, crashed[:LOOKED_AT], invocation)
        stalls = state.get("stalls", 0) + 1 if mark == state.get("mark") else 0
        if stalls >= MAX_STALLS:
            log.error("chunks crash again and again", extra={"task": facts.key.id, "chunks": crashed[:100]})
            return _state(
                state, todo=[], broken=f"its function failed {stalls + 1} times in a row for chunk {crashed[0]}"
            )
        times.append(math.ceil((now + min(LONGEST_PAUSE, LOOK_AGAIN * 2**stalls)).timestamp()))
    until = datetime.fromtimestamp(min(times), now.tzinfo)
    return _state(state, todo=list(outcome.left), until=time_text(until), stalls=stalls, mark=mark)


async def finalize(state: Mapping[str, Any], invocation: Invocation) -> dict[str, Json]:
    """End the fan-out; the next state when something is left all the same, else nothing."""
    facts = input_of(state)
    if state.get("broken"):
        parent = await invocation.backend.store.get(facts.key)
        if parent is not None and not parent.is_terminal and parent.run == facts.run:
            await invocation.fan_outs.give_up(parent, str(state["broken"]))
        return {}
    outcome: StepOutcome = await invocation.step(_delivery(MessageKind.FINALIZE, facts.key, facts.run, None))
    if not outcome.left:
        return {}
    return _state(state, todo=list(outcome.left), until=time_text(invocation.backend.clock.now()))


def key_of(event: Mapping[str, Any]) -> TaskKey:
    """The fan-out of a step. Raises: InvalidInput."""
    state = event.get("state", event)
    try:
        return TaskKey(state["pk"], state["sk"])
    except (KeyError, TypeError) as error:
        problem = f"is not one of the state machine: {error!r}"
        raise InvalidInput("event", problem, "use the definition that comes with the package") from error


def _delivery(kind: MessageKind, key: TaskKey, run: int, chunk: int | None) -> Delivery:
    return Delivery(
        receipt=Receipt(id="", count=1),
        kind=kind,
        message_id="",
        event_id="",
        key=key,
        task_kind=Kind.SFN_TASK,
        task_type=key.parts.task_type,
        run=run,
        chunk=chunk,
    )


def _state(state: Mapping[str, Any], **changed: Any) -> dict[str, Json]:
    kept = {name: state[name] for name in ("pk", "sk", "run", "count", "atOnce")}
    return kept | {name: value for name, value in changed.items() if value not in (None, 0)}


def _is_wait(answer: object) -> bool:
    return isinstance(answer, (list, tuple)) and len(answer) == 2


async def _mark(key: TaskKey, chunks: Sequence[int], invocation: Invocation) -> str:
    """Changes with every write of a sub-task of *chunks*."""
    store = invocation.backend.store
    parent: TaskEntity[Any] | None = await store.get(key)
    if parent is None or parent.fan_out is None:
        return ""
    count, versions = parent.attributes.sub_task_count or 0, 0
    for chunk in chunks:
        found = await store.list_sub_tasks(key, chunk_range(chunk, count, parent.fan_out.chunk_size))
        versions += sum(task.version + 1 for task in found)
    return f"{chunks[0]}:{versions}"


def _seconds(at: datetime) -> int:
    return math.ceil(at.timestamp())  # not before it
