"""What must not cost more in a large file."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from bench.figures import percentile
from bench.job import Figures, Job, Measurement
from bench.loom.app import TENANT, application, database
from bench.loom.prefill import prefill_finished, prefill_waiting
from taskloom import TaskKey, TaskService


def _backlog(job: Job) -> Figures:
    """How fast a worker takes tasks, finishes included, while many more wait."""

    async def run() -> Figures:
        await prefill_waiting(database(job), job.waiting)
        module, runs = application(database(job))
        runs.goal = job.count
        begin = time.perf_counter()
        async with module.worker(concurrency=job.concurrency):
            await runs.reached.wait()
            seconds = time.perf_counter() - begin
        await module.aclose()
        return {"rate": job.count / seconds}

    return asyncio.run(run())


def _reads(job: Job) -> Figures:
    async def run() -> Figures:
        keys = await prefill_finished(database(job), job.old)
        module, _ = application(database(job))
        figures = await _read_times(module.task_service, keys, job.count)
        await module.aclose()
        return figures

    return asyncio.run(run())


async def _read_times(service: TaskService, keys: Sequence[TaskKey], count: int) -> Figures:
    chosen = random.Random(1)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "get": lambda: service.get_task(chosen.choice(keys)),
        "list": lambda: service.list_tasks(TENANT),
        "list_status": lambda: service.list_tasks(TENANT, status="FAILED"),
        "list_type": lambda: service.list_tasks(TENANT, task_type="rare"),
    }
    figures = {}
    for name, call in calls.items():
        times = [await _time(call) for _ in range(count + 1)]
        figures[name] = percentile(times[1:], 50) * 1000
    return figures


async def _time(call: Callable[[], Awaitable[object]]) -> float:
    begin = time.perf_counter()
    await call()
    return time.perf_counter() - begin


MEASUREMENTS: Final[dict[str, Measurement]] = {"backlog": _backlog, "reads": _reads}
