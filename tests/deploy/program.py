"""The application of the end-to-end tests: the same handlers on the emulator's functions and on the embedded engine.

What a handler did is written to a file that its input names, for a function is another process.
"""

import asyncio
import os
import threading
from pathlib import Path

from taskloom import Settings, StepFunctionTaskEvent, TaskModule, TaskQueueEvent
from taskloom.errors import CallbackTimeout

SLICES = 40
"""Items of the handler that outlives its function, each of `ITEM_SECONDS`."""
ITEM_SECONDS = 0.15
POISON = 5
"""The index of the input whose handler ends its process."""
AT_ONCE = 2
"""Sub-tasks at a time: each is a process of its own on the emulator."""


def make(settings: Settings | None = None) -> TaskModule:
    """The application; in a function *settings* come from its environment."""
    module = TaskModule.register(settings=settings)

    @module.task("greet")
    async def greet(event: TaskQueueEvent) -> str:
        note(event.task.input["notes"], event.task.code)
        return f"Hello, {event.task.input['name']}"

    @module.task("refuse")
    def refuse(event: TaskQueueEvent) -> None:
        raise ValueError(f"not {event.task.input}")

    @module.step_function_task("cat", max_concurrency=AT_ONCE)
    async def cat(event: StepFunctionTaskEvent) -> str:
        return str(event.task.input["key"])

    @module.step_function_task("noted", max_concurrency=AT_ONCE)
    def noted(event: StepFunctionTaskEvent) -> int:
        note(event.task.input["notes"], str(event.task.index))
        return int(event.task.input["number"])

    @module.step_function_task("many", max_concurrency=AT_ONCE)
    async def many(event: StepFunctionTaskEvent) -> int:
        number: int = event.task.input
        if event.task.run == 1 and number % 100 < 3:
            raise ValueError(f"{number} is one of three in a hundred")
        return number * number

    @module.step_function_task("hanging", max_concurrency=AT_ONCE, chunk_size=2)
    async def hanging(event: StepFunctionTaskEvent) -> str:
        if event.task.index in (0, 1):
            return "done before the cancel"
        await asyncio.Event().wait()  # until it is cancelled
        return "never"

    @module.step_function_task("poison", max_concurrency=AT_ONCE, chunk_size=4)
    async def poison(event: StepFunctionTaskEvent) -> int:
        number: int = event.task.input
        if number == POISON:
            os._exit(66)  # no exception, no answer: the process is gone
        return number

    @module.task("long")
    async def long(event: TaskQueueEvent) -> int:
        async for number in event.resumable(range(SLICES)):
            note(event.task.input["notes"], str(number))
            await asyncio.to_thread(work)
        return SLICES

    @module.task("saving")
    async def saving(event: TaskQueueEvent) -> int:
        for number in range(saved(event), SLICES):
            note(event.task.input["notes"], str(number))
            await asyncio.to_thread(work)
            await event.checkpoint(number + 1)
        return SLICES

    @module.task("blocking")
    def blocking(event: TaskQueueEvent) -> int:
        """Nobody can interrupt it: its thread goes on when the time of the function is over."""
        for number in range(saved(event), SLICES):
            note(event.task.input["notes"], str(number))
            work()
            event.sync.checkpoint(number + 1)
        return SLICES

    @module.task("approval")
    async def approval(event: TaskQueueEvent) -> object:
        token = await event.callback("approval")
        await event.step("ask", note, event.task.input["notes"], token)
        try:
            return await event.wait_for(token, timeout=600)
        except CallbackTimeout:
            return "nobody answered"

    return module


def work() -> None:
    """What takes a while."""
    threading.Event().wait(ITEM_SECONDS)


def saved(event: TaskQueueEvent) -> int:
    """How far an attempt before was."""
    return event.state if isinstance(event.state, int) else 0


def note(path: str, line: str) -> None:
    """Append a *line* to the file *path*."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def notes(path: Path) -> list[str]:
    """The lines of a file, none where there is none yet."""
    return path.read_text("utf-8").splitlines() if path.exists() else []
