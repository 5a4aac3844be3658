"""Tasks that sleep, or wait for a callback: they hold no worker, and go on when it is time."""

import asyncio
from typing import Any

import pytest

from taskloom import Continue, Retry, StepFunctionTaskEvent, TaskModule, TaskQueueEvent, TaskStatus
from taskloom.errors import (
    CallbackFailed,
    CallbackTimeout,
    InvalidInput,
    InvalidType,
    NotRunning,
    TaskTokenNotFound,
    TaskTokenUsed,
)
from tests.support.clock import FakeClock
from tests.support.scenarios import check_history
from tests.surface.running import Entity, MakeModule, drained, fan_out, single, sub_tasks, within_patience

COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED
PENDING = TaskStatus.PENDING
AGAIN = Retry(max_attempts=3, initial=0)
KINDS = ["async def", "def"]


def sleeping(module: TaskModule, kind: str, seen: list[Any]) -> None:
    """Handlers of single tasks and of sub-tasks that sleep twice."""

    async def nap(event: Any) -> Any:
        seen.append("first")
        await event.sleep(60)
        seen.append("second")
        await event.sleep(30, name="short")
        seen.append("third")
        return event.attempt

    def blocking_nap(event: Any) -> Any:
        seen.append("first")
        event.sync.sleep(60)
        seen.append("second")
        event.sync.sleep(30, name="short")
        seen.append("third")
        return event.attempt

    module.task("job")(nap if kind == "async def" else blocking_nap)
    module.step_function_task("job", chunk_size=2)(nap if kind == "async def" else blocking_nap)


def waiting(module: TaskModule, kind: str, tokens: list[str], **options: Any) -> None:
    """Handlers of single tasks and of sub-tasks that ask for an approval."""

    async def ask(event: Any) -> Any:
        token = await event.callback("approval")
        tokens.append(token)
        try:
            return {"got": await event.wait_for(token, **options)}
        except CallbackFailed as error:
            return {"failed": error.error, "name": error.name}
        except CallbackTimeout as error:
            return {"late": error.name}

    def blocking_ask(event: Any) -> Any:
        token = event.sync.callback("approval")
        tokens.append(token)
        try:
            return {"got": event.sync.wait_for(token, **options)}
        except CallbackFailed as error:
            return {"failed": error.error, "name": error.name}
        except CallbackTimeout as error:
            return {"late": error.name}

    module.task("job")(ask if kind == "async def" else blocking_ask)
    module.step_function_task("job", chunk_size=2)(ask if kind == "async def" else blocking_ask)


async def now(module: TaskModule, task: Entity) -> Entity:
    return await module.task_service.get_task(task.key)


# --- sleeps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_sleep_holds_no_worker_and_is_slept_once(make_module: MakeModule, clock: FakeClock, kind: str) -> None:
    module, seen = make_module(clock=clock), list[str]()
    sleeping(module, kind, seen)

    async def scenario() -> Entity:
        task = await single(module)
        assert (task.status, task.attempt, seen) == (PENDING, 0, ["first"])
        assert task.next_attempt_at is not None
        assert (task.next_attempt_at - clock.now()).total_seconds() == 60
        clock.advance(59.999)
        await drained(module)
        assert seen == ["first"]
        clock.advance(0.001)
        await drained(module)
        assert seen == ["first", "first", "second"]
        clock.advance(30)
        await drained(module)
        return await now(module, task)

    task = asyncio.run(scenario())
    assert (task.status, task.result, task.attempt) == (COMPLETED, 1, 1)
    assert seen == ["first", "first", "second", "first", "second", "third"]
    reasons = [entry.reason for entry in task.history if entry.status is PENDING]
    assert reasons == [None, "sleeps until 2026-05-01T12:01:00.000Z", "sleeps until 2026-05-01T12:01:30.000Z"]
    check_history(task)


@pytest.mark.parametrize("kind", KINDS)
def test_sub_tasks_sleep_without_a_busy_loop(make_module: MakeModule, clock: FakeClock, kind: str) -> None:
    """And the fan-out does not end meanwhile. A worker that drains is idle: nothing of it is due."""
    module, seen = make_module(clock=clock), list[str]()
    sleeping(module, kind, seen)

    async def scenario() -> Any:
        parent = await fan_out(module, range(3))
        assert (parent.status, seen) == (TaskStatus.IN_PROGRESS, ["first"] * 3)
        assert {sub.status for sub in await sub_tasks(module, parent)} == {PENDING}
        clock.advance(60)
        await drained(module)
        assert sorted(seen) == ["first"] * 6 + ["second"] * 3
        clock.advance(30)
        await drained(module)
        return await now(module, parent), await sub_tasks(module, parent)

    parent, subs = asyncio.run(scenario())
    assert (parent.status, [sub.result for sub in subs]) == (COMPLETED, [1, 1, 1])
    assert (seen.count("first"), seen.count("second"), seen.count("third")) == (9, 6, 3)


def test_a_sleep_outlives_a_failed_attempt_and_a_new_run(make_module: MakeModule, clock: FakeClock) -> None:
    """It is over when it is over. No seconds at all are over at once."""
    module, slept = make_module(clock=clock), list[Any]()

    @module.task("job", retry=Retry(max_attempts=2, initial=0))
    async def job(event: TaskQueueEvent) -> str:
        await event.sleep(0)
        await event.sleep(60)
        slept.append((event.task.run, event.attempt))
        if event.task.run == 1:
            raise ValueError("after the sleep")
        return "done"

    async def scenario() -> Entity:
        task = await single(module)
        clock.advance(60)
        await drained(module)
        assert (await now(module, task)).status is FAILED
        await module.task_service.retry_task(task.key)
        await drained(module)
        return await now(module, task)

    assert asyncio.run(scenario()).result == "done"
    assert slept == [(1, 1), (1, 2), (2, 1)]


def test_a_loop_that_goes_on_where_it_was_may_sleep(make_module: MakeModule, clock: FakeClock) -> None:
    module, seen = make_module(clock=clock), list[int]()

    @module.task("job")
    async def job(event: TaskQueueEvent) -> None:
        async for number in event.resumable(range(4)):
            seen.append(number)
            await event.sleep(10, name=f"after {number}")

    async def scenario() -> Entity:
        task = await single(module)
        for _ in range(4):
            clock.advance(10)
            await drained(module)
        return await now(module, task)

    assert asyncio.run(scenario()).status is COMPLETED
    assert seen == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(("seconds", "problem"), [(-1, InvalidInput), (float("nan"), InvalidInput), ("1", InvalidType)])
def test_a_sleep_of_no_length_is_refused(make_module: MakeModule, seconds: Any, problem: type) -> None:
    module, raised = make_module(), list[InvalidInput]()

    @module.task("job")
    async def job(event: TaskQueueEvent) -> None:
        try:
            await event.sleep(seconds)
        except InvalidInput as error:
            raised.append(error)

    assert asyncio.run(single(module)).status is COMPLETED
    assert [(type(error), error.field) for error in raised] == [(problem, "seconds")]


def test_an_except_exception_does_not_swallow_it(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)

    @module.task("job")
    async def job(event: TaskQueueEvent) -> str:
        try:
            await event.sleep(10)
        except Exception:  # noqa: BLE001 - as handlers have it
            return "swallowed"
        return "slept"

    async def scenario() -> Entity:
        task = await single(module)
        assert task.status is PENDING
        clock.advance(10)
        await drained(module)
        return await now(module, task)

    assert asyncio.run(scenario()).result == "slept"


def test_the_timeout_is_for_a_slice(make_module: MakeModule, clock: FakeClock) -> None:
    """While a task sleeps its attempt does not run out of time."""
    module = make_module(clock=clock)

    @module.task("job", timeout=5)
    async def job(event: TaskQueueEvent) -> float:
        await event.sleep(3600)
        return event.remaining()

    async def scenario() -> Entity:
        task = await single(module)
        clock.advance(3600)
        await drained(module)
        return await now(module, task)

    assert asyncio.run(scenario()).result == 5


# --- callbacks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("output", [None, {"by": "ann", "ok": True}, "x" * 100_000], ids=["None", "object", "large"])
def test_a_task_waits_until_it_is_resumed(make_module: MakeModule, clock: FakeClock, kind: str, output: Any) -> None:
    module, tokens = make_module(clock=clock), list[str]()
    waiting(module, kind, tokens)

    async def scenario() -> Entity:
        task = await single(module)
        assert (task.status, task.attempt, len(tokens)) == (PENDING, 0, 1)
        clock.advance(3600)
        await drained(module)
        assert len(tokens) == 1
        await module.task_service.resume(tokens[0], output)
        await drained(module)
        return await now(module, task)

    task = asyncio.run(scenario())
    assert (task.status, task.result, task.attempt) == (COMPLETED, {"got": output}, 1)
    assert len(set(tokens)) == 1
    reasons = [entry.reason for entry in task.history if entry.status is PENDING]
    assert reasons == [None, 'waits for callback "approval"', 'callback "approval" was answered']
    check_history(task)


def test_a_worker_that_waits_is_woken(make_module: MakeModule) -> None:
    """At once, not when it looks by itself. On real time."""
    module, tokens = make_module(), list[str]()
    waiting(module, "async def", tokens)

    async def scenario() -> Any:
        task = await module.task_service.create_task(tenant_code="acme", task_type="job")
        async with module.worker() as worker:
            await worker.drain()
            await module.task_service.resume(tokens[0], 1)
            return (await within_patience(module.task_service.wait(task.key))).result

    assert asyncio.run(scenario()) == {"got": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_may_be_an_error(make_module: MakeModule, clock: FakeClock, kind: str) -> None:
    module, tokens = make_module(clock=clock), list[str]()
    waiting(module, kind, tokens, timeout=60)

    async def scenario() -> Entity:
        task = await single(module)
        await module.task_service.fail(tokens[0], "not with me")
        await drained(module)
        return await now(module, task)

    assert asyncio.run(scenario()).result == {"failed": "not with me", "name": "approval"}


@pytest.mark.parametrize("kind", KINDS)
def test_time_may_be_over(make_module: MakeModule, clock: FakeClock, kind: str) -> None:
    """Counted from the first wait. From then on an answer comes too late, whether the handler ran yet or not."""
    module, tokens = make_module(clock=clock), list[str]()
    waiting(module, kind, tokens, timeout=60)

    async def scenario() -> Entity:
        task = await single(module)
        assert task.history[-1].reason == 'waits for callback "approval" until 2026-05-01T12:01:00.000Z'
        clock.advance(59.999)
        await drained(module)
        assert (await now(module, task)).status is PENDING
        clock.advance(0.001)
        with pytest.raises(TaskTokenUsed, match="is over"):
            await module.task_service.resume(tokens[0], 1)
        await drained(module)
        with pytest.raises(TaskTokenUsed, match="timed out"):
            await module.task_service.resume(tokens[0], 1)
        return await now(module, task)

    assert asyncio.run(scenario()).result == {"late": "approval"}
    with pytest.raises(TimeoutError):
        raise CallbackTimeout("approval")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answer", ["resume", "fail", "time"])
def test_sub_tasks_wait_each_for_its_own(make_module: MakeModule, clock: FakeClock, kind: str, answer: str) -> None:
    """Those of one chunk are answered one after the other; the fan-out ends when all have."""
    module, tokens = make_module(clock=clock), list[str]()
    waiting(module, kind, tokens, timeout=3600)

    async def scenario() -> Any:
        parent = await fan_out(module, range(5))
        assert len(set(tokens)) == 5
        for number, token in enumerate(list(tokens)):
            if answer == "resume":
                await module.task_service.resume(token, number)
            elif answer == "fail":
                await module.task_service.fail(token, str(number))
            await drained(module)
        clock.advance(3600)
        if answer == "time":
            await drained(module)
        return await now(module, parent), await sub_tasks(module, parent)

    parent, subs = asyncio.run(scenario())
    assert parent.status is COMPLETED
    expected: dict[str, Any] = {
        "resume": [{"got": number} for number in range(5)],
        "fail": [{"failed": str(number), "name": "approval"} for number in range(5)],
        "time": [{"late": "approval"}] * 5,
    }
    assert sorted(map(str, (sub.result for sub in subs))) == sorted(map(str, expected[answer]))


@pytest.mark.parametrize("max_concurrency", [1, 2, 40])
def test_more_sub_tasks_wait_than_may_run(make_module: MakeModule, clock: FakeClock, max_concurrency: int) -> None:
    """Whoever waits keeps nobody from starting, and whoever is answered goes on whoever else still waits."""
    module, tokens = make_module(clock=clock), dict[int, str]()

    @module.step_function_task("job", chunk_size=1, max_concurrency=max_concurrency)
    async def job(event: StepFunctionTaskEvent) -> Any:
        tokens[event.task.input] = token = await event.callback("approval")
        return await event.wait_for(token)

    async def scenario() -> Any:
        parent = await fan_out(module, range(5))
        assert len(tokens) == 5
        for number in (3, 0, 4, 2, 1):
            await module.task_service.resume(tokens[number], number)
            await drained(module)
            ended = await module.task_service.list_sub_tasks(parent.key, status=COMPLETED)
            assert number in [sub.index for sub in ended.items]
        return await now(module, parent), await sub_tasks(module, parent)

    parent, subs = asyncio.run(scenario())
    assert (parent.status, [sub.result for sub in subs]) == (COMPLETED, [0, 1, 2, 3, 4])


def test_a_sub_task_is_answered_while_its_chunk_still_runs(make_module: MakeModule, clock: FakeClock) -> None:
    """Its chunk comes again as soon as it is through, though it had been told to wait."""
    module = make_module(clock=clock)

    @module.step_function_task("job", chunk_size=2)
    async def job(event: StepFunctionTaskEvent) -> Any:
        if event.task.input == 0:
            tokens.append(await event.callback("approval"))
            return await event.wait_for(tokens[-1])
        await module.task_service.resume(tokens[0], "in time")
        return "second"

    tokens: list[str] = []

    async def scenario() -> Any:
        parent = await fan_out(module, [0, 1])
        return await now(module, parent), await sub_tasks(module, parent)

    parent, subs = asyncio.run(scenario())
    assert (parent.status, [sub.result for sub in subs]) == (COMPLETED, ["in time", "second"])


@pytest.mark.parametrize("is_sub_task", [False, True])
def test_an_answer_before_the_wait_is_kept(make_module: MakeModule, clock: FakeClock, is_sub_task: bool) -> None:
    """Before the handler comes to it, or while its wait is being written: it does not even suspend."""
    module, calls = make_module(clock=clock), list[int]()

    async def ask(event: Any) -> Any:
        calls.append(1)
        token = await event.callback("approval")
        if len(calls) == 1:
            await module.task_service.resume(token, "early")
        return await event.wait_for(token)

    module.task("job")(ask)
    module.step_function_task("job")(ask)

    async def scenario() -> Any:
        if not is_sub_task:
            return (await single(module)).result
        return (await sub_tasks(module, await fan_out(module, [1])))[0].result

    assert asyncio.run(scenario()) == "early"
    assert len(calls) == 1


@pytest.mark.parametrize("is_sub_task", [False, True])
def test_an_answer_amid_the_suspension_is_not_lost(
    make_module: MakeModule, clock: FakeClock, is_sub_task: bool
) -> None:
    """After the handler has looked for it in vain, before the suspension is written: the task goes on at once."""
    module, calls = make_module(clock=clock), list[int]()

    async def ask(event: Any) -> Any:
        calls.append(1)
        token = await event.callback("approval")
        try:
            return await event.wait_for(token)
        finally:
            if len(calls) == 1:
                await module.task_service.resume(token, "just now")

    module.task("job")(ask)
    module.step_function_task("job")(ask)

    async def scenario() -> Entity:
        if not is_sub_task:
            return await single(module)
        return (await sub_tasks(module, await fan_out(module, [1])))[0]

    task = asyncio.run(scenario())
    assert (task.status, task.result, task.attempt, len(calls)) == (COMPLETED, "just now", 1, 2)
    assert "its callback was answered, and it goes on" in [entry.reason for entry in task.history]


@pytest.mark.parametrize("how", ["resume", "fail"])
def test_a_token_is_used_once(make_module: MakeModule, clock: FakeClock, how: str) -> None:
    """Before the task went on, after it, and when it has ended: whoever comes second is told."""
    module, tokens = make_module(clock=clock), list[str]()
    waiting(module, "async def", tokens)
    service = module.task_service

    async def again() -> None:
        with pytest.raises(TaskTokenUsed, match="used before: resumed"):
            await (service.resume(tokens[0], 2) if how == "resume" else service.fail(tokens[0], "late"))

    async def scenario() -> Entity:
        task = await single(module)
        await service.resume(tokens[0], 1)
        await again()
        await drained(module)
        await again()
        return await now(module, task)

    assert asyncio.run(scenario()).result == {"got": 1}


def test_of_many_that_answer_at_the_same_time_one_wins(make_module: MakeModule, clock: FakeClock) -> None:
    module, tokens = make_module(clock=clock), list[str]()
    waiting(module, "async def", tokens)

    async def scenario() -> Any:
        task = await single(module)
        answers = [module.task_service.resume(tokens[0], number) for number in range(8)]
        outcomes = await asyncio.gather(*answers, return_exceptions=True)
        await drained(module)
        return outcomes, await now(module, task)

    outcomes, task = asyncio.run(scenario())
    winners = [number for number, outcome in enumerate(outcomes) if outcome is None]
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [TaskTokenUsed] * 7
    assert task.result == {"got": winners[0]}


@pytest.mark.parametrize("door", ["resume", "fail", "execution"])
@pytest.mark.parametrize("token", ["", "x", "x" * 10_000, "\x00", "ä"])
def test_an_unknown_token_is_not_found(make_module: MakeModule, door: str, token: str) -> None:
    module = make_module()
    calls = {
        "resume": lambda: module.task_service.resume(token),
        "fail": lambda: module.task_service.fail(token, "no"),
        "execution": lambda: module.step_function_service.resume_execution(token),
    }
    with pytest.raises(TaskTokenNotFound):
        asyncio.run(calls[door]())


def test_a_token_of_another_tenant_is_not_found(make_module: MakeModule, clock: FakeClock) -> None:
    """Rule 7, for whoever knows the tenant of its caller."""
    module, tokens = make_module(clock=clock), list[str]()
    waiting(module, "async def", tokens)

    async def scenario() -> Entity:
        task = await single(module)
        for other in ("other", "acme2", "ACME", ""):
            with pytest.raises(TaskTokenNotFound):
                await module.task_service.resume(tokens[0], 1, tenant_code=other)
            with pytest.raises(TaskTokenNotFound):
                await module.task_service.fail(tokens[0], "no", tenant_code=other)
        await module.task_service.resume(tokens[0], 2, tenant_code="acme")
        await drained(module)
        return await now(module, task)

    assert asyncio.run(scenario()).result == {"got": 2}


def test_a_handler_waits_for_its_own_tokens_only(make_module: MakeModule, clock: FakeClock) -> None:
    """Also when the other one is of the same tenant, and answered: a token is bound to its task."""
    module, tokens = make_module(clock=clock), list[str]()
    waiting(module, "async def", tokens)

    @module.task("thief")
    async def thief(event: TaskQueueEvent) -> Any:
        return await event.wait_for(event.task.input)

    async def scenario() -> list[Entity]:
        await single(module)
        await module.task_service.resume(tokens[0], "secret")
        return [await single(module, token, task_type="thief") for token in (tokens[0], "made up", 7)]

    for task in asyncio.run(scenario()):
        assert task.status is FAILED
        assert task.error is not None
        assert task.error.message.startswith("token: ")
        assert "secret" not in task.error.message


def test_tokens_cannot_be_guessed(make_module: MakeModule, clock: FakeClock) -> None:
    """All different, long, and nothing of the task in them."""
    module, tokens = make_module(clock=clock), list[str]()
    waiting(module, "async def", tokens)
    asyncio.run(fan_out(module, range(200)))
    assert len(set(tokens)) == 200
    assert {len(token) for token in tokens} == {43}  # 256 bits in base 64
    columns = [{token[position] for token in tokens} for position in range(42)]
    assert all(len(column) > 30 for column in columns)


@pytest.mark.parametrize("sync", [False, True])
def test_resume_execution_is_the_same_door(make_module: MakeModule, clock: FakeClock, sync: bool) -> None:
    module, tokens = make_module(clock=clock), list[str]()
    waiting(module, "async def", tokens)
    service = module.step_function_service

    async def scenario() -> Entity:
        task = await single(module)
        if sync:
            await asyncio.to_thread(module.sync.step_function_service.resume_execution, tokens[0], 5)
        else:
            await service.resume_execution(tokens[0], 5)
        with pytest.raises(TaskTokenUsed):
            await service.resume_execution(tokens[0], 6)
        with pytest.raises(TaskTokenUsed):
            await asyncio.to_thread(module.sync.task_service.fail, tokens[0], "no")
        await drained(module)
        return await now(module, task)

    assert asyncio.run(scenario()).result == {"got": 5}


def test_what_cannot_be_an_answer_is_refused(make_module: MakeModule, clock: FakeClock) -> None:
    """And the token is not used up by it."""
    module, tokens = make_module(clock=clock), list[str]()
    waiting(module, "async def", tokens)
    service: Any = module.task_service

    async def scenario() -> Entity:
        task = await single(module)
        for call, field in (
            (service.resume(tokens[0], {1, 2}), "output"),
            (service.resume(tokens[0], float("inf")), "output"),
            (service.resume(7), "task_token"),
            (service.fail(tokens[0], ""), "error"),
            (service.fail(tokens[0], "x" * 2001), "error"),
            (service.fail(tokens[0], "\ud800"), "error"),
            (service.fail(tokens[0], ValueError("no")), "error"),
        ):
            with pytest.raises(InvalidInput) as refused:
                await call
            assert refused.value.field == field
        await service.fail(tokens[0], "x" * 2000)
        await drained(module)
        return await now(module, task)

    assert asyncio.run(scenario()).result == {"failed": "x" * 2000, "name": "approval"}


@pytest.mark.parametrize("answer", ["fail", "time"])
def test_a_bad_answer_that_is_not_dealt_with_is_final(make_module: MakeModule, clock: FakeClock, answer: str) -> None:
    """Whatever the retry policy: a callback has one answer in a run. A new run asks anew, with another token."""
    module, tokens = make_module(clock=clock), list[str]()

    @module.task("job", retry=AGAIN)
    async def job(event: TaskQueueEvent) -> Any:
        tokens.append(await event.callback("approval"))
        return await event.wait_for(tokens[-1], timeout=60)

    async def scenario() -> Entity:
        task = await single(module)
        if answer == "fail":
            await module.task_service.fail(tokens[0], "not with me")
        else:
            clock.advance(60)
        await drained(module)
        failed = await now(module, task)
        assert (failed.status, failed.attempt) == (FAILED, 1)
        assert failed.error is not None
        words = {"fail": "callback 'approval' failed: not with me", "time": "callback 'approval' was not answered"}
        assert words[answer] in failed.error.message
        await module.task_service.retry_task(task.key)
        await drained(module)
        assert tokens[-1] != tokens[0]
        with pytest.raises(TaskTokenNotFound):
            await module.task_service.resume(tokens[0], "old")
        await module.task_service.resume(tokens[-1], "new")
        await drained(module)
        return await now(module, task)

    assert asyncio.run(scenario()).result == "new"


def test_a_good_answer_counts_for_later_runs(make_module: MakeModule, clock: FakeClock) -> None:
    """Nobody is asked twice: like a step that is done."""
    module, tokens = make_module(clock=clock), list[str]()

    @module.task("job")
    async def job(event: TaskQueueEvent) -> Any:
        tokens.append(await event.callback("approval"))
        answer = await event.wait_for(tokens[-1])
        if event.task.run == 1:
            raise ValueError("afterwards")
        return answer

    async def scenario() -> Entity:
        task = await single(module)
        await module.task_service.resume(tokens[0], "yes")
        await drained(module)
        await module.task_service.retry_task(task.key)
        await drained(module)
        return await now(module, task)

    assert asyncio.run(scenario()).result == "yes"
    assert len(set(tokens)) == 1


@pytest.mark.parametrize("is_slice", [False, True])
def test_the_token_is_the_same_in_every_attempt_and_slice(
    make_module: MakeModule, clock: FakeClock, is_slice: bool
) -> None:
    """And an answer does not cut a backoff short."""
    module, tokens = make_module(clock=clock), list[str]()

    @module.task("job", retry=Retry(max_attempts=3, initial=60, jitter=False))
    async def job(event: TaskQueueEvent) -> Any:
        tokens.append(await event.callback("approval"))
        if len(tokens) == 1:
            if is_slice:
                raise Continue
            raise ValueError("before the wait")
        return await event.wait_for(tokens[-1])

    async def scenario() -> Entity:
        task = await single(module)
        if not is_slice:
            await module.task_service.resume(tokens[0], "yes")
            await drained(module)
            assert len(tokens) == 1
            clock.advance(60)
        else:
            await module.task_service.resume(tokens[0], "yes")
        await drained(module)
        return await now(module, task)

    assert asyncio.run(scenario()).result == "yes"
    assert len(set(tokens)) == 1


def test_a_handler_may_ask_several(make_module: MakeModule, clock: FakeClock) -> None:
    """And wait for one after the other, in whatever order they answer; each name is used once."""
    module, tokens = make_module(clock=clock), dict[str, str]()

    @module.task("job")
    async def job(event: TaskQueueEvent) -> Any:
        for name in ("ann", "bob"):
            tokens[name] = await event.callback(name)
        return [await event.wait_for(tokens[name]) for name in ("ann", "bob")]

    @module.task("twice")
    async def twice(event: TaskQueueEvent) -> None:
        await event.callback("ann")
        await event.callback("ann")

    async def scenario() -> Any:
        task = await single(module)
        await module.task_service.resume(tokens["bob"], 2)
        await drained(module)
        assert (await now(module, task)).status is PENDING
        await module.task_service.resume(tokens["ann"], 1)
        await drained(module)
        return await now(module, task), await single(module, task_type="twice")

    task, other = asyncio.run(scenario())
    assert task.result == [1, 2]
    assert other.error is not None
    assert "'ann' is the name of another callback" in other.error.message


def test_it_waits_for_ever_and_looks_now_and_then(make_module: MakeModule, clock: FakeClock) -> None:
    """Without a timeout: the handler is called once a week, and nothing else happens."""
    module, tokens = make_module(clock=clock), list[str]()
    waiting(module, "async def", tokens)

    async def scenario() -> Entity:
        task = await single(module)
        for _ in range(10):
            clock.advance(7 * 86400)
            await drained(module)
        await module.task_service.resume(tokens[0], "at last")
        await drained(module)
        return await now(module, task)

    assert asyncio.run(scenario()).result == {"got": "at last"}
    assert len(tokens) == 12


# --- what comes from outside -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_sub_task", [False, True])
def test_who_is_suspended_can_be_cancelled(make_module: MakeModule, clock: FakeClock, is_sub_task: bool) -> None:
    """The token goes with it. A retry asks anew."""
    module, tokens = make_module(clock=clock), list[str]()
    waiting(module, "async def", tokens)

    async def scenario() -> Any:
        task = await (fan_out(module, [1]) if is_sub_task else single(module))
        await module.task_service.cancel_task(task.key)
        await drained(module)
        assert (await now(module, task)).status is CANCELLED
        with pytest.raises(TaskTokenNotFound):
            await module.task_service.resume(tokens[0], 1)
        clock.advance(30 * 86400)
        await drained(module)
        assert len(tokens) == 1
        await module.task_service.retry_task(task.key)
        with pytest.raises(TaskTokenNotFound):  # the new run has not come to it yet
            await module.task_service.resume(tokens[0], 1)
        await drained(module)
        assert len(set(tokens)) == 2
        with pytest.raises(TaskTokenNotFound):
            await module.task_service.resume(tokens[0], 1)
        await module.task_service.resume(tokens[1], 2)
        await drained(module)
        task = await now(module, task)
        return task.status, (await sub_tasks(module, task))[0].result if is_sub_task else task.result

    assert asyncio.run(scenario()) == (COMPLETED, {"got": 2})


@pytest.mark.parametrize("is_sub_task", [False, True])
@pytest.mark.parametrize("how", ["sleep", "wait"])
def test_the_deadline_counts_while_it_is_suspended(
    make_module: MakeModule, clock: FakeClock, is_sub_task: bool, how: str
) -> None:
    module, tokens = make_module(clock=clock), list[str]()

    async def job(event: Any) -> None:
        tokens.append(await event.callback("approval"))
        await (event.sleep(3600) if how == "sleep" else event.wait_for(tokens[-1]))

    module.task("job", deadline=100)(job)
    module.step_function_task("job", deadline=100)(job)

    async def scenario() -> Entity:
        task = await (fan_out(module, [1]) if is_sub_task else single(module))
        clock.advance(100)
        await drained(module)
        with pytest.raises(TaskTokenNotFound):
            await module.task_service.resume(tokens[0])
        return await now(module, task)

    task = asyncio.run(scenario())
    assert (task.status, task.error and task.error.type) == (FAILED, "DeadlineExceeded")


def test_waiting_tasks_can_be_purged(make_module: MakeModule, clock: FakeClock) -> None:
    module, tokens = make_module(clock=clock), list[str]()
    waiting(module, "async def", tokens)

    async def scenario() -> Entity:
        task = await single(module)
        await module.task_service.queues.purge(task_type="job")
        return await now(module, task)

    assert asyncio.run(scenario()).status is CANCELLED


def test_a_task_has_one_message_however_often_it_waited(make_module: MakeModule, clock: FakeClock) -> None:
    """What was put off goes when the task is woken: the queue does not fill up."""
    module, tokens = make_module(clock=clock), list[str]()

    @module.task("job")
    async def job(event: TaskQueueEvent) -> None:
        for number in range(20):
            tokens.append(await event.callback(str(number)))
            await event.wait_for(tokens[-1])

    async def scenario() -> Entity:
        task = await single(module)
        for _ in range(20):
            (figures,) = await module.task_service.queues.figures()
            assert (figures.waiting, figures.delayed, figures.in_flight) == (0, 1, 0)
            await module.task_service.resume(tokens[-1])
            await drained(module)
        assert await module.task_service.queues.figures() == []
        return await now(module, task)

    assert asyncio.run(scenario()).status is COMPLETED


def test_outside_of_a_run_nobody_waits() -> None:
    """In a unit test of a handler a sleep is over at once, and a wait says that nobody will answer."""
    event = TaskQueueEvent[Any]()

    async def scenario() -> None:
        await event.sleep(3600)
        token = await event.callback("approval")
        with pytest.raises(NotRunning, match="nobody answers"):
            await event.wait_for(token)

    asyncio.run(scenario())
    event.sync.sleep(3600)
    with pytest.raises(NotRunning):
        event.sync.wait_for(event.sync.callback("approval"))
