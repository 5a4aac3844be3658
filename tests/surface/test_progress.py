"""Progress: what handlers say of themselves, and what follows from it."""

import asyncio
import threading
from typing import Any

import pytest

from taskloom import Retry, StepFunctionTaskEvent, TaskQueueEvent, TaskStatus
from tests.support.clock import FakeClock
from tests.surface.running import (
    PATIENCE,
    Entity,
    MakeModule,
    drained,
    fan_out,
    single,
    sub_tasks,
    until,
    within_patience,
)


@pytest.mark.parametrize("colour", ["async", "def"])
def test_progress_is_a_plain_call_in_both_kinds_of_handler(make_module: MakeModule, colour: str) -> None:
    module = make_module()

    async def coroutine(event: Any) -> None:
        assert event.progress(3, 7, "three of seven") is None

    def function(event: Any) -> None:
        assert event.progress(3, 7, "three of seven") is None

    module.task("job")(coroutine if colour == "async" else function)
    module.step_function_task("job")(coroutine if colour == "async" else function)

    async def scenario() -> Any:
        return await single(module), await sub_tasks(module, await fan_out(module, [1]))

    task, (sub,) = asyncio.run(scenario())
    for entity in (task, sub):
        assert entity.status is TaskStatus.COMPLETED
        progress = entity.progress
        assert (progress.done, progress.total, progress.message) == (3, 7, "three of seven")


def test_total_and_message_are_optional(make_module: MakeModule) -> None:
    module = make_module()
    module.task("job")(lambda event: event.progress(0.5))
    progress = asyncio.run(single(module)).progress
    assert progress is not None
    assert (progress.done, progress.total, progress.message) == (0.5, None, None)


@pytest.mark.parametrize("ending", ["returns", "raises", "is tried again"])
def test_the_last_progress_is_always_written(make_module: MakeModule, clock: FakeClock, ending: str) -> None:
    module = make_module(clock=clock)

    @module.task("job", retry=Retry(max_attempts=2, jitter=False) if ending == "is tried again" else None)
    def job(event: TaskQueueEvent) -> None:
        for done in range(1001):
            event.progress(done, 1000)
        if ending != "returns":
            raise LookupError

    task = asyncio.run(single(module))
    assert task.status == {"returns": "COMPLETED", "raises": "FAILED", "is tried again": "PENDING"}[ending]
    assert task.progress is not None
    assert task.progress.done == 1000


def test_progress_is_written_at_most_once_a_second(make_module: MakeModule, clock: FakeClock) -> None:
    """Whoever looks sees nothing new before the second is over, however often the handler speaks."""
    module = make_module(clock=clock)

    async def scenario() -> None:
        go_on, speaking = asyncio.Event(), asyncio.Event()

        @module.task("job")
        async def job(event: TaskQueueEvent) -> None:
            event.progress(1)
            speaking.set()
            await within_patience(go_on.wait())
            for done in range(2, 100):
                event.progress(done)
            speaking.set()
            await asyncio.Event().wait()

        service = module.task_service
        task = await service.create_task(tenant_code="acme", task_type="job")

        async def done() -> float:
            progress = (await service.get_task(task.key)).progress
            return progress.done if progress else 0

        async def shows(number: float) -> bool:
            return await done() == number

        async with module.worker(grace=0):
            await within_patience(speaking.wait())
            await until(lambda: shows(1))
            speaking.clear()
            go_on.set()
            await within_patience(speaking.wait())
            clock.advance(0.999)
            assert {await done() for _ in range(20)} == {1}
            clock.advance(0.001)
            await until(lambda: shows(99))

    asyncio.run(scenario())


def test_a_talkative_handler_costs_no_writes(make_module: MakeModule, clock: FakeClock) -> None:
    """Every write raises the version; in an instant that never ends there is at most one for progress."""
    module = make_module(clock=clock)

    @module.task("job")
    def job(event: TaskQueueEvent[int]) -> None:
        for done in range(event.task.input):
            event.progress(done)

    async def scenario() -> tuple[int, int]:
        return (await single(module, 0)).version, (await single(module, 1000)).version

    silent, talkative = asyncio.run(scenario())
    assert talkative <= silent + 1


def test_progress_is_seen_while_the_handler_runs(make_module: MakeModule, clock: FakeClock) -> None:
    """With the rate and the seconds left; 5 of 20 in ten seconds leave 30."""
    module, go_on = make_module(clock=clock), threading.Event()

    @module.task("job")
    def job(event: TaskQueueEvent) -> None:
        clock.advance(10)
        event.progress(5, 20)
        go_on.wait(PATIENCE)
        clock.advance(10)
        event.progress(20, 20)

    async def scenario() -> tuple[Entity, Entity]:
        service = module.task_service
        task = await service.create_task(tenant_code="acme", task_type="job")
        assert (task.rate, task.seconds_left) == (None, None)

        async def shown() -> bool:
            return (await service.get_task(task.key)).progress is not None

        async with module.worker():
            await until(shown)
            running = await service.get_task(task.key)
            go_on.set()
            return running, await service.wait(task.key)

    running, done = asyncio.run(scenario())
    assert running.status is TaskStatus.IN_PROGRESS
    assert (running.rate, running.seconds_left) == (0.5, 30.0)
    assert (done.rate, done.seconds_left) == (1.0, 0.0)


def test_a_fan_out_shows_counts_rate_and_seconds_left(make_module: MakeModule, clock: FakeClock) -> None:
    """Two of six after four seconds: half a sub-task a second, eight seconds left."""
    module = make_module(clock=clock)

    async def scenario() -> tuple[Entity, Entity]:
        third, go_on = asyncio.Event(), asyncio.Event()

        @module.step_function_task("job", max_concurrency=1)
        async def job(event: StepFunctionTaskEvent[int]) -> None:
            if event.task.input == 2:
                third.set()
                await within_patience(go_on.wait())
            clock.advance(2)

        service = module.task_service
        parent = await service.create_step_function_task(tenant_code="acme", task_type="job", input=range(6))
        async with module.worker():
            await within_patience(third.wait())
            running = await service.get_task(parent.key)
            go_on.set()
            return running, await service.wait(parent.key)

    running, done = asyncio.run(scenario())
    counts = running.attributes
    assert (counts.sub_task_count, counts.sub_task_succeed_count, counts.sub_task_running_count) == (6, 2, 4)
    assert running.started_at is not None
    assert (running.rate, running.seconds_left) == (0.5, 8.0)
    assert (done.rate, done.seconds_left) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((-1,), "progress.done"),
        (("half",), "progress.done"),
        ((True,), "progress.done"),
        ((float("nan"),), "progress.done"),
        ((1, -1), "progress.total"),
        ((1, "all"), "progress.total"),
        ((1, 2, "lone \ud800"), "progress.message"),
    ],
)
def test_progress_that_is_none_is_refused_by_name(make_module: MakeModule, arguments: Any, field: str) -> None:
    module = make_module()
    module.task("job")(lambda event: event.progress(*arguments))
    task = asyncio.run(single(module))
    assert task.status is TaskStatus.FAILED
    assert task.error is not None
    assert task.error.type == "taskloom.errors." + ("InvalidInput" if "Input" in task.error.type else "InvalidType")
    assert task.error.message.startswith(field)
    with pytest.raises(ValueError, match=field):
        TaskQueueEvent().progress(*arguments)  # also outside of a run, as in a unit test


def test_a_new_attempt_begins_where_the_old_progress_stood(make_module: MakeModule, clock: FakeClock) -> None:
    module, seen = make_module(clock=clock), list[Any]()

    @module.task("job", retry=Retry(max_attempts=2, initial=1, jitter=False))
    def job(event: TaskQueueEvent) -> None:
        seen.append(event.task.progress)
        event.progress(event.attempt)
        if event.attempt == 1:
            raise LookupError

    async def scenario() -> Entity:
        task = await single(module)
        clock.advance(1)
        await drained(module)
        return await module.task_service.get_task(task.key)

    task = asyncio.run(scenario())
    assert task.progress is not None
    assert task.progress.done == 2
    assert seen[0] is None
    assert seen[1].done == 1
