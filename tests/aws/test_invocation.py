"""An invocation in virtual time, over the embedded ports: what goes on while its handlers run, and how it ends."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from taskloom import TaskQueueEvent
from taskloom.aws.invocation import LOOK_EVERY, RESERVE, Invocation
from taskloom.embedded.backend import embedded_backend
from taskloom.events.registry import Definition, Handler, Registry, TypePolicy
from taskloom.execution.threads import HandlerThreads
from taskloom.ids import RandomIds
from taskloom.lifecycle import cancelled
from taskloom.model import Kind, TaskEntity, TaskStatus
from taskloom.ports import Backend, Delivery, Served
from tests.support.clock import FakeClock
from tests.support.faults import Probe, tapped
from tests.support.rows import Rows

TIME = timedelta(seconds=60)


@pytest.fixture
def backend(tmp_path: Path, clock: FakeClock) -> Iterator[Backend]:
    backend = embedded_backend(tmp_path / "tasks.db", "NORMAL", clock, RandomIds())
    yield backend
    backend.close()


class Bed:
    """One task, its message, and an invocation that has a minute."""

    def __init__(self, backend: Backend, handler: Handler) -> None:
        self.backend = backend
        self.probe = Probe()
        self.rows = Rows(backend)
        registry = Registry(default_policy=TypePolicy())
        registry.define(Kind.TASK, self.rows.task_type, Definition(function=handler, policy=TypePolicy()))
        self.invocation = Invocation(
            tapped(backend, self.probe),
            registry,
            until=self.rows.now + TIME,
            request="r1",
            log_level=20,
            threads=HandlerThreads("test"),
        )
        self.task: TaskEntity

    async def delivery(self) -> Delivery:
        (self.task,) = await self.rows.create(self.rows.single())
        await self.backend.stream.forward(10)
        served = Served(tasks=None, fan_outs=None)
        (delivery,) = await self.backend.queue.receive(served, 1, visible_at=self.rows.now + TIME)
        return delivery


def test_nothing_is_renewed_and_nobody_is_told_that_it_lives(backend: Backend, clock: FakeClock) -> None:
    """The claim holds as long as the function can live; but progress and log lines are written meanwhile."""
    inside, leave = asyncio.Event(), asyncio.Event()

    async def handler(event: TaskQueueEvent) -> None:
        inside.set()
        event.progress(1, 2)
        event.log.info("here")
        await leave.wait()

    async def main() -> None:
        bed = Bed(backend, handler)
        delivery = await bed.delivery()
        async with bed.invocation:
            running = asyncio.create_task(bed.invocation.run(delivery))
            await inside.wait()
            held = await bed.rows.stored(bed.task.key)
            assert held.lease_until == clock.now() + TIME
            for looks in range(1, 6):
                before = bed.probe.count("store.get")
                clock.advance(LOOK_EVERY.total_seconds())
                await bed.probe.answered("store.get", before + 1)
                assert looks <= 5
            await bed.probe.answered("logs.append", 1)
            now = await bed.rows.stored(bed.task.key)
            assert now.lease_until == held.lease_until
            assert now.progress is not None
            leave.set()
            again_at, change = await running
        assert again_at is None
        assert change is not None
        assert (await bed.rows.stored(bed.task.key)).status is TaskStatus.COMPLETED
        for call in ("queue.extend", "admin.beat", "admin.leave"):
            assert bed.probe.count(call) == 0

    asyncio.run(main())


def test_a_cancelled_task_is_told_within_five_seconds(backend: Backend, clock: FakeClock) -> None:
    inside = asyncio.Event()
    told: list[str] = []

    async def handler(event: TaskQueueEvent) -> None:
        inside.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.append("cancelled")
            raise

    async def main() -> None:
        bed = Bed(backend, handler)
        delivery = await bed.delivery()
        async with bed.invocation:
            running = asyncio.create_task(bed.invocation.run(delivery))
            await inside.wait()
            held = await bed.rows.stored(bed.task.key)
            change = cancelled(held, reason="enough", by="ann", now=clock.now(), claim_id="c")
            await bed.rows.carry_out(change)
            clock.advance(LOOK_EVERY.total_seconds())
            assert await running == (None, None)
        assert told == ["cancelled"]
        assert (await bed.rows.stored(bed.task.key)).status is TaskStatus.CANCELLED

    asyncio.run(main())


def test_a_handler_is_stopped_before_lambda_ends_the_function(backend: Backend, clock: FakeClock) -> None:
    """With time left to write how it stands."""
    inside = asyncio.Event()

    async def handler(event: TaskQueueEvent) -> None:
        await event.checkpoint("half")
        assert event.remaining() == (TIME - RESERVE).total_seconds()
        inside.set()
        await asyncio.Event().wait()

    async def main() -> None:
        bed = Bed(backend, handler)
        delivery = await bed.delivery()
        async with bed.invocation:
            running = asyncio.create_task(bed.invocation.run(delivery))
            await inside.wait()
            clock.advance((TIME - RESERVE).total_seconds())
            again_at, _ = await running
        left = await bed.rows.stored(bed.task.key)
        assert again_at == clock.now()
        assert (left.status, left.attempt, left.state) == (TaskStatus.PENDING, 0, "half")
        assert clock.now() < bed.task.created_at + TIME

    asyncio.run(main())


def test_an_invocation_without_handlers_has_no_heart(backend: Backend) -> None:
    """Whoever only dispatches pays for no thread."""

    async def main() -> None:
        bed = Bed(backend, lambda event: None)
        async with bed.invocation:
            assert not bed.invocation._heart.beats

    asyncio.run(main())
