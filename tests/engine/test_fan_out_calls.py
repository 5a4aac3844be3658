"""What a fan-out that is to end, or cannot run, asks of the state machine: nothing more than it must."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskloom import StepFunctionTaskEvent, TaskQueueEvent, TaskStatus
from taskloom.errors import StoreBusy
from taskloom.ports import Backend, ExecutionStatus, MessageKind
from tests.support.clock import FakeClock
from tests.support.faults import Inner, PortCall, Probe, tapped
from tests.support.scenarios import LEASE, TENANT, module_over, open_backend, work

CHUNKS = 30


@pytest.fixture
def backend(tmp_path: Path, clock: FakeClock) -> Iterator[Backend]:
    backend = open_backend(tmp_path / "tasks.db", clock)
    yield backend
    backend.close()


def chunks_reported(probe: Probe) -> int:
    return [call.args[0].kind for call in probe.named("machine.report")].count(MessageKind.CHUNK)


def test_no_chunk_is_started_after_one_that_saw_the_cancellation(backend: Backend) -> None:
    """Rule 6: what is left is ended by one step, not by one look per chunk. The first one has ended unawares."""
    probe = Probe()
    module = module_over(tapped(backend, probe))

    @module.step_function_task("job", chunk_size=1, max_concurrency=1)
    async def job(event: StepFunctionTaskEvent) -> None:
        await module.task_service.cancel_task(event.task.key.parent)

    async def main() -> None:
        create = module.task_service.create_step_function_task
        made = await create(tenant_code=TENANT, task_type="job", input=range(CHUNKS))
        await work(module, concurrency=1)
        assert (await module.task_service.get_task(made.key)).status is TaskStatus.CANCELLED

    asyncio.run(main())
    assert chunks_reported(probe) == 2


def test_no_chunk_is_started_after_one_that_saw_the_deadline_pass(backend: Backend, clock: FakeClock) -> None:
    """Between two of its sub-tasks; the second one is not started either."""
    probe = Probe()
    module, ran = module_over(tapped(backend, probe)), list[int | None]()

    @module.step_function_task("job", chunk_size=2, max_concurrency=1, deadline=10)
    async def job(event: StepFunctionTaskEvent) -> None:
        ran.append(event.task.index)
        clock.advance(11)  # less than the message of the chunk is held for, or it would come twice

    async def main() -> None:
        create = module.task_service.create_step_function_task
        made = await create(tenant_code=TENANT, task_type="job", input=range(CHUNKS))
        await work(module, concurrency=1)
        assert (await module.task_service.get_task(made.key)).status is TaskStatus.FAILED

    asyncio.run(main())
    assert (ran, chunks_reported(probe)) == ([0], 1)


def test_a_fan_out_that_nobody_here_can_run_starts_no_execution(backend: Backend) -> None:
    """It ends at once, and nothing is left running that would have to be ended too."""

    class OnlySingle:
        async def transform_task(self, event: TaskQueueEvent) -> list[Any]:
            return [event]

    probe = Probe()
    module = module_over(tapped(backend, probe))
    module._registry.factory = OnlySingle()

    async def main() -> None:
        create = module.task_service.create_step_function_task
        made = await create(tenant_code=TENANT, task_type="job", input=[1, 2])
        await work(module)
        task = await module.task_service.get_task(made.key)
        assert task.status is TaskStatus.FAILED
        assert task.error is not None
        assert task.error.type == "NoHandler"
        assert task.execution_arn is not None
        execution = await module.step_function_service.describe_execution(task.execution_arn)
        assert execution.status is ExecutionStatus.PENDING

    asyncio.run(main())
    assert not probe.named("machine.start")


def test_a_step_that_could_not_be_reported_comes_again_before_its_lease_ends(
    backend: Backend, clock: FakeClock
) -> None:
    """The storage was busy for a moment; nobody has died, so nobody waits for a lease."""
    failures = [StoreBusy("on purpose")]

    async def busy_once(call: PortCall, inner: Inner) -> Any:
        if call.name == "machine.report" and failures:
            raise failures.pop()
        return await inner()

    module = module_over(tapped(backend, busy_once))
    module.step_function_task("job")(lambda event: None)

    async def main() -> None:
        create = module.task_service.create_step_function_task
        made = await create(tenant_code=TENANT, task_type="job", input=[1])
        async with module.worker(grace=0) as worker:
            await worker.drain()
            clock.advance(LEASE / 2)
            await worker.drain()
            assert (await module.task_service.get_task(made.key)).status is TaskStatus.COMPLETED

    asyncio.run(main())
    assert not failures
