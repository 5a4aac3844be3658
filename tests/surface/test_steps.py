"""What a handler does once per task: its steps, whatever happens afterwards."""

import asyncio
import threading
from functools import partial
from typing import Any

import pytest

from taskloom import Continue, Retry, StepFunctionTaskEvent, TaskModule, TaskQueueEvent, TaskStatus
from taskloom.errors import ClaimLost, InvalidInput, InvalidType
from tests.surface.running import MakeModule, drained, fan_out, single, sub_tasks

COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED
AGAIN = Retry(max_attempts=3, initial=0)


class Charges:
    """What was charged, and in which threads."""

    def __init__(self) -> None:
        self.made: list[Any] = []
        self.threads: set[int] = set()

    def charge(self, order: Any, *, currency: str = "EUR") -> Any:
        self.made.append(order)
        self.threads.add(threading.get_ident())
        return {"order": order, "currency": currency}

    async def charge_async(self, order: Any, *, currency: str = "EUR") -> Any:
        return self.charge(order, currency=currency)


@pytest.mark.parametrize("handler", ["async def", "def"])
@pytest.mark.parametrize("function", ["charge", "charge_async"])
def test_a_step_runs_once_and_every_later_attempt_gets_its_result(
    make_module: MakeModule, handler: str, function: str
) -> None:
    """Both kinds of functions in both kinds of handlers; attempts, slices and runs alike."""
    module, charges, seen = make_module(), Charges(), list[Any]()
    charge = getattr(charges, function)

    def go_on(event: TaskQueueEvent, result: Any) -> Any:
        seen.append((event.task.run, event.attempt))
        if len(seen) == 1:
            raise Continue
        if len(seen) < 4:
            raise ValueError("after the step")
        return result

    async def async_job(event: TaskQueueEvent) -> Any:
        return go_on(event, await event.step("charge", charge, 7, currency="CHF"))

    def job(event: TaskQueueEvent) -> Any:
        return go_on(event, event.sync.step("charge", charge, 7, currency="CHF"))

    module.task("job", retry=Retry(max_attempts=2, initial=0))(async_job if handler == "async def" else job)

    async def scenario() -> Any:
        failed = await single(module)
        assert failed.status is FAILED
        await module.task_service.retry_task(failed.key)
        await drained(module)
        return await module.task_service.get_task(failed.key)

    task = asyncio.run(scenario())
    assert (task.status, task.result) == (COMPLETED, {"order": 7, "currency": "CHF"})
    assert charges.made == [7]
    assert seen == [(1, 1), (1, 1), (1, 2), (2, 1)]


def test_a_def_does_not_block_the_loop(make_module: MakeModule) -> None:
    """In an async handler it is called in a thread; in a `def` handler in the thread of the handler."""
    module, charges, own = make_module(), Charges(), set[int]()

    @module.task("job")
    async def job(event: TaskQueueEvent) -> None:
        own.add(threading.get_ident())
        await event.step("a", charges.charge, 1)
        await event.step("partial", partial(charges.charge, currency="CHF"), 2)

    asyncio.run(single(module))
    assert not own & charges.threads

    @module.task("thread")
    def thread(event: TaskQueueEvent) -> None:
        own.add(threading.get_ident())
        event.sync.step("a", charges.charge, 1)

    own.clear()
    charges.threads.clear()
    asyncio.run(single(module, task_type="thread"))
    assert own == charges.threads


def test_steps_of_one_handler_may_run_at_the_same_time(make_module: MakeModule) -> None:
    module = make_module()

    @module.task("job")
    async def job(event: TaskQueueEvent) -> Any:
        barrier = asyncio.Barrier(3)

        async def meet(number: int) -> int:
            await barrier.wait()
            return number

        return await asyncio.gather(*(event.step(f"number {number}", meet, number) for number in range(3)))

    assert asyncio.run(single(module)).result == [0, 1, 2]


@pytest.mark.parametrize("value", [None, 0, "", [], {"a": [1, 2.5, None, True]}, "ä😀", "x" * 100_000])
def test_any_json_value_comes_back(make_module: MakeModule, value: Any) -> None:
    """None counts as a result like any other, and a large one lies with the payloads."""
    module, calls = make_module(), list[int]()

    def compute() -> Any:
        calls.append(1)
        return value

    @module.task("job", retry=AGAIN)
    async def job(event: TaskQueueEvent) -> Any:
        found = await event.step("compute", compute)
        if event.attempt == 1:
            raise ValueError("after the step")
        return found == value and type(found) is type(value)

    task = asyncio.run(single(module))
    assert (task.result, calls) == (True, [1])


def test_the_first_call_gets_what_later_ones_get(make_module: MakeModule) -> None:
    """A tuple comes back as a list, at once."""
    module = make_module()

    @module.task("job")
    async def job(event: TaskQueueEvent) -> Any:
        return isinstance(await event.step("pair", lambda: (1, 2)), list)

    assert asyncio.run(single(module)).result is True


def test_a_step_that_raises_records_nothing(make_module: MakeModule) -> None:
    """The attempt fails as usual, and the next one calls it again."""
    module, calls = make_module(), list[int]()

    def flaky() -> int:
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError("no line")
        return len(calls)

    @module.task("job", retry=AGAIN)
    async def job(event: TaskQueueEvent) -> Any:
        try:
            return await event.step("flaky", flaky)
        except ConnectionError:
            if event.attempt == 1:
                raise
            return "dealt with"

    task = asyncio.run(single(module))
    assert (task.result, task.attempt, len(calls)) == ("dealt with", 2, 2)


@pytest.mark.parametrize(
    ("result", "problem"), [({1, 2}, InvalidType), (float("nan"), InvalidInput), ({"a": [b"x"]}, InvalidType)]
)
def test_a_result_that_is_no_json_is_refused(make_module: MakeModule, result: Any, problem: type) -> None:
    """It names the step and the place; the task fails for good, since another attempt would call it again."""
    module, raised = make_module(), list[InvalidInput]()

    @module.task("job", retry=AGAIN)
    async def job(event: TaskQueueEvent) -> None:
        try:
            await event.step("look", lambda: result)
        except InvalidInput as error:
            raised.append(error)
            raise

    task = asyncio.run(single(module))
    assert (task.status, task.attempt) == (FAILED, 1)
    (error,) = raised
    assert type(error) is problem
    assert error.field.startswith("step 'look'")


@pytest.mark.parametrize("name", ["", "x" * 129, 7, "\ud800"])
def test_a_name_that_is_none_is_refused(make_module: MakeModule, name: Any) -> None:
    module, calls = make_module(), list[int]()

    @module.task("job")
    async def job(event: TaskQueueEvent) -> None:
        await event.step(name, lambda: calls.append(1))

    task = asyncio.run(single(module))
    assert task.error is not None
    assert task.error.message.startswith("name: ")
    assert calls == []


def test_a_name_is_used_once(make_module: MakeModule) -> None:
    """Otherwise the second step would silently get the result of the first one. 128 characters are a name."""
    module = make_module()

    @module.task("job", retry=AGAIN)
    async def job(event: TaskQueueEvent) -> None:
        await event.step("x" * 128, lambda: 1)
        await event.step("ship", lambda: 1)
        await event.step("ship", lambda: 2)

    task = asyncio.run(single(module))
    assert (task.status, task.attempt) == (FAILED, 1)
    assert task.error is not None
    assert "name: 'ship' is the name of another step of this task; give each its own" in task.error.message


def test_sub_tasks_have_steps_of_their_own(make_module: MakeModule) -> None:
    """Also in a chunk; and a retry of the fan-out keeps those of the sub-tasks that failed."""
    module, charges = make_module(), Charges()

    @module.step_function_task("job", chunk_size=2)
    async def job(event: StepFunctionTaskEvent) -> Any:
        found = await event.step("charge", charges.charge, event.task.input)
        if event.task.run == 1 and event.task.input % 2:
            raise ValueError("after the step")
        return found["order"]

    async def scenario() -> Any:
        parent = await fan_out(module, range(5))
        assert parent.status is FAILED
        await module.task_service.retry_task(parent.key)
        await drained(module)
        return await sub_tasks(module, parent)

    subs = asyncio.run(scenario())
    assert [sub.result for sub in subs] == [0, 1, 2, 3, 4]
    assert sorted(charges.made) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["async def", "def"])
def test_whoever_lost_its_claim_cannot_record(make_module: MakeModule, kind: str) -> None:
    """Rule 2. The next run calls the function again: nothing was kept."""
    module, calls, errors = make_module(), list[int](), list[str]()

    def charge(event: TaskQueueEvent) -> int:
        calls.append(event.task.run)
        if event.task.run == 1:
            module.sync.task_service.cancel_task(event.task.key)
        return event.task.run

    def job(event: TaskQueueEvent) -> Any:
        try:
            return event.sync.step("charge", charge, event)
        except ClaimLost as error:
            errors.append(str(error))
            return None

    async def async_job(event: TaskQueueEvent) -> Any:
        try:
            return await event.step("charge", charge, event)
        except ClaimLost as error:
            errors.append(str(error))

    module.task("job")(async_job if kind == "async def" else job)

    async def scenario() -> Any:
        task = await single(module)
        assert task.status is TaskStatus.CANCELLED
        await module.task_service.retry_task(task.key)
        await drained(module)
        return await module.task_service.get_task(task.key)

    assert asyncio.run(scenario()).result == 2
    assert calls == [1, 2]
    assert len(errors) == 1
    assert "nothing was saved" in errors[0]


def test_blocking_calls_do_not_hang_an_async_handler(make_module: MakeModule) -> None:
    """They would wait for the very loop that they block."""
    module = make_module()

    @module.task("job")
    async def job(event: TaskQueueEvent) -> None:
        event.sync.step("charge", lambda: 1)

    task = asyncio.run(single(module))
    assert task.error is not None
    assert "event.sync: would block the event loop of its worker; await the method of event" in task.error.message


def test_steps_do_not_flood_the_history(make_module: MakeModule) -> None:
    module = make_module()

    @module.task("job")
    async def job(event: TaskQueueEvent) -> None:
        for number in range(20):
            await event.step(f"step {number}", int)

    assert len(asyncio.run(single(module)).history) == 3


def test_outside_of_a_run_a_step_is_a_call() -> None:
    """As in a unit test of a handler."""
    event, charges = TaskQueueEvent[Any](), Charges()

    async def scenario() -> None:
        assert (await event.step("a", charges.charge, 1))["order"] == 1
        assert (await event.step("a", charges.charge_async, 2))["order"] == 2

    asyncio.run(scenario())
    assert event.sync.step("a", charges.charge, 3)["order"] == 3
    assert event.sync.step("a", charges.charge_async, 4)["order"] == 4


def test_two_modules_share_steps(make_module: MakeModule) -> None:
    """They lie with the task, not with the process."""
    one, other, charges = make_module(), make_module(), Charges()

    async def job(event: TaskQueueEvent) -> Any:
        found = await event.step("charge", charges.charge, 1)
        if event.task.run == 1:
            raise ValueError("after the step")
        return found["order"]

    def defined(module: TaskModule) -> TaskModule:
        module.task("job")(job)
        return module

    async def scenario() -> Any:
        task = await single(defined(one))
        await other.task_service.retry_task(task.key)
        await drained(defined(other))
        return await one.task_service.get_task(task.key)

    assert asyncio.run(scenario()).result == 1
    assert charges.made == [1]
