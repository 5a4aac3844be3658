"""The worker: takes what is due, runs it, and sleeps until there is more."""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from datetime import datetime, timedelta
from functools import cache
from importlib.metadata import version
from types import TracebackType
from typing import Any, Final, Protocol, Self

from taskloom.errors import StoreError, WiringError
from taskloom.events.registry import Registry
from taskloom.execution import capture
from taskloom.execution.attempt import Attempt, Attempts, Interruption
from taskloom.execution.deadlines import Deadlines
from taskloom.execution.dispatch import Dispatcher
from taskloom.execution.endings import FIRST_PAUSE, LONGEST_PAUSE, Endings
from taskloom.execution.fan_out import FanOuts
from taskloom.execution.heart import Heart
from taskloom.execution.log_writer import LogWriter
from taskloom.execution.quarantine import Quarantine
from taskloom.execution.reconciler import Reconciler
from taskloom.execution.single import Claimed, SingleTasks
from taskloom.execution.slots import Slots
from taskloom.execution.sweeper import Sweeper
from taskloom.execution.threads import HandlerThreads
from taskloom.execution.writes import patiently
from taskloom.lifecycle import Change
from taskloom.model import Kind, TaskEntity
from taskloom.ports import Backend, Delivery, MessageKind, StepOutcome, WorkerFacts

LOOK_ANYWAY: Final = timedelta(seconds=5)
"""Signals may be lost: how long a worker trusts that nobody sent one."""
LOOK_AT_DEADLINES: Final = timedelta(seconds=1)
"""No signal tells of a deadline: how late a task may be ended that has less time than this."""

log = logging.getLogger(__name__)


class Beside(Protocol):
    """What runs as long as a worker does, in threads of its own."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End; blocks until then."""


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
        log_level: int,
        beside: Beside | None = None,
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
        self._started_at = backend.clock.now()
        self._heart = Heart(backend, lease, _claim_lost, self._facts)
        logs = LogWriter(backend, self._spawn)
        self._attempts = Attempts(backend, registry, self._heart, self._threads, logs, self.name, log_level)
        self._deadlines = Deadlines(backend, self.name)
        self._quarantine = quarantine = Quarantine()
        self._dispatcher = Dispatcher(backend, registry, self._attempts.call, self.name)
        self._single = SingleTasks(backend, registry, self._attempts, lease, self.name, quarantine)
        self._fan_outs = FanOuts(
            backend,
            registry,
            self._attempts,
            lease,
            self.name,
            may_start=lambda: not self._stopping.is_set(),
            slots=self._slots,
            quarantine=quarantine,
            logs=logs,
        )
        self._reconciler = Reconciler(backend, self._fan_outs, self.name)
        self._sweeper = Sweeper(backend, self.name)
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._is_behind = False
        """Whether the change stream may have more than what was forwarded last."""
        self._waiting: dict[_Pump, bool] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._endings = Endings(backend, self._heart.let_go, quarantine.leave, self._spawn, logs)
        self._beside = beside
        self._pumps: list[asyncio.Task[None]] = []
        self._end_signals: Callable[[], None] | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()

        def work() -> None:
            try:
                loop.call_soon_threadsafe(self._signalled)
            except RuntimeError:
                log.debug("the loop of the worker is closed")

        self._end_signals = self._backend.signals.on_work(work)
        capture.begin()
        self._heart.start()
        if self._registry.watches_stream:  # its handlers may take long: no task waits for them
            pumps = [
                _Pump(self._dispatcher.dispatch, [self._backend.stream.next_due]),
                _Pump(self._receive, [self._queue_due]),
            ]
        else:
            pumps = [_Pump(self._forward_and_receive, [self._backend.stream.next_due, self._queue_due])]
        store = self._backend.store
        pumps.append(_Pump(self._deadlines.end_overdue, [store.next_deadline], is_signalled=False))
        self._waiting = dict.fromkeys(pumps, False)
        self._pumps = [asyncio.create_task(self._pump(pump)) for pump in pumps]
        self._pumps.append(asyncio.create_task(self._reconciler.run(self._stopping)))
        self._pumps.append(asyncio.create_task(self._sweeper.run(self._stopping)))
        if self._beside is not None:
            self._beside.start()
        log.info("the worker starts", extra={"worker": self.name, "concurrency": self._concurrency})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        try:
            await self._finish()
        finally:
            capture.end()
            if self._end_signals is not None:
                self._end_signals()
            # Not in the executor of the loop, which handlers may have filled for good.
            await self._threads.run(self._heart.stop)
            if self._beside is not None:
                await self._threads.run(self._beside.stop)
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
            if (
                self._idle.is_set()
                and not await patiently(self._backend.clock, self._anything_due)
                and self._idle.is_set()
            ):
                return
            self._work()

    def _raise_broken(self) -> None:
        for pump in self._pumps:
            if pump.done() and not self._stopping.is_set():
                pump.result()

    async def _anything_due(self) -> bool:
        due = await asyncio.gather(
            self._backend.stream.next_due(), self._queue_due(), self._backend.store.next_deadline()
        )
        now = self._backend.clock.now()  # read last: what became due meanwhile is due
        return any(at is not None and at <= now for at in due)

    def _signalled(self) -> None:
        self._rouse(pump for pump in self._waiting if pump.is_signalled)

    def _work(self) -> None:
        self._rouse(self._waiting)

    def _rouse(self, pumps: Iterable["_Pump"]) -> None:
        self._idle.clear()
        for pump in pumps:
            self._waiting[pump] = False
            pump.work.set()

    def _queue_due(self) -> Awaitable[datetime | None]:
        return self._backend.queue.next_due(self._registry.served(self._task_types))

    async def _pump(self, pump: "_Pump") -> None:
        """Take what is there until nothing is, then wait for a signal or for what is due next."""
        clock, failures = self._backend.clock, 0
        while not self._stopping.is_set():
            pump.work.clear()
            try:
                if await pump.take():
                    failures = 0
                    continue
                due = await asyncio.gather(*(next_due() for next_due in pump.next_due))
                failures = 0
            except StoreError as error:
                failures += 1
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failures, 12))
                log.warning("the storage fails; trying again", extra={"error": str(error), "in": str(pause)})
                await clock.wait(self._stopping, clock.now() + pause)
                continue
            until = min([at for at in due if at is not None], default=None)
            now = clock.now()
            if until is not None and until <= now:
                continue
            if not pump.work.is_set():
                self._waiting[pump] = True
                self._check_idle()
            anyway = now + pump.look
            await clock.wait(pump.work, anyway if until is None else min(anyway, until))
            self._waiting[pump] = False
            self._idle.clear()

    def _check_idle(self) -> None:
        if all(self._waiting.values()) and not self._running:
            self._idle.set()

    async def _forward_and_receive(self) -> bool:
        wanted = await self._slots.take_all_unless(self._stopping.is_set)
        if not wanted:
            return False
        try:
            while self._is_behind:  # whose turn it is shows when all have their messages
                self._is_behind = await self._dispatcher.dispatch()
        except BaseException:
            self._slots.give_back(wanted)
            raise
        # Given to the storage at the same time, so that a message is made and taken in one commit; and not before there
        # is a free slot, so that whoever came while all were taken has its turn.
        self._is_behind, more = await asyncio.gather(self._dispatcher.dispatch(), self._receive_into(wanted))
        return self._is_behind or more

    async def _receive(self) -> bool:
        wanted = await self._slots.take_all_unless(self._stopping.is_set)
        return await self._receive_into(wanted) if wanted else False

    async def _receive_into(self, wanted: int) -> bool:
        """Receive messages for so many slots, which were taken so that nobody else takes them meanwhile."""
        served = self._registry.served(self._task_types)
        visible_at = self._backend.clock.now() + self._lease
        deliveries: Sequence[Delivery] = ()
        try:
            deliveries = await self._backend.queue.receive(served, wanted, visible_at=visible_at)
        finally:
            self._slots.give_back(wanted - len(deliveries))
        singles = []
        for delivery in deliveries:
            self._heart.hold(delivery.receipt)
            if delivery.kind is MessageKind.TASK and delivery.task_kind is Kind.TASK:
                singles.append(delivery)
            else:
                self._spawn(self._deliver(delivery), delivery)
        full = len(deliveries) == wanted
        if singles:
            was_idle = not self._running
            claims = self._spawn(self._take(singles), *singles)
            if was_idle and not full:  # to look for more would only take time from the handler that is to start
                await asyncio.wait([claims])
        return full

    def _spawn(self, work: Coroutine[Any, Any, None], *deliveries: Delivery) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(lambda task: self._done(task, deliveries))
        return task

    def _done(self, task: asyncio.Task[None], deliveries: Sequence[Delivery]) -> None:
        self._running.discard(task)
        self._check_idle()
        if not task.cancelled() and task.exception() is None:
            return
        for delivery in deliveries:
            self._heart.let_go(delivery.receipt)
        if not task.cancelled():
            log.error("a delivery failed; its message comes again", exc_info=task.exception())

    async def _take(self, deliveries: Sequence[Delivery]) -> None:
        """Claim the single tasks of these messages, and start those that were claimed."""
        started = 0
        try:
            claims: Sequence[Claimed]
            if self._stopping.is_set():  # the queue answered after the worker was asked to stop
                claims = [self._backend.clock.now()] * len(deliveries)
            else:
                try:
                    claims = await self._single.claim(deliveries)
                except StoreError as error:
                    claims = [error] * len(deliveries)
            for delivery, claimed in zip(deliveries, claims, strict=True):
                if isinstance(claimed, TaskEntity):
                    self._spawn(self._run(delivery, claimed), delivery)
                    started += 1
                elif isinstance(claimed, StoreError):
                    self._endings.postpone(delivery, claimed)
                else:
                    self._endings.settle(delivery, claimed)
        finally:
            self._slots.give_back(len(deliveries) - started)

    async def _run(self, delivery: Delivery, task: TaskEntity[Any]) -> None:
        change: Change | None = None
        try:
            change = await self._single.run(delivery, task)
        except StoreError as error:
            self._endings.postpone(delivery, error)
        else:
            if change is None:
                self._endings.settle(delivery, None)
            else:
                self._endings.end(delivery, change, task.claim_id)
        finally:
            self._slots.give_back()
            if change is None:
                self._quarantine.leave(task.claim_id)

    async def _deliver(self, delivery: Delivery) -> None:
        """Start a fan-out, or do a step of an execution."""
        again_at: datetime | None = None
        outcome: StepOutcome | None = None
        try:
            if self._stopping.is_set():  # the queue answered after the worker was asked to stop
                again_at = self._backend.clock.now()
            elif delivery.kind is MessageKind.TASK:
                again_at = await self._fan_outs.start(delivery)
            else:
                outcome = await self._fan_outs.step(delivery)
                again_at = self._backend.clock.now() if outcome is None else None
        except StoreError as error:
            self._endings.postpone(delivery, error)
            return
        finally:
            self._slots.give_back()
        if outcome is None:
            self._endings.settle(delivery, again_at)
            return
        self._heart.let_go(delivery.receipt)
        try:
            await self._backend.machine.report(delivery, outcome)
        except StoreError as error:
            self._endings.postpone(delivery, error)

    def _facts(self, running: Sequence[str]) -> WorkerFacts:
        served = self._registry.served(self._task_types)
        return WorkerFacts(
            name=self.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=_version(),
            started_at=self._started_at,
            seen_at=self._started_at,
            concurrency=self._concurrency,
            tasks=None if served.tasks is None else sorted(served.tasks),
            fan_outs=None if served.fan_outs is None else sorted(served.fan_outs),
            running=running,
            caps={type_: cap for type_, cap in served.caps.items() if served.tasks is None or type_ in served.tasks},
        )

    async def _finish(self) -> None:
        pumps = asyncio.gather(*self._pumps, return_exceptions=True)
        if not await self._ends_in_time(pumps):
            self._dispatcher.interrupt()
            await pumps
        if not self._running:
            return
        self._attempts.stop_at(self._backend.clock.now() + self._grace)
        rest = asyncio.create_task(self._rest())
        if not await self._ends_in_time(rest):
            log.warning("the grace time is over; giving back", extra={"running": len(self._running)})
            self._attempts.interrupt_all(Interruption.STOPPED)
            self._single.interrupt()
            await rest

    async def _ends_in_time(self, work: asyncio.Future[Any]) -> bool:
        """Whether *work* ends within the grace time."""
        over = asyncio.Event()
        work.add_done_callback(lambda _: over.set())
        return await self._backend.clock.wait(over, self._backend.clock.now() + self._grace)

    async def _rest(self) -> None:
        while self._running:  # each may start others
            await asyncio.wait(self._running)


class _Pump:
    """What a worker takes from one place."""

    def __init__(
        self,
        take: Callable[[], Awaitable[bool]],
        next_due: Sequence[Callable[[], Awaitable[datetime | None]]],
        *,
        is_signalled: bool = True,
    ) -> None:
        self.take = take
        """Whether there may be more."""
        self.next_due = next_due
        self.is_signalled = is_signalled
        """Whether a signal tells of what it takes."""
        self.look = LOOK_ANYWAY if is_signalled else LOOK_AT_DEADLINES
        self.work = asyncio.Event()


@cache
def _version() -> str:
    return version("taskloom")


def _claim_lost(attempt: Attempt, cancelled: bool) -> None:
    attempt.interrupt(Interruption.CANCELLED if cancelled else Interruption.CLAIM_LOST)
