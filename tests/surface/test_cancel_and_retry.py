"""Cancelling tasks, and retrying those that have ended."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from taskloom import StepFunctionTaskEvent, TaskEntity, TaskKey, TaskQueueEvent, TaskStatus
from taskloom.errors import InvalidInput, InvalidType, TaskEnded, TaskNotFound, TaskOpen
from tests.support.scenarios import check_counters, check_history
from tests.surface.running import MakeModule, drained, fan_out, single, sub_tasks, within_patience

PENDING, IN_PROGRESS = TaskStatus.PENDING, TaskStatus.IN_PROGRESS
COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED


def test_a_waiting_task_ends_at_once(make_module: MakeModule) -> None:
    """No worker is needed, and none runs it afterwards."""
    module = make_module()
    ran = []
    module.task("job")(lambda event: ran.append(event))

    async def scenario() -> None:
        made = await module.task_service.create_task(tenant_code="acme", task_type="job")
        task = await module.task_service.cancel_task(made.key, reason="a mistake", by="alice")
        assert task.status is CANCELLED
        assert task.finished_at is not None
        assert task.fence == made.fence + 1
        assert (task.history[-1].reason, task.history[-1].by) == ("cancelled: a mistake", "alice")
        check_history(task)
        async with module.worker() as worker:
            await worker.drain()
        assert await module.task_service.get_task(made.key) == task

    asyncio.run(scenario())
    assert not ran


def test_a_running_async_handler_gets_cancelled_error(make_module: MakeModule) -> None:
    module = make_module()
    seen: list[bool] = []

    async def scenario() -> TaskEntity[Any]:
        inside = asyncio.Event()

        @module.task("job")
        async def job(event: TaskQueueEvent) -> None:
            inside.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append(event.cancelled)
                raise

        made = await module.task_service.create_task(tenant_code="acme", task_type="job")
        async with module.worker() as worker:
            await inside.wait()
            assert (await module.task_service.cancel_task(made.key)).status is CANCELLED
            await worker.drain()
        return await module.task_service.get_task(made.key)

    task = asyncio.run(within_patience(scenario()))
    assert seen == [True]
    assert task.status is CANCELLED
    assert [entry.status for entry in task.history] == [PENDING, IN_PROGRESS, CANCELLED]


def test_a_running_thread_sees_it_and_its_result_is_dropped(make_module: MakeModule) -> None:
    """A thread cannot be stopped; what it returns late changes nothing (rule 2)."""
    module = make_module()
    inside, saw = threading.Event(), threading.Event()

    @module.task("job")
    def job(event: TaskQueueEvent) -> str:
        inside.set()
        while not event.cancelled:
            threading.Event().wait(0.01)
        saw.set()
        return "too late"

    async def scenario() -> TaskEntity[Any]:
        made = await module.task_service.create_task(tenant_code="acme", task_type="job")
        async with module.worker() as worker:
            await asyncio.to_thread(inside.wait)
            await module.task_service.cancel_task(made.key)
            await asyncio.to_thread(saw.wait)
            await worker.drain()
        return await module.task_service.get_task(made.key)

    task = asyncio.run(within_patience(scenario()))
    assert task.status is CANCELLED
    assert task.result is None


def test_a_fan_out_starts_no_more_and_ends_with_its_counts(make_module: MakeModule) -> None:
    module = make_module()
    started: list[int] = []

    async def scenario() -> tuple[TaskEntity[Any], list[TaskEntity[Any]]]:
        inside = asyncio.Event()

        @module.step_function_task("job", chunk_size=2, max_concurrency=2)
        async def job(event: StepFunctionTaskEvent) -> int:
            number = event.input.input
            started.append(number)
            if number == 1:
                raise ValueError("this one fails")
            if number > 1:
                inside.set()
                await asyncio.Event().wait()
            return int(number)

        service = module.task_service
        made = await service.create_step_function_task(tenant_code="acme", task_type="job", input=range(40))
        async with module.worker(concurrency=2):
            await inside.wait()
            asked = await service.cancel_task(made.key, reason="enough", by="alice")
            assert asked.status is IN_PROGRESS
            assert asked.cancel_requested is not None
            assert (asked.cancel_requested.reason, asked.cancel_requested.by) == ("enough", "alice")
            ended = await service.wait(made.key)
        return ended, await sub_tasks(module, made)

    parent, subs = asyncio.run(within_patience(scenario()))
    assert parent.status is CANCELLED
    assert (parent.history[-1].reason, parent.history[-1].by) == ("cancelled: enough", "alice")
    assert len(started) < 10
    assert subs[0].status is COMPLETED
    assert subs[1].status is FAILED
    assert {task.status for task in subs[2:]} == {CANCELLED}
    check_counters(parent, subs)
    assert parent.attributes.sub_task_succeed_count == 1


@pytest.mark.parametrize("chunk_concurrency", [1, 2])
def test_a_chunk_starts_no_more_once_one_of_it_was_cancelled(make_module: MakeModule, chunk_concurrency: int) -> None:
    """Not one of those behind it."""
    module = make_module()
    started: list[int] = []

    async def scenario() -> TaskEntity[Any]:
        inside = asyncio.Event()

        @module.step_function_task("job", chunk_size=20, chunk_concurrency=chunk_concurrency)
        async def job(event: StepFunctionTaskEvent) -> None:
            started.append(event.input.input)
            if len(started) == 5:
                inside.set()
            if len(started) > 5 - chunk_concurrency:
                await asyncio.Event().wait()

        service = module.task_service
        made = await service.create_step_function_task(tenant_code="acme", task_type="job", input=range(20))
        async with module.worker(concurrency=2):
            await inside.wait()
            await service.cancel_task(made.key)
            return await service.wait(made.key)

    parent = asyncio.run(within_patience(scenario()))
    assert parent.status is CANCELLED
    assert parent.attributes.sub_task_succeed_count == 5 - chunk_concurrency
    assert sorted(started) == list(range(5))


def test_a_fan_out_that_waits_for_a_worker_ends_at_once(make_module: MakeModule) -> None:
    module = make_module()

    async def scenario() -> tuple[TaskEntity[Any], list[TaskEntity[Any]]]:
        made = await module.task_service.create_step_function_task(tenant_code="acme", task_type="job", input=[1, 2])
        return await module.task_service.cancel_task(made.key), await sub_tasks(module, made)

    parent, subs = asyncio.run(scenario())
    assert parent.status is CANCELLED
    assert [task.status for task in subs] == [CANCELLED] * 2


@pytest.mark.parametrize("create", [single, fan_out])
def test_cancelling_what_has_ended_changes_nothing_and_says_so(
    make_module: MakeModule, create: Callable[..., Awaitable[TaskEntity[Any]]]
) -> None:
    module = make_module()
    module.task("job")(lambda event: 1)
    module.step_function_task("job")(lambda event: 1)

    async def scenario() -> None:
        made = await (single(module) if create is single else fan_out(module, [1]))
        with pytest.raises(TaskEnded, match="COMPLETED; nothing was changed") as caught:
            await module.task_service.cancel_task(made.key)
        assert caught.value.status == COMPLETED
        assert await module.task_service.get_task(made.key) == made

    asyncio.run(scenario())


def test_a_new_run_of_a_single_task(make_module: MakeModule) -> None:
    """Its history shows both runs, its fence grows on, and its attempts begin anew."""
    module = make_module()

    @module.task("job")
    async def job(event: TaskQueueEvent) -> int:
        if event.task.run == 1:
            raise ValueError("no")
        return event.attempt

    async def scenario() -> tuple[TaskEntity[Any], TaskEntity[Any], TaskEntity[Any]]:
        first = await single(module)
        again = await module.task_service.retry_task(first.key, reason="fixed", by="alice")
        await drained(module)
        return first, again, await module.task_service.get_task(first.key)

    first, again, task = asyncio.run(scenario())
    assert (first.status, again.status, task.status) == (FAILED, PENDING, COMPLETED)
    assert (again.run, again.attempt, again.error, again.finished_at) == (2, 0, None, None)
    assert again.fence > first.fence
    assert (task.run, task.attempt, task.result) == (2, 1, 1)
    assert [(entry.run, entry.status) for entry in task.history] == [
        (1, PENDING), (1, IN_PROGRESS), (1, FAILED), (2, PENDING), (2, IN_PROGRESS), (2, COMPLETED),
    ]  # fmt: skip
    assert (task.history[3].reason, task.history[3].by) == ("retried: fixed", "alice")


@pytest.mark.parametrize("only_failed", [True, False])
def test_a_new_run_of_a_fan_out(make_module: MakeModule, only_failed: bool) -> None:
    """What was COMPLETED stays and is not paid for again, unless everything is wanted."""
    module = make_module()
    ran: list[tuple[int, int]] = []

    @module.step_function_task("job", chunk_size=3)
    async def job(event: StepFunctionTaskEvent) -> int:
        ran.append((event.task.run, event.input.input))
        if event.task.run == 1 and event.input.input in (1, 7):
            raise ValueError("no")
        return event.task.run

    async def scenario() -> tuple[TaskEntity[Any], list[TaskEntity[Any]]]:
        made = await fan_out(module, list(range(9)))
        assert made.status is FAILED
        await module.task_service.retry_task(made.key, only_failed=only_failed)
        await drained(module)
        return await module.task_service.get_task(made.key), await sub_tasks(module, made)

    parent, subs = asyncio.run(scenario())
    assert parent.status is COMPLETED
    check_counters(parent, subs)
    again = [number for run, number in ran if run == 2]
    assert sorted(again) == ([1, 7] if only_failed else list(range(9)))
    assert [task.result for task in subs] == [2 if number in again else 1 for number in range(9)]
    for task in subs:
        check_history(task)


def test_what_is_open_is_not_retried_and_what_is_well_only_on_demand(make_module: MakeModule) -> None:
    module = make_module()
    module.task("job")(lambda event: event.task.run)
    service = module.task_service

    async def scenario() -> None:
        made = await service.create_task(tenant_code="acme", task_type="job")
        with pytest.raises(TaskOpen, match="has not ended, it is PENDING"):
            await service.retry_task(made.key)
        await drained(module)
        with pytest.raises(InvalidInput, match="only_failed=False"):
            await service.retry_task(made.key)
        await service.retry_task(made.key, only_failed=False)
        await drained(module)
        assert (await service.get_task(made.key)).result == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("call", ["cancel_task", "retry_task"])
def test_bad_input_names_the_field(make_module: MakeModule, call: str) -> None:
    module = make_module()
    method = getattr(module.task_service, call)
    key = TaskKey.single("acme", "job", "01JTZ3")

    async def scenario() -> None:
        with pytest.raises(InvalidType, match=r"^reason: "):
            await method(key, reason=3)
        with pytest.raises(InvalidInput, match=r"^by: has 300 characters"):
            await method(key, by="x" * 300)
        with pytest.raises(TaskNotFound):
            await method(key)
        parent = await module.task_service.create_step_function_task(tenant_code="acme", task_type="job", input=[1])
        (sub,) = await sub_tasks(module, parent)
        with pytest.raises(InvalidInput, match="is a sub-task; give the key of its fan-out"):
            await method(sub.key)

    asyncio.run(scenario())
