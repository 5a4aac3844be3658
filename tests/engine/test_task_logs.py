"""How log lines get into the storage: rarely, beside the ends of attempts, and without ever holding them up."""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from taskloom import Retry, StepFunctionTaskEvent, TaskModule, TaskQueueEvent, TaskStatus, current
from taskloom.errors import StoreBusy, StoreCorrupt, StoreError
from taskloom.events.log_lines import MAX_BYTES, MAX_LINES
from taskloom.execution import log_writer
from taskloom.execution.log_writer import LogWriter
from taskloom.model import TaskEntity, TaskKey
from taskloom.ports import Backend, LogBatch
from tests.engine.test_commits import Statements, holding, locked, statements
from tests.engine.test_heart import BEAT, beat, create, look
from tests.support.clock import FakeClock
from tests.support.faults import DEADLINE, FailAt, Gate, Inner, PortCall, Probe, tapped
from tests.support.scenarios import LEASE, TENANT, HastyClock, module_over, open_backend, work

__all__ = ["statements"]  # a fixture


async def logged(backend: Backend, key: TaskKey) -> list[str]:
    page = await module_over(backend).task_service.logs(key)
    return [line.message for line in page.items]


def batches(probe: Probe) -> list[Sequence[LogBatch]]:
    """What was given to the storage, call by call."""
    return [call.args[0] for call in probe.named("logs.append")]


def both_kinds(module: TaskModule, handler: Any, **options: Any) -> None:
    module.task("cat", **options)(handler)
    module.step_function_task("cat", chunk_size=3, **options)(handler)


# --- what it costs ---------------------------------------------------------------------------------------------------


def test_a_handler_that_logs_nothing_costs_nothing(backend: Backend, clock: FakeClock) -> None:
    """No call, nothing kept in memory; what is below the level is nothing."""
    probe = Probe()
    module, buffers, inside, leave = module_over(tapped(backend, probe)), list[Any](), asyncio.Event(), asyncio.Event()

    async def cat(event: Any) -> None:
        event.log.debug("below the level")
        logging.getLogger("shop").info("below the level of the process")
        logging.getLogger("taskloom.x").error("the engine")
        buffers.append(current().lines)
        if event.task.input == "long":
            inside.set()
            await leave.wait()

    both_kinds(module, cat)

    async def main() -> None:
        service = module.task_service
        await service.create_step_function_task(tenant_code=TENANT, task_type="cat", input=range(5))
        await service.create_task(tenant_code=TENANT, task_type="cat", input="long")
        async with module.worker() as worker:
            await inside.wait()
            for _ in range(3):
                await beat(clock, probe)
            leave.set()
            await worker.drain()
        assert buffers == [None] * 6
        assert [call.name for call in probe.made if call.name.startswith("logs.")] == []

    asyncio.run(main())


def test_a_short_attempt_is_one_call_right_before_its_end(backend: Backend) -> None:
    probe = Probe()
    module = module_over(tapped(backend, probe))

    @module.task("cat")
    def cat(event: TaskQueueEvent) -> None:
        for number in range(100):
            event.log.info("%d", number)

    async def main() -> None:
        task = await create(backend)
        await work(module)
        names = [call.name for call in probe.made]
        at = names.index("logs.append")
        assert names.count("logs.append") == 1
        assert names[at + 1] == "store.update"
        (batch,) = batches(probe)[0]
        assert (batch.key, batch.run, batch.first, len(batch.lines), batch.dropped) == (task.key, 1, 0, 100, 0)

    asyncio.run(main())


def test_sub_tasks_give_their_lines_right_before_their_ends(backend: Backend) -> None:
    """Also where the end of one goes together with the claim of the next."""
    probe = Probe()
    module = module_over(tapped(backend, probe))

    @module.step_function_task("cat", chunk_size=3)
    async def cat(event: StepFunctionTaskEvent) -> None:
        event.log.info("%d", event.task.input)

    async def main() -> None:
        parent = await module.task_service.create_step_function_task(
            tenant_code=TENANT, task_type="cat", input=range(3)
        )
        await work(module)
        names = [call.name for call in probe.made]
        after = [names[at + 1] for at, name in enumerate(names) if name == "logs.append"]
        assert after == ["store.update_many", "store.update_many", "store.update"]
        async for sub in module.task_service.iter_sub_tasks(parent.key):
            assert await logged(backend, sub.key) == [str(sub.index)]

    asyncio.run(main())


def test_lines_share_the_commit_of_the_end(database: Path, clock: FakeClock, statements: Statements) -> None:
    """What is given to a storage that is busy goes into the file together."""
    probe, backend = Probe(), open_backend(database, clock)
    module = module_over(tapped(backend, probe))
    inside, leave = asyncio.Event(), asyncio.Event()

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        event.log.info("hello")
        inside.set()
        await leave.wait()

    async def main() -> None:
        task = await create(backend)
        async with module.worker() as worker:
            await inside.wait()
            with locked(database):
                first = asyncio.create_task(backend.payloads.put("x", task.id))  # type: ignore[arg-type]
                leave.set()
                await probe.until(lambda: len(probe.named("store.update")) == 2)  # the claim, and the end
                for _ in range(3):
                    await asyncio.to_thread(lambda: None)
            await first
            await worker.drain()
        (commit,) = holding(statements.transactions, "INSERT INTO task_logs")
        assert any(statement.startswith("UPDATE tasks") for statement in commit)

    asyncio.run(main())
    backend.close()


def test_many_attempts_that_end_together_are_one_call(backend: Backend) -> None:
    probe = Probe()
    module = module_over(tapped(backend, probe))
    inside, leave = asyncio.Semaphore(0), asyncio.Event()

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        event.log.info("hello")
        inside.release()
        await leave.wait()

    async def main() -> None:
        tasks = [await create(backend) for _ in range(20)]
        async with module.worker(concurrency=20) as worker:
            for _ in tasks:
                await inside.acquire()
            leave.set()
            await worker.drain()
        assert sum(map(len, batches(probe))) == 20
        assert len(batches(probe)) <= 2
        assert [await logged(backend, task.key) for task in tasks] == [["hello"]] * 20

    asyncio.run(main())


# --- while an attempt runs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task_type", ["async", "sync"])
def test_lines_are_written_at_most_once_a_second(backend: Backend, clock: FakeClock, task_type: str) -> None:
    probe = Probe()
    module = module_over(tapped(backend, probe))
    speak, spoken = threading.Semaphore(0), threading.Semaphore(0)

    def steps(event: TaskQueueEvent) -> None:
        """Each time the test says so, a hundred lines."""
        for step in range(4):
            assert speak.acquire(timeout=DEADLINE)
            for number in range(100):
                event.log.info("%d of step %d", number, step)
            spoken.release()

    @module.task("async")
    async def in_the_loop(event: TaskQueueEvent) -> None:
        await asyncio.to_thread(steps, event)

    module.task("sync")(steps)

    async def main() -> None:
        task = await create(backend, task_type)
        async with module.worker() as worker:
            for step in range(3):
                speak.release()
                assert await asyncio.to_thread(spoken.acquire, timeout=DEADLINE)
                clock.advance(0.99)
                for _ in range(20):
                    await asyncio.to_thread(lambda: None)
                assert len(batches(probe)) == step
                clock.advance(0.01)
                await probe.answered("logs.append", step + 1)
                assert len(await logged(backend, task.key)) == 100 * (step + 1)
            speak.release()
            await worker.drain()
        assert [(batch.first, len(batch.lines)) for (batch,) in batches(probe)] == [
            (0, 100),
            (100, 100),
            (200, 100),
            (300, 100),
        ]
        assert len(await logged(backend, task.key)) == 400

    asyncio.run(main())


def test_what_is_dropped_is_dropped_in_the_storage_too(backend: Backend, clock: FakeClock) -> None:
    """However much a long attempt logs, no more of it is kept; nor waits."""
    probe = Probe()
    module = module_over(tapped(backend, probe))
    speak, spoken = threading.Semaphore(0), threading.Semaphore(0)

    @module.task("cat")
    def cat(event: TaskQueueEvent) -> None:
        for step in range(4):
            assert speak.acquire(timeout=DEADLINE)
            for number in range(600):
                event.log.info("%d", 600 * step + number)
            spoken.release()

    async def main() -> None:
        task = await create(backend)
        async with module.worker() as worker:
            for step in range(3):
                speak.release()
                assert await asyncio.to_thread(spoken.acquire, timeout=DEADLINE)
                clock.advance(1)
                await probe.answered("logs.append", step + 1)
                kept = await logged(backend, task.key)
                assert kept == [str(number) for number in range(600 * (step + 1))][-MAX_LINES:]
            speak.release()
            await worker.drain()
        assert await logged(backend, task.key) == [str(number) for number in range(1_400, 2_400)]

    asyncio.run(main())


# --- a storage that is slow, or fails --------------------------------------------------------------------------------


def test_a_slow_storage_holds_up_neither_leases_nor_the_end(backend: Backend, clock: FakeClock) -> None:
    """And what waits for it is bounded: the newest lines, once."""
    probe, gate = Probe(), Gate(lambda call: call.name == "logs.append")
    module = module_over(tapped(tapped(backend, probe), gate))
    inside, speak, spoken, leave = asyncio.Event(), asyncio.Event(), asyncio.Event(), asyncio.Event()

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        event.log.info("first")
        inside.set()
        await speak.wait()
        for number in range(5_000):
            event.log.info("%d", number)
        lines = current().lines
        assert lines is not None
        batch = lines.batch(event.task)
        assert batch is not None
        assert (len(batch.lines), batch.dropped) == (MAX_LINES, 4_001)
        spoken.set()
        await leave.wait()

    async def main() -> None:
        task = await create(backend)
        async with module.worker() as worker:
            await inside.wait()
            clock.advance(1)
            await gate.held()
            speak.set()
            await spoken.wait()
            for _ in range(4):  # beyond the first lease
                await beat(clock, probe)
                held = await look(backend, task)
                assert held.lease_until is not None
                assert (held.lease_until - clock.now()).total_seconds() == LEASE
            leave.set()
            async with asyncio.timeout(DEADLINE):
                done = await module.task_service.wait(task.key)
            assert done.status is TaskStatus.COMPLETED
            await gate.held(2)
            assert probe.count("logs.append") == 0
            gate.open()
            await worker.drain()
        assert await logged(backend, task.key) == [str(number) for number in range(4_000, 5_000)]

    asyncio.run(main())


@pytest.mark.parametrize("error", [StoreBusy, StoreCorrupt, StoreError])
def test_a_task_ends_well_though_its_lines_cannot_be_written(
    database: Path, caplog: pytest.LogCaptureFixture, error: type[StoreError]
) -> None:
    """The loss is logged; tasks that come later are none the worse for it."""
    clock = HastyClock()
    backend = open_backend(database, clock)
    broken = True

    async def failing(call: PortCall, inner: Inner) -> Any:
        if call.name == "logs.append" and broken:
            raise error("on purpose")
        return await inner()

    module = module_over(tapped(backend, failing))

    async def cat(event: Any) -> str:
        event.log.info("hello")
        return "done"

    both_kinds(module, cat)

    async def main() -> None:
        nonlocal broken
        service = module.task_service
        async with module.worker() as worker:
            for broken in (True, False):
                task = await service.create_task(tenant_code=TENANT, task_type="cat")
                parent = await service.create_step_function_task(tenant_code=TENANT, task_type="cat", input=range(3))
                await worker.drain()
                keys = [task.key, *[sub.key async for sub in service.iter_sub_tasks(parent.key)]]
                for key in (*keys, parent.key):
                    assert (await service.get_task(key)).status is TaskStatus.COMPLETED
                assert [await logged(backend, key) for key in keys] == [[] if broken else ["hello"]] * 4

    with caplog.at_level(logging.WARNING, "taskloom"):
        asyncio.run(main())
    assert "log lines of tasks are lost" in caplog.text
    backend.close()


def test_lines_that_could_not_be_written_are_tried_again(backend: Backend, clock: FakeClock) -> None:
    """A second later, while the attempt runs; those that were written although the answer was lost come once."""
    probe, failing = Probe(), FailAt(1, reply_lost=True)

    async def fail(call: PortCall, inner: Inner) -> Any:
        return await (failing(call, inner) if call.name == "logs.append" else inner())

    module = module_over(tapped(tapped(backend, fail), probe))
    inside, leave = asyncio.Event(), asyncio.Event()

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        event.log.info("first")
        inside.set()
        await leave.wait()
        event.log.info("last")

    async def main() -> None:
        task = await create(backend)
        async with module.worker() as worker:
            await inside.wait()
            async with asyncio.timeout(DEADLINE):
                while probe.count("logs.append") == 0:
                    clock.advance(0.5)
                    await asyncio.to_thread(lambda: None)
            leave.set()
            await worker.drain()
        firsts = [(batch.first, len(batch.lines)) for (batch,) in batches(probe)]
        assert firsts == [(0, 1), (0, 1), (1, 1)]
        assert await logged(backend, task.key) == ["first", "last"]

    asyncio.run(main())


def test_what_waits_for_a_slow_storage_is_bounded(
    backend: Backend, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ended attempts together; what is too much is lost, and that is logged."""
    monkeypatch.setattr(log_writer, "MAX_WAITING", 3 * MAX_BYTES)
    gate, probe = Gate(lambda call: call.name == "logs.append"), Probe()
    module = module_over(tapped(tapped(backend, probe), gate))

    @module.task("cat")
    def cat(event: TaskQueueEvent) -> None:
        for _ in range(100):
            event.log.info("x" * 5_000)

    async def main() -> None:
        tasks = [await create(backend) for _ in range(5)]
        async with module.worker(concurrency=1):
            for task in tasks:
                async with asyncio.timeout(DEADLINE):
                    await module.task_service.wait(task.key)
            gate.open()
        kept = [len(await logged(backend, task.key)) for task in tasks]
        assert kept == [MAX_BYTES // 5_013] * 3 + [0, 0]

    with caplog.at_level(logging.WARNING, "taskloom"):
        asyncio.run(main())
    assert caplog.text.count("log lines of tasks are lost") == 2


def test_the_writer_counts_what_it_has_written(backend: Backend) -> None:
    """So that what is bounded is what waits, not what ever came."""
    module = module_over(backend)

    @module.task("cat")
    def cat(event: TaskQueueEvent) -> None:
        event.log.info("x" * 8_000)

    async def main() -> None:
        running: list[asyncio.Task[None]] = []
        writer = LogWriter(backend, lambda work: running.append(asyncio.create_task(work)))
        task = await create(backend)
        await work(module)
        ((_, line),) = await backend.logs.read(task.key, None, 10)
        for fence in range(log_writer.MAX_WAITING // 8_000 + 10):
            writer.add(LogBatch(key=task.key, run=9, fence=fence, first=0, lines=[line], dropped=0))
            if fence % 500 == 0:
                writer.write()
                await asyncio.gather(*running)
        writer.write()
        await asyncio.gather(*running)
        found = await backend.logs.read(task.key, (await backend.logs.read(task.key, None, 1))[0][0], 10_000)
        assert len(found) == log_writer.MAX_WAITING // 8_000 + 10

    asyncio.run(main())


# --- however an attempt ends -----------------------------------------------------------------------------------------


def test_two_attempts_never_mix(backend: Backend, clock: FakeClock) -> None:
    """A worker hangs and loses its claim to another one; what its handler logs all the while stays its own."""
    hangs = Gate(lambda call: call.name in ("store.update_many", "queue.extend", "store.get", "logs.append"))
    module, inside, leave = module_over(tapped(backend, hangs)), asyncio.Event(), asyncio.Event()

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        event.log.info("of the first")
        inside.set()
        await leave.wait()
        event.log.info("late, of the first")

    other = module_over(backend)

    @other.task("cat")
    async def other_cat(event: TaskQueueEvent) -> None:
        event.log.info("of the other")
        leave.set()
        event.log.info("of the other, too")

    async def main() -> None:
        task = await create(backend)
        hangs.open()  # for the claim
        async with module.worker() as worker:
            await inside.wait()
            hangs.close()
            clock.advance(BEAT)
            await hangs.held()
            clock.advance(2 * LEASE)
            await work(other)
            assert await logged(backend, task.key) == ["of the other", "of the other, too"]
            hangs.open()
            async with asyncio.timeout(DEADLINE):
                await worker.drain()
        lines = (await module.task_service.logs(task.key)).items
        assert [(line.attempt, line.message) for line in lines] == [
            (1, "of the first"),
            (1, "late, of the first"),
            (2, "of the other"),
            (2, "of the other, too"),
        ]
        done = await look(backend, task)
        assert (done.status, done.attempt) == (TaskStatus.COMPLETED, 2)

    asyncio.run(main())


@pytest.mark.parametrize("ends", ["returns", "raises", "again", "timeout", "cancelled", "stopped", "bad result"])
def test_lines_are_kept_however_the_attempt_ends(backend: Backend, clock: FakeClock, ends: str) -> None:
    probe = Probe()
    module = module_over(tapped(backend, probe), grace=0)
    inside = asyncio.Event()

    @module.task("cat", timeout=5, retry=Retry(max_attempts=2, initial=60, jitter=False) if ends == "again" else None)
    async def cat(event: TaskQueueEvent) -> object:
        event.log.info("hello")
        inside.set()
        if ends in ("raises", "again"):
            raise ValueError
        if ends in ("timeout", "cancelled", "stopped"):
            try:
                await asyncio.Event().wait()
            finally:
                event.log.info("good bye")
        return object() if ends == "bad result" else None

    async def main() -> TaskEntity[Any]:
        task = await create(backend)
        async with module.worker() as worker:
            await inside.wait()
            if ends == "timeout":
                clock.advance(5)
            elif ends == "cancelled":
                await module.task_service.cancel_task(task.key)
                clock.advance(1)
            if ends != "stopped":
                async with asyncio.timeout(DEADLINE):
                    await worker.drain()
        expected = ["hello", "good bye"] if ends in ("timeout", "cancelled", "stopped") else ["hello"]
        assert await logged(backend, task.key) == expected
        return await look(backend, task)

    status = asyncio.run(main()).status
    assert status == {
        "returns": "COMPLETED",
        "again": "PENDING",
        "stopped": "PENDING",
        "cancelled": "CANCELLED",
    }.get(ends, "FAILED")


def test_lines_are_kept_though_the_result_is_not(backend: Backend) -> None:
    """The storage fails for the large result of the first delivery: no end is written, and the message comes again."""
    broken = True

    async def failing(call: PortCall, inner: Inner) -> Any:
        nonlocal broken
        if call.name == "payloads.put" and broken:
            broken = False
            raise StoreCorrupt("on purpose")
        return await inner()

    module = module_over(tapped(backend, failing))

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> str:
        event.log.info("hello")
        return "x" * 100_000

    async def main() -> None:
        task = await create(backend)
        await work(module)
        assert (await look(backend, task)).status is TaskStatus.IN_PROGRESS
        assert await logged(backend, task.key) == ["hello"]

    asyncio.run(main())


def test_a_killed_worker_leaves_what_its_heart_wrote(backend: Backend, clock: FakeClock) -> None:
    probe = Probe()
    module = module_over(tapped(backend, probe))
    inside = asyncio.Event()

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        event.log.info("of attempt %d", event.attempt)
        if event.attempt == 1:
            inside.set()
            await asyncio.Event().wait()

    async def killed() -> TaskEntity[Any]:
        task = await create(backend)

        async def run() -> None:
            async with module.worker() as worker:
                await worker.run()

        running = asyncio.create_task(run())
        await inside.wait()
        clock.advance(1)
        await probe.answered("logs.append", 1)
        while not running.done():
            running.cancel()
            await asyncio.wait([running], timeout=0)
        return task

    async def main(task: TaskEntity[Any]) -> None:
        assert await logged(backend, task.key) == ["of attempt 1"]
        clock.advance(2 * LEASE)
        await work(module)
        assert await logged(backend, task.key) == ["of attempt 1", "of attempt 2"]

    asyncio.run(main(asyncio.run(killed())))


def test_the_storage_holds_no_more_than_the_newest_lines(backend: Backend, database: Path) -> None:
    """Seen in the file itself."""
    module = module_over(backend)

    @module.step_function_task("cat", chunk_size=2)
    def cat(event: StepFunctionTaskEvent) -> None:
        for number in range(1_500):
            event.log.info("%d", number)

    async def main() -> None:
        await module.task_service.create_step_function_task(tenant_code=TENANT, task_type="cat", input=range(2))
        await work(module)

    asyncio.run(main())
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT idx, count(*), min(number), max(number) FROM task_logs GROUP BY idx")
        assert rows.fetchall() == [(0, 1_000, 500, 1_499), (1, 1_000, 500, 1_499)]
