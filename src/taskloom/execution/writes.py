"""Conditional writes with what every one of them needs: patience, and recognising one's own."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final, TypeVar

from taskloom.errors import StoreError
from taskloom.lifecycle import Change, Refused, Written, is_mine
from taskloom.ports import Backend, Clock

ResultT = TypeVar("ResultT")

ATTEMPTS: Final = 6
FIRST_PAUSE: Final = timedelta(milliseconds=50)

log = logging.getLogger(__name__)


async def write(backend: Backend, change: Change) -> Written | Refused:
    """Carry out *change*; one that is refused because it had been carried out before counts as written (rule 2)."""
    return _settled(change, await patiently(backend.clock, lambda: backend.store.update(change)))


async def write_many(backend: Backend, changes: Sequence[Change]) -> Sequence[Written | Refused]:
    """Like `write` for each of *changes*, in order."""
    if len(changes) == 1:
        outcomes: Sequence[Written | Refused] = [
            await patiently(backend.clock, lambda: backend.store.update(changes[0]))
        ]
    else:
        outcomes = await patiently(backend.clock, lambda: backend.store.update_many(changes))
    return [_settled(change, outcome) for change, outcome in zip(changes, outcomes, strict=True)]


def _settled(change: Change, outcome: Written | Refused) -> Written | Refused:
    if isinstance(outcome, Refused) and outcome.current is not None and is_mine(change, outcome):
        return Written(outcome.current)
    return outcome


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
