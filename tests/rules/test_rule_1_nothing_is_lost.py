"""Rule 1: when `create_…` returns the task is on disk, and it will be dispatched even if the caller dies at once."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from taskloom import NewTask, StepFunctionTaskEvent, TaskModule, TaskQueueEvent, TaskStatus
from taskloom.errors import StoreError
from taskloom.lifecycle import Refused
from taskloom.model import Kind, TaskEntity
from taskloom.ports import Backend, Served
from taskloom.service import TaskService
from tests.rules.breaking import assert_bites
from tests.support.clock import FakeClock
from tests.support.faults import Crash, CrashAt, Inner, PortCall, tapped
from tests.support.rules import check_rules
from tests.support.scenarios import (
    DEAD_LETTER,
    DROPPED,
    FAN_OUT,
    SINGLE,
    TENANT,
    Scenario,
    all_tasks,
    module_over,
    open_backend,
    work,
)

LARGE = "x" * 100_000


def define(module: TaskModule) -> None:
    """Handlers that tell whether they saw their whole input."""

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> int:
        return len(event.task.input)

    @module.step_function_task("cat")
    async def cats(event: StepFunctionTaskEvent) -> int:
        return len(event.task.input)


def create_one(service: TaskService) -> Awaitable[Any]:
    return service.create_task(tenant_code=TENANT, task_type="cat", input=LARGE)


def create_many(service: TaskService) -> Awaitable[Any]:
    return service.create_tasks([NewTask(tenant_code=TENANT, task_type="cat", input=text) for text in ("a", LARGE)])


def create_fan_out(service: TaskService) -> Awaitable[Any]:
    return service.create_step_function_task(tenant_code=TENANT, task_type="cat", input=["x" * 2000] * 150)


CREATES = {"create_task": create_one, "create_tasks": create_many, "create_step_function_task": create_fan_out}


async def check_all_run(backend: Backend) -> list[TaskEntity[Any]]:
    """Assert that whatever is there runs to its end, with the whole of its input."""
    module = module_over(backend)
    define(module)
    await work(module, concurrency=8)
    tasks = [await module.task_service.get_task(task.key) for task in await all_tasks(backend)]
    for task in tasks:
        assert task.status is TaskStatus.COMPLETED, task.error
        if task.kind is Kind.TASK:
            assert task.result in (1, 100_000)
        else:
            subs = [sub async for sub in module.task_service.iter_sub_tasks(task.key)]
            assert [sub.result for sub in subs] == [2000] * 150
    return tasks


@pytest.mark.parametrize("create", CREATES.values(), ids=CREATES.keys())
def test_what_create_returned_is_in_the_file_and_on_the_stream(
    backend: Backend, database: Path, create: Callable[[TaskService], Awaitable[Any]]
) -> None:
    """Seen by another process; and no message yet: a worker, never the creator, makes the message of the record."""

    async def main() -> None:
        await create(module_over(backend).task_service)
        other = open_backend(database, backend.clock)
        tasks = await all_tasks(other)
        assert tasks
        assert all(task.status is TaskStatus.PENDING and task.dispatch is not None for task in tasks)
        due = await other.stream.next_due()
        assert due is not None
        assert due <= other.clock.now()
        assert await other.queue.next_due(Served(tasks=None, fan_outs=None)) is None
        records = await other.stream.take(10, again_at=other.clock.now())
        assert [record.image for record in records] == tasks
        assert await check_all_run(other)
        await asyncio.to_thread(other.close)

    asyncio.run(main())


@pytest.mark.parametrize("create", CREATES.values(), ids=CREATES.keys())
def test_a_creator_that_dies_at_any_call(
    tmp_path: Path, clock: FakeClock, create: Callable[[TaskService], Awaitable[Any]]
) -> None:
    """The payload is written first, the row that names it second: there is a whole task, or none."""

    async def die(database: Path, number: int, after: bool) -> bool:
        backend = open_backend(database, clock)
        tap = CrashAt(number, after=after)
        with suppress(Crash):
            await create(module_over(tapped(backend, tap)).task_service)
        await asyncio.to_thread(check_rules, database)
        tasks = await check_all_run(backend)
        if tap.at is None or (tap.at.name == "store.create" and after):
            assert tasks, "it was on disk"
        await asyncio.to_thread(backend.close)
        check_rules(database)
        return tap.at is not None

    for number in count(1):
        died = [asyncio.run(die(tmp_path / f"{number}-{after}.db", number, after)) for after in (False, True)]
        if not any(died):
            assert number > 1
            break


def test_a_creator_that_was_told_of_an_error_has_created_nothing_halfway(tmp_path: Path, clock: FakeClock) -> None:
    """An input that breaks off: nothing is created, and what was stored of it is taken away again."""
    backend = open_backend(tmp_path / "tasks.db", clock)

    def broken_off() -> Any:
        yield from ["x" * 2000] * 150
        raise LookupError("the source broke off")

    async def main() -> None:
        service = module_over(backend).task_service
        with pytest.raises(LookupError):
            await service.create_step_function_task(tenant_code=TENANT, task_type="cat", input=broken_off())
        assert await all_tasks(backend) == []
        assert await backend.stream.next_due() is None

    asyncio.run(main())
    backend.close()
    with closing(sqlite3.connect(tmp_path / "tasks.db")) as connection:
        assert connection.execute("SELECT count(*) FROM payload_items").fetchone() == (0,)


# --- the checks bite -------------------------------------------------------------------------------------------------


async def _forgets_dispatch(call: PortCall, inner: Inner) -> Any:
    """Tasks are stored without their stream record."""
    if call.name == "store.create":
        return await inner([replace(row, entity=replace(row.entity, dispatch=None)) for row in call.args[0]])
    return await inner()


async def _loses_messages(call: PortCall, inner: Inner) -> Any:
    """Records are settled without their messages."""
    if call.name == "stream.settle":
        done, failures = call.args
        return await inner([(sequence, None) for sequence, _ in done], failures)
    return await inner()


async def _rejects_nothing(call: PortCall, inner: Inner) -> Any:
    """A task that nothing will ever run is left alone."""
    if call.name == "store.update" and call.args[0].patch.get("status") is TaskStatus.FAILED:
        return Refused(None)
    return await inner()


@pytest.mark.parametrize("scenario", [SINGLE, FAN_OUT], ids=str)
def test_a_store_that_forgets_dispatch_is_noticed(tmp_path: Path, scenario: Scenario) -> None:
    assert_bites(scenario, tmp_path, _forgets_dispatch)


@pytest.mark.parametrize("scenario", [SINGLE, FAN_OUT], ids=str)
def test_a_stream_that_loses_messages_is_noticed(tmp_path: Path, scenario: Scenario) -> None:
    assert_bites(scenario.watched(), tmp_path, _loses_messages)


@pytest.mark.parametrize("scenario", [DROPPED, DEAD_LETTER], ids=str)
def test_a_task_that_is_silently_dropped_is_noticed(tmp_path: Path, scenario: Scenario) -> None:
    assert_bites(scenario, tmp_path, _rejects_nothing)


def test_a_payload_that_is_not_there_is_noticed(tmp_path: Path, clock: FakeClock) -> None:
    """A store that writes the row first, and dies: the check of the tests above sees it."""
    backend = open_backend(tmp_path / "tasks.db", clock)

    async def loses_payloads(call: PortCall, inner: Inner) -> Any:
        return call.args[0] if call.name == "payloads.put" else await inner()

    async def main() -> None:
        await create_one(module_over(tapped(backend, loses_payloads)).task_service)
        with pytest.raises((AssertionError, StoreError)):
            await check_all_run(backend)

    asyncio.run(main())
    backend.close()
