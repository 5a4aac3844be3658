"""What operators see of the queues, and do with them: `task_service.queues`."""

import asyncio
import os
import socket
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import pytest

from taskloom import (
    EventFactoryAddedTask,
    NewTask,
    Retry,
    Settings,
    StepFunctionTaskEvent,
    TaskModule,
    TaskQueueEvent,
    TaskStatus,
)
from taskloom.clock import from_milliseconds, to_milliseconds
from taskloom.embedded.database import BUSY_SECONDS
from taskloom.errors import InvalidInput
from taskloom.execution.worker import Worker
from taskloom.model import Kind, TaskKey
from taskloom.operations.queues import QueueFigures
from taskloom.ports import DeadLetter, Pause, PauseScope, QueueAdmin
from tests.engine import processes
from tests.support.clock import FakeClock
from tests.support.faults import DEADLINE
from tests.support.rows import Rows
from tests.support.scenarios import check_counters, check_history, module_over, open_backend
from tests.surface.running import Entity, MakeModule, drained, sub_tasks, until, within_patience

PENDING, IN_PROGRESS = TaskStatus.PENDING, TaskStatus.IN_PROGRESS
COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED
QUIET: Any = {
    "waiting": 0, "delayed": 0, "in_flight": 0, "oldest_age": 0.0, "rate": 0.0, "dead_letters": 0, "is_paused": False,
}  # fmt: skip


@asynccontextmanager
async def working(module: TaskModule, **options: Any) -> AsyncIterator[Worker]:
    """A worker without a grace time, which on a clock that stands still would never be over."""
    async with module.worker(grace=0, **options) as worker:
        yield worker


async def create(module: TaskModule, tenant_code: str = "acme", task_type: str = "job", **options: Any) -> Entity:
    return await module.task_service.create_task(tenant_code=tenant_code, task_type=task_type, **options)


async def create_fan_out(module: TaskModule, input: Any, tenant_code: str = "acme", task_type: str = "job") -> Entity:
    service = module.task_service
    return await service.create_step_function_task(tenant_code=tenant_code, task_type=task_type, input=input)


async def get(module: TaskModule, task: Entity) -> Entity:
    return await module.task_service.get_task(task.key)


async def statuses(module: TaskModule, tasks: Sequence[Entity]) -> list[TaskStatus]:
    return [(await get(module, task)).status for task in tasks]


async def to_queue(module: TaskModule) -> None:
    """What is on the stream has its message."""
    while await module._backend.stream.forward(500):
        pass


def by_hand(database: Path, sql: str, *values: object) -> int:
    """What no call does; how many rows it did it to."""
    connection = sqlite3.connect(database, timeout=BUSY_SECONDS)
    with connection:
        count = connection.execute(sql, values).rowcount
    connection.close()
    return count


# --- figures ---------------------------------------------------------------------------------------------------------


def test_figures_by_tenant_and_type(make_module: MakeModule, clock: FakeClock) -> None:
    """What waits, what waits for another attempt, what runs, and for how long the oldest has waited."""
    module = make_module(clock=clock)

    async def scenario() -> None:
        inside, go = asyncio.Event(), asyncio.Event()

        @module.task("job", retry=Retry(max_attempts=2, initial=100, jitter=False))
        async def job(event: TaskQueueEvent) -> None:
            if event.attempt == 1 and event.task.input == "fail":
                raise ValueError("no")
            inside.set()
            await go.wait()

        queues = module.task_service.queues
        assert await queues.figures() == []
        async with working(module, concurrency=1) as worker:
            await create(module, input="fail")
            await worker.drain()
            await create(module)
            await inside.wait()
            for tenant, task_type in (("acme", "job"), ("acme", "job"), ("acme", "tea"), ("bob", "job")):
                await create(module, tenant, task_type)
            await create_fan_out(module, [1, 2])
            await to_queue(module)
            clock.advance(7)
            await create(module)
            await to_queue(module)
            single = {"kind": Kind.TASK, "task_type": "job"}
            expected = [
                QUIET | single | {"tenant_code": "acme", "kind": Kind.SFN_TASK, "waiting": 1, "oldest_age": 7},
                QUIET | {"tenant_code": "acme", "waiting": 3, "delayed": 1, "in_flight": 1, "oldest_age": 7} | single,
                QUIET | {"tenant_code": "acme", "kind": Kind.TASK, "task_type": "tea", "waiting": 1, "oldest_age": 7},
                QUIET | {"tenant_code": "bob", "waiting": 1, "oldest_age": 7} | single,
            ]  # fmt: skip
            assert await queues.figures() == [QueueFigures(**figures) for figures in expected]
            assert await queues.figures(tenant_code="acme") == [QueueFigures(**figures) for figures in expected[:3]]
            assert await queues.figures(tenant_code="carl") == []
            go.set()
            await worker.drain()
        (own,) = [figures for figures in await queues.figures(tenant_code="acme") if figures.kind is Kind.SFN_TASK]
        assert (own.waiting, own.oldest_age) == (1, 7), "nobody serves it"

    asyncio.run(within_patience(scenario()))


def test_figures_tell_what_is_paused(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)

    async def scenario() -> None:
        for tenant, task_type in (("acme", "job"), ("acme", "tea"), ("bob", "job"), ("bob", "tea")):
            await create(module, tenant, task_type)
        await to_queue(module)
        queues = module.task_service.queues

        async def paused() -> set[tuple[str, str]]:
            return {(found.tenant_code, found.task_type) for found in await queues.figures() if found.is_paused}

        assert await paused() == set()
        await queues.pause(task_type="job")
        assert await paused() == {("acme", "job"), ("bob", "job")}
        await queues.pause(tenant_code="acme")
        assert await paused() == {("acme", "job"), ("bob", "job"), ("acme", "tea")}
        await queues.resume(task_type="job")
        assert await paused() == {("acme", "job"), ("acme", "tea")}

    asyncio.run(within_patience(scenario()))


def test_the_rate_is_that_of_the_last_five_minutes(make_module: MakeModule, clock: FakeClock) -> None:
    """Of the type, over all tenants, however they ended."""
    module = make_module(clock=clock)

    @module.task("job")
    def job(event: TaskQueueEvent) -> None:
        if event.task.input == "fail":
            raise ValueError("no")

    module.task("tea")(lambda event: None)
    module.step_function_task("job")(lambda event: None)

    async def scenario() -> None:
        queues = module.task_service.queues

        async def rates() -> dict[tuple[str, str, str], float]:
            return {(line.tenant_code, line.kind, line.task_type): line.rate for line in await queues.figures()}

        for number in range(20):
            await create(module, f"tenant-{number % 3}", input="fail" if number % 4 == 0 else None)
        for _ in range(10):
            await create(module, task_type="tea")
        await create_fan_out(module, range(30))
        await drained(module)
        await create(module)
        await create_fan_out(module, [1])
        await to_queue(module)
        assert await rates() == {
            ("acme", "TASK", "job"): pytest.approx(21 / 300 - 1 / 300),
            ("acme", "SFN_TASK", "job"): pytest.approx(1 / 300),
        }
        clock.advance(360)
        assert set((await rates()).values()) == {0}

    asyncio.run(within_patience(scenario()))


def test_the_rate_of_workers_that_have_just_started(make_module: MakeModule, clock: FakeClock) -> None:
    """What ended is divided by the time in which somebody worked, until that is five minutes."""
    module = make_module(clock=clock)
    module.task("job")(lambda event: None)

    async def scenario() -> None:
        async def rate() -> float:
            await create(module)
            await to_queue(module)
            return next(line.rate for line in await module.task_service.queues.figures())

        clock.advance(30)
        async with working(module) as worker:
            for _ in range(20):
                await create(module)
            await worker.drain()
            clock.advance(10)
            await module.task_service.queues.pause(task_type="job")
            assert await rate() == pytest.approx(2)

    asyncio.run(within_patience(scenario()))


def test_throughput_by_minute(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)
    module.task("job")(lambda event: None)

    @module.step_function_task("job")
    def job(event: StepFunctionTaskEvent) -> None:
        if event.input.input == 1:
            raise ValueError("no")

    async def scenario() -> None:
        start, queues = clock.now(), module.task_service.queues
        for _ in range(3):
            await create(module)
        await drained(module)
        clock.advance(60)
        await create_fan_out(module, [0, 1, 2])
        await drained(module)
        found = [
            (line.minute, line.kind, line.task_type, line.completed, line.failed) for line in await queues.throughput()
        ]
        later = start + timedelta(minutes=1)
        assert sorted(found) == [
            (start, Kind.TASK, "job", 3, 0),
            (later, Kind.SFN_TASK, "job", 0, 1),
            (later, Kind.SUB_TASK, "job", 2, 1),
        ]
        clock.advance(60)
        assert {line.minute for line in await queues.throughput(1)} == {later}
        for minutes in (0, 24 * 60 + 1, True, "5"):
            with pytest.raises(InvalidInput, match="minutes: "):
                await queues.throughput(minutes)  # type: ignore[arg-type]

    asyncio.run(within_patience(scenario()))


# --- workers ---------------------------------------------------------------------------------------------------------


def test_workers_say_what_they_are_and_what_they_run(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)

    async def scenario() -> None:
        inside, inside_too, go = asyncio.Event(), asyncio.Event(), asyncio.Event()

        @module.task("job")
        async def job(event: TaskQueueEvent) -> None:
            inside.set()
            await go.wait()

        module.task("tea")(lambda event: None)

        @module.step_function_task("job")
        async def fan_out(event: StepFunctionTaskEvent) -> None:
            inside_too.set()
            await go.wait()

        queues = module.task_service.queues
        assert await queues.workers() == []
        started_at = clock.now()
        async with working(module, concurrency=3) as worker, working(module, task_types=["tea"]) as second:
            await until(lambda: listed(module, worker, second))
            found = {facts.name: facts for facts in await queues.workers()}
            first = found[worker.name]
            assert (first.host, first.pid, first.version) == (socket.gethostname(), os.getpid(), version("taskloom"))
            assert (first.started_at, first.seen_at, first.concurrency) == (started_at, started_at, 3)
            assert (first.tasks, first.fan_outs, first.running) == (["job", "tea"], ["job"], [])
            assert (found[second.name].tasks, found[second.name].fan_outs) == (["tea"], [])
            task = await create(module)
            await inside.wait()
            parent = await create_fan_out(module, [1])
            await inside_too.wait()
            clock.advance(10)
            (sub,) = await sub_tasks(module, parent)

            async def are_named() -> bool:
                own = {facts.name: (facts.running, facts.seen_at) for facts in await queues.workers()}
                return own == {
                    worker.name: (sorted([task.id, sub.id]), clock.now()),
                    second.name: ([], clock.now()),
                }

            await until(are_named)
            go.set()
            await worker.drain()
            await module.task_service.wait(parent.key)
            clock.advance(10)

            async def runs_nothing() -> bool:
                return [facts.running for facts in await queues.workers()] == [[], []]

            await until(runs_nothing)
        assert await queues.workers() == [], "they left"

    asyncio.run(within_patience(scenario()))


async def listed(module: TaskModule, *workers: Worker) -> bool:
    """Whether these workers, and no others, are said to live."""
    found = await module.task_service.queues.workers()
    return sorted(facts.name for facts in found) == sorted(worker.name for worker in workers)


def test_a_worker_that_lives_stays_listed(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)
    module.task("job")(lambda event: None)

    async def scenario() -> None:
        async with working(module) as worker:
            for _ in range(8):

                async def is_seen() -> bool:
                    found = await module.task_service.queues.workers()
                    return [(facts.name, facts.seen_at) for facts in found] == [(worker.name, clock.now())]

                await until(is_seen)
                clock.advance(10)

    asyncio.run(within_patience(scenario()))


def say_and_die(database: Path, now: int) -> None:
    """A worker that is killed once it has said that it lives."""
    clock = FakeClock(from_milliseconds(now))

    async def main() -> None:
        module = TaskModule.register(settings=Settings(database=database), clock=clock)
        module.task("job")(lambda event: None)
        async with module.worker() as worker:
            await until(lambda: listed(module, worker))
            processes.kill_me()

    asyncio.run(main())


def test_a_worker_that_is_killed_is_gone_after_half_a_minute(
    make_module: MakeModule, clock: FakeClock, database: Path
) -> None:
    """It cannot say so itself."""
    module = make_module(clock=clock)
    assert processes.killed(say_and_die, database, to_milliseconds(clock.now()))

    async def scenario() -> None:
        queues = module.task_service.queues
        (facts,) = await queues.workers()
        assert facts.pid != os.getpid()
        clock.advance(30)
        assert len(await queues.workers()) == 1
        clock.advance(0.001)
        assert await queues.workers() == []

    asyncio.run(within_patience(scenario()))


# --- pause and resume ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", [{"task_type": "job"}, {"tenant_code": "acme"}], ids=["type", "tenant"])
def test_a_running_worker_takes_nothing_that_is_paused(
    make_module: MakeModule, clock: FakeClock, scope: dict[str, str]
) -> None:
    """From its next look on; what runs goes on. It takes it as soon as the pause is over, without waiting for a timer:
    the clock stands still here."""
    module = make_module(clock=clock)

    async def scenario() -> None:
        inside, go = asyncio.Event(), asyncio.Event()

        @module.task("job")
        async def job(event: TaskQueueEvent) -> None:
            if event.task.input == "stop":
                inside.set()
                await go.wait()

        module.task("tea")(lambda event: None)
        async with working(module, concurrency=4) as worker:
            running = await create(module, input="stop")
            await inside.wait()
            await module.task_service.queues.pause(**scope)
            paused = [await create(module) for _ in range(3)]
            others = [await create(module, "bob", "tea") for _ in range(3)]
            go.set()
            await worker.drain()
            assert await statuses(module, [running, *others]) == [COMPLETED] * 4
            assert await statuses(module, paused) == [PENDING] * 3
            assert await module.task_service.queues.resume(**scope)
            for task in paused:
                await module.task_service.wait(task.key)
            assert not await module.task_service.queues.resume(**scope)
        assert await statuses(module, paused) == [COMPLETED] * 3

    asyncio.run(within_patience(scenario()))


def test_a_pause_outlives_the_module(make_module: MakeModule, clock: FakeClock) -> None:
    """Until somebody ends it; a new worker keeps to it too."""
    first = make_module(clock=clock)

    async def scenario() -> None:
        task = await create(first)
        await first.task_service.queues.pause(tenant_code="acme", reason="moving", by="ann")
        await first.aclose()
        second = make_module(clock=clock)
        second.task("job")(lambda event: None)
        await drained(second)
        assert (await get(second, task)).status is PENDING
        queues = second.task_service.queues
        assert await queues.pauses() == [
            Pause(scope=PauseScope.TENANT, name="acme", at=clock.now(), reason="moving", by="ann")
        ]
        assert await queues.resume(tenant_code="acme")
        await drained(second)
        assert (await get(second, task)).status is COMPLETED
        assert await queues.pauses() == []

    asyncio.run(within_patience(scenario()))


def test_a_paused_fan_out_starts_no_further_chunk(make_module: MakeModule, clock: FakeClock) -> None:
    """The chunks that run end; it goes on after the pause, and loses nothing."""
    module = make_module(clock=clock)

    async def scenario() -> None:
        started: list[int] = []
        inside, go = asyncio.Event(), asyncio.Event()

        @module.step_function_task("job", chunk_size=2, max_concurrency=2)
        async def job(event: StepFunctionTaskEvent) -> int:
            started.append(event.input.input)
            if len(started) == 2:
                inside.set()
            await go.wait()
            return int(event.input.input)

        parent = await create_fan_out(module, range(10))
        async with working(module, concurrency=4) as worker:
            await inside.wait()
            await module.task_service.queues.pause(task_type="job")
            go.set()
            await worker.drain()
            assert sorted(started) == [0, 1, 2, 3], "two chunks ran"
            assert (await get(module, parent)).status is IN_PROGRESS
            await module.task_service.queues.resume(task_type="job")
            done = await module.task_service.wait(parent.key)
            await worker.drain()
        assert done.status is COMPLETED
        assert sorted(started) == list(range(10))
        check_counters(done, await sub_tasks(module, parent))

    asyncio.run(within_patience(scenario()))


@pytest.mark.parametrize("scope", [{"task_type": "job"}, {"tenant_code": "acme"}], ids=["type", "tenant"])
@pytest.mark.parametrize("while_one_runs", [True, False], ids=["while a chunk runs", "while none runs"])
def test_a_paused_fan_out_that_is_cancelled_ends(
    make_module: MakeModule, clock: FakeClock, scope: dict[str, str], while_one_runs: bool
) -> None:
    """A pause holds up work, not the end of it."""
    module = make_module(clock=clock)

    async def scenario() -> None:
        inside, go = asyncio.Event(), asyncio.Event()

        @module.step_function_task("job", max_concurrency=1)
        async def job(event: StepFunctionTaskEvent) -> None:
            inside.set()
            await go.wait()

        parent = await create_fan_out(module, range(4))
        async with working(module) as worker:
            await inside.wait()
            await module.task_service.queues.pause(**scope)
            if not while_one_runs:
                go.set()
                await worker.drain()
            await module.task_service.cancel_task(parent.key, reason="enough", by="ann")
            clock.advance(1)
            done = await module.task_service.wait(parent.key)
            await worker.drain()
        assert done.status is CANCELLED
        subs = await sub_tasks(module, parent)
        assert [sub.status for sub in subs] == [CANCELLED if while_one_runs else COMPLETED] + [CANCELLED] * 3
        check_counters(done, subs)

    asyncio.run(within_patience(scenario()))


def die_in_a_chunk(database: Path, now: int) -> None:
    """A worker that is killed by the sub-task that it runs."""
    clock = FakeClock(from_milliseconds(now))

    async def main() -> None:
        module = TaskModule.register(settings=Settings(database=database), clock=clock)
        module.step_function_task("job", max_concurrency=1)(lambda event: processes.kill_me())
        async with module.worker() as worker:
            await worker.run()

    asyncio.run(main())


@pytest.mark.parametrize("is_known_dead", [True, False], ids=["after its lease", "before its lease is over"])
def test_a_paused_fan_out_whose_worker_died_is_cancelled(
    make_module: MakeModule, clock: FakeClock, database: Path, is_known_dead: bool
) -> None:
    """Its chunk was never given back."""
    module = make_module(clock=clock)
    module.step_function_task("job", max_concurrency=1)(lambda event: None)

    async def scenario() -> None:
        parent = await create_fan_out(module, range(3))
        await asyncio.to_thread(processes.killed, die_in_a_chunk, database, to_milliseconds(clock.now()))
        await module.task_service.queues.pause(task_type="job")
        if is_known_dead:
            clock.advance(61)
        await module.task_service.cancel_task(parent.key)
        if not is_known_dead:
            clock.advance(61)
        await drained(module)
        assert (await get(module, parent)).status is CANCELLED

    asyncio.run(within_patience(scenario()))


# --- purge -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("are_queued", [True, False], ids=["queued", "on the stream"])
@pytest.mark.parametrize(
    ("scope", "hit"),
    [
        ({"task_type": "job"}, {("acme", "job"), ("bob", "job")}),
        ({"tenant_code": "acme"}, {("acme", "job"), ("acme", "tea")}),
        ({"task_type": "tea", "tenant_code": "acme"}, {("acme", "tea")}),
    ],
    ids=["type", "tenant", "both"],
)
def test_purged_tasks_end_cancelled(
    make_module: MakeModule,
    clock: FakeClock,
    scope: dict[str, str],
    hit: set[tuple[str, str]],
    are_queued: bool,
) -> None:
    """Those that are meant, and no others; with the reason and who did it. None of them ever runs."""
    module = make_module(clock=clock)
    ran: list[str] = []
    for task_type in ("job", "tea"):
        module.task(task_type)(lambda event: ran.append(event.task.id))
        module.step_function_task(task_type)(lambda event: None)

    async def scenario() -> None:
        made: dict[tuple[str, str], list[Entity]] = {}
        for tenant in ("acme", "bob"):
            for task_type in ("job", "tea"):
                single = await create(module, tenant, task_type)
                made[tenant, task_type] = [single, await create_fan_out(module, [1], tenant, task_type)]
        if are_queued:
            await to_queue(module)
        queues = module.task_service.queues
        assert await queues.purge(**scope, reason="a mistake", by="ann") == 2 * len(hit)
        assert await queues.purge(**scope) == 0
        for name, tasks in made.items():
            assert await statuses(module, tasks) == [CANCELLED if name in hit else PENDING] * 2
        for task in (task for name in hit for task in made[name]):
            purged = await get(module, task)
            assert (purged.history[-1].reason, purged.history[-1].by) == ("cancelled: purged: a mistake", "ann")
            assert purged.finished_at == clock.now()
            check_history(purged)
        await drained(module)
        for name, tasks in made.items():
            assert await statuses(module, tasks) == [CANCELLED if name in hit else COMPLETED] * 2
        assert sorted(ran) == sorted(tasks[0].id for name, tasks in made.items() if name not in hit)

    asyncio.run(within_patience(scenario()))


def test_purge_leaves_alone_what_runs_and_what_has_ended(make_module: MakeModule, clock: FakeClock) -> None:
    """And takes what waits for another attempt."""
    module = make_module(clock=clock)

    async def scenario() -> None:
        inside, go = asyncio.Event(), asyncio.Event()

        @module.task("job", retry=Retry(max_attempts=2, initial=100, jitter=False))
        async def job(event: TaskQueueEvent) -> None:
            if event.task.input == "fail":
                raise ValueError("no")
            if event.task.input == "stop":
                inside.set()
                await go.wait()

        @module.step_function_task("job", max_concurrency=1)
        async def fan_out(event: StepFunctionTaskEvent) -> None:
            await go.wait()

        async with working(module, concurrency=4) as worker:
            ended, again = await create(module), await create(module, input="fail")
            await worker.drain()
            running, parent = await create(module, input="stop"), await create_fan_out(module, [1, 2])
            await inside.wait()

            async def has_begun() -> bool:
                return (await sub_tasks(module, parent))[0].status is IN_PROGRESS

            await until(has_begun)
            assert await module.task_service.queues.purge(tenant_code="acme", task_type="job") == 1
            assert await statuses(module, [ended, again, running, parent]) == [
                COMPLETED, CANCELLED, IN_PROGRESS, IN_PROGRESS,
            ]  # fmt: skip
            assert (await get(module, again)).history[-1].reason == "cancelled: purged"
            go.set()
            await module.task_service.wait(parent.key)
            clock.advance(100)
            await worker.drain()
        assert await statuses(module, [ended, again, running, parent]) == [COMPLETED, CANCELLED, COMPLETED, COMPLETED]

    asyncio.run(within_patience(scenario()))


class Slow:
    """An admin that lists what waits, and answers only when something has happened."""

    def __init__(self, admin: QueueAdmin, meanwhile: Callable[[], Awaitable[Any]]) -> None:
        self._admin = admin
        self._meanwhile = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._admin, name)

    async def waiting(self, *args: Any) -> Sequence[TaskKey]:
        found = await self._admin.waiting(*args)
        if found:
            await self._meanwhile()
        return found


def test_purge_leaves_alone_what_has_begun_meanwhile(database: Path, clock: FakeClock) -> None:
    """It was listed as waiting, and is claimed, or has ended, when it is looked at."""
    backend = open_backend(database, clock)
    rows = Rows(backend)
    plain = module_over(backend)

    async def scenario() -> None:
        begun, ended, waits = [await create(plain) for _ in range(3)]
        await to_queue(plain)

        async def meanwhile() -> None:
            await rows.carry_out(rows.claim(await rows.stored(begun.key)))
            await rows.carry_out(rows.completed(await rows.carry_out(rows.claim(await rows.stored(ended.key)))))

        slow = module_over(replace(backend, admin=cast("QueueAdmin", Slow(backend.admin, meanwhile))))
        assert await slow.task_service.queues.purge(task_type="job") == 1
        assert await statuses(plain, [begun, ended, waits]) == [IN_PROGRESS, COMPLETED, CANCELLED]

    asyncio.run(within_patience(scenario()))
    backend.close()


def test_purge_of_more_than_a_page(make_module: MakeModule, clock: FakeClock) -> None:
    """In pages, and each task once; of both kinds."""
    module = make_module(clock=clock)

    async def scenario() -> None:
        def some(tenant: str, count: int, task_type: str = "job") -> list[NewTask]:
            return [NewTask(tenant_code=tenant, task_type=task_type) for _ in range(count)]

        service = module.task_service
        await service.create_tasks([*some("acme", 700), *some("bob", 350), *some("acme", 250, "tea")])
        for _ in range(3):
            await create_fan_out(module, [1])
        assert await service.queues.purge(task_type="job") == 1053
        found = [task for tenant in ("acme", "bob") for task in [task async for task in service.iter_tasks(tenant)]]
        left = [task.task_type for task in found if task.status is PENDING]
        assert (len(found), left) == (1300, ["tea"] * 250)
        assert await service.queues.purge(tenant_code="acme") == 250

    asyncio.run(within_patience(scenario()))


# --- dead letters ----------------------------------------------------------------------------------------------------


class Poison(EventFactoryAddedTask):
    """A factory that raises for every task as long as it is poisonous."""

    poisonous = True

    async def transform_dynamodb_stream(self, event: Any) -> Sequence[Any]:
        if self.poisonous:
            raise ValueError("no such stream")
        return await super().transform_dynamodb_stream(event)


def poisoned(make_module: MakeModule, clock: FakeClock) -> tuple[TaskModule, Poison]:
    factory = Poison()
    module = make_module(clock=clock, event_factory=factory)
    module.task("job")(lambda event: event.task.run)
    module.step_function_task("job")(lambda event: event.task.run)
    return module, factory


async def buried(module: TaskModule, clock: FakeClock) -> None:
    """What is on the stream has become dead letters."""
    async with working(module) as worker:
        for pause in (0, 1, 2, 4, 8):
            clock.advance(pause)
            await worker.drain()


async def letters_of(module: TaskModule, **options: Any) -> list[DeadLetter]:
    return [letter async for letter in module.task_service.queues.iter_dead_letters(**options)]


def test_dead_letters_are_listed(make_module: MakeModule, clock: FakeClock) -> None:
    """With task, time, failures and reason; and counted in the figures, though nothing of them is in the queue."""
    module, _ = poisoned(make_module, clock)

    async def scenario() -> None:
        queues = module.task_service.queues
        assert await queues.dead_letters() == []
        tasks = [await create(module), await create(module, "bob"), await create_fan_out(module, [1])]
        await buried(module, clock)
        letters = await queues.dead_letters()
        assert {letter.key for letter in letters} == {task.key for task in tasks}
        for letter in letters:
            assert (letter.failures, letter.reason, letter.at) == (5, "ValueError: no such stream", clock.now())
        assert await letters_of(module) == letters
        (bobs,) = await queues.dead_letters(tenant_code="bob")
        assert bobs.key == tasks[1].key
        assert await letters_of(module, tenant_code="bob") == [bobs]
        assert [letter.id for letter in await queues.dead_letters(after=letters[0].id, limit=1)] == [letters[1].id]
        figures = [(line.tenant_code, line.kind, line.dead_letters, line.waiting) for line in await queues.figures()]
        assert figures == [("acme", "SFN_TASK", 1, 0), ("acme", "TASK", 1, 0), ("bob", "TASK", 1, 0)]
        assert [line.dead_letters for line in await queues.figures(tenant_code="bob")] == [1]

    asyncio.run(within_patience(scenario()))


def test_one_dead_letter_is_redriven(make_module: MakeModule, clock: FakeClock) -> None:
    """Its task starts a new run, says why, and ends well; the letter is gone, and the others stay."""
    module, factory = poisoned(make_module, clock)

    async def scenario() -> None:
        queues = module.task_service.queues
        first, second = await create(module), await create_fan_out(module, [1, 2])
        await buried(module, clock)
        factory.poisonous = False
        letters = {letter.key: letter.id for letter in await queues.dead_letters()}
        assert await queues.redrive(letters[second.key], by="ann") == 1
        assert [letter.key for letter in await queues.dead_letters()] == [first.key]
        task = await get(module, second)
        assert (task.status, task.run, task.history[-1].by) == (PENDING, 2, "ann")
        assert "redriven from the dead letters" in str(task.history[-1].reason)
        await drained(module)
        assert await statuses(module, [first, second]) == [FAILED, COMPLETED]
        assert [sub.result for sub in await sub_tasks(module, second)] == [2, 2]
        with pytest.raises(InvalidInput, match="id: "):
            await queues.redrive(letters[second.key])

    asyncio.run(within_patience(scenario()))


def test_all_dead_letters_are_redriven(make_module: MakeModule, clock: FakeClock) -> None:
    """Of a tenant, then of all; more than a page of them."""
    module, factory = poisoned(make_module, clock)

    async def scenario() -> None:
        queues = module.task_service.queues
        new = [NewTask(tenant_code="bob" if number % 100 == 0 else "acme", task_type="job") for number in range(220)]
        tasks = await module.task_service.create_tasks(new)
        await buried(module, clock)
        factory.poisonous = False
        assert await queues.redrive(tenant_code="bob") == 3
        assert len(await letters_of(module)) == 217
        assert await queues.redrive(tenant_code="bob") == 0
        assert await queues.redrive() == 217
        assert await letters_of(module) == []
        await drained(module)
        assert {(task.status, task.result) for task in [await get(module, task) for task in tasks]} == {(COMPLETED, 2)}

    asyncio.run(within_patience(scenario()))


def test_dead_letters_are_redriven_at_a_rate(make_module: MakeModule, clock: FakeClock) -> None:
    """The first at once, each other one when its time has come; there is no wait behind the last."""
    module, factory = poisoned(make_module, clock)

    async def scenario() -> None:
        tasks = [await create(module) for _ in range(4)]
        await buried(module, clock)
        factory.poisonous = False
        redriving = asyncio.create_task(module.task_service.queues.redrive(per_second=0.5))

        async def are_left(count: int) -> bool:
            return len(await module.task_service.queues.dead_letters()) == count

        async def waits(count: int) -> bool:
            return await are_left(count) and bool(clock._waiters)

        for left in (3, 2, 1):
            await until(lambda left=left: waits(left))  # type: ignore[misc]
            clock.advance(1.999)
            assert await are_left(left), "too early"
            assert not redriving.done()
            clock.advance(0.001)
        assert await redriving == 4
        assert await statuses(module, tasks) == [PENDING] * 4

    asyncio.run(within_patience(scenario()))


def test_what_dies_again_is_not_redriven_for_ever(make_module: MakeModule, clock: FakeClock) -> None:
    """Nothing was mended: each letter that was there is redriven once, and comes back while the others wait."""
    module, _ = poisoned(make_module, clock)

    async def scenario() -> None:
        for _ in range(2):
            await create(module)
        await buried(module, clock)
        redriving = asyncio.create_task(module.task_service.queues.redrive(per_second=0.01))

        async def has_waited() -> bool:
            return len(await letters_of(module)) == 1

        await until(has_waited)
        await buried(module, clock)
        clock.advance(100)
        await until(lambda: is_done(redriving))
        assert await redriving == 2
        assert len(await letters_of(module)) == 1
        await buried(module, clock)
        assert len(await letters_of(module)) == 2

    async def is_done(redriving: asyncio.Task[int]) -> bool:
        clock.advance(1)
        await letters_of(module)
        return redriving.done()

    asyncio.run(within_patience(scenario()))


def test_what_runs_again_is_not_redriven(make_module: MakeModule, clock: FakeClock) -> None:
    """Somebody retried it: it waits, or has ended well since. Its letter goes."""
    module, factory = poisoned(make_module, clock)

    async def scenario() -> None:
        queues = module.task_service.queues
        waits, done, other = [await create(module) for _ in range(3)]
        parent = await create_fan_out(module, [1])
        await buried(module, clock)
        factory.poisonous = False
        for task in (done, parent):
            await module.task_service.retry_task(task.key)
        await drained(module)
        await module.task_service.retry_task(waits.key)
        assert await queues.redrive() == 1
        assert await queues.dead_letters() == []
        assert [(await get(module, task)).run for task in (waits, done, other, parent)] == [2] * 4
        await drained(module)
        assert await statuses(module, [waits, done, other, parent]) == [COMPLETED] * 4

    asyncio.run(within_patience(scenario()))


def test_a_task_that_is_gone_is_not_redriven(make_module: MakeModule, clock: FakeClock, database: Path) -> None:
    module, factory = poisoned(make_module, clock)

    async def scenario() -> None:
        task, other = await create(module), await create(module)
        await buried(module, clock)
        factory.poisonous = False
        assert by_hand(database, "DELETE FROM tasks WHERE code = ?", task.code) == 1
        assert [letter.key for letter in await letters_of(module)] == [task.key, other.key]
        assert [line.dead_letters for line in await module.task_service.queues.figures()] == [2]
        assert await module.task_service.queues.redrive() == 1
        assert await module.task_service.queues.dead_letters() == []
        assert (await get(module, other)).run == 2

    asyncio.run(within_patience(scenario()))


# --- bad arguments ---------------------------------------------------------------------------------------------------


Call = Callable[[Any], Awaitable[Any]]


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda queues: queues.pause(), "task_type"),
        (lambda queues: queues.pause(task_type="job", tenant_code="acme"), "task_type"),
        (lambda queues: queues.pause(task_type="no way"), "task_type"),
        (lambda queues: queues.pause(task_type=7), "task_type"),
        (lambda queues: queues.pause(tenant_code="a#b"), "tenant_code"),
        (lambda queues: queues.pause(tenant_code=""), "tenant_code"),
        (lambda queues: queues.pause(task_type="job", reason=7), "reason"),
        (lambda queues: queues.pause(task_type="job", reason="x" * 257), "reason"),
        (lambda queues: queues.pause(task_type="job", by="\ud800"), "by"),
        (lambda queues: queues.resume(), "task_type"),
        (lambda queues: queues.resume(task_type="job", tenant_code="acme"), "task_type"),
        (lambda queues: queues.resume(tenant_code="a b"), "tenant_code"),
        (lambda queues: queues.purge(), "task_type"),
        (lambda queues: queues.purge(task_type="a/b"), "task_type"),
        (lambda queues: queues.purge(task_type="job", tenant_code="x" * 65), "tenant_code"),
        (lambda queues: queues.purge(task_type="job", reason="x" * 257), "reason"),
        (lambda queues: queues.purge(task_type="job", by=7), "by"),
        (lambda queues: queues.figures(tenant_code="a b"), "tenant_code"),
        (lambda queues: queues.dead_letters(tenant_code="a b"), "tenant_code"),
        (lambda queues: queues.dead_letters(after=-1), "after"),
        (lambda queues: queues.dead_letters(after="x"), "after"),
        (lambda queues: queues.dead_letters(limit=0), "limit"),
        (lambda queues: queues.dead_letters(limit=1001), "limit"),
        (lambda queues: queues.dead_letters(limit="x"), "limit"),
        (lambda queues: queues.redrive(tenant_code="a b"), "tenant_code"),
        (lambda queues: queues.redrive("x"), "id"),
        (lambda queues: queues.redrive(0), "id"),
        (lambda queues: queues.redrive(7), "id"),
        (lambda queues: queues.redrive(per_second=0), "per_second"),
        (lambda queues: queues.redrive(per_second="1"), "per_second"),
        (lambda queues: queues.redrive(by="x" * 257), "by"),
        (lambda queues: queues.redrive(by=7), "by"),
    ],
)
def test_bad_arguments_are_named(make_module: MakeModule, clock: FakeClock, call: Call, field: str) -> None:
    """And nothing was done: neither paused, nor purged."""
    module = make_module(clock=clock)

    async def scenario() -> None:
        task = await create(module)
        with pytest.raises(InvalidInput) as caught:
            await call(module.task_service.queues)
        assert caught.value.field == field
        assert await module.task_service.queues.pauses() == []
        assert (await get(module, task)).status is PENDING

    asyncio.run(within_patience(scenario()))


def test_the_same_without_an_event_loop(make_module: MakeModule, clock: FakeClock) -> None:
    module, factory = poisoned(make_module, clock)
    service = module.sync.task_service
    service.create_task(tenant_code="acme", task_type="job")
    asyncio.run(within_patience(buried(module, clock)))
    factory.poisonous = False
    service.queues.pause(task_type="job", reason="why", by="ann")
    assert [pause.name for pause in service.queues.pauses()] == ["job"]
    (letter,) = service.queues.iter_dead_letters()
    assert service.queues.dead_letters() == [letter]
    assert service.queues.redrive(letter.id) == 1
    asyncio.run(within_patience(drained(module)))
    (line,) = service.queues.figures()
    assert (line.waiting, line.is_paused, line.dead_letters) == (1, True, 0)
    assert service.queues.workers() == []
    assert service.queues.purge(task_type="job") == 1
    assert service.queues.resume(task_type="job")
    assert [minute.failed for minute in service.queues.throughput()] == [2]


def figures_of(lines: Sequence[QueueFigures]) -> Mapping[str, int]:
    """What waits, by tenant."""
    return {line.tenant_code: line.waiting for line in lines}


def test_what_was_purged_no_longer_waits(make_module: MakeModule, clock: FakeClock) -> None:
    """Its messages go with the next look of a worker that serves it."""
    module = make_module(clock=clock)
    module.task("job")(lambda event: None)

    async def scenario() -> None:
        for tenant in ("acme", "acme", "bob"):
            await create(module, tenant)
        await to_queue(module)
        queues = module.task_service.queues
        assert figures_of(await queues.figures()) == {"acme": 2, "bob": 1}
        await queues.pause(tenant_code="bob")
        assert await queues.purge(tenant_code="acme") == 2
        assert figures_of(await queues.figures()) == {"bob": 1}, "at once"
        async with asyncio.timeout(DEADLINE):
            await drained(module)
        assert figures_of(await queues.figures()) == {"bob": 1}

    asyncio.run(within_patience(scenario()))
