"""Fan-outs."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any, Final

from bench.child import Children
from bench.figures import file_figures, log_size, peak_memory
from bench.job import Figures, Job, Measurement
from bench.loom.app import TENANT, WAIT, application, database
from taskloom import TaskEntity, TaskService, TaskStatus


def _inputs(count: int) -> Iterator[dict[str, int]]:
    return ({"n": number} for number in range(count))


async def _create(service: TaskService, count: int) -> TaskEntity[Any]:
    return await service.create_step_function_task(tenant_code=TENANT, task_type="each", input=_inputs(count))


def _check(parent: TaskEntity[Any], count: int) -> None:
    attributes = parent.attributes
    assert parent.status is TaskStatus.COMPLETED, f"{parent.key} is {parent.status}: {parent.error}"
    assert attributes.sub_task_count == attributes.sub_task_succeed_count == count, attributes
    assert attributes.sub_task_failed_count == 0, attributes


def _join(job: Job) -> Figures:
    async def run() -> Figures:
        module, runs = application(database(job))
        service = module.task_service
        async with module.worker(concurrency=job.concurrency):
            _check(await service.wait((await _create(service, 1)).key, WAIT), 1)
            begin = time.perf_counter()
            parent = await service.wait((await _create(service, job.count)).key, WAIT)
            joined = time.perf_counter() - begin
            results = [task.result async for task in service.iter_sub_tasks(parent.key)]
            read = time.perf_counter() - begin
        _check(parent, job.count)
        assert results == list(range(job.count)), "the results are not those of the inputs"
        assert runs.count == job.count + 1, f"{runs.count} runs"
        await module.aclose()
        return {"joined": joined, "read": read}

    return asyncio.run(run())


def _large(job: Job) -> Figures:
    module, _ = application(database(job))
    service = module.task_service

    async def run() -> tuple[float, float]:
        begin = time.perf_counter()
        parent = await _create(service, job.count)
        created = time.perf_counter() - begin
        done = await service.wait(parent.key, WAIT)
        seconds = time.perf_counter() - begin
        _check(done, job.count)
        return created, seconds

    with Children("bench.loom.worker", [str(database(job)), str(job.concurrency)], job.processes) as workers:
        created, seconds = asyncio.run(run())
        log_mb = log_size(database(job))
    runs = sum(report["runs"] for report in workers.reports)
    assert runs == job.count, f"{runs} runs of {job.count} sub-tasks"
    module.close()
    return {
        "rate": job.count / seconds,
        "create_rate": job.count / created,
        "producer_mb": peak_memory(),
        "worker_mb": max(report["peak_mb"] for report in workers.reports),
        **file_figures(database(job), job.count, log_mb),
    }


MEASUREMENTS: Final[dict[str, Measurement]] = {"join": _join, "fan-out": _large}
