"""One attempt: from the claimed task to the change that ends it."""

import asyncio
import inspect
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any, Final

from taskloom import lifecycle
from taskloom.errors import (
    KEEP,
    CallbackFailed,
    CallbackTimeout,
    Continue,
    InvalidInput,
    NoHandler,
    StoreError,
    Suspend,
)
from taskloom.events.context import CURRENT, RunContext, Saves
from taskloom.events.log_lines import LogKeeping
from taskloom.events.registry import Handler, Registry
from taskloom.events.task_events import StepFunctionTaskEvent, TaskQueueEvent
from taskloom.execution.failures import failure
from taskloom.execution.heart import Heart
from taskloom.execution.log_writer import LogWriter
from taskloom.execution.saving import Saving, fitting
from taskloom.execution.threads import HandlerThreads
from taskloom.execution.writes import patiently
from taskloom.lifecycle import Change
from taskloom.model import Failure, Kind, TaskEntity
from taskloom.policy import next_attempt_in, retry_of
from taskloom.ports import Backend
from taskloom.values import decode, encode, encode_checked

FINAL: Final = (InvalidInput, CallbackFailed, CallbackTimeout)
"""Never tried again: a result that cannot be stored will not become one, and a callback has one answer in a run."""

log = logging.getLogger(__name__)


class Interruption(Enum):
    """Why an attempt ends before its handler does."""

    STOPPED = "the worker stopped"
    TIMED_OUT = "it took longer than its timeout"
    OUT_OF_TIME = "the time of its function was over"
    OVERDUE = "the deadline of its task passed"
    CLAIM_LOST = "its claim was lost"
    CANCELLED = "it was cancelled"


class Attempt:
    """A running attempt; `interrupt` may be called from any thread."""

    def __init__(
        self,
        task: TaskEntity[Any],
        event: TaskQueueEvent[Any] | StepFunctionTaskEvent[Any],
        on_progress: Callable[[RunContext], None],
        saves: Saves,
        keeping: LogKeeping,
    ) -> None:
        self.context = RunContext(task, event, on_progress, saves, keeping)
        self.interruption: Interruption | None = None
        self._loop = asyncio.get_running_loop()
        self._runner: asyncio.Task[Any] | None = asyncio.current_task(self._loop)
        self.over = asyncio.Event()

    @property
    def task(self) -> TaskEntity[Any]:
        """The task as it was claimed."""
        return self.context.task

    def interrupt(self, why: Interruption) -> None:
        """End the attempt: an async handler gets CancelledError, a `def` handler is left behind."""
        try:
            self._loop.call_soon_threadsafe(self._interrupt, why)
        except RuntimeError:
            log.debug("the loop of the attempt is closed", extra={"task": self.task.id})

    def _interrupt(self, why: Interruption) -> None:
        if not self.over.is_set() and self.interruption is None and self._runner is not None:
            self.interruption = why
            self.context.cancelled = True
            self._runner.cancel()


@dataclass(frozen=True, slots=True)
class Allotment:
    """The time that a function has; whatever runs in it ends before *until*."""

    start: datetime
    until: datetime

    def is_whole(self, at: datetime) -> bool:
        """Whether what begins at this instant has nearly all of it."""
        return (at - self.start) * 10 <= self.until - self.start


class _Interrupted(Exception):
    pass


class Attempts:
    """Runs attempts for one worker."""

    def __init__(
        self,
        backend: Backend,
        registry: Registry,
        heart: Heart,
        threads: HandlerThreads,
        logs: LogWriter,
        by: str,
        log_level: int,
        allotment: Allotment | None = None,
    ) -> None:
        self._backend = backend
        self._allotment = allotment
        self._logs = logs
        self._keeping = LogKeeping(backend.clock, log_level)
        self._registry = registry
        self._heart = heart
        self._threads = threads
        self._by = by
        self._running: set[Attempt] = set()
        self._saves: Saving | None = None

    def stop_at(self, until: datetime) -> None:
        """The worker stops: what runs then is interrupted."""
        for attempt in list(self._running):
            context = attempt.context
            context.until = until if context.until is None else min(until, context.until)

    def interrupt_all(self, why: Interruption) -> None:
        """End every running attempt."""
        for attempt in list(self._running):
            attempt.interrupt(why)

    async def run(
        self, task: TaskEntity[Any], event: TaskQueueEvent[Any] | StepFunctionTaskEvent[Any]
    ) -> Change | None:
        """Call the handlers of the claimed *task*; the change that ends the attempt, None when the claim was lost.

        The lease is renewed meanwhile.
        """
        if self._saves is None:  # here there is an event loop
            self._saves = Saving(self._backend, self.call)
        attempt = Attempt(task, event, self._heart.progressed, self._saves, self._keeping)
        self._running.add(attempt)
        self._heart.watch(attempt)
        try:
            change = await self._change(attempt, event)
        except StoreError:
            self._end_log(attempt, None)
            raise
        else:
            self._end_log(attempt, change)
            return change
        finally:
            self._running.discard(attempt)
            self._heart.forget(attempt)

    def _end_log(self, attempt: Attempt, change: Change | None) -> None:
        lines = attempt.context.end_log()
        if lines is not None:
            self._logs.add(lines)
            if change is None:  # no end will be written, with which they could go
                self._logs.write()

    async def _change(self, attempt: Attempt, event: TaskQueueEvent[Any] | StepFunctionTaskEvent[Any]) -> Change | None:
        task = attempt.task
        try:
            results = await self._handle(attempt, event)
            text = encode_checked(results)
        except _Interrupted:
            return self._interrupted(attempt)
        except Continue as more:
            return self._continued(attempt, more)
        except Suspend as pause:
            return self._suspended(attempt, pause)
        except NoHandler as error:
            return self._failed(attempt, Failure(type="NoHandler", message=str(error), attempt=task.attempt))
        except (asyncio.CancelledError, KeyboardInterrupt):
            raise  # the worker itself is ended
        except BaseException as error:  # noqa: BLE001 - whatever the handler raises becomes a recorded attempt
            return self._raised(attempt, error)
        reference = None
        limit = self._backend.payloads.inline_limit
        if len(text) * 4 > limit and len(text.encode()) > limit:
            name = f"{task.pk}#{task.sk}/result/{task.run}/{task.fence}"
            reference = await patiently(self._backend.clock, lambda: self._backend.payloads.put(name, text))
        return lifecycle.completed(
            task,
            results=None if reference else text,
            result_ref=reference,
            progress=attempt.context.latest,
            has_state=task.state is not None or attempt.context.has_saved,
            now=self._backend.clock.now(),
            by=self._by,
            claim_id=self._backend.ids.token(),
        )

    def _continued(self, attempt: Attempt, more: Continue) -> Change:
        task, context, state = attempt.task, attempt.context, None
        try:
            if more.state is not KEEP:
                context.state = decode(encode(more.state, "state"))
            if more.state is not KEEP or context.positions:
                state = fitting(context.kept(), self._backend)
        except InvalidInput as error:
            return self._raised(attempt, error)
        return lifecycle.continued(
            task,
            state=state,
            progress=attempt.context.latest,
            reason=more.reason,
            now=self._backend.clock.now(),
            by=self._by,
            claim_id=self._backend.ids.token(),
        )

    def _suspended(self, attempt: Attempt, pause: Suspend) -> Change:
        context, state = attempt.context, None
        try:
            if context.positions:
                state = fitting(context.kept(), self._backend)
        except InvalidInput as error:
            return self._raised(attempt, error)
        return lifecycle.suspended(
            attempt.task,
            until=pause.until,
            callback=pause.callback,
            state=state,
            progress=context.latest,
            reason=pause.reason,
            now=self._backend.clock.now(),
            by=self._by,
            claim_id=self._backend.ids.token(),
        )

    async def _handle(self, attempt: Attempt, event: TaskQueueEvent[Any] | StepFunctionTaskEvent[Any]) -> Any:
        task = attempt.task
        timeout = self._registry.policy(task.kind, task.task_type).timeout
        watch = None
        allotment = self._allotment
        if timeout is not None or task.deadline_at is not None or allotment is not None:
            until, why = task.deadline_at, Interruption.OVERDUE
            if allotment is not None and (until is None or allotment.until < until):
                until, why = allotment.until, Interruption.OUT_OF_TIME
            if timeout is not None:
                end = self._backend.clock.now() + timedelta(seconds=timeout)
                if until is None or end < until:
                    until, why = end, Interruption.TIMED_OUT
            attempt.context.limit(until)
            watch = asyncio.create_task(self._time_out(attempt, until, why))
        token = CURRENT.set(attempt.context)
        try:
            return await self._registry.run(task.kind, task.task_type, event, self.call)
        except asyncio.CancelledError as error:
            if attempt.interruption is not None:
                runner = asyncio.current_task()
                if runner is not None:
                    runner.uncancel()
                raise _Interrupted from None
            runner = asyncio.current_task()
            if runner is not None and runner.cancelling():
                raise  # the worker itself is cancelled: nothing of the task may be written any more
            raise RuntimeError("the handler was cancelled by itself: a task that it awaited was cancelled") from error
        finally:
            attempt.over.set()
            CURRENT.reset(token)
            if watch is not None:
                watch.cancel()

    async def _time_out(self, attempt: Attempt, until: datetime | None, why: Interruption) -> None:
        if not await self._backend.clock.wait(attempt.over, until):
            attempt.interrupt(why)

    async def call(self, handler: Handler, *args: Any, **kwargs: Any) -> Any:
        """Call *handler*, or another function: an `async def` on this loop, a `def` in a thread."""
        if is_async(handler):
            try:
                return await handler(*args, **kwargs)
            except SystemExit as error:  # would end the loop
                raise RuntimeError(f"the handler called sys.exit({error.code!r})") from error
        result = await self._threads.run(partial(handler, **kwargs) if kwargs else handler, *args)
        return await result if inspect.isawaitable(result) else result

    def _interrupted(self, attempt: Attempt) -> Change | None:
        task, now = attempt.task, self._backend.clock.now()
        match attempt.interruption:
            case Interruption.STOPPED:
                return lifecycle.given_back(
                    task, "the worker stopped", now=now, by=self._by, claim_id=self._backend.ids.token()
                )
            case Interruption.TIMED_OUT:
                timeout = self._registry.policy(task.kind, task.task_type).timeout
                return self._raised(attempt, TimeoutError(f"the attempt took longer than {timeout:g} s"))
            case Interruption.OUT_OF_TIME:
                return self._out_of_time(attempt)
            case Interruption.OVERDUE if task.kind is not Kind.SUB_TASK:
                failure = Failure(type=lifecycle.TOO_LATE, message=lifecycle.too_late(task), attempt=task.attempt)
                return self._failed(attempt, failure)
            case Interruption.CANCELLED | Interruption.OVERDUE if task.kind is Kind.SUB_TASK:
                return lifecycle.cancelled(
                    task,
                    reason=lifecycle.FAN_OUT_ENDS,
                    by=self._by,
                    now=now,
                    claim_id=self._backend.ids.token(),
                    worker=True,
                )
            case Interruption.CANCELLED:
                log.info("the task was cancelled", extra={"task": task.id})
                return None
            case _:
                log.warning("the claim was lost; the attempt counts for nothing", extra={"task": task.id})
                return None

    def _out_of_time(self, attempt: Attempt) -> Change:
        """It goes on where it saved, or from the beginning if it had not all of the time; else that was too little."""
        task, allotment = attempt.task, self._allotment
        began = task.updated_at  # when it was claimed
        if attempt.context.has_saved or allotment is None or not allotment.is_whole(began):
            now, claim_id = self._backend.clock.now(), self._backend.ids.token()
            return lifecycle.given_back(task, Interruption.OUT_OF_TIME.value, now=now, by=self._by, claim_id=claim_id)
        seconds = (allotment.until - allotment.start).total_seconds()
        return self._raised(
            attempt,
            TimeoutError(
                f"the function has {seconds:g} s, and the attempt took longer; save with checkpoint and go on in the "
                "next one, give the function more time, or run the task in a worker"
            ),
        )

    def _raised(self, attempt: Attempt, error: BaseException) -> Change:
        task = attempt.task
        policy = self._registry.policy(task.kind, task.task_type)
        now, delay = self._backend.clock.now(), None
        if not isinstance(error, FINAL):
            retry = retry_of(policy.retry, task.options.retry)
            delay = next_attempt_in(retry, error, task.attempt, random.random())  # noqa: S311 - jitter
            if delay is not None and task.deadline_at is not None and now + delay >= task.deadline_at:
                delay = None  # it would come too late: whoever waits for the end learns of it now
        recorded = failure(error, attempt=task.attempt, will_retry=delay is not None)
        log.info("an attempt failed", extra={"task": task.id, "attempt": task.attempt, "will_retry": delay is not None})
        if delay is None:
            return self._failed(attempt, recorded)
        return lifecycle.waits_for_retry(
            task,
            recorded,
            at=now + delay,
            progress=attempt.context.latest,
            now=now,
            by=self._by,
            claim_id=self._backend.ids.token(),
        )

    def _failed(self, attempt: Attempt, recorded: Failure) -> Change:
        return lifecycle.failed(
            attempt.task,
            recorded,
            progress=attempt.context.latest,
            now=self._backend.clock.now(),
            by=self._by,
            claim_id=self._backend.ids.token(),
        )


def is_async(handler: Handler) -> bool:
    """Whether calling *handler* gives a coroutine; an object counts by its `__call__`."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(type(handler), "__call__", None))  # noqa: B004
