"""Rule 5: a status change and its history entry are the same write."""

import asyncio
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from taskloom.lifecycle import Change, Guard, Written
from taskloom.ports import Backend
from tests.support.clock import FakeClock
from tests.support.faults import Crash, CrashAt, Inner, PortCall, Probe, Tap, tapped
from tests.support.rules import check_rules
from tests.support.scenarios import (
    FAN_OUT,
    RETRY,
    SINGLE,
    Scenario,
    all_tasks,
    check_history,
    open_backend,
    tell,
)


@pytest.mark.parametrize("scenario", [SINGLE, RETRY, FAN_OUT], ids=str)
def test_every_change_of_a_status_brings_its_entry(backend: Backend, clock: FakeClock, scenario: Scenario) -> None:
    """What a story hands to the store: never one without the other, and always the same status."""

    async def main() -> None:
        probe = Probe()
        await tell(scenario, tapped(backend, probe), clock)
        changes = [call.args[0] for call in probe.named("store.update")]
        changes += [change for call in probe.named("store.update_many") for change in call.args[0]]
        statuses = 0
        for change in changes:
            assert isinstance(change, Change)
            status = change.patch.get("status")
            assert (change.history and change.history.status) is status
            statuses += status is not None
        assert statuses >= 2

    asyncio.run(main())


@pytest.mark.parametrize("scenario", [SINGLE, RETRY, FAN_OUT], ids=str)
def test_the_history_tells_of_every_status(backend: Backend, clock: FakeClock, scenario: Scenario) -> None:
    """At each moment at which somebody else could look: after every single write of the story."""

    async def main() -> None:
        async def look(call: PortCall, inner: Inner) -> Any:
            answer = await inner()
            if call.name.startswith("store."):
                for task in await all_tasks(backend):
                    check_history(task)
                    for row in await backend.store.list_sub_tasks(task.key, range(6)):
                        check_history(row)
            return answer

        await tell(scenario, tapped(backend, look), clock)

    asyncio.run(main())


# --- the check bites -------------------------------------------------------------------------------------------------


def history_in_a_second_write(backend: Backend) -> Tap:
    """A store that writes the status first, and what it has to say about it afterwards."""

    async def write(change: Change) -> Any:
        if change.history is None or change.guard.absent:
            return await backend.store.update(change)
        outcome = await backend.store.update(replace(change, history=None))
        if isinstance(outcome, Written):
            return await backend.store.update(replace(change, guard=Guard(), patch={}, history=change.history))
        return outcome

    async def tap(call: PortCall, inner: Inner) -> Any:
        if call.name == "store.update":
            return await write(call.args[0])
        if call.name == "store.update_many":
            return [await write(change) for change in call.args[0]]
        return await inner()

    return tap


async def crash_points(scenario: Scenario, folder: Path, *, broken: bool) -> tuple[int, int]:
    """At how many calls the process was let die, and how often the file was against the rules then."""
    crashes = against = 0
    for number in count(1):
        path = folder / f"{broken}-{number}.db"
        clock = FakeClock()
        backend = open_backend(path, clock)
        crash = CrashAt(number, after=False)
        mortal = tapped(backend, crash)
        try:
            await tell(scenario, tapped(mortal, history_in_a_second_write(mortal)) if broken else mortal, clock)
        except (Crash, BaseExceptionGroup):
            crashes += 1
            try:
                await asyncio.to_thread(check_rules, path)
            except AssertionError:
                against += 1
        await asyncio.to_thread(backend.close)
        if crash.at is None:
            return crashes, against
    raise AssertionError("unreachable")


@pytest.mark.parametrize("scenario", [SINGLE, FAN_OUT], ids=str)
def test_a_store_that_writes_history_second_is_noticed(tmp_path: Path, scenario: Scenario) -> None:
    """Between the two writes the process may die. On the real store there is no such moment."""
    crashes, against = asyncio.run(crash_points(scenario, tmp_path, broken=False))
    assert crashes > 5
    assert against == 0
    crashes, against = asyncio.run(crash_points(scenario, tmp_path, broken=True))
    assert crashes > 5
    assert against > 0
