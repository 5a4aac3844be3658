"""One question to a task module, in an event loop of its own."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar, cast

from taskloom.cli import remote
from taskloom.cli.finding import open_database
from taskloom.module import TaskModule
from taskloom.service import TaskService

ResultT = TypeVar("ResultT")


def run(module: TaskModule, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """What *work* returns; *module* is closed then."""

    async def run_and_close() -> ResultT:
        try:
            return await work
        finally:
            await module.aclose()

    return asyncio.run(run_and_close())


def ask(database: Path | None, question: Callable[[TaskService], Coroutine[Any, Any, ResultT]]) -> ResultT:
    """What *question* answers, asked of the tasks in *database*, or of the server that the command line names.

    Raises: what `open_database`, or `Remote.client`, and the question raise.
    """
    server = remote.chosen(database)
    if server is not None:
        return asyncio.run(_ask_server(server, question))
    module = open_database(database)
    return run(module, question(module.task_service))


async def _ask_server(
    server: remote.Remote, question: Callable[[TaskService], Coroutine[Any, Any, ResultT]]
) -> ResultT:
    async with server.client() as client:
        return await question(cast(TaskService, client))  # it has the methods of one


@contextmanager
def immediate_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C end a `run` within, though it stands in a read that blocks the event loop.

    The event loop would take the signal as a wish to be cancelled, and see to it once the read is over.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, or somebody else's
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
