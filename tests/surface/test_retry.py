"""Retries: what is final, what is tried again and when, lost leases, timeouts."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from taskloom import GiveUp, Retry, RetryAfter, Settings, StepFunctionTaskEvent, TaskModule, TaskQueueEvent, TaskStatus
from taskloom.errors import InvalidInput
from tests.support.clock import FakeClock
from tests.surface.running import (
    PATIENCE,
    Entity,
    MakeModule,
    drained,
    fan_out,
    lose_worker,
    single,
    sub_tasks,
    within_patience,
)

STEADY = Retry(max_attempts=3, initial=10, multiplier=2, jitter=False)


async def to_the_end(module: TaskModule, clock: FakeClock, task: Entity) -> tuple[Entity, list[float]]:
    """*task* when nothing more happens to it, and the delays before its attempts in seconds."""
    delays: list[float] = []
    while not task.is_terminal:
        assert task.status is TaskStatus.PENDING
        assert task.next_attempt_at is not None
        delays.append((task.next_attempt_at - clock.now()).total_seconds())
        clock.advance(delays[-1] - 0.001)
        await drained(module)
        early = await module.task_service.get_task(task.key)
        assert early.attempt == task.attempt  # not before its time
        clock.advance(0.001)
        await drained(module)
        task = await module.task_service.get_task(task.key)
    return task, delays


def run(module: TaskModule, clock: FakeClock) -> tuple[Entity, list[float]]:
    async def scenario() -> tuple[Entity, list[float]]:
        return await to_the_end(module, clock, await single(module))

    return asyncio.run(scenario())


# --- by default ------------------------------------------------------------------------------------------------------


def test_a_handlers_exception_is_final_by_default(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)

    @module.task("job")
    def job(event: TaskQueueEvent) -> None:
        raise LookupError("no such book")

    task, delays = run(module, clock)
    assert (task.status, task.attempt, delays) == (TaskStatus.FAILED, 1, [])
    assert task.error is not None
    assert (task.error.type, task.error.message, task.error.attempt) == ("LookupError", "no such book", 1)
    assert not task.error.will_retry
    assert task.history[-1].reason == "no such book"


def test_a_sub_tasks_exception_is_final_by_default(make_module: MakeModule) -> None:
    module = make_module()

    @module.step_function_task("job")
    def job(event: StepFunctionTaskEvent) -> None:
        raise LookupError("no such book")

    async def scenario() -> Any:
        return await sub_tasks(module, await fan_out(module, [1]))

    (sub,) = asyncio.run(scenario())
    assert (sub.status, sub.attempt, sub.error.message) == (TaskStatus.FAILED, 1, "no such book")


# --- policies --------------------------------------------------------------------------------------------------------


def test_retry_tries_again_after_growing_delays(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)

    @module.task("job", retry=STEADY)
    def job(event: TaskQueueEvent) -> int:
        if event.attempt < 3:
            raise LookupError(f"attempt {event.attempt}")
        return event.attempt

    task, delays = run(module, clock)
    assert (task.status, task.attempt, task.result, delays) == (TaskStatus.COMPLETED, 3, 3, [10, 20])
    assert task.error is None
    assert [(entry.status, entry.attempt, entry.reason) for entry in task.history] == [
        ("PENDING", 0, None),
        ("IN_PROGRESS", 1, None),
        ("PENDING", 1, "attempt 1"),
        ("IN_PROGRESS", 2, None),
        ("PENDING", 2, "attempt 2"),
        ("IN_PROGRESS", 3, None),
        ("COMPLETED", 3, None),
    ]


def test_a_task_that_waits_for_its_next_attempt_shows_the_error(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)

    @module.task("job", retry=STEADY)
    def job(event: TaskQueueEvent) -> None:
        raise LookupError("not yet")

    task = asyncio.run(single(module))
    assert task.status is TaskStatus.PENDING
    assert task.next_attempt_at == clock.now() + timedelta(seconds=10)
    assert task.error is not None
    assert (task.error.message, task.error.attempt, task.error.will_retry) == ("not yet", 1, True)


def test_after_max_attempts_the_exception_is_final(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)

    @module.task("job", retry=STEADY)
    def job(event: TaskQueueEvent) -> None:
        raise LookupError(f"attempt {event.attempt}")

    task, delays = run(module, clock)
    assert (task.status, task.attempt, delays) == (TaskStatus.FAILED, 3, [10, 20])
    assert task.error is not None
    assert (task.error.message, task.error.will_retry) == ("attempt 3", False)


def test_jitter_draws_the_delay_from_zero_to_the_backoff(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)

    @module.task("job", retry=Retry(max_attempts=6, initial=10, maximum=30))
    def job(event: TaskQueueEvent) -> None:
        raise LookupError

    async def scenario() -> list[float]:
        task, delays = await single(module), []
        while not task.is_terminal:
            assert task.next_attempt_at is not None
            delays.append((task.next_attempt_at - clock.now()).total_seconds())
            clock.advance(30)
            await drained(module)
            task = await module.task_service.get_task(task.key)
        return delays

    delays = asyncio.run(scenario())
    assert len(delays) == 5
    assert all(0 <= delay <= bound for delay, bound in zip(delays, [10, 20, 30, 30, 30], strict=True))
    assert len(set(delays)) > 1


def test_settings_retry_is_for_types_without_a_policy_of_their_own(
    make_module: MakeModule, clock: FakeClock, database: Any
) -> None:
    class Factory:
        def transform_task(self, event: TaskQueueEvent) -> list[Any]:
            raise LookupError

    module = make_module(
        task_queue_event_factory=Factory, clock=clock, settings=Settings(database=database, retry=STEADY)
    )

    @module.task("fine")
    def fine(event: TaskQueueEvent) -> None: ...

    @module.task("plain")
    def plain(event: TaskQueueEvent) -> None:
        raise LookupError

    @module.task("own", retry=Retry(max_attempts=2, jitter=False))
    def own(event: TaskQueueEvent) -> None:
        raise LookupError

    @module.step_function_task("parts")
    def parts(event: StepFunctionTaskEvent) -> None:
        raise LookupError

    async def scenario() -> None:
        for task_type, attempts in (("plain", 3), ("own", 2), ("made-by-factory", 3)):
            task, _ = await to_the_end(module, clock, await single(module, task_type=task_type))
            assert (task.status, task.attempt) == (TaskStatus.FAILED, attempts)

    asyncio.run(scenario())


def test_sub_tasks_are_tried_again_like_tasks(make_module: MakeModule, clock: FakeClock) -> None:
    """Each on its own: those that ended well do not run again."""
    module, ran = make_module(clock=clock), list[int]()

    @module.step_function_task("job", retry=STEADY, chunk_size=2)
    def job(event: StepFunctionTaskEvent[int]) -> int:
        ran.append(event.task.input)
        if event.task.input == 1 and event.attempt < 3:
            raise LookupError(f"attempt {event.attempt}")
        return event.attempt

    async def scenario() -> Any:
        parent = await fan_out(module, range(4))
        waiting = (await sub_tasks(module, parent))[1]
        assert (waiting.status, waiting.attempt) == (TaskStatus.PENDING, 1)
        assert waiting.error is not None
        assert waiting.error.message == "attempt 1"
        assert parent.status is TaskStatus.IN_PROGRESS
        for seconds in (10, 20):
            clock.advance(seconds)
            await drained(module)
        return await module.task_service.get_task(parent.key), await sub_tasks(module, parent)

    parent, subs = asyncio.run(scenario())
    assert parent.status is TaskStatus.COMPLETED
    assert [sub.result for sub in subs] == [1, 3, 1, 1]
    assert sorted(ran) == [0, 1, 1, 1, 2, 3]
    assert [entry.status for entry in subs[1].history] == [
        *("IN_PROGRESS", "PENDING") * 2,
        "IN_PROGRESS",
        "COMPLETED",
    ]


def test_a_sub_task_that_never_succeeds_fails_after_its_attempts(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)

    @module.step_function_task("job", retry=STEADY)
    def job(event: StepFunctionTaskEvent[int]) -> None:
        raise LookupError(f"attempt {event.attempt}")

    async def scenario() -> Any:
        parent = await fan_out(module, [1, 2])
        for seconds in (10, 20):
            clock.advance(seconds)
            await drained(module)
        return await module.task_service.get_task(parent.key), await sub_tasks(module, parent)

    parent, subs = asyncio.run(scenario())
    assert parent.status is TaskStatus.FAILED
    assert [(sub.status, sub.attempt, sub.error.message) for sub in subs] == [("FAILED", 3, "attempt 3")] * 2


class Busy(Exception):
    pass


class Broken(Busy):
    pass


@pytest.mark.parametrize(
    ("raised", "attempts"), [(Busy("later"), 2), (Broken("never"), 1), (LookupError("something else"), 1)]
)
def test_retry_on_and_give_up_on_choose_by_class(
    make_module: MakeModule, clock: FakeClock, raised: Exception, attempts: int
) -> None:
    module = make_module(clock=clock)

    @module.task("job", retry=Retry(max_attempts=2, jitter=False, retry_on=[Busy], give_up_on=[Broken]))
    def job(event: TaskQueueEvent) -> None:
        raise raised

    task, _ = run(module, clock)
    assert (task.status, task.attempt) == (TaskStatus.FAILED, attempts)


@pytest.mark.parametrize("colour", ["async", "def"])
def test_give_up_is_final_whatever_the_policy(make_module: MakeModule, clock: FakeClock, colour: str) -> None:
    module = make_module(clock=clock)

    async def coroutine(event: TaskQueueEvent) -> None:
        raise GiveUp("the book is out of print")

    def function(event: TaskQueueEvent) -> None:
        raise GiveUp("the book is out of print")

    module.task("job", retry=STEADY)(coroutine if colour == "async" else function)
    task, _ = run(module, clock)
    assert (task.status, task.attempt) == (TaskStatus.FAILED, 1)
    assert task.error is not None
    assert task.error.message == "the book is out of print"


@pytest.mark.parametrize("retry", [None, STEADY])
def test_retry_after_says_when_whatever_the_policy(
    make_module: MakeModule, clock: FakeClock, retry: Retry | None
) -> None:
    """It needs no policy, and counts as an attempt: without one, three in all."""
    module = make_module(clock=clock)

    @module.task("job", retry=retry)
    def job(event: TaskQueueEvent) -> None:
        raise RetryAfter(7, "the shop is closed")

    task, delays = run(module, clock)
    assert (task.status, task.attempt, delays) == (TaskStatus.FAILED, 3, [7, 7])
    assert task.error is not None
    assert task.error.message == "the shop is closed"


def test_retry_after_zero_comes_at_once(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)

    @module.task("job")
    def job(event: TaskQueueEvent) -> int:
        if event.attempt == 1:
            raise RetryAfter(0)
        return event.attempt

    assert asyncio.run(single(module)).result == 2


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 10**9])
def test_retry_after_takes_a_delay_up_to_a_year(seconds: float) -> None:
    with pytest.raises(InvalidInput, match="seconds"):
        RetryAfter(seconds)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"max_attempts": 0}, "retry.max_attempts"),
        ({"max_attempts": 2.5}, "retry.max_attempts"),
        ({"initial": -1}, "retry.initial"),
        ({"multiplier": 0.5}, "retry.multiplier"),
        ({"maximum": "long"}, "retry.maximum"),
        ({"retry_on": LookupError}, "retry.retry_on"),
        ({"give_up_on": ["LookupError"]}, "retry.give_up_on"),
    ],
)
def test_an_argument_that_no_retry_can_have_is_named(arguments: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Retry(**arguments)
    assert refused.value.field == field


# --- lost leases -----------------------------------------------------------------------------------------------------


class Hanging:
    """Handlers of both kinds that never return, and workers that are lost over it."""

    def __init__(self, module: TaskModule, clock: FakeClock, retry: Retry | None = None) -> None:
        self.attempts: list[int] = []
        self._module, self._clock = module, clock
        self._busy = asyncio.Event()
        module.task("job", retry=retry)(self._hang)
        module.step_function_task("job", retry=retry)(self._hang)

    async def _hang(self, event: Any) -> None:
        self.attempts.append(event.attempt)
        self._busy.set()
        await asyncio.Event().wait()

    def lose_worker(self) -> None:
        """A worker begins what is due and dies; its lease has ended since."""
        self._busy = asyncio.Event()
        asyncio.run(lose_worker(self._module, self._busy))
        self._clock.advance(61)

    def drain(self) -> None:
        """One more worker has done what is due: none of it is the handler that never returns."""
        asyncio.run(within_patience(drained(self._module, grace=0)))


def test_a_lost_lease_is_tried_again_up_to_three_attempts(make_module: MakeModule, clock: FakeClock) -> None:
    """Although an exception would be final: the handler never had its say."""
    module = make_module(clock=clock)
    hanging = Hanging(module, clock)
    tasks = module.sync.task_service
    task = tasks.create_task(tenant_code="acme", task_type="job")
    for attempt in (1, 2, 3):
        hanging.lose_worker()
        task = tasks.get_task(task.key)
        assert (task.status, task.attempt) == (TaskStatus.IN_PROGRESS, attempt)
    hanging.drain()
    task = tasks.get_task(task.key)
    assert hanging.attempts == [1, 2, 3]
    assert (task.status, task.attempt) == (TaskStatus.FAILED, 3)
    assert task.error is not None
    assert (task.error.type, task.error.message) == ("WorkerDied", "the worker died 3 times")
    assert [(entry.status, entry.attempt, entry.reason) for entry in task.history] == [
        ("PENDING", 0, None),
        ("IN_PROGRESS", 1, None),
        ("IN_PROGRESS", 2, "the lease of the attempt before ended"),
        ("IN_PROGRESS", 3, "the lease of the attempt before ended"),
        ("FAILED", 3, "the worker died 3 times"),
    ]


def test_a_policy_says_how_often_a_lost_lease_is_tried_again(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)
    hanging = Hanging(module, clock, Retry(max_attempts=1))
    task = module.sync.task_service.create_task(tenant_code="acme", task_type="job")
    hanging.lose_worker()
    hanging.drain()
    task = module.sync.task_service.get_task(task.key)
    assert (task.status, hanging.attempts) == (TaskStatus.FAILED, [1])


def test_a_lost_lease_of_a_sub_task_is_tried_again_up_to_three_attempts(
    make_module: MakeModule, clock: FakeClock
) -> None:
    module = make_module(clock=clock)
    hanging = Hanging(module, clock)
    tasks = module.sync.task_service
    parent = tasks.create_step_function_task(tenant_code="acme", task_type="job", input=[1])
    for _ in range(3):
        hanging.lose_worker()
    hanging.drain()
    (sub,) = tasks.iter_sub_tasks(parent.key)
    parent = tasks.get_task(parent.key)
    assert hanging.attempts == [1, 2, 3]
    assert (sub.status, parent.status) == (TaskStatus.FAILED, TaskStatus.FAILED)
    assert sub.error is not None
    assert sub.error.type == "WorkerDied"
    assert parent.attributes.sub_task_failed_count == 1


def test_a_task_whose_worker_died_ends_well_in_the_next_one(make_module: MakeModule, clock: FakeClock) -> None:
    dying, healthy = make_module(clock=clock), make_module(clock=clock)
    hanging = Hanging(dying, clock)
    healthy.task("job")(lambda event: f"attempt {event.attempt}")
    task = dying.sync.task_service.create_task(tenant_code="acme", task_type="job")
    hanging.lose_worker()
    asyncio.run(drained(healthy))
    assert healthy.sync.task_service.get_task(task.key).result == "attempt 2"


def test_nobody_else_claims_before_the_lease_ends(make_module: MakeModule, clock: FakeClock) -> None:
    """Rule 2. The running worker renews its lease, so it keeps the task however long it takes."""
    one, other = make_module(clock=clock), make_module(clock=clock)
    ran: list[str] = []

    async def scenario() -> Any:
        started, go_on = asyncio.Event(), asyncio.Event()

        @one.task("job")
        async def job(event: TaskQueueEvent) -> str:
            ran.append("one")
            started.set()
            await within_patience(go_on.wait())
            return "one"

        other.task("job")(lambda event: ran.append("other"))
        service = one.task_service
        task = await service.create_task(tenant_code="acme", task_type="job")
        async with one.worker():
            await within_patience(started.wait())
            until = (await service.get_task(task.key)).lease_until
            assert until == clock.now() + timedelta(seconds=60)
            for _ in range(10):
                before = (await service.get_task(task.key)).lease_until
                clock.advance(21)  # a third of a lease, and a little
                async with asyncio.timeout(PATIENCE):
                    while (await service.get_task(task.key)).lease_until == before:
                        pass
                await drained(other)
            go_on.set()
            return await service.wait(task.key)

    task = asyncio.run(scenario())
    assert (task.result, task.attempt, ran) == ("one", 1, ["one"])


# --- timeouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", ["async", "def"])
@pytest.mark.parametrize("kind", ["single", "sub-task"])
def test_an_attempt_that_takes_too_long_fails(
    make_module: MakeModule, clock: FakeClock, colour: str, kind: str
) -> None:
    """An async handler is cancelled; a thread cannot be, so it is left behind and sees `event.cancelled`."""
    module = make_module(clock=clock)

    async def scenario() -> Any:
        loop = asyncio.get_running_loop()
        started, ended = asyncio.Event(), asyncio.Event()

        async def coroutine(event: Any) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        def function(event: Any) -> None:
            loop.call_soon_threadsafe(started.set)
            while not event.cancelled:
                pass
            loop.call_soon_threadsafe(ended.set)

        handler = coroutine if colour == "async" else function
        module.task("job", timeout=5)(handler)
        module.step_function_task("job", timeout=5)(handler)
        service = module.task_service
        if kind == "single":
            task = await service.create_task(tenant_code="acme", task_type="job")
        else:
            task = await service.create_step_function_task(tenant_code="acme", task_type="job", input=[1])
        async with module.worker() as worker:
            await within_patience(started.wait())
            clock.advance(4.999)
            assert not (await service.get_task(task.key)).is_terminal
            assert not ended.is_set()
            clock.advance(0.001)
            await within_patience(ended.wait())
            await within_patience(worker.drain())
        task = await service.get_task(task.key)
        return task if kind == "single" else (await sub_tasks(module, task))[0]

    task = asyncio.run(scenario())
    assert task.status is TaskStatus.FAILED
    assert (task.error.type, task.error.message) == ("TimeoutError", "the attempt took longer than 5 s")


def test_an_attempt_that_took_too_long_is_tried_again_by_policy(make_module: MakeModule, clock: FakeClock) -> None:
    """Each attempt has the whole time."""
    module = make_module(clock=clock)

    async def scenario() -> Any:
        started = asyncio.Event()

        @module.task("job", timeout=5, retry=Retry(max_attempts=2, initial=0, jitter=False))
        async def job(event: TaskQueueEvent) -> int:
            if event.attempt == 1:
                started.set()
                await asyncio.Event().wait()
            return event.attempt

        service = module.task_service
        task = await service.create_task(tenant_code="acme", task_type="job")
        async with module.worker():
            await within_patience(started.wait())
            clock.advance(5)
            return await within_patience(service.wait(task.key))

    task = asyncio.run(scenario())
    assert (task.status, task.result) == (TaskStatus.COMPLETED, 2)


def test_a_handler_that_is_fast_enough_is_left_alone(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)
    module.task("job", timeout=5)(lambda event: clock.advance(4))
    assert asyncio.run(single(module)).status is TaskStatus.COMPLETED
