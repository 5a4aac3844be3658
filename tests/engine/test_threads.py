"""Threads that handlers and hearts run in."""

import asyncio
import contextvars
import threading
from typing import Any

import pytest

from taskloom.execution import threads as module_of_threads
from taskloom.execution.loop_thread import LoopThread
from taskloom.execution.threads import HandlerThreads
from tests.support.faults import DEADLINE

ANIMAL: contextvars.ContextVar[str] = contextvars.ContextVar("ANIMAL")


# --- of `def` handlers -----------------------------------------------------------------------------------------------


def test_a_function_runs_in_a_daemon_of_that_name() -> None:
    async def main() -> None:
        thread = await HandlerThreads("cats").run(threading.current_thread)
        assert thread is not threading.current_thread()
        assert (thread.name, thread.daemon) == ("cats", True)

    asyncio.run(main())


def test_the_context_is_a_copy() -> None:
    """What the function sets in it is its own."""

    def see_and_set(value: str) -> str:
        seen = ANIMAL.get()
        ANIMAL.set(value)
        return seen

    async def main() -> None:
        threads = HandlerThreads("cats")
        ANIMAL.set("cat")
        assert [await threads.run(see_and_set, "dog") for _ in range(2)] == ["cat", "cat"]
        assert ANIMAL.get() == "cat"

    asyncio.run(main())


def test_as_many_threads_as_functions_at_a_time() -> None:
    """They are kept for the next ones, once they are back; and where they are too few there are more."""
    threads = HandlerThreads("cats")

    def meet(together: threading.Barrier) -> int:
        together.wait()
        return threading.get_ident()

    async def at_a_time(number: int) -> set[int]:
        together = threading.Barrier(number, timeout=DEADLINE)
        return set(await asyncio.gather(*(threads.run(meet, together) for _ in range(number))))

    async def main() -> None:
        first = await at_a_time(3)
        assert len(first) == 3
        seen = {await threads.run(threading.get_ident) for _ in range(300)}
        assert seen & first
        assert len(seen - first) <= 1, "one more at most, while none of them was back yet"
        assert len(await at_a_time(6)) == 6

    asyncio.run(main())


def test_an_idle_thread_ends_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """After half a minute. Then there is a new one."""
    monkeypatch.setattr(module_of_threads, "IDLE_SECONDS", 0.01)
    threads = HandlerThreads("cats")

    async def main() -> None:
        for _ in range(2):
            thread = await threads.run(threading.current_thread)
            await asyncio.to_thread(thread.join, DEADLINE)
            assert not thread.is_alive()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (StopIteration("x"), "StopIteration: x"),
        (StopIteration(), "StopIteration"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
    ids=repr,
)
def test_what_no_future_can_carry_comes_as_a_runtime_error(error: BaseException, text: str) -> None:
    def fail() -> None:
        raise error

    async def main() -> None:
        with pytest.raises(RuntimeError) as caught:
            await HandlerThreads("cats").run(fail)
        assert str(caught.value) == text
        assert caught.value.__cause__ is error

    asyncio.run(main())


@pytest.mark.parametrize("error", [ValueError("x"), asyncio.CancelledError(), GeneratorExit()], ids=repr)
def test_all_else_is_raised_as_it_is(error: BaseException) -> None:
    def fail() -> None:
        raise error

    async def main() -> None:
        with pytest.raises(type(error)) as caught:
            await HandlerThreads("cats").run(fail)
        assert caught.value is error

    asyncio.run(main())


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_what_comes_of_a_function_whose_caller_is_gone_is_dropped(ends: str) -> None:
    """Silently; and its thread is there for the next one."""
    threads, inside, leave = HandlerThreads("cats"), threading.Event(), threading.Event()
    complaints: list[dict[str, Any]] = []

    def hang() -> None:
        inside.set()
        assert leave.wait(DEADLINE)
        if ends == "badly":
            raise ValueError

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        caller = asyncio.create_task(threads.run(hang))
        assert await asyncio.to_thread(inside.wait, DEADLINE)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        leave.set()
        for _ in range(20):
            assert await threads.run(str, 1) == "1"

    asyncio.run(main())
    assert complaints == []


def test_a_function_may_outlive_the_loop() -> None:
    threads, inside, leave = HandlerThreads("cats"), threading.Event(), threading.Event()
    left: list[threading.Thread] = []

    def hang() -> None:
        left.append(threading.current_thread())
        inside.set()
        assert leave.wait(DEADLINE)

    async def leave_it_behind() -> None:
        caller = asyncio.create_task(threads.run(hang))
        assert await asyncio.to_thread(inside.wait, DEADLINE)
        caller.cancel()

    async def is_back() -> None:
        async with asyncio.timeout(DEADLINE):
            while await threads.run(threading.current_thread) not in left:
                pass

    asyncio.run(leave_it_behind())
    leave.set()
    asyncio.run(is_back())


# --- with a loop -----------------------------------------------------------------------------------------------------


async def where() -> threading.Thread:
    return threading.current_thread()


def test_coroutines_run_on_one_loop_in_a_daemon_of_that_name() -> None:
    """It starts with the first of them, and again after it was closed."""
    loop_thread = LoopThread("heart")
    loop_thread.close()
    before = threading.active_count()
    first, second = (loop_thread.submit(where()).result(DEADLINE) for _ in range(2))
    assert first is second
    assert (first.name, first.daemon) == ("heart", True)
    assert threading.active_count() == before + 1
    for _ in range(2):
        loop_thread.close()
        assert not first.is_alive()
    third = loop_thread.submit(where()).result(DEADLINE)
    assert third is not first
    loop_thread.close()


def test_what_still_runs_is_dropped_when_the_loop_is_closed() -> None:
    """It is cancelled, and may tidy up."""
    loop_thread, started, ended = LoopThread("heart"), threading.Event(), threading.Event()

    async def hang() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.to_thread(ended.set)

    future = loop_thread.submit(hang())
    assert started.wait(DEADLINE)
    loop_thread.close()
    assert ended.is_set()
    assert future.cancelled()
