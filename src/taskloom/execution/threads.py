"""Threads for `def` handlers."""

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any, Final

IDLE_SECONDS: Final = 30.0


class HandlerThreads:
    """As many threads as there are handlers at a time, kept for the next ones.

    They are daemons, unlike those of `concurrent.futures`: a handler that never returns must not keep alive a process
    whose worker has stopped.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """What `function(*args)` returns, called in a thread, in a copy of the caller's context.

        When the caller is cancelled the function goes on, and what comes of it is dropped.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()

        def job() -> None:
            try:
                result = context.run(function, *args)
            except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
                _tell(loop, future, future.set_exception, _raisable(error))
            else:
                _tell(loop, future, future.set_result, result)

        with self._lock:
            spawn = self._idle == 0
            self._idle -= not spawn
        self._jobs.put(job)
        if spawn:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        return await future

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._idle:  # otherwise a job is on its way to this thread
                        self._idle -= 1
                        return
                continue
            job()
            del job  # not to keep the handler's arguments while idle
            with self._lock:
                self._idle += 1


def _tell(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], tell: Callable[[Any], None], value: Any
) -> None:
    def set_unless_done() -> None:
        if not future.done():
            tell(value)

    try:
        loop.call_soon_threadsafe(set_unless_done)
    except RuntimeError:
        # The loop is closed: the worker is gone, and the claim with it (rule 2: the result is lost).
        return


def _raisable(error: BaseException) -> BaseException:
    # A future cannot carry StopIteration, and a loop ends at SystemExit.
    if isinstance(error, (StopIteration, SystemExit, KeyboardInterrupt)):
        replacement = RuntimeError(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
        replacement.__cause__ = error
        return replacement
    return error
