"""Taskloom in eight steps. Each test is one idea; read them from top to bottom."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from taskloom import (
    Retry,
    StepFunctionTaskEvent,
    TaskModule,
    TaskQueueEvent,
    TaskService,
    TaskStatus,
    event_handler,
)
from tests.surface.running import MakeModule


@pytest.fixture
def module(make_module: MakeModule) -> TaskModule:
    """What an application has once: `TaskModule.register()`, here over a database of the test's own."""
    return make_module()


@pytest.fixture
def books(tmp_path: Path) -> list[Path]:
    """Some files to work on."""
    files = [tmp_path / f"{name}.txt" for name in ("emma", "persuasion", "sanditon")]
    for number, file in enumerate(files, start=1):
        file.write_text("It is a truth universally acknowledged\n" * number)
    return files


def test_1_a_task_is_created_at_once_and_run_by_a_worker(module: TaskModule) -> None:
    @module.task("count-words")
    async def count_words(event: TaskQueueEvent) -> int:
        return len(event.task.input["text"].split())

    async def main() -> None:
        task = await count_words.create(tenant_code="library", input={"text": "It is a truth"})
        assert task.status is TaskStatus.PENDING  # it is on disk, and nothing waits for it

        async with module.worker() as worker:
            await worker.drain()  # until nothing is due any more

        task = await module.task_service.get_task(task.key)
        assert task.status is TaskStatus.COMPLETED
        assert task.result == 4

    asyncio.run(main())


def test_2_whoever_needs_the_result_waits_for_it(module: TaskModule) -> None:
    @module.task("square")
    def square(event: TaskQueueEvent[int]) -> int:  # def: it runs in a thread, so it may block
        return event.task.input**2

    async def main() -> None:
        async with module.worker():
            task = await square.create(tenant_code="school", input=12)
            done = await module.task_service.wait(task.key, timeout=30)
            assert done.result == 144

    asyncio.run(main())


def test_3_a_list_of_inputs_fans_out_into_sub_tasks(module: TaskModule, books: list[Path]) -> None:
    @module.step_function_task("fingerprint")
    def fingerprint(event: StepFunctionTaskEvent[str]) -> str:  # called once per element of the list
        return hashlib.sha256(Path(event.input.input).read_bytes()).hexdigest()

    async def main() -> None:
        task = await fingerprint.create(tenant_code="library", input=(str(book) for book in books))
        async with module.worker(concurrency=8) as worker:
            await worker.drain()

        task = await module.task_service.get_task(task.key)
        assert (task.status, task.attributes.sub_task_succeed_count) == (TaskStatus.COMPLETED, 3)
        found = [sub_task.result async for sub_task in module.task_service.iter_sub_tasks(task.key)]
        assert found == [hashlib.sha256(book.read_bytes()).hexdigest() for book in books]

    asyncio.run(main())


def test_4_a_few_failures_may_be_tolerated(module: TaskModule, books: list[Path]) -> None:
    books[1].unlink()

    @module.step_function_task("size", tolerated_failure_percentage=50)
    def size(event: StepFunctionTaskEvent[str]) -> int:
        return Path(event.input.input).stat().st_size

    async def main() -> None:
        task = await size.create(tenant_code="library", input=[str(book) for book in books])
        async with module.worker() as worker:
            await worker.drain()

        task = await module.task_service.get_task(task.key)
        assert task.status is TaskStatus.COMPLETED
        (failed,) = (await module.task_service.list_sub_tasks(task.key, status="FAILED")).items
        assert failed.input == str(books[1])
        assert failed.error is not None
        assert failed.error.type == "FileNotFoundError"

    asyncio.run(main())


def test_5_a_failed_attempt_may_be_tried_again(module: TaskModule) -> None:
    @module.task("call", retry=Retry(max_attempts=3, initial=0))
    async def call(event: TaskQueueEvent) -> str:
        if event.attempt == 1:
            raise ConnectionError("the line is busy")
        return "hello"

    async def main() -> None:
        task = await call.create(tenant_code="office")
        async with module.worker() as worker:
            await worker.drain()

        task = await module.task_service.get_task(task.key)
        assert (task.result, task.attempt) == ("hello", 2)
        assert [(entry.status, entry.reason) for entry in task.history] == [
            ("PENDING", None),
            ("IN_PROGRESS", None),
            ("PENDING", "the line is busy"),
            ("IN_PROGRESS", None),
            ("COMPLETED", None),
        ]

    asyncio.run(main())


def test_6_a_handler_says_how_far_it_is(module: TaskModule) -> None:
    @module.task("knit")
    def knit(event: TaskQueueEvent[int]) -> None:
        for row in range(1, event.task.input + 1):
            event.progress(row, event.task.input, f"row {row}")

    async def main() -> None:
        task = await knit.create(tenant_code="home", input=40)
        async with module.worker() as worker:
            await worker.drain()

        progress = (await module.task_service.get_task(task.key)).progress
        assert progress is not None
        assert (progress.done, progress.total, progress.message) == (40, 40, "row 40")

    asyncio.run(main())


def test_7_a_program_without_an_event_loop_uses_sync(module: TaskModule) -> None:
    @module.task("greet")
    def greet(event: TaskQueueEvent[str]) -> str:
        return f"hello {event.task.input}"

    async def work() -> None:
        async with module.worker() as worker:
            await worker.drain()

    tasks = module.sync.task_service
    task = tasks.create_task(tenant_code="office", task_type="greet", input="Ann")  # as in a Django view
    asyncio.run(work())  # elsewhere: `taskloom worker package.module:module`
    assert tasks.get_task(task.key).result == "hello Ann"


def test_8_the_long_form_keeps_tasks_events_and_handlers_apart(make_module: MakeModule) -> None:
    class Ordered(TaskQueueEvent[dict[str, Any]]):
        """An event of the shop's own."""

    @event_handler(Ordered)
    class Ship:
        def __init__(self, tasks: TaskService) -> None:  # filled in by type
            self.tasks = tasks

        async def execute(self, event: Ordered) -> str:
            await self.tasks.create_task(tenant_code="shop", task_type="thank")
            return f"shipped {event.task.input['book']}"

    @event_handler(Ordered)
    class Bill:
        def execute(self, event: Ordered) -> int:
            return len(event.task.input["book"])

    class OrderEvents:
        async def transform_task(self, event: TaskQueueEvent) -> list[Ordered]:
            return [Ordered.from_sqs_record(event)]

    module = make_module(task_queue_event_factory=OrderEvents, providers=[Ship, Bill])

    @module.task("thank")  # both forms live together
    async def thank(event: TaskQueueEvent) -> str:
        return "thank you"

    async def main() -> None:
        task = await module.task_service.create_task(tenant_code="shop", task_type="order", input={"book": "Emma"})
        async with module.worker() as worker:
            await worker.drain()

        task = await module.task_service.get_task(task.key)
        assert task.attributes.results == [["shipped Emma", 4]]  # a list per event of a list per handler
        (thanks,) = (await module.task_service.list_tasks("shop", task_type="thank")).items
        assert thanks.result == "thank you"

    asyncio.run(main())
