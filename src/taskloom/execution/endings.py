"""The ends of attempts of single tasks, and their messages."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from taskloom.errors import StoreError
from taskloom.execution.log_writer import LogWriter
from taskloom.execution.writes import again_at, write_many
from taskloom.lifecycle import Change, Refused, Written
from taskloom.model import TaskStatus
from taskloom.ports import Backend, Delivery, Receipt

FIRST_PAUSE: Final = timedelta(milliseconds=100)
LONGEST_PAUSE: Final = timedelta(seconds=60)

log = logging.getLogger(__name__)


class _Ending(NamedTuple):
    delivery: Delivery
    change: Change
    holder: object


class _Settlement(NamedTuple):
    receipt: Receipt
    again_at: datetime | None


class Endings:
    """Writes what ends attempts, and only then settles their messages: all that are there at a time in one go.

    A message must outlive the write that makes it needless (rule 1: a task that is not terminal has a message).
    """

    def __init__(
        self,
        backend: Backend,
        let_go: Callable[[Receipt], None],
        leave: Callable[[object], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        logs: LogWriter,
    ) -> None:
        self._backend = backend
        self._logs = logs
        self._let_go = let_go
        self._leave = leave
        self._spawn = spawn
        self._endings: list[_Ending] = []
        self._settlements: list[_Settlement] = []
        self._busy = False

    def end(self, delivery: Delivery, change: Change, holder: object) -> None:
        """Write *change*, then settle the message, and let *holder* leave the quarantine."""
        self._endings.append(_Ending(delivery, change, holder))
        self._start()

    def settle(self, delivery: Delivery, again_at: datetime | None) -> None:
        """The message is done with, or is to come again at *again_at*."""
        self._let_go(delivery.receipt)
        self._settlements.append(_Settlement(delivery.receipt, again_at))
        self._start()

    def postpone(self, delivery: Delivery, error: StoreError) -> None:
        """The storage failed: the message comes again, later each time."""
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(delivery.received, 12))
        log.warning(
            "the storage fails; the message comes again",
            extra={"task": delivery.key.id, "error": str(error), "in": str(pause)},
        )
        self.settle(delivery, self._backend.clock.now() + pause)

    def _start(self) -> None:
        if not self._busy:
            self._busy = True
            self._spawn(self._work())

    async def _work(self) -> None:
        try:
            while self._endings or self._settlements:
                endings, self._endings = self._endings, []
                settlements, self._settlements = self._settlements, []
                # Together: what is given to the storage at the same time shares a commit.
                await asyncio.gather(self._write(endings), self._settle(settlements))
        finally:
            self._busy = False
            if self._endings or self._settlements:  # what came while this broke off
                self._start()

    async def _write(self, endings: Sequence[_Ending]) -> None:
        if not endings:
            return
        try:
            outcomes = await self._logs.beside(write_many(self._backend, [ending.change for ending in endings]))
        except StoreError as error:
            if len(endings) == 1:
                self._leave(endings[0].holder)
                self.postpone(endings[0].delivery, error)
                return
            for ending in endings:  # one that cannot be written fails alone
                await self._write([ending])
            return
        except BaseException:
            for ending in endings:
                self._leave(ending.holder)
                self._let_go(ending.delivery.receipt)
            raise
        for ending, outcome in zip(endings, outcomes, strict=True):
            self._leave(ending.holder)
            self.settle(ending.delivery, self._again_at(ending.change, outcome))

    def _again_at(self, change: Change, outcome: Written | Refused) -> datetime | None:
        status = change.patch["status"]
        if isinstance(outcome, Refused):
            # rule 2: whoever lost its claim loses its result too.
            extra = {"task": change.key.id, "status": str(status)}
            log.warning("the claim was lost; its result is dropped", extra=extra)
        elif status is TaskStatus.PENDING:
            return again_at(change, outcome, self._backend.clock.now())
        return None

    async def _settle(self, settlements: Sequence[_Settlement]) -> None:
        queue = self._backend.queue
        done = [settlement.receipt for settlement in settlements if settlement.again_at is None]
        calls: list[Awaitable[None]] = [queue.delete(done)] if done else []
        calls += [queue.release(receipt, again_at) for receipt, again_at in settlements if again_at is not None]
        # Each on its own: one that fails fails alone.
        await asyncio.gather(*map(self._settled, calls))

    async def _settled(self, call: Awaitable[None]) -> None:
        try:
            await call
        except StoreError as error:
            log.warning("messages could not be settled; they come again by themselves", extra={"error": str(error)})
