"""Lists of tasks: both kinds in one order, filtered, without losing or repeating any."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from taskloom import NewTask, TaskModule
from taskloom.model import TaskEntity, TaskStatus
from taskloom.web.dashboard import listing
from taskloom.web.dashboard.listing import Wanted, listed
from tests.support.clock import FakeClock
from tests.surface.running import MakeModule


async def mixed(module: TaskModule, clock: FakeClock, count: int) -> list[TaskEntity[Any]]:
    """Tasks of both kinds, newest first; a second lies between two."""
    service, tasks = module.task_service, []
    for number in range(count):
        name = f"Käse {number}"
        if number % 3:
            tasks.append(await service.create_task(tenant_code="acme", task_type=f"t{number % 2}", name=name))
        else:
            tasks.append(
                await service.create_step_function_task(tenant_code="acme", task_type="fan", input=[1], name=name)
            )
        clock.advance(1)
    return tasks[::-1]


async def names(module: TaskModule, limit: int = 50, **wanted: Any) -> list[str]:
    """All pages of a list."""
    found: list[str] = []
    before = wanted.pop("before", None)
    while True:
        page = await listed(module.task_service, Wanted(tenant="acme", before=before, **wanted), limit=limit)
        assert len(page.tasks) <= limit
        found += [task.name for task in page.tasks]
        before = page.before
        if before is None:
            return found


@pytest.mark.parametrize("limit", [1, 2, 7, 50])
def test_both_kinds_come_in_one_order(
    make_module: MakeModule, clock: FakeClock, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PORTION", 5)
    module = make_module(clock=clock)

    async def story() -> None:
        tasks = await mixed(module, clock, 31)
        assert await names(module, limit) == [task.name for task in tasks]

    asyncio.run(story())


def test_each_filter_picks_what_it_says(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)

    async def story() -> None:
        tasks = await mixed(module, clock, 20)

        async def holds(picked: Any, **wanted: Any) -> None:
            expected = [task.name for task in tasks if picked(task)]
            assert expected
            assert await names(module, **wanted) == expected
            assert await names(module, 3, **wanted) == expected

        await holds(lambda task: task.kind == "SFN_TASK", kind="SFN_TASK")
        await holds(lambda task: task.task_type == "t1", task_type="t1")
        await holds(lambda task: task.name.startswith("Käse 1"), text="KÄSE 1")
        await holds(lambda task: task is tasks[4], text=tasks[4].code.lower())
        middle = tasks[9].created_at
        await holds(lambda task: task.created_at >= middle, since=middle)
        await holds(lambda task: task.created_at <= middle, until=middle)
        await holds(lambda task: task is tasks[9], since=middle, until=middle)
        await module.task_service.cancel_task(tasks[3].key)
        assert await names(module, status=TaskStatus.CANCELLED) == [tasks[3].name]
        assert await names(module, since=tasks[0].created_at + timedelta(days=1)) == []

    asyncio.run(story())


def test_a_rare_match_may_take_several_pages(
    make_module: MakeModule, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One page looks into the list only so often; what it has not seen is on the next one."""
    monkeypatch.setattr(listing, "PORTION", 5)
    monkeypatch.setattr(listing, "MAX_LOOKS", 2)
    module = make_module(clock=clock)

    async def story() -> None:
        service = module.task_service
        await service.create_task(tenant_code="acme", task_type="t", name="needle")
        await service.create_tasks(NewTask(tenant_code="acme", task_type="t", name="hay") for _ in range(50))
        page = await listed(service, Wanted(tenant="acme", text="needle"))
        assert page.tasks == []
        assert page.before is not None
        assert await names(module, text="needle") == ["needle"]

    asyncio.run(story())


def test_another_tenants_tasks_are_not_listed(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)

    async def story() -> None:
        await mixed(module, clock, 5)
        assert (await listed(module.task_service, Wanted(tenant="acme-2"))).tasks == []

    asyncio.run(story())
