"""Rule 2: one owner at a time. Whoever lost its claim loses its result too, and that is logged."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from taskloom import StepFunctionTaskEvent, TaskModule, TaskQueueEvent, TaskStatus
from taskloom.errors import StoreBusy
from taskloom.lifecycle import Change, Claimant, Guard, Refused, Written, claim
from taskloom.model import Kind, TaskEntity
from taskloom.ports import Backend
from tests.support.clock import FakeClock
from tests.support.faults import DEADLINE, Duplicating, Inner, PortCall, Probe, Tap, tapped
from tests.support.rules import check_rules
from tests.support.scenarios import LEASE, TENANT, Effects, check_history, module_over, open_backend, work


async def _no_heart(call: PortCall, inner: Inner) -> Any:
    """A worker whose heart has stopped: no lease is renewed, no message extended."""
    if call.name == "queue.extend" or (
        call.name == "store.update_many" and all("lease_until" in change.patch for change in call.args[0])
    ):
        raise StoreBusy("on purpose")
    return await inner()


async def overtaken(backend: Backend, clock: FakeClock, kind: str, slow: Tap) -> TaskEntity[Any]:
    """A worker loses its lease to a second one, and ends first; how the task stands when both are through."""
    first_is_in, second_is_in = asyncio.Event(), asyncio.Event()
    first_may_go, second_may_go = asyncio.Event(), asyncio.Event()

    def handler(name: str, inside: asyncio.Event, leave: asyncio.Event) -> Callable[[Any], Any]:
        async def handle(event: Any) -> str:
            inside.set()
            await leave.wait()
            return name

        return handle

    def module(name: str, wrapped: Backend, inside: asyncio.Event, leave: asyncio.Event) -> TaskModule:
        made = module_over(wrapped)
        made.task("cat")(handler(name, inside, leave))
        made.step_function_task("cat")(handler(name, inside, leave))
        return made

    probe = Probe()
    first = module("first", tapped(tapped(tapped(backend, slow), _no_heart), probe), first_is_in, first_may_go)
    second = module("second", backend, second_is_in, second_may_go)
    service = second.task_service
    async with asyncio.timeout(DEADLINE):
        if kind == "TASK":
            task = await service.create_task(tenant_code=TENANT, task_type="cat")
        else:
            task = await service.create_step_function_task(tenant_code=TENANT, task_type="cat", input=[1])
        async with first.worker(concurrency=1):  # so that it does not take over from itself
            await first_is_in.wait()
            clock.advance(LEASE)
            async with second.worker() as worker:
                await second_is_in.wait()
                first_may_go.set()
                await probe.until(lambda: _has_tried_to_end(probe))
                second_may_go.set()
                while not (await service.get_task(task.key)).is_terminal:
                    await worker.drain()
                    clock.advance(1)
    if kind == "TASK":
        return await service.get_task(task.key)
    return (await service.list_sub_tasks(task.key)).items[0]


def _has_tried_to_end(probe: Probe) -> bool:
    """Whether a result was handed to the store, and the store has answered."""
    updates = probe.named("store.update")
    return any("results" in call.args[0].patch for call in updates) and probe.count("store.update") == len(updates)


def check_owner(task: TaskEntity[Any]) -> None:
    """Assert that the second worker, which held the claim, has ended the task."""
    assert task.status is TaskStatus.COMPLETED
    assert task.result == "second", "the one who had lost its claim wrote the result"
    assert task.attempt == 2
    ends = [entry for entry in task.history if entry.status is TaskStatus.COMPLETED]
    owners = [entry for entry in task.history if entry.status is TaskStatus.IN_PROGRESS]
    assert len(ends) == 1
    assert len(owners) == 2
    assert ends[0].by == owners[1].by != owners[0].by
    check_history(task)


async def _as_it_is(call: PortCall, inner: Inner) -> Any:
    return await inner()


@pytest.mark.parametrize("kind", ["TASK", "SFN_TASK"])
def test_whoever_lost_its_claim_loses_its_result(
    backend: Backend, clock: FakeClock, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "taskloom"):
        check_owner(asyncio.run(overtaken(backend, clock, kind, _as_it_is)))
    assert "the claim was lost" in caplog.text


async def _no_fence(call: PortCall, inner: Inner) -> Any:
    """A store that asks for no fence."""
    if call.name == "store.update" and not call.args[0].guard.absent:
        change = call.args[0]
        return await inner(replace(change, guard=change.guard._replace(fence=None)))
    return await inner()


@pytest.mark.parametrize("kind", ["TASK", "SFN_TASK"])
def test_a_store_without_fencing_is_noticed(tmp_path: Path, clock: FakeClock, kind: str) -> None:
    backend = open_backend(tmp_path / "broken.db", clock)
    task = asyncio.run(overtaken(backend, clock, kind, _no_fence))
    with pytest.raises(AssertionError):
        check_owner(task)
    backend.close()


# --- the claim -------------------------------------------------------------------------------------------------------


async def claims(backend: Backend, tap: Tap) -> list[Written | Refused]:
    """What twenty workers are told that claim one task at the same time."""
    broken = tapped(backend, tap)
    task = await module_over(backend).task_service.create_task(tenant_code=TENANT, task_type="cat")

    def change(number: int) -> Change:
        who = Claimant(
            by=f"worker {number}",
            claim_id=f"claim{number}",
            now=backend.clock.now(),
            lease=timedelta(seconds=LEASE),
            max_lost=3,
        )
        decision = claim(task.key, task, Kind.TASK, who)
        assert isinstance(decision, Change)
        return decision

    outcomes = await asyncio.gather(*(broken.store.update(change(number)) for number in range(20)))
    stored = await backend.store.get(task.key)
    assert stored is not None
    won = [outcome for outcome in outcomes if isinstance(outcome, Written)]
    assert len(won) == 1, f"{len(won)} workers own the task"
    assert won[0].entity == stored
    assert stored.status is TaskStatus.IN_PROGRESS
    assert (stored.fence, stored.dispatch) == (1, None)
    assert stored.lease_until == backend.clock.now() + timedelta(seconds=LEASE)
    assert all(outcome.current == stored for outcome in outcomes if isinstance(outcome, Refused))
    return list(outcomes)


def test_of_many_who_claim_at_once_one_owns_the_task(tmp_path: Path, clock: FakeClock) -> None:
    """The claim is one conditional write; whoever is refused sees who was faster."""
    backend = open_backend(tmp_path / "tasks.db", clock)
    asyncio.run(claims(backend, _as_it_is))
    backend.close()


async def _no_guard(call: PortCall, inner: Inner) -> Any:
    """A store that carries out every claim."""
    if call.name == "store.update":
        return await inner(replace(call.args[0], guard=Guard()))
    if call.name == "store.update_many":
        return await inner([replace(change, guard=Guard()) for change in call.args[0]])
    return await inner()


def test_a_store_that_lets_two_claim_is_noticed(tmp_path: Path, clock: FakeClock) -> None:
    backend = open_backend(tmp_path / "broken.db", clock)
    with pytest.raises(AssertionError):
        asyncio.run(claims(backend, _no_guard))
    backend.close()


async def calls_under_duplicates(backend: Backend, clock: FakeClock, tap: Tap) -> list[Any]:
    """What handlers are called for when two workers get every message twice."""
    effects = Effects()

    def module() -> TaskModule:
        made = module_over(tapped(tapped(backend, tap), Duplicating()))

        @made.task("cat")
        async def cat(event: TaskQueueEvent) -> None:
            effects.add(event.task.id)

        @made.step_function_task("cat")
        async def cats(event: StepFunctionTaskEvent) -> None:
            effects.add(event.task.id)

        return made

    service = module_over(backend).task_service
    for number in range(5):
        await service.create_task(tenant_code=TENANT, task_type="cat", input=number)
    await service.create_step_function_task(tenant_code=TENANT, task_type="cat", input=range(5))
    async with module().worker() as one, module().worker() as other:
        await asyncio.gather(one.drain(), other.drain())
    # Drain does not wait for what the other one holds: somebody ends what they left.
    for _ in range(3):
        clock.advance(LEASE + 1)
        await work(module())
    return effects.all


def test_nothing_runs_twice_under_duplicates(backend: Backend, clock: FakeClock) -> None:
    effects = asyncio.run(calls_under_duplicates(backend, clock, _as_it_is))
    assert len(effects) == len(set(effects)) == 10


def test_two_owners_under_duplicates_are_noticed(tmp_path: Path, clock: FakeClock) -> None:
    """The check above sees a store without guards."""
    backend = open_backend(tmp_path / "broken.db", clock)
    effects = asyncio.run(calls_under_duplicates(backend, clock, _no_guard))
    assert len(effects) > len(set(effects))
    backend.close()


async def _keeps_its_lease(call: PortCall, inner: Inner) -> Any:
    """A store whose claims have no lease."""
    if call.name == "store.update":
        change = call.args[0]
        if change.patch.get("status") is TaskStatus.IN_PROGRESS:
            return await inner(replace(change, patch={**change.patch, "lease_until": None}))
    return await inner()


def test_a_claim_without_a_lease_is_noticed(tmp_path: Path, clock: FakeClock) -> None:
    """By the rules that are checked on every file: its worker could die, and nobody would ever know."""
    path = tmp_path / "broken.db"
    backend = open_backend(path, clock)
    inside, leave = asyncio.Event(), asyncio.Event()
    module = module_over(tapped(backend, _keeps_its_lease))

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        inside.set()
        await leave.wait()

    async def main() -> None:
        await module.task_service.create_task(tenant_code=TENANT, task_type="cat")
        async with module.worker():
            await inside.wait()
            with pytest.raises(AssertionError):
                await asyncio.to_thread(check_rules, path)
            leave.set()

    asyncio.run(main())
    asyncio.run(work(module))
    backend.close()
