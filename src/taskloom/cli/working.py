"""A worker as a process: signals stop it, and nothing keeps it alive after that."""

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Final

from taskloom.cli.exit_codes import SIGNAL
from taskloom.module import TaskModule

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
LEFT_BEHIND_SECONDS: Final = 2.0
"""How long threads of handlers that were given back may still take, before the process ends in spite of them."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says of one worker."""

    concurrency: int
    task_types: Sequence[str] | None
    grace: float | None
    """Seconds; None: as the settings say."""
    until_closed: int | None = None
    """The number of a pipe; the worker stops when its other end is closed."""


async def work(module: TaskModule, options: Options) -> None:
    """Work until SIGINT or SIGTERM, or until the pipe is closed; a second signal ends the process at once.

    What runs then has the grace time, and is given back when it is over.
    """
    concurrency = options.concurrency
    worker = module.worker(concurrency=concurrency, task_types=options.task_types, grace=options.grace)

    def stop() -> None:
        log.info("asked to stop: running handlers have the grace time; a second signal ends at once")
        worker.stop()

    with signals(stop), _pipe(options.until_closed, stop):
        async with worker:
            _say(f"worker {worker.name} runs {concurrency} at a time; Ctrl-C or SIGTERM stops it")
            await worker.run()
        _say(f"worker {worker.name} has stopped")
    leave_in_spite_of_threads()


def _say(line: str) -> None:
    print(line, flush=True)


@contextmanager
def signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call *stop*, in the event loop, at the first SIGINT or SIGTERM; end the process at the second one."""
    # Plain signal handlers, not those of the loop: a handler of a task that blocks the loop must not hold off the
    # second signal. The first one wakes the loop.
    loop, asked = asyncio.get_running_loop(), False

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signal calls it
        nonlocal asked
        if asked:
            _end(SIGNAL + number)
        asked = True
        loop.call_soon_threadsafe(stop)

    before = {number: signal.signal(number, on_signal) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _pipe(until_closed: int | None, stop: Callable[[], None]) -> Iterator[None]:
    if until_closed is None:
        yield
        return
    loop = asyncio.get_running_loop()

    def closed() -> None:  # nobody ever writes to the pipe, so it is readable when its other end is gone
        loop.remove_reader(until_closed)
        stop()

    loop.add_reader(until_closed, closed)
    try:
        yield
    finally:
        loop.remove_reader(until_closed)


def _holds(thread: threading.Thread) -> bool:
    return not thread.daemon and thread is not threading.main_thread()


def leave_in_spite_of_threads() -> None:
    """End the process if its other threads do not end soon.

    Python waits for them at its end, and the loop for those of its executor (`asyncio.to_thread`); a handler that never
    returns would keep the process for ever. Its task was given back.
    """

    threads = [thread for thread in threading.enumerate() if _holds(thread)]

    def watch() -> None:
        until = time.monotonic() + LEFT_BEHIND_SECONDS
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            _end(0)

    if threads:
        threading.Thread(target=watch, name="taskloom-leave", daemon=True).start()


def _end(code: int) -> None:
    # A signal may have come in the middle of a write: then that line is lost.
    for stream in (sys.stdout, sys.stderr):
        with suppress(RuntimeError, OSError):
            stream.flush()
    os._exit(code)
