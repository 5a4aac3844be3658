"""The permits of a worker to run handlers: never more are taken than there are, and nobody waits for ever."""

import asyncio

import pytest

from taskloom.execution.slots import Slots
from tests.support.faults import DEADLINE


async def turns() -> None:
    """Give everybody who could go on the time to do it."""
    for _ in range(5):
        await asyncio.to_thread(lambda: None)


def never() -> bool:
    return False


def test_all_free_slots_are_taken_at_once() -> None:
    async def main() -> None:
        slots = Slots(3)
        assert await slots.take_unless(never)
        assert await slots.take_all_unless(never) == 2
        slots.give_back()
        slots.give_back(2)
        assert await slots.take_all_unless(never) == 3

    asyncio.run(main())


def test_who_finds_none_waits_for_one() -> None:
    """One that comes back is for one of them."""

    async def main() -> None:
        slots = Slots(1)
        assert await slots.take_unless(never)
        waiting = [asyncio.create_task(slots.take_unless(never)) for _ in range(2)]
        await turns()
        assert not any(task.done() for task in waiting)
        slots.give_back()
        async with asyncio.timeout(DEADLINE):
            done, rest = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        await turns()
        assert [task.result() for task in done] == [True]
        assert not any(task.done() for task in rest)
        slots.give_back(2)
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*rest)
        assert await slots.take_all_unless(never) == 1

    asyncio.run(main())


@pytest.mark.parametrize("taken", [0, 1])
def test_who_is_over_takes_none(taken: int) -> None:
    """Also when there are some."""

    async def main() -> None:
        slots = Slots(1 + taken)
        for _ in range(taken):
            await slots.take_unless(never)
        assert not await slots.take_unless(lambda: True)
        assert await slots.take_all_unless(lambda: True) == 0
        assert await slots.take_all_unless(never) == 1

    asyncio.run(main())


def test_who_waits_and_is_over_learns_it_by_a_nudge() -> None:
    async def main() -> None:
        slots, over = Slots(1), False
        await slots.take_unless(never)
        one = asyncio.create_task(slots.take_unless(lambda: over))
        other = asyncio.create_task(slots.take_all_unless(lambda: over))
        await turns()
        slots.nudge()  # it looks, and waits on
        await turns()
        assert not one.done()
        assert not other.done()
        over = True
        slots.nudge()
        async with asyncio.timeout(DEADLINE):
            assert await one is False
            assert await other == 0
        slots.give_back()
        assert await slots.take_all_unless(never) == 1

    asyncio.run(main())
