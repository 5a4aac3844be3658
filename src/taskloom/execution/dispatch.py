"""From the change stream to the task queue."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from taskloom import lifecycle
from taskloom.events.registry import Call, Registry
from taskloom.events.service import EventService, Interrupted
from taskloom.execution.failures import reason
from taskloom.execution.writes import patiently, write
from taskloom.model import Failure
from taskloom.ports import Backend, StreamFailure, StreamRecord, TaskMessage

BATCH: Final = 100
FORWARD: Final = 500
MAX_FAILURES: Final = 5
"""How often a record may fail in the application's event factory before it is put with the dead letters."""
FIRST_RETRY: Final = timedelta(seconds=1)
TAKEN_FOR: Final = timedelta(seconds=60)

log = logging.getLogger(__name__)


class Dispatcher:
    """Turns records of the change stream into task messages, for one worker."""

    def __init__(self, backend: Backend, registry: Registry, call: Call, by: str) -> None:
        self._backend = backend
        self._events = EventService(backend, registry)
        self._watched = registry.watches_stream
        self._call = call
        self._by = by

    def interrupt(self) -> None:
        """End what waits for the event factory; its records come again."""
        self._events.interrupt()

    async def dispatch(self) -> bool:
        """Take a batch of records and settle it; whether there may be more.

        Raises: StoreError; they come again then.
        """
        clock, stream = self._backend.clock, self._backend.stream
        if not self._watched:
            return await stream.forward(FORWARD) == FORWARD
        records = await stream.take(BATCH, again_at=clock.now() + TAKEN_FOR)
        if not records:
            return False
        done: list[tuple[int, TaskMessage | None]] = []
        failures: list[StreamFailure] = []
        for record, outcome in zip(records, await self._outcomes(records), strict=True):
            if isinstance(outcome, Interrupted):
                continue  # the record comes again
            if isinstance(outcome, BaseException):
                failure = self._failure(record, outcome, clock.now())
                failures.append(failure)
                if failure.retry_at is None:
                    # rule 1: before the record is gone, so that a crash in between leaves no task without an end.
                    await self._reject(record, f"the event factory failed {MAX_FAILURES} times: {failure.reason}")
                continue
            if outcome is None:
                await self._reject(record, "the event factory returned no event for this task")
            done.append((record.sequence, outcome))
        await patiently(clock, lambda: stream.settle(done, failures))
        return len(records) == BATCH

    async def _outcomes(self, records: Sequence[StreamRecord]) -> Sequence[TaskMessage | BaseException | None]:
        # Each record on its own: one that fails fails alone.
        return await asyncio.gather(
            *(self._events.message(record, self._call) for record in records), return_exceptions=True
        )

    def _failure(self, record: StreamRecord, error: BaseException, now: datetime) -> StreamFailure:
        log.warning(
            "the event factory failed",
            extra={"task": record.image.id, "failures": record.failures + 1},
            exc_info=error,
        )
        last = record.failures + 1 >= MAX_FAILURES
        return StreamFailure(
            sequence=record.sequence,
            failures=record.failures,
            reason=reason(error),
            retry_at=None if last else now + FIRST_RETRY * 2**record.failures,
        )

    async def _reject(self, record: StreamRecord, why: str) -> None:
        """Nothing will ever run the task, so it must not wait for ever."""
        await write(
            self._backend,
            lifecycle.rejected(
                record.image,
                Failure(type="EventFactory", message=why),
                now=self._backend.clock.now(),
                by=self._by,
                claim_id=self._backend.ids.token(),
            ),
        )
