"""Single tasks from their creation to the result that was read back."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from bench.child import Children
from bench.figures import file_figures, latency_figures, log_size
from bench.job import Figures, Job, Measurement
from bench.loom.app import TENANT, WAIT, application, database
from bench.loom.create import IN_FLIGHT, create, create_concurrently, create_in_bulk
from bench.loom.prefill import prefill_expired, prefill_finished
from taskloom import TaskKey, TaskService, TaskStatus
from taskloom.clock import SystemClock
from taskloom.embedded.backend import embedded_backend
from taskloom.ids import RandomIds

Submit: TypeAlias = Callable[[TaskService, int], Awaitable[list[TaskKey]]]

GAP: Final = 0.02
"""Seconds of quiet before each sample of a latency, so that the worker is idle."""


async def read_back(service: TaskService, keys: Sequence[TaskKey]) -> None:
    """Wait for each task and check its result: the number of its key, at the first attempt."""
    numbered = iter(enumerate(keys))

    async def lane() -> None:
        for number, key in numbered:
            task = await service.wait(key, WAIT)
            assert task.status is TaskStatus.COMPLETED, f"{key} is {task.status}"
            assert task.result == number, f"the result of task {number} is {task.result!r}"
            assert task.attempt == 1, f"task {number} took {task.attempt} attempts"

    await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))


async def _through(service: TaskService, count: int, submit: Submit) -> float:
    begin = time.perf_counter()
    keys = await submit(service, count)
    await read_back(service, keys)
    return time.perf_counter() - begin


def _once(runs: int, count: int) -> None:
    assert runs == count, f"{runs} runs of {count} tasks"


def _in_one_process(job: Job) -> Figures:
    async def run() -> Figures:
        module, runs = application(database(job))
        async with module.worker(concurrency=job.concurrency):
            await read_back(module.task_service, [await create(module.task_service, 0)])
            seconds = await _through(module.task_service, job.count, create_concurrently)
        _once(runs.count, job.count + 1)
        await module.aclose()
        return {"rate": job.count / seconds}

    return asyncio.run(run())


def _with_workers(submit: Submit) -> Measurement:
    def measure(job: Job) -> Figures:
        if job.old:
            asyncio.run(prefill_finished(database(job), job.old))
        module, _ = application(database(job))

        async def run() -> float:
            await read_back(module.task_service, [await create(module.task_service, 0)])
            return await _through(module.task_service, job.count, submit)

        with Children("bench.loom.worker", [str(database(job)), str(job.concurrency)], job.processes) as workers:
            seconds = asyncio.run(run())
            log_mb = log_size(database(job))
        _once(sum(report["runs"] for report in workers.reports), job.count + 1)
        module.close()
        return {
            "rate": job.count / seconds,
            "worker_mb": max(report["peak_mb"] for report in workers.reports),
            **file_figures(database(job), job.old + job.count, log_mb),
        }

    return measure


def _while_removing(job: Job) -> Figures:
    """Tasks from their creation to the result, while the expired ones in the file are removed."""
    from taskloom.execution.sweeper import (
        Sweeper,
    )  # not above: an older Taskloom that this one is compared with has none

    path = database(job)
    asyncio.run(prefill_expired(path, job.old))
    module, _ = application(path)
    backend = embedded_backend(path, "FULL", SystemClock(), RandomIds())

    async def sweep(stopping: asyncio.Event) -> None:
        while not stopping.is_set():  # one look lasts a minute at most
            await Sweeper(backend, "bench").look(stopping)
            await asyncio.sleep(GAP)

    async def run() -> float:
        await read_back(module.task_service, [await create(module.task_service, 0)])
        stopping = asyncio.Event()
        sweeping = asyncio.create_task(sweep(stopping))
        try:
            return await _through(module.task_service, job.count, create_concurrently)
        finally:
            stopping.set()
            await sweeping

    with Children("bench.loom.worker", [str(path), str(job.concurrency)], job.processes) as workers:
        seconds = asyncio.run(run())
    _once(sum(report["runs"] for report in workers.reports), job.count + 1)
    left = asyncio.run(backend.retention.expired(job.old))
    assert left < job.old, "nothing was removed"
    backend.close()
    module.close()
    return {"rate": job.count / seconds}


async def _samples(service: TaskService, count: int) -> Figures:
    starts: list[float] = []
    results: list[float] = []
    for _ in range(count + 1):
        await asyncio.sleep(GAP)
        begin = time.monotonic_ns()
        task = await service.create_task(tenant_code=TENANT, task_type="stamp")
        done = await service.wait(task.key, WAIT)
        end = time.monotonic_ns()
        assert isinstance(done.result, int), done
        starts.append((done.result - begin) / 1e9)
        results.append((end - begin) / 1e9)
    return latency_figures(starts[1:], results[1:])  # the first one opens files


def _latency_one_process(job: Job) -> Figures:
    async def run() -> Figures:
        module, _ = application(database(job))
        async with module.worker(concurrency=job.concurrency):
            figures = await _samples(module.task_service, job.count)
        await module.aclose()
        return figures

    return asyncio.run(run())


def _latency_two_processes(job: Job) -> Figures:
    module, _ = application(database(job))
    with Children("bench.loom.worker", [str(database(job)), str(job.concurrency)], 1):
        figures = asyncio.run(_samples(module.task_service, job.count))
    module.close()
    return figures


MEASUREMENTS: Final[dict[str, Measurement]] = {
    "end-to-end": _with_workers(create_concurrently),
    "end-to-end-bulk": _with_workers(create_in_bulk),
    "end-to-end-removing": _while_removing,
    "end-to-end-one-process": _in_one_process,
    "latency-one-process": _latency_one_process,
    "latency-two-processes": _latency_two_processes,
}
