"""The service: waiting for tasks, and who called."""

import asyncio
from typing import Any

import pytest

from taskloom import InvokeContext, NewTask, StepFunctionTaskEvent, TaskQueueEvent, TaskStatus
from taskloom.errors import InvalidInput
from tests.support.clock import FakeClock
from tests.surface.running import PATIENCE, MakeModule, drained, fan_out, single, within_patience

# --- wait ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_wait_returns_the_terminal_entity(make_module: MakeModule, fails: bool) -> None:
    module = make_module()

    @module.task("job")
    def job(event: TaskQueueEvent) -> str:
        if fails:
            raise LookupError
        return "done"

    async def scenario() -> None:
        service = module.task_service
        task = await service.create_task(tenant_code="acme", task_type="job")
        waiting = asyncio.create_task(service.wait(task.key, timeout=PATIENCE))
        async with module.worker():
            ended = await waiting
        assert ended.status == ("FAILED" if fails else "COMPLETED")
        assert ended == await service.get_task(task.key)
        assert await service.wait(task.key) == ended  # at once, when it has ended already

    asyncio.run(scenario())


def test_wait_is_for_fan_outs_and_sub_tasks_too(make_module: MakeModule) -> None:
    module = make_module()
    module.step_function_task("job")(lambda event: event.input.input)

    async def scenario() -> None:
        service = module.task_service
        parent = await service.create_step_function_task(tenant_code="acme", task_type="job", input=["a", "b"])
        keys = [sub.key async for sub in service.iter_sub_tasks(parent.key)]
        async with module.worker():
            ended = await service.wait(parent.key, timeout=PATIENCE)
            second = await service.wait(keys[1], timeout=PATIENCE)
        assert (ended.status, ended.attributes.sub_task_succeed_count) == (TaskStatus.COMPLETED, 2)
        assert second.result == "b"

    asyncio.run(scenario())


def test_wait_in_one_module_sees_what_another_does(make_module: MakeModule) -> None:
    """Two modules over one file share nothing else, like two processes."""
    waiter, runner = make_module(), make_module()
    runner.task("job")(lambda event: "done")

    async def scenario() -> Any:
        task = await waiter.task_service.create_task(tenant_code="acme", task_type="job")
        async with runner.worker():
            return await waiter.task_service.wait(task.key, timeout=PATIENCE)

    assert asyncio.run(scenario()).result == "done"


def test_wait_raises_timeout_error_when_the_time_is_up(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)

    async def scenario() -> None:
        service = module.task_service
        task = await service.create_task(tenant_code="acme", task_type="job")
        with pytest.raises(TimeoutError, match=f"{task.key} is still PENDING after 0 s"):
            await service.wait(task.key, timeout=0)
        waiting = asyncio.create_task(service.wait(task.key, timeout=5))
        while not waiting.done():
            clock.advance(1)
            await asyncio.wait([waiting], timeout=0)
        with pytest.raises(TimeoutError, match="after 5 s"):
            await waiting
        assert (await service.get_task(task.key)).status is TaskStatus.PENDING  # only the waiting ended

    asyncio.run(scenario())


@pytest.mark.parametrize("timeout", [-1, "soon", True, float("nan")])
def test_a_timeout_that_is_none_is_named(make_module: MakeModule, timeout: Any) -> None:
    module = make_module()

    async def scenario() -> None:
        task = await module.task_service.create_task(tenant_code="acme", task_type="job")
        with pytest.raises(InvalidInput, match="timeout"):
            await module.task_service.wait(task.key, timeout=timeout)

    asyncio.run(scenario())


def test_a_wait_that_is_cancelled_leaves_nothing_behind(make_module: MakeModule) -> None:
    module = make_module()
    module.task("job")(lambda event: "done")

    async def scenario() -> Any:
        service = module.task_service
        task = await service.create_task(tenant_code="acme", task_type="job")
        waiting = asyncio.create_task(service.wait(task.key))
        await asyncio.wait([waiting], timeout=0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await drained(module)
        return await service.wait(task.key)

    assert asyncio.run(scenario()).result == "done"


# --- drain -----------------------------------------------------------------------------------------------------------


def test_drain_goes_on_until_nothing_is_due_any_more(make_module: MakeModule) -> None:
    """Also what handlers create while it drains."""
    module, ran = make_module(), list[int]()

    @module.task("job")
    async def job(event: TaskQueueEvent[int]) -> None:
        ran.append(event.task.input)
        if event.task.input:
            await module.task_service.create_task(tenant_code="acme", task_type="job", input=event.task.input - 1)
        else:
            await module.task_service.create_step_function_task(tenant_code="acme", task_type="parts", input=[-1, -2])

    @module.step_function_task("parts")
    async def part(event: StepFunctionTaskEvent[int]) -> None:
        ran.append(event.task.input)

    asyncio.run(single(module, 3))
    assert ran[:4] == [3, 2, 1, 0]
    assert sorted(ran[4:]) == [-2, -1]


def test_drain_of_an_empty_queue_returns_at_once(make_module: MakeModule) -> None:
    module = make_module()
    module.task("job")(lambda event: None)
    asyncio.run(within_patience(drained(module)))


# --- who calls -------------------------------------------------------------------------------------------------------

ANN = InvokeContext(user_id="ann", source_ip="192.0.2.1", request_id="r-1", tenant_code="acme", roles=("clerk",))


def test_the_invoke_context_lands_in_the_entity(make_module: MakeModule) -> None:
    module = make_module()

    async def scenario() -> list[Any]:
        service = module.task_service
        one = await service.create_task(tenant_code="acme", task_type="job", invoke_context=ANN)
        parent = await service.create_step_function_task(
            tenant_code="acme", task_type="job", input=[1], invoke_context=ANN
        )
        many = await service.create_tasks([NewTask(tenant_code="acme", task_type="job")], invoke_context=ANN)
        keys = [task.key for task in (one, parent, *many)]
        return [one, parent, *many, *[await service.get_task(key) for key in keys]]

    for task in asyncio.run(scenario()):
        assert (task.created_by, task.created_ip, task.request_id) == ("ann", "192.0.2.1", "r-1")
        assert (task.updated_by, task.updated_ip) == ("ann", "192.0.2.1")
        assert task.history[0].by == "ann"


def test_the_invoke_context_goes_through_the_short_form(make_module: MakeModule) -> None:
    module = make_module()

    @module.task("job")
    def job(event: TaskQueueEvent) -> str | None:
        return event.task.created_by

    @module.step_function_task("parts")
    def part(event: StepFunctionTaskEvent) -> str | None:
        return event.task.created_by

    async def scenario() -> None:
        service = module.task_service
        task = await job.create(tenant_code="acme", invoke_context=ANN)
        parent = await part.create(tenant_code="acme", input=[1], invoke_context=ANN)
        await drained(module)
        assert (await service.get_task(task.key)).result == "ann"
        assert [sub.result async for sub in service.iter_sub_tasks(parent.key)] == ["ann"]

    asyncio.run(scenario())


def test_without_a_context_nobody_is_named(make_module: MakeModule) -> None:
    module = make_module()
    module.task("job")(lambda event: None)
    task = asyncio.run(single(module))
    assert (task.created_by, task.created_ip, task.request_id, task.history[0].by) == (None, None, None, None)


def test_a_context_without_a_tenant_creates_for_any(make_module: MakeModule) -> None:
    """As a scheduler does that works for all tenants."""
    context = InvokeContext(user_id="scheduler")

    async def scenario() -> Any:
        return await make_module().task_service.create_task(tenant_code="acme", task_type="job", invoke_context=context)

    assert asyncio.run(scenario()).created_by == "scheduler"


def test_a_foreign_tenant_in_the_context_is_refused(make_module: MakeModule) -> None:
    """Rule 7. And nothing is written."""
    module = make_module()

    async def scenario() -> None:
        service = module.task_service
        for create, field in (
            (service.create_task(tenant_code="other", task_type="job", invoke_context=ANN), "tenant_code"),
            (
                service.create_step_function_task(tenant_code="other", task_type="job", input=[1], invoke_context=ANN),
                "tenant_code",
            ),
            (
                service.create_tasks(
                    [NewTask(tenant_code="acme", task_type="job"), NewTask(tenant_code="other", task_type="job")],
                    invoke_context=ANN,
                ),
                "tasks[1].tenant_code",
            ),
        ):
            with pytest.raises(InvalidInput, match="not the tenant of the caller") as refused:
                await create
            assert refused.value.field == field
        for tenant in ("acme", "other"):
            assert (await service.list_tasks(tenant)).items == []
            assert (await service.list_tasks(tenant, type="SFN_TASK")).items == []

    asyncio.run(scenario())


def test_tasks_of_the_same_instant_stay_in_order(make_module: MakeModule, clock: FakeClock) -> None:
    """Codes only grow, also within one millisecond, so lists are in the order of creation."""
    module = make_module(clock=clock)

    async def scenario() -> None:
        service = module.task_service
        tasks = [await service.create_task(tenant_code="acme", task_type="job") for _ in range(50)]
        assert [task.key async for task in service.iter_tasks("acme", order="asc")] == [task.key for task in tasks]

    asyncio.run(scenario())


def test_a_fan_out_whose_result_is_asked_for_has_none(make_module: MakeModule) -> None:
    module = make_module()
    module.step_function_task("job")(lambda event: 1)
    assert asyncio.run(fan_out(module, [1, 2])).result is None
