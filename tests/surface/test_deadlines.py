"""Deadlines: whatever has not ended in time is FAILED, and says why; what has ended is left alone."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from taskloom import NewTask, Retry, RetryAfter, StepFunctionTaskEvent, TaskModule, TaskQueueEvent, TaskStatus
from taskloom.errors import InvalidInput, InvalidType, StoreError, TaskEnded
from taskloom.ports import Backend, ExecutionStatus
from tests.support.clock import FakeClock
from tests.support.faults import Gate, Inner, PortCall, Probe, tapped
from tests.support.scenarios import check_counters, check_history, module_over, open_backend
from tests.surface.running import (
    Entity,
    MakeModule,
    drained,
    fan_out,
    lose_worker,
    single,
    sub_tasks,
    within_patience,
)

PENDING, IN_PROGRESS = TaskStatus.PENDING, TaskStatus.IN_PROGRESS
COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED

TOO_LATE = "DeadlineExceeded"
REASON = "it did not end within 10 s of its creation"
KINDS = ["single", "fan-out"]


def check_late(task: Entity, reason: str = REASON) -> None:
    """*task* was ended exactly once because its deadline had passed, and tells so wherever somebody may look."""
    assert task.status is FAILED
    assert task.error is not None
    assert (task.error.type, task.error.message, task.error.traceback) == (TOO_LATE, reason, None)
    assert not task.error.will_retry
    assert (task.history[-1].status, task.history[-1].reason) == (FAILED, reason)
    assert [entry.status for entry in task.history if entry.run == task.run].count(FAILED) == 1
    assert task.finished_at == task.history[-1].at
    assert (task.lease_until, task.next_attempt_at, task.dispatch, task.result) == (None, None, None, None)
    check_history(task)


def bystander(make_module: MakeModule, clock: FakeClock) -> TaskModule:
    """A module on the same file whose workers serve another type only."""
    module = make_module(clock=clock)
    module.task("other")(lambda event: None)
    return module


async def created(module: TaskModule, kind: str, **options: Any) -> Entity:
    """A task of type "job" that nobody has looked at yet."""
    service = module.task_service
    if kind == "single":
        return await service.create_task(tenant_code="acme", task_type="job", **options)
    options.setdefault("input", [1, 2])
    return await service.create_step_function_task(tenant_code="acme", task_type="job", **options)


async def look(module: TaskModule, task: Entity) -> Entity:
    return await module.task_service.get_task(task.key)


def check_late_fan_out(database: Path, parent: Entity, subs: list[Entity], reason: str = REASON) -> None:
    """The fan-out ended because it was late, and rule 4 holds: its counters are the recount, also of its chunk rows."""
    check_late(parent, reason)
    check_counters(parent, subs)
    for sub in subs:
        assert sub.is_terminal
        if sub.history:  # it was started
            check_history(sub)
        if sub.status is CANCELLED and sub.history:
            assert sub.history[-1].reason == "cancelled: its fan-out ends"
    with closing(sqlite3.connect(database)) as connection:
        ended = connection.execute(
            "SELECT coalesce(sum(status = 'C'), 0), coalesce(sum(status = 'F'), 0) FROM sub_tasks"
        )
        chunks = connection.execute("SELECT coalesce(sum(succeeded), 0), coalesce(sum(failed), 0) FROM chunks")
        attributes = parent.attributes
        counts = (attributes.sub_task_succeed_count, attributes.sub_task_failed_count)
        assert ended.fetchone() == chunks.fetchone() == counts
        assert not connection.execute("SELECT * FROM queue").fetchall()


# --- tasks that wait -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_that_no_worker_ever_took_fails(make_module: MakeModule, clock: FakeClock, kind: str) -> None:
    """By a worker that does not even serve its type, and not a millisecond too early."""
    module = bystander(make_module, clock)

    async def scenario() -> tuple[Entity, Entity, str]:
        made = await created(module, kind, deadline=10)
        clock.advance(9.999)
        await drained(module)
        assert await look(module, made) == made
        clock.advance(0.001)
        async with module.worker() as worker:
            await worker.drain()
        return made, await look(module, made), worker.name

    made, task, worker = asyncio.run(scenario())
    check_late(task)
    assert task.history[-1].by == worker
    assert task.finished_at == task.deadline_at == made.created_at + timedelta(seconds=10)
    assert (task.run, task.attempt, task.started_at) == (1, 0, None)
    assert task.fence == made.fence + 1, "whoever had it has lost its claim"
    assert [entry.status for entry in task.history] == [PENDING, FAILED]


def test_a_running_worker_notices_by_itself(make_module: MakeModule, clock: FakeClock) -> None:
    """No signal tells of a deadline, and the task was created when the worker had nothing to do already."""
    module = bystander(make_module, clock)

    async def scenario() -> Entity:
        async with module.worker() as worker:
            await worker.drain()
            made = await created(module, "single", deadline=0.5)
            waiting = asyncio.create_task(module.task_service.wait(made.key))
            clock.advance(1)  # it looks once a second
            return await waiting

    check_late(asyncio.run(within_patience(scenario())), "it did not end within 0.5 s of its creation")


def test_a_drain_of_a_worker_that_has_nothing_to_do_ends_it(make_module: MakeModule, clock: FakeClock) -> None:
    """It had looked before there was a task with a deadline, and would look again later only."""
    module = bystander(make_module, clock)

    async def scenario() -> Entity:
        async with module.worker() as worker:
            await worker.drain()
            made = await created(module, "single", deadline=0.5)
            clock.advance(0.5)
            await worker.drain()
            return await look(module, made)

    check_late(asyncio.run(within_patience(scenario())), "it did not end within 0.5 s of its creation")


def test_a_drain_ends_all_that_is_overdue(make_module: MakeModule, clock: FakeClock) -> None:
    """More than it takes at a time; and nothing else."""
    module = bystander(make_module, clock)
    new = [NewTask(tenant_code="acme", task_type="job", deadline=10 if n % 5 else None) for n in range(310)]
    later = NewTask(tenant_code="acme", task_type="job", deadline=10.001)

    async def scenario() -> list[Entity]:
        made = await module.task_service.create_tasks([*new, later])
        clock.advance(10)
        await drained(module)
        return [await look(module, task) for task in made]

    tasks = asyncio.run(scenario())
    assert [task.status for task in tasks] == [FAILED if n % 5 else PENDING for n in range(310)] + [PENDING]


def test_a_task_that_waits_for_its_next_attempt_fails(make_module: MakeModule, clock: FakeClock) -> None:
    """What it raised before is in its history; its error says why it has ended."""
    module, other = make_module(clock=clock), bystander(make_module, clock)

    @module.task("job", retry=Retry(initial=8, jitter=False), deadline=10)
    def job(event: TaskQueueEvent) -> None:
        raise LookupError("not yet")

    async def scenario() -> Entity:
        task = await single(module)
        assert task.status is PENDING
        assert task.next_attempt_at == clock.now() + timedelta(seconds=8)
        clock.advance(10)
        await drained(other)
        return await look(module, task)

    task = asyncio.run(scenario())
    check_late(task)
    assert task.attempt == 1
    assert [(entry.status, entry.reason) for entry in task.history[-2:]] == [(PENDING, "not yet"), (FAILED, REASON)]


def test_a_task_whose_worker_died_fails(make_module: MakeModule, clock: FakeClock) -> None:
    """Also before its lease has ended."""
    module, other = make_module(clock=clock), bystander(make_module, clock)
    busy = asyncio.Event()

    @module.task("job", deadline=10)
    async def job(event: TaskQueueEvent) -> None:
        busy.set()
        await asyncio.Event().wait()

    task = module.sync.task_service.create_task(tenant_code="acme", task_type="job")
    asyncio.run(lose_worker(module, busy))
    clock.advance(10)
    asyncio.run(drained(other))
    task = module.sync.task_service.get_task(task.key)
    check_late(task)
    assert task.attempt == 1


async def comes_too_late(
    backend: Backend, define: Callable[[TaskModule], None], task: Entity | None = None
) -> tuple[TaskModule, TaskStatus | None]:
    """A module whose worker finds tasks and messages of which both are due, and deals with the messages first.

    With the status of *task*, a fan-out, once its execution has ended it in between.
    """
    gate = Gate(lambda call: call.name == "store.list_overdue")
    module = module_over(tapped(backend, gate))
    define(module)
    async with module.worker() as worker:
        await gate.held()
        for _ in range(50):  # all that it might do meanwhile
            await asyncio.to_thread(lambda: None)
        status = None
        while task is not None and not (status := (await look(module, task)).status).is_terminal:
            await asyncio.to_thread(lambda: None)
        gate.open()
        await worker.drain()
    return module, status


def test_the_handler_of_an_overdue_task_is_not_called(clock: FakeClock, database: Path) -> None:
    """Its worker comes too late, at that very instant: whatever the handler did would be for nothing."""
    ran: list[object] = []

    def define(module: TaskModule) -> None:
        module.task("job")(lambda event: ran.append(event))
        module.step_function_task("job")(lambda event: ran.append(event))

    async def scenario(backend: Backend) -> list[Entity]:
        made = [await created(module_over(backend), kind, deadline=10) for kind in KINDS]
        clock.advance(10)
        module, _ = await comes_too_late(backend, define)
        return [await look(module, task) for task in made]

    with closing(open_backend(database, clock)) as backend:
        tasks = asyncio.run(within_patience(scenario(backend)))
    for task in tasks:
        check_late(task)
    assert ran == []


def test_no_execution_is_started_for_an_overdue_fan_out(clock: FakeClock, database: Path) -> None:
    """It has ended when its worker would claim it, so there is nothing to run."""
    probe = Probe()

    def define(module: TaskModule) -> None:
        module.step_function_task("job")(lambda event: None)

    async def scenario(backend: Backend) -> Entity:
        made = await created(module_over(backend), "fan-out", deadline=10)
        clock.advance(10)
        module, _ = await comes_too_late(tapped(backend, probe), define)
        return await look(module, made)

    with closing(open_backend(database, clock)) as backend:
        check_late(asyncio.run(within_patience(scenario(backend))))
    assert probe.count("machine.start") == 0


def test_no_sub_task_is_started_behind_the_deadline(clock: FakeClock, database: Path) -> None:
    """Neither one that waited for its next attempt, nor one that waited for its turn."""
    ran: list[int] = []

    def define(module: TaskModule) -> None:
        @module.step_function_task("job", retry=Retry(initial=8, jitter=False), max_concurrency=1, chunk_size=1)
        async def job(event: StepFunctionTaskEvent[int]) -> None:
            ran.append(event.task.input)
            if event.task.input == 0:
                raise LookupError("not yet")
            await asyncio.Event().wait()

    async def scenario(backend: Backend) -> tuple[Entity, list[Entity]]:
        first = module_over(backend, grace=0)
        define(first)
        made = await created(first, "fan-out", input=[0, 1, 2], deadline=10)
        async with first.worker():
            while len(ran) < 2:
                await asyncio.to_thread(lambda: None)
        clock.advance(10)
        module, _ = await comes_too_late(backend, define)
        return await look(module, made), await sub_tasks(module, made)

    with closing(open_backend(database, clock)) as backend:
        parent, subs = asyncio.run(within_patience(scenario(backend)))
    check_late_fan_out(database, parent, subs)
    assert [task.status for task in subs] == [CANCELLED] * 3
    assert ran == [0, 1]


# --- single tasks that run -------------------------------------------------------------------------------------------


def test_a_running_async_handler_is_cancelled(make_module: MakeModule, clock: FakeClock) -> None:
    """At its await, and at the very millisecond."""
    module, seen = make_module(clock=clock), list[bool]()

    async def scenario() -> Entity:
        inside, ended = asyncio.Event(), asyncio.Event()

        @module.task("job", deadline=10)
        async def job(event: TaskQueueEvent) -> None:
            inside.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append(event.cancelled)
                raise
            finally:
                ended.set()

        made = await created(module, "single")
        clock.advance(4)  # the deadline counts from the creation, not from the start
        async with module.worker() as worker:
            await inside.wait()
            clock.advance(5.999)
            assert (await look(module, made)).status is IN_PROGRESS
            assert not ended.is_set()
            clock.advance(0.001)
            await ended.wait()
            await worker.drain()
        return await look(module, made)

    task = asyncio.run(within_patience(scenario()))
    assert seen == [True]
    check_late(task)
    assert task.attempt == 1
    assert task.finished_at == task.deadline_at == clock.now()
    assert [entry.status for entry in task.history] == [PENDING, IN_PROGRESS, FAILED]


def test_a_running_thread_sees_it_and_its_late_result_is_refused(make_module: MakeModule, clock: FakeClock) -> None:
    """A thread cannot be stopped: it is left behind."""
    module = make_module(clock=clock)

    async def scenario() -> Entity:
        loop = asyncio.get_running_loop()
        inside, ended = asyncio.Event(), asyncio.Event()

        @module.task("job", deadline=10)
        def job(event: TaskQueueEvent) -> str:
            loop.call_soon_threadsafe(inside.set)
            while not event.cancelled:
                pass
            loop.call_soon_threadsafe(ended.set)
            return "too late"

        made = await created(module, "single")
        async with module.worker() as worker:
            await inside.wait()
            clock.advance(9.999)
            assert (await look(module, made)).status is IN_PROGRESS
            assert not ended.is_set()
            clock.advance(0.001)
            await ended.wait()
            await worker.drain()
        return await look(module, made)

    check_late(asyncio.run(within_patience(scenario())))


@pytest.mark.parametrize("retry", [None, Retry(initial=1, jitter=False)])
def test_the_deadline_of_a_running_task_is_final(
    make_module: MakeModule, clock: FakeClock, retry: Retry | None
) -> None:
    """No policy tries it again, and a timeout that has more time left has no say."""
    module = make_module(clock=clock)

    async def scenario() -> Entity:
        inside = asyncio.Event()

        @module.task("job", retry=retry, timeout=10, deadline=10)
        async def job(event: TaskQueueEvent) -> None:
            inside.set()
            await asyncio.Event().wait()

        made = await created(module, "single")
        async with module.worker() as worker:
            await inside.wait()
            clock.advance(10)
            await module.task_service.wait(made.key)
            await worker.drain()
        return await look(module, made)

    task = asyncio.run(within_patience(scenario()))
    check_late(task)
    assert task.attempt == 1


def test_a_timeout_that_comes_first_keeps_its_error_and_its_retry(make_module: MakeModule, clock: FakeClock) -> None:
    """The next attempt has its own timeout, and the deadline is still the first one."""
    module = make_module(clock=clock)

    async def scenario() -> tuple[Entity, Entity]:
        begun = [asyncio.Event(), asyncio.Event()]

        @module.task("job", timeout=5, retry=Retry(max_attempts=5, initial=2, jitter=False), deadline=11)
        async def job(event: TaskQueueEvent) -> None:
            begun[event.attempt - 1].set()
            await asyncio.Event().wait()

        made = await created(module, "single")
        async with module.worker() as worker:
            await begun[0].wait()
            clock.advance(5)
            await worker.drain()
            waiting = await look(module, made)
            clock.advance(2)
            await begun[1].wait()
            clock.advance(4)  # less than its timeout, but the deadline
            await worker.drain()
        return waiting, await look(module, made)

    waiting, task = asyncio.run(within_patience(scenario()))
    assert (waiting.status, waiting.attempt) == (PENDING, 1)
    assert waiting.error is not None
    assert (waiting.error.type, waiting.error.message) == ("TimeoutError", "the attempt took longer than 5 s")
    assert waiting.error.will_retry
    check_late(task, "it did not end within 11 s of its creation")
    assert task.attempt == 2


# --- retries that would come too late --------------------------------------------------------------------------------


@pytest.mark.parametrize(("delay", "waits"), [(9.999, True), (10, False), (300, False)])
@pytest.mark.parametrize("asks", [False, True], ids=["backoff", "RetryAfter"])
def test_an_attempt_behind_the_deadline_is_not_waited_for(
    make_module: MakeModule, clock: FakeClock, delay: float, waits: bool, asks: bool
) -> None:
    """The task fails at once, with what the handler raised: nobody has to wait for the deadline to learn of it."""
    module = make_module(clock=clock)

    @module.task("job", retry=None if asks else Retry(initial=delay, jitter=False), deadline=10)
    def job(event: TaskQueueEvent) -> None:
        raise RetryAfter(delay, "not yet") if asks else LookupError("not yet")

    task = asyncio.run(single(module))
    assert task.status is (PENDING if waits else FAILED)
    assert task.error is not None
    assert task.error.type == ("taskloom.errors.RetryAfter" if asks else "LookupError")
    assert (task.error.message, task.error.attempt, task.error.will_retry) == ("not yet", 1, waits)
    assert task.history[-1].reason == "not yet"
    if not waits:
        assert (task.finished_at, task.next_attempt_at) == (clock.now(), None)


def test_an_attempt_of_a_sub_task_behind_the_deadline_is_not_waited_for(
    make_module: MakeModule, clock: FakeClock
) -> None:
    """So that the fan-out ends by itself, with all of its sub-tasks."""
    module = make_module(clock=clock)

    @module.step_function_task("job", retry=Retry(initial=4, multiplier=2, jitter=False), deadline=10)
    def job(event: StepFunctionTaskEvent[int]) -> int:
        if event.task.input == 1:
            raise LookupError(f"attempt {event.attempt}")
        return event.task.input

    async def scenario() -> tuple[Entity, list[Entity]]:
        made = await fan_out(module, [0, 1, 2])
        clock.advance(4)
        await drained(module)
        return await look(module, made), await sub_tasks(module, made)

    parent, subs = asyncio.run(scenario())
    assert [task.status for task in subs] == [COMPLETED, FAILED, COMPLETED]
    error = subs[1].error
    assert error is not None
    assert (error.type, error.message, error.will_retry) == ("LookupError", "attempt 2", False)
    assert parent.error is not None
    assert parent.error.type == "SubTasksFailed"
    check_counters(parent, subs)


# --- fan-outs --------------------------------------------------------------------------------------------------------


async def execution_status(module: TaskModule, parent: Entity) -> str:
    assert parent.execution_arn is not None
    return (await module.step_function_service.describe_execution(parent.execution_arn)).status


@pytest.mark.parametrize("colour", ["async", "def"])
def test_a_running_fan_out_starts_no_more_and_fails(
    make_module: MakeModule, clock: FakeClock, database: Path, colour: str
) -> None:
    """With one sub-task that ended well, one badly, two that run, and others that nobody started."""
    module = make_module(clock=clock)
    started, told = list[int](), list[int]()

    async def scenario() -> tuple[Entity, list[Entity]]:
        loop, busy = asyncio.get_running_loop(), asyncio.Event()

        def begin(number: int) -> bool:
            started.append(number)
            if number == 1:
                raise LookupError("no such book")
            if sorted(started) == [0, 1, 2, 4]:
                loop.call_soon_threadsafe(busy.set)
            return number > 1

        async def coroutine(event: StepFunctionTaskEvent[int]) -> str:
            if begin(event.task.input):
                try:
                    await asyncio.Event().wait()
                finally:
                    told.append(event.task.input)
            return "done"

        def function(event: StepFunctionTaskEvent[int]) -> str:
            if begin(event.task.input):
                while not event.cancelled:
                    pass
                told.append(event.task.input)
            return "done"

        handler = coroutine if colour == "async" else function
        module.step_function_task("job", chunk_size=4, max_concurrency=2, deadline=10)(handler)
        service = module.task_service
        made = await service.create_step_function_task(tenant_code="acme", task_type="job", input=range(20))
        async with module.worker(concurrency=2) as worker:
            await busy.wait()
            clock.advance(9.999)
            assert (await look(module, made)).status is IN_PROGRESS
            assert await execution_status(module, made) == ExecutionStatus.RUNNING
            assert not told
            clock.advance(0.001)
            await service.wait(made.key)
            await worker.drain()
            ended = await look(module, made), await sub_tasks(module, made)
            clock.advance(3600)
            await worker.drain()
        assert (await look(module, made), await sub_tasks(module, made)) == ended
        assert await execution_status(module, made) == ExecutionStatus.SUCCEEDED
        return ended

    parent, subs = asyncio.run(within_patience(scenario()))
    check_late_fan_out(database, parent, subs)
    assert parent.finished_at == parent.deadline_at
    assert [task.status for task in subs] == [COMPLETED, FAILED] + [CANCELLED] * 18
    assert [bool(task.history) for task in subs] == [number in (0, 1, 2, 4) for number in range(20)]
    assert (parent.attributes.sub_task_succeed_count, parent.attributes.sub_task_failed_count) == (1, 1)
    assert sorted(started) == [0, 1, 2, 4]
    assert {task.deadline_at for task in subs} == {parent.deadline_at}


def test_a_fan_out_that_waits_for_its_sub_tasks_fails(clock: FakeClock, database: Path) -> None:
    """Its last sub-task waits for the next attempt. It is found by a worker that does not serve it, which asks its
    execution to end it (rule 3), at once; and that needs no handler."""
    probe = Probe()

    async def scenario(backend: Backend) -> tuple[Entity, list[Entity]]:
        module, other = module_over(backend), module_over(tapped(backend, probe))
        other.task("other")(lambda event: None)

        @module.step_function_task("job", retry=Retry(initial=9, jitter=False))
        def job(event: StepFunctionTaskEvent[int]) -> int:
            if event.task.input == 1:
                raise LookupError("not yet")
            return event.task.input

        made = await created(module, "fan-out", input=[0, 1], deadline=10)
        await drained(module)
        clock.advance(10)
        async with other.worker() as worker:
            await worker.drain()
        asked = await look(module, made)
        assert asked.status is IN_PROGRESS
        assert asked.cancel_requested is not None
        assert (asked.cancel_requested.reason, asked.cancel_requested.by) == (REASON, worker.name)
        assert [call.args for call in probe.named("machine.hurry")] == [(made.key, 1)]
        await drained(module)
        return await look(module, made), await sub_tasks(module, made)

    with closing(open_backend(database, clock)) as backend:
        parent, subs = asyncio.run(within_patience(scenario(backend)))
    check_late_fan_out(database, parent, subs)
    assert [task.status for task in subs] == [COMPLETED, CANCELLED]
    assert subs[1].attempt == 1
    assert subs[1].error is not None
    assert subs[1].error.message == "not yet"


def test_a_fan_out_whose_worker_died_fails(make_module: MakeModule, clock: FakeClock, database: Path) -> None:
    """As soon as somebody may go on with the step of the dead worker; its sub-task is not made again."""
    module = make_module(clock=clock)
    busy = asyncio.Event()

    @module.step_function_task("job", deadline=10)
    async def job(event: StepFunctionTaskEvent[int]) -> None:
        busy.set()
        await asyncio.Event().wait()

    service = module.sync.task_service
    made = service.create_step_function_task(tenant_code="acme", task_type="job", input=[1])
    asyncio.run(lose_worker(module, busy))
    clock.advance(10)
    asyncio.run(drained(module))
    assert service.get_task(made.key).cancel_requested is not None
    clock.advance(50)
    asyncio.run(drained(module))
    (sub,) = service.iter_sub_tasks(made.key)
    check_late_fan_out(database, service.get_task(made.key), [sub])
    assert (sub.status, sub.attempt) == (CANCELLED, 1)


def test_a_fan_out_whose_worker_died_before_it_began_fails(clock: FakeClock, database: Path) -> None:
    """It was claimed, so its execution owns it: that is started, only to end it (rule 3)."""
    ran: list[object] = []

    def define(module: TaskModule) -> None:
        module.step_function_task("job")(lambda event: ran.append(event))

    async def dies(call: PortCall, inner: Inner) -> Any:
        if call.name == "machine.start":
            raise StoreError("on purpose")
        return await inner()

    async def scenario(backend: Backend) -> tuple[Entity, list[Entity]]:
        dying = module_over(tapped(backend, dies))
        define(dying)
        made = await created(dying, "fan-out", deadline=10)
        async with dying.worker():
            while (await look(dying, made)).status is PENDING:
                pass
        assert await execution_status(dying, made) == ExecutionStatus.PENDING
        clock.advance(10)
        module, status = await comes_too_late(backend, define, made)
        assert status is FAILED, "its execution ends it, before anybody else has seen that it is late"
        assert await execution_status(module, made) == ExecutionStatus.SUCCEEDED
        return await look(module, made), await sub_tasks(module, made)

    with closing(open_backend(database, clock)) as backend:
        parent, subs = asyncio.run(within_patience(scenario(backend)))
    check_late_fan_out(database, parent, subs)
    assert [task.status for task in subs] == [CANCELLED] * 2
    assert ran == []


@pytest.mark.parametrize("early", [True, False], ids=["in time", "too late"])
def test_an_empty_fan_out(make_module: MakeModule, clock: FakeClock, early: bool) -> None:
    module = make_module(clock=clock)
    module.step_function_task("job", deadline=10)(lambda event: None)

    async def scenario() -> Entity:
        service = module.task_service
        made = await service.create_step_function_task(tenant_code="acme", task_type="job", input=[])
        clock.advance(9.999)
        if early:
            await drained(module)
        clock.advance(0.001)
        await drained(bystander(make_module, clock))
        await drained(module)
        return await look(module, made)

    parent = asyncio.run(scenario())
    assert parent.attributes.sub_task_count == 0
    if early:
        assert (parent.status, parent.error) == (COMPLETED, None)
    else:
        check_late(parent)


def test_a_fan_out_that_ends_in_time_is_judged_by_its_sub_tasks(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)

    @module.step_function_task("job", deadline=10)
    def job(event: StepFunctionTaskEvent[int]) -> None:
        if event.task.input == 1:
            raise LookupError("no such book")

    parent = asyncio.run(fan_out(module, [1, 2]))
    assert parent.status is FAILED
    assert parent.error is not None
    assert parent.error.message == "1 of 2 sub-tasks failed; tolerated are 0 %"


# --- what has ended, or is to end ------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["well", "badly", "cancelled"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_has_ended_is_not_touched(make_module: MakeModule, clock: FakeClock, kind: str, end: str) -> None:
    module = make_module(clock=clock)

    def handle(event: TaskQueueEvent | StepFunctionTaskEvent) -> str:
        if end == "badly":
            raise LookupError("no such book")
        return "done"

    module.task("job", deadline=10)(handle)
    module.step_function_task("job", deadline=10)(handle)

    async def scenario() -> None:
        made = await created(module, kind)
        if end == "cancelled":
            await module.task_service.cancel_task(made.key, reason="a mistake")
        await drained(module)
        ended, subs = await look(module, made), [] if kind == "single" else await sub_tasks(module, made)
        assert ended.status is {"well": COMPLETED, "badly": FAILED, "cancelled": CANCELLED}[end]
        for _ in range(2):
            clock.advance(10)
            await drained(module)
        assert await look(module, made) == ended
        assert ([] if kind == "single" else await sub_tasks(module, made)) == subs

    asyncio.run(scenario())


@pytest.mark.parametrize(("cancelled_at", "late"), [(9.999, False), (10, True)])
def test_who_was_first_says_why_a_running_fan_out_ends(
    make_module: MakeModule, clock: FakeClock, database: Path, cancelled_at: float, late: bool
) -> None:
    """It was asked to end by a user, and ends when the deadline has passed too; no worker was there meanwhile."""
    module = make_module(clock=clock)
    busy = asyncio.Event()

    @module.step_function_task("job", deadline=10)
    async def job(event: StepFunctionTaskEvent[int]) -> None:
        busy.set()
        await asyncio.Event().wait()

    service = module.sync.task_service
    made = service.create_step_function_task(tenant_code="acme", task_type="job", input=[1])
    asyncio.run(lose_worker(module, busy))
    clock.advance(cancelled_at)
    assert service.cancel_task(made.key, reason="enough", by="alice").status is IN_PROGRESS
    clock.advance(60)
    asyncio.run(drained(module))
    parent, subs = service.get_task(made.key), list(service.iter_sub_tasks(made.key))
    if late:
        check_late_fan_out(database, parent, subs)
    else:
        assert (parent.status, parent.error) == (CANCELLED, None)
        assert (parent.history[-1].reason, parent.history[-1].by) == ("cancelled: enough", "alice")
    assert [task.status for task in subs] == [CANCELLED]


def test_what_is_late_cannot_be_cancelled_any_more(make_module: MakeModule, clock: FakeClock) -> None:
    module = bystander(make_module, clock)

    async def scenario() -> None:
        made = await created(module, "single", deadline=10)
        clock.advance(10)
        await drained(module)
        with pytest.raises(TaskEnded, match="it is FAILED; nothing was changed"):
            await module.task_service.cancel_task(made.key)
        check_late(await look(module, made))

    asyncio.run(scenario())


def test_two_workers_end_it_once(clock: FakeClock, database: Path) -> None:
    """Both have found it overdue before either of them ends it."""
    overdue_at = clock.now() + timedelta(seconds=10)
    gate = Gate(lambda call: call.name == "store.list_overdue" and clock.now() >= overdue_at, answer=True)

    async def scenario(backend: Backend) -> Entity:
        one, two = module_over(tapped(backend, gate)), module_over(tapped(backend, gate))
        for module in (one, two):
            module.task("other")(lambda event: None)
        made = await created(one, "single", deadline=10)
        async with one.worker() as first, two.worker() as second:
            clock.advance(10)
            await gate.held(2)
            gate.open()
            await first.drain()
            await second.drain()
        return await look(one, made)

    with closing(open_backend(database, clock)) as backend:
        task = asyncio.run(within_patience(scenario(backend)))
    check_late(task)
    assert [entry.status for entry in task.history] == [PENDING, FAILED]


def test_the_worker_that_runs_it_comes_second(clock: FakeClock, database: Path) -> None:
    """Another worker has ended the task when the one that runs it wants to: it has lost its claim (rule 2)."""
    gate = Gate(lambda call: call.name == "store.update" and call.args[0].patch.get("status") is FAILED)

    async def blind(call: PortCall, inner: Inner) -> Any:
        return [] if call.name == "store.list_overdue" else await inner()

    async def scenario(backend: Backend) -> Entity:
        inside = asyncio.Event()
        running, other = module_over(tapped(tapped(backend, blind), gate)), module_over(backend)
        other.task("other")(lambda event: None)

        @running.task("job")
        async def job(event: TaskQueueEvent) -> None:
            inside.set()
            await asyncio.Event().wait()

        made = await created(running, "single", deadline=10)
        async with running.worker(), other.worker() as worker:
            await inside.wait()
            clock.advance(10)
            await gate.held()
            await worker.drain()
            ended = await look(other, made)
            assert ended.history[-1].by == worker.name
            gate.open()
        assert await look(other, made) == ended
        return ended

    with closing(open_backend(database, clock)) as backend:
        task = asyncio.run(within_patience(scenario(backend)))
    check_late(task)
    assert [entry.status for entry in task.history] == [PENDING, IN_PROGRESS, FAILED]


# --- where a deadline comes from -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_type_has_a_deadline_and_the_creation_may_set_another(
    make_module: MakeModule, clock: FakeClock, kind: str
) -> None:
    module = make_module(clock=clock)
    seconds = {"without": None, "short": 5, "long": 20}
    single_ = module.task("job", deadline=10)(lambda event: None)
    fan_out_ = module.step_function_task("job", deadline=10)(lambda event: None)

    async def create(deadline: float | None) -> Entity:
        if kind == "single":
            return await single_.create(tenant_code="acme", deadline=deadline)
        return await fan_out_.create(tenant_code="acme", input=[1], deadline=deadline)

    async def scenario() -> None:
        made = {name: await create(deadline) for name, deadline in seconds.items()}
        for name, after in (("without", 10), ("short", 5), ("long", 20)):
            task = made[name]
            assert task.deadline_at == clock.now() + timedelta(seconds=after)
            assert task.options.deadline == after
            assert await look(module, task) == task
        clock.advance(5)
        await drained(bystander(make_module, clock))
        assert [(await look(module, task)).status for task in made.values()] == [PENDING, FAILED, PENDING]
        check_late(await look(module, made["short"]), "it did not end within 5 s of its creation")
        clock.advance(5)
        await drained(bystander(make_module, clock))
        assert [(await look(module, task)).status for task in made.values()] == [FAILED, FAILED, PENDING]

    asyncio.run(scenario())


def test_a_deadline_of_one_kind_says_nothing_of_the_other(make_module: MakeModule, clock: FakeClock) -> None:
    """Two handlers may share a type."""
    module = make_module(clock=clock)
    module.task("job", deadline=10)(lambda event: None)
    module.step_function_task("job")(lambda event: None)

    async def scenario() -> list[Entity]:
        return [await created(module, kind) for kind in KINDS]

    one, other = asyncio.run(scenario())
    assert one.deadline_at == clock.now() + timedelta(seconds=10)
    assert (other.deadline_at, other.options.deadline) == (None, None)


def test_a_task_without_one_has_all_the_time(make_module: MakeModule, clock: FakeClock) -> None:
    module = bystander(make_module, clock)

    async def scenario() -> None:
        made = await created(module, "single")
        assert made.deadline_at is None
        clock.advance(3600 * 24 * 365)
        await drained(module)
        assert await look(module, made) == made

    asyncio.run(scenario())


def test_each_of_many_new_tasks_has_its_own(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)
    module.task("job", deadline=10)(lambda event: None)
    new = [
        NewTask(tenant_code="acme", task_type="job", deadline=2.5),
        NewTask(tenant_code="acme", task_type="job"),
        NewTask(tenant_code="acme", task_type="unknown"),
    ]

    async def scenario() -> None:
        made = await module.task_service.create_tasks(new)
        deadlines = [clock.now() + timedelta(seconds=2.5), clock.now() + timedelta(seconds=10), None]
        assert [task.deadline_at for task in made] == deadlines
        assert [(await look(module, task)).deadline_at for task in made] == deadlines

    asyncio.run(scenario())


def test_handlers_see_the_deadline(make_module: MakeModule, clock: FakeClock) -> None:
    """Of a sub-task it is that of the whole, also where its row is read again."""
    module, seen = make_module(clock=clock), list[object]()

    def handle(event: TaskQueueEvent | StepFunctionTaskEvent) -> None:
        seen.append(event.task.deadline_at)
        if event.attempt == 1:
            raise RetryAfter(0)

    module.task("job", deadline=10)(handle)
    module.step_function_task("job", deadline=10)(handle)

    async def scenario() -> None:
        await single(module)
        await fan_out(module, [1])

    asyncio.run(scenario())
    assert seen == [clock.now() + timedelta(seconds=10)] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_retry_sets_it_anew(make_module: MakeModule, clock: FakeClock, kind: str) -> None:
    """To as many seconds from then; the reason says so."""
    module = bystander(make_module, clock)

    async def scenario() -> tuple[Entity, Entity]:
        made = await created(module, kind, deadline=10)
        clock.advance(50)
        await drained(module)
        check_late(await look(module, made))
        again = await module.task_service.retry_task(made.key)
        assert again.deadline_at == clock.now() + timedelta(seconds=10)
        assert again.options == made.options
        clock.advance(9.999)
        await drained(module)
        assert await look(module, made) == again
        clock.advance(0.001)
        await drained(module)
        return again, await look(module, made)

    again, task = asyncio.run(scenario())
    assert (again.status, again.run, again.error) == (PENDING, 2, None)
    check_late(task, "it did not end within 10 s of its retry")
    assert (task.run, task.finished_at) == (2, task.deadline_at)


def test_a_retried_fan_out_has_the_whole_time(make_module: MakeModule, clock: FakeClock) -> None:
    """What was cancelled for the deadline, and what never started, runs in the new one."""
    module = make_module(clock=clock)

    async def scenario() -> tuple[Entity, list[Entity]]:
        busy = asyncio.Event()

        @module.step_function_task("job", max_concurrency=1, deadline=10)
        async def job(event: StepFunctionTaskEvent[int]) -> int:
            if event.task.run == 1 and event.task.input == 1:
                busy.set()
                await asyncio.Event().wait()
            return event.task.run

        service = module.task_service
        made = await service.create_step_function_task(tenant_code="acme", task_type="job", input=range(3))
        async with module.worker() as worker:
            await busy.wait()
            clock.advance(10)
            await service.wait(made.key)
            await worker.drain()
            again = await service.retry_task(made.key)
            assert again.deadline_at == clock.now() + timedelta(seconds=10)
            await worker.drain()
        return await look(module, made), await sub_tasks(module, made)

    parent, subs = asyncio.run(within_patience(scenario()))
    assert (parent.status, parent.error) == (COMPLETED, None)
    assert [task.result for task in subs] == [1, 2, 2]


# --- bad values ------------------------------------------------------------------------------------------------------

BAD: list[tuple[object, type[InvalidInput]]] = [
    (0, InvalidInput),
    (-1, InvalidInput),
    (0.0001, InvalidInput),
    (float("nan"), InvalidInput),
    (float("inf"), InvalidInput),
    (366 * 86400 + 1, InvalidInput),
    ("1", InvalidType),
    (True, InvalidType),
    (timedelta(seconds=1), InvalidType),
]


@pytest.mark.parametrize(("deadline", "kind"), BAD)
def test_a_bad_deadline_is_named_and_nothing_is_stored(
    make_module: MakeModule, deadline: Any, kind: type[InvalidInput]
) -> None:
    module = bystander(make_module, FakeClock())
    service = module.task_service
    good = NewTask(tenant_code="acme", task_type="job", deadline=10)

    async def scenario() -> None:
        with pytest.raises(kind) as refused:
            await service.create_task(tenant_code="acme", task_type="job", deadline=deadline)
        assert (refused.value.field, type(refused.value)) == ("deadline", kind)
        with pytest.raises(kind) as refused:
            await service.create_step_function_task(tenant_code="acme", task_type="job", input=[1], deadline=deadline)
        assert refused.value.field == "deadline"
        with pytest.raises(kind) as refused:
            await service.create_tasks([good, replace(good, deadline=deadline), good])
        assert refused.value.field == "tasks[1].deadline"
        for kind_ in ("TASK", "SFN_TASK"):
            assert [task async for task in service.iter_tasks("acme", type=kind_)] == []

    asyncio.run(scenario())


@pytest.mark.parametrize(("deadline", "kind"), BAD)
@pytest.mark.parametrize("decorator", ["task", "step_function_task"])
def test_a_type_cannot_have_a_bad_deadline(
    make_module: MakeModule, decorator: str, deadline: Any, kind: type[InvalidInput]
) -> None:
    module = make_module()
    with pytest.raises(kind, match=r"^deadline: "):
        getattr(module, decorator)("job", deadline=deadline)


@pytest.mark.parametrize("deadline", [0.001, 1, 366 * 86400])
def test_a_deadline_may_be_as_short_as_a_millisecond_and_as_long_as_a_year(
    make_module: MakeModule, clock: FakeClock, deadline: float
) -> None:
    module = bystander(make_module, clock)
    made = asyncio.run(created(module, "single", deadline=deadline))
    assert made.deadline_at == clock.now() + timedelta(seconds=deadline)
