"""Conditional writes with what every one of them needs: patience, and recognising one's own."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final, TypeVar

from taskloom.errors import StoreError
from taskloom.lifecycle import Change, Refused, Written, is_mine
from taskloom.model import TaskStatus
from taskloom.ports import Backend, Clock

ResultT = TypeVar("ResultT")

ATTEMPTS: Final = 6
FIRST_PAUSE: Final = timedelta(milliseconds=50)

log = logging.getLogger(__name__)


async def write(backend: Backend, change: Change) -> Written | Refused:
    """Carry out *change*, or what it says is to be written otherwise.

    One that is refused because it had been carried out before counts as written (rule 2).
    """
    return await _settled(backend, change, await patiently(backend.clock, lambda: backend.store.update(change)))


async def write_many(backend: Backend, changes: Sequence[Change]) -> Sequence[Written | Refused]:
    """Like `write` for each of *changes*, in order."""
    if len(changes) == 1:
        outcomes: Sequence[Written | Refused] = [
            await patiently(backend.clock, lambda: backend.store.update(changes[0]))
        ]
    else:
        outcomes = await patiently(backend.clock, lambda: backend.store.update_many(changes))
    return [
        outcome if isinstance(outcome, Written) else await _settled(backend, change, outcome)
        for change, outcome in zip(changes, outcomes, strict=True)
    ]


async def _settled(backend: Backend, change: Change, outcome: Written | Refused) -> Written | Refused:
    if isinstance(outcome, Written) or outcome.current is None:
        return outcome
    if is_mine(change, outcome):
        return Written(outcome.current)
    current, otherwise = outcome.current, change.otherwise
    if otherwise is not None and (current.status, current.fence) == (TaskStatus.IN_PROGRESS, change.guard.fence):
        return await write(backend, otherwise)
    return outcome


def again_at(change: Change, outcome: Written, now: datetime) -> datetime:
    """When the task goes on that was left PENDING by *change*, or by what was written instead."""
    if outcome.entity is not None:
        return outcome.entity.next_attempt_at or now
    return change.patch.get("next_attempt_at") or now


async def patiently(clock: Clock, call: Callable[[], Awaitable[ResultT]]) -> ResultT:
    """The result of *call*, which is made again when the storage says that this may help.

    Only for calls that may be carried out twice. Raises: StoreError when it does not help.
    """
    for attempt in range(1, ATTEMPTS):
        try:
            return await call()
        except StoreError as error:
            if not error.retryable:
                raise
            log.warning("the storage is busy; trying again", extra={"attempt": attempt, "error": str(error)})
            await clock.wait(asyncio.Event(), clock.now() + FIRST_PAUSE * 2 ** (attempt - 1))
    return await call()
