"""What is to do is counted before any worker has looked at it."""

import asyncio

from taskloom import TaskModule
from tests.conftest import MakeModule
from tests.support.clock import FakeClock


def depths(module: TaskModule) -> list[tuple[str, str, str, int, float]]:
    figures = module.sync.task_service.queues.figures()
    return [(row.tenant_code, row.kind, row.task_type, row.waiting, row.oldest_age) for row in figures]


def test_what_no_worker_has_put_into_the_queue_yet_waits_too(make_module: MakeModule, clock: FakeClock) -> None:
    """Whoever asks for the depths because no worker runs would be told that there is nothing to do."""
    module = make_module(clock=clock)
    module.task("cat")(lambda event: None)
    module.step_function_task("cats")(lambda event: None)
    service = module.sync.task_service
    service.create_task(tenant_code="a", task_type="cat")
    clock.advance(60)
    service.create_task(tenant_code="a", task_type="cat")
    service.create_step_function_task(tenant_code="b", task_type="cats", input=[1, 2])
    assert depths(module) == [("a", "TASK", "cat", 2, 60.0), ("b", "SFN_TASK", "cats", 1, 0.0)]

    async def work() -> None:
        async with module.worker() as worker:
            await worker.drain()

    asyncio.run(work())
    assert depths(module) == []
    service.retry_task(service.list_tasks("b", type="SFN_TASK").items[0].key, only_failed=False)
    assert depths(module) == [("b", "SFN_TASK", "cats", 1, 0.0)]
