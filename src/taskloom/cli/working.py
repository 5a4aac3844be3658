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
from types import FrameType
from typing import Final

from taskloom.cli.exit_codes import SIGNAL
from taskloom.module import TaskModule

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
LEFT_BEHIND_SECONDS: Final = 2.0
"""How long threads of handlers that were given back may still take, before the process ends in spite of them."""

log = logging.getLogger(__name__)


async def work(module: TaskModule, *, concurrency: int, task_types: Sequence[str] | None, grace: float | None) -> None:
    """Work until SIGINT or SIGTERM; a second one ends the process at once.

    What runs then has *grace* seconds (default: as the settings say), and is given back when they are over.
    """
    worker = module.worker(concurrency=concurrency, task_types=task_types, grace=grace)

    def stop() -> None:
        log.info("asked to stop: running handlers have the grace time; a second signal ends at once")
        worker.stop()

    with _signals(stop):
        async with worker:
            _say(f"worker {worker.name} runs {concurrency} at a time; Ctrl-C or SIGTERM stops it")
            await worker.run()
        _say(f"worker {worker.name} has stopped")
    _leave_in_spite_of([thread for thread in threading.enumerate() if _holds(thread)])


def _say(line: str) -> None:
    print(line, flush=True)


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
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


def _holds(thread: threading.Thread) -> bool:
    return not thread.daemon and thread is not threading.main_thread()


def _leave_in_spite_of(threads: Sequence[threading.Thread]) -> None:
    """End the process if *threads* do not end soon.

    Python waits for them at its end, and the loop for those of its executor (`asyncio.to_thread`); a handler that never
    returns would keep the process for ever. Its task was given back.
    """

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
