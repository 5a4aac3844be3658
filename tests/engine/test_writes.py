"""Patience with a storage that is busy: how often it is asked again, and how long is waited in between."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from taskloom import TaskQueueEvent
from taskloom.errors import StoreBusy, StoreCorrupt, StoreError, StoreFull
from taskloom.execution.writes import patiently
from taskloom.ports import Backend, Served
from tests.support.clock import FakeClock
from tests.support.faults import DEADLINE, Inner, PortCall, tapped
from tests.support.scenarios import TENANT, HastyClock, module_over, work


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
