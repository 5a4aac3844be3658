"""Rule 3: a running parent is owned by its execution, not by a lease; its end is conditional on run and IN_PROGRESS."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from taskloom import StepFunctionTaskEvent, TaskModule, TaskStatus
from taskloom.lifecycle import Refused, Written, counted, finalized
from taskloom.model import TaskEntity
from taskloom.ports import Backend, ExecutionStatus, MessageKind
from tests.support.clock import FakeClock
from tests.support.faults import DEADLINE, Inner, PortCall, Probe, Replaying, tapped
from tests.support.scenarios import (
    FAN_OUT,
    LEASE,
    TENANT,
    Effects,
    all_tasks,
    check_end,
    module_for,
    module_over,
    open_backend,
    picture,
    work,
)

IN_PROGRESS = TaskStatus.IN_PROGRESS


class Waiting:
    """A fan-out of three whose sub-tasks wait."""

    def __init__(self, backend: Backend) -> None:
        self.module: TaskModule = module_over(backend)
        self.inside, self.leave = asyncio.Event(), asyncio.Event()

        @self.module.step_function_task("cat", chunk_size=3)
        async def cat(event: StepFunctionTaskEvent) -> None:
            self.inside.set()
            await self.leave.wait()

    async def create(self) -> TaskEntity[Any]:
        return await self.module.task_service.create_step_function_task(
            tenant_code=TENANT, task_type="cat", input=range(3)
        )

    async def look(self, task: TaskEntity[Any]) -> TaskEntity[Any]:
        return await self.module.task_service.get_task(task.key)


def test_a_running_parent_has_no_lease_however_long_it_runs(backend: Backend, clock: FakeClock) -> None:
    """A day: nobody reclaims it, no attempt is counted, it is written by nobody."""

    async def main() -> None:
        probe = Probe()
        waiting = Waiting(tapped(backend, probe))
        parent = await waiting.create()
        async with waiting.module.worker() as worker, asyncio.timeout(DEADLINE):
            await waiting.inside.wait()
            running = await waiting.look(parent)
            assert (running.status, running.lease_until, running.attempt) == (IN_PROGRESS, None, 1)
            for _ in range(10):
                before = probe.count("store.update_many")
                clock.advance(LEASE / 3)
                await probe.answered("store.update_many", before + 1)  # the lease of the sub-task is renewed
            assert await waiting.look(parent) == running
            waiting.leave.set()
            await worker.drain()
        done = await waiting.look(parent)
        assert (done.status, done.attempt) == (TaskStatus.COMPLETED, 1)

    asyncio.run(main())


def test_a_second_message_starts_no_second_execution(backend: Backend, clock: FakeClock) -> None:
    """Whenever it comes, "already exists" is the answer, and the execution goes on as it was."""

    async def main() -> None:
        effects, probe, late = Effects(), Probe(), Replaying()
        module = module_for(FAN_OUT, tapped(tapped(backend, probe), late), effects)
        parent = await FAN_OUT.create(module.task_service)
        async with module.worker() as worker:
            await worker.drain()
            assert parent.execution_arn is not None
            first = await backend.machine.describe(parent.execution_arn)
            late.replay()
            clock.advance(1)
            await worker.drain()
        async with module.worker() as worker:
            await worker.drain()
        assert len(probe.named("machine.start")) >= 1
        names = {call.args[0] for call in probe.named("machine.start")}
        assert names == {parent.code}
        assert await backend.machine.describe(parent.execution_arn) == first
        assert len(effects.all) == 6
        await check_end(FAN_OUT, backend)

    asyncio.run(main())


def test_starting_twice_is_the_same_execution(backend: Backend, clock: FakeClock) -> None:
    """Also when the first one has ended meanwhile: its name is used up."""

    async def main() -> None:
        probe = Probe()
        module = module_for(FAN_OUT, tapped(backend, probe), Effects())
        await FAN_OUT.create(module.task_service)
        await work(module)
        (call,) = probe.named("machine.start")
        again = await backend.machine.start(*call.args)
        assert again.status is ExecutionStatus.SUCCEEDED
        assert await backend.machine.start(call.args[0], replace(call.args[1], chunks=1)) == again
        await work(module)
        await check_end(FAN_OUT, backend)

    asyncio.run(main())


class LosesFinalize:
    """A state machine whose last step did nothing: the execution ends, and the parent stays open."""

    async def __call__(self, call: PortCall, inner: Inner) -> Any:
        if call.name == "store.update" and "finished_at" in call.args[0].patch and call.args[0].guard.run is not None:
            return Written()
        return await inner()


def test_an_execution_that_ended_but_left_its_parent_open_is_finished(backend: Backend, clock: FakeClock) -> None:
    """Whoever meets it asks the execution itself. First the fault is shown to be one."""

    async def main() -> None:
        late = Replaying()
        broken = module_for(FAN_OUT, tapped(tapped(backend, LosesFinalize()), late), Effects())
        parent = await FAN_OUT.create(broken.task_service)
        await work(broken)
        assert parent.execution_arn is not None
        execution = await backend.machine.describe(parent.execution_arn)
        assert execution is not None
        assert execution.status is ExecutionStatus.SUCCEEDED
        (open_,) = await all_tasks(backend)
        assert open_.status is IN_PROGRESS
        with pytest.raises(AssertionError):
            await check_end(FAN_OUT, backend)
        assert late.replay() > 0
        await work(module_for(FAN_OUT, tapped(backend, late), Effects()))
        await check_end(FAN_OUT, backend)

    asyncio.run(main())


def test_an_execution_that_says_it_ended_does_not_end_its_parent_too_early(backend: Backend, clock: FakeClock) -> None:
    """Not before every chunk has its row: the sum would be wrong."""

    async def lies(call: PortCall, inner: Inner) -> Any:
        answer = await inner()
        return replace(answer, status=ExecutionStatus.ABORTED) if call.name == "machine.start" else answer

    async def main() -> None:
        module = module_for(FAN_OUT, tapped(backend, lies), Effects())
        await FAN_OUT.create(module.task_service)
        await work(module)
        await check_end(FAN_OUT, backend)

    asyncio.run(main())


def test_the_end_and_the_counters_are_conditional_on_run_and_status(backend: Backend, clock: FakeClock) -> None:
    """What an execution of another run, or a late one, writes is refused."""

    async def main() -> None:
        waiting = Waiting(backend)
        parent = await waiting.create()
        async with waiting.module.worker() as worker, asyncio.timeout(DEADLINE):
            await waiting.inside.wait()
            running = await waiting.look(parent)
            for run in (0, 2):
                other = replace(running, run=run)
                end = finalized(other, succeeded=3, failed=0, now=clock.now(), by="late", claim_id="late")
                assert isinstance(await backend.store.update(end), Refused)
                count = counted(parent.key, run, succeeded=1, failed=0, now=clock.now())
                assert isinstance(await backend.store.update(count), Refused)
            assert await waiting.look(parent) == running
            waiting.leave.set()
            await worker.drain()
        done = await waiting.look(parent)
        assert done.status is TaskStatus.COMPLETED
        before = await picture(backend)
        end = finalized(done, succeeded=0, failed=3, now=clock.now(), by="late", claim_id="late")
        assert isinstance(await backend.store.update(end), Refused)
        count = counted(parent.key, 1, succeeded=1, failed=0, now=clock.now())
        assert isinstance(await backend.store.update(count), Refused)
        assert await picture(backend) == before

    asyncio.run(main())


def test_a_store_that_forgets_run_and_status_is_noticed(tmp_path: Path, clock: FakeClock) -> None:
    """A late finalize overwrites the end: the pictures of the test above differ."""
    backend = open_backend(tmp_path / "broken.db", clock)

    async def main() -> None:
        module = module_for(FAN_OUT, backend, Effects())
        await FAN_OUT.create(module.task_service)
        await work(module)
        (done,) = await all_tasks(backend)
        end = finalized(done, succeeded=6, failed=0, now=clock.now(), by="late", claim_id="late")
        before = await picture(backend)
        await backend.store.update(replace(end, guard=end.guard._replace(status=None, run=None)))
        assert await picture(backend) != before
        with pytest.raises(AssertionError):
            await check_end(FAN_OUT, backend)

    asyncio.run(main())
    backend.close()


def test_every_step_of_an_execution_asks_for_its_parent_first(backend: Backend, clock: FakeClock) -> None:
    """Steps that come when the parent has ended, or is gone, do nothing but go on."""

    async def main() -> None:
        late, probe = Replaying(), Probe()
        module = module_for(FAN_OUT, tapped(tapped(backend, late), probe), Effects())
        await FAN_OUT.create(module.task_service)
        await work(module)
        before = await picture(backend)
        seen = len(probe.made)
        late.replay()
        await work(module)
        calls = [call.name for call in probe.made[seen:]]
        assert calls.count("machine.report") >= len([kind for kind in MessageKind if kind is not MessageKind.TASK])
        assert "store.put_chunk" not in calls
        assert "store.update" not in calls
        assert await picture(backend) == before

    asyncio.run(main())
