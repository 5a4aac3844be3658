"""What may be poison is run one at a time in its last attempt, so that it takes nobody along."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest

from taskloom import NewTask, Retry, Settings, StepFunctionTaskEvent, TaskModule, TaskQueueEvent, TaskStatus
from taskloom.clock import EPOCH, SystemClock, from_milliseconds, to_milliseconds
from taskloom.errors import StoreError
from taskloom.execution.quarantine import LOOK_AGAIN, Quarantine
from taskloom.lifecycle import Change, Claimant, Guard, Written, cancelled, claim, is_last_chance
from taskloom.model import Kind, TaskEntity, TaskKey
from taskloom.ports import Backend
from tests.core.strategies import plain
from tests.engine.processes import kill_me, killed
from tests.support.clock import FakeClock
from tests.support.faults import DEADLINE, Duplicating, FailAt, Gate, Inner, PortCall, tapped
from tests.support.rules import check_rules
from tests.support.scenarios import (
    LEASE,
    TENANT,
    HastyClock,
    check_counters,
    check_history,
    module_over,
    open_backend,
)
from tests.surface.running import lose_worker

PENDING, IN_PROGRESS = TaskStatus.PENDING, TaskStatus.IN_PROGRESS
COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED

LIMIT: Final = 3
"""Attempts of a task whose worker dies each time, without any policy."""
SINGLE, ALONE, SHARED = "single tasks", "sub-tasks in chunks of their own", "sub-tasks that share chunks"
KINDS: Final = [SINGLE, ALONE, SHARED]

Event = TaskQueueEvent[Any] | StepFunctionTaskEvent[Any]
Task = TaskEntity[Any]


# --- the quarantine itself -------------------------------------------------------------------------------------------


def claimant(max_lost: int = LIMIT) -> Claimant:
    return Claimant(by="worker", claim_id="mine", now=EPOCH, lease=timedelta(seconds=LEASE), max_lost=max_lost)


def claim_of(code: str, *, attempt: int, status: TaskStatus = IN_PROGRESS, max_lost: int = LIMIT) -> Change:
    """The claim of a task in its next attempt; its last worker died, unless it waits."""
    task = plain(Kind.TASK, status, key=TaskKey.single("acme", "cat", code), attempt=attempt, fence=attempt)
    change = claim(task.key, task, task.kind, claimant(max_lost))
    assert isinstance(change, Change)
    return change


def test_one_is_inside_at_a_time() -> None:
    quarantine, who = Quarantine(), claimant()
    first, second, third = (claim_of(code, attempt=2) for code in ("A", "B", "C"))
    assert quarantine.admits(first, who, first.key)
    assert not quarantine.admits(second, who, second.key)
    quarantine.leave(first.key)
    assert quarantine.admits(third, who, third.key)
    assert not quarantine.admits(first, who, first.key)


def test_who_is_inside_may_ask_again() -> None:
    """A claim that was refused is decided anew, and a message may come twice."""
    quarantine, who = Quarantine(), claimant()
    first, second = claim_of("A", attempt=2), claim_of("B", attempt=2)
    assert quarantine.admits(first, who, first.key)
    assert quarantine.admits(first, who, first.key)
    assert not quarantine.admits(second, who, second.key)
    quarantine.leave(first.key)
    assert quarantine.admits(second, who, second.key)


def test_only_who_is_inside_can_leave() -> None:
    """Whoever was not admitted ends, too; and what never was inside."""
    quarantine, who = Quarantine(), claimant()
    first, second, third = (claim_of(code, attempt=2) for code in ("A", "B", "C"))
    quarantine.leave(first.key)
    assert quarantine.admits(first, who, first.key)
    quarantine.leave(second.key)
    assert not quarantine.admits(third, who, third.key)


def test_others_are_always_admitted_and_take_no_room() -> None:
    """Those with another chance, those that never lost a worker, and those that are given up by this very change."""
    quarantine, who = Quarantine(), claimant()
    others = [
        claim_of("A", attempt=1),
        claim_of("B", attempt=0, status=PENDING),
        claim_of("C", attempt=2, status=PENDING),
        claim_of("D", attempt=3),
    ]
    assert others[-1].patch["status"] is FAILED
    for change in others:
        assert quarantine.admits(change, who, change.key)
    last = claim_of("E", attempt=2)
    assert quarantine.admits(last, who, last.key)
    for change in others:
        assert quarantine.admits(change, who, change.key)
        quarantine.leave(change.key)
    assert not quarantine.admits(claim_of("F", attempt=2), who, claim_of("F", attempt=2).key)


@pytest.mark.parametrize(("attempt", "max_lost", "last"), [(1, 3, False), (2, 3, True), (1, 2, True), (3, 5, False)])
def test_the_last_chance_depends_on_the_limit(attempt: int, max_lost: int, last: bool) -> None:
    change = claim_of("A", attempt=attempt, max_lost=max_lost)
    assert is_last_chance(change, max_lost) is last
    quarantine = Quarantine()
    quarantine.admits(claim_of("B", attempt=2), claimant(), claim_of("B", attempt=2).key)
    assert quarantine.admits(change, claimant(max_lost), change.key) is not last


# --- in a worker -----------------------------------------------------------------------------------------------------


class Ward:
    """Tasks of one type whose workers die: their handler hangs until the attempts before the last one are lost.

    From then on it returns when the test lets it go.
    """

    def __init__(
        self,
        backend: Backend,
        clock: FakeClock,
        kind: str,
        number: int,
        *,
        task_type: str = "cat",
        retry: Retry | None = None,
        hangs_below: int = LIMIT,
        raises_at: int = 0,
    ) -> None:
        self.keys: list[TaskKey] = []
        self.inside: list[int] = []
        """Which of them run, by their numbers; those that hang left out."""
        self.most = 0
        """How many ran beside each other."""
        self._backend = backend
        self._clock = clock
        self._kind = kind
        self._task_type = task_type
        self._hangs_below = hangs_below
        self._raises_at = raises_at
        self._hanging = 0
        self._all_hang = asyncio.Event()
        self._changed = asyncio.Condition()
        self._free: set[int] = set()
        tasks = self.module().sync.task_service
        if kind == SINGLE:
            for index in range(number):
                made = tasks.create_task(tenant_code=TENANT, task_type=task_type, input=index, retry=retry)
                self.keys.append(made.key)
        else:
            parent = tasks.create_step_function_task(
                tenant_code=TENANT, task_type=task_type, input=range(number), retry=retry
            )
            self.keys += [task.key for task in tasks.iter_sub_tasks(parent.key)]

    def taken_over(self, backend: Backend, clock: FakeClock) -> "Ward":
        """The same tasks in a copy of the file."""
        ward = Ward(backend, clock, self._kind, 0)
        ward.keys = self.keys
        return ward

    def module(self, backend: Backend | None = None) -> TaskModule:
        """An application with the handler, perhaps over another view of the backend."""
        module = module_over(backend or self._backend, grace=0)
        self.define(module)
        return module

    def define(self, module: TaskModule) -> None:
        """Give *module* the handler."""
        again = Retry(initial=0) if self._raises_at else None
        if self._kind == SINGLE:
            module.task(self._task_type, retry=again)(self._handle)
            return
        size = 2 if self._kind == SHARED else 1
        module.step_function_task(self._task_type, retry=again, chunk_size=size, chunk_concurrency=size)(self._handle)

    async def _handle(self, event: Event) -> str:
        number: int = event.task.input
        if event.attempt == self._raises_at:
            raise ValueError("not this time")
        if event.attempt < self._hangs_below:
            self._hanging += 1
            if self._hanging == len(self.keys):
                self._all_hang.set()
            await asyncio.Event().wait()
        async with self._changed:
            self.inside.append(number)
            self.most = max(self.most, len(self.inside))
            self._changed.notify_all()
            try:
                await self._changed.wait_for(lambda: number in self._free)
            finally:
                self.inside.remove(number)
                self._changed.notify_all()
        return "done"

    def lose_workers(self, times: int = LIMIT - 1) -> "Ward":
        """So many workers take all of them, and die; the lease of the last one has ended."""
        for _ in range(times):
            self._all_hang, self._hanging = asyncio.Event(), 0
            asyncio.run(lose_worker(self.module(), self._all_hang))
            self._clock.advance(LEASE + 1)
        return self

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until *condition*, which speaks of this ward, holds."""
        async with asyncio.timeout(DEADLINE), self._changed:
            await self._changed.wait_for(condition)

    async def let_go(self, number: int) -> None:
        """Let this one return."""
        async with self._changed:
            self._free.add(number)
            self._changed.notify_all()
        await self.until(lambda: number not in self.inside)

    async def task(self, number: int) -> Task:
        return await module_over(self._backend).task_service.get_task(self.keys[number])

    async def tasks(self) -> list[Task]:
        return [await self.task(number) for number in range(len(self.keys))]

    async def ended(self) -> list[Task]:
        """All of them, once they have ended: they are let go, and time passes."""
        self._free.update(range(len(self.keys)))
        async with asyncio.timeout(DEADLINE):
            while not all(task.is_terminal for task in await self.tasks()):
                async with self._changed:
                    self._changed.notify_all()
                self._clock.advance(0.5)
                await rounds(5)
        return await self.tasks()


async def rounds(number: int = 40) -> None:
    """Give everybody who could do something the time to do it, some times over."""
    for _ in range(number):
        await asyncio.to_thread(lambda: None)


def check_healed(tasks: Sequence[Task], attempt: int = LIMIT) -> None:
    """All ended well in *attempt*, the workers of those before having died."""
    for task in tasks:
        assert (task.status, task.attempt, task.lost) == (COMPLETED, attempt, attempt - 1)
        check_history(task)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_attempts_are_made_one_at_a_time(backend: Backend, clock: FakeClock, kind: str) -> None:
    """Although the worker has room for all, and looks at the others again and again."""
    ward = Ward(backend, clock, kind, 6).lose_workers()

    async def main() -> list[Task]:
        seen: list[int] = []
        async with ward.module().worker(concurrency=8) as worker:
            for _ in range(6):
                await ward.until(lambda: bool(ward.inside))
                seen += ward.inside
                for _ in range(2):
                    clock.advance(LOOK_AGAIN.total_seconds())
                    await rounds()
                    assert ward.inside == seen[-1:]
                await ward.let_go(seen[-1])
                async with asyncio.timeout(DEADLINE):
                    while not (await ward.task(seen[-1])).is_terminal:
                        await rounds(1)
                clock.advance(LOOK_AGAIN.total_seconds())
            await worker.drain()
        assert sorted(seen) == list(range(6))
        return await ward.tasks()

    check_healed(asyncio.run(main()))
    assert ward.most == 1


@pytest.mark.parametrize("kind", KINDS)
def test_earlier_attempts_are_not_held_up(backend: Backend, clock: FakeClock, kind: str) -> None:
    """All run beside each other after their first worker died."""
    ward = Ward(backend, clock, kind, 6, hangs_below=2).lose_workers(1)

    async def main() -> list[Task]:
        async with ward.module().worker(concurrency=8):
            await ward.until(lambda: len(ward.inside) == 6)
            return await ward.ended()

    check_healed(asyncio.run(main()), attempt=2)


@pytest.mark.parametrize("kind", KINDS)
def test_others_run_beside_a_last_attempt(backend: Backend, clock: FakeClock, kind: str) -> None:
    """New ones, and those that have another chance because their creator wants it."""
    suspects = Ward(backend, clock, kind, 4).lose_workers()
    patient = Ward(backend, clock, kind, 4, task_type="dog", retry=Retry(max_attempts=LIMIT + 1)).lose_workers()
    new = Ward(backend, clock, kind, 4, task_type="bird", hangs_below=1)

    async def main() -> None:
        module = suspects.module()
        patient.define(module)
        new.define(module)
        async with module.worker(concurrency=16):
            await patient.until(lambda: len(patient.inside) == 4)
            await new.until(lambda: len(new.inside) == 4)
            await suspects.until(lambda: bool(suspects.inside))
            check_healed(await new.ended(), attempt=1)
            check_healed(await patient.ended())
            check_healed(await suspects.ended())

    asyncio.run(main())
    assert suspects.most == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_creator_decides_which_attempt_is_the_last(backend: Backend, clock: FakeClock, kind: str) -> None:
    ward = Ward(backend, clock, kind, 4, retry=Retry(max_attempts=2), hangs_below=2).lose_workers(1)

    async def main() -> list[Task]:
        async with ward.module().worker(concurrency=8):
            await ward.until(lambda: bool(ward.inside))
            clock.advance(LOOK_AGAIN.total_seconds())
            await rounds()
            return await ward.ended()

    check_healed(asyncio.run(main()), attempt=2)
    assert ward.most == 1


@pytest.mark.parametrize("size", [1, 3])
def test_the_type_decides_after_which_attempt_a_sub_task_is_given_up(
    backend: Backend, clock: FakeClock, size: int
) -> None:
    """Here after the first; and who is given up counts once."""
    module = module_over(backend, grace=0)
    busy = asyncio.Event()

    @module.step_function_task("cat", retry=Retry(max_attempts=1), chunk_size=size)
    async def cat(event: StepFunctionTaskEvent) -> None:
        if event.task.index == 0:
            busy.set()
            await asyncio.Event().wait()

    async def main() -> None:
        tasks = module.task_service
        async with module.worker() as worker, asyncio.timeout(DEADLINE):
            await worker.drain()
        done = await tasks.get_task(parent.key)
        subs = [task async for task in tasks.iter_sub_tasks(parent.key)]
        assert [task.status for task in subs] == [FAILED, COMPLETED, COMPLETED]
        error = subs[0].attributes.error
        assert error is not None
        assert error.message == "the worker died 1 time"
        check_counters(done, subs)

    parent = module.sync.task_service.create_step_function_task(tenant_code=TENANT, task_type="cat", input=range(3))
    asyncio.run(lose_worker(module, busy))
    clock.advance(LEASE)
    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_who_was_given_back_is_suspected_still(backend: Backend, clock: FakeClock, kind: str) -> None:
    """Its worker was asked to stop in the middle of its last attempt, which is made again beside nobody else's."""
    ward = Ward(backend, clock, kind, 2).lose_workers()

    async def main() -> list[Task]:
        async with ward.module().worker(concurrency=8):
            await ward.until(lambda: bool(ward.inside))
        assert sorted(str(task.status) for task in await ward.tasks()) == [IN_PROGRESS, PENDING]
        async with ward.module().worker(concurrency=8):
            await ward.until(lambda: bool(ward.inside))
            clock.advance(LOOK_AGAIN.total_seconds())
            await rounds()
            return await ward.ended()

    check_healed(asyncio.run(main()))
    assert ward.most == 1


@pytest.mark.parametrize("kind", KINDS)
def test_who_failed_in_between_is_suspected_still(backend: Backend, clock: FakeClock, kind: str) -> None:
    """Its worker died in its first attempt, it raised in the second; should this one die too, it is given up."""
    ward = Ward(backend, clock, kind, 2, raises_at=2).lose_workers(1)

    async def main() -> list[Task]:
        async with ward.module().worker(concurrency=8):
            await ward.until(lambda: bool(ward.inside))
            clock.advance(LOOK_AGAIN.total_seconds())
            await rounds()
            return await ward.ended()

    for task in asyncio.run(main()):
        assert (task.status, task.attempt, task.lost) == (COMPLETED, 3, 1)
    assert ward.most == 1


@pytest.mark.parametrize("kind", KINDS)
def test_one_is_inside_until_its_end_is_on_disk(backend: Backend, clock: FakeClock, kind: str) -> None:
    """Its handler has returned, but its end is not written yet: should the next one kill the worker now, it would be
    given up for the other."""
    gate = Gate(lambda call: any(change.patch.get("status") is COMPLETED for change in changes_of(call)))
    ward = Ward(backend, clock, kind, 2).lose_workers()

    async def main() -> list[Task]:
        async with ward.module(tapped(backend, gate)).worker(concurrency=8):
            await ward.until(lambda: bool(ward.inside))
            await ward.let_go(ward.inside[0])
            await gate.held()
            clock.advance(LOOK_AGAIN.total_seconds())
            await rounds()
            beside = list(ward.inside)
            gate.open()
            tasks = await ward.ended()
        assert not beside
        return tasks

    check_healed(asyncio.run(main()))


def changes_of(call: PortCall) -> Sequence[Change]:
    """The changes that *call* carries out."""
    if call.name == "store.update_many":
        return list(call.args[0])
    return [call.args[0]] if call.name == "store.update" else []


# --- claims that come to nothing -------------------------------------------------------------------------------------


class Interfering:
    """A tap under which the first claim of a suspect comes to nothing, and the suspect has ended meanwhile.

    So it never comes back to leave the quarantine.
    """

    def __init__(self, backend: Backend, how: str) -> None:
        self._backend = backend
        self._ways = how.split(", then ")
        self.suspect: TaskKey | None = None

    async def __call__(self, call: PortCall, inner: Inner) -> Any:
        claims = [change for change in changes_of(call) if "lost" in change.patch]
        if not claims or not self._ways:
            return await inner()
        (suspect,) = claims
        way = self._ways.pop(0)
        self.suspect = suspect.key
        if self._ways:
            await self._carry_out(Change(key=suspect.key, guard=Guard(), patch={"fence": suspect.patch["fence"]}))
        else:
            task = await self._backend.store.get(suspect.key)
            assert task is not None
            await self._carry_out(cancelled(task, reason=None, by="ann", now=task.updated_at, claim_id="ann"))
        if way == "fails":
            raise StoreError("on purpose")
        return await inner()

    async def _carry_out(self, change: Change) -> None:
        assert isinstance(await self._backend.store.update(change), Written)


@pytest.mark.parametrize("how", ["refused", "fails", "refused, then refused", "refused, then fails"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_claim_that_comes_to_nothing_leaves_room_for_others(
    backend: Backend, clock: FakeClock, kind: str, how: str
) -> None:
    ward = Ward(backend, clock, kind, 3).lose_workers()
    tap = Interfering(backend, how)

    async def main() -> list[Task]:
        async with ward.module(tapped(backend, tap)).worker(concurrency=8):
            return await ward.ended()

    tasks = asyncio.run(main())
    assert [task.status for task in tasks if task.key == tap.suspect] == [CANCELLED]
    check_healed([task for task in tasks if task.key != tap.suspect])
    assert ward.most == 1


@pytest.mark.parametrize("kind", KINDS)
def test_who_loses_its_claim_leaves_room_for_others(backend: Backend, clock: FakeClock, kind: str) -> None:
    """Somebody takes the one that is inside, and ends it when the heart has noticed."""
    ward = Ward(backend, clock, kind, 3).lose_workers()

    async def stored(number: int) -> Task:
        task = await backend.store.get(ward.keys[number])
        assert task is not None
        return task

    async def carry_out(change: Change) -> None:
        assert isinstance(await backend.store.update(change), Written)

    async def main() -> list[Task]:
        async with ward.module().worker(concurrency=8):
            await ward.until(lambda: bool(ward.inside))
            (number,) = ward.inside
            taken = await stored(number)
            await carry_out(Change(key=taken.key, guard=Guard(), patch={"fence": taken.fence + 1}))
            clock.advance(LEASE / 3)
            await ward.until(lambda: number not in ward.inside)
            taken = await stored(number)
            await carry_out(cancelled(taken, reason=None, by="ann", now=clock.now(), claim_id="ann"))
            return await ward.ended()

    tasks = asyncio.run(main())
    assert sorted(task.status for task in tasks) == [CANCELLED, COMPLETED, COMPLETED]
    check_healed([task for task in tasks if task.status is COMPLETED])
    assert ward.most == 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_that_cannot_be_written_leaves_room_for_others(backend: Backend, clock: FakeClock, kind: str) -> None:
    """The storage takes the result of one of them never, so it is given up; the others are not held up for it."""
    unwritable: set[TaskKey] = set()

    async def refuse(call: PortCall, inner: Inner) -> Any:
        ends = [change.key for change in changes_of(call) if change.patch.get("status") is COMPLETED]
        unwritable.update(ends[: 1 - len(unwritable)])
        if unwritable.intersection(ends):
            raise StoreError("on purpose")
        return await inner()

    ward = Ward(backend, clock, kind, 3).lose_workers()

    async def main() -> list[Task]:
        async with ward.module(tapped(backend, refuse)).worker(concurrency=8):
            return await ward.ended()

    tasks = asyncio.run(main())
    (given_up,) = [task for task in tasks if task.key in unwritable]
    assert (given_up.status, given_up.attempt) == (FAILED, LIMIT)
    check_healed([task for task in tasks if task is not given_up])
    assert ward.most == 1


@pytest.mark.parametrize("kind", KINDS)
def test_messages_that_come_twice_open_no_second_door(backend: Backend, clock: FakeClock, kind: str) -> None:
    """Rule 4. The second claim of the one that is inside is refused, and so it stays inside."""
    ward = Ward(backend, clock, kind, 3).lose_workers()

    async def main() -> list[Task]:
        async with ward.module(tapped(backend, Duplicating())).worker(concurrency=8):
            await ward.until(lambda: bool(ward.inside))
            for _ in range(2):
                clock.advance(LOOK_AGAIN.total_seconds())
                await rounds()
            return await ward.ended()

    check_healed(asyncio.run(main()))
    assert ward.most == 1


@pytest.mark.parametrize("reply_lost", [False, True], ids=["nothing happened", "the reply was lost"])
@pytest.mark.parametrize("kind", [SINGLE, ALONE])
def test_a_store_that_is_busy_at_any_call(kind: str, reply_lost: bool, tmp_path: Path) -> None:
    """Enumerated: whichever call fails, the suspects are run to their end, one at a time."""
    template = tmp_path / "template.db"
    clock = HastyClock()
    backend = open_backend(template, clock)
    ward = Ward(backend, clock, kind, 2).lose_workers()
    backend.close()

    async def fail(number: int) -> bool:
        database = tmp_path / f"{number}.db"
        with closing(sqlite3.connect(template)) as source, closing(sqlite3.connect(database)) as copy:
            source.backup(copy)
        own = HastyClock(clock.now())
        backend = open_backend(database, own)
        tap = FailAt(number, reply_lost=reply_lost)
        patients = ward.taken_over(backend, own)
        async with patients.module(tapped(backend, tap)).worker(concurrency=8):
            tasks = await patients.ended()
        await asyncio.to_thread(backend.close)
        check_healed(tasks)
        assert patients.most == 1
        check_rules(database)
        return tap.at is not None

    points = next(number for number in count() if not asyncio.run(fail(number + 1)))
    print(f"{kind}: {points} failures survived")
    assert points > 8


# --- in processes ----------------------------------------------------------------------------------------------------

BRISK: Final = 5
BRISK_LEASE: Final = 6.0
PATIENT: Final = timedelta(seconds=20)
CONCURRENCY: Final = 8


class BriskClock:
    """A clock that every process shares and that goes faster than the machine's: leases and pauses are soon over."""

    def __init__(self) -> None:
        self._clock = SystemClock()

    def now(self) -> datetime:
        return from_milliseconds(to_milliseconds(self._clock.now()) * BRISK)

    async def wait(self, event: asyncio.Event, until: datetime | None) -> bool:
        if until is not None:
            until = from_milliseconds(-(-to_milliseconds(until) // BRISK))
        return await self._clock.wait(event, until)


def brisk_module(database: Path) -> TaskModule:
    return TaskModule.register(
        settings=Settings(database=database, synchronous="NORMAL", lease_seconds=BRISK_LEASE), clock=BriskClock()
    )


def run_until_all_have_ended(database: Path, keys: Sequence[TaskKey]) -> None:
    """A worker that number 0 kills: in its last attempt at once, before that when the worker has its hands full.

    The others hang, so that they die with it, but in their last attempt they are quick.
    """
    module = brisk_module(database)
    inside, full = 0, asyncio.Event()

    async def handle(event: Event) -> str:
        nonlocal inside
        inside += 1
        if inside == CONCURRENCY:
            full.set()
        clock = BriskClock()
        if event.task.input == 0:
            if event.attempt < LIMIT:
                await clock.wait(full, clock.now() + PATIENT / 2)
            kill_me()
        if event.attempt < LIMIT:
            await clock.wait(asyncio.Event(), clock.now() + PATIENT)
        else:
            await rounds(10)  # time in which others would die with it
        inside -= 1
        return "done"

    module.task("cat")(handle)
    module.step_function_task("cat")(handle)

    async def main() -> None:
        async with module.worker(concurrency=CONCURRENCY):
            await asyncio.gather(*(module.task_service.wait(key) for key in keys))

    asyncio.run(main())
    module.close()


@pytest.mark.parametrize("kind", [SINGLE, ALONE])
def test_only_the_poisonous_one_pays(database: Path, kind: str) -> None:
    """Nine run in one worker, whichever it is; one of them kills it each time, by SIGKILL."""
    module = brisk_module(database)
    tasks = module.sync.task_service
    parent: Task | None = None
    if kind == SINGLE:
        new = [NewTask(tenant_code=TENANT, task_type="cat", input=number) for number in range(9)]
        made = list(tasks.create_tasks(new))
        awaited = [task.key for task in made]
    else:
        parent = tasks.create_step_function_task(tenant_code=TENANT, task_type="cat", input=range(9))
        made = list(tasks.iter_sub_tasks(parent.key))
        awaited = [parent.key]
    module.close()
    deaths = 0
    while killed(run_until_all_have_ended, database, awaited):
        deaths += 1
        assert deaths <= LIMIT, "poison kills workers for ever"
    assert deaths == LIMIT
    poisonous, *innocents = (tasks.get_task(task.key) for task in made)
    assert (poisonous.status, poisonous.attempt) == (FAILED, LIMIT)
    assert poisonous.error is not None
    assert (poisonous.error.type, poisonous.error.message) == ("WorkerDied", "the worker died 3 times")
    assert [(task.status, task.result) for task in innocents] == [(COMPLETED, "done")] * 8
    assert sum(task.lost == LIMIT - 1 for task in innocents) >= 4, "hardly any of them was in danger"
    for task in (poisonous, *innocents):
        check_history(task)
    if parent is not None:
        check_counters(tasks.get_task(parent.key), [poisonous, *innocents])
    module.close()
