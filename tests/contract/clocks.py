"""The contract of `ports.Clock`."""

import asyncio
from datetime import UTC, timedelta

import pytest

from taskloom.ports import Backend
from tests.contract.base import HOUR, PATIENCE, Contract, in_threads, scenario

SOON = timedelta(milliseconds=20)


class ClockContract(Contract):
    """Every sentence of `ports.Clock`, for the clock of a backend."""

    def test_now_is_utc_in_whole_milliseconds(self, backend: Backend) -> None:
        """So that an instant survives storage unchanged."""
        now = backend.clock.now()
        assert now.tzinfo is UTC
        assert now.microsecond % 1000 == 0

    @scenario
    async def test_time_goes_on(self, backend: Backend) -> None:
        before = backend.clock.now()
        await self.elapse(backend, SOON)
        assert backend.clock.now() >= before + SOON

    @scenario
    async def test_wait_ends_when_its_time_has_come(self, backend: Backend) -> None:
        """And not before; the event was not set."""
        event, until = asyncio.Event(), backend.clock.now() + SOON
        waiting = asyncio.ensure_future(backend.clock.wait(event, until))
        await self.elapse(backend, SOON)
        assert await asyncio.wait_for(waiting, PATIENCE) is False
        assert backend.clock.now() >= until

    @scenario
    async def test_wait_does_not_wait_for_the_past(self, backend: Backend) -> None:
        """It says whether the event is set all the same."""
        event = asyncio.Event()
        for until in (backend.clock.now(), backend.clock.now() - HOUR):
            assert await asyncio.wait_for(backend.clock.wait(event, until), PATIENCE) is False
        event.set()
        for until in (backend.clock.now(), backend.clock.now() - HOUR):
            assert await asyncio.wait_for(backend.clock.wait(event, until), PATIENCE) is True

    @scenario
    async def test_wait_does_not_wait_for_an_event_that_is_set(self, backend: Backend) -> None:
        event = asyncio.Event()
        event.set()
        for until in (None, backend.clock.now() + HOUR):
            assert await asyncio.wait_for(backend.clock.wait(event, until), PATIENCE) is True

    @scenario
    async def test_the_event_ends_the_wait(self, backend: Backend) -> None:
        """Long before its time, and where there is none."""
        for until in (None, backend.clock.now() + HOUR):
            event = asyncio.Event()
            waiting = asyncio.ensure_future(backend.clock.wait(event, until))
            asyncio.get_running_loop().call_soon(event.set)
            assert await asyncio.wait_for(waiting, PATIENCE) is True

    @scenario
    async def test_a_wait_can_be_cancelled(self, backend: Backend) -> None:
        """It leaves nothing behind that would still run."""
        for until in (None, backend.clock.now() + HOUR):
            waiting = asyncio.ensure_future(backend.clock.wait(asyncio.Event(), until))
            asyncio.get_running_loop().call_soon(waiting.cancel)
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await asyncio.wait([asyncio.ensure_future(backend.clock.wait(asyncio.Event(), backend.clock.now()))])
        assert asyncio.all_tasks() == {asyncio.current_task()}

    def test_several_loops_wait_at_the_same_time(self, backend: Backend) -> None:
        """Each for its own event and its own time."""

        async def wait(number: int) -> bool:
            event, until = asyncio.Event(), backend.clock.now() + SOON
            if number % 2:
                asyncio.get_running_loop().call_soon(event.set)
                return await asyncio.wait_for(backend.clock.wait(event, until + HOUR), PATIENCE)
            waiting = asyncio.ensure_future(backend.clock.wait(event, until))
            await self.elapse(backend, SOON)
            return await asyncio.wait_for(waiting, PATIENCE)

        assert in_threads(4, wait) == [False, True, False, True]
