"""Plain loops that go on where they stopped: after their time was up, after a failure, after the death of a worker."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from taskloom import Retry, StepFunctionTaskEvent, TaskQueueEvent, TaskStatus
from taskloom.errors import InvalidInput, InvalidType
from taskloom.events.resumable import STOPS
from taskloom.values import Json
from tests.support.clock import FakeClock
from tests.surface.running import MakeModule, fan_out, single, sub_tasks

ITEMS = 10_000
SLICE = 0.2


def pages(cursor: Json) -> tuple[list[int], Json]:
    """Numbers in pages of 7; the last page is short."""
    first: Any = cursor or 0
    page = list(range(first, min(first + 7, 100)))
    return page, first + 7 if first + 7 < 100 else None


async def async_pages(cursor: Json) -> tuple[list[int], Json]:
    return pages(cursor)


def slices(task: Any) -> int:
    stops: list[bool] = [entry.reason == STOPS for entry in task.history]
    return sum(stops) + int(task.history_dropped)


def test_a_long_loop_is_cut_into_slices(make_module: MakeModule, clock: FakeClock) -> None:
    """Each item comes once; the task is never late, and no attempt is counted."""
    module = make_module(clock=clock)
    seen: list[int] = []

    @module.task("job", timeout=SLICE)
    async def job(event: TaskQueueEvent) -> int:
        async for item in event.resumable(range(ITEMS)):
            clock.advance(0.001)
            seen.append(item)
        return len(seen)

    task = asyncio.run(single(module))
    assert (task.status, task.result, task.attempt, task.state) == (TaskStatus.COMPLETED, ITEMS, 1, None)
    assert seen == list(range(ITEMS))
    assert slices(task) >= ITEMS * 0.001 / SLICE


def test_a_long_loop_of_a_thread(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)
    seen: list[int] = []

    @module.task("job", timeout=SLICE)
    def job(event: TaskQueueEvent) -> int:
        for item in event.sync.resumable(range(1000)):
            clock.advance(0.001)
            seen.append(item)
        return len(seen)

    task = asyncio.run(single(module))
    assert (task.status, task.result, task.attempt) == (TaskStatus.COMPLETED, 1000, 1)
    assert seen == list(range(1000))


def test_killed_now_and_then_it_loses_nothing(make_module: MakeModule, clock: FakeClock) -> None:
    """Each item is seen at least once, and its effect, recorded under its number, is there once."""
    module = make_module(clock=clock)
    effects: dict[int, int] = {}
    seen: Counter[int] = Counter()
    died: list[int] = []

    @module.task("job", timeout=SLICE, retry=Retry(max_attempts=1000))
    async def job(event: TaskQueueEvent) -> int:
        async for item in event.resumable(range(2000)):
            clock.advance(0.003)
            seen[item] += 1
            effects[item] = item * 2
            if item % 501 == 500 and item not in died:
                died.append(item)
                dead.set()
                await asyncio.Event().wait()
        return len(effects)

    async def until_death() -> bool:
        """Work until the handler hangs; then everything of the worker ends with its loop. Whether all was done."""
        worker = module.worker()
        await worker.__aenter__()
        drained, hung = asyncio.create_task(worker.drain()), asyncio.create_task(dead.wait())
        done, _ = await asyncio.wait([drained, hung], return_when=asyncio.FIRST_COMPLETED)
        if drained in done:
            await worker.__aexit__(None, None, None)
        return drained in done

    async def main() -> Any:
        task = await module.task_service.create_task(tenant_code="acme", task_type="job")
        return task.key

    key = asyncio.run(main())
    dead = asyncio.Event()
    for _ in range(20):
        dead = asyncio.Event()
        if asyncio.run(until_death()):
            break
        clock.advance(1000)

    async def end() -> Any:
        return await module.task_service.get_task(key)

    task = asyncio.run(end())
    assert task.status is TaskStatus.COMPLETED
    assert set(seen) == set(range(2000))
    assert effects == {number: number * 2 for number in range(2000)}
    assert len(died) >= 3


@pytest.mark.parametrize("source", [pages, async_pages], ids=["def", "async def"])
def test_pages_are_followed_by_their_cursors(make_module: MakeModule, clock: FakeClock, source: Any) -> None:
    module = make_module(clock=clock)
    seen: list[int] = []

    @module.task("job", timeout=SLICE)
    async def job(event: TaskQueueEvent) -> None:
        async for item in event.resumable(source):
            clock.advance(0.05)
            seen.append(item)

    task = asyncio.run(single(module))
    assert task.status is TaskStatus.COMPLETED
    assert seen == list(range(100))


def test_a_failed_attempt_goes_on_too(make_module: MakeModule, clock: FakeClock) -> None:
    """From what was saved last, which is a second old at most; the item that failed comes again."""
    module = make_module(clock=clock)
    seen: list[int] = []

    @module.task("job", retry=Retry(initial=0))
    async def job(event: TaskQueueEvent) -> None:
        async for item in event.resumable(range(20)):
            seen.append(item)
            clock.advance(0.5)
            if event.attempt == 1 and item == 10:
                raise ValueError("no")

    task = asyncio.run(single(module))
    assert (task.status, task.attempt) == (TaskStatus.COMPLETED, 2)
    assert seen[:11] == list(range(11))
    assert seen[11] in (9, 10)
    assert seen[-1] == 19


def test_two_loops_and_a_state_of_its_own(make_module: MakeModule, clock: FakeClock) -> None:
    """Loops have names; what the handler saves itself is kept beside them."""
    module = make_module(clock=clock)
    seen: list[Any] = []

    @module.task("job", timeout=SLICE)
    async def job(event: TaskQueueEvent) -> Json:
        async for word in event.resumable(["abc"] * 3, name="first"):
            clock.advance(0.1)
            seen.append(("first", word))
            await event.checkpoint({"seen": len(seen)})
        async for item in event.resumable([1, 2, 3], name="second"):
            clock.advance(0.1)
            seen.append(("second", item))
        return event.state

    task = asyncio.run(single(module))
    assert task.result == {"seen": 3}
    assert seen == [("first", "abc")] * 3 + [("second", number) for number in (1, 2, 3)]


def test_in_sub_tasks(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)

    @module.step_function_task("job", timeout=SLICE)
    async def job(event: StepFunctionTaskEvent) -> int:
        last = -1
        async for item in event.resumable(range(event.task.input)):
            clock.advance(0.05)
            last = item
        return last

    async def scenario() -> Any:
        parent = await fan_out(module, (3, 30))
        return parent, await sub_tasks(module, parent)

    parent, subs = asyncio.run(scenario())
    assert parent.status is TaskStatus.COMPLETED
    assert [sub.status for sub in subs] == [TaskStatus.COMPLETED] * 2


@pytest.mark.parametrize(
    ("items", "problem"), [("text", InvalidType), ({1, 2}, InvalidType), (lambda cursor: [1], InvalidType)]
)
def test_what_cannot_be_resumed_is_refused(make_module: MakeModule, items: Any, problem: type) -> None:
    module = make_module()

    @module.task("job")
    async def job(event: TaskQueueEvent) -> None:
        async for _ in event.resumable(items):
            pass

    task = asyncio.run(single(module))
    assert task.status is TaskStatus.FAILED
    assert task.error is not None
    assert task.error.message.startswith("items: ")


def test_two_loops_of_one_name_are_refused(make_module: MakeModule) -> None:
    module = make_module()

    @module.task("job")
    async def job(event: TaskQueueEvent) -> None:
        for _ in range(2):
            async for _ in event.resumable([1]):
                pass

    task = asyncio.run(single(module))
    assert task.error is not None
    assert task.error.message.startswith("name: ")


def test_outside_of_a_run_all_items_come() -> None:
    event: TaskQueueEvent[Any] = TaskQueueEvent()

    async def main() -> list[int]:
        return [item async for item in event.resumable(pages)]

    assert asyncio.run(main()) == list(range(100)) == list(event.sync.resumable(pages))
    with pytest.raises(InvalidInput):
        list(event.sync.resumable("text"))
