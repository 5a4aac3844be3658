"""The worker's loop: how many handlers at a time, what drain waits for, and how it stops."""

import asyncio
import threading
from typing import Any

import pytest

from taskloom import (
    EventFactoryAddedTask,
    NewTask,
    Retry,
    StepFunctionTaskEvent,
    TaskModule,
    TaskQueueEvent,
    TaskStatus,
    current,
)
from taskloom.execution.worker import Worker
from taskloom.model import TaskEntity
from taskloom.ports import Backend, MessageKind
from tests.support.clock import FakeClock
from tests.support.faults import DEADLINE, Gate, Inner, PortCall, tapped
from tests.support.scenarios import LEASE, TENANT, Effects, check_counters, check_history, module_over, work

PENDING, IN_PROGRESS = TaskStatus.PENDING, TaskStatus.IN_PROGRESS
COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED


class Gauge:
    """How many are inside, and how many were at most; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = 0
        self.most = 0

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.now -= 1


async def create(module: TaskModule, number: int = 1, task_type: str = "cat") -> list[TaskEntity[Any]]:
    new = [NewTask(tenant_code=TENANT, task_type=task_type, input=index) for index in range(number)]
    return list(await module.task_service.create_tasks(new))


async def rounds(number: int) -> None:
    """Give everybody who could do something the time to do it, some times over."""
    for _ in range(number):
        await asyncio.to_thread(lambda: None)


async def look(module: TaskModule, task: TaskEntity[Any]) -> TaskEntity[Any]:
    return await module.task_service.get_task(task.key)


# --- concurrency -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3])
def test_so_many_handlers_run_at_a_time_and_no_more(backend: Backend, concurrency: int) -> None:
    """Each waits until as many as allowed are in: with fewer at a time the test would hang, with more it fails."""
    module, gauge = module_over(backend), Gauge()
    full = asyncio.Barrier(concurrency)

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        with gauge:
            await full.wait()

    async def main() -> None:
        await create(module, 4 * concurrency)
        async with asyncio.timeout(DEADLINE):
            await work(module, concurrency)

    asyncio.run(main())
    assert gauge.most == concurrency


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_no_handler_more_begins_while_as_many_as_allowed_run(backend: Backend, ends: str) -> None:
    """However many batches came before: a slot that is given back twice would let more in, for good."""
    module, gauge = module_over(backend), Gauge()
    entered, leave = asyncio.Semaphore(0), asyncio.Semaphore(0)

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        with gauge:
            entered.release()
            await leave.acquire()
            if ends == "badly":
                raise ValueError

    async def main() -> None:
        await create(module, 15)
        async with module.worker(concurrency=3) as worker, asyncio.timeout(DEADLINE):
            for _ in range(5):
                for _ in range(3):
                    await entered.acquire()
                await rounds(20)
                assert gauge.now == 3
                for _ in range(3):
                    leave.release()
            await worker.drain()

    asyncio.run(main())
    assert gauge.most == 3


def test_threads_count_as_handlers(backend: Backend) -> None:
    module, gauge = module_over(backend), Gauge()
    full = threading.Barrier(3, timeout=DEADLINE)

    @module.task("cat")
    def cat(event: TaskQueueEvent) -> None:
        with gauge:
            full.wait()

    async def main() -> None:
        tasks = await create(module, 12)
        await work(module, 3)
        for task in tasks:
            assert (await look(module, task)).status is COMPLETED

    asyncio.run(main())
    assert gauge.most == 3


def test_sub_tasks_of_a_chunk_take_slots_too(backend: Backend) -> None:
    """`chunk_concurrency` is no way around the limit of the worker."""
    module, gauge = module_over(backend), Gauge()

    @module.step_function_task("cat", chunk_size=4, chunk_concurrency=4)
    def cat(event: StepFunctionTaskEvent) -> None:
        with gauge:
            threading.Event().wait(0.002)  # long enough for others to come in, if they may

    async def main() -> None:
        await module.task_service.create_step_function_task(tenant_code=TENANT, task_type="cat", input=range(24))
        await work(module, 3)

    asyncio.run(main())
    assert 1 <= gauge.most <= 3


def test_a_slot_is_not_given_twice_while_the_queue_answers(backend: Backend) -> None:
    """The queue is asked for one message while there is one slot; until it answers a chunk must not take that slot."""
    chunk_came = False

    async def seen(call: PortCall, inner: Inner) -> Any:
        nonlocal chunk_came
        answer = await inner()
        if call.name == "queue.receive":
            chunk_came |= any(delivery.kind is MessageKind.CHUNK for delivery in answer)
        return answer

    gate = Gate(lambda call: call.name == "queue.receive" and chunk_came)
    step = Gate(lambda call: call.name == "store.get" and chunk_came)
    module, gauge = module_over(tapped(tapped(tapped(backend, seen), gate), step)), Gauge()
    inside, leave = asyncio.Event(), asyncio.Event()

    @module.step_function_task("cat", chunk_size=2, chunk_concurrency=2)
    async def cats(event: StepFunctionTaskEvent) -> None:
        with gauge:
            inside.set()
            await leave.wait()

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        with gauge:
            await leave.wait()

    async def main() -> None:
        await module.task_service.create_step_function_task(tenant_code=TENANT, task_type="cat", input=range(2))
        async with module.worker(concurrency=2) as worker, asyncio.timeout(DEADLINE):
            await step.held()
            await create(module, 3)
            await gate.held()
            step.open()
            await inside.wait()
            await rounds(20)
            gate.open()
            await rounds(20)
            leave.set()
            await worker.drain()

    asyncio.run(main())
    assert gauge.most == 2


def test_slots_that_lanes_took_come_back(backend: Backend) -> None:
    """After some fan-outs as many single tasks as ever run beside each other."""
    module = module_over(backend)
    everybody = asyncio.Barrier(3)

    @module.step_function_task("cat", chunk_size=6, chunk_concurrency=3)
    async def cats(event: StepFunctionTaskEvent) -> None:
        await asyncio.to_thread(lambda: None)
        if event.task.index == 4:
            raise ValueError

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        await everybody.wait()

    async def main() -> None:
        async with module.worker(concurrency=3) as worker, asyncio.timeout(DEADLINE):
            for _ in range(3):
                await module.task_service.create_step_function_task(tenant_code=TENANT, task_type="cat", input=range(6))
                await worker.drain()
            await create(module, 3)
            await worker.drain()

    asyncio.run(main())


def test_sub_tasks_are_really_parallel(backend: Backend) -> None:
    """Six that wait for each other complete."""
    module = module_over(backend)
    everybody = asyncio.Barrier(6)

    @module.step_function_task("cat")
    async def cat(event: StepFunctionTaskEvent) -> None:
        await everybody.wait()

    async def main() -> None:
        parent = await module.task_service.create_step_function_task(
            tenant_code=TENANT, task_type="cat", input=range(6)
        )
        async with asyncio.timeout(DEADLINE):
            await work(module, 6)
        assert (await look(module, parent)).status is COMPLETED

    asyncio.run(main())


@pytest.mark.parametrize(
    ("options", "most"),
    [({"max_concurrency": 2}, 2), ({"max_concurrency": 2, "chunk_size": 6, "chunk_concurrency": 6}, 2)],
    ids=["chunks", "within a chunk"],
)
def test_a_fan_out_keeps_to_its_own_limit(backend: Backend, options: dict[str, Any], most: int) -> None:
    """`max_concurrency` counts running sub-tasks, however much room the worker has."""
    module, gauge = module_over(backend), Gauge()
    full = asyncio.Barrier(most)

    @module.step_function_task("cat", **options)
    async def cat(event: StepFunctionTaskEvent) -> None:
        with gauge:
            async with asyncio.timeout(DEADLINE):
                await full.wait()

    async def main() -> None:
        await module.task_service.create_step_function_task(tenant_code=TENANT, task_type="cat", input=range(12))
        await work(module, 10)

    asyncio.run(main())
    assert gauge.most == most


class Choosy(EventFactoryAddedTask):
    """Drops messages of tasks whose input is "dropped"."""

    async def transform_sqs(self, event: Any) -> Any:
        return [event for event in await super().transform_sqs(event) if event.task.input != "dropped"]


def test_a_slot_is_free_again_whatever_became_of_the_handler(backend: Backend) -> None:
    """With one slot, each way to end in its turn, and a good task after it."""
    module = module_over(backend, event_factory=Choosy())
    effects = Effects()

    @module.task("cat", retry=Retry(max_attempts=2, initial=100))
    async def cat(event: TaskQueueEvent) -> Any:
        match event.task.input:
            case "raises":
                raise ValueError
            case "exits":
                raise SystemExit(1)
            case "is cancelled":
                raise asyncio.CancelledError
            case "returns what cannot be stored":
                return object()
            case "creates a fan-out nobody serves":
                await module.task_service.create_step_function_task(tenant_code=TENANT, task_type="dog", input=[1])
        effects.add(event.task.input)
        return None

    async def main() -> None:
        ways = [
            "raises",
            "exits",
            "is cancelled",
            "returns what cannot be stored",
            "dropped",
            "creates a fan-out nobody serves",
        ]
        async with module.worker(concurrency=1) as worker:
            for way in ways:
                await module.task_service.create_task(tenant_code=TENANT, task_type="cat", input=way)
                await module.task_service.create_task(tenant_code=TENANT, task_type="cat", input=f"after {way}")
                async with asyncio.timeout(DEADLINE):
                    await worker.drain()
                assert f"after {way}" in effects.all

    asyncio.run(main())


# --- drain -----------------------------------------------------------------------------------------------------------


def test_drain_returns_at_once_when_there_is_nothing(backend: Backend) -> None:
    module = module_over(backend)
    module.task("cat")(lambda event: None)

    async def main() -> None:
        async with module.worker() as worker, asyncio.timeout(DEADLINE):
            await worker.drain()
            await worker.drain()

    asyncio.run(main())


def test_drain_waits_for_what_handlers_create(backend: Backend) -> None:
    """A chain of ten, each created by the one before."""
    module, effects = module_over(backend), Effects()

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        effects.add(event.task.input)
        if event.task.input < 9:
            await module.task_service.create_task(tenant_code=TENANT, task_type="cat", input=event.task.input + 1)

    async def main() -> None:
        await module.task_service.create_task(tenant_code=TENANT, task_type="cat", input=0)
        await work(module)

    asyncio.run(main())
    assert effects.all == list(range(10))


def test_drain_does_not_wait_for_the_next_attempt(backend: Backend, clock: FakeClock) -> None:
    module = module_over(backend)

    @module.task("cat", retry=Retry(max_attempts=2, initial=10, jitter=False))
    async def cat(event: TaskQueueEvent) -> int:
        if event.attempt == 1:
            raise ValueError
        return event.attempt

    async def main() -> None:
        (task,) = await create(module)
        async with module.worker() as worker:
            async with asyncio.timeout(DEADLINE):
                await worker.drain()
            waiting = await look(module, task)
            assert waiting.status is PENDING
            assert waiting.next_attempt_at is not None
            clock.advance(10)
            await worker.drain()
            assert (await look(module, task)).result == 2

    asyncio.run(main())


def test_drain_does_not_wait_for_tasks_of_others(backend: Backend) -> None:
    """What another worker runs, and what nobody here serves."""
    module = module_over(backend)
    inside, leave = asyncio.Event(), asyncio.Event()

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        inside.set()
        await leave.wait()

    async def main() -> None:
        await create(module)
        await create(module, task_type="dog")
        async with module.worker(concurrency=1):
            await inside.wait()
            async with module.worker() as other, asyncio.timeout(DEADLINE):
                await other.drain()
            leave.set()

    asyncio.run(main())


def test_drain_waits_for_what_became_due_while_it_looked(backend: Backend, clock: FakeClock) -> None:
    """The time of a retry comes just when drain, with an idle worker, asks whether anything is due.

    The worker is faster and has taken the record already: nothing is due any more, and yet the worker is not done.
    """
    entered, leave = asyncio.Event(), asyncio.Event()
    armed = False
    calls = 0

    class Slow(EventFactoryAddedTask):
        async def transform_dynamodb_stream(self, event: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise ValueError("not now")
            entered.set()
            await leave.wait()
            return await super().transform_dynamodb_stream(event)

    async def tap(call: PortCall, inner: Inner) -> Any:
        nonlocal armed
        if armed and call.name == "stream.next_due":
            armed = False
            clock.advance(1)
            await entered.wait()
            answer = await inner()
            assert answer is None or answer > clock.now()
            asyncio.get_running_loop().call_soon(leave.set)
            return answer
        return await inner()

    module = module_over(tapped(backend, tap), event_factory=Slow())
    module.task("cat")(lambda event: None)

    async def main() -> None:
        nonlocal armed
        (task,) = await create(module)
        async with module.worker() as worker:
            await worker.drain()
            armed = True
            async with asyncio.timeout(DEADLINE):
                await worker.drain()
            assert not armed
            assert (await look(module, task)).status is COMPLETED

    asyncio.run(main())


# --- stop ------------------------------------------------------------------------------------------------------------


async def serve(worker: Worker) -> None:
    """The whole life of a worker, as a program has it."""
    async with worker:
        await worker.run()


async def grace_over(running: asyncio.Task[None], clock: FakeClock) -> None:
    """Let time pass until the worker, which was stopped, has ended; hardly longer than its grace time."""
    async with asyncio.timeout(DEADLINE):
        while not running.done():
            clock.advance(1)
            await rounds(3)
    await running


def test_a_worker_that_stops_lets_running_handlers_finish(backend: Backend) -> None:
    """And claims nothing more, though there is more."""
    module, effects = module_over(backend), Effects()
    inside, leave = asyncio.Event(), asyncio.Event()

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> str:
        effects.add(event.task.input)
        inside.set()
        await leave.wait()
        return "done"

    async def main() -> None:
        first, second = await create(module, 2)
        async with module.worker(concurrency=1) as worker:
            await inside.wait()
            worker.stop()
            leave.set()
        assert effects.all == [0]
        assert (await look(module, first)).result == "done"
        waiting = await look(module, second)
        assert (waiting.status, waiting.attempt) == (PENDING, 0)
        await work(module)
        assert (await look(module, second)).status is COMPLETED

    asyncio.run(main())


@pytest.mark.parametrize("task_type", ["async", "sync"])
def test_what_does_not_finish_in_time_is_given_back(backend: Backend, clock: FakeClock, task_type: str) -> None:
    """The attempt does not count, the next worker runs the task at once, and a late result is dropped."""
    module = module_over(backend, grace=10)
    inside, leave, seen_something = threading.Event(), threading.Event(), threading.Event()
    seen: list[bool] = []
    stops = True

    @module.task("async")
    async def waits(event: TaskQueueEvent) -> int:
        inside.set()
        if stops:
            try:
                await asyncio.Event().wait()
            finally:
                seen.append(event.cancelled)
                seen_something.set()
        return event.attempt

    @module.task("sync")
    def blocks(event: TaskQueueEvent) -> Any:
        inside.set()
        if stops:
            assert leave.wait(DEADLINE)
            seen.append(event.cancelled)
            seen_something.set()
            return "too late"
        return event.attempt

    async def main() -> None:
        nonlocal stops
        (task,) = await create(module, task_type=task_type)
        worker = module.worker()
        running = asyncio.create_task(serve(worker))
        assert await asyncio.to_thread(inside.wait, DEADLINE)
        worker.stop()
        await grace_over(running, clock)
        given_back = await look(module, task)
        assert (given_back.status, given_back.attempt, given_back.lease_until) == (PENDING, 0, None)
        assert given_back.history[-1].reason == "the worker stopped"
        stops = False
        await work(module)
        done = await look(module, task)
        assert (done.status, done.result, done.attempt) == (COMPLETED, 1, 1)
        assert [entry.status for entry in done.history] == [PENDING, IN_PROGRESS, PENDING, IN_PROGRESS, COMPLETED]
        check_history(done)
        leave.set()
        await asyncio.to_thread(seen_something.wait, DEADLINE)
        assert seen == [True], "a handler can see that it is on its own"
        await work(module)
        assert await look(module, task) == done

    asyncio.run(main())


def test_a_stopping_worker_gives_back_the_sub_tasks_it_runs(backend: Backend, clock: FakeClock) -> None:
    """And starts no further one of the chunk; the next worker ends the chunk, and every sub-task has counted once."""
    module, effects = module_over(backend, grace=10), Effects()
    inside = asyncio.Event()
    stops = True

    @module.step_function_task("cat", chunk_size=6)
    async def cat(event: StepFunctionTaskEvent) -> int:
        effects.add(event.task.index)
        if stops and event.task.input == 2:
            inside.set()
            await asyncio.Event().wait()
        return event.attempt

    async def main() -> None:
        nonlocal stops
        parent = await module.task_service.create_step_function_task(
            tenant_code=TENANT, task_type="cat", input=range(6)
        )
        worker = module.worker(concurrency=1)
        running = asyncio.create_task(serve(worker))
        await inside.wait()
        worker.stop()
        await grace_over(running, clock)
        assert effects.all == [0, 1, 2]
        stops = False
        await work(module)
        done = await look(module, parent)
        assert done.status is COMPLETED
        assert effects.all == [0, 1, 2, 2, 3, 4, 5]
        subs = [sub async for sub in module.task_service.iter_sub_tasks(parent.key)]
        assert [sub.result for sub in subs] == [1] * 6
        check_counters(done, subs)

    asyncio.run(main())


def test_a_worker_that_stops_between_two_sub_tasks_leaves_the_others(backend: Backend) -> None:
    """The chunk has not ended, though all that ran of it has: the next worker runs the rest, and counts all."""
    module, effects = module_over(backend), Effects()

    async def main() -> None:
        parent = await module.task_service.create_step_function_task(
            tenant_code=TENANT, task_type="cat", input=range(6)
        )
        async with module.worker(concurrency=1) as worker:

            @module.step_function_task("cat", chunk_size=6)
            async def cat(event: StepFunctionTaskEvent) -> None:
                effects.add(event.task.index)
                if event.task.index == 2:
                    worker.stop()

            async with asyncio.timeout(DEADLINE):
                await worker.run()
        assert effects.all == [0, 1, 2]
        await work(module)
        assert effects.all == list(range(6))
        done = await look(module, parent)
        assert done.status is COMPLETED
        check_counters(done, [sub async for sub in module.task_service.iter_sub_tasks(parent.key)])

    module.task("dog")(lambda event: None)
    asyncio.run(main())


def test_a_chunk_whose_last_sub_task_ends_while_the_worker_stops_has_ended(backend: Backend) -> None:
    """It is not given back: nobody has to look at its sub-tasks again."""
    module = module_over(backend)

    async def main() -> None:
        parent = await module.task_service.create_step_function_task(
            tenant_code=TENANT, task_type="cat", input=range(4)
        )
        async with module.worker(concurrency=1) as worker, asyncio.timeout(DEADLINE):

            @module.step_function_task("cat", chunk_size=2)
            async def cat(event: StepFunctionTaskEvent) -> None:
                if event.task.index == 1:
                    worker.stop()

            await worker.run()
        (row,) = await backend.store.list_chunks(parent.key, 1)
        assert (row.chunk, row.succeeded, row.failed) == (0, 2, 0)

    module.task("dog")(lambda event: None)
    asyncio.run(main())


def test_a_worker_may_be_stopped_before_it_begins(backend: Backend) -> None:
    """A signal may come that early."""
    module, effects = module_over(backend), Effects()
    module.task("cat")(lambda event: effects.add(event.task.input))

    async def main() -> None:
        await create(module)
        worker = module.worker()
        worker.stop()
        async with asyncio.timeout(DEADLINE):
            await serve(worker)
        assert effects.all == []
        await work(module)
        assert effects.all == [0]

    asyncio.run(main())


@pytest.mark.parametrize("method", ["transform_sqs", "transform_dynamodb_stream"])
def test_an_event_factory_that_hangs_does_not_keep_the_worker(backend: Backend, clock: FakeClock, method: str) -> None:
    """As after a kill: the next worker has the task when the lease ends."""
    inside = asyncio.Event()

    class Hanging(EventFactoryAddedTask):
        pass

    async def hang(self: Hanging, event: Any) -> Any:
        inside.set()
        await asyncio.Event().wait()

    setattr(Hanging, method, hang)
    hanging, sound = module_over(backend, event_factory=Hanging(), grace=0), module_over(backend)
    for module in (hanging, sound):
        module.task("cat")(lambda event: "fed")

    async def main() -> None:
        (task,) = await create(hanging)
        worker = hanging.worker()
        running = asyncio.create_task(serve(worker))
        await inside.wait()
        worker.stop()
        await grace_over(running, clock)
        clock.advance(LEASE + 60)
        await work(sound)
        assert (await look(sound, task)).result == "fed"

    asyncio.run(main())


@pytest.mark.parametrize("grace", [0, 30])
def test_a_worker_without_running_handlers_stops_at_once(backend: Backend, grace: float) -> None:
    module = module_over(backend, grace=grace)
    module.task("cat")(lambda event: None)

    async def main() -> None:
        async with asyncio.timeout(DEADLINE):
            async with module.worker() as worker:
                await worker.drain()
            async with module.worker() as worker:
                worker.stop()
                await worker.run()

    asyncio.run(main())


def test_run_ends_when_stop_is_called(backend: Backend) -> None:
    module = module_over(backend)

    async def main() -> None:
        async with asyncio.timeout(DEADLINE), module.worker() as worker:

            @module.task("cat")
            async def cat(event: TaskQueueEvent) -> None:
                worker.stop()

            await create(module)
            await worker.run()

    module.task("dog")(lambda event: None)
    asyncio.run(main())


def test_nothing_is_claimed_after_stop(backend: Backend, clock: FakeClock) -> None:
    """Also not what the queue hands over just then: it is another worker's, and at once."""
    gate, effects = Gate(lambda call: call.name == "queue.receive", answer=True), Effects()
    module = module_over(tapped(backend, gate))

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        effects.add(event.task.input)

    async def main() -> None:
        gate_passed = module_over(backend)
        gate_passed.task("cat")(lambda event: effects.add("by another worker"))
        (task,) = await create(gate_passed)
        await _dispatch(backend)
        async with module.worker() as worker:
            await gate.held()
            worker.stop()
            gate.open()
        assert effects.all == []
        assert (await look(gate_passed, task)).status is PENDING
        await work(gate_passed)
        assert effects.all == ["by another worker"]

    asyncio.run(main())


async def _dispatch(backend: Backend) -> None:
    """Let a worker that serves nothing of this dispatch what is on the stream."""
    module = module_over(backend)
    module.task("somethingelse")(lambda event: None)
    await work(module)


def test_a_handler_that_outlives_its_worker_keeps_no_process_alive(backend: Backend, clock: FakeClock) -> None:
    """Threads of handlers are daemons; and its worker does not wait for it beyond the grace time."""
    module = module_over(backend, grace=0)
    inside, leave = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    @module.task("cat")
    def cat(event: TaskQueueEvent) -> None:
        threads.append(threading.current_thread())
        inside.set()
        leave.wait(DEADLINE)

    async def main() -> None:
        await create(module)
        async with module.worker() as worker:
            assert await asyncio.to_thread(inside.wait, DEADLINE)
            worker.stop()
        assert threads[0].daemon
        assert threads[0].is_alive()
        leave.set()

    asyncio.run(main())
    module_again = module_over(backend)
    module_again.task("cat")(lambda event: None)
    asyncio.run(work(module_again))


def test_the_context_of_a_run_follows_into_threads_and_tasks(backend: Backend) -> None:
    """`current()` is a context variable: two handlers at a time see each their own."""
    module = module_over(backend)
    both = asyncio.Barrier(2)

    @module.task("async")
    async def in_tasks(event: TaskQueueEvent) -> Any:
        await both.wait()

        async def deeper() -> Any:
            return await asyncio.to_thread(lambda: current().task.input)

        return await asyncio.create_task(deeper())

    @module.task("sync")
    def in_a_thread(event: TaskQueueEvent) -> Any:
        return current().task.input

    async def main() -> None:
        tasks = [*await create(module, 2, "async"), *await create(module, 2, "sync")]
        await work(module, 4)
        assert [(await look(module, task)).result for task in tasks] == [0, 1, 0, 1]

    asyncio.run(main())


def test_a_lease_is_as_long_as_the_settings_say(backend: Backend, clock: FakeClock) -> None:
    module = module_over(backend)
    seen: list[float] = []

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        until = current().lease_until
        assert until is not None
        seen.append((until - clock.now()).total_seconds())

    async def main() -> None:
        await create(module)
        await work(module)

    asyncio.run(main())
    assert seen == [LEASE]
