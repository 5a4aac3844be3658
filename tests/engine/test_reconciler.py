"""What nothing would bring back is found and mended; each loss is made by hand, in the file itself (issue: rule 1)."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from taskloom import lifecycle
from taskloom.errors import CallbackTimeout
from taskloom.execution.reconciler import EVERY, Reconciler
from taskloom.lifecycle import Written
from taskloom.model import Kind, TaskEntity, TaskStatus
from taskloom.policy import fan_out_plan
from taskloom.ports import Backend, Served
from tests.support.clock import FakeClock
from tests.support.faults import Crash, Inner, PortCall, tapped
from tests.support.rows import Rows
from tests.support.scenarios import (
    FAN_OUT,
    LEASE,
    SINGLE,
    Effects,
    Scenario,
    all_tasks,
    check_end,
    module_for,
    module_over,
    work,
)

COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED


def sql(database: Path, *statements: str) -> list[Any]:
    """Do this to the file behind everybody's back; what the last statement returns."""
    connection = sqlite3.connect(database, isolation_level=None)
    try:
        return [connection.execute(statement).fetchall() for statement in statements][-1]
    finally:
        connection.close()


async def reconciled(scenario: Scenario, backend: Backend, clock: FakeClock) -> None:
    """A worker lives until the reconciler has looked twice, and does what comes of it."""
    module = module_for(scenario, backend, Effects())
    async with module.worker(concurrency=2) as worker:
        await worker.drain()
        for _ in range(2):
            looked = await module.task_service.queues.repairs()
            clock.advance(EVERY.total_seconds())
            async with asyncio.timeout(30):
                while await module.task_service.queues.repairs() == looked:
                    await asyncio.to_thread(clock.now)  # a turn of the loop: the reconciler is on its way
            await worker.drain()


def reasons(task: TaskEntity[Any]) -> list[str]:
    return [entry.reason for entry in task.history if entry.reason and entry.reason.startswith("repaired: ")]


async def die_at_the_end(backend: Backend, clock: FakeClock) -> None:
    """A worker runs all of the fan-out, and dies just before it ends it."""

    async def tap(call: PortCall, inner: Inner) -> Any:
        change = call.args[0] if call.name == "store.update" else None
        if change is not None and change.key.kind is Kind.SFN_TASK and change.patch.get("status") is FAILED:
            raise Crash
        return await inner()

    await work(module_for(FAN_OUT, tapped(backend, tap), Effects()))
    clock.advance(LEASE + 1)


LOST: Sequence[tuple[str, Scenario, Callable[[Path], object]]] = [
    ("record of the change stream", SINGLE, lambda file: sql(file, "DELETE FROM stream")),
    ("record of a fan-out", FAN_OUT, lambda file: sql(file, "DELETE FROM stream")),
]


@pytest.mark.parametrize(("scenario", "lose"), [case[1:] for case in LOST], ids=[case[0] for case in LOST])
def test_a_task_that_was_never_dispatched(
    backend: Backend, clock: FakeClock, database: Path, scenario: Scenario, lose: Callable[[Path], object]
) -> None:
    async def main() -> None:
        module = module_for(scenario, backend, Effects())
        await scenario.create(module.task_service)
        lose(database)
        await work(module)
        (waiting,) = await all_tasks(backend)
        assert waiting.status is TaskStatus.PENDING, "nothing brings it back but the reconciler"
        await reconciled(scenario, backend, clock)
        await check_end(scenario, backend)
        (task,) = await all_tasks(backend)
        assert reasons(task) == ["repaired: it had no message"]

    asyncio.run(main())


@pytest.mark.parametrize("scenario", [SINGLE, FAN_OUT], ids=str)
def test_a_message_that_was_lost(backend: Backend, clock: FakeClock, database: Path, scenario: Scenario) -> None:
    async def main() -> None:
        module = module_for(scenario, backend, Effects())
        await scenario.create(module.task_service)
        await backend.stream.forward(10)
        sql(database, "DELETE FROM queue")
        await reconciled(scenario, backend, clock)
        await check_end(scenario, backend)

    asyncio.run(main())


def test_a_claim_whose_worker_and_message_are_gone(backend: Backend, clock: FakeClock, database: Path) -> None:
    """Not before its lease has ended."""

    async def main() -> None:
        module = module_for(SINGLE, backend, Effects())
        task = await SINGLE.create(module.task_service)
        await backend.stream.forward(10)
        rows = Rows(backend)
        assert isinstance(await backend.store.update(rows.claim(task)), Written)
        sql(database, "DELETE FROM queue")
        assert list(await backend.store.list_stranded(10)) == []
        clock.advance(LEASE + 61)
        await reconciled(SINGLE, backend, clock)
        await check_end(SINGLE, backend)

    asyncio.run(main())


def test_an_execution_that_stands_still(backend: Backend, clock: FakeClock, database: Path) -> None:
    """Its steps are lost; what has run is not run again."""

    async def main() -> None:
        module = module_for(FAN_OUT, backend, Effects())
        await FAN_OUT.create(module.task_service)
        served = Served(tasks=None, fan_outs=None)
        await die_at_the_end(backend, clock)
        sql(database, "DELETE FROM queue", "DELETE FROM chunks WHERE chunk = 2")
        assert await backend.queue.receive(served, 10, visible_at=clock.now()) == []
        await reconciled(FAN_OUT, backend, clock)
        await check_end(FAN_OUT, backend)
        (task,) = await all_tasks(backend)
        assert reasons(task) == ["repaired: its execution stood still"]

    asyncio.run(main())


def test_an_execution_that_ended_without_its_parent(backend: Backend, clock: FakeClock, database: Path) -> None:
    """Rule 3: ended, but the parent is open: finish it."""

    async def main() -> None:
        module = module_for(FAN_OUT, backend, Effects())
        await FAN_OUT.create(module.task_service)
        await die_at_the_end(backend, clock)
        sql(database, "DELETE FROM queue", "UPDATE executions SET status = 'SUCCEEDED', stopped_at = 0")
        await reconciled(FAN_OUT, backend, clock)
        await check_end(FAN_OUT, backend)

    asyncio.run(main())


def test_an_execution_that_was_never_started(backend: Backend, clock: FakeClock, database: Path) -> None:
    async def main() -> None:
        module = module_for(FAN_OUT, backend, Effects())
        task = await FAN_OUT.create(module.task_service)
        await backend.stream.forward(10)
        rows = Rows(backend)
        plan = fan_out_plan(6, chunk_size=2, max_concurrency=4)
        assert isinstance(await backend.store.update(rows.claim(task, plan=plan)), Written)
        sql(database, "DELETE FROM queue")
        await reconciled(FAN_OUT, backend, clock)
        await check_end(FAN_OUT, backend)

    asyncio.run(main())


@pytest.mark.parametrize("kind", [Kind.TASK, Kind.SFN_TASK], ids=["task", "sub-tasks"])
@pytest.mark.parametrize("how", ["sleep", "timeout", "answer"])
def test_a_wait_that_is_over(backend: Backend, clock: FakeClock, database: Path, kind: Kind, how: str) -> None:
    """Its message is lost while it is suspended: as soon as it is due it gets another one, not before."""
    module, tokens = module_over(backend), list[str]()

    async def job(event: Any) -> Any:
        token = await event.callback("approval")
        tokens.append(token)
        if how == "sleep":
            await event.sleep(1000)
            return "slept"
        try:
            return await event.wait_for(token, timeout=1000)
        except CallbackTimeout:
            return "timed out"

    module.task("job")(job)
    module.step_function_task("job", chunk_size=2, max_concurrency=2)(job)

    async def look() -> None:
        looked = await module.task_service.queues.repairs()
        clock.advance(EVERY.total_seconds())
        async with asyncio.timeout(30):
            while await module.task_service.queues.repairs() == looked:
                await asyncio.to_thread(clock.now)  # a turn of the loop: the reconciler is on its way

    async def main() -> None:
        service = module.task_service
        if kind is Kind.TASK:
            made: TaskEntity[Any] = await service.create_task(tenant_code="acme", task_type="job")
        else:
            made = await service.create_step_function_task(tenant_code="acme", task_type="job", input=range(6))
        await work(module)
        if how == "answer":
            for token in list(tokens):
                await service.resume(token, "answered")
            sql(database, "DELETE FROM stream")
        sql(database, "DELETE FROM queue")
        called = len(tokens)
        async with module.worker() as worker:
            await worker.drain()
            assert len(tokens) == called, "nothing brings it back but the reconciler"
            if how != "answer" and kind is Kind.TASK:
                await look()
                await worker.drain()
                assert len(tokens) == called, "it is not due yet"
                clock.advance(1000)
            for _ in range(2):
                await look()
                await worker.drain()
            if how != "answer":
                clock.advance(1000)
                await worker.drain()
        task = await service.get_task(made.key)
        expected = {"sleep": "slept", "timeout": "timed out", "answer": "answered"}[how]
        assert task.status is COMPLETED
        assert reasons(task)
        if kind is Kind.TASK:
            assert task.result == expected
        else:
            assert [sub.result async for sub in service.iter_sub_tasks(task.key)] == [expected] * 6

    asyncio.run(main())


def test_a_revived_execution_waits_for_nothing_of_before(backend: Backend, clock: FakeClock, database: Path) -> None:
    """Its collect finds all chunks with something left; none is kept twice."""
    module = module_over(backend)

    @module.step_function_task("job", chunk_size=1, max_concurrency=1)
    async def job(event: Any) -> None:
        await event.sleep(1000)

    async def main() -> None:
        made = await module.task_service.create_step_function_task(tenant_code="acme", task_type="job", input=range(3))
        await work(module)
        assert sql(database, "SELECT count(*) FROM chunk_waits") == [(2,)]
        assert not await backend.machine.revive(made.key, 1)
        sql(database, "DELETE FROM queue")
        assert await backend.machine.revive(made.key, 1)
        assert sql(database, "SELECT count(*) FROM chunk_waits") == [(0,)]
        clock.advance(1000)
        await work(module)
        assert (await module.task_service.get_task(made.key)).status is COMPLETED

    asyncio.run(main())


def test_a_healthy_backlog_is_left_alone(backend: Backend, clock: FakeClock, database: Path) -> None:
    """Whether it waits in the stream, in the queue, for a later attempt, or in somebody's hands."""

    async def main() -> None:
        rows = Rows(backend)
        tasks = await rows.create(*(rows.single() for _ in range(1000)), *(rows.fan_out() for _ in range(1000)))
        await backend.stream.forward(500)
        await backend.stream.forward(500)
        held = await backend.queue.receive(Served(tasks=None, fan_outs=None), 100, visible_at=clock.now())
        for delivery in held[:50]:
            task = next(task for task in tasks if task.key == delivery.key)
            if task.kind is Kind.TASK:
                claimed = await rows.carry_out(rows.claim(task))
                await rows.carry_out(rows.waits_for_retry(claimed))
        before = sql(database, "SELECT count(*) FROM queue"), sql(database, "SELECT count(*) FROM stream")
        clock.advance(LEASE * 10)
        assert list(await backend.store.list_stranded(10_000)) == []
        await Reconciler(backend, None, "me").look()  # type: ignore[arg-type]  # there is no fan-out to be looked at
        assert before == (sql(database, "SELECT count(*) FROM queue"), sql(database, "SELECT count(*) FROM stream"))

    asyncio.run(main())


def test_one_worker_looks_for_all(backend: Backend, clock: FakeClock) -> None:
    """Once a minute, whoever comes first; when it dies another one does."""

    async def main() -> None:
        one, two = (Reconciler(backend, None, name) for name in ("one", "two"))  # type: ignore[arg-type]
        assert [await one.look(), await two.look()] == [True, False]
        clock.advance(EVERY.total_seconds() - 0.001)
        assert not await two.look()
        clock.advance(0.001)
        assert [await two.look(), await one.look()] == [True, False]
        duty = await backend.admin.duty("reconcile")
        assert duty is not None
        assert (duty["by"], duty["repaired"]) == ("two", {})

    asyncio.run(main())


def test_what_does_not_help_is_not_done_over_and_over(backend: Backend, clock: FakeClock, database: Path) -> None:
    """The pauses between repairs of one task double, within one run."""

    async def main() -> None:
        rows = Rows(backend)
        (task,) = await rows.create(rows.single())
        repaired_after: list[int] = []
        for minute in range(40):
            sql(database, "DELETE FROM stream", "DELETE FROM queue")
            count = len(reasons(await rows.stored(task.key)))
            await Reconciler(backend, None, "me").look()  # type: ignore[arg-type]
            if len(reasons(await rows.stored(task.key))) > count:
                repaired_after.append(minute)
            clock.advance(EVERY.total_seconds())
        assert repaired_after == [0, 1, 3, 7, 15, 31]
        sql(database, "DELETE FROM stream", "DELETE FROM queue")
        stored = await rows.stored(task.key)
        assert not lifecycle.may_be_repaired(stored, clock.now())
        clock.advance(3600)
        await Reconciler(backend, None, "me").look()  # type: ignore[arg-type]

    asyncio.run(main())
