"""What handlers may do wrong, and what is kept of it; timeouts; results of any size."""

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from taskloom import GiveUp, Retry, RetryAfter, StepFunctionTaskEvent, TaskQueueEvent, TaskStatus
from taskloom.execution.attempt import Attempt
from taskloom.model import TaskEntity
from taskloom.ports import Backend
from tests.support.clock import FakeClock
from tests.support.faults import DEADLINE
from tests.support.scenarios import TENANT, check_history, module_over, work

COMPLETED, FAILED, PENDING = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.PENDING


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Own(BaseException):
    """As pytest, trio and others have them: no `except Exception` catches it."""


ERRORS: list[tuple[BaseException, str, str]] = [
    (ValueError("plain"), "ValueError", "plain"),
    (ValueError(), "ValueError", "(ValueError without a message)"),
    (Mute(), f"{__name__}.Mute", "(its __str__ raised RuntimeError)"),
    (ValueError("lone \ud800 surrogate"), "ValueError", "lone \\ud800 surrogate"),
    (ValueError("x" * 5_000_000), "ValueError", "xxx"),
    (ExceptionGroup("two", [ValueError("a"), KeyError("b")]), "ExceptionGroup", "two (2 sub-exceptions)"),
    (SystemExit(3), "RuntimeError", "3"),
    (asyncio.CancelledError(), "RuntimeError", "cancel"),
    (StopIteration("early"), "RuntimeError", "StopIteration"),
    (StopAsyncIteration("early"), "StopAsyncIteration", "early"),
    (TimeoutError("of its own"), "TimeoutError", "of its own"),
    (GiveUp("for good"), "taskloom.errors.GiveUp", "for good"),
    (Own("of another kind"), "", "of another kind"),
    (BaseExceptionGroup("mixed", [Own("a")]), "", "mixed"),
]
_BY_NAME = {type(error).__name__ + f" {index}": (error, kind, text) for index, (error, kind, text) in enumerate(ERRORS)}


@pytest.mark.parametrize("colour", ["async-def", "def"])
@pytest.mark.parametrize(("error", "kind", "text"), _BY_NAME.values(), ids=_BY_NAME.keys())
def test_whatever_a_handler_raises_becomes_a_recorded_attempt(
    backend: Backend, error: BaseException, kind: str, text: str, colour: str
) -> None:
    """The task fails with it, in one write with its history; the worker lives on, and runs the next task."""
    module = module_over(backend)

    @module.task("async-def")
    async def raises(event: TaskQueueEvent) -> str:
        if event.task.input == "raise":
            raise error
        return "fine"

    @module.task("def")
    def raises_in_a_thread(event: TaskQueueEvent) -> str:
        if event.task.input == "raise":
            raise error
        return "fine"

    async def main() -> None:
        service = module.task_service
        async with module.worker(concurrency=1) as worker:
            task = await service.create_task(tenant_code=TENANT, task_type=colour, input="raise")
            async with asyncio.timeout(DEADLINE):
                await worker.drain()
            done = await service.get_task(task.key)
            assert done.status is FAILED
            assert done.error is not None
            assert kind in done.error.type
            assert text in done.error.message
            assert done.error.traceback is not None
            assert len(done.error.message) < 2_100
            assert not done.error.will_retry
            assert str(done.history[-1].reason)[:500] == done.error.message[:500]
            assert done.attributes.results is None
            check_history(done)
            other = await service.create_task(tenant_code=TENANT, task_type=colour)
            async with asyncio.timeout(DEADLINE):
                await worker.drain()
            assert (await service.get_task(other.key)).result == "fine"

    asyncio.run(main())


@pytest.mark.parametrize(("error", "kind", "text"), _BY_NAME.values(), ids=_BY_NAME.keys())
def test_a_sub_task_that_raises_fails_alone(backend: Backend, error: BaseException, kind: str, text: str) -> None:
    """Also for its neighbours in the same chunk, with lanes beside it."""
    module = module_over(backend)

    @module.step_function_task("cat", chunk_size=6, chunk_concurrency=2, tolerated_failure_percentage=50)
    async def cat(event: StepFunctionTaskEvent) -> int:
        if event.task.index == 2:
            raise error
        return event.task.input  # type: ignore[no-any-return]

    async def main() -> None:
        parent = await module.task_service.create_step_function_task(
            tenant_code=TENANT, task_type="cat", input=range(6)
        )
        async with asyncio.timeout(DEADLINE):
            await work(module)
        subs = [sub async for sub in module.task_service.iter_sub_tasks(parent.key)]
        assert [sub.result for sub in subs] == [0, 1, None, 3, 4, 5]
        assert subs[2].status is FAILED
        assert subs[2].error is not None
        assert text in subs[2].error.message
        done = await module.task_service.get_task(parent.key)
        assert done.status is COMPLETED

    asyncio.run(main())


def test_a_retry_shows_the_last_error_while_it_waits(backend: Backend, clock: FakeClock) -> None:
    module = module_over(backend)

    @module.task("cat", retry=Retry(max_attempts=3, initial=10, jitter=False))
    async def cat(event: TaskQueueEvent) -> int:
        if event.attempt < 3:
            raise ValueError(f"attempt {event.attempt}")
        return event.attempt

    async def main() -> None:
        task = await module.task_service.create_task(tenant_code=TENANT, task_type="cat")
        for attempt, pause in ((1, 10.0), (2, 20.0)):
            await work(module)
            waiting = await module.task_service.get_task(task.key)
            assert (waiting.status, waiting.attempt) == (PENDING, attempt)
            assert waiting.error is not None
            assert (waiting.error.message, waiting.error.will_retry) == (f"attempt {attempt}", True)
            assert waiting.next_attempt_at is not None
            assert (waiting.next_attempt_at - clock.now()).total_seconds() == pause
            clock.advance(pause - 0.001)
            await work(module)
            assert await module.task_service.get_task(task.key) == waiting, "too early"
            clock.advance(0.001)
        await work(module)
        done = await module.task_service.get_task(task.key)
        assert (done.status, done.result, done.error) == (COMPLETED, 3, None)
        assert [entry.reason for entry in done.history] == [None, None, "attempt 1", None, "attempt 2", None, None]

    asyncio.run(main())


def test_a_sub_task_is_tried_again_too(backend: Backend, clock: FakeClock) -> None:
    """The parent waits for it, and its chunk is not run a second time for the others."""
    module = module_over(backend)
    calls: list[int | None] = []

    @module.step_function_task("cat", chunk_size=3, retry=Retry(max_attempts=2, initial=10, jitter=False))
    async def cat(event: StepFunctionTaskEvent) -> int:
        calls.append(event.task.index)
        if event.task.index == 1 and event.attempt == 1:
            raise RetryAfter(30)
        return event.attempt

    async def main() -> None:
        parent = await module.task_service.create_step_function_task(
            tenant_code=TENANT, task_type="cat", input=range(3)
        )
        await work(module)
        assert (await module.task_service.get_task(parent.key)).status is TaskStatus.IN_PROGRESS
        clock.advance(29)
        await work(module)
        assert calls == [0, 1, 2]
        clock.advance(1)
        await work(module)
        assert calls == [0, 1, 2, 1]
        done = await module.task_service.get_task(parent.key)
        assert done.status is COMPLETED
        subs = [sub async for sub in module.task_service.iter_sub_tasks(parent.key)]
        assert [sub.result for sub in subs] == [1, 2, 1]
        for sub in subs:
            check_history(sub)

    asyncio.run(main())


# --- timeouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", ["async-def", "def"])
@pytest.mark.parametrize("tried_again", [False, True])
def test_an_attempt_that_takes_too_long(backend: Backend, clock: FakeClock, colour: str, tried_again: bool) -> None:
    """An async handler is cancelled, a thread left behind and its result dropped; what follows is the policy's."""
    module = module_over(backend)
    inside, leave, over = threading.Event(), threading.Event(), threading.Event()
    cancelled: list[bool] = []
    retry = Retry(max_attempts=2, initial=0) if tried_again else None

    @module.task("async-def", timeout=60, retry=retry)
    async def waits(event: TaskQueueEvent) -> str:
        if event.attempt == 1:
            inside.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(event.cancelled)
                over.set()
        return "the second attempt"

    @module.task("def", timeout=60, retry=retry)
    def blocks(event: TaskQueueEvent) -> str:
        if event.attempt > 1:
            return "the second attempt"
        inside.set()
        assert leave.wait(DEADLINE)
        cancelled.append(event.cancelled)
        over.set()
        return "too late"

    async def main() -> None:
        task = await module.task_service.create_task(tenant_code=TENANT, task_type=colour)
        async with module.worker(concurrency=1) as worker:
            assert await asyncio.to_thread(inside.wait, DEADLINE)
            clock.advance(60)
            async with asyncio.timeout(DEADLINE):
                while not (await module.task_service.get_task(task.key)).is_terminal:
                    await worker.drain()
            done = await module.task_service.get_task(task.key)
            leave.set()
            assert await asyncio.to_thread(over.wait, DEADLINE)
            await worker.drain()
        assert cancelled == [True]
        assert await module.task_service.get_task(task.key) == done, "a late result changes nothing"
        failed = next(entry for entry in done.history if entry.reason is not None)
        assert failed.reason == "the attempt took longer than 60 s"
        if tried_again:
            assert (done.status, done.result) == (COMPLETED, "the second attempt")
        else:
            assert done.status is FAILED
            assert done.error is not None
            assert done.error.type == "TimeoutError"

    asyncio.run(main())


def test_a_timeout_that_is_not_reached(backend: Backend, clock: FakeClock) -> None:
    """Nothing of it is left behind: time that passes later interrupts nobody."""
    module = module_over(backend)

    @module.task("cat", timeout=5)
    async def cat(event: TaskQueueEvent) -> str:
        return "in time"

    async def main() -> None:
        async with module.worker(concurrency=1) as worker:
            for _ in range(3):
                task = await module.task_service.create_task(tenant_code=TENANT, task_type="cat")
                async with asyncio.timeout(DEADLINE):
                    while not (await module.task_service.get_task(task.key)).is_terminal:
                        await worker.drain()
                clock.advance(10)
                assert (await module.task_service.get_task(task.key)).result == "in time"

    asyncio.run(main())


def test_a_timeout_of_one_sub_task_is_not_the_others(backend: Backend, clock: FakeClock) -> None:
    module = module_over(backend)
    inside = asyncio.Event()

    @module.step_function_task("cat", timeout=60, chunk_size=3)
    async def cat(event: StepFunctionTaskEvent) -> str:
        if event.task.index == 1:
            inside.set()
            await asyncio.Event().wait()
        return "fine"

    async def main() -> None:
        parent = await module.task_service.create_step_function_task(
            tenant_code=TENANT, task_type="cat", input=range(3)
        )
        async with module.worker(concurrency=1) as worker:
            await inside.wait()
            clock.advance(60)
            async with asyncio.timeout(DEADLINE):
                while not (await module.task_service.get_task(parent.key)).is_terminal:
                    await worker.drain()
        subs = [sub async for sub in module.task_service.iter_sub_tasks(parent.key)]
        assert [sub.status for sub in subs] == [COMPLETED, FAILED, COMPLETED]
        assert subs[1].error is not None
        assert subs[1].error.message == "the attempt took longer than 60 s"

    asyncio.run(main())


def test_a_timeout_leaves_nothing_behind_in_its_lane(backend: Backend, clock: FakeClock) -> None:
    """The next sub-task, which asyncio runs as part of the same task, is not taken for one that is cancelled too."""
    module = module_over(backend)
    inside = asyncio.Event()

    @module.step_function_task("cat", timeout=60, chunk_size=2)
    async def cat(event: StepFunctionTaskEvent) -> None:
        if event.task.index == 0:
            inside.set()
            await asyncio.Event().wait()
        raise asyncio.CancelledError

    async def main() -> None:
        parent = await module.task_service.create_step_function_task(
            tenant_code=TENANT, task_type="cat", input=range(2)
        )
        async with module.worker(concurrency=1) as worker, asyncio.timeout(DEADLINE):
            await inside.wait()
            clock.advance(60)
            while not (await module.task_service.get_task(parent.key)).is_terminal:
                await worker.drain()
        subs = [sub async for sub in module.task_service.iter_sub_tasks(parent.key)]
        errors = [sub.error and sub.error.message for sub in subs]
        assert errors == [
            "the attempt took longer than 60 s",
            "the handler was cancelled by itself: a task that it awaited was cancelled",
        ]

    asyncio.run(main())


# --- results ---------------------------------------------------------------------------------------------------------


async def result_of(backend: Backend, value: Any) -> tuple[TaskEntity[Any], TaskEntity[Any]]:
    """What a handler returns, as the service shows it and as the store holds it."""
    module = module_over(backend)

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> Any:
        return value

    task = await module.task_service.create_task(tenant_code=TENANT, task_type="cat")
    await work(module)
    stored = await backend.store.get(task.key)
    assert stored is not None
    return await module.task_service.get_task(task.key), stored


@pytest.mark.parametrize(
    ("value", "inline"),
    [
        ("x" * 1000, True),
        ("x" * (64 * 1024 - 6), True),  # with quotes and brackets exactly the limit
        ("x" * (64 * 1024 - 5), False),
        ("ä" * (32 * 1024 - 3), True),
        ("ä" * (32 * 1024 - 2), False),
        ("😀" * (16 * 1024 - 2), True),
        ("😀" * (16 * 1024 - 1), False),
        (["€" * 1000] * 40, False),
        ({"rows": [{"number": number} for number in range(50_000)]}, False),
    ],
    ids=[
        "small",
        "limit",
        "above",
        "limit in bytes",
        "above in bytes",
        "four bytes each",
        "too many of them",
        "list",
        "large",
    ],
)
def test_a_result_over_the_inline_limit_goes_to_the_payload_store(backend: Backend, value: Any, inline: bool) -> None:
    """The row holds its reference; whoever asks for the task gets the result all the same. The limit counts bytes."""

    async def main() -> None:
        shown, stored = await result_of(backend, value)
        assert shown.status is COMPLETED
        assert shown.result == value
        assert (stored.attributes.result_ref is None) == inline
        assert (stored.attributes.results is None) == (not inline)

    asyncio.run(main())


def test_large_results_of_sub_tasks(backend: Backend) -> None:
    """Each under a name of its own."""
    module = module_over(backend)

    @module.step_function_task("cat", chunk_size=3)
    async def cat(event: StepFunctionTaskEvent) -> str:
        return f"{event.task.index}" * 100_000

    async def main() -> None:
        parent = await module.task_service.create_step_function_task(
            tenant_code=TENANT, task_type="cat", input=range(3)
        )
        await work(module)
        subs = [sub async for sub in module.task_service.iter_sub_tasks(parent.key)]
        assert [sub.result for sub in subs] == ["0" * 100_000, "1" * 100_000, "2" * 100_000]
        assert (await module.task_service.get_task(subs[1].key)).result == "1" * 100_000

    asyncio.run(main())


@pytest.mark.parametrize(
    "value", [object(), {1: 2}, float("nan"), b"bytes", {1, 2}, "\ud800", 10**40, [[[object()]]]], ids=repr
)
def test_a_result_that_cannot_be_stored_fails_the_attempt_for_good(backend: Backend, value: Any) -> None:
    """With the path of what is wrong, and without another attempt: it would return the same."""
    module = module_over(backend, retry=Retry(max_attempts=5, initial=0))
    calls: list[int] = []

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> Any:
        calls.append(event.attempt)
        return value

    async def main() -> None:
        task = await module.task_service.create_task(tenant_code=TENANT, task_type="cat")
        await work(module)
        done = await module.task_service.get_task(task.key)
        assert done.status is FAILED
        assert done.error is not None
        assert done.error.message.startswith("result")
        assert calls == [1]

    asyncio.run(main())


@pytest.mark.parametrize(("depth", "stored"), [(32, True), (33, False)])
def test_a_deeply_nested_result(backend: Backend, depth: int, stored: bool) -> None:
    """32 levels, as anywhere: the lists around it, per event and per handler, take nothing away."""
    value: Any = "bottom"
    for _ in range(depth):
        value = [value]

    async def main() -> None:
        shown, _ = await result_of(backend, value)
        assert (shown.status is COMPLETED) == stored
        if stored:
            assert shown.result == value
        else:
            assert shown.error is not None
            assert "nested deeper than 32 levels" in shown.error.message

    asyncio.run(main())


@pytest.mark.parametrize(
    "make",
    [
        lambda: asyncio.sleep(0, "awaited"),  # noqa: TID251 - any awaitable will do
        lambda: asyncio.get_running_loop().run_in_executor(None, lambda: "awaited"),
    ],
)
def test_an_awaitable_that_a_plain_function_returns_is_awaited(
    backend: Backend, make: Callable[[], Awaitable[str]]
) -> None:
    """A `def` handler may be a wrapper around an `async def`; it is called in a thread, so it cannot await itself."""
    module = module_over(backend)

    async def inner() -> str:
        return await make()

    module.task("cat")(lambda event: inner())

    async def main() -> None:
        task = await module.task_service.create_task(tenant_code=TENANT, task_type="cat")
        await work(module)
        assert (await module.task_service.get_task(task.key)).result == "awaited"

    asyncio.run(main())


# --- afterwards ------------------------------------------------------------------------------------------------------


def test_nothing_is_kept_of_an_attempt_that_is_over(backend: Backend) -> None:
    """However it ended: a worker that runs for months must not grow."""
    module = module_over(backend)

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        event.progress(1)
        if event.task.input == "raises":
            raise ValueError

    @module.step_function_task("cat")
    def cats(event: StepFunctionTaskEvent) -> None:
        event.progress(1)

    def attempts() -> int:
        gc.collect()
        return sum(isinstance(found, Attempt) for found in gc.get_objects())

    async def main() -> None:
        async with module.worker() as worker:
            before = attempts()
            for input in ("returns", "raises"):
                await module.task_service.create_task(tenant_code=TENANT, task_type="cat", input=input)
            await module.task_service.create_step_function_task(tenant_code=TENANT, task_type="cat", input=range(3))
            await worker.drain()
            assert attempts() <= before

    asyncio.run(main())
