"""Rule 5, and who is told: every status change that the history knows made one notice, in the same write."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from itertools import count, groupby
from pathlib import Path

import pytest

from taskloom.model import TaskEntity, TaskKey, TaskStatus
from taskloom.ports import Backend, Listener
from taskloom.webhooks import ALARM_ACTION, Filter
from tests.support.clock import FakeClock
from tests.support.faults import Crash, CrashAt, Tap, tapped
from tests.support.scenarios import (
    CANCEL,
    FAN_OUT,
    RETRY,
    RETRY_FAILED,
    SCENARIOS,
    SINGLE,
    Scenario,
    all_tasks,
    open_backend,
    recover,
    tell,
)

WEEK = timedelta(days=7)


def changes(task: TaskEntity) -> list[tuple[int, TaskStatus]]:
    """What a listener must have been told: run and status, whenever one of them changed."""
    return [change for change, _ in groupby((entry.run, entry.status) for entry in task.history)]


async def check(backend: Backend) -> int:
    """Notices and alarms are those that the histories ask for, no more and no fewer; how many notices there are."""
    found = await backend.notifier.notices("all", given_up=False, after=0, limit=10_000)
    alarms = await backend.notifier.notices("alarms", given_up=False, after=0, limit=10_000)
    told: dict[TaskKey, list[tuple[int, TaskStatus]]] = {}
    for notice in found:
        told.setdefault(notice.key, []).append((notice.run, notice.status))
    tasks = list[TaskEntity]()
    for task in await all_tasks(backend):
        sub_tasks: Sequence[TaskEntity] = ()
        if task.attributes.sub_task_count:
            sub_tasks = await backend.store.list_sub_tasks(task.key, range(task.attributes.sub_task_count))
        tasks += [task, *sub_tasks]
    assert told == {task.key: changes(task) for task in tasks}
    assert len({notice.event_id for notice in found}) == len(found)
    failed = [(task.key, run) for task in tasks for run, status in changes(task) if status is TaskStatus.FAILED]
    assert sorted((notice.key.id, notice.run) for notice in alarms) == sorted((key.id, run) for key, run in failed)
    return len(found)


async def listened(backend: Backend, clock: FakeClock) -> None:
    for name, action in (("all", "task-status"), ("alarms", ALARM_ACTION)):
        listener = Listener(name=name, filter=Filter(action=action, sub_tasks=True))
        await backend.notifier.follow(listener, clock.now() + WEEK)


async def story(scenario: Scenario, path: Path, tap: Tap | None = None) -> int:
    clock = FakeClock()
    backend = open_backend(path, clock)
    try:
        await listened(backend, clock)
        try:
            await tell(scenario, backend if tap is None else tapped(backend, tap), clock)
        except (Crash, BaseExceptionGroup):
            assert tap is not None
            await recover(scenario, backend, clock)
        return await check(backend)
    finally:
        await asyncio.to_thread(backend.close)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_each_story_is_told_as_it_happened(scenario: Scenario, tmp_path: Path) -> None:
    assert asyncio.run(story(scenario, tmp_path / "tasks.db")) >= 2


@pytest.mark.parametrize("scenario", [SINGLE, RETRY, CANCEL, RETRY_FAILED, FAN_OUT], ids=str)
def test_whoever_works_may_die_at_any_call(scenario: Scenario, tmp_path: Path) -> None:
    """After each write: who dies between the commit and its answer has told nobody, yet the notice is there."""
    for number in count(1):
        tap = CrashAt(number, after=True)
        asyncio.run(story(scenario, tmp_path / f"{number}.db", tap))
        if tap.at is None:
            break
    assert number > 8
