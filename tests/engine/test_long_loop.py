"""A loop of 10,000 items with a step each, in slices of 0.2 s, in processes that die now and then."""

import asyncio
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest

from taskloom import Retry, TaskModule, TaskQueueEvent, TaskStatus
from taskloom.events.resumable import STOPS
from taskloom.ports import Backend
from tests.support.clock import FakeClock
from tests.support.faults import Crash, CrashAt, tapped
from tests.support.scenarios import LEASE, module_over, open_backend, work

ITEMS: Final = 10_000
SLICE: Final = 0.2
ITEM: Final = 0.001
DIES_EVERY: Final = 1_709
"""Calls of ports that a process makes before it dies; a prime, so that it hits now this call and now that."""

_LOOP_SECONDS: Final = ITEMS * ITEM


class Shop:
    """What the application did, over all processes, and what came of it."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.charged: Counter[int] = Counter()
        self.results: dict[int, set[str]] = {}

    def charge(self, item: int) -> str:
        """Another answer each time, so that two of them cannot be taken for one."""
        self.charged[item] += 1
        return f"receipt {item}.{self.charged[item]}"

    def module(self, backend: Backend) -> TaskModule:
        module = module_over(backend)

        @module.task("loop", timeout=SLICE, retry=Retry(max_attempts=999, initial=0))
        async def loop(event: TaskQueueEvent) -> int:
            async for item in event.resumable(range(ITEMS)):
                self.clock.advance(ITEM)
                receipt = await event.step(f"charge {item}", self.charge, item)
                self.results.setdefault(item, set()).add(receipt)
            return len(self.results)

        return module


@pytest.mark.timeout(240)
def test_each_step_is_recorded_once_however_often_the_process_dies(database: Path, clock: FakeClock) -> None:
    """Each item is seen at least once, its effect is recorded once, and nobody ever gets another receipt for it."""
    shop = Shop(clock)
    plain = open_backend(database, clock)
    deaths = 0

    async def live_once(backend: Backend) -> None:
        await work(shop.module(backend))

    async def main() -> Any:
        nonlocal deaths
        service = module_over(plain).task_service
        made = await service.create_task(tenant_code="acme", task_type="loop")
        while not (task := await service.get_task(made.key)).is_terminal:
            tap = CrashAt(DIES_EVERY, after=deaths % 2 == 0)
            try:
                await live_once(tapped(plain, tap))
            except (Crash, BaseExceptionGroup):
                assert tap.at is not None
            if tap.at is not None:
                deaths += 1
                clock.advance(LEASE + 1)
        return task

    task = asyncio.run(main())
    plain.close()
    assert (task.status, task.result) == (TaskStatus.COMPLETED, ITEMS)
    assert deaths >= 10
    assert task.history_dropped + sum(entry.reason == STOPS for entry in task.history) >= _LOOP_SECONDS / SLICE
    assert sorted(shop.charged) == list(range(ITEMS))
    again = [item for item, times in shop.charged.items() if times > 1]
    assert len(again) <= deaths, "only the one at which a process died is charged again"
    assert [results for results in shop.results.values() if len(results) > 1] == []
    connection = sqlite3.connect(database)
    kept = dict(connection.execute("SELECT name, result FROM steps").fetchall())
    connection.close()
    assert kept == {f"charge {item}": f'"{min(results)}"' for item, results in shop.results.items()}
