"""What the workers of the chaos story run, in processes of their own that are killed at any moment."""

import asyncio
import logging
import os
import signal
import threading
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from taskloom import Retry, Settings, StepFunctionTaskEvent, TaskModule, TaskQueueEvent
from taskloom.clock import SystemClock
from taskloom.values import Json
from tests.engine.processes import kill_me, note

LEASE: Final = 2.0
CONCURRENCY: Final = 4
LIMIT: Final = 3
"""Attempts of every type here: of failing handlers, and of dying workers."""
RETRY: Final = Retry(max_attempts=LIMIT, initial=0.1, maximum=0.4)
SLOW: Final = 0.3
TOLERATED: Final = 50

PLAIN, THREAD, RETRIED, FAN_OUT = "plain", "thread", "retried", "fan-out"


class Nature(StrEnum):
    """What the handler of a task does."""

    QUICK = "quick"
    SLOW = "slow"
    """Takes so long that it is hit in the middle."""
    FLAKY = "flaky"
    """Fails in its first attempt."""
    BROKEN = "broken"
    """Fails in every attempt."""
    POISON = "poison"
    """Kills its worker in every attempt."""


def nature_of(number: int) -> Nature:
    """How task (or sub-task) *number* behaves."""
    if number % 2000 == 25:
        return Nature.POISON
    if number % 50 in (11, 12):
        return Nature.BROKEN
    if number % 20 == 7:
        return Nature.FLAKY
    return Nature.SLOW if number % 20 in (3, 14) else Nature.QUICK


def type_of(number: int) -> str:
    """The type of single task *number*: those that fail have a retry policy, but for half of the broken ones."""
    if nature_of(number) is Nature.FLAKY or number % 50 == 11:
        return RETRIED
    return THREAD if number % 3 == 0 else PLAIN


def settings(database: Path) -> Settings:
    """Of everybody who opens the file."""
    return Settings(database=database, lease_seconds=LEASE)


def define(module: TaskModule, ledger: Path) -> None:
    """Handlers that write into the ledger when they begin and when they are done; results name their attempt."""

    def tell(moment: str, event: TaskQueueEvent | StepFunctionTaskEvent) -> None:
        note(ledger, f"{moment} {event.task.attempt} {os.getpid()} {event.task.id}")

    def begin(event: TaskQueueEvent | StepFunctionTaskEvent) -> Nature:
        tell("began", event)
        nature = nature_of(event.task.input)
        if nature is Nature.POISON:
            kill_me()
        if nature is Nature.BROKEN or (nature is Nature.FLAKY and event.task.attempt == 1):
            raise ValueError(f"number {event.task.input} is {nature}")
        if nature is Nature.SLOW:
            event.progress(1, total=2)
        return nature

    def end(event: TaskQueueEvent | StepFunctionTaskEvent) -> Json:
        tell("done", event)
        return {"number": event.task.input, "attempt": event.task.attempt, "pid": os.getpid()}

    async def handle(event: TaskQueueEvent | StepFunctionTaskEvent) -> Json:
        if begin(event) is Nature.SLOW:
            clock = SystemClock()
            await clock.wait(asyncio.Event(), clock.now() + timedelta(seconds=SLOW))
        return end(event)

    @module.task(PLAIN)
    async def plain(event: TaskQueueEvent) -> Any:
        return await handle(event)

    @module.task(THREAD)
    def thread(event: TaskQueueEvent) -> Any:
        if begin(event) is Nature.SLOW:
            threading.Event().wait(SLOW)
        return end(event)

    @module.task(RETRIED, retry=RETRY)
    async def retried(event: TaskQueueEvent) -> Any:
        return await handle(event)

    @module.step_function_task(
        FAN_OUT, retry=RETRY, chunk_size=10, chunk_concurrency=2, tolerated_failure_percentage=TOLERATED
    )
    async def fan_out(event: StepFunctionTaskEvent) -> Any:
        return await handle(event)


def run(database: Path, ledger: Path) -> None:
    """A worker that works until SIGTERM, or until it is killed."""
    logging.basicConfig(filename=ledger.with_name("workers.log"), level=logging.WARNING)

    async def main() -> None:
        module = TaskModule.register(settings=settings(database))
        define(module, ledger)
        async with module.worker(concurrency=CONCURRENCY) as worker:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
            await worker.run()
        await module.aclose()

    asyncio.run(main())
