"""The worker: takes what is due, runs it, and sleeps until there is more."""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final, Self

from taskloom.errors import StoreError, WiringError
from taskloom.events.registry import Registry
from taskloom.execution.attempt import Attempt, Attempts, Interruption
from taskloom.execution.dispatch import Dispatcher
from taskloom.execution.fan_out import FanOuts
from taskloom.execution.heart import Heart
from taskloom.execution.single import SingleTasks
from taskloom.execution.slots import Slots
from taskloom.execution.threads import HandlerThreads
from taskloom.model import Kind
from taskloom.ports import Backend, Delivery, MessageKind, StepOutcome

LOOK_ANYWAY: Final = timedelta(seconds=5)
"""Signals may be lost: how long a worker trusts that nobody sent one."""
FIRST_PAUSE: Final = timedelta(milliseconds=100)
LONGEST_PAUSE: Final = timedelta(seconds=60)

log = logging.getLogger(__name__)


class Worker:
    """Runs the tasks of one module in the running event loop, *concurrency* handlers at a time.

    `async with` starts it; at the end it claims nothing more, lets running handlers finish for *grace*, and gives the
    rest back, to be run by another worker at once. Several workers, in one process or in many, may share a database.
    """

    def __init__(
        self,
        backend: Backend,
        registry: Registry,
        *,
        concurrency: int,
        task_types: frozenset[str] | None,
        lease: timedelta,
        grace: timedelta,
    ) -> None:
        if not registry.serves_anything:
            raise WiringError(
                "this module runs no task: give it a task_queue_event_factory, or functions decorated with "
                "module.task or module.step_function_task"
            )
        self._backend = backend
        self._registry = registry
        self._task_types = task_types
        self._lease = lease
        self._grace = grace
        self.name = f"{socket.gethostname()}/{os.getpid()}/{backend.ids.token()[:6]}"
        """Stands in the history of the tasks that it runs."""
        self._slots = Slots(concurrency)
        self._concurrency = concurrency
        self._threads = HandlerThreads("taskloom-handler")
        self._heart = Heart(backend, lease, _claim_lost)
        self._attempts = Attempts(backend, registry, self._heart, self._threads, self.name)
        self._dispatcher = Dispatcher(backend, registry, self._attempts.call, self.name)
        self._single = SingleTasks(backend, registry, self._attempts, lease, self.name)
        self._fan_outs = FanOuts(
            backend,
            registry,
            self._attempts,
            lease,
            self.name,
            may_start=lambda: not self._stopping.is_set(),
            slots=self._slots,
        )
        self._stopping = asyncio.Event()
        self._stream_work = asyncio.Event()
        self._queue_work = asyncio.Event()
        self._idle = asyncio.Event()
        self._waiting = {"stream": False, "queue": False}
        self._running: set[asyncio.Task[None]] = set()
        self._pumps: list[asyncio.Task[None]] = []
        self._end_signals: Callable[[], None] | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()

        def work() -> None:
            try:
                loop.call_soon_threadsafe(self._work)
            except RuntimeError:
                log.debug("the loop of the worker is closed")

        self._end_signals = self._backend.signals.on_work(work)
        self._heart.start()
        self._pumps = [
            asyncio.create_task(self._pump("stream", self._stream_work, self._dispatch, self._stream_due)),
            asyncio.create_task(self._pump("queue", self._queue_work, self._receive, self._queue_due)),
        ]
        log.info("the worker starts", extra={"worker": self.name, "concurrency": self._concurrency})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        try:
            await self._finish()
        finally:
            if self._end_signals is not None:
                self._end_signals()
            # Not in the executor of the loop, which handlers may have filled for good.
            await self._threads.run(self._heart.stop)
            log.info("the worker ends", extra={"worker": self.name})

    def stop(self) -> None:
        """Claim nothing more; `async with` then ends as soon as the running handlers do, or the grace time is over."""
        self._stopping.set()
        self._work()
        self._slots.nudge()

    async def run(self) -> None:
        """Work until `stop` is called."""
        stopped = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([stopped, *self._pumps], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        self._raise_broken()

    async def drain(self) -> None:
        """Work until nothing is due any more: nothing is queued for this worker, and none of its handlers runs.

        What waits for its next attempt, or runs in another worker, is not waited for.
        """
        while not self._stopping.is_set():
            idle = asyncio.create_task(self._idle.wait())
            await asyncio.wait([idle, *self._pumps], return_when=asyncio.FIRST_COMPLETED)
            idle.cancel()
            self._raise_broken()
            # Looked at again afterwards: a message may have been taken while the storage was asked.
            if self._idle.is_set() and not await self._anything_due() and self._idle.is_set():
                return
            self._work()

    def _raise_broken(self) -> None:
        for pump in self._pumps:
            if pump.done() and not self._stopping.is_set():
                pump.result()

    async def _anything_due(self) -> bool:
        due = [await self._stream_due(), await self._queue_due()]
        now = self._backend.clock.now()  # read last: what became due meanwhile is due
        return any(at is not None and at <= now for at in due)

    def _work(self) -> None:
        self._idle.clear()
        self._waiting = {"stream": False, "queue": False}
        self._stream_work.set()
        self._queue_work.set()

    def _stream_due(self) -> Awaitable[datetime | None]:
        return self._backend.stream.next_due()

    def _queue_due(self) -> Awaitable[datetime | None]:
        return self._backend.queue.next_due(self._registry.served(self._task_types))

    async def _pump(
        self,
        name: str,
        work: asyncio.Event,
        take: Callable[[], Awaitable[int]],
        next_due: Callable[[], Awaitable[datetime | None]],
    ) -> None:
        """Take what is there until nothing is, then wait for a signal or for what is due next."""
        clock, failures = self._backend.clock, 0
        while not self._stopping.is_set():
            work.clear()
            try:
                if await take():
                    failures = 0
                    continue
                due = await next_due()
                failures = 0
            except StoreError as error:
                failures += 1
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failures, 12))
                log.warning("the storage fails; trying again", extra={"error": str(error), "in": str(pause)})
                await clock.wait(self._stopping, clock.now() + pause)
                continue
            if not work.is_set():
                self._waiting[name] = True
                self._check_idle()
            until = clock.now() + LOOK_ANYWAY
            await clock.wait(work, until if due is None else min(until, due))
            self._waiting[name] = False
            self._idle.clear()

    def _check_idle(self) -> None:
        if all(self._waiting.values()) and not self._running:
            self._idle.set()

    async def _dispatch(self) -> int:
        return await self._dispatcher.dispatch()

    async def _receive(self) -> int:
        # Taken before the queue answers, so that nobody else takes them meanwhile.
        wanted = await self._slots.take_all_unless(self._stopping.is_set)
        if not wanted:
            return 0
        served = self._registry.served(self._task_types)
        visible_at = self._backend.clock.now() + self._lease
        deliveries: Sequence[Delivery] = ()
        try:
            deliveries = await self._backend.queue.receive(served, wanted, visible_at=visible_at)
        finally:
            self._slots.give_back(wanted - len(deliveries))
        for delivery in deliveries:
            self._heart.hold(delivery.receipt)
            task = asyncio.create_task(self._deliver(delivery))
            self._running.add(task)
            task.add_done_callback(self._done)
        return len(deliveries)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._check_idle()
        if not task.cancelled() and task.exception() is not None:
            log.error("a delivery failed; its message comes again", exc_info=task.exception())

    async def _deliver(self, delivery: Delivery) -> None:
        queue, clock = self._backend.queue, self._backend.clock
        slot = _Slot(self._slots.give_back)
        try:
            again_at: datetime | None = None
            outcome: StepOutcome | None = None
            if self._stopping.is_set():  # the queue answered after the worker was asked to stop
                again_at = clock.now()
            elif delivery.kind is MessageKind.TASK:
                again_at = await self._task(delivery)
            else:
                outcome = await self._fan_outs.step(delivery)
                again_at = clock.now() if outcome is None else None
            # Whoever waits for the slot need not wait for the message to be gone.
            slot.give_back()
            self._heart.let_go(delivery.receipt)
            if outcome is not None:
                await self._backend.machine.report(delivery, outcome)
            elif again_at is None:
                await queue.delete(delivery.receipt)
            else:
                await queue.release(delivery.receipt, again_at)
        except StoreError as error:
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(delivery.received, 12))
            log.warning(
                "the storage fails; the message comes again",
                extra={"task": delivery.key.id, "error": str(error), "in": str(pause)},
            )
            await queue.release(delivery.receipt, clock.now() + pause)
        finally:
            slot.give_back()
            self._heart.let_go(delivery.receipt)

    async def _task(self, delivery: Delivery) -> datetime | None:
        if delivery.task_kind is Kind.SFN_TASK:
            return await self._fan_outs.start(delivery)
        return await self._single.handle(delivery)

    async def _finish(self) -> None:
        await asyncio.gather(*self._pumps, return_exceptions=True)
        if not self._running:
            return
        over = asyncio.Event()
        waiting = asyncio.gather(*self._running, return_exceptions=True)
        waiting.add_done_callback(lambda _: over.set())
        if not await self._backend.clock.wait(over, self._backend.clock.now() + self._grace):
            log.warning("the grace time is over; giving back", extra={"running": len(self._running)})
            self._attempts.interrupt_all(Interruption.STOPPED)
            await waiting


class _Slot:
    """The right to run one handler, given back once."""

    def __init__(self, free: Callable[[], None]) -> None:
        self._free: Callable[[], None] | None = free

    def give_back(self) -> None:
        if self._free is not None:
            free, self._free = self._free, None
            free()


def _claim_lost(attempt: Attempt) -> None:
    attempt.interrupt(Interruption.CLAIM_LOST)
