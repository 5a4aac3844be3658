"""Processes that are killed, and processes that race: nothing is lost, and nothing is done twice."""

import asyncio
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from taskloom import StepFunctionTaskEvent, TaskModule, TaskQueueEvent, TaskStatus
from taskloom.model import Kind, TaskEntity
from taskloom.ports import Backend
from tests.engine import processes
from tests.support.clock import FakeClock
from tests.support.faults import DEADLINE
from tests.support.rules import check_rules
from tests.support.scenarios import (
    FAN_OUT,
    LEASE,
    SINGLE,
    TENANT,
    Effects,
    Scenario,
    all_tasks,
    check_counters,
    check_end,
    check_history,
    module_over,
    open_backend,
    recover,
    work,
)

PENDING, IN_PROGRESS = TaskStatus.PENDING, TaskStatus.IN_PROGRESS
COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED


def with_cats(backend: Backend) -> tuple[TaskModule, Effects]:
    """A module whose tasks of type "cat" live to their end."""
    module, effects = module_over(backend), Effects()

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> str:
        effects.add(event.task.input)
        return "done"

    @module.step_function_task("cat")
    async def cats(event: StepFunctionTaskEvent) -> str:
        effects.add(event.task.input)
        return "done"

    return module, effects


@pytest.mark.parametrize("kind", ["TASK", "SFN_TASK"])
def test_a_creator_that_is_killed_right_after_create(backend: Backend, database: Path, kind: str) -> None:
    """Rule 1: when `create_…` has returned the task is on disk, and a worker runs it."""
    assert processes.killed(processes.create, database, kind, True)

    async def main() -> None:
        module, effects = with_cats(backend)
        await work(module)
        (task,) = await all_tasks(backend)
        assert task.kind == kind
        assert task.status is COMPLETED
        assert sorted(effects.all, key=str) == ([{"key": "v"}] if kind == "TASK" else [1, 2, 3])

    asyncio.run(main())


@pytest.mark.parametrize(("scenario", "sides"), [(SINGLE, (False, True)), (FAN_OUT, (True,))], ids=str)
def test_a_process_that_is_killed_at_any_call(scenario: Scenario, sides: tuple[bool, ...], tmp_path: Path) -> None:
    """By SIGKILL, before and after each call of a port; a worker that comes when the leases are over ends the story.

    The same as `tests/rules/test_crash_at_every_call.py`, with a real death: the file is all that is left. There every
    story is told with both sides of every call.
    """

    async def survive(database: Path, created: bool) -> None:
        clock = FakeClock()
        backend = open_backend(database, clock)
        await recover(scenario, backend, clock)
        await check_end(scenario, backend, created=created)
        await asyncio.to_thread(backend.close)

    points = 0
    for number in count(1):
        died = []
        for after in sides:
            database = tmp_path / f"{number}-{after}.db"
            now = processes.milliseconds(FakeClock())
            died.append(processes.killed(processes.tell_and_die, database, scenario.name, now, number, after))
            asyncio.run(survive(database, created=number > 1 or after))
            check_rules(database)
        points += sum(died)
        if not any(died):
            break
    print(f"{scenario}: {points} kills survived")
    assert points > 8


@pytest.mark.parametrize("task_type", ["cat", "tiger"], ids=["async def", "def"])
@pytest.mark.parametrize("moment", ["at its start", "at its end"])
def test_a_worker_that_is_killed_in_a_handler(
    backend: Backend, clock: FakeClock, database: Path, tmp_path: Path, moment: str, task_type: str
) -> None:
    """The task is run again when the lease is over, and its history shows both attempts."""

    async def create() -> TaskEntity[Any]:
        service = module_over(backend).task_service
        return await service.create_task(tenant_code=TENANT, task_type=task_type, input={"die": moment})

    async def take_over(task: TaskEntity[Any]) -> None:
        module = module_over(backend)

        @module.task(task_type)
        async def handle(event: TaskQueueEvent) -> int:
            return event.attempt

        await work(module)
        held = await module.task_service.get_task(task.key)
        assert held.status is IN_PROGRESS, "its lease is not over"
        clock.advance(LEASE)
        await work(module)
        done = await module.task_service.get_task(task.key)
        assert (done.status, done.result, done.attempt) == (COMPLETED, 2, 2)
        assert [(entry.status, entry.attempt) for entry in done.history] == [
            (PENDING, 0),
            (IN_PROGRESS, 1),
            (IN_PROGRESS, 2),
            (COMPLETED, 2),
        ]
        assert done.history[2].reason == "the lease of the attempt before ended"
        assert done.history[1].by != done.history[2].by

    task = asyncio.run(create())
    file = tmp_path / "effects"
    assert processes.killed(processes.run, database, file, processes.milliseconds(clock))
    assert processes.effects(file) == ([] if moment == "at its start" else [task.id])
    asyncio.run(take_over(task))


def test_a_task_whose_workers_die_is_given_up(
    backend: Backend, clock: FakeClock, database: Path, tmp_path: Path
) -> None:
    """After three: something is wrong with the task, and a fourth worker must not die of it. Its neighbour lives."""

    async def create() -> list[TaskEntity[Any]]:
        service = module_over(backend).task_service
        return [
            await service.create_task(tenant_code=TENANT, task_type="cat", input={"die": moment})
            for moment in ("at its start", None)
        ]

    async def check(poisonous: TaskEntity[Any], neighbour: TaskEntity[Any]) -> None:
        module, effects = with_cats(backend)
        await work(module)
        done = await module.task_service.get_task(poisonous.key)
        assert done.status is FAILED
        assert done.error is not None
        assert done.error.message == "the worker died 3 times"
        assert done.history[-1].reason == "the worker died 3 times"
        assert [entry.attempt for entry in done.history] == [0, 1, 2, 3, 3]
        check_history(done)
        assert {"die": "at its start"} not in effects.all
        assert (await module.task_service.get_task(neighbour.key)).status is COMPLETED

    poisonous, neighbour = asyncio.run(create())
    for _ in range(3):
        assert processes.killed(processes.run, database, tmp_path / "effects", processes.milliseconds(clock))
        clock.advance(LEASE)
    asyncio.run(check(poisonous, neighbour))


def test_in_a_chunk_only_the_poisonous_sub_task_pays(
    backend: Backend, clock: FakeClock, database: Path, tmp_path: Path
) -> None:
    """A sub-task is claimed just before it runs, so the one that is left IN_PROGRESS is the suspect."""
    inputs = [{"die": "at its start" if number == 2 else None} for number in range(5)]
    file = tmp_path / "effects"

    async def create() -> TaskEntity[Any]:
        return await module_over(backend).task_service.create_step_function_task(
            tenant_code=TENANT, task_type="cat", input=inputs
        )

    async def check(parent: TaskEntity[Any]) -> None:
        service = module_over(backend).task_service
        done = await service.get_task(parent.key)
        assert done.status is FAILED
        subs = [sub async for sub in service.iter_sub_tasks(parent.key)]
        assert [sub.status for sub in subs] == [COMPLETED, COMPLETED, FAILED, COMPLETED, COMPLETED]
        assert [sub.attempt for sub in subs] == [1, 1, 3, 1, 1]
        assert subs[2].error is not None
        assert subs[2].error.message == "the worker died 3 times"
        check_counters(done, subs)
        for sub in subs:
            check_history(sub)
        assert sorted(processes.effects(file)) == sorted(sub.id for sub in subs if sub.index != 2), "each once"

    parent = asyncio.run(create())
    for _ in range(3):
        assert processes.killed(processes.run, database, file, processes.milliseconds(clock))
        clock.advance(LEASE)
    assert not processes.killed(processes.run, database, file, processes.milliseconds(clock))
    asyncio.run(check(parent))


def test_two_processes_race_and_run_nothing_twice(backend: Backend, database: Path, tmp_path: Path) -> None:
    """Rule 2: three hundred tasks and a fan-out of three hundred, each handled once, by one of the two."""
    file = tmp_path / "effects"

    async def create() -> tuple[list[TaskEntity[Any]], TaskEntity[Any]]:
        service = module_over(backend).task_service
        tasks = await asyncio.gather(
            *(service.create_task(tenant_code=TENANT, task_type="cat", input=number) for number in range(300))
        )
        parent = await service.create_step_function_task(tenant_code=TENANT, task_type="cat", input=range(300))
        return tasks, parent

    async def check(tasks: list[TaskEntity[Any]], parent: TaskEntity[Any]) -> None:
        service = module_over(backend).task_service
        done = [await service.get_task(task.key) for task in tasks]
        subs = [sub async for sub in service.iter_sub_tasks(parent.key)]
        assert all(task.status is COMPLETED and task.attempt == 1 for task in done)
        assert [sub.status is FAILED for sub in subs] == [number % 10 == 3 for number in range(300)]
        assert all(sub.attempt == 1 for sub in subs)
        assert sorted(processes.effects(file)) == sorted(task.id for task in [*done, *subs]), "each exactly once"
        ended = await service.get_task(parent.key)
        assert ended.kind is Kind.SFN_TASK
        assert (ended.attributes.sub_task_succeed_count, ended.attributes.sub_task_failed_count) == (270, 30)
        check_counters(ended, subs)
        assert len({task.result for task in done} | {sub.result for sub in subs} - {None}) == 2, "both took part"

    tasks, parent = asyncio.run(create())
    barrier = processes.CONTEXT.Barrier(2)
    workers = [processes.start(processes.race, database, file, barrier) for _ in range(2)]
    for worker in workers:
        worker.join(DEADLINE * 2)
        assert worker.exitcode == 0
    asyncio.run(check(tasks, parent))
