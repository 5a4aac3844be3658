"""For how long a task is kept once it has ended, and what is left of it then."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from taskloom import NewTask, Settings, TaskModule, TaskQueueEvent, TaskStatus
from taskloom.errors import ExecutionNotFound, InvalidInput, StoreError, TaskExpired, TaskNotFound
from taskloom.execution import sweeper
from tests.support.clock import FakeClock
from tests.support.faults import FailAt, Inner, PortCall, tapped
from tests.support.scenarios import module_over, open_backend
from tests.surface.running import Entity, MakeModule, drained, fan_out, single, within_patience

TABLES = ("tasks", "sub_tasks", "chunks", "executions", "payloads", "payload_items", "task_logs", "chunk_waits")


def counts(database: Path) -> dict[str, int]:
    """Rows by table; those without any are left out."""
    connection = sqlite3.connect(database)
    found = {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}
    connection.close()
    return {table: count for table, count in found.items() if count}


async def swept(module: TaskModule, clock: FakeClock, done: Callable[[], Awaitable[bool]]) -> None:
    """A worker lives until its retention has looked, and *done* says that nothing is left to do."""
    async with module.worker(grace=0):
        while not await done():
            clock.advance(sweeper.EVERY.total_seconds())
            await asyncio.to_thread(clock.now)  # a turn of the loop: the retention is on its way


def test_a_task_is_gone_when_its_time_is_over(make_module: MakeModule, clock: FakeClock) -> None:
    """At once, for every question; and whoever retries it is told that it is gone, and since when."""
    module = make_module(clock=clock)
    module.task("job", ttl=60)(lambda event: None)

    async def scenario() -> None:
        service = module.task_service
        clock.advance(0.5)
        task = await single(module)
        assert task.ttl == task.finished_at + timedelta(seconds=60.5)  # type: ignore[operator]  # never too early
        clock.advance(60)
        assert (await service.get_task(task.key)).status is TaskStatus.COMPLETED
        clock.advance(0.5)
        expired = f"expired at {task.ttl.isoformat(timespec='milliseconds').replace('+00:00', 'Z')}"
        for ask in (
            service.get_task(task.key), service.wait(task.key, 1), service.explain(task.key), service.logs(task.key),
            service.cancel_task(task.key), service.retry_task(task.key, only_failed=False),
        ):  # fmt: skip
            with pytest.raises(TaskExpired, match=expired) as caught:
                await ask
            assert isinstance(caught.value, TaskNotFound)
        assert (await service.list_tasks("acme")).items == []
        assert [task async for task in service.iter_tasks("acme", task_type="job")] == []

    asyncio.run(within_patience(scenario()))


def test_sub_tasks_go_with_their_fan_out(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)
    module.step_function_task("job", ttl=timedelta(minutes=1))(lambda event: None)

    async def scenario() -> None:
        service = module.task_service
        parent = await fan_out(module, [1, 2])
        sub_task = (await service.list_sub_tasks(parent.key)).items[0]
        assert sub_task.ttl is None
        clock.advance(60)
        for ask in (service.get_task(sub_task.key), service.logs(sub_task.key), service.list_sub_tasks(parent.key)):
            with pytest.raises(TaskExpired):
                await ask
        with pytest.raises(ExecutionNotFound):
            await module.step_function_service.describe_execution(parent.execution_arn or "")

    asyncio.run(within_patience(scenario()))


def test_whose_word_counts(make_module: MakeModule, clock: FakeClock, database: Path) -> None:
    """That of the creation, else that of the type, else that of the settings."""
    module = make_module(clock=clock, settings=Settings(database=database, ttl=300))
    module.task("job", ttl=200)(lambda event: None)
    module.task("plain")(lambda event: None)

    async def scenario() -> None:
        service = module.task_service
        ends: list[tuple[Entity, int]] = []
        for type_, ttl, seconds in (("job", 100, 100), ("job", None, 200), ("plain", None, 300)):
            new: Any = {"tenant_code": "acme", "task_type": type_, "ttl": ttl}
            ends.append((await service.create_task(**new), seconds))
            ends.append(((await service.create_tasks([NewTask(**new)]))[0], seconds))
        await drained(module)
        for task, seconds in ends:
            assert (await service.get_task(task.key)).ttl == clock.now() + timedelta(seconds=seconds)

    asyncio.run(within_patience(scenario()))


@pytest.mark.parametrize("end", ["cancelled", "failed", "late"])
def test_it_counts_from_every_kind_of_end(make_module: MakeModule, clock: FakeClock, end: str) -> None:
    module = make_module(clock=clock)

    @module.task("job", ttl=60, deadline=5 if end == "late" else None)
    def job(event: TaskQueueEvent) -> None:
        raise ValueError("no")

    async def scenario() -> None:
        task = await module.task_service.create_task(tenant_code="acme", task_type="job")
        assert task.ttl is None
        if end == "cancelled":
            task = await module.task_service.cancel_task(task.key)
        elif end == "late":
            clock.advance(5)
        await drained(module)
        ended = await module.task_service.get_task(task.key)
        assert ended.ttl == clock.now() + timedelta(seconds=60)
        again = await module.task_service.retry_task(task.key)
        assert again.ttl is None
        clock.advance(3)
        await drained(module)
        again = await module.task_service.get_task(task.key)
        assert again.ttl == clock.now() + timedelta(seconds=60)

    asyncio.run(within_patience(scenario()))


def test_a_worker_removes_all_of_it(make_module: MakeModule, clock: FakeClock, database: Path) -> None:
    """Nothing is left in the file of what has expired; all is left of what has not."""
    module = make_module(clock=clock)

    @module.task("job", ttl=60)
    def job(event: TaskQueueEvent) -> str:
        event.log.info("here")
        return "y" * 100_000

    @module.step_function_task("job", ttl=60, chunk_size=100)
    def job_of_many(event: Any) -> str:
        event.log.info("here")
        return "y" * 100_000 if event.input.input["n"] == 0 else "y"

    module.task("kept")(lambda event: "y" * 100_000)

    async def scenario() -> None:
        kept = await single(module, "x" * 100_000, task_type="kept")
        before = counts(database)
        await single(module, "x" * 100_000)
        await fan_out(module, [{"n": n, "x": "x" * 300} for n in range(400)])
        assert set(counts(database)) == set(TABLES) - {"chunk_waits"}
        clock.advance(60)
        assert await module.task_service.queues.expired() == 2

        async def done() -> bool:
            return await module.task_service.queues.expired() == 0

        await swept(module, clock, done)
        assert counts(database) == before
        assert (await module.task_service.get_task(kept.key)).input == "x" * 100_000
        assert (await module.task_service.get_task(kept.key)).result == "y" * 100_000

    asyncio.run(within_patience(scenario()))


def test_a_retry_of_what_was_removed_finds_nothing(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)
    module.task("job", ttl=60)(lambda event: None)

    async def scenario() -> None:
        task = await single(module)
        clock.advance(60)

        async def gone() -> bool:
            return await module.task_service.queues.expired() == 0

        await swept(module, clock, gone)
        with pytest.raises(TaskNotFound, match="there is no task") as caught:
            await module.task_service.retry_task(task.key, only_failed=False)
        assert not isinstance(caught.value, TaskExpired)

    asyncio.run(within_patience(scenario()))


def test_an_idempotency_key_creates_anew(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)
    module.task("job", ttl=60)(lambda event: None)

    async def scenario() -> None:
        async def create() -> Entity:
            new: Any = {"tenant_code": "acme", "task_type": "job", "idempotency_key": "once"}
            return await module.task_service.create_task(**new)

        first = await create()
        await drained(module)
        assert (await create()).key == first.key
        clock.advance(60)
        second = await create()
        assert second.key != first.key
        assert second.status is TaskStatus.PENDING

    asyncio.run(within_patience(scenario()))


@pytest.mark.parametrize("ttl", [0, 0.5, -1, "60", True, float("nan"), 1e15])
def test_what_is_no_time_to_live_is_refused(make_module: MakeModule, database: Path, ttl: Any) -> None:
    module = make_module()
    with pytest.raises(InvalidInput, match="ttl"):
        module.task("job", ttl=ttl)
    with pytest.raises(InvalidInput, match="ttl"):
        Settings(database=database, ttl=ttl)
    with pytest.raises(InvalidInput, match="ttl"):
        module.sync.task_service.create_task(tenant_code="acme", task_type="job", ttl=ttl)
    assert not module.sync.task_service.list_tasks("acme").items


def test_the_payload_of_a_creation_whose_answer_was_lost_is_swept(database: Path, clock: FakeClock) -> None:
    """A second creation with the key of the first: its input is put aside, and nothing is ever told to remove it."""
    backend = open_backend(database, clock)

    class Lost(StoreError):
        pass

    async def lose(call: PortCall, inner: Inner) -> Any:
        answer = await inner()
        if call.name == "store.create" and answer != [None]:
            raise Lost("on purpose")
        return answer

    async def scenario() -> None:
        module = module_over(tapped(backend, lose))
        module.task("job")(lambda event: None)
        new: Any = {"tenant_code": "acme", "task_type": "job", "input": "x" * 100_000, "idempotency_key": "once"}
        first = await module.task_service.create_task(**new)
        with pytest.raises(Lost):
            await module.task_service.create_task(**new)
        assert counts(database)["payloads"] == 2
        clock.advance(sweeper.ORPHANS_AFTER.total_seconds() + 1)

        async def done() -> bool:
            return counts(database)["payloads"] == 1

        await swept(module, clock, done)
        assert (await module.task_service.get_task(first.key)).input == "x" * 100_000

    asyncio.run(within_patience(scenario()))
    backend.close()


@pytest.mark.parametrize("reply_lost", [False, True])
def test_a_sweep_that_fails_goes_on_later(database: Path, clock: FakeClock, reply_lost: bool) -> None:
    backend = open_backend(database, clock)

    async def scenario() -> None:
        plain = module_over(backend)
        plain.step_function_task("job", ttl=60)(lambda event: None)
        await fan_out(plain, [{"n": n} for n in range(300)])
        clock.advance(60)
        fail = FailAt(2, reply_lost=reply_lost)

        class Tapped:
            async def remove_expired(self, limit: int) -> int:
                async def inner(*_: Any) -> Any:
                    return await backend.retention.remove_expired(limit)

                return int(await fail(PortCall("retention.remove_expired", (limit,), {}), inner))

            def __getattr__(self, name: str) -> Any:
                return getattr(backend.retention, name)

        sweeping = sweeper.Sweeper(replace(backend, retention=Tapped()), "w")
        with pytest.raises(StoreError):
            await sweeping.look(asyncio.Event())
        assert fail.at is not None
        assert counts(database)["tasks"] == 1
        assert not await sweeping.look(asyncio.Event()), "it is not yet time"
        clock.advance(60)
        assert await sweeping.look(asyncio.Event())
        assert counts(database) == {}

    asyncio.run(within_patience(scenario()))
    backend.close()


def test_what_has_lost_something_stays_absent_when_the_clock_goes_back(database: Path, clock: FakeClock) -> None:
    backend = open_backend(database, clock)

    async def scenario() -> None:
        module = module_over(backend)
        module.step_function_task("job", ttl=60)(lambda event: None)
        parent = await fan_out(module, [1, 2, 3])
        clock.advance(60)
        assert await backend.retention.remove_expired(2) == 2
        clock.advance(-30)
        with pytest.raises(TaskExpired):
            await module.task_service.get_task(parent.key)
        while await backend.retention.remove_expired(2):
            pass
        assert counts(database) == {}

    asyncio.run(within_patience(scenario()))
    backend.close()
