"""The history of a task is bounded: it keeps the creation and the newest entries, and counts what it dropped."""

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from taskloom import GiveUp, Retry, StepFunctionTaskEvent, TaskQueueEvent, TaskStatus
from taskloom.model import HistoryEntry
from taskloom.record import from_item, to_item
from tests.support.clock import FakeClock
from tests.support.scenarios import check_history
from tests.surface.running import Entity, MakeModule, drained, fan_out, single, sub_tasks

PENDING, IN_PROGRESS = TaskStatus.PENDING, TaskStatus.IN_PROGRESS
FAILED, CANCELLED = TaskStatus.FAILED, TaskStatus.CANCELLED

ATTEMPTS = 300
STUBBORN = Retry(max_attempts=1000, initial=0)


def characters(database: Path, table: str) -> dict[str, int]:
    """How long the values of the only row of *table* are."""
    with closing(sqlite3.connect(database)) as connection:
        connection.row_factory = sqlite3.Row
        (row,) = connection.execute(f"SELECT * FROM {table}").fetchall()
        return {name: len(str(row[name])) for name in row.keys()}  # noqa: SIM118 - a Row is no mapping


def check_bounded(task: Entity, changes: int, database: Path, table: str = "tasks") -> None:
    """Of its *changes* the history has the first and the newest, and knows how many are missing; its row is small."""
    assert task.history_dropped > 0
    assert len(task.history) + task.history_dropped == changes
    assert len(task.history) >= 6
    assert task.history[-1].status is task.status
    sizes = characters(database, table)
    assert sizes["history"] < 8_000
    assert sum(sizes.values()) < 8_000 + sizes["error"]


def newest(task: Entity) -> Sequence[HistoryEntry]:
    """What is left behind the creation."""
    return task.history[1:]


def expected_attempts(last: int, length: int) -> list[tuple[TaskStatus, int]]:
    """The last *length* entries of a task that was tried again and again, up to its end in attempt *last*."""
    all_ = [(status, attempt) for attempt in range(1, last + 1) for status in (IN_PROGRESS, PENDING)]
    return [*all_[:-1], (FAILED, last)][-length:]


@pytest.mark.parametrize("length", [3, 200, 5000], ids=["short", "long", "cut"])
def test_a_task_that_is_tried_hundreds_of_times(
    make_module: MakeModule, clock: FakeClock, database: Path, length: int
) -> None:
    """Reasons of any length; it is made shorter again and again."""
    module = make_module(clock=clock)

    @module.task("job", retry=STUBBORN)
    async def job(event: TaskQueueEvent) -> None:
        clock.advance(0.001)
        text = f"{event.attempt:03}".ljust(length, "x")
        raise GiveUp(text) if event.attempt == ATTEMPTS else LookupError(text)

    task = asyncio.run(single(module))
    assert (task.status, task.attempt) == (FAILED, ATTEMPTS)
    check_bounded(task, 2 * ATTEMPTS + 1, database)
    first = task.history[0]
    assert (first.at, first.status, first.run, first.attempt) == (task.created_at, PENDING, 1, 0)
    kept = newest(task)
    assert [(entry.status, entry.attempt) for entry in kept] == expected_attempts(ATTEMPTS, len(kept))
    assert [entry.at for entry in kept] == sorted(entry.at for entry in kept)
    assert kept[-1].at == task.finished_at
    for entry in kept:
        if entry.status is not IN_PROGRESS:
            assert entry.reason is not None
            assert entry.reason.startswith(f"{entry.attempt:03}")
            assert len(entry.reason) == min(length, 502)
    assert all(entry.by == kept[-1].by for entry in kept)


def test_a_task_that_is_run_hundreds_of_times(make_module: MakeModule, clock: FakeClock, database: Path) -> None:
    """No worker takes part: it is cancelled and retried. What it tells holds after each change."""
    module = make_module(clock=clock)
    service = module.sync.task_service
    service.create_task(tenant_code="acme", task_type="job", input={"key": "v"})
    ((key, made),) = [(task.key, task) for task in service.iter_tasks("acme")]
    changes, drops = 1, set[int]()
    for run in range(1, 201):
        task = service.cancel_task(key, reason="enough", by="alice")
        if run < 200:
            task = service.retry_task(key, reason=f"once more, run {run + 1}", by="bob")
        changes += 2 if run < 200 else 1
        drops.add(task.history_dropped)
        assert task.history[0] == made.history[0]
        assert len(task.history) + task.history_dropped == changes
        tail = [(entry.run, entry.status) for entry in newest(task)]
        last = [pair for number in range(1, run + 1) for pair in ((number, CANCELLED), (number + 1, PENDING))]
        assert tail == last[: changes - 1][-len(tail) :]
    check_bounded(task, 400, database)
    assert len(drops) > 3, "it was shortened once only"
    assert newest(task)[-1].reason == "cancelled: enough"
    assert (newest(task)[-2].reason, newest(task)[-2].by) == ("retried: once more, run 200", "bob")
    assert task.input == {"key": "v"}
    assert service.get_task(key) == task == next(iter(service.iter_tasks("acme")))


def test_a_sub_task_that_is_tried_hundreds_of_times(make_module: MakeModule, clock: FakeClock, database: Path) -> None:
    """Its first entry is its first claim, which creates it."""
    module = make_module(clock=clock)

    @module.step_function_task("job", retry=STUBBORN)
    async def job(event: StepFunctionTaskEvent) -> None:
        text = f"{event.attempt:03}".ljust(100, "x")
        raise GiveUp(text) if event.attempt == ATTEMPTS // 2 else LookupError(text)

    async def scenario() -> tuple[Entity, list[Entity]]:
        parent = await fan_out(module, [1])
        return parent, await sub_tasks(module, parent)

    parent, (sub,) = asyncio.run(scenario())
    assert (sub.status, sub.attempt) == (FAILED, ATTEMPTS // 2)
    check_bounded(sub, ATTEMPTS, database, "sub_tasks")
    assert (sub.history[0].status, sub.history[0].attempt, sub.history[0].at) == (IN_PROGRESS, 1, sub.created_at)
    kept = newest(sub)
    assert [(entry.status, entry.attempt) for entry in kept] == expected_attempts(ATTEMPTS // 2, len(kept))
    check_history(parent)
    assert parent.history_dropped == 0


def test_it_goes_on_growing_in_a_new_run(make_module: MakeModule, clock: FakeClock, database: Path) -> None:
    """What was dropped before stays counted."""
    module = make_module(clock=clock)

    @module.task("job", retry=Retry(max_attempts=60, initial=0))
    async def job(event: TaskQueueEvent) -> None:
        raise LookupError("x" * 200)

    async def scenario() -> tuple[Entity, Entity]:
        first = await single(module)
        await module.task_service.retry_task(first.key, reason="again")
        await drained(module)
        return first, await module.task_service.get_task(first.key)

    first, second = asyncio.run(scenario())
    assert len(first.history) + first.history_dropped == 121
    check_bounded(second, 242, database)
    assert second.history_dropped > first.history_dropped > 0
    assert second.history[0] == first.history[0]
    assert {entry.run for entry in newest(second)} == {2}


def test_a_history_of_ordinary_length_is_whole(make_module: MakeModule, clock: FakeClock) -> None:
    """Nothing is dropped before there is need to."""
    module = make_module(clock=clock)

    @module.task("job", retry=Retry(max_attempts=25, initial=0))
    async def job(event: TaskQueueEvent) -> None:
        raise LookupError("no")

    task = asyncio.run(single(module))
    assert (len(task.history), task.history_dropped) == (51, 0)
    check_history(task)


def test_reasons_are_cut_but_errors_keep_more(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)
    messages = {500: "a" * 500, 501: "b" * 501, 1900: "c" * 1900}

    @module.task("job")
    async def job(event: TaskQueueEvent[int]) -> None:
        raise LookupError(messages[event.task.input])

    for length, message in messages.items():
        task = asyncio.run(single(module, length))
        assert task.history[-1].reason == (message if length == 500 else message[:500] + " …")
        assert task.error is not None
        assert task.error.message == message


@pytest.mark.parametrize("text", ['"],[0,"P",9,9,null,null', "\\", "ä\u2028\U0001f600\0\n", "[1,2]"])
def test_reasons_may_hold_anything(make_module: MakeModule, clock: FakeClock, text: str) -> None:
    """Also what looks like a part of the column, which is taken apart when it is shortened."""
    module = make_module(clock=clock)

    @module.task("job", retry=Retry(max_attempts=100, initial=0))
    async def job(event: TaskQueueEvent) -> None:
        raise LookupError(text * 4)

    task = asyncio.run(single(module))
    assert len(task.history) + task.history_dropped == 201
    assert task.history_dropped > 0
    assert {entry.reason for entry in newest(task)} == {text * 4, None}


def test_what_was_dropped_is_part_of_the_record(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)

    @module.task("job", retry=Retry(max_attempts=100, initial=0))
    async def job(event: TaskQueueEvent) -> None:
        raise LookupError("x" * 100)

    task: Any = asyncio.run(single(module))
    item = to_item(task)
    assert item["historyDropped"] == task.history_dropped > 0
    assert len(item["history"]) + item["historyDropped"] == 201
    assert from_item(item) == task
