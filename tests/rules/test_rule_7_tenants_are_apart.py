"""Rule 7: a tenant sees only its own tasks, on every path."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from taskloom import InvokeContext, StepFunctionTaskEvent, TaskModule, TaskQueueEvent, TaskStatus
from taskloom.errors import InvalidInput, TaskNotFound
from taskloom.model import TaskEntity, TaskKey
from taskloom.ports import Backend
from taskloom.service import Order, TaskService, TopKind
from tests.support.clock import FakeClock
from tests.support.faults import Inner, PortCall, Tap, tapped
from tests.support.scenarios import module_over, open_backend, work

KINDS: Final[Sequence[TopKind]] = ("TASK", "SFN_TASK")
ORDERS: Final[Sequence[Order]] = ("asc", "desc")
OURS, THEIRS = "acme", "acme-2"
"""Names of which one begins with the other."""


def with_cats(backend: Backend) -> TaskModule:
    module = module_over(backend)

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> str:
        event.log.info("log of %s", event.task.tenant_code)
        return f"result of {event.task.tenant_code}"

    @module.step_function_task("cat")
    async def cats(event: StepFunctionTaskEvent) -> str:
        event.log.info("log of %s", event.task.tenant_code)
        return f"result of {event.task.tenant_code}"

    return module


async def fill(service: TaskService, number: int = 3) -> dict[str, list[TaskEntity[Any]]]:
    """Tasks of both kinds, of two tenants, created in turns."""
    made: dict[str, list[TaskEntity[Any]]] = {OURS: [], THEIRS: []}
    for index in range(number):
        for tenant in made:
            own = f"input {index} of {tenant}"
            made[tenant] += [
                await service.create_task(tenant_code=tenant, task_type="cat", input=own, name=own),
                await service.create_step_function_task(tenant_code=tenant, task_type="cat", input=[own], name=own),
            ]
    return made


async def seen_by(service: TaskService, tenant: str) -> list[TaskEntity[Any]]:
    """All that the lists of a tenant show, by every way through them."""
    seen: list[TaskEntity[Any]] = []
    for kind in KINDS:
        for order in ORDERS:
            seen += [task async for task in service.iter_tasks(tenant, type=kind, order=order)]
            cursor = None
            while True:
                page = await service.list_tasks(
                    tenant,
                    type=kind,
                    order=order,
                    limit=1,
                    cursor=cursor,
                    task_type="cat",
                )
                seen += page.items
                cursor = page.cursor
                if cursor is None:
                    break
        for status in TaskStatus:
            seen += (await service.list_tasks(tenant, type=kind, status=status)).items
    for parent in [task for task in seen if task.kind == "SFN_TASK"]:
        seen += [sub async for sub in service.iter_sub_tasks(parent.key)]
        seen += (await service.list_sub_tasks(parent.key, limit=1)).items
    return seen


def check_own(seen: list[TaskEntity[Any]], tenant: str, expected: list[TaskEntity[Any]]) -> None:
    """Assert that nothing in *seen* is another tenant's, and that nothing of this one is missing."""
    for task in seen:
        assert task.tenant_code == task.key.tenant_code == tenant
        assert tenant == str(task.name).rpartition(" of ")[2]
        inputs = task.input if isinstance(task.input, list) else [task.input]
        assert all(str(own).rpartition(" of ")[2] == tenant for own in inputs)
        assert task.result in (None, f"result of {tenant}")
    assert {task.key for task in seen} >= {task.key for task in expected}


def test_lists_show_a_tenant_its_own_tasks(backend: Backend) -> None:
    """Before they run, and after."""

    async def main() -> None:
        module = with_cats(backend)
        made = await fill(module.task_service)
        for _ in range(2):
            for tenant, expected in made.items():
                check_own(await seen_by(module.task_service, tenant), tenant, expected)
            await work(module)

    asyncio.run(main())


def test_a_cursor_of_another_tenant_leads_to_ones_own_tasks(backend: Backend) -> None:
    """A cursor is a place in the order, no right to anything."""

    async def main() -> None:
        service = with_cats(backend).task_service
        await fill(service)
        page = await service.list_tasks(THEIRS, limit=1)
        assert page.cursor is not None
        ours = await service.list_tasks(OURS, cursor=page.cursor)
        assert ours.items
        check_own(list(ours.items), OURS, [])
        parent = (await service.list_tasks(THEIRS, type="SFN_TASK")).items[0]
        with pytest.raises(InvalidInput):
            await service.list_tasks(OURS, cursor="not one of ours")
        with pytest.raises(InvalidInput):
            await service.list_sub_tasks(parent.key, cursor=page.cursor)

    asyncio.run(main())


def forged(key: TaskKey) -> list[TaskKey]:
    """Keys that another tenant might try for the task *key*."""
    parts = key.parts
    tries = [
        TaskKey(key.pk.replace(THEIRS, OURS), key.sk),
        TaskKey(key.pk + "x", key.sk),
        TaskKey.single(OURS, parts.task_type, parts.code),
        TaskKey.step_function(OURS, parts.task_type, parts.code),
        *(TaskKey.sub_task(OURS, parts.task_type, parts.code, index) for index in (0, 1, 5000)),
        TaskKey(f"SFN_TASK#{OURS}#{parts.code}#0", f"{parts.task_type}#{parts.code}#0000000"),
        TaskKey.single(THEIRS, "dog", parts.code),
        TaskKey.step_function(THEIRS, "dog", parts.code),
    ]
    return [attempt for attempt in tries if attempt != key]


READERS: dict[str, Callable[[TaskService, TaskKey], Awaitable[Any]]] = {
    "get_task": lambda service, key: service.get_task(key),
    "wait": lambda service, key: service.wait(key, timeout=0),
    "list_sub_tasks": lambda service, key: service.list_sub_tasks(key),
    "iter_sub_tasks": lambda service, key: anext(service.iter_sub_tasks(key)),
    "logs": lambda service, key: service.logs(key),
    "follow_logs": lambda service, key: anext(service.follow_logs(key)),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
@pytest.mark.parametrize("ran", [False, True], ids=["before it ran", "after it ran"])
def test_a_task_of_another_tenant_is_not_found(
    backend: Backend, read: Callable[[TaskService, TaskKey], Awaitable[Any]], ran: bool
) -> None:
    """Whatever key is tried, with the right code; and it says the same as for a task that never was."""

    async def main() -> None:
        module = with_cats(backend)
        made = await fill(module.task_service, 1)
        if ran:
            await work(module)
        for task in made[THEIRS]:
            for key in forged(task.key):
                with pytest.raises(TaskNotFound):
                    await read(module.task_service, key)

    asyncio.run(main())


def test_sub_tasks_are_found_through_their_own_parent_only(backend: Backend) -> None:
    """Not through a parent of another tenant, nor beyond the end of the list."""

    async def main() -> None:
        module = with_cats(backend)
        made = await fill(module.task_service, 1)
        await work(module)
        ours, theirs = (tasks[1] for tasks in made.values())
        sub = (await module.task_service.list_sub_tasks(theirs.key)).items[0]
        assert sub.tenant_code == THEIRS
        assert (await module.task_service.get_task(sub.key)).result == f"result of {THEIRS}"
        mixed = TaskKey.sub_task(OURS, "cat", theirs.code, 0)
        with pytest.raises(TaskNotFound):
            await module.task_service.get_task(mixed)
        with pytest.raises(TaskNotFound):
            await module.task_service.get_task(TaskKey.sub_task(OURS, "cat", ours.code, 1))

    asyncio.run(main())


def test_the_log_of_a_task_is_its_own(backend: Backend) -> None:
    """Of both tenants, of both kinds; and a cursor of another one's log is a place, no right to anything."""

    async def main() -> None:
        module = with_cats(backend)
        made = await fill(module.task_service, 1)
        await work(module)
        for tenant, (task, parent) in made.items():
            sub = (await module.task_service.list_sub_tasks(parent.key)).items[0]
            for key in (task.key, sub.key):
                page = await module.task_service.logs(key)
                assert [line.message for line in page.items] == [f"log of {tenant}"]
        ours, theirs = (tasks[0].key for tasks in made.values())
        cursor = (await module.task_service.logs(theirs)).cursor
        assert (await module.task_service.logs(ours, cursor)).items == []

    asyncio.run(main())


def test_nobody_creates_tasks_for_another_tenant(backend: Backend) -> None:
    """With the context of a caller; and nothing of it is stored."""

    async def main() -> None:
        service = with_cats(backend).task_service
        caller = InvokeContext(tenant_code=OURS, user_id="u")
        for create in (
            service.create_task(tenant_code=THEIRS, task_type="cat", invoke_context=caller),
            service.create_step_function_task(tenant_code=THEIRS, task_type="cat", input=[1], invoke_context=caller),
        ):
            with pytest.raises(InvalidInput, match="is not the tenant of the caller"):
                await create
        assert (await service.list_tasks(THEIRS)).items == []
        assert (await service.list_tasks(THEIRS, type="SFN_TASK")).items == []
        task = await service.create_task(tenant_code=OURS, task_type="cat", invoke_context=caller)
        assert (await service.get_task(task.key)).created_by == "u"

    asyncio.run(main())


def test_a_handler_gets_its_own_input(backend: Backend) -> None:
    """Tasks of two tenants at the same time, inline and from the payload store: nobody's input reaches another."""
    module = module_over(backend)

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> str:
        assert event.task.input[0] == event.task.tenant_code == event.task.key.tenant_code
        return event.task.tenant_code

    async def main() -> None:
        made = [
            await module.task_service.create_task(tenant_code=tenant, task_type="cat", input=[tenant, "x" * size])
            for size in (1, 100_000)
            for tenant in (OURS, THEIRS)
        ]
        await work(module, 4)
        for task in made:
            assert (await module.task_service.get_task(task.key)).result == task.tenant_code

    asyncio.run(main())


# --- the checks bite -------------------------------------------------------------------------------------------------


async def _lists_everybody(call: PortCall, inner: Inner) -> Any:
    """A store that lists all tenants whose names begin alike."""
    if call.name == "store.list_tasks":
        tasks, after = await inner()
        others, _ = await inner(replace(call.args[0], tenant_code=THEIRS, after=None))
        return [*tasks, *others], after
    return await inner()


def _reads_any_tenant(backend: Backend) -> Tap:
    """A store that looks for the code only."""

    async def tap(call: PortCall, inner: Inner) -> Any:
        answer = await inner()
        if call.name == "store.get" and answer is None:
            parts = call.args[0].parts
            for tenant in (OURS, THEIRS):
                for make in (TaskKey.single, TaskKey.step_function):
                    answer = answer or await backend.store.get(make(tenant, parts.task_type, parts.code))
        return answer

    return tap


def test_a_store_that_lists_others_is_noticed(tmp_path: Path, clock: FakeClock) -> None:
    backend = open_backend(tmp_path / "broken.db", clock)

    async def main() -> None:
        service = with_cats(tapped(backend, _lists_everybody)).task_service
        made = await fill(service)
        with pytest.raises(AssertionError):
            check_own(await seen_by(service, OURS), OURS, made[OURS])

    asyncio.run(main())
    backend.close()


def test_a_store_that_does_not_look_at_the_tenant_is_noticed(tmp_path: Path, clock: FakeClock) -> None:
    backend = open_backend(tmp_path / "broken.db", clock)

    async def main() -> None:
        service = with_cats(tapped(backend, _reads_any_tenant(backend))).task_service
        made = await fill(service, 1)
        (theirs, _) = made[THEIRS]
        stolen = await service.get_task(TaskKey.single(OURS, "cat", theirs.code))
        with pytest.raises(AssertionError):
            check_own([stolen], OURS, [])

    asyncio.run(main())
    backend.close()
