"""Turns and limits: for how many others a tenant waits that has one task, and what limits hold and cost."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.child import Children
from bench.figures import percentile
from bench.job import Figures, Job, Measurement
from bench.loom.app import TENANT, WAIT, database
from bench.loom.prefill import prefill_waiting
from taskloom import NewTask, Settings, TaskModule, TaskQueueEvent, TaskService, TaskStatus

NEWCOMER: Final = "newcomer"
WORK: Final = 0.05
"""Seconds that a task of the tenant with many takes: long beside the way of a new task to the queue."""
SHORT_WORK: Final = 0.002
"""Seconds that a task takes whose limit is watched, so that tasks overlap."""
CAP: Final = 8
NEVER_REACHED: Final = 10_000


@dataclass(slots=True)
class Starts:
    """The order in which tasks started."""

    count: int = 0
    goal: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    newcomers: list[int] = field(default_factory=list)
    """How many had started before each task of the newcomer."""

    def add(self, tenant: str) -> None:
        """One task starts."""
        if tenant == NEWCOMER:
            self.newcomers.append(self.count)
            return
        self.count += 1
        if self.count == self.goal:
            self.reached.set()


def _fair(job: Job) -> Figures:
    async def run() -> Figures:
        await prefill_waiting(database(job), job.waiting)
        module = _module(database(job))
        starts = Starts(goal=min(2 * job.concurrency, job.waiting))

        @module.task("noop")
        async def noop(event: TaskQueueEvent) -> None:
            starts.add(event.task.tenant_code)
            await asyncio.sleep(WORK)

        async with module.worker(concurrency=job.concurrency, grace=0):
            await asyncio.wait_for(starts.reached.wait(), WAIT)  # all slots are full
            others, seconds = await _newcomers(module.task_service, starts, job.count)
        await module.aclose()
        return {
            "most_others": max(others),
            "others": percentile(others, 50),
            "bound": 2 * job.concurrency,
            "newcomer": percentile(seconds, 50) * 1000,
        }

    return asyncio.run(run())


async def _newcomers(service: TaskService, starts: Starts, count: int) -> tuple[list[float], list[float]]:
    """How many others started, and how many seconds passed, before each of *count* new tasks, one after the other."""
    others: list[float] = []
    seconds: list[float] = []
    for _ in range(count):
        begin, before = time.perf_counter(), starts.count
        task = await service.create_task(tenant_code=NEWCOMER, task_type="noop", input={"n": 0})
        done = await service.wait(task.key, WAIT)
        assert done.status is TaskStatus.COMPLETED, done
        seconds.append(time.perf_counter() - begin - WORK)
        others.append(starts.newcomers[-1] - before)
    assert len(starts.newcomers) == count, f"{len(starts.newcomers)} runs of {count} tasks"
    return others, seconds


def capped_module(path: Path, cap: int | None) -> TaskModule:
    """The module over the file *path* whose tasks say when they ran; at most *cap* at the same time."""
    module = _module(path)
    # Without a limit also over an older commit, which knows none.
    decorate = module.task("timed") if cap is None else module.task("timed", max_concurrency=cap)

    @decorate
    async def timed(_: TaskQueueEvent) -> list[int]:
        begin = time.monotonic_ns()  # the same clock in every process of the machine
        await asyncio.sleep(SHORT_WORK)
        return [begin, time.monotonic_ns()]

    return module


def _capped(cap: int | None) -> Measurement:
    def measure(job: Job) -> Figures:
        module = capped_module(database(job), cap)
        arguments = [str(database(job)), str(job.concurrency), str(cap or 0)]

        async def run() -> Figures:
            begin = time.perf_counter()
            times = await _times(module.task_service, job.count)
            seconds = time.perf_counter() - begin
            most = most_at_once(times)
            assert cap is None or most <= cap, f"{most} ran at the same time, and {cap} may"
            return {"rate": job.count / seconds, "most_at_once": most}

        with Children("bench.loom.capped_worker", arguments, job.processes):
            figures = asyncio.run(run())
        module.close()
        return figures

    return measure


async def _times(service: TaskService, count: int) -> Sequence[tuple[int, int]]:
    """From when to when each of *count* tasks ran."""
    made = await service.create_tasks(
        [NewTask(tenant_code=TENANT, task_type="timed", input={"n": number}) for number in range(count)]
    )
    done = [await service.wait(task.key, WAIT) for task in made]
    assert all(task.status is TaskStatus.COMPLETED and task.attempt == 1 for task in done)
    return [_span(task.result) for task in done]


def _span(result: object) -> tuple[int, int]:
    match result:
        case [int(begin), int(end)]:
            return begin, end
    raise AssertionError(f"{result!r} is no span of time")


def most_at_once(times: Iterable[tuple[int, int]]) -> int:
    """How many of the spans lie over one another at most; one that ends when another begins does not."""
    most = running = 0
    for _, change in sorted(step for begin, end in times for step in ((begin, 1), (end, -1))):
        running += change
        most = max(most, running)
    return most


def _module(path: Path) -> TaskModule:
    return TaskModule.register(settings=Settings(database=path, synchronous="FULL"))


MEASUREMENTS: Final[dict[str, Measurement]] = {
    "fairness": _fair,
    "no-cap": _capped(None),
    "wide-cap": _capped(NEVER_REACHED),
    "cap": _capped(CAP),
}
