"""Whoever creates a task may say how often it is tried; which exceptions count is for its type to say."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from taskloom import NewTask, Retry, RetryAfter, Settings, StepFunctionTaskEvent, TaskModule, TaskQueueEvent, TaskStatus
from taskloom.errors import InvalidInput, InvalidType
from taskloom.model import RetryNumbers
from tests.support.clock import FakeClock
from tests.surface.running import Entity, MakeModule, drained, lose_worker, sub_tasks

PENDING, IN_PROGRESS = TaskStatus.PENDING, TaskStatus.IN_PROGRESS
COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED

OWN = Retry(max_attempts=4, initial=3, multiplier=3, maximum=20, jitter=False)
"""What the creator wants: delays of 3, 9 and 20 seconds."""
OF_TYPE = Retry(max_attempts=2, initial=100, jitter=False)


class Busy(Exception):
    pass


class Broken(Busy):
    pass


def define(module: TaskModule, retry: Retry | None, error: type[Exception] = LookupError) -> None:
    """Handlers of both kinds that always raise."""

    def handle(event: TaskQueueEvent | StepFunctionTaskEvent) -> None:
        raise error(f"attempt {event.attempt}")

    module.task("job", retry=retry)(handle)
    module.step_function_task("job", retry=retry)(handle)


async def create(module: TaskModule, kind: str, retry: Retry | None) -> Entity:
    service = module.task_service
    if kind == "single":
        return await service.create_task(tenant_code="acme", task_type="job", retry=retry)
    if kind == "many":
        new = NewTask(tenant_code="acme", task_type="job")
        return (await service.create_tasks([new, replace(new, retry=retry)]))[1]
    return await service.create_step_function_task(tenant_code="acme", task_type="job", input=[1], retry=retry)


async def tried(module: TaskModule, made: Entity) -> Entity:
    """The task *made*, or the sub-task of the fan-out: the one whose attempts are counted."""
    task = await module.task_service.get_task(made.key)
    return task if task.attributes.sub_task_count is None else (await sub_tasks(module, task))[0]


async def delays_of(module: TaskModule, clock: FakeClock, made: Entity) -> list[float]:
    """The pauses before its attempts, in seconds; it has ended then."""
    delays: list[float] = []
    await drained(module)
    while not (task := await tried(module, made)).is_terminal:
        assert task.status is PENDING
        assert task.next_attempt_at is not None
        delays.append((task.next_attempt_at - clock.now()).total_seconds())
        clock.advance(delays[-1])
        await drained(module)
    return delays


KINDS = ["single", "many", "fan-out"]


@pytest.mark.parametrize("of_type", [None, OF_TYPE])
@pytest.mark.parametrize("kind", KINDS)
def test_it_counts_instead_of_the_types(
    make_module: MakeModule, clock: FakeClock, kind: str, of_type: Retry | None
) -> None:
    """All its numbers; of a fan-out for each sub-task."""
    module = make_module(clock=clock)
    define(module, of_type)

    async def scenario() -> tuple[list[float], Entity]:
        made = await create(module, kind, OWN)
        return await delays_of(module, clock, made), await tried(module, made)

    delays, task = asyncio.run(scenario())
    assert delays == [3, 9, 20]
    assert (task.status, task.attempt) == (FAILED, 4)
    assert task.error is not None
    assert (task.error.message, task.error.will_retry) == ("attempt 4", False)


@pytest.mark.parametrize("kind", KINDS)
def test_it_may_want_less_than_the_type(make_module: MakeModule, clock: FakeClock, kind: str) -> None:
    module = make_module(clock=clock)
    define(module, OWN)

    async def scenario() -> Entity:
        made = await create(module, kind, Retry(max_attempts=1))
        assert await delays_of(module, clock, made) == []
        return await tried(module, made)

    task = asyncio.run(scenario())
    assert (task.status, task.attempt) == (FAILED, 1)


def test_it_counts_instead_of_settings(make_module: MakeModule, clock: FakeClock, database: Any) -> None:
    module = make_module(clock=clock, settings=Settings(database=database, retry=OF_TYPE))
    define(module, None)

    async def scenario() -> None:
        assert await delays_of(module, clock, await create(module, "single", OWN)) == [3, 9, 20]
        assert await delays_of(module, clock, await create(module, "single", None)) == [100]

    asyncio.run(scenario())


def test_its_jitter_counts(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)
    define(module, OF_TYPE)

    async def scenario() -> list[float]:
        made = await create(module, "single", Retry(max_attempts=8, initial=10, multiplier=1))
        return await delays_of(module, clock, made)

    delays = asyncio.run(scenario())
    assert len(delays) == 7
    assert all(0 <= delay <= 10 for delay in delays)
    assert len(set(delays)) > 1


@pytest.mark.parametrize(("error", "attempts"), [(Busy, 4), (Broken, 1), (LookupError, 1)])
@pytest.mark.parametrize("kind", ["single", "fan-out"])
def test_which_exceptions_are_tried_again_stays_with_the_type(
    make_module: MakeModule, clock: FakeClock, kind: str, error: type[Exception], attempts: int
) -> None:
    module = make_module(clock=clock)
    define(module, Retry(max_attempts=2, retry_on=[Busy], give_up_on=[Broken]), error)

    async def scenario() -> Entity:
        made = await create(module, kind, OWN)
        await delays_of(module, clock, made)
        return await tried(module, made)

    task = asyncio.run(scenario())
    assert (task.status, task.attempt) == (FAILED, attempts)


def test_retry_after_keeps_to_its_limit(make_module: MakeModule, clock: FakeClock) -> None:
    """The handler says when, the creator how often."""
    module = make_module(clock=clock)

    @module.task("job")
    def job(event: TaskQueueEvent) -> None:
        raise RetryAfter(7)

    async def scenario() -> list[float]:
        return await delays_of(module, clock, await create(module, "single", OWN))

    assert asyncio.run(scenario()) == [7, 7, 7]


def test_the_decorated_functions_pass_it_on(make_module: MakeModule) -> None:
    module = make_module()
    single = module.task("job")(lambda event: None)
    parts = module.step_function_task("job")(lambda event: None)

    async def scenario() -> list[Entity]:
        return [
            await single.create(tenant_code="acme", retry=OWN),
            await parts.create(tenant_code="acme", input=[1], retry=OWN),
        ]

    numbers = RetryNumbers(max_attempts=4, initial=3, multiplier=3, maximum=20, jitter=False)
    assert [task.options.retry for task in asyncio.run(scenario())] == [numbers] * 2


# --- how long it counts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_task_shows_it(make_module: MakeModule, clock: FakeClock, kind: str) -> None:
    """At its creation, whenever it is read, and in its handler."""
    module, seen = make_module(clock=clock), list[object]()

    def handle(event: TaskQueueEvent | StepFunctionTaskEvent) -> None:
        seen.append(event.task.options.retry)
        if event.attempt == 1:
            raise LookupError

    module.task("job")(handle)
    module.step_function_task("job")(handle)
    numbers = RetryNumbers(max_attempts=2, initial=0, multiplier=1.5, maximum=7.25, jitter=True)

    async def scenario() -> None:
        made = await create(module, kind, Retry(max_attempts=2, initial=0, multiplier=1.5, maximum=7.25))
        assert made.options.retry == numbers
        assert made.options.deadline is None
        await drained(module)
        assert (await module.task_service.get_task(made.key)).options == made.options
        assert (await tried(module, made)).options == made.options

    asyncio.run(scenario())
    assert [retry for retry in seen if retry is not None] == [numbers] * 2


def test_without_one_there_is_nothing_to_show(make_module: MakeModule) -> None:
    module = make_module()
    define(module, OF_TYPE)
    made = asyncio.run(create(module, "single", None))
    assert made.options.retry is None


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_kept_for_a_new_run(make_module: MakeModule, clock: FakeClock, kind: str) -> None:
    module = make_module(clock=clock)
    define(module, OF_TYPE)

    async def scenario() -> None:
        made = await create(module, kind, OWN)
        assert await delays_of(module, clock, made) == [3, 9, 20]
        again = await module.task_service.retry_task(made.key)
        assert again.options == made.options
        assert await delays_of(module, clock, made) == [3, 9, 20]
        task = await tried(module, made)
        assert (task.run, task.attempt, task.status) == (2, 4, FAILED)

    asyncio.run(scenario())


def test_it_lies_in_the_file(make_module: MakeModule, clock: FakeClock) -> None:
    """The worker is another module, which knows the type only."""
    creator, worker = make_module(clock=clock), make_module(clock=clock)
    define(worker, OF_TYPE)

    async def scenario() -> list[float]:
        return await delays_of(worker, clock, await create(creator, "single", OWN))

    assert asyncio.run(scenario()) == [3, 9, 20]


# --- workers that die ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["single", "fan-out"])
@pytest.mark.parametrize(("limit", "times"), [(1, "1 time"), (2, "2 times"), (4, "4 times")])
def test_it_bounds_how_often_a_dead_worker_is_taken_over(
    make_module: MakeModule, clock: FakeClock, kind: str, limit: int, times: str
) -> None:
    """Whatever the policy of the type says: here, twice."""
    module, attempts = make_module(clock=clock), list[int]()
    busy = asyncio.Event()

    async def hang(event: TaskQueueEvent | StepFunctionTaskEvent) -> None:
        attempts.append(event.attempt)
        busy.set()
        await asyncio.Event().wait()

    module.task("job", retry=OF_TYPE)(hang)
    module.step_function_task("job", retry=OF_TYPE)(hang)
    made = asyncio.run(create(module, kind, Retry(max_attempts=limit)))
    for number in range(1, limit + 1):
        busy = asyncio.Event()
        asyncio.run(lose_worker(module, busy))
        task = asyncio.run(tried(module, made))
        assert (task.status, task.attempt, task.lost) == (IN_PROGRESS, number, number - 1)
        clock.advance(61)
    asyncio.run(drained(module))
    task = asyncio.run(tried(module, made))
    assert attempts == list(range(1, limit + 1))
    assert (task.status, task.attempt) == (FAILED, limit)
    assert task.error is not None
    assert (task.error.type, task.error.message) == ("WorkerDied", f"the worker died {times}")
    assert task.history[-1].reason == f"the worker died {times}"


@pytest.mark.parametrize("kind", ["single", "fan-out"])
def test_only_the_attempts_whose_worker_died_are_counted_as_such(
    make_module: MakeModule, clock: FakeClock, kind: str
) -> None:
    """The reason tells both numbers where they differ; a new run begins to count anew."""
    module, busy = make_module(clock=clock), asyncio.Event()

    async def handle(event: TaskQueueEvent | StepFunctionTaskEvent) -> None:
        if event.attempt == 2:
            raise LookupError("not this time")
        busy.set()
        await asyncio.Event().wait()

    module.task("job")(handle)
    module.step_function_task("job")(handle)
    made = asyncio.run(create(module, kind, Retry(max_attempts=3, initial=0)))
    for run in (1, 2):
        for lost in (0, 1):  # the first and the third attempt; the second one fails in between
            busy = asyncio.Event()
            asyncio.run(lose_worker(module, busy))
            task = asyncio.run(tried(module, made))
            assert (task.run, task.attempt, task.lost) == (run, 1 + 2 * lost, lost)
            clock.advance(61)
        asyncio.run(drained(module))
        task = asyncio.run(tried(module, made))
        assert task.status is FAILED
        assert task.history[-1].reason == "the worker died 2 times, in 3 attempts"
        if run == 1:
            again = module.sync.task_service.retry_task(made.key)
            assert again.lost == 0


# --- bad values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retry", "kind", "field"),
    [
        (Retry(retry_on=[Busy]), InvalidInput, "retry.retry_on"),
        (Retry(retry_on=[]), InvalidInput, "retry.retry_on"),
        (Retry(give_up_on=[Busy]), InvalidInput, "retry.give_up_on"),
        (3, InvalidType, "retry"),
        ({"max_attempts": 3}, InvalidType, "retry"),
        (Retry, InvalidType, "retry"),
        (False, InvalidType, "retry"),
        (RetryNumbers(max_attempts=1, initial=1, multiplier=1, maximum=1, jitter=True), InvalidType, "retry"),
    ],
)
def test_what_cannot_be_stored_is_named_and_nothing_is(
    make_module: MakeModule, retry: Any, kind: type[InvalidInput], field: str
) -> None:
    module = make_module()

    async def scenario() -> None:
        for way in KINDS:
            with pytest.raises(kind) as refused:
                await create(module, way, retry)
            assert refused.value.field == ("tasks[1]." if way == "many" else "") + field
            assert type(refused.value) is kind
        service = module.task_service
        assert [task async for task in service.iter_tasks("acme")] == []
        assert [task async for task in service.iter_tasks("acme", type="SFN_TASK")] == []

    asyncio.run(scenario())


def test_the_remedy_says_where_exception_classes_belong(make_module: MakeModule) -> None:
    module = make_module()
    with pytest.raises(InvalidInput, match=r"^retry\.retry_on: .*give exception classes to the task type instead"):
        asyncio.run(create(module, "single", Retry(retry_on=[Busy])))


def test_a_list_of_the_default_classes_is_as_good_as_none(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)
    made = asyncio.run(create(module, "single", Retry(retry_on=[Exception], give_up_on=[])))
    assert made.options.retry == RetryNumbers(max_attempts=3, initial=1, multiplier=2, maximum=300, jitter=True)


def test_a_deadline_may_stand_beside(make_module: MakeModule, clock: FakeClock) -> None:
    """Both are kept: the fourth attempt would begin 32 seconds after the creation."""
    module = make_module(clock=clock)
    define(module, OF_TYPE)

    async def scenario() -> Entity:
        service = module.task_service
        made = await service.create_task(tenant_code="acme", task_type="job", retry=OWN, deadline=32)
        assert made.deadline_at == clock.now() + timedelta(seconds=32)
        assert await delays_of(module, clock, made) == [3, 9]
        return await tried(module, made)

    task = asyncio.run(scenario())
    assert (task.status, task.attempt, task.options.deadline) == (FAILED, 3, 32)
    assert task.error is not None
    assert task.error.message == "attempt 3"


def test_a_completed_task_needs_no_more_attempts(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)

    @module.task("job", retry=OF_TYPE)
    def job(event: TaskQueueEvent) -> int:
        if event.attempt < 4:
            raise LookupError("not yet")
        return event.attempt

    async def scenario() -> Entity:
        made = await create(module, "single", OWN)
        await delays_of(module, clock, made)
        return await tried(module, made)

    task = asyncio.run(scenario())
    assert (task.status, task.result, task.error) == (COMPLETED, 4, None)
