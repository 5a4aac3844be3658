"""What goes on while handlers run: leases are renewed, progress is written; and what happens when a claim is lost."""

import asyncio
import logging
import threading
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from taskloom import Retry, StepFunctionTaskEvent, TaskModule, TaskQueueEvent, TaskStatus
from taskloom.errors import StoreBusy
from taskloom.execution.heart import LOOK_EVERY
from taskloom.lifecycle import Change, Claimant, Written, claim, completed
from taskloom.model import Kind, TaskEntity
from taskloom.ports import Backend, QueueAdmin
from taskloom.values import EncodedJson
from tests.support.clock import FakeClock
from tests.support.faults import DEADLINE, Gate, Inner, PortCall, Probe, tapped
from tests.support.scenarios import LEASE, TENANT, Effects, check_history, module_over, open_backend, work

COMPLETED, IN_PROGRESS = TaskStatus.COMPLETED, TaskStatus.IN_PROGRESS
BEAT = LEASE / 3


async def create(backend: Backend, task_type: str = "cat") -> TaskEntity[Any]:
    return await module_over(backend).task_service.create_task(tenant_code=TENANT, task_type=task_type)


async def look(backend: Backend, task: TaskEntity[Any]) -> TaskEntity[Any]:
    return await module_over(backend).task_service.get_task(task.key)


async def beat(clock: FakeClock, probe: Probe) -> None:
    """Let a third of a lease pass, and the heart beat once."""
    before = probe.count("store.update_many")
    clock.advance(BEAT)
    await probe.answered("store.update_many", before + 1)


async def steal(backend: Backend, task: TaskEntity[Any]) -> TaskEntity[Any]:
    """Claim the task as a worker would whose clock says that the lease is over."""
    current = await backend.store.get(task.key)
    assert current is not None
    assert current.lease_until is not None
    thief = Claimant(by="thief", claim_id="stolen", now=current.lease_until, lease=timedelta(seconds=LEASE), max_lost=5)
    change = claim(task.key, current, task.kind, thief)
    assert isinstance(change, Change)
    written = await backend.store.update(change)
    assert isinstance(written, Written)
    assert written.entity is not None
    return written.entity


async def end_as_thief(backend: Backend, stolen: TaskEntity[Any]) -> None:
    text = EncodedJson('[["the thief\'s"]]')
    change = completed(
        stolen, results=text, result_ref=None, progress=None, now=stolen.updated_at, by="thief", claim_id="ended"
    )
    assert isinstance(await backend.store.update(change), Written)


def other_worker(backend: Backend, effects: Effects) -> TaskModule:
    """A second application on the same file."""
    module = module_over(backend)

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> str:
        effects.add("by the other worker")
        return "the other's"

    return module


# --- leases ----------------------------------------------------------------------------------------------------------


def test_a_long_handler_keeps_its_claim(backend: Backend, clock: FakeClock) -> None:
    """Ten beats, more than three leases: nobody else gets the task, nor its message."""
    probe, effects = Probe(), Effects()
    module = module_over(tapped(backend, probe))
    inside, leave = asyncio.Event(), asyncio.Event()

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> str:
        inside.set()
        await leave.wait()
        return "mine"

    async def main() -> None:
        task = await create(backend)
        async with module.worker() as worker:
            await inside.wait()
            for _ in range(10):
                await beat(clock, probe)
                held = await look(backend, task)
                assert held.lease_until == clock.now() + timedelta(seconds=LEASE)
                await work(other_worker(backend, effects))
            leave.set()
            await worker.drain()
        done = await look(backend, task)
        assert (done.status, done.result, done.attempt) == (COMPLETED, "mine", 1)
        assert effects.all == []

    asyncio.run(main())


def test_a_handler_that_blocks_the_event_loop_keeps_its_claim(backend: Backend, clock: FakeClock) -> None:
    """The heart has a thread of its own. The worker's loop stands still, in a thread, while time passes."""
    probe, effects = Probe(), Effects()
    module = module_over(tapped(backend, probe))
    inside, leave = threading.Event(), threading.Event()

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> str:
        inside.set()
        assert leave.wait(DEADLINE)
        return "mine"

    thread = threading.Thread(target=lambda: asyncio.run(work(module)))

    async def main() -> None:
        task = await create(backend)
        thread.start()
        assert await asyncio.to_thread(inside.wait, DEADLINE)
        for _ in range(6):
            await beat(clock, probe)
            await work(other_worker(backend, effects))
        leave.set()
        await asyncio.to_thread(thread.join, DEADLINE)
        done = await look(backend, task)
        assert (done.result, done.attempt) == ("mine", 1)
        assert effects.all == []

    asyncio.run(main())


def test_a_lease_that_is_not_renewed_runs_out(backend: Backend, clock: FakeClock) -> None:
    """The counterpart: without a beat the other worker takes over, and the late result of the first one is dropped."""

    async def no_heart(call: PortCall, inner: Inner) -> Any:
        if call.name in ("queue.extend", "store.update_many"):
            raise StoreBusy("on purpose")
        return await inner()

    effects = Effects()
    module = module_over(tapped(backend, no_heart))
    inside, leave = asyncio.Event(), asyncio.Event()

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> str:
        inside.set()
        await leave.wait()
        return "too late"

    async def main() -> None:
        task = await create(backend)
        async with module.worker(concurrency=1):  # so that it does not take over from itself
            await inside.wait()
            clock.advance(LEASE)
            await work(other_worker(backend, effects))
            leave.set()
        done = await look(backend, task)
        assert (done.status, done.result, done.attempt) == (COMPLETED, "the other's", 2)
        check_history(done)

    asyncio.run(main())


def test_the_heart_survives_a_busy_store(backend: Backend, clock: FakeClock) -> None:
    """One beat is lost; the next one comes soon, well before the lease is over."""
    probe = Probe()
    fails = True

    async def busy(call: PortCall, inner: Inner) -> Any:
        nonlocal fails
        if fails and call.name == "queue.extend":
            fails = False
            raise StoreBusy("on purpose")
        return await inner()

    module = module_over(tapped(tapped(backend, busy), probe))
    inside, leave = asyncio.Event(), asyncio.Event()

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> str:
        inside.set()
        await leave.wait()
        return "mine"

    async def main() -> None:
        task = await create(backend)
        async with module.worker() as worker:
            await inside.wait()
            clock.advance(BEAT)
            await probe.until(lambda: len(probe.named("queue.extend")) >= 1)
            async with asyncio.timeout(DEADLINE):
                while not probe.count("store.update_many"):
                    clock.advance(0.5)
                    await asyncio.to_thread(lambda: None)
            renewed = (await look(backend, task)).lease_until
            assert renewed is not None
            assert renewed > task.created_at + timedelta(seconds=LEASE)
            leave.set()
            await worker.drain()
        assert (await look(backend, task)).result == "mine"

    asyncio.run(main())


def test_many_leases_are_renewed_with_one_write(backend: Backend, clock: FakeClock) -> None:
    """Also those of a chunk's sub-tasks."""
    probe = Probe()
    module = module_over(tapped(backend, probe))
    everybody, leave = asyncio.Barrier(6 + 1), asyncio.Event()

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        await everybody.wait()
        await leave.wait()

    @module.step_function_task("cat")
    async def cats(event: StepFunctionTaskEvent) -> None:
        await everybody.wait()
        await leave.wait()

    async def main() -> None:
        tasks = [await create(backend) for _ in range(3)]
        parent = await module.task_service.create_step_function_task(
            tenant_code=TENANT, task_type="cat", input=range(3)
        )
        async with module.worker(concurrency=6) as worker:
            async with asyncio.timeout(DEADLINE):
                await everybody.wait()
            before = len(probe.named("store.update_many"))
            await beat(clock, probe)
            assert len(probe.named("store.update_many")) == before + 1
            until = clock.now() + timedelta(seconds=LEASE)
            for task in tasks:
                assert (await look(backend, task)).lease_until == until
            async for sub in module.task_service.iter_sub_tasks(parent.key):
                assert sub.lease_until == until
            leave.set()
            await worker.drain()

    asyncio.run(main())


def test_a_message_that_is_released_stays_released(backend: Backend, clock: FakeClock) -> None:
    """The heart was about to extend it: that must not hide the message again, from this worker or another one."""
    released = False

    async def note(call: PortCall, inner: Inner) -> Any:
        nonlocal released
        released |= call.name == "queue.release"
        return await inner()

    extend = Gate(lambda call: call.name == "queue.extend")
    receive = Gate(lambda call: call.name == "queue.receive" and released)
    probe = Probe()
    module = module_over(tapped(tapped(tapped(tapped(backend, probe), extend), receive), note))
    inside, leave = asyncio.Event(), asyncio.Event()

    @module.task("cat", retry=Retry(max_attempts=2, initial=0))
    async def cat(event: TaskQueueEvent) -> int:
        if event.attempt == 1:
            inside.set()
            await leave.wait()
            raise ValueError("again, at once")
        return event.attempt

    async def main() -> None:
        task = await create(backend)
        async with module.worker() as worker:
            await inside.wait()
            clock.advance(BEAT)
            await extend.held()
            leave.set()
            for _ in range(20):  # a release that does not wait for the extension is through now
                await asyncio.to_thread(lambda: None)
            extend.open()
            await probe.answered("queue.extend", 1)
            await probe.answered("queue.release", 1)
            receive.open()
            async with asyncio.timeout(DEADLINE):
                await worker.drain()
            done = await look(backend, task)
            assert (done.status, done.attempt) == (COMPLETED, 2), "its message is hidden for the rest of a lease"

    asyncio.run(main())


async def beats(backend: Backend, clock: FakeClock, number: int) -> None:
    """Let third parts of a lease pass; after each the worker that runs says that it lives."""
    for _ in range(number):
        clock.advance(BEAT)
        async with asyncio.timeout(DEADLINE):
            while not await backend.admin.workers(clock.now()):
                pass


class Counting(FakeClock):
    """A clock that knows how often somebody asked it to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0

    async def wait(self, event: asyncio.Event, until: datetime | None) -> bool:
        self.waits += 1
        return await super().wait(event, until)


def test_between_two_beats_the_heart_sleeps(database: Path) -> None:
    """While no time passes it does nothing, though a handler runs and has said how far it is."""
    clock = Counting()
    backend = open_backend(database, clock)
    module = module_over(backend)
    inside, leave = asyncio.Event(), asyncio.Event()

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        event.progress(1)
        inside.set()
        await leave.wait()

    async def rounds() -> None:
        for _ in range(50):
            await asyncio.to_thread(lambda: None)

    async def main() -> None:
        await create(backend)
        async with module.worker() as worker:
            await inside.wait()
            await beats(backend, clock, 2)
            await rounds()  # for what follows on the last beat
            before = clock.waits
            await rounds()
            assert clock.waits == before
            leave.set()
            await worker.drain()

    asyncio.run(main())
    backend.close()


def test_the_heart_holds_no_message_that_is_done_with(backend: Backend, clock: FakeClock) -> None:
    """Whatever it was about: a task, a step of a fan-out, or what failed."""
    probe = Probe()
    module = module_over(tapped(backend, probe))

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        if event.task.input == "raises":
            raise ValueError

    @module.step_function_task("cat", chunk_size=2)
    async def cats(event: StepFunctionTaskEvent) -> None:
        pass

    async def main() -> None:
        tasks = module.task_service
        async with module.worker() as worker:
            await create(backend)
            await tasks.create_task(tenant_code=TENANT, task_type="cat", input="raises")
            await tasks.create_step_function_task(tenant_code=TENANT, task_type="cat", input=range(5))
            await worker.drain()
            await beats(backend, clock, 2)
            assert probe.named("queue.extend") == []

    asyncio.run(main())


def test_the_thread_of_the_heart_ends_with_its_worker(backend: Backend) -> None:
    module = module_over(backend)
    module.task("cat")(lambda event: None)

    def hearts() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "taskloom-heart"}

    async def main() -> None:
        before = hearts()
        async with module.worker() as worker:
            await worker.drain()
            assert len(hearts() - before) == 1
        assert hearts() <= before

    asyncio.run(main())


# --- lost claims -----------------------------------------------------------------------------------------------------


def test_a_handler_whose_claim_is_lost_is_cancelled(
    backend: Backend, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Rule 2: it loses its result too, and that is logged. What the thief wrote stays."""
    probe = Probe()
    module = module_over(tapped(backend, probe))
    inside = asyncio.Event()
    seen: list[Any] = []

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> str:
        inside.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(event.cancelled)
            raise
        return "never"

    async def main() -> None:
        task = await create(backend)
        async with module.worker() as worker:
            await inside.wait()
            stolen = await steal(backend, task)
            await end_as_thief(backend, stolen)
            await beat(clock, probe)
            async with asyncio.timeout(DEADLINE):
                await worker.drain()
        done = await look(backend, task)
        assert (done.result, done.history[-1].by) == ("the thief's", "thief")

    with caplog.at_level(logging.WARNING, "taskloom"):
        asyncio.run(main())
    assert seen == [True]
    assert "the claim was lost" in caplog.text


def test_a_handler_that_does_not_care_loses_its_result_all_the_same(
    backend: Backend, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It swallows the cancellation and returns: nothing is written."""
    probe = Probe()
    module = module_over(tapped(backend, probe))
    inside = asyncio.Event()

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> str:
        inside.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "stubborn"
        return "never"

    async def main() -> None:
        task = await create(backend)
        async with module.worker() as worker:
            await inside.wait()
            stolen = await steal(backend, task)
            await end_as_thief(backend, stolen)
            before = await look(backend, task)
            await beat(clock, probe)
            async with asyncio.timeout(DEADLINE):
                await worker.drain()
        assert await look(backend, task) == before

    with caplog.at_level(logging.WARNING, "taskloom"):
        asyncio.run(main())
    assert "the claim was lost" in caplog.text


@pytest.mark.parametrize("noticed", [True, False], ids=["noticed by the heart", "noticed at the end"])
def test_the_late_result_of_a_thread_is_refused(
    backend: Backend, clock: FakeClock, caplog: pytest.LogCaptureFixture, noticed: bool
) -> None:
    """A thread cannot be stopped; what it comes to is dropped, and logged."""
    probe = Probe()
    module = module_over(tapped(backend, probe))
    inside, leave = threading.Event(), threading.Event()

    @module.task("cat")
    def cat(event: TaskQueueEvent) -> str:
        inside.set()
        assert leave.wait(DEADLINE)
        return "too late"

    async def main() -> None:
        task = await create(backend)
        async with module.worker() as worker:
            assert await asyncio.to_thread(inside.wait, DEADLINE)
            stolen = await steal(backend, task)
            await end_as_thief(backend, stolen)
            before = await look(backend, task)
            if noticed:
                await beat(clock, probe)
                async with asyncio.timeout(DEADLINE):
                    await worker.drain()
            leave.set()
            async with asyncio.timeout(DEADLINE):
                await worker.drain()
        assert await look(backend, task) == before

    with caplog.at_level(logging.WARNING, "taskloom"):
        asyncio.run(main())
    assert "the claim was lost" in caplog.text


def test_a_sub_task_whose_claim_is_lost_is_looked_at_again(backend: Backend, clock: FakeClock) -> None:
    """Its chunk ends all the same, with what the thief wrote, and the counters are right."""
    probe = Probe()
    module = module_over(tapped(backend, probe))
    inside = asyncio.Event()

    @module.step_function_task("cat", chunk_size=3)
    async def cat(event: StepFunctionTaskEvent) -> str:
        if event.task.index == 1:
            inside.set()
            await asyncio.Event().wait()
        return "mine"

    async def main() -> None:
        parent = await module.task_service.create_step_function_task(
            tenant_code=TENANT, task_type="cat", input=range(3)
        )
        async with module.worker() as worker:
            await inside.wait()
            subs = [sub async for sub in module.task_service.iter_sub_tasks(parent.key)]
            stolen = await steal(backend, subs[1])
            await end_as_thief(backend, stolen)
            await beat(clock, probe)
            async with asyncio.timeout(DEADLINE):
                while not (await look(backend, parent)).is_terminal:
                    await worker.drain()
                    clock.advance(1)
        subs = [sub async for sub in module.task_service.iter_sub_tasks(parent.key)]
        assert [sub.result for sub in subs] == ["mine", "the thief's", "mine"]
        done = await look(backend, parent)
        assert (done.status, done.attributes.sub_task_succeed_count) == (COMPLETED, 3)

    asyncio.run(main())


@pytest.mark.parametrize("kind", [Kind.TASK, Kind.SUB_TASK])
def test_a_handler_is_told_within_a_second_that_it_was_cancelled(
    backend: Backend, clock: FakeClock, kind: Kind
) -> None:
    """As promised; in virtual time, so that no other beat tells it."""
    module = module_over(backend)
    inside, told = asyncio.Event(), asyncio.Event()

    async def handle(event: TaskQueueEvent | StepFunctionTaskEvent) -> None:
        inside.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.set()
            raise

    module.task("cat")(handle)
    module.step_function_task("cat")(handle)

    async def main() -> None:
        tasks = module.task_service
        if kind is Kind.TASK:
            task = await tasks.create_task(tenant_code=TENANT, task_type="cat")
        else:
            task = await tasks.create_step_function_task(tenant_code=TENANT, task_type="cat", input=[1])
        async with module.worker() as worker, asyncio.timeout(DEADLINE):
            await inside.wait()
            await tasks.cancel_task(task.key)
            assert timedelta() < LOOK_EVERY < timedelta(seconds=1)
            clock.advance(LOOK_EVERY.total_seconds())
            await told.wait()
            await worker.drain()
        assert (await look(backend, task)).status is TaskStatus.CANCELLED

    asyncio.run(main())


# --- progress --------------------------------------------------------------------------------------------------------


def progress_written(probe: Probe) -> list[float]:
    """What was written of progress while handlers ran."""
    changes = [change for call in probe.named("store.update_many") for change in call.args[0]]
    return [change.patch["progress"].done for change in changes if set(change.patch) == {"progress", "updated_at"}]


@pytest.mark.parametrize("task_type", ["async", "sync"])
def test_progress_is_written_at_most_once_a_second_and_always_the_last(
    backend: Backend, clock: FakeClock, task_type: str
) -> None:
    probe = Probe()
    module = module_over(tapped(backend, probe))
    report, reported = threading.Semaphore(0), threading.Semaphore(0)

    def steps(event: TaskQueueEvent) -> None:
        """Each time the test says so, a hundred reports."""
        done = 0
        for _ in range(3):
            assert report.acquire(timeout=DEADLINE)
            for _ in range(100):
                done += 1
                event.progress(done, 1000, f"step {done}")
            reported.release()
        assert report.acquire(timeout=DEADLINE)
        event.progress(999, 1000, "the last")

    @module.task("async")
    async def in_the_loop(event: TaskQueueEvent) -> None:
        await asyncio.to_thread(steps, event)

    @module.task("sync")
    def in_a_thread(event: TaskQueueEvent) -> None:
        steps(event)

    async def main() -> None:
        task = await create(backend, task_type)
        async with module.worker() as worker:
            for number in range(1, 4):
                report.release()
                assert await asyncio.to_thread(reported.acquire, timeout=DEADLINE)
                if number > 1:
                    # A second has not passed: nothing is written, however often the heart is asked.
                    assert len(progress_written(probe)) == number - 1
                    clock.advance(1)
                await probe.until(lambda number=number: len(progress_written(probe)) >= number)  # type: ignore[misc]
                await probe.answered("store.update_many", number)
                running = await look(backend, task)
                assert running.progress is not None
                if number > 1:
                    assert (running.progress.done, running.progress.message) == (100 * number, f"step {100 * number}")
            report.release()
            await worker.drain()
        assert len(progress_written(probe)) == 3
        done = await look(backend, task)
        assert done.progress is not None
        assert (done.progress.done, done.progress.total, done.progress.message) == (999, 1000, "the last")
        assert done.seconds_left == 0

    asyncio.run(main())


@pytest.mark.parametrize("ends", ["well", "badly", "for now"])
def test_the_last_progress_is_written_with_the_end(backend: Backend, ends: str) -> None:
    """However the attempt ends: one write holds both."""
    module = module_over(backend)

    @module.task("cat", retry=Retry(max_attempts=2 if ends == "for now" else 1, initial=60, jitter=False))
    async def cat(event: TaskQueueEvent) -> None:
        event.progress(1, 2)
        event.progress(2, 2, "nearly")
        if ends != "well":
            raise ValueError

    async def main() -> None:
        task = await create(backend)
        await work(module)
        done = await look(backend, task)
        assert done.progress is not None
        assert (done.progress.done, done.progress.message) == (2, "nearly")

    asyncio.run(main())


def test_progress_of_sub_tasks(backend: Backend) -> None:
    module = module_over(backend)

    @module.step_function_task("cat", chunk_size=2)
    def cat(event: StepFunctionTaskEvent) -> None:
        event.progress(event.task.input)

    async def main() -> None:
        parent = await module.task_service.create_step_function_task(
            tenant_code=TENANT, task_type="cat", input=range(4)
        )
        await work(module)
        subs = [sub async for sub in module.task_service.iter_sub_tasks(parent.key)]
        assert [sub.progress and sub.progress.done for sub in subs] == [0, 1, 2, 3]
        assert all(sub.kind is Kind.SUB_TASK for sub in subs)

    asyncio.run(main())


def test_progress_after_the_end_is_not_written(backend: Backend, clock: FakeClock) -> None:
    """A thread that was left behind goes on reporting: the task is not its any more."""
    probe = Probe()
    module = module_over(tapped(backend, probe))
    inside, leave, left = threading.Event(), threading.Event(), threading.Event()

    @module.task("cat", timeout=5)
    def cat(event: TaskQueueEvent) -> None:
        event.progress(1)
        inside.set()
        assert leave.wait(DEADLINE)
        event.progress(2)
        left.set()

    async def main() -> None:
        task = await create(backend)
        async with module.worker() as worker:
            assert await asyncio.to_thread(inside.wait, DEADLINE)
            clock.advance(5)
            async with asyncio.timeout(DEADLINE):
                await worker.drain()
            before = await look(backend, task)
            assert before.status is TaskStatus.FAILED
            leave.set()
            assert await asyncio.to_thread(left.wait, DEADLINE)
            clock.advance(BEAT)
            await work(module)
        assert await look(backend, task) == before

    asyncio.run(main())


# --- signs of life ---------------------------------------------------------------------------------------------------


def test_a_worker_is_seen_while_it_lives_and_no_longer(backend: Backend, clock: FakeClock) -> None:
    """Also one whose handlers log, which makes it write in between; and it names what it runs."""
    module = module_over(backend)
    inside, leave = asyncio.Event(), asyncio.Event()

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        logging.getLogger("app").warning("still here")
        inside.set()
        await leave.wait()

    async def main() -> None:
        task = await create(backend)
        began = clock.now()
        async with module.worker(concurrency=3) as worker, asyncio.timeout(DEADLINE):
            await inside.wait()
            for _ in range(3):
                clock.advance(10)
                while [facts.seen_at for facts in await backend.admin.workers(began)] != [clock.now()]:
                    await asyncio.to_thread(lambda: None)
                (facts,) = await backend.admin.workers(began)
                assert (facts.name, facts.started_at, facts.concurrency) == (worker.name, began, 3)
                assert facts.running == [task.id]
            leave.set()
            await worker.drain()
        assert await backend.admin.workers(began) == []

    asyncio.run(main())


def test_a_worker_that_cannot_sign_off_ends_all_the_same(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """It is not seen again, which tells the same a little later; its tasks are done."""

    class Unreachable:
        def __getattr__(self, name: str) -> Any:
            return getattr(backend.admin, name)

        async def leave(self, name: str) -> None:
            raise StoreBusy("on purpose")

    module = module_over(replace(backend, admin=cast(QueueAdmin, Unreachable())))
    module.task("job")(lambda event: "done")

    async def main() -> None:
        made = await module.task_service.create_task(tenant_code=TENANT, task_type="job")
        await work(module)
        assert (await module.task_service.get_task(made.key)).result == "done"

    asyncio.run(main())
    assert "the worker could not be signed off" in caplog.text
