"""Rule 4: duplicate, late and reordered records and messages change nothing."""

import asyncio
from collections.abc import Callable

import pytest

from taskloom.ports import Backend, Delivery, MessageKind, StreamRecord
from tests.support.clock import FakeClock
from tests.support.faults import Duplicating, Probe, Reordering, Replaying, Tap, tapped
from tests.support.scenarios import (
    FAN_OUT,
    RETRY,
    SINGLE,
    Effects,
    Scenario,
    check_end,
    module_for,
    picture,
    recover,
    tell,
    work,
)

_CALLS = [(SINGLE, 1), (RETRY, 2), (FAN_OUT, 6)]
CALLS = {scenario.name: calls for plain, calls in _CALLS for scenario in (plain, plain.watched())}
"""How often handlers are called when nothing goes wrong. Watched: only then a worker takes the records in its hands."""
STORIES = [scenario for plain, _ in _CALLS for scenario in (plain, plain.watched())]


@pytest.mark.parametrize("make", [Duplicating, Reordering], ids=["duplicate", "reordered"])
@pytest.mark.parametrize("scenario", STORIES, ids=str)
def test_the_story_ends_the_same(
    backend: Backend, clock: FakeClock, scenario: Scenario, make: Callable[[], Tap]
) -> None:
    """And no handler is called once more than without the disturbance."""

    async def main() -> None:
        effects = Effects()
        await tell(scenario, tapped(backend, make()), clock, effects)
        assert len(effects.all) == CALLS[scenario.name]
        await recover(scenario, backend, clock, effects)  # what was left behind by duplicates is let go
        await check_end(scenario, backend)
        assert len(effects.all) == CALLS[scenario.name]

    asyncio.run(main())


@pytest.mark.parametrize("newest_first", [False, True], ids=["late", "late and reordered"])
@pytest.mark.parametrize("scenario", STORIES, ids=str)
def test_what_comes_late_changes_nothing(
    backend: Backend, clock: FakeClock, scenario: Scenario, newest_first: bool
) -> None:
    """Everything that was ever delivered comes once more when the story is over: not a single row is written."""

    async def main() -> None:
        effects, late = Effects(), Replaying()
        await tell(scenario, tapped(backend, late), clock, effects)
        before = await picture(backend)
        assert late.replay(newest_first=newest_first) >= 1 + (scenario.event_factory is not None)
        await work(module_for(scenario, tapped(backend, late), effects))
        assert await picture(backend) == before
        assert len(effects.all) == CALLS[scenario.name]
        await check_end(scenario, backend)

    asyncio.run(main())


@pytest.mark.parametrize("make", [Duplicating, Reordering, Replaying], ids=["duplicate", "reordered", "late"])
def test_every_kind_of_message_is_disturbed(backend: Backend, clock: FakeClock, make: Callable[[], Tap]) -> None:
    """The tests above would pass if a fan-out had no messages to disturb."""

    async def main() -> None:
        probe, disturbance = Probe(), make()
        story, disturbed = FAN_OUT.watched(), tapped(tapped(backend, disturbance), probe)
        await tell(story, disturbed, clock)
        # A second copy of a chunk meets the live lease of the first: the execution looks again when it has ended.
        await recover(story, disturbed, clock)
        if isinstance(disturbance, Replaying):
            disturbance.replay()
            await work(module_for(story, disturbed, Effects()))
        seen = [item for answer in probe.answers if isinstance(answer, list) for item in answer]
        assert any(isinstance(item, StreamRecord) for item in seen)
        kinds = [item.kind for item in seen if isinstance(item, Delivery)]
        assert set(kinds) == set(MessageKind)
        if make is not Reordering:
            assert all(kinds.count(kind) >= 2 for kind in MessageKind)

    asyncio.run(main())


@pytest.mark.parametrize("scenario", STORIES, ids=str)
def test_two_workers_and_every_message_twice(backend: Backend, clock: FakeClock, scenario: Scenario) -> None:
    """Both workers get everything twice, and run nothing twice."""

    async def main() -> None:
        effects = Effects()
        first = module_for(scenario, tapped(backend, Duplicating()), effects)
        second = module_for(scenario, tapped(backend, Duplicating()), effects)
        await scenario.create(first.task_service)
        async with first.worker(concurrency=3) as one, second.worker(concurrency=3) as other:
            await asyncio.gather(one.drain(), other.drain())
            for seconds in scenario.patience:
                clock.advance(seconds)
                await asyncio.gather(one.drain(), other.drain())
        await recover(scenario, backend, clock, effects)  # drain waits for nothing that the other one holds
        await check_end(scenario, backend)
        assert len(effects.all) == CALLS[scenario.name]

    asyncio.run(main())
