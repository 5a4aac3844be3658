"""Whose turn it is: tenants share, priorities overtake, and no more of a type runs than may."""

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Condition
from pathlib import Path
from typing import Any

import pytest

from taskloom import NewTask, Retry, StepFunctionTaskEvent, TaskKey, TaskModule, TaskQueueEvent, TaskStatus
from taskloom.clock import SystemClock
from taskloom.execution.worker import Worker
from taskloom.model import TaskEntity
from taskloom.ports import Backend, Cap, Delivery, NewTaskRow, Served
from tests.engine import processes
from tests.support.clock import FakeClock
from tests.support.faults import DEADLINE
from tests.support.rows import Rows
from tests.support.scenarios import module_over, open_backend, work

TENANTS = ("ann", "bob", "carl")
TYPES = ("job", "tea", "cake")
HOUR = timedelta(hours=1)

Entity = TaskEntity[Any]


class Course:
    """Which tasks have started, in their order; and the moment at which another one comes."""

    def __init__(self) -> None:
        self.started: list[TaskKey] = []
        self._moment: int | None = None
        self.come = asyncio.Event()

    def at(self, moment: int) -> None:
        """`come` is set when so many have started."""
        self._moment = moment

    def handle(self, event: TaskQueueEvent) -> None:
        self.started.append(event.task.key)
        if len(self.started) == self._moment:
            self.come.set()

    def before(self, task: Entity, since: int) -> int:
        """How many others started before *task*, after *since* had."""
        return self.started.index(task.key) - since


def following(backend: Backend, types: Sequence[str] = ("job",), **options: Any) -> tuple[TaskModule, Course]:
    """A module whose handlers tell a course."""
    module, course = module_over(backend, grace=0), Course()
    for task_type in types:

        @module.task(task_type, **options)
        async def handle(event: TaskQueueEvent) -> None:
            course.handle(event)

    return module, course


def some(tenant: str, count: int, task_type: str = "job", **options: Any) -> list[NewTask]:
    return [NewTask(tenant_code=tenant, task_type=task_type, **options) for _ in range(count)]


async def backlog(module: TaskModule, *tasks: NewTask) -> Sequence[Entity]:
    """These tasks, with their messages in the queue."""
    made = await module.task_service.create_tasks(tasks)
    while await module._backend.stream.forward(500):
        pass
    return made


async def until_started(course: Course, task: Entity, worker: Worker) -> None:
    """Return when *task* has started; whether it ever does is what its test is about."""
    async with asyncio.timeout(DEADLINE):
        while task.key not in course.started:
            await asyncio.wait([asyncio.ensure_future(worker._backend.store.next_deadline())])
    worker.stop()


# --- tenants ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 4, 8])
def test_another_tenants_new_task_waits_for_one_round(backend: Backend, concurrency: int) -> None:
    """However many of the first tenant wait."""
    module, course = following(backend)
    course.at(50)

    async def scenario() -> int:
        await backlog(module, *some("ann", 2000))
        async with module.worker(concurrency=concurrency) as worker:
            await course.come.wait()
            new = await module.task_service.create_task(tenant_code="bob", task_type="job")
            since = len(course.started)
            await until_started(course, new, worker)
            return course.before(new, since)

    assert asyncio.run(scenario()) <= 2 * concurrency


@pytest.mark.parametrize(("concurrency", "task_type"), [(3, "job"), (3, "tea"), (3, "cake"), (8, "tea")])
def test_a_third_tenants_new_task_waits_for_one_round(backend: Backend, concurrency: int, task_type: str) -> None:
    """With several task types too, as many as there are slots; whichever it has."""
    module, course = following(backend, TYPES)
    course.at(60)

    async def scenario() -> int:
        crowd = [new for type_ in TYPES for new in (*some("ann", 400, type_), *some("bob", 100, type_))]
        await backlog(module, *crowd)
        async with module.worker(concurrency=concurrency) as worker:
            await course.come.wait()
            new = await module.task_service.create_task(tenant_code="carl", task_type=task_type)
            since = len(course.started)
            await until_started(course, new, worker)
            return course.before(new, since)

    assert asyncio.run(scenario()) <= 3 * concurrency


MANY = [f"type-{number}" for number in range(6)]


@pytest.mark.parametrize("concurrency", [1, 2, 4])
def test_a_tenant_has_one_turn_however_many_types_it_has(backend: Backend, concurrency: int) -> None:
    """More types than slots, and all of them wait."""
    module, course = following(backend, MANY)
    course.at(60)

    async def scenario() -> int:
        await backlog(module, *(new for type_ in MANY for tenant in ("ann", "bob") for new in some(tenant, 100, type_)))
        async with module.worker(concurrency=concurrency) as worker:
            await course.come.wait()
            new = await module.task_service.create_task(tenant_code="carl", task_type=MANY[-1])
            since = len(course.started)
            await until_started(course, new, worker)
            return course.before(new, since)

    assert asyncio.run(scenario()) <= 3 * concurrency


@pytest.mark.parametrize("concurrency", [1, 2, 5])
def test_the_types_of_a_tenant_take_turns(backend: Backend, concurrency: int) -> None:
    """Also with fewer slots than types, and beside a tenant that has only one of them."""
    module, course = following(backend, MANY)

    async def scenario() -> None:
        await backlog(module, *(new for type_ in MANY for new in some("ann", 30, type_)), *some("bob", 90, MANY[2]))
        await work(module, concurrency=concurrency)

    asyncio.run(scenario())
    shared = Counter((str(key.tenant_code), str(key.parts.task_type)) for key in course.started[:120])
    assert all(abs(shared["ann", type_] - 10) <= concurrency for type_ in MANY), shared
    assert abs(shared["bob", MANY[2]] - 60) <= concurrency, shared


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_tenant_that_comes_last_to_a_backlog_waits_for_one_round(backend: Backend, concurrency: int) -> None:
    """All were created before a worker came, so nothing has its message yet."""
    module, course = following(backend)

    async def scenario() -> int:
        await module.task_service.create_tasks(some("ann", 2000))
        new = await module.task_service.create_task(tenant_code="bob", task_type="job")
        async with module.worker(concurrency=concurrency) as worker:
            await until_started(course, new, worker)
            return course.before(new, 0)

    assert asyncio.run(scenario()) <= 2 * concurrency


def test_tenants_share_a_worker_evenly(backend: Backend) -> None:
    """As long as all of them have something waiting."""
    module, course = following(backend)

    async def scenario() -> None:
        await backlog(module, *some("ann", 200), *some("bob", 100), *some("carl", 50))
        await work(module, concurrency=4)

    asyncio.run(scenario())
    shared = Counter(key.tenant_code for key in course.started[:150])
    assert all(abs(count - 50) <= 4 for count in shared.values()), shared
    both: Counter[str] = Counter(key.tenant_code for key in course.started[150:250])
    assert abs(both["ann"] - both["bob"]) <= 8, both
    assert len(course.started) == len(set(course.started)) == 350


# --- priorities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_higher_priority_overtakes_the_backlog(backend: Backend, concurrency: int) -> None:
    """Also that of other tenants and types; only what has been taken already starts before it."""
    module, course = following(backend, TYPES)
    course.at(40)

    async def scenario() -> int:
        await backlog(module, *(new for tenant in TENANTS for type_ in TYPES for new in some(tenant, 40, type_)))
        async with module.worker(concurrency=concurrency) as worker:
            await course.come.wait()
            new = await module.task_service.create_task(tenant_code="ann", task_type="job", priority=9)
            since = len(course.started)
            await until_started(course, new, worker)
            return course.before(new, since)

    assert asyncio.run(scenario()) <= concurrency


def test_priorities_are_worked_off_from_high_to_low(backend: Backend) -> None:
    module, course = following(backend)

    async def scenario() -> list[int]:
        new = [task for priority in (5, 0, 9, 3, 7) for task in some("ann", 10, priority=priority)]
        made = await backlog(module, *new)
        await work(module, concurrency=1)
        priorities = {task.key: task.priority for task in made}
        return [priorities[key] for key in course.started]

    assert asyncio.run(scenario()) == [priority for priority in (9, 7, 5, 3, 0) for _ in range(10)]


def test_the_chunks_of_a_fan_out_have_its_priority(backend: Backend) -> None:
    """It overtakes a fan-out that has begun."""
    module = module_over(backend, grace=0)
    order: list[int] = []

    async def scenario() -> None:
        come, go = asyncio.Event(), asyncio.Event()

        @module.step_function_task("job", max_concurrency=1)
        async def job(event: StepFunctionTaskEvent) -> None:
            order.append(event.input.input)
            if event.input.input == 3:
                come.set()
                await go.wait()

        service = module.task_service
        slow = await service.create_step_function_task(tenant_code="ann", task_type="job", input=range(10))
        async with module.worker(concurrency=1) as worker:
            await come.wait()
            fast = await service.create_step_function_task(
                tenant_code="ann", task_type="job", input=range(100, 104), priority=6
            )
            await backend.stream.forward(500)
            go.set()
            for parent in (slow, fast):
                await service.wait(parent.key)
            await worker.drain()

    asyncio.run(scenario())
    assert order == [*range(4), *range(100, 104), *range(4, 10)]


def test_a_full_type_does_not_let_lower_priorities_pass(backend: Backend) -> None:
    """Room that the cap of one type leaves goes to others of the same priority."""
    rows, other, low = Rows(backend), Rows(backend), Rows(backend)

    async def scenario() -> None:
        capped = [rows.single(priority=9, tenant_code=f"{rows.tenant}-{number}") for number in range(5)]
        free = rows_of(rows, other.task_type, 1, priority=9)
        behind = rows_of(rows, low.task_type, 5, priority=5)
        await sent(backend, *capped, rows.single(task_type=other.task_type, priority=9))
        before = Served(tasks=frozenset({other.task_type}), fan_outs=frozenset())
        assert len(await backend.queue.receive(before, 1, visible_at=rows.now + HOUR)) == 1
        (wanted,) = await sent(backend, *free)
        await sent(backend, *behind)
        types = frozenset({rows.task_type, other.task_type, low.task_type})
        served = Served(tasks=types, fan_outs=frozenset(), caps={rows.task_type: Cap(total=1)})
        found = await backend.queue.receive(served, 2, visible_at=rows.now + HOUR)
        assert wanted.key in [delivery.key for delivery in found]

    asyncio.run(scenario())


def rows_of(rows: Rows, task_type: str, count: int, **fields: Any) -> list[NewTaskRow]:
    return [rows.single(task_type=task_type, **fields) for _ in range(count)]


async def sent(backend: Backend, *rows: NewTaskRow) -> list[Entity]:
    """The entities of *rows*, which are stored now and have their messages in the queue."""
    await backend.store.create(rows)
    while await backend.stream.forward(500):
        pass
    return [row.entity for row in rows]


# --- caps ------------------------------------------------------------------------------------------------------------


class Crowd:
    """Tasks that run at the same time: none ends before as many run as may, so a cap that is not reached shows as a
    test that never ends. No timer helps: the clock stands still."""

    def __init__(self, tasks: Sequence[NewTask], *, most: int | None = None, per_tenant: int | None = None) -> None:
        self._left = Counter(task.tenant_code for task in tasks)
        self._most = len(tasks) if most is None else most
        self._per_tenant = len(tasks) if per_tenant is None else per_tenant
        self._running: Counter[str] = Counter()
        self._changed = asyncio.Condition()
        self.top = 0

    async def join(self, event: TaskQueueEvent) -> None:
        tenant = event.task.tenant_code
        async with self._changed:
            self._running[tenant] += 1
            self.top = max(self.top, self._running.total())
            assert self._running.total() <= self._most
            assert self._running[tenant] <= self._per_tenant
            self._changed.notify_all()
            await self._changed.wait_for(self._is_full)
            self._changed.notify_all()
        async with self._changed:
            self._running[tenant] -= 1
            self._left[tenant] -= 1
            self._changed.notify_all()

    def _is_full(self) -> bool:
        possible = sum(min(self._per_tenant, left) for left in self._left.values())
        return self._running.total() >= min(self._most, possible)


async def worked_off(module: TaskModule, tasks: Sequence[Entity], *concurrency: int) -> None:
    """Workers of *module* have run *tasks* to their ends."""
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        done = asyncio.Event()
        for count in concurrency:

            async def serve(count: int = count) -> None:
                async with module.worker(concurrency=count):
                    await done.wait()

            group.create_task(serve())
        ended = [await module.task_service.wait(task.key) for task in tasks]
        assert {task.status for task in ended} == {TaskStatus.COMPLETED}
        done.set()


@pytest.mark.parametrize("most", [1, 3])
def test_a_cap_holds_and_is_reached_over_two_workers(backend: Backend, most: int) -> None:
    module = module_over(backend, grace=0)

    async def scenario() -> None:
        new = [*some("ann", 20), *some("bob", 20)]
        crowd = Crowd(new, most=most)

        @module.task("job", max_concurrency=most)
        async def job(event: TaskQueueEvent) -> None:
            await crowd.join(event)

        tasks = await module.task_service.create_tasks(new)
        await worked_off(module, tasks, 4, 4)
        assert crowd.top == most

    asyncio.run(scenario())


def test_a_cap_per_tenant_holds_and_is_reached(backend: Backend) -> None:
    """Each tenant has as many, whatever the others have; over two workers."""
    module = module_over(backend, grace=0)

    async def scenario() -> None:
        new = [*some("ann", 24), *some("bob", 8), *some("carl", 4)]
        crowd = Crowd(new, per_tenant=2)

        @module.task("job", max_concurrency_per_tenant=2)
        async def job(event: TaskQueueEvent) -> None:
            await crowd.join(event)

        tasks = await module.task_service.create_tasks(new)
        await worked_off(module, tasks, 5, 5)
        assert crowd.top == 6

    asyncio.run(scenario())


def test_both_caps_of_a_type_hold(backend: Backend) -> None:
    module = module_over(backend, grace=0)

    async def scenario() -> None:
        new = [*some("ann", 20), *some("bob", 10), *some("carl", 10)]
        crowd = Crowd(new, most=3, per_tenant=2)

        @module.task("job", max_concurrency=3, max_concurrency_per_tenant=2)
        async def job(event: TaskQueueEvent) -> None:
            await crowd.join(event)

        await worked_off(module, await module.task_service.create_tasks(new), 5, 5)
        assert crowd.top == 3

    asyncio.run(scenario())


def test_a_capped_type_holds_up_no_other(backend: Backend) -> None:
    """Nor do its waiting tasks keep the worker busy."""
    module, _ = following(backend, ("tea",))

    async def scenario() -> None:
        inside, go = asyncio.Event(), asyncio.Event()

        @module.task("job", max_concurrency=1)
        async def job(event: TaskQueueEvent) -> None:
            inside.set()
            await go.wait()

        capped = await backlog(module, *some("ann", 30), *some("bob", 30))
        async with module.worker(concurrency=3) as worker:
            await inside.wait()
            others = await module.task_service.create_tasks(some("ann", 30, "tea"))
            for task in others:
                await module.task_service.wait(task.key, timeout=DEADLINE)
            states = Counter([(await module.task_service.get_task(task.key)).status for task in capped])
            assert states == {TaskStatus.PENDING: 59, TaskStatus.IN_PROGRESS: 1}
            go.set()
            await worker.drain()

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE))


@pytest.mark.parametrize("how", ["ends", "fails", "waits for another attempt", "is given back"])
def test_room_is_used_at_once_by_another_worker(backend: Backend, how: str) -> None:
    """The one that had the room takes nothing more, and the clock stands still: the other one must be told."""
    module = module_over(backend, grace=0)

    async def scenario() -> None:
        inside, go, taken = asyncio.Event(), asyncio.Event(), asyncio.Event()

        @module.task("job", max_concurrency=1, retry=Retry(max_attempts=2, initial=100, jitter=False))
        async def job(event: TaskQueueEvent) -> None:
            if event.task.input != "first":
                taken.set()
            elif not inside.is_set():
                inside.set()
                await go.wait()
                if how == "fails":
                    raise SystemError("no")
                if how == "waits for another attempt":
                    raise ValueError("no")

        service = module.task_service
        first = await service.create_task(tenant_code="ann", task_type="job", input="first", priority=9)
        await service.create_task(tenant_code="ann", task_type="job")
        async with module.worker() as other, module.worker(grace=0 if how == "is given back" else 30) as owner:
            await inside.wait()
            holder = (await service.get_task(first.key)).history[-1].by
            owner, other = (owner, other) if holder == owner.name else (other, owner)
            assert not taken.is_set()
            owner.stop()
            go.set()
            await asyncio.wait_for(taken.wait(), DEADLINE)
            await other.drain()

    asyncio.run(scenario())


def capped(database: Path, running: "Synchronized[int]", left: "Synchronized[int]", changed: Condition) -> None:
    """A worker with two slots, of whose tasks three may run over all processes: see `Crowd`."""
    backend = open_backend(database, SystemClock())
    module = module_over(backend, grace=0)

    @module.task("job", max_concurrency=3)
    def job(event: TaskQueueEvent) -> None:
        with changed:
            running.value += 1
            assert running.value <= 3, "too many"
            changed.notify_all()
            assert changed.wait_for(lambda: running.value >= min(3, left.value), DEADLINE), "too few"
            changed.notify_all()
        with changed:
            running.value -= 1
            left.value -= 1
            changed.notify_all()

    async def main() -> None:
        async with module.worker(concurrency=2):
            async for task in module.task_service.iter_tasks("ann"):
                await module.task_service.wait(task.key, timeout=DEADLINE)

    asyncio.run(main())
    backend.close()


def test_a_cap_holds_and_is_reached_over_two_processes(backend: Backend, database: Path) -> None:
    """Two slots each, and three may run: both take part."""
    module = module_over(backend, grace=0)
    tasks = asyncio.run(_create(module, 30))
    context = processes.CONTEXT
    running, left, changed = context.Value("i", 0), context.Value("i", len(tasks)), context.Condition()
    workers = [processes.start(capped, database, running, left, changed) for _ in range(2)]
    for worker in workers:
        worker.join(DEADLINE * 2)
        assert worker.exitcode == 0

    async def check() -> None:
        ended = [await module.task_service.get_task(task.key) for task in tasks]
        assert {(task.status, task.error and task.error.message) for task in ended} == {(TaskStatus.COMPLETED, None)}
        assert len({task.history[-1].by for task in ended}) == 2

    asyncio.run(check())
    assert (running.value, left.value) == (0, 0)


async def _create(module: TaskModule, count: int) -> Sequence[Entity]:
    return await module.task_service.create_tasks(some("ann", count))


# --- lanes -----------------------------------------------------------------------------------------------------------


def test_a_retry_keeps_its_place(backend: Backend, clock: FakeClock) -> None:
    """That of the time at which it is due: behind what waited before, and before what came later."""
    module, order = module_over(backend, grace=0), list[str]()

    @module.task("job", retry=Retry(max_attempts=2, initial=10, jitter=False))
    async def job(event: TaskQueueEvent) -> None:
        order.append(event.task.input)
        if event.task.input == "again" and event.attempt == 1:
            raise ValueError("no")

    async def scenario() -> None:
        async def new(*inputs: str) -> None:
            await backlog(module, *(NewTask(tenant_code="ann", task_type="job", input=text) for text in inputs))

        await new("again")
        await work(module, concurrency=1)
        clock.advance(9)
        await new("before", "also before")
        clock.advance(2)
        await new("later", "also later")
        await work(module, concurrency=1)

    asyncio.run(scenario())
    assert order == ["again", "before", "also before", "again", "later", "also later"]


def test_what_was_given_back_keeps_its_place(backend: Backend, clock: FakeClock) -> None:
    """A worker that stops loses nobody's turn."""
    module, order = module_over(backend, grace=0), list[int]()

    async def scenario() -> None:
        inside = asyncio.Event()

        @module.task("job")
        async def job(event: TaskQueueEvent) -> None:
            order.append(event.task.input)
            if not inside.is_set():
                inside.set()
                await asyncio.Event().wait()

        await backlog(module, *(NewTask(tenant_code="ann", task_type="job", input=number) for number in range(4)))
        async with module.worker(concurrency=1):
            await inside.wait()
        await work(module, concurrency=1)

    asyncio.run(scenario())
    assert order == [0, 0, 1, 2, 3]


def test_a_lane_goes_with_its_last_message(backend: Backend, database: Path) -> None:
    """Whatever becomes of its tasks; so nothing is left of tenants that have nothing to do."""
    module, _ = following(backend, TYPES)

    @module.step_function_task("job")
    async def job(event: StepFunctionTaskEvent) -> None:
        pass

    async def scenario() -> None:
        new = [
            task
            for number in range(30)
            for task in some(f"tenant-{number}", 2, TYPES[number % 3], priority=number % 10)
        ]
        await backlog(module, *new)
        parent = await module.task_service.create_step_function_task(tenant_code="ann", task_type="job", input=range(5))
        await backend.stream.forward(500)
        assert lanes(database) == messages(database)
        assert len(lanes(database)) == 31
        await work(module, concurrency=4)
        await module.task_service.wait(parent.key)
        await work(module)

    asyncio.run(scenario())
    assert lanes(database) == []


def test_a_cancelled_fan_out_leaves_no_lane(backend: Backend, database: Path, clock: FakeClock) -> None:
    """Its steps change lanes when they hurry. An empty lane would be first in line for ever: a worker with one slot
    would find nothing in it, again and again, and nothing else would run."""
    module, _ = following(backend)

    @module.step_function_task("job", retry=Retry(max_attempts=2, initial=100, jitter=False), max_concurrency=1)
    async def fan_out(event: StepFunctionTaskEvent) -> None:
        raise ValueError("no")

    async def scenario() -> None:
        service = module.task_service
        parent = await service.create_step_function_task(tenant_code="ann", task_type="job", input=[1])
        await work(module, concurrency=1)
        await service.cancel_task(parent.key)
        clock.advance(200)
        others = [
            await service.create_step_function_task(tenant_code=tenant, task_type="job", input=[])
            for tenant in ("bob", "carl")
        ]
        await work(module, concurrency=1)
        for task in (parent, *others):
            assert (await service.wait(task.key, timeout=0)).is_terminal

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE))
    assert lanes(database) == []


def rows_in(database: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(database, timeout=DEADLINE)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def lanes(database: Path) -> list[tuple[Any, ...]]:
    """The lanes there are."""
    return rows_in(database, "SELECT route, priority, tenant FROM lanes ORDER BY 1, 2, 3")


def messages(database: Path) -> list[tuple[Any, ...]]:
    """The lanes there should be."""
    return rows_in(database, "SELECT DISTINCT route, priority, tenant FROM queue ORDER BY 1, 2, 3")


@pytest.mark.parametrize("seed", range(3))
def test_lanes_are_those_of_the_messages_whatever_happens(
    backend: Backend, clock: FakeClock, database: Path, seed: int
) -> None:
    """And none is due later than its first message, or it would be forgotten; at the end nothing is left behind."""
    chance = random.Random(seed)
    rows = Rows(backend)
    own = frozenset({rows.task_type})
    served = Served(tasks=own, fan_outs=own, caps={rows.task_type: Cap(total=6, per_tenant=4)} if seed % 2 else {})

    async def scenario() -> None:
        held: list[Delivery] = []
        made, gone = 0, set()
        for _ in range(150):
            match chance.randrange(7):
                case 0 | 1:
                    new = [
                        rows.single(tenant_code=f"t-{chance.randrange(4)}", priority=chance.choice((2, 5, 8)))
                        for _ in range(chance.randrange(1, 4))
                    ]
                    await sent(backend, *new)
                    made += len(new)
                case 2 | 3:
                    until = clock.now() + timedelta(seconds=chance.choice((1, 30)))
                    held += await backend.queue.receive(served, chance.randrange(1, 5), visible_at=until)
                case 4 if held:
                    delivery = held.pop(chance.randrange(len(held)))
                    await backend.queue.release(delivery.receipt, clock.now() + timedelta(seconds=chance.randrange(9)))
                case 5 if held:
                    delivery = held.pop(chance.randrange(len(held)))
                    await backend.queue.delete([delivery.receipt])
                case _:
                    await backend.queue.extend([delivery.receipt for delivery in held[:3]], clock.now() + HOUR / 60)
                    clock.advance(chance.randrange(3))
            assert lanes(database) == messages(database)
            assert not rows_in(
                database,
                "SELECT * FROM lanes AS l WHERE due_at > (SELECT min(visible_at) FROM queue AS q "
                "WHERE (q.route, q.priority, q.tenant) = (l.route, l.priority, l.tenant))",
            )
        clock.advance(3600)
        # What was deleted late, or by a receipt that was none any more, makes the rest of the sum.
        (left,) = rows_in(database, "SELECT count(*) FROM queue")[0]
        while found := await backend.queue.receive(served, 3, visible_at=clock.now() + HOUR):
            gone |= {delivery.key for delivery in found}
            await backend.queue.delete([delivery.receipt for delivery in found])
        assert len(gone) == left
        assert await backend.queue.next_due(served) is None
        assert lanes(database) == messages(database) == []
        for key in gone:
            task = await rows.stored(key)
            await rows.carry_out(rows.rejected(task))
        async for task in pending(backend):
            await rows.carry_out(rows.rejected(task))

    asyncio.run(scenario())


async def pending(backend: Backend) -> Any:
    """Tasks that are left without a message, which the rules of the file forbid."""
    service = module_over(backend, grace=0).task_service
    for number in range(4):
        async for task in service.iter_tasks(f"t-{number}"):
            if task.status is TaskStatus.PENDING:
                yield task


# --- cost ------------------------------------------------------------------------------------------------------------


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Tells how many statements all connections that are opened inside have carried out."""
    statements: list[str] = []
    connect = sqlite3.connect

    def traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **kwargs)
        connection.set_trace_callback(statements.append)
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", traced)
        yield lambda: len(statements)


@pytest.mark.parametrize("limit", [1, 8])
def test_a_message_costs_the_same_among_many_tenants(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Statements are counted, those of triggers too: a choice that looked at every tenant would carry out more."""

    async def cost(tenants: int) -> float:
        with counted(monkeypatch) as statements:
            backend = open_backend(tmp_path / f"{tenants}.db", clock)
            try:
                rows = Rows(backend)
                await sent(backend, *(rows.single(tenant_code=f"t-{number % tenants}") for number in range(1000)))
                served = Served(tasks=frozenset({rows.task_type}), fan_outs=frozenset())
                before, received = statements(), 0
                for _ in range(40):
                    found = await backend.queue.receive(served, limit, visible_at=clock.now() + HOUR)
                    await backend.queue.next_due(served)
                    received += len(found)
                assert received == 40 * limit
                return (statements() - before) / received
            finally:
                await asyncio.to_thread(backend.close)

    few, many = asyncio.run(cost(10)), asyncio.run(cost(1000))
    assert many <= few
