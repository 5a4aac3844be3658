"""Stories on stores that break a rule on purpose: the checks that pass on the real one must fail there."""

import asyncio
from pathlib import Path

import pytest

from tests.support.clock import FakeClock
from tests.support.faults import Tap, tapped
from tests.support.rules import check_rules
from tests.support.scenarios import Scenario, check_end, open_backend, recover, tell


async def tell_and_check(scenario: Scenario, database: Path, tap: Tap | None = None) -> None:
    """Tell the story on a backend behind *tap*, have a second worker look, and check everything."""
    clock = FakeClock()
    backend = open_backend(database, clock)
    broken = backend if tap is None else tapped(backend, tap)
    try:
        await tell(scenario, broken, clock)
        await recover(scenario, broken, clock)
        await check_end(scenario, backend)
    finally:
        await asyncio.to_thread(backend.close)
    check_rules(database)


def assert_bites(scenario: Scenario, folder: Path, tap: Tap) -> None:
    """Assert that the checks are green without *tap*, and red with it."""
    asyncio.run(tell_and_check(scenario, folder / "sound.db"))
    with pytest.raises(AssertionError):
        asyncio.run(tell_and_check(scenario, folder / "broken.db", tap))
