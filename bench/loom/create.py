"""Creating tasks."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from bench.figures import timed
from bench.job import Figures, Job, Measurement
from bench.loom.app import TENANT, application, database
from taskloom import NewTask, TaskEntity, TaskKey, TaskModule, TaskService

IN_FLIGHT: Final = 64
"""Calls that wait for their answer at the same time, as in a server with as many requests."""


async def create(service: TaskService, number: int) -> TaskKey:
    """One task; its result will be *number*."""
    return (await service.create_task(tenant_code=TENANT, task_type="noop", input={"n": number})).key


async def create_concurrently(service: TaskService, count: int) -> list[TaskKey]:
    """*count* tasks, one call each, IN_FLIGHT calls at a time; in the order of their numbers."""
    keys: dict[int, TaskKey] = {}
    numbers = iter(range(count))

    async def lane() -> None:
        for number in numbers:
            keys[number] = await create(service, number)

    await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))
    return [keys[number] for number in range(count)]


async def create_in_bulk(service: TaskService, count: int) -> list[TaskKey]:
    """*count* tasks with one call."""
    made = await service.create_tasks(
        [NewTask(tenant_code=TENANT, task_type="noop", input={"n": number}) for number in range(count)]
    )
    return [task.key for task in made]


async def _one_at_a_time(service: TaskService, count: int) -> list[TaskKey]:
    return [await create(service, number) for number in range(count)]


def _measured(creating: Callable[[TaskService, int], Awaitable[list[TaskKey]]]) -> Measurement:
    def measure(job: Job) -> Figures:
        module, _ = application(database(job))

        async def run() -> float:
            await create(module.task_service, 0)  # opens the file
            begin = time.perf_counter()
            await creating(module.task_service, job.count)
            return time.perf_counter() - begin

        seconds = asyncio.run(run())
        _check(module, job.count + 1)
        return {"rate": job.count / seconds}

    return measure


def _synchronously(job: Job) -> Figures:
    module, _ = application(database(job))
    service = module.sync.task_service

    def one(number: int) -> TaskEntity[object]:
        return service.create_task(tenant_code=TENANT, task_type="noop", input={"n": number})

    one(0)
    seconds = timed(lambda: [one(number) for number in range(job.count)])
    _check(module, job.count + 1)
    return {"rate": job.count / seconds}


def _check(module: TaskModule, expected: int) -> None:
    found = sum(1 for _ in module.sync.task_service.iter_tasks(TENANT))
    assert found == expected, f"{found} tasks were stored, not {expected}"
    module.close()


MEASUREMENTS: Final[dict[str, Measurement]] = {
    "create-one": _measured(_one_at_a_time),
    "create-one-sync": _synchronously,
    "create-concurrent": _measured(create_concurrently),
    "create-bulk": _measured(create_in_bulk),
}
