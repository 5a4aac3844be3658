"""Patience with a storage that is busy: how often it is asked again, and how long is waited in between."""

import asyncio
import logging
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from taskloom import NewTask, TaskQueueEvent, TaskStatus
from taskloom.errors import StoreBusy, StoreCorrupt, StoreError, StoreFull
from taskloom.execution.writes import patiently
from taskloom.ports import Backend, Served
from tests.support.clock import FakeClock
from tests.support.faults import DEADLINE, Gate, Inner, PortCall, tapped
from tests.support.scenarios import LEASE, TENANT, HastyClock, module_over, work


class Pauses(HastyClock):
    """A clock on which these pauses are over at once; it notes them."""

    def __init__(self, *pauses: float) -> None:
        super().__init__()
        self._pauses = {timedelta(seconds=pause) for pause in pauses}
        self.noted: list[float] = []

    async def wait(self, event: asyncio.Event, until: datetime | None) -> bool:
        pause = None if until is None else until - self.now()
        if pause in self._pauses:
            self.noted.append(pause.total_seconds())
            self.advance(pause.total_seconds())
        return await super().wait(event, until)


@pytest.mark.parametrize("error", [StoreBusy, StoreFull])
@pytest.mark.parametrize("failures", [0, 1, 5, 6])
def test_a_busy_storage_is_asked_six_times_ever_more_slowly(failures: int, error: type[StoreError]) -> None:
    pauses = [0.05, 0.1, 0.2, 0.4, 0.8]
    clock, calls = Pauses(*pauses), 0

    async def call() -> int:
        nonlocal calls
        calls += 1
        if calls <= failures:
            raise error(f"failure {calls}")
        return calls

    async def main() -> None:
        if failures < 6:
            assert await patiently(clock, call) == failures + 1
        else:
            with pytest.raises(error, match="failure 6"):
                await patiently(clock, call)

    asyncio.run(main())
    assert clock.noted == pauses[:failures]
    assert calls == min(failures + 1, 6)


@pytest.mark.parametrize("error", [StoreCorrupt, StoreError])
def test_a_storage_that_will_not_get_better_is_asked_once(error: type[StoreError]) -> None:
    calls = 0

    async def call() -> None:
        nonlocal calls
        calls += 1
        raise error("on purpose")

    with pytest.raises(error):
        asyncio.run(patiently(Pauses(), call))
    assert calls == 1


def test_a_message_that_storage_errors_hold_up_comes_again_ever_later(backend: Backend, clock: FakeClock) -> None:
    """Up to a minute; the number of its deliveries decides."""

    async def failing(call: PortCall, inner: Inner) -> Any:
        if call.name.startswith("store.update"):
            raise StoreError("on purpose")
        return await inner()

    module = module_over(tapped(backend, failing))
    module.task("cat")(lambda event: None)

    async def main() -> None:
        await module.task_service.create_task(tenant_code=TENANT, task_type="cat")
        for pause in (0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60, 60, 60, 60):
            async with asyncio.timeout(DEADLINE):
                await work(module)
            due = await backend.queue.next_due(Served(tasks=None, fan_outs=None))
            assert due == clock.now() + timedelta(seconds=pause)
            clock.advance(pause)

    asyncio.run(main())


def test_a_worker_looks_for_work_ever_more_slowly_while_the_storage_fails(backend: Backend) -> None:
    """After a success it begins anew."""
    pauses = [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2]
    clock = Pauses(*pauses)
    fails = iter([*[True] * len(pauses), False, True, True, False])

    async def failing(call: PortCall, inner: Inner) -> Any:
        if call.name == "queue.receive" and next(fails, False):
            raise StoreError("on purpose")
        return await inner()

    module = module_over(tapped(replace(backend, clock=clock), failing))

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        pass

    async def main() -> None:
        nonlocal fails
        for _ in range(2):
            await module.task_service.create_task(tenant_code=TENANT, task_type="cat")
        async with module.worker(concurrency=1) as worker, asyncio.timeout(DEADLINE):
            await worker.drain()
            assert clock.noted == [*pauses, 0.2, 0.4], "a success that leaves more to do"
            fails = iter([True, True])
            await module.task_service.create_task(tenant_code=TENANT, task_type="cat")
            await worker.drain()
            assert clock.noted == [*pauses, 0.2, 0.4, 0.2, 0.4], "a success after which nothing is left"

    asyncio.run(main())


def test_an_end_that_cannot_be_written_fails_alone(backend: Backend, clock: FakeClock) -> None:
    """Though it was to be written together with others. It is not written later either: the attempt is lost."""
    ends: list[str] = []
    codes: list[str] = []

    def ends_of(call: PortCall) -> list[str]:
        """The tasks that this call ends."""
        if not call.name.startswith("store.update"):
            return []
        changes = call.args[0] if call.name == "store.update_many" else call.args[:1]
        return [change.key.parts.code for change in changes if change.patch.get("status") is TaskStatus.COMPLETED]

    async def failing(call: PortCall, inner: Inner) -> Any:
        ended = ends_of(call)
        if ended:
            ends.append(call.name)
        if codes[2] in ended and clock.now() == began:
            raise StoreError("on purpose")
        return await inner()

    began = clock.now()
    first = Gate(lambda call: codes[0] in ends_of(call))
    module = module_over(tapped(tapped(backend, failing), first))
    inside, leave = asyncio.Semaphore(0), asyncio.Event()

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> int:
        inside.release()
        if event.task.input:
            await leave.wait()
        return event.attempt

    async def main() -> None:
        tasks = module_over(backend).task_service
        new = [NewTask(tenant_code=TENANT, task_type="cat", input=number) for number in range(4)]
        made = await tasks.create_tasks(new)
        codes.extend(task.code for task in made)
        async with module.worker(concurrency=4) as worker, asyncio.timeout(DEADLINE):
            for _ in made:
                await inside.acquire()
            await first.held()
            leave.set()
            for _ in range(20):  # the others end, and wait for the first
                await asyncio.to_thread(lambda: None)
            first.open()
            await worker.drain()
            assert ends == ["store.update", "store.update_many", *["store.update"] * 3]
            found = [await tasks.get_task(task.key) for task in made]
            assert [str(task.status) for task in found] == ["COMPLETED", "COMPLETED", "IN_PROGRESS", "COMPLETED"]
        clock.advance(LEASE)
        await work(module)
        assert [(await tasks.get_task(task.key)).result for task in made] == [1, 1, 2, 1]

    asyncio.run(main())


def test_a_step_that_cannot_be_reported_is_done_again_soon(backend: Backend, clock: FakeClock) -> None:
    """Long before its message would come again by itself."""
    fails = 0

    async def failing(call: PortCall, inner: Inner) -> Any:
        nonlocal fails
        if call.name == "machine.report" and fails < 1:
            fails += 1
            raise StoreError("on purpose")
        return await inner()

    module = module_over(tapped(backend, failing))
    module.step_function_task("cat")(lambda event: None)

    async def main() -> None:
        tasks = module.task_service
        parent = await tasks.create_step_function_task(tenant_code=TENANT, task_type="cat", input=range(2))
        await work(module)
        assert not (await tasks.get_task(parent.key)).is_terminal
        clock.advance(0.2)
        await work(module)
        assert (await tasks.get_task(parent.key)).status is TaskStatus.COMPLETED
        assert fails == 1

    asyncio.run(main())


def test_what_is_wrong_in_the_worker_itself_is_told(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """Its message comes again by itself."""

    async def broken(call: PortCall, inner: Inner) -> Any:
        if call.name.startswith("store.update"):
            raise AssertionError("a bug")
        return await inner()

    module = module_over(tapped(backend, broken))
    module.task("cat")(lambda event: None)

    async def main() -> None:
        await module.task_service.create_task(tenant_code=TENANT, task_type="cat")
        async with asyncio.timeout(DEADLINE):
            await work(module)

    with caplog.at_level(logging.ERROR, "taskloom"):
        asyncio.run(main())
    (record,) = caplog.records
    assert record.message == "a delivery failed; its message comes again"
    assert record.exc_info is not None
