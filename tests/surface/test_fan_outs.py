"""A fan-out as a whole: the map of its sub-tasks, and its failures by what they say."""

import asyncio

import pytest

from taskloom import StepFunctionTaskEvent, TaskStatus
from taskloom.errors import InvalidInput, TaskNotFound
from taskloom.model import TaskKey
from taskloom.operations.fan_outs import Cell
from tests.surface.running import Entity, MakeModule, drained, fan_out, single, sub_tasks, within_patience

COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED
PENDING, CANCELLED = TaskStatus.PENDING, TaskStatus.CANCELLED


def odd_ones_fail(event: StepFunctionTaskEvent) -> int:
    number = event.input.input
    if number % 10 == 3:
        raise ValueError(f"row {number} is bad")
    if number == 8:
        raise KeyError("colour")
    return int(number)


async def recount(module: object, parent: Entity, cells: list[Cell]) -> list[Cell]:
    """The same cells, counted from the list of sub-tasks."""
    tasks = await sub_tasks(module, parent)  # type: ignore[arg-type]
    counted = []
    for cell in cells:
        counts: dict[TaskStatus, int] = {}
        for task in tasks[cell.first : cell.end]:
            counts[task.status] = counts.get(task.status, 0) + 1
        counted.append(Cell(first=cell.first, end=cell.end, counts=counts))
    return counted


@pytest.mark.parametrize("chunk_size", [1, 7, 100])
@pytest.mark.parametrize("cells", [1, 3, 10, 1000])
def test_the_map_counts_every_sub_task_once(make_module: MakeModule, chunk_size: int, cells: int) -> None:
    module = make_module()
    module.step_function_task("job", chunk_size=chunk_size)(odd_ones_fail)

    async def story() -> None:
        parent = await fan_out(module, range(50))
        found = list(await module.task_service.fan_outs.map(parent.key, cells=cells))
        assert found == await recount(module, parent, found)
        assert [found[0].first, *(cell.end for cell in found)] == [*(cell.first for cell in found), 50]
        assert len(found) <= cells
        await module.task_service.retry_task(parent.key)  # its first chunks run again, and end the same way
        for is_drained in (False, True):
            if is_drained:
                await drained(module)
            found = list(await module.task_service.fan_outs.map(parent.key, cells=cells))
            assert found == await recount(module, await module.task_service.get_task(parent.key), found)

    asyncio.run(story())


def test_a_part_of_the_map_is_exact_to_the_sub_task(make_module: MakeModule) -> None:
    module = make_module()
    module.step_function_task("job", chunk_size=10)(odd_ones_fail)

    async def story() -> None:
        parent = await fan_out(module, range(50))
        found = await module.task_service.fan_outs.map(parent.key, first=2, end=5)
        assert [(cell.first, cell.end, dict(cell.counts)) for cell in found] == [
            (2, 3, {COMPLETED: 1}),
            (3, 4, {FAILED: 1}),
            (4, 5, {COMPLETED: 1}),
        ]
        assert await module.task_service.fan_outs.map(parent.key, first=50) == []

    asyncio.run(story())


def test_what_nobody_has_claimed_is_pending_and_later_cancelled(make_module: MakeModule) -> None:
    module = make_module()
    module.step_function_task("job")(odd_ones_fail)

    async def story() -> None:
        service = module.task_service
        parent = await service.create_step_function_task(tenant_code="acme", task_type="job", input=range(20))
        assert [cell.counts for cell in await service.fan_outs.map(parent.key, cells=2)] == [{PENDING: 10}] * 2
        await service.cancel_task(parent.key)
        assert [cell.counts for cell in await service.fan_outs.map(parent.key, cells=2)] == [{CANCELLED: 10}] * 2
        assert (await service.fan_outs.failures(parent.key)).groups == []

    asyncio.run(story())


def test_large_cells_begin_where_chunks_do(make_module: MakeModule) -> None:
    module = make_module()
    module.step_function_task("job", chunk_size=10)(odd_ones_fail)

    async def story() -> None:
        parent = await fan_out(module, range(50))
        found = list(await module.task_service.fan_outs.map(parent.key, first=13, end=47, cells=3))
        assert [(cell.first, cell.end) for cell in found] == [(10, 30), (30, 47)]
        assert found == await recount(module, parent, found)

    asyncio.run(story())


def test_what_a_cancelled_chunk_left_is_cancelled(make_module: MakeModule) -> None:
    """Its row counts what ended well or badly; the rest was stopped, or never began."""
    module = make_module()
    running = asyncio.Event()

    @module.step_function_task("job", chunk_size=10)
    async def job(event: StepFunctionTaskEvent) -> None:
        if event.input.input == 13:
            running.set()
            await asyncio.Event().wait()

    async def story() -> None:
        service = module.task_service
        parent = await service.create_step_function_task(tenant_code="acme", task_type="job", input=range(30))
        async with module.worker(concurrency=1) as worker:
            working = asyncio.create_task(worker.run())
            await within_patience(running.wait())
            await service.cancel_task(parent.key)
            parent = await service.wait(parent.key, timeout=30)
            worker.stop()
            await working
        found = list(await service.fan_outs.map(parent.key, cells=3))
        assert [cell.counts for cell in found] == [{COMPLETED: 10}, {COMPLETED: 3, CANCELLED: 7}, {CANCELLED: 10}]
        assert found == await recount(module, parent, found)

    asyncio.run(story())


def test_an_empty_fan_out_has_an_empty_map(make_module: MakeModule) -> None:
    module = make_module()
    module.step_function_task("job")(odd_ones_fail)

    async def story() -> None:
        parent = await fan_out(module, [])
        assert await module.task_service.fan_outs.map(parent.key) == []

    asyncio.run(story())


@pytest.mark.parametrize("chunk_size", [1, 7])
def test_failures_are_grouped_by_what_they_say(make_module: MakeModule, chunk_size: int) -> None:
    """Numbers in a message do not tell errors apart."""
    module = make_module()
    module.step_function_task("job", chunk_size=chunk_size)(odd_ones_fail)

    async def story() -> None:
        parent = await fan_out(module, range(50))
        failures = await module.task_service.fan_outs.failures(parent.key)
        assert [(group.type, group.message, group.count, group.examples) for group in failures.groups] == [
            ("ValueError", "row 3 is bad", 5, (3, 13, 23, 33, 43)),
            ("KeyError", "'colour'", 1, (8,)),
        ]
        assert (failures.seen, failures.more) == (6, False)

    asyncio.run(story())


def test_what_is_no_fan_out_has_no_map(make_module: MakeModule) -> None:
    module = make_module()
    module.task("job")(lambda event: None)

    async def story() -> None:
        service = module.task_service
        task = await single(module)
        with pytest.raises(InvalidInput, match="no step function task"):
            await service.fan_outs.map(task.key)
        with pytest.raises(TaskNotFound):
            await service.fan_outs.failures(TaskKey.step_function("acme", "job", task.code))
        parent = await service.create_step_function_task(tenant_code="acme", task_type="other", input=range(20))
        for wrong in ({"first": -1}, {"end": -1}, {"first": 2, "end": 1}, {"cells": 0}, {"cells": 2001}):
            with pytest.raises(InvalidInput, match=next(iter(reversed(wrong)))):
                await service.fan_outs.map(parent.key, **wrong)

    asyncio.run(story())
