"""The application that is measured: a single task and a fan-out that do nothing."""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.job import Job
from taskloom import Settings, StepFunctionTaskEvent, TaskModule, TaskQueueEvent

TENANT: Final = "bench"
WAIT: Final = 3600.0
"""Seconds after which a task counts as lost; the runner's own limit comes first."""


@dataclass(slots=True)
class Runs:
    """What the handlers of this process did."""

    count: int = 0
    goal: int = 0
    """After how many runs `reached` is set."""
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self) -> None:
        """One handler call."""
        self.count += 1
        if self.count == self.goal:
            self.reached.set()


def database(job: Job) -> Path:
    """The file of the measurement."""
    return Path(job.folder, "tasks.db")


def application(path: Path) -> tuple[TaskModule, Runs]:
    """The module over the file *path*, at full durability, and what its handlers count."""
    module = TaskModule.register(settings=Settings(database=path, synchronous="FULL"))
    runs = Runs()

    @module.task("noop")
    async def noop(event: TaskQueueEvent) -> int:
        runs.add()
        return int(event.task.input["n"])

    @module.task("stamp")
    async def stamp(_: TaskQueueEvent) -> int:
        return time.monotonic_ns()  # the same clock in every process of the machine

    @module.step_function_task("each")
    async def each(event: StepFunctionTaskEvent) -> int:
        runs.add()
        return int(event.input.input["n"])

    return module, runs
