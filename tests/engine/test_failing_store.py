"""A storage that fails now and then, at every single call: it is asked again later, and nothing is lost."""

import asyncio
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from taskloom import TaskQueueEvent, TaskStatus
from taskloom.errors import StoreBusy, StoreCorrupt, StoreError, StoreFull
from taskloom.ports import Backend
from tests.support.faults import DEADLINE, READS, FailAt, Inner, PortCall, tapped
from tests.support.rules import check_rules
from tests.support.scenarios import (
    LONG,
    LONG_FAN_OUT,
    SCENARIOS,
    TENANT,
    Effects,
    HastyClock,
    Scenario,
    check_end,
    module_for,
    module_over,
    open_backend,
    recover,
    tell,
    work,
)


async def fail(scenario: Scenario, database: Path, number: int, *, reply_lost: bool) -> str | None:
    """Let call *number* fail, and let the story go on; the name of the call, None when there is no such call."""
    clock = HastyClock()
    backend = open_backend(database, clock)
    try:
        tap = FailAt(number, reply_lost=reply_lost)
        try:
            async with asyncio.timeout(DEADLINE):
                await tell(scenario, tapped(backend, tap), clock)
        except StoreError:
            # The creator is told. A worker sees to it by itself.
            assert tap.at is not None
            assert tap.at.name == "store.create" or (scenario.is_repeated and tap.at.name == "store.get")
        if tap.at is not None:
            await recover(scenario, backend, clock)
        created = tap.at is None or tap.at.name != "store.create" or reply_lost
        try:
            await check_end(scenario, backend, created=created)
        except AssertionError as error:
            error.add_note(f"{tap.at} failed")
            raise
    finally:
        await asyncio.to_thread(backend.close)
    check_rules(database)
    return None if tap.at is None else tap.at.name


@pytest.mark.parametrize("reply_lost", [False, True], ids=["nothing happened", "the reply was lost"])
@pytest.mark.parametrize("scenario", [story for story in SCENARIOS if story.steer is None], ids=str)
def test_a_store_that_is_busy_at_any_call(scenario: Scenario, reply_lost: bool, tmp_path: Path) -> None:
    """Enumerated, not sampled. A lost answer of a read is no different from a busy read.

    Stories with an operator are left out: a call of his raises when the storage is busy, which makes another story.
    """
    points: list[str] = []
    for number in count(1):
        try:
            name = asyncio.run(fail(scenario, tmp_path / f"{number}.db", number, reply_lost=reply_lost))
        except (AssertionError, TimeoutError) as error:
            error.add_note(f"failed at call {number}; before it: {points[-6:]}")
            raise
        if name is None:
            break
        points.append(name)
    print(f"{scenario}: {len(points)} failures survived")
    assert len([name for name in points if name not in READS]) >= 4


@pytest.mark.parametrize("reply_lost", [False, True], ids=["nothing happened", "the reply was lost"])
@pytest.mark.parametrize("scenario", [LONG, LONG_FAN_OUT], ids=str)
def test_steps_that_are_busy_at_any_call(scenario: Scenario, reply_lost: bool, tmp_path: Path) -> None:
    """Worker and answerer ask again; whoever finds its own write has done it: nothing is done twice, or refused."""

    async def tell_it(number: int) -> PortCall | None:
        clock = HastyClock()
        backend, fails, effects = (
            open_backend(tmp_path / f"{number}.db", clock),
            FailAt(number, reply_lost=reply_lost),
            Effects(),
        )

        async def steps_only(call: PortCall, inner: Inner) -> Any:
            return await (fails(call, inner) if call.name.startswith("steps.") else inner())

        try:
            async with asyncio.timeout(DEADLINE):
                await tell(scenario, tapped(backend, steps_only), clock, effects)
            await check_end(scenario, backend)
            assert len(effects.all) == len(set(effects.all)), "something was charged twice"
        finally:
            await asyncio.to_thread(backend.close)
        check_rules(tmp_path / f"{number}.db")
        return fails.at

    failed = list[str]()
    for number in count(1):
        at = asyncio.run(tell_it(number))
        if at is None:
            break
        failed.append(at.name)
    assert failed.count("steps.put") >= 4


@pytest.mark.parametrize("error", [StoreBusy, StoreFull, StoreCorrupt, StoreError])
@pytest.mark.parametrize("failures", [1, 8])
def test_a_worker_outlives_a_storage_that_fails_for_a_while(
    tmp_path: Path, error: type[StoreError], failures: int
) -> None:
    """Whatever it says: the worker tries again, ever more slowly, and goes on where it was."""
    clock = HastyClock()
    backend = open_backend(tmp_path / "tasks.db", clock)
    left = failures

    async def failing(call: PortCall, inner: Inner) -> Any:
        nonlocal left
        if left and call.name in ("stream.forward", "queue.receive"):
            left -= 1
            raise error("on purpose")
        return await inner()

    module = module_over(tapped(backend, failing))

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> str:
        return "done"

    async def main() -> None:
        task = await module.task_service.create_task(tenant_code=TENANT, task_type="cat")
        async with module.worker(), asyncio.timeout(DEADLINE):
            while not (await module.task_service.get_task(task.key)).is_terminal:
                clock.advance(1)  # the longer pauses
                await asyncio.to_thread(lambda: None)
        assert (await module.task_service.get_task(task.key)).status is TaskStatus.COMPLETED
        assert left == 0

    asyncio.run(main())
    backend.close()


def test_a_write_whose_reply_was_lost_is_recognised(backend: Backend) -> None:
    """Rule 2: the claim finds its own claim id, so it holds, and the first attempt is the only one."""
    scenario = SCENARIOS[0]

    async def main() -> None:
        lost: list[str] = []

        async def lose(call: PortCall, inner: Inner) -> Any:
            answer = await inner()
            if call.name.startswith("store.update") and len(lost) < 4 and len(lost) % 2 == 0:
                lost.append(call.name)
                raise StoreBusy("its answer was lost")
            if call.name.startswith("store.update"):
                lost.append("heard")
            return answer

        clock = HastyClock(backend.clock.now())
        effects = Effects()
        hasty = replace(backend, clock=clock)
        module = module_for(scenario, tapped(hasty, lose), effects)
        task = await scenario.create(module.task_service)
        await work(module)
        done = await module.task_service.get_task(task.key)
        assert (done.status, done.attempt) == (TaskStatus.COMPLETED, 1)
        assert [entry.status for entry in done.history] == ["PENDING", "IN_PROGRESS", "COMPLETED"]
        assert len(effects.all) == 1
        assert lost.count("heard") == 2

    asyncio.run(main())
