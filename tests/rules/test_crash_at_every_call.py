"""Rules 1 to 5 when the process dies, before and after each single call of a port, and another one takes over."""

import asyncio
from itertools import count
from pathlib import Path

import pytest

from tests.support.clock import FakeClock
from tests.support.faults import READS, Crash, CrashAt, tapped
from tests.support.rules import check_rules
from tests.support.scenarios import SCENARIOS, Scenario, check_end, open_backend, recover, tell


async def crash(scenario: Scenario, database: Path, number: int, *, after: bool) -> str | None:
    """Let the process die at call *number*, recover, check; the name of the call, None when there is no such call."""
    clock = FakeClock()
    backend = open_backend(database, clock)
    try:
        tap = CrashAt(number, after=after)
        try:
            await tell(scenario, tapped(backend, tap), clock)
        except (Crash, BaseExceptionGroup):
            assert tap.at is not None
            await asyncio.to_thread(check_rules, database)  # they hold at every moment, not only in the end
        if tap.at is not None:
            await recover(scenario, backend, clock)
        created = tap.at is None or tap.at.name != "store.create" or after or scenario.is_repeated
        await check_end(scenario, backend, created=created)
    finally:
        await asyncio.to_thread(backend.close)
    check_rules(database)
    return None if tap.at is None else tap.at.name


@pytest.mark.timeout(360)  # up to 200 crashes each: seconds on an idle machine, minutes on a busy one
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_crash_before_and_after_every_call(scenario: Scenario, tmp_path: Path) -> None:
    """Enumerated, not sampled. A crash after a read is the crash before the next call, so it is left out."""
    points: list[str] = []
    for number in count(1):
        names = set()
        for after in (False, True):
            try:
                name = asyncio.run(crash(scenario, tmp_path / f"{number}-{after}.db", number, after=after))
            except AssertionError as error:
                error.add_note(f"crash {'after' if after else 'before'} call {number}; before it: {points[-6:]}")
                raise
            names.add(name)
            if name is not None:
                points.append(f"{'after' if after else 'before'} {name}")
            if name in READS:
                break
        if names == {None}:
            break
    print(f"{scenario}: {len(points)} crashes survived")
    assert len(points) > 8
