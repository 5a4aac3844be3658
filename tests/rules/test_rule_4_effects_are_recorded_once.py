"""Rule 4: delivery is at least once, effects are recorded once; final counters are the sum of the chunk rows."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from taskloom.model import FanOut
from taskloom.policy import chunk_count, chunk_range
from taskloom.ports import Backend, ChunkRow
from tests.rules.breaking import assert_bites
from tests.support.clock import FakeClock
from tests.support.faults import Duplicating, Inner, PortCall, Reordering, Replaying, Tap, tapped
from tests.support.scenarios import (
    FAN_OUT,
    RETRY,
    SINGLE,
    Effects,
    Scenario,
    all_tasks,
    check_end,
    module_for,
    picture,
    recover,
    tell,
    work,
)

DISTURBANCES: Sequence[Callable[[], Tap]] = (Duplicating, Reordering, Replaying)


@pytest.mark.parametrize("make", DISTURBANCES, ids=["duplicate", "reordered", "late"])
@pytest.mark.parametrize("scenario", [SINGLE, RETRY, FAN_OUT], ids=str)
def test_the_story_is_the_same_however_it_is_delivered(
    backend: Backend, clock: FakeClock, scenario: Scenario, make: Callable[[], Tap]
) -> None:
    """In more detail in `tests/engine/test_delivery.py`."""

    async def main() -> None:
        disturbance = make()
        await tell(scenario.watched(), tapped(backend, disturbance), clock)
        if isinstance(disturbance, Replaying):
            disturbance.replay()
            await work(module_for(scenario.watched(), tapped(backend, disturbance), Effects()))
        await recover(scenario, backend, clock)
        await check_end(scenario, backend)

    asyncio.run(main())


def test_there_is_one_row_per_chunk(backend: Backend, clock: FakeClock) -> None:
    """Each is the recount of its range, and a repeat changes nothing."""

    async def main() -> None:
        await tell(FAN_OUT, tapped(backend, Duplicating()), clock)
        await recover(FAN_OUT, backend, clock)
        (parent,) = await all_tasks(backend)
        plan = parent.fan_out
        assert isinstance(plan, FanOut)
        rows = await backend.store.list_chunks(parent.key, 1)
        assert [row.chunk for row in rows] == list(range(chunk_count(6, plan.chunk_size)))
        for row in rows:
            indexes = chunk_range(row.chunk, 6, plan.chunk_size)
            assert row.failed == len({1, 4} & set(indexes))
            assert row.succeeded == len(indexes) - row.failed
        before = await picture(backend)
        for row in rows:
            assert not await backend.store.put_chunk(row)
            assert not await backend.store.put_chunk(replace(row, succeeded=99, failed=99))
        assert await picture(backend) == before

    asyncio.run(main())


def test_the_end_of_a_chunk_may_be_told_twice(backend: Backend, clock: FakeClock) -> None:
    """By a driver whose answer was lost: one row, and counted once."""

    async def repeats(call: PortCall, inner: Inner) -> Any:
        if call.name == "store.put_chunk":
            await inner()
        return await inner()

    async def main() -> None:
        await tell(FAN_OUT, tapped(backend, repeats), clock)
        await check_end(FAN_OUT, backend)

    asyncio.run(main())


def test_counters_for_display_do_not_reach_the_end(backend: Backend, clock: FakeClock) -> None:
    """While the parent runs they may be anything: late, doubled, lost. The end is the sum of the rows."""

    async def displays_wrongly(call: PortCall, inner: Inner) -> Any:
        if call.name == "store.update" and call.args[0].add:
            change = call.args[0]
            await inner(replace(change, add={name: 7 * amount for name, amount in change.add.items()}))
        return await inner()

    async def main() -> None:
        await tell(FAN_OUT, tapped(backend, displays_wrongly), clock)
        await check_end(FAN_OUT, backend)

    asyncio.run(main())


# --- the checks bite -------------------------------------------------------------------------------------------------


class AppendsRows:
    """A store that keeps a row for every time that it is told of the end of a chunk, which is told twice."""

    def __init__(self) -> None:
        self._rows: list[ChunkRow] = []

    async def __call__(self, call: PortCall, inner: Inner) -> Any:
        if call.name == "store.put_chunk":
            self._rows += [call.args[0], call.args[0]]
        if call.name == "store.list_chunks":
            return sorted(self._rows, key=lambda row: row.chunk)
        return await inner()


async def _counts_twice(call: PortCall, inner: Inner) -> Any:
    """A store whose sum counts the first chunk twice."""
    answer = await inner()
    return [*answer[:1], *answer] if call.name == "store.list_chunks" else answer


async def _drifts(call: PortCall, inner: Inner) -> Any:
    """A parent that keeps what was counted for display instead of the sum."""
    if call.name == "store.update" and "sub_task_succeed_count" in call.args[0].patch:
        change = call.args[0]
        patch = {name: value for name, value in change.patch.items() if not name.startswith("sub_task")}
        return await inner(replace(change, patch=patch))
    if call.name == "store.update" and call.args[0].add:
        change = call.args[0]
        return await inner(replace(change, add={name: 2 * amount for name, amount in change.add.items()}))
    return await inner()


async def _gives_up_on_duplicates(call: PortCall, inner: Inner) -> Any:
    """A queue that forgets the message when it is delivered: at most once."""
    answer = await inner()
    if call.name == "queue.receive":
        return answer[:0] if any(delivery.chunk == 1 for delivery in answer) else answer
    return answer


@pytest.mark.parametrize("tap", [AppendsRows(), _counts_twice, _drifts], ids=["rows", "sum", "drift"])
def test_counter_drift_is_noticed(tmp_path: Path, tap: Tap) -> None:
    assert_bites(FAN_OUT, tmp_path, tap)


def test_delivery_at_most_once_is_noticed(tmp_path: Path) -> None:
    """A message that never reaches its worker: the story does not end."""
    assert_bites(FAN_OUT, tmp_path, _gives_up_on_duplicates)
