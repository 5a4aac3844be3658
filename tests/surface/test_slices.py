"""Work that outlives its limit: checkpoints, slices, and the time that is left."""

import asyncio
import math
from typing import Any

import pytest

from taskloom import Continue, Retry, StepFunctionTaskEvent, TaskKey, TaskModule, TaskQueueEvent, TaskStatus
from taskloom.errors import ClaimLost, InvalidInput, InvalidType
from tests.support.clock import FakeClock
from tests.surface.running import MakeModule, fan_out, single, sub_tasks

COMPLETED, FAILED, PENDING = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.PENDING


@pytest.mark.parametrize("kind", ["async def", "def"])
def test_a_slice_finds_what_the_one_before_left(make_module: MakeModule, kind: str) -> None:
    """No failure, no attempt: the same attempt goes on, at once, and its history says so."""
    module = make_module()
    seen: list[Any] = []

    def slice_of(event: TaskQueueEvent) -> str:
        state: Any = event.state
        seen.append((state, event.attempt))
        done = (state or 0) + 1
        if done < 4:
            raise Continue(done)
        return "done"

    async def async_slice(event: TaskQueueEvent) -> str:
        return slice_of(event)

    module.task("job")(async_slice if kind == "async def" else slice_of)
    task = asyncio.run(single(module))
    assert (task.status, task.result, task.attempt, task.error, task.state) == (COMPLETED, "done", 1, None, None)
    assert seen == [(None, 1), (1, 1), (2, 1), (3, 1)]
    assert [entry.reason for entry in task.history if entry.status is PENDING][1:] == ["goes on in another slice"] * 3


def test_an_except_exception_does_not_swallow_it(make_module: MakeModule) -> None:
    module = make_module()

    @module.task("job")
    async def job(event: TaskQueueEvent) -> str:
        try:
            if event.state is None:
                raise Continue("on")
        except Exception:  # noqa: BLE001 - as handlers have it
            return "swallowed"
        return "went on"

    assert asyncio.run(single(module)).result == "went on"


def test_a_checkpoint_outlives_a_failed_attempt(make_module: MakeModule) -> None:
    """And one without Continue(state) keeps what was saved. None is a state like any other."""
    module = make_module()
    seen: list[Any] = []

    @module.task("job", retry=Retry(max_attempts=3, initial=0))
    async def job(event: TaskQueueEvent) -> str:
        seen.append(event.state)
        if event.attempt == 1:
            await event.checkpoint({"page": 7})
            assert event.state == {"page": 7}
            raise ValueError("the attempt fails")
        if event.attempt == 2 and event.state == {"page": 7}:
            raise Continue if len(seen) == 2 else Continue(None)
        return "done"

    task = asyncio.run(single(module))
    assert task.result == "done"
    assert seen == [None, {"page": 7}, {"page": 7}, None]


def test_a_thread_saves_blocking(make_module: MakeModule) -> None:
    module = make_module()

    @module.task("job", retry=Retry(max_attempts=2, initial=0))
    def job(event: TaskQueueEvent) -> Any:
        if event.attempt == 1:
            event.sync.checkpoint([1, 2])
            raise ValueError("the attempt fails")
        return event.state

    assert asyncio.run(single(module)).result == [1, 2]


def test_sub_tasks_have_slices_of_their_own(make_module: MakeModule) -> None:
    module = make_module()

    @module.step_function_task("job", chunk_size=2)
    async def job(event: StepFunctionTaskEvent) -> Any:
        state: Any = event.state or []
        if len(state) < event.task.input:
            raise Continue([*state, event.task.input])
        return state

    async def scenario() -> Any:
        parent = await fan_out(module, range(4))
        return parent, await sub_tasks(module, parent)

    parent, subs = asyncio.run(scenario())
    assert parent.status is COMPLETED
    assert [sub.result for sub in subs] == [[], [1], [2, 2], [3, 3, 3]]
    assert {sub.attempt for sub in subs} == {1}


def test_a_new_run_begins_without_state(make_module: MakeModule) -> None:
    module = make_module()

    @module.task("job")
    async def job(event: TaskQueueEvent) -> Any:
        before = event.state
        await event.checkpoint("saved")
        raise ValueError(f"found {before}")

    async def scenario() -> list[Any]:
        first = await single(module)
        again = await module.task_service.retry_task(first.key)
        async with module.worker() as worker:
            await worker.drain()
        return [first, again, await module.task_service.get_task(first.key)]

    first, again, last = asyncio.run(scenario())
    assert (first.state, again.state) == ("saved", None)
    assert last.error.message == "found None"


@pytest.mark.parametrize(
    ("state", "problem"), [(float("nan"), InvalidInput), ({1, 2}, InvalidType), ("x" * 70_000, InvalidInput)]
)
@pytest.mark.parametrize("way", ["checkpoint", "continue"])
def test_what_cannot_be_saved_is_refused(make_module: MakeModule, state: Any, problem: type, way: str) -> None:
    """At the checkpoint the handler is told; raised with Continue it is the end of the task, with that reason."""
    module = make_module()
    raised: list[tuple[type, str]] = []

    @module.task("job", retry=Retry(initial=0))
    async def job(event: TaskQueueEvent) -> str:
        if way == "continue":
            raise Continue(state)
        try:
            await event.checkpoint(state)
        except InvalidInput as error:
            raised.append((type(error), error.field))
        return "went on"

    task = asyncio.run(single(module))
    if way == "checkpoint":
        assert (task.result, raised) == ("went on", [(problem, "state")])
    else:
        assert (task.status, task.attempt) == (FAILED, 1)
        assert task.error is not None
        assert task.error.message.startswith("state: ")


def test_whoever_lost_its_claim_cannot_save(make_module: MakeModule) -> None:
    module = make_module()
    errors: list[BaseException] = []

    @module.task("job")
    async def job(event: TaskQueueEvent) -> None:
        await module.task_service.cancel_task(event.task.key)
        try:
            await event.checkpoint(1)
        except ClaimLost as error:
            errors.append(error)

    task = asyncio.run(single(module))
    assert task.status is TaskStatus.CANCELLED
    assert task.state is None
    assert len(errors) == 1


def test_a_handler_knows_how_much_time_is_left(make_module: MakeModule, clock: FakeClock) -> None:
    """Until its timeout, or the deadline of its task, whichever comes first; without either there is no end."""
    module = make_module(clock=clock)
    left: list[float] = []

    async def look(event: TaskQueueEvent) -> None:
        left.append(event.remaining())
        clock.advance(1)
        left.append(event.remaining())

    module.task("none")(look)
    module.task("timeout", timeout=30)(look)
    module.task("deadline", timeout=30, deadline=20)(look)

    async def scenario() -> None:
        for task_type in ("none", "timeout", "deadline"):
            await module.task_service.create_task(tenant_code="acme", task_type=task_type)
            async with module.worker() as worker:
                await worker.drain()

    asyncio.run(scenario())
    assert left == [math.inf, math.inf, 30, 29, 20, 19]


def test_a_worker_that_stops_tells_its_handlers(make_module: MakeModule, clock: FakeClock) -> None:
    """So that they can save, and go on elsewhere."""
    module = make_module(clock=clock)

    @module.task("job")
    async def job(event: TaskQueueEvent) -> str:
        if event.state is None:
            assert event.remaining() == math.inf
            running.set()
            while event.remaining() > 30:
                await asyncio.to_thread(clock.now)
            raise Continue("saved")
        return f"went on with {event.state}"

    running = asyncio.Event()

    async def scenario() -> Any:
        task = await module.task_service.create_task(tenant_code="acme", task_type="job")
        async with module.worker(grace=10) as worker:
            await running.wait()
            worker.stop()
        waiting = await module.task_service.get_task(task.key)
        async with module.worker() as worker:
            await worker.drain()
        return waiting, await module.task_service.get_task(task.key)

    waiting, done = asyncio.run(scenario())
    assert (waiting.status, waiting.state, waiting.attempt) == (PENDING, "saved", 0)
    assert (done.status, done.result, done.attempt) == (COMPLETED, "went on with saved", 1)


def test_outside_of_a_run_a_handler_can_be_tested() -> None:
    event: TaskQueueEvent[Any] = TaskQueueEvent()

    async def scenario() -> None:
        await event.checkpoint({"page": 1})
        with pytest.raises(InvalidInput):
            await event.checkpoint(float("inf"))

    asyncio.run(scenario())
    event.sync.checkpoint(1)
    assert (event.state, event.remaining()) == (None, math.inf)


def test_a_killed_worker_loses_nothing_that_was_saved(make_module: MakeModule, clock: FakeClock) -> None:
    """The next attempt, in another worker, finds the checkpoint of the one whose lease ended."""
    module = make_module(clock=clock)
    saved: list[TaskKey] = []

    @module.task("job")
    async def job(event: TaskQueueEvent) -> Any:
        if event.attempt == 1:
            await event.checkpoint("half")
            saved.append(event.task.key)
            clock.advance(1)
            await asyncio.Event().wait()
        return event.state

    async def die() -> None:
        await module.task_service.create_task(tenant_code="acme", task_type="job")
        worker = module.worker()
        await worker.__aenter__()
        while not saved:
            await asyncio.to_thread(clock.now)
        # No goodbye: the loop ends, and with it all that the worker does.

    async def go_on(other: TaskModule) -> Any:
        clock.advance(10_000)
        async with other.worker() as worker:
            await worker.drain()
        return await other.task_service.get_task(saved[0])

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(_cancelled(die()))
    task = asyncio.run(go_on(module))
    assert (task.status, task.result, task.attempt) == (COMPLETED, "half", 2)


async def _cancelled(work: Any) -> None:
    await work
    raise asyncio.CancelledError
