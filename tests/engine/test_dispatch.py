"""From the change stream to the queue when the application's event factory has its say, and what it may do wrong."""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from taskloom import (
    EventFactoryAddedTask,
    NewTask,
    StepFunctionTaskEvent,
    TaskEvent,
    TaskModule,
    TaskQueueEvent,
    TaskStatus,
    event_handler,
)
from taskloom.model import TaskEntity
from taskloom.ports import Backend
from tests.support.clock import FakeClock
from tests.support.scenarios import TENANT, Effects, check_history, module_over, work
from tests.surface.running import lose_worker


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class OnStream(EventFactoryAddedTask):
    """A factory that asks a function about each task before it is dispatched."""

    def __init__(self, look: Callable[[TaskEntity[Any]], Any]) -> None:
        self._look = look

    async def transform_dynamodb_stream(self, event: Mapping[str, Any]) -> Sequence[Any]:
        events = await super().transform_dynamodb_stream(event)
        (task_event,) = events
        answer = self._look(task_event.task_entity)
        return events if answer is None else answer


class OnQueue(EventFactoryAddedTask):
    """A factory that asks a function about each message before its task is run."""

    def __init__(self, look: Callable[[], Any]) -> None:
        self._look = look

    async def transform_sqs(self, event: Mapping[str, Any]) -> Sequence[Any]:
        answer = self._look()
        return await super().transform_sqs(event) if answer is None else answer


def with_cats(backend: Backend, factory: EventFactoryAddedTask) -> tuple[TaskModule, Effects]:
    """A module that runs tasks of type "cat" of both kinds."""
    module, effects = module_over(backend, event_factory=factory), Effects()

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        effects.add(event.task.input)

    @module.step_function_task("cat")
    async def cats(event: StepFunctionTaskEvent) -> None:
        effects.add(event.task.input)

    return module, effects


def dead_letters(database: Path) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(database)
    try:
        return connection.execute("SELECT code, failures, reason FROM dead_letters").fetchall()
    finally:
        connection.close()


@pytest.mark.parametrize("failures", [1, 2, 4])
def test_a_factory_that_fails_is_asked_again_later(backend: Backend, clock: FakeClock, failures: int) -> None:
    """With a growing pause: 1, 2, 4 and 8 seconds."""
    calls: list[float] = []
    start = clock.now()

    def look(task: TaskEntity[Any]) -> None:
        calls.append((clock.now() - start).total_seconds())
        if len(calls) <= failures:
            raise ConnectionError("not now")

    async def main() -> None:
        module, effects = with_cats(backend, OnStream(look))
        task = await module.task_service.create_task(tenant_code=TENANT, task_type="cat", input=1)
        async with module.worker() as worker:
            for pause in [0.0, 1.0, 2.0, 4.0, 8.0][: failures + 1]:
                if pause:
                    clock.advance(pause - 0.001)
                    before = len(calls)
                    await worker.drain()
                    assert len(calls) == before, "too early"
                    clock.advance(0.001)
                await worker.drain()
        assert calls == [0, 1, 3, 7, 15][: failures + 1]
        assert effects.all == [1]
        assert (await module.task_service.get_task(task.key)).status is TaskStatus.COMPLETED

    asyncio.run(main())


def raiser(error: BaseException | type[BaseException]) -> Callable[..., Any]:
    def raise_it(*_: object) -> Any:
        raise error

    return raise_it


@pytest.mark.parametrize(
    ("look", "reason"),
    [
        (raiser(ValueError("broken")), "ValueError: broken"),
        (raiser(ValueError()), "ValueError"),
        (raiser(Mute()), "Mute"),
        (raiser(ValueError("lone \ud800 surrogate")), "surrogate"),
        (raiser(ValueError("x" * 1_000_000)), "ValueError: xxx"),
        (raiser(asyncio.CancelledError()), "CancelledError"),
        (lambda task: 5, "TypeError"),
        (lambda task: [object()], "no handler takes object"),
    ],
    ids=["plain", "empty", "mute", "surrogate", "huge", "cancelled", "no list", "no event"],
)
@pytest.mark.parametrize("kind", ["TASK", "SFN_TASK"])
def test_a_factory_that_always_fails_fails_the_task(
    backend: Backend, clock: FakeClock, database: Path, look: Callable[..., Any], reason: str, kind: str
) -> None:
    """Rule 1: after five failures the record is with the dead letters, and the task ends FAILED with that reason.

    Whatever the reason is made of: the worker lives on, and runs the next task.
    """
    poisonous = True

    async def main() -> None:
        module, effects = with_cats(backend, OnStream(lambda task: look(task) if poisonous else None))
        service = module.task_service
        if kind == "TASK":
            task = await service.create_task(tenant_code=TENANT, task_type="cat", input=1)
        else:
            task = await service.create_step_function_task(tenant_code=TENANT, task_type="cat", input=[1])
        async with module.worker() as worker:
            for pause in (0.0, 1.0, 2.0, 4.0):
                clock.advance(pause)
                await worker.drain()
                assert (await service.get_task(task.key)).status is TaskStatus.PENDING
            clock.advance(8)
            await worker.drain()
            done = await service.get_task(task.key)
            assert done.status is TaskStatus.FAILED
            assert done.error is not None
            assert reason in done.error.message
            assert str(done.history[-1].reason)[:500] == done.error.message[:500]
            assert len(done.error.message) < 5000
            check_history(done)
            nonlocal poisonous
            poisonous = False
            other = await service.create_task(tenant_code=TENANT, task_type="cat", input=2)
            await worker.drain()
            assert (await service.get_task(other.key)).status is TaskStatus.COMPLETED
            assert effects.all == [2]
        ((code, failures, stored),) = dead_letters(database)
        assert (code, failures) == (task.code, 5)
        assert reason in stored

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["TASK", "SFN_TASK"])
def test_a_factory_that_drops_a_task_fails_it(backend: Backend, kind: str) -> None:
    """Rule 1: it would wait for ever."""

    async def main() -> None:
        module, effects = with_cats(backend, OnStream(lambda task: []))
        service = module.task_service
        if kind == "TASK":
            task = await service.create_task(tenant_code=TENANT, task_type="cat", input=1)
        else:
            task = await service.create_step_function_task(tenant_code=TENANT, task_type="cat", input=[1])
        await work(module)
        done = await service.get_task(task.key)
        assert done.status is TaskStatus.FAILED
        assert done.error is not None
        assert done.error.message == "the event factory returned no event for this task"
        assert [entry.status for entry in done.history] == [TaskStatus.PENDING, TaskStatus.FAILED]
        assert effects.all == []

    asyncio.run(main())


def test_events_of_another_task_do_not_count_for_this_one(backend: Backend, clock: FakeClock) -> None:
    """A factory that mixes tasks up has dropped the one that it was asked about."""
    first: list[TaskEntity[Any]] = []

    def look(task: TaskEntity[Any]) -> Any:
        if task.input == "first":
            first.append(task)
            return None
        return [TaskEvent(event_id="e", event_name="INSERT", event_source_arn="a", task_entity=first[0])]

    async def main() -> None:
        module, effects = with_cats(backend, OnStream(look))
        await module.task_service.create_task(tenant_code=TENANT, task_type="cat", input="first")
        await work(module)
        second = await module.task_service.create_task(tenant_code=TENANT, task_type="cat", input="second")
        await work(module)
        done = await module.task_service.get_task(second.key)
        assert done.status is TaskStatus.FAILED
        assert effects.all == ["first"]

    asyncio.run(main())


def test_a_record_that_fails_fails_alone(backend: Backend) -> None:
    """Its neighbours in the same batch are dispatched at once."""

    def look(task: TaskEntity[Any]) -> None:
        if task.input == 3:
            raise ValueError("not this one")

    async def main() -> None:
        module, effects = with_cats(backend, OnStream(look))
        new = [NewTask(tenant_code=TENANT, task_type="cat", input=number) for number in range(10)]
        tasks = await module.task_service.create_tasks(new)
        await work(module)
        assert sorted(effects.all) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
        assert (await module.task_service.get_task(tasks[3].key)).status is TaskStatus.PENDING

    asyncio.run(main())


def test_events_with_one_id_are_dispatched_once(backend: Backend) -> None:
    def again(task: TaskEntity[Any]) -> Any:
        event = TaskEvent(event_id="e", event_name="INSERT", event_source_arn="a", task_entity=task)
        return [event, event, event]

    async def main() -> None:
        module, effects = with_cats(backend, OnStream(again))
        await module.task_service.create_task(tenant_code=TENANT, task_type="cat", input=1)
        await work(module)
        assert effects.all == [1]

    asyncio.run(main())


@event_handler(str)
class StringHandler:
    """Handles events of the application's own, here plain strings."""

    def __init__(self, look: Callable[[str], None]) -> None:
        self._look = look

    async def execute(self, event: str) -> None:
        self._look(event)


@pytest.mark.parametrize("failures", [0, 2])
def test_events_of_the_applications_own_go_to_their_handlers(backend: Backend, clock: FakeClock, failures: int) -> None:
    """At once; and when such a handler fails the record comes again, so that its task waits until it went well."""
    seen: list[str] = []

    def look(event: str) -> None:
        seen.append(event)
        if len(seen) <= failures:
            raise ValueError("not now")

    def both(task: TaskEntity[Any]) -> Any:
        event = TaskEvent(event_id="e", event_name="INSERT", event_source_arn="a", task_entity=task)
        return [event, "hello"]

    async def main() -> None:
        module, effects = with_cats(backend, OnStream(both))
        module._registry.add_handler(StringHandler(look))
        await module.task_service.create_task(tenant_code=TENANT, task_type="cat", input=1)
        async with module.worker() as worker:
            for pause in [0.0, 1.0, 2.0][: failures + 1]:
                assert effects.all == []
                clock.advance(pause)
                await worker.drain()
        assert seen == ["hello"] * (failures + 1)
        assert effects.all == [1]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("look", "reason"),
    [
        (raiser(ValueError("broken")), "ValueError: broken"),
        (raiser(Mute()), "Mute"),
        (raiser(ValueError("lone \ud800 surrogate")), "surrogate"),
        (raiser(asyncio.CancelledError()), "CancelledError"),
        (list, "dropped the message of this task"),
        (lambda: 5, "TypeError"),
        (lambda: [object()], "no handler takes object"),
    ],
    ids=["plain", "mute", "surrogate", "cancelled", "drops", "no list", "no event"],
)
def test_a_factory_that_fails_on_the_message_fails_the_task(
    backend: Backend, look: Callable[[], Any], reason: str
) -> None:
    """There the task is claimed already, so it fails at once, with that reason."""

    async def main() -> None:
        module, effects = with_cats(backend, OnQueue(look))
        task = await module.task_service.create_task(tenant_code=TENANT, task_type="cat", input=1)
        await work(module)
        done = await module.task_service.get_task(task.key)
        assert done.status is TaskStatus.FAILED
        assert done.error is not None
        assert reason in done.error.message
        check_history(done)
        assert effects.all == []

    asyncio.run(main())


def test_a_worker_that_is_ended_while_it_asks_the_factory_writes_no_end(backend: Backend) -> None:
    """The task did nothing wrong: when its lease ends another worker runs it."""
    busy = asyncio.Event()

    class Slow(EventFactoryAddedTask):
        async def transform_sqs(self, event: Mapping[str, Any]) -> Sequence[Any]:
            busy.set()
            await asyncio.Event().wait()
            return []

    module, effects = with_cats(backend, Slow())
    task = module.sync.task_service.create_task(tenant_code=TENANT, task_type="cat", input=1)
    asyncio.run(lose_worker(module, busy))
    assert module.sync.task_service.get_task(task.key).status is TaskStatus.IN_PROGRESS
    assert effects.all == []
