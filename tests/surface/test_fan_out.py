"""Fan-out: one sub-task per input, really parallel, and the parent's status at the end."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from taskloom import RetryAfter, StepFunctionTaskEvent, TaskKey, TaskStatus
from taskloom.errors import ExecutionNotFound, InvalidInput, InvalidType, TaskTokenNotFound
from tests.support.clock import FakeClock
from tests.surface.running import (
    PATIENCE,
    Entity,
    MakeModule,
    drained,
    fan_out,
    single,
    sub_tasks,
    within_patience,
)


def echo(event: StepFunctionTaskEvent) -> Any:
    return event.input.input


async def unchanged(make_module: MakeModule, input: Any) -> tuple[Entity, list[Any]]:
    """A fan-out whose sub-tasks return their inputs; the parent and the results."""
    module = make_module()
    module.step_function_task("job")(echo)
    parent = await fan_out(module, input)
    return parent, [task.result for task in await sub_tasks(module, parent)]


# --- input -----------------------------------------------------------------------------------------------------------


class OwnIterable:
    def __iter__(self) -> Iterator[int]:
        return iter([1, 2, 3])


class OldIterable:
    """Iterable by `__getitem__` alone."""

    def __getitem__(self, index: int) -> int:
        return [1, 2, 3][index]


async def async_numbers() -> AsyncIterator[int]:
    for number in (1, 2, 3):
        yield number


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: [1, 2, 3], id="list"),
        pytest.param(lambda: (1, 2, 3), id="tuple"),
        pytest.param(lambda: range(1, 4), id="range"),
        pytest.param(lambda: (number for number in (1, 2, 3)), id="generator"),
        pytest.param(lambda: {1: "a", 2: "b", 3: "c"}.keys(), id="keys"),
        pytest.param(OwnIterable, id="own iterable"),
        pytest.param(async_numbers, id="async generator"),
    ],
)
def test_input_is_any_iterable_or_async_iterable(make_module: MakeModule, make: Callable[[], Any]) -> None:
    parent, results = asyncio.run(unchanged(make_module, make()))
    assert parent.status is TaskStatus.COMPLETED
    assert parent.attributes.sub_task_count == 3
    assert results == [1, 2, 3]


@pytest.mark.parametrize("input", ["abc", b"abc", bytearray(b"abc"), memoryview(b"abc"), {"a": 1}, 3, None, 1.5])
def test_input_that_is_no_list_of_inputs_is_a_type_error(make_module: MakeModule, input: Any) -> None:
    """A str is iterable too, and a sub-task per letter is never what was meant."""
    module = make_module()

    async def scenario() -> None:
        with pytest.raises(TypeError, match="input"):
            await module.task_service.create_step_function_task(tenant_code="acme", task_type="job", input=input)
        assert (await module.task_service.list_tasks("acme", type="SFN_TASK")).items == []

    asyncio.run(scenario())


def raising(count: int, size: int) -> Iterator[str]:
    for _ in range(count):
        yield "x" * size
    raise LookupError("the source broke off")


async def async_raising(count: int, size: int) -> AsyncIterator[str]:
    for value in raising(count, size):
        yield value


@pytest.mark.parametrize("make", [raising, async_raising])
@pytest.mark.parametrize(("count", "size"), [(0, 0), (3, 1), (300, 1000)])
def test_nothing_is_created_when_reading_the_input_raises(
    make_module: MakeModule, make: Callable[[int, int], Any], count: int, size: int
) -> None:
    """Also when so much was read that it lies in the payload store already."""
    module = make_module()
    module.step_function_task("job")(echo)

    async def scenario() -> None:
        with pytest.raises(LookupError, match="the source broke off"):
            await module.task_service.create_step_function_task(
                tenant_code="acme", task_type="job", input=make(count, size)
            )
        await drained(module)
        assert (await module.task_service.list_tasks("acme", type="SFN_TASK")).items == []

    asyncio.run(scenario())


def test_nothing_is_created_when_an_element_is_refused(make_module: MakeModule) -> None:
    module = make_module()

    async def scenario() -> None:
        with pytest.raises(InvalidType, match=r"^input\[1\]\.items\[0\]: "):
            await module.task_service.create_step_function_task(
                tenant_code="acme", task_type="job", input=[1, {"items": [{2}]}]
            )
        assert (await module.task_service.list_tasks("acme", type="SFN_TASK")).items == []

    asyncio.run(scenario())


def test_the_input_is_read_before_create_returns(make_module: MakeModule) -> None:
    module, read = make_module(), list[int]()

    def numbers() -> Iterator[int]:
        for number in range(3):
            read.append(number)
            yield number

    async def scenario() -> None:
        await module.task_service.create_step_function_task(tenant_code="acme", task_type="job", input=numbers())
        assert read == [0, 1, 2]

    asyncio.run(scenario())


def test_an_empty_list_goes_the_same_way_and_ends_completed(make_module: MakeModule) -> None:
    parent, results = asyncio.run(unchanged(make_module, []))
    assert parent.status is TaskStatus.COMPLETED
    assert [entry.status for entry in parent.history] == ["PENDING", "IN_PROGRESS", "COMPLETED"]
    assert (parent.attributes.sub_task_count, parent.input, results) == (0, [], [])


def test_a_large_input_goes_to_the_payload_store_and_comes_back_equal(make_module: MakeModule) -> None:
    """More than 64 KB in all: the parent's row holds a reference only."""
    inputs = [{"number": number, "text": "ä" * 400} for number in range(150)]
    parent, results = asyncio.run(unchanged(make_module, iter(inputs)))
    assert parent.input is None
    assert parent.input_ref
    assert parent.attributes.sub_task_count == 150
    assert results == inputs


def test_one_large_element_comes_back_equal(make_module: MakeModule) -> None:
    inputs = ["small", "x" * 100_000, "small again"]
    parent, results = asyncio.run(unchanged(make_module, inputs))
    assert parent.input_ref
    assert results == inputs


def test_a_small_input_stays_with_the_parent(make_module: MakeModule) -> None:
    parent, _ = asyncio.run(unchanged(make_module, ["a", "b"]))
    assert (parent.input, parent.input_ref) == (["a", "b"], None)


# --- status ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failing", "tolerance", "status"),
    [
        (0, 0, "COMPLETED"),
        (1, 0, "FAILED"),
        (1, 19, "FAILED"),
        (1, 20, "COMPLETED"),
        (2, 39.9, "FAILED"),
        (2, 40, "COMPLETED"),
        (5, 99, "FAILED"),
        (5, 100, "COMPLETED"),
    ],
)
@pytest.mark.parametrize("chunk_size", [None, 3])
def test_every_sub_task_runs_and_the_tolerance_only_decides_the_parents_status(
    make_module: MakeModule, failing: int, tolerance: float, status: str, chunk_size: int | None
) -> None:
    module = make_module()

    @module.step_function_task("job", tolerated_failure_percentage=tolerance, chunk_size=chunk_size)
    def job(event: StepFunctionTaskEvent[int]) -> int:
        if event.task.input < failing:
            raise LookupError(f"not {event.task.input}")
        return event.task.input

    async def scenario() -> Any:
        parent = await fan_out(module, range(5))
        return parent, await sub_tasks(module, parent)

    parent, subs = asyncio.run(scenario())
    assert [sub.status for sub in subs] == ["FAILED"] * failing + ["COMPLETED"] * (5 - failing)
    assert parent.status == status
    attributes = parent.attributes
    assert (attributes.sub_task_succeed_count, attributes.sub_task_failed_count) == (5 - failing, failing)
    assert attributes.sub_task_running_count == 0
    assert (attributes.error is None) == (status == "COMPLETED")
    if attributes.error is not None:
        assert attributes.error.message == f"{failing} of 5 sub-tasks failed; tolerated are {tolerance:g} %"
    assert all(sub.error.message == f"not {sub.index}" for sub in subs[:failing])


# --- plan ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "chunk_size"), [(0, 1), (1, 1), (100, 1), (101, 2), (200, 2), (201, 3), (9_901, 100), (20_000, 100)]
)
def test_the_default_chunk_size_follows_the_number_of_inputs(
    make_module: MakeModule, count: int, chunk_size: int
) -> None:
    """1 up to 100 inputs, then ceil(n / 100), at most 100. The plan is fixed with the first attempt, so one begins."""
    module = make_module()
    started, parent = asyncio.run(first_attempt_of(module, range(count)))
    assert parent.fan_out is not None
    assert parent.fan_out.chunk_size == chunk_size
    assert (parent.fan_out.max_concurrency, parent.fan_out.chunk_concurrency) == (40, 1)
    assert parent.fan_out.tolerated_failure_percentage == 0
    assert started or count == 0


async def first_attempt_of(module: Any, input: Any) -> tuple[bool, Entity]:
    """The parent when its first sub-task runs; the worker stops then, and gives back the rest."""
    started = asyncio.Event()

    @module.step_function_task("job")  # type: ignore[untyped-decorator]
    async def job(event: StepFunctionTaskEvent) -> None:
        started.set()
        await asyncio.Event().wait()

    service = module.task_service
    task = await service.create_step_function_task(tenant_code="acme", task_type="job", input=input)
    async with module.worker(concurrency=1, grace=0) as worker:
        await within_patience(started.wait() if task.attributes.sub_task_count else worker.drain())
    return started.is_set(), await service.get_task(task.key)


def test_the_plan_of_the_decorator_is_kept_with_the_task(make_module: MakeModule) -> None:
    module = make_module()
    module.step_function_task(
        "job", chunk_size=3, chunk_concurrency=2, max_concurrency=5, tolerated_failure_percentage=12.5
    )(echo)
    parent = asyncio.run(fan_out(module, range(7)))
    plan = parent.fan_out
    assert plan is not None
    assert (plan.chunk_size, plan.chunk_concurrency, plan.max_concurrency) == (3, 2, 5)
    assert plan.tolerated_failure_percentage == 12.5
    assert parent.attributes.sub_task_succeed_count == 7


# --- parallel --------------------------------------------------------------------------------------------------------


def test_six_async_sub_tasks_that_wait_for_each_other_complete(make_module: MakeModule) -> None:
    module = make_module()

    async def scenario() -> Entity:
        together = asyncio.Barrier(6)

        @module.step_function_task("job")
        async def job(event: StepFunctionTaskEvent) -> None:
            async with asyncio.timeout(PATIENCE):
                await together.wait()

        return await fan_out(module, range(6))

    parent = asyncio.run(scenario())
    assert (parent.status, parent.attributes.sub_task_succeed_count) == (TaskStatus.COMPLETED, 6)


def test_six_thread_sub_tasks_that_wait_for_each_other_complete(make_module: MakeModule) -> None:
    module, together = make_module(), threading.Barrier(6)

    @module.step_function_task("job")
    def job(event: StepFunctionTaskEvent) -> None:
        together.wait(PATIENCE)

    parent = asyncio.run(fan_out(module, range(6)))
    assert (parent.status, parent.attributes.sub_task_succeed_count) == (TaskStatus.COMPLETED, 6)


def test_sub_tasks_of_one_chunk_run_together_with_chunk_concurrency(make_module: MakeModule) -> None:
    module, together = make_module(), threading.Barrier(3)

    @module.step_function_task("job", chunk_size=6, chunk_concurrency=3)
    def job(event: StepFunctionTaskEvent) -> None:
        together.wait(PATIENCE)

    assert asyncio.run(fan_out(module, range(6))).status is TaskStatus.COMPLETED


def test_sub_tasks_of_one_chunk_run_one_after_the_other_by_default(make_module: MakeModule) -> None:
    module, order = make_module(), list[tuple[str, int]]()

    @module.step_function_task("job", chunk_size=4)
    async def job(event: StepFunctionTaskEvent[int]) -> None:
        order.append(("begin", event.task.input))
        await asyncio.wait([asyncio.ensure_future(asyncio.to_thread(int))])  # gives others the chance to run
        order.append(("end", event.task.input))

    asyncio.run(fan_out(module, range(4)))
    assert order == [(what, number) for number in range(4) for what in ("begin", "end")]


@pytest.mark.parametrize(
    ("max_concurrency", "chunk_size", "chunk_concurrency"),
    [
        pytest.param(3, 1, 1, id="chunks of one"),
        pytest.param(3, 4, 1, id="chunks one by one"),
        pytest.param(4, 4, 2, id="two at a time in a chunk"),
        pytest.param(3, 4, 2, id="no multiple of the chunk's concurrency"),
        pytest.param(2, 8, 8, id="a chunk alone would be more"),
    ],
)
def test_max_concurrency_counts_running_sub_tasks(
    make_module: MakeModule, max_concurrency: int, chunk_size: int, chunk_concurrency: int
) -> None:
    """A single task that is created while sub-tasks run, and run behind all that waits, has given each its chance."""
    module, running, most = make_module(), 0, 0

    async def scenario() -> Entity:
        some_run, go_on = asyncio.Event(), asyncio.Event()

        @module.step_function_task(
            "job", max_concurrency=max_concurrency, chunk_size=chunk_size, chunk_concurrency=chunk_concurrency
        )
        async def job(event: StepFunctionTaskEvent) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            some_run.set()
            await within_patience(go_on.wait())
            running -= 1

        module.task("probe")(lambda event: None)
        service = module.task_service
        parent = await service.create_step_function_task(tenant_code="acme", task_type="job", input=range(24))
        async with module.worker(concurrency=20) as worker:
            await within_patience(some_run.wait())
            for _ in range(3):
                probe = await service.create_task(tenant_code="acme", task_type="probe")
                await service.wait(probe.key, timeout=PATIENCE)
            go_on.set()
            await worker.drain()
        return await service.get_task(parent.key)

    parent = asyncio.run(scenario())
    assert parent.attributes.sub_task_succeed_count == 24
    assert 1 <= most <= max_concurrency


@pytest.mark.parametrize(("chunk_size", "chunk_concurrency"), [(1, 1), (2, 1), (4, 2)])
def test_as_many_as_max_concurrency_do_run_together(
    make_module: MakeModule, chunk_size: int, chunk_concurrency: int
) -> None:
    module, together = make_module(), threading.Barrier(4)

    @module.step_function_task("job", max_concurrency=4, chunk_size=chunk_size, chunk_concurrency=chunk_concurrency)
    def job(event: StepFunctionTaskEvent) -> None:
        together.wait(PATIENCE)

    assert asyncio.run(fan_out(module, range(16), concurrency=20)).status is TaskStatus.COMPLETED


def test_a_sub_task_that_waits_for_its_next_attempt_holds_up_nobody(make_module: MakeModule, clock: FakeClock) -> None:
    module, ran = make_module(clock=clock), list[int]()

    @module.step_function_task("job", max_concurrency=1, chunk_size=2)
    def job(event: StepFunctionTaskEvent[int]) -> int:
        if event.task.input == 0 and event.attempt == 1:
            raise RetryAfter(30)
        ran.append(event.task.input)
        return event.attempt

    async def scenario() -> Any:
        parent = await fan_out(module, range(6))
        assert parent.status is TaskStatus.IN_PROGRESS
        assert ran == [1, 2, 3, 4, 5]
        clock.advance(31)
        await drained(module)
        return await module.task_service.get_task(parent.key), await sub_tasks(module, parent)

    parent, subs = asyncio.run(scenario())
    assert (parent.status, ran) == (TaskStatus.COMPLETED, [1, 2, 3, 4, 5, 0])
    assert [sub.result for sub in subs] == [2, 1, 1, 1, 1, 1]


# --- the execution ---------------------------------------------------------------------------------------------------


def test_the_execution_arn_is_known_at_creation(make_module: MakeModule) -> None:
    module = make_module()

    async def scenario() -> Entity:
        return await module.task_service.create_step_function_task(tenant_code="acme", task_type="job", input=[1])

    task = asyncio.run(scenario())
    assert task.execution_arn == f"arn:taskloom:states:local:000000000000:execution:sfn-task:{task.code}"


def test_describe_execution_follows_the_fan_out(make_module: MakeModule) -> None:
    module, seen = make_module(), list[str]()

    @module.step_function_task("job")
    async def job(event: StepFunctionTaskEvent) -> None:
        execution = await module.step_function_service.describe_execution(event.context["Execution"]["Id"])
        seen.append(execution.status)

    async def scenario() -> None:
        service, machine = module.task_service, module.step_function_service
        task = await service.create_step_function_task(tenant_code="acme", task_type="job", input=[1])
        assert task.execution_arn is not None
        before = await machine.describe_execution(task.execution_arn)
        assert (before.arn, before.name, before.status) == (task.execution_arn, task.code, "PENDING")
        assert (before.started_at, before.stopped_at, before.input) == (None, None, None)
        await drained(module)
        after = await machine.describe_execution(task.execution_arn)
        assert seen == ["RUNNING"]
        assert (after.arn, after.name, after.status) == (task.execution_arn, task.code, "SUCCEEDED")
        assert after.started_at is not None
        assert after.stopped_at is not None
        assert after.input is not None
        assert (after.input.key, after.input.run, after.input.chunks) == (task.key, 1, 1)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "arn",
    [
        "arn:taskloom:states:local:000000000000:execution:sfn-task:01J00000000000000000000000",
        "arn:aws:states:eu-west-1:123456789012:execution:sfn-task:x",
        "",
    ],
)
def test_an_execution_that_is_not_there_is_not_found(make_module: MakeModule, arn: str) -> None:
    with pytest.raises(ExecutionNotFound, match="there is no execution"):
        asyncio.run(make_module().step_function_service.describe_execution(arn))


def test_starting_an_execution_again_gives_the_one_that_is_there(make_module: MakeModule) -> None:
    module = make_module()
    module.step_function_task("job")(echo)

    async def scenario() -> None:
        parent = await fan_out(module, [1])
        machine = module.step_function_service
        assert parent.execution_arn is not None
        found = await machine.describe_execution(parent.execution_arn)
        assert found.input is not None
        again = await machine.start_execution(name=parent.code, input=replace(found.input, chunks=7))
        assert again == found

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["", "x" * 81, 7])
def test_a_name_that_no_execution_can_have_is_refused(make_module: MakeModule, name: Any) -> None:
    from taskloom.ports import ExecutionInput

    key = TaskKey.step_function("acme", "job", "01J00000000000000000000000")
    with pytest.raises(InvalidInput, match="name"):
        asyncio.run(
            make_module().step_function_service.start_execution(
                name=name, input=ExecutionInput(key=key, run=1, chunks=1, at_once=1)
            )
        )


def test_a_task_token_that_nobody_waits_for_is_not_found(make_module: MakeModule) -> None:
    with pytest.raises(TaskTokenNotFound):
        asyncio.run(make_module().step_function_service.resume_execution("token", {"key": "v"}))


def test_a_single_task_has_no_execution(make_module: MakeModule) -> None:
    module = make_module()
    module.task("job")(lambda event: None)
    assert asyncio.run(single(module)).execution_arn is None
