"""Logs: what handlers log is kept with their task, and passed on."""

import asyncio
import contextvars
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

import pytest

from taskloom import (
    Retry,
    Settings,
    StepFunctionTaskEvent,
    TaskKey,
    TaskModule,
    TaskQueueEvent,
    TaskStatus,
    current,
)
from taskloom.errors import InvalidInput, InvalidType, TaskNotFound
from taskloom.events.log_lines import MAX_BYTES, MAX_FIELD, MAX_FIELDS, MAX_LINES, MAX_MESSAGE
from taskloom.model import LogLine
from tests.support.clock import FakeClock
from tests.surface.running import PATIENCE, Entity, MakeModule, drained, fan_out, single, sub_tasks, within_patience

shop = logging.getLogger("shop.tests")


class Listening(logging.Handler):
    """An ordinary handler that remembers its records."""

    def __init__(self, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def of(self, name: str) -> list[logging.LogRecord]:
        return [record for record in self.records if record.name == name]


@pytest.fixture
def listening() -> Iterator[Listening]:
    """A handler of the root logger; the root's level is WARNING, as in a process that configures nothing."""
    root, handler = logging.getLogger(), Listening()
    level = root.level
    root.setLevel(logging.WARNING)
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


async def every_line(module: TaskModule, key: TaskKey) -> list[LogLine]:
    """All lines, page by page."""
    lines: list[LogLine] = []
    page = await module.task_service.logs(key)
    while page.items:
        lines += page.items
        page = await module.task_service.logs(key, page.cursor)
    return lines


async def messages(module: TaskModule, key: TaskKey) -> list[str]:
    return [line.message for line in await every_line(module, key)]


def logged_by(module: TaskModule, handler: Callable[[Any], Any], **options: Any) -> list[LogLine]:
    """What a task logs whose handler this is; the task ends well."""
    module.task("job", **options)(handler)

    async def scenario() -> list[LogLine]:
        task = await single(module)
        assert task.status is TaskStatus.COMPLETED, task.error
        return await every_line(module, task.key)

    return asyncio.run(scenario())


# --- what is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", ["async", "def"])
def test_lines_are_kept_with_the_task_and_the_sub_task(make_module: MakeModule, clock: FakeClock, colour: str) -> None:
    module = make_module(clock=clock)

    def function(event: Any) -> None:
        event.log.info("copied %d files", 3, extra={"names": ["a", "b"], "by": None})
        current().log.warning("nearly full")
        shop.warning("from %s", "further down", extra={"order": 7})

    async def coroutine(event: Any) -> None:
        function(event)

    module.task("job")(coroutine if colour == "async" else function)
    module.step_function_task("job")(coroutine if colour == "async" else function)

    async def scenario() -> None:
        task = await single(module)
        parent = await fan_out(module, [1, 2])
        for entity in (task, *await sub_tasks(module, parent)):
            assert entity.status is TaskStatus.COMPLETED
            assert await every_line(module, entity.key) == [
                LogLine(
                    at=clock.now(),
                    level="INFO",
                    logger="taskloom.task",
                    run=1,
                    attempt=1,
                    message="copied 3 files",
                    fields={"names": ["a", "b"], "by": None},
                ),
                LogLine(
                    at=clock.now(),
                    level="WARNING",
                    logger="taskloom.task",
                    run=1,
                    attempt=1,
                    message="nearly full",
                    fields={},
                ),
                LogLine(
                    at=clock.now(),
                    level="WARNING",
                    logger="shop.tests",
                    run=1,
                    attempt=1,
                    message="from further down",
                    fields={"order": 7},
                ),
            ]
        assert await every_line(module, parent.key) == []

    asyncio.run(scenario())


@pytest.mark.parametrize("where", ["task", "group", "to_thread", "context", "handed on"])
def test_lines_of_what_a_handler_starts(make_module: MakeModule, where: str) -> None:
    """asyncio's tasks and threads know whose they are; a thread made by hand is told."""
    module = make_module()

    def say(log: Any) -> None:
        log.info("by the log")
        if where != "handed on":
            shop.error("by the standard library")

    async def job(event: TaskQueueEvent) -> None:
        async def say_soon() -> None:
            say(event.log)

        if where == "task":
            await asyncio.create_task(say_soon())
        elif where == "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(say_soon())
        elif where == "to_thread":
            await asyncio.to_thread(lambda: say(event.log))
        else:
            log, context = event.log, contextvars.copy_context()
            target = (lambda: context.run(say, event.log)) if where == "context" else lambda: say(log)
            thread = threading.Thread(target=target)
            thread.start()
            await asyncio.to_thread(thread.join, PATIENCE)

    expected = ["by the log"] if where == "handed on" else ["by the log", "by the standard library"]
    assert [line.message for line in logged_by(module, job)] == expected


def test_tasks_at_the_same_time_keep_their_lines_apart(make_module: MakeModule) -> None:
    """In one loop, in threads, and with a log that a handler object has kept from another task."""
    module, kept = make_module(), list[Any]()

    @module.task("loop")
    async def in_the_loop(event: TaskQueueEvent[int]) -> None:
        kept.append(event.log)
        for number in range(20):
            event.log.info("%d of %d", number, event.task.input)
            shop.warning("%d of %d", number, event.task.input)
            kept[0].info("%d of %d", number, event.task.input)
            await asyncio.to_thread(lambda: None)

    @module.task("thread")
    def in_a_thread(event: TaskQueueEvent[int]) -> None:
        for number in range(20):
            event.log.info("%d of %d", number, event.task.input)
            shop.warning("%d of %d", number, event.task.input)
            kept[0].info("%d of %d", number, event.task.input)

    async def scenario() -> None:
        service = module.task_service
        await service.create_task(tenant_code="acme", task_type="loop", input=-1)
        await drained(module)  # whose log the others use, too
        tasks = [
            await service.create_task(tenant_code="acme", task_type=kind, input=number)
            for number, kind in enumerate(["loop", "thread"] * 5)
        ]
        await drained(module, concurrency=10)
        for task in tasks:
            expected = [f"{number} of {task.input}" for number in range(20) for _ in range(3)]
            assert await messages(module, task.key) == expected

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("kept_from", "process", "expected"),
    [
        ("INFO", "WARNING", "log.info log.warning log.error std.warning std.error"),
        ("INFO", "DEBUG", "log.info log.warning log.error std.info std.warning std.error"),
        ("DEBUG", "ERROR", "log.debug log.info log.warning log.error std.error"),
        ("DEBUG", "DEBUG", "log.debug log.info log.warning log.error std.debug std.info std.warning std.error"),
        ("ERROR", "DEBUG", "log.error std.error"),
        ("CRITICAL", "DEBUG", ""),
    ],
)
def test_levels(
    make_module: MakeModule, database: Path, listening: Listening, kept_from: Any, process: str, expected: str
) -> None:
    """Of `event.log` all that the settings say; of other loggers only what the process lets through as well."""
    logging.getLogger().setLevel(process)
    module = make_module(settings=Settings(database=database, log_level=kept_from))

    def job(event: TaskQueueEvent) -> None:
        for level in ("debug", "info", "warning", "error"):
            getattr(event.log, level)(f"log.{level}")
        for level in ("debug", "info", "warning", "error"):
            getattr(shop, level)(f"std.{level}")

    assert [line.message for line in logged_by(module, job)] == expected.split()
    levels = ["debug", "info", "warning", "error"]
    heard = [record.getMessage() for record in listening.records if record.name in ("taskloom.task", "shop.tests")]
    loud = levels[levels.index(process.lower()) :]
    assert heard == [f"{source}.{level}" for source in ("log", "std") for level in loud]


def test_what_nobody_wants_is_not_even_put_together(make_module: MakeModule, listening: Listening) -> None:
    module, put_together = make_module(), list[str]()

    class Costly:
        def __str__(self) -> str:
            put_together.append("costly")
            return "costly"

    def job(event: TaskQueueEvent) -> None:
        assert not event.log.isEnabledFor(logging.DEBUG)
        assert event.log.isEnabledFor(logging.INFO)
        event.log.debug("%s", Costly())
        shop.info("%s", Costly())

    assert logged_by(module, job) == []
    assert put_together == []


def test_a_logger_that_does_not_propagate_is_not_heard(make_module: MakeModule) -> None:
    """That is what the configuration says; `event.log` does not depend on it."""
    module, alone = make_module(), logging.getLogger("shop.tests.alone")
    alone.propagate = False
    tree = logging.getLogger("taskloom")
    tree.propagate = False

    def job(event: TaskQueueEvent) -> None:
        alone.error("not through")
        event.log.info("kept")

    try:
        assert [line.message for line in logged_by(module, job)] == ["kept"]
    finally:
        tree.propagate = True


def test_what_the_engine_says_of_itself_is_not_kept(make_module: MakeModule) -> None:
    module = make_module()

    def job(event: TaskQueueEvent) -> None:
        logging.getLogger("taskloom").error("the root of the engine")
        logging.getLogger("taskloom.execution.writes").error("the engine")
        logging.getLogger("taskloomer").error("somebody else")
        logging.getLogger("taskloom.task").error("directly")

    assert [line.message for line in logged_by(module, job)] == ["somebody else", "directly"]


def test_the_record_says_where_the_handler_logged(make_module: MakeModule, listening: Listening) -> None:
    def job(event: TaskQueueEvent) -> None:
        event.log.warning("here")

    logged_by(make_module(), job)
    (record,) = listening.of("taskloom.task")
    assert (record.filename, record.funcName) == (Path(__file__).name, "job")


def test_a_filter_of_the_logger_has_its_say(make_module: MakeModule, listening: Listening) -> None:
    """It may drop a line, or change it, before it is kept."""

    class Discreet(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            record.msg = str(record.msg).replace("secret", "***")
            return "nothing" not in record.msg

    def job(event: TaskQueueEvent) -> None:
        event.log.warning("the secret")
        event.log.warning("say nothing")

    logger, discreet = logging.getLogger("taskloom.task"), Discreet()
    logger.addFilter(discreet)
    try:
        assert [line.message for line in logged_by(make_module(), job)] == ["the ***"]
    finally:
        logger.removeFilter(discreet)
    assert [record.getMessage() for record in listening.of("taskloom.task")] == ["the ***"]


# --- passing on ------------------------------------------------------------------------------------------------------


def test_ordinary_handlers_learn_whose_a_record_is(make_module: MakeModule, listening: Listening) -> None:
    module, own = make_module(), Listening()

    def job(event: TaskQueueEvent) -> None:
        event.log.warning("mine", extra={"files": 3})
        shop.warning("by the standard library")
        shop.warning("with an attempt of its own", extra={"attempt": "third"})

    module.task("job")(job)
    logger = logging.getLogger("taskloom.task")
    logger.addHandler(own)
    try:
        task = asyncio.run(single(module))
    finally:
        logger.removeHandler(own)
    records = [*listening.of("taskloom.task"), *listening.of("shop.tests"), *own.records]
    assert [record.getMessage() for record in records] == [
        "mine",
        "by the standard library",
        "with an attempt of its own",
        "mine",
    ]
    for record in records:
        said = vars(record)
        assert (said["tenant_code"], said["task_type"], said["task_key"]) == ("acme", "job", task.id)
        assert said["attempt"] == ("third" if "its own" in str(record.msg) else 1)
    assert vars(records[0])["files"] == 3


def test_a_line_below_the_level_of_the_process_is_not_passed_on(make_module: MakeModule, listening: Listening) -> None:
    lines = logged_by(make_module(), lambda event: event.log.info("quiet"))
    assert [line.message for line in lines] == ["quiet"]
    assert listening.of("taskloom.task") == []


def test_outside_of_a_run_the_log_just_logs(listening: Listening) -> None:
    """As in a unit test of a handler."""

    def handler(event: TaskQueueEvent | StepFunctionTaskEvent) -> str:
        event.log.info("quiet")
        event.log.warning("%d of %d", 1, 2, extra={"name": "x"})
        return "done"

    assert handler(TaskQueueEvent()) == handler(StepFunctionTaskEvent()) == "done"
    assert [record.getMessage() for record in listening.of("taskloom.task")] == ["1 of 2", "1 of 2"]
    assert not hasattr(listening.records[0], "task_key")
    assert isinstance(TaskQueueEvent().log, logging.LoggerAdapter)


def test_the_level_of_the_log_is_that_of_its_logger(listening: Listening) -> None:
    log, logger = TaskQueueEvent().log, logging.getLogger("taskloom.task")
    assert (log.name, log.getEffectiveLevel(), log.hasHandlers()) == ("taskloom.task", logging.WARNING, True)
    log.setLevel(logging.ERROR)
    try:
        assert logger.level == log.getEffectiveLevel() == logging.ERROR
        log.warning("not any more")
        assert listening.records == []
    finally:
        logger.setLevel(logging.NOTSET)


def test_the_root_logger_is_left_as_it_was(make_module: MakeModule) -> None:
    """With the last worker, not with the first of them that ends."""
    module, root = make_module(), logging.getLogger()
    module.task("job")(lambda event: shop.warning("heard"))
    before = list(root.handlers)

    async def scenario() -> None:
        async with module.worker():
            async with module.worker():
                assert len(root.handlers) == len(before) + 1
            task = await module.task_service.create_task(tenant_code="acme", task_type="job")
            await within_patience(module.task_service.wait(task.key))
            assert await messages(module, task.key) == ["heard"]
        assert root.handlers == before

    asyncio.run(scenario())
    assert root.handlers == before


def test_warnings_still_reach_a_process_that_configures_nothing(tmp_path: Path) -> None:
    """The library prints them as a last resort, once, while nobody handles them; to it our handler is somebody."""
    script = tmp_path / "script.py"
    script.write_text(
        """
import asyncio, logging
from taskloom import TaskModule

module = TaskModule.register()
shop, own = logging.getLogger("shop"), logging.getLogger("own")
own.addHandler(logging.NullHandler())

@module.task("job")
def job(event):
    event.log.info("too quiet")
    event.log.warning("by the log")
    shop.warning("by the standard library")
    shop.info("too quiet")
    own.warning("handled by its own handler")

async def main():
    task = await job.create(tenant_code="acme")
    async with module.worker() as worker:
        await worker.drain()
        shop.warning("outside of a task")
    async for line in module.task_service.follow_logs(task.key):
        print(line.message)

asyncio.run(main())
"""
    )
    done = subprocess.run([sys.executable, script.name], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["by the log", "by the standard library", "outside of a task"]
    assert done.stdout.splitlines() == [
        "too quiet",
        "by the log",
        "by the standard library",
        "handled by its own handler",
    ]


# --- fields, messages, exceptions ------------------------------------------------------------------------------------


class Colour(StrEnum):
    RED = "red"


class Number(IntEnum):
    ONE = 1


class Raising:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


CIRCULAR: list[Any] = [1]
CIRCULAR.append(CIRCULAR)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (None, None),
        ([1, (2, {"a": True})], [1, [2, {"a": True}]]),
        ("ä\n😀", "ä\n😀"),
        (Colour.RED, "red"),
        (Number.ONE, 1),
        (float("nan"), "nan"),
        (10**40, repr(10**40)),
        (b"bytes", "b'bytes'"),
        ({1, 2}, "{1, 2}"),
        ({1: "a"}, "{1: 'a'}"),
        ([float("inf")], "[inf]"),
        (datetime(2026, 5, 1), "datetime.datetime(2026, 5, 1, 0, 0)"),  # noqa: DTZ001 - a value like any other
        (TaskStatus, "<enum 'TaskStatus'>"),
        (CIRCULAR, "[1, [1, [1, [1, [1, [1, [...]]]]]]]"),
        ("lone \ud800", "lone \\ud800"),
    ],
    ids=str,
)
def test_fields_are_json_or_what_repr_says(make_module: MakeModule, value: object, kept: object) -> None:
    def job(event: TaskQueueEvent) -> None:
        event.log.info("own", extra={"field": value})
        shop.warning("other", extra={"field": value})

    assert [line.fields for line in logged_by(make_module(), job)] == [{"field": kept}] * 2


def test_fields_that_raise(make_module: MakeModule) -> None:
    """A line is no reason for a task to fail."""

    def job(event: TaskQueueEvent) -> None:
        event.log.info("own", extra={"field": Raising()})

    (line,) = logged_by(make_module(), job)
    assert "Raising" in str(line.fields["field"])


def test_fields_may_have_the_names_of_a_record(make_module: MakeModule, listening: Listening) -> None:
    """The standard library raises KeyError for them."""
    names = {"filename": "a.jpg", "message": "m", "name": "n", "args": [1], "asctime": "now", "taskName": "t"}

    def job(event: TaskQueueEvent) -> None:
        event.log.warning("own", extra={**names, "other": 1})

    (line,) = logged_by(make_module(), job)
    assert line.fields == {**names, "other": 1}
    (record,) = listening.of("taskloom.task")
    assert (record.name, record.getMessage(), record.filename) == ("taskloom.task", "own", Path(__file__).name)


def test_fields_are_those_of_the_moment(make_module: MakeModule) -> None:
    def job(event: TaskQueueEvent) -> None:
        names = ["a"]
        event.log.info("own", extra={"names": names})
        names.append("b")

    assert [line.fields for line in logged_by(make_module(), job)] == [{"names": ["a"]}]


def test_fields_are_bounded(make_module: MakeModule) -> None:
    def job(event: TaskQueueEvent) -> None:
        event.log.info("long", extra={"text": "x" * 100_000, "list": list(range(100_000)), "object": {1: "y" * 9_999}})
        event.log.info("many", extra={f"n{number}": "x" * 1_000 for number in range(1_000)})
        event.log.info("name", extra={"n" * 100_000: 1})

    long, many, name = logged_by(make_module(), job)
    for value in long.fields.values():
        assert isinstance(value, str)
        assert 100 < len(value) <= MAX_FIELD + 2
    assert sum(len(str(value)) for value in many.fields.values()) < 20_000
    assert many.fields[f"n{MAX_FIELDS - 1}"] == "…"
    assert len(many.fields) == MAX_FIELDS
    (own,) = name.fields
    assert len(own) < 300


def test_a_repr_that_logs_does_not_go_round_in_circles(make_module: MakeModule, listening: Listening) -> None:
    class Talkative:
        def __repr__(self) -> str:
            shop.warning("I was asked", extra={"who": self})
            return "talkative"

    def job(event: TaskQueueEvent) -> None:
        talkative = Talkative()
        event.log.info("own %r", talkative)
        shop.warning("other", extra={"who": talkative})

    assert [line.message for line in logged_by(make_module(), job)] == ["own talkative", "other"]
    assert [record.getMessage() for record in listening.of("shop.tests")] == ["I was asked", "I was asked", "other"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("%d files", "three"), "'%d files' ('three',) (could not be formatted: TypeError)"),
        (("%d of %d", 1), "'%d of %d' (1,) (could not be formatted: TypeError)"),
        (("%(name)s", {"name": "Tama"}), "Tama"),
        (({"a": 1},), "{'a': 1}"),
        ((None,), "None"),
        (("100%",), "100%"),
        (("lone \ud800",), "lone \\ud800"),
        (("a\0b\nc",), "a\0b\nc"),
    ],
    ids=str,
)
def test_messages_are_what_formatting_makes_of_them(
    make_module: MakeModule, monkeypatch: pytest.MonkeyPatch, arguments: Any, expected: str
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)  # what other handlers make of it is their business

    def job(event: TaskQueueEvent) -> None:
        event.log.info(*arguments)

    assert [line.message for line in logged_by(make_module(), job)] == [expected]


def test_a_message_that_raises(make_module: MakeModule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)

    def job(event: TaskQueueEvent) -> None:
        event.log.info(Raising())
        event.log.info("after it")

    first, second = logged_by(make_module(), job)
    assert "could not be formatted: RuntimeError" in first.message
    assert second.message == "after it"


def test_a_long_message_is_cut(make_module: MakeModule) -> None:
    def job(event: TaskQueueEvent) -> None:
        event.log.info("😀" * (MAX_MESSAGE + 1))
        event.log.info("😀" * MAX_MESSAGE)

    cut, whole = logged_by(make_module(), job)
    assert cut.message == "😀" * MAX_MESSAGE + " …"
    assert whole.message == "😀" * MAX_MESSAGE


def test_exceptions_are_kept_as_text(make_module: MakeModule) -> None:
    def job(event: TaskQueueEvent) -> None:
        try:
            raise LookupError("no such cat \ud800")
        except LookupError as error:
            event.log.exception("it failed")
            event.log.warning("once more", exc_info=error)
            event.log.info("without")
        event.log.info("none there", exc_info=True)
        event.log.info("never raised", exc_info=ValueError("x" * 100_000))
        event.log.info("the stack", stack_info=True)

    raised, again, without, none, never, stack = logged_by(make_module(), job)
    for line in (raised, again):
        assert line.exception is not None
        assert line.exception.startswith("Traceback (most recent call last):\n")
        assert line.exception.endswith("\nLookupError: no such cat \\ud800")
    assert raised.level == "ERROR"
    assert (without.exception, none.exception) == (None, None)
    assert never.exception is not None
    assert len(never.exception) <= MAX_MESSAGE + 2
    assert stack.exception is not None
    assert stack.exception.startswith("Stack (most recent call last):\n")


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_of_too_many_lines_the_newest_are_kept(make_module: MakeModule) -> None:
    """And the others are counted, in front of the first one."""

    def job(event: TaskQueueEvent) -> None:
        for number in range(2_500):
            event.log.info("%d", number)

    lines = logged_by(make_module(), job)
    assert [line.message for line in lines] == [str(number) for number in range(1_500, 2_500)]
    assert [line.dropped for line in lines] == [1_500] + [0] * (MAX_LINES - 1)


def test_of_too_many_bytes_the_newest_are_kept(make_module: MakeModule) -> None:
    """All that a line holds counts."""

    def job(event: TaskQueueEvent) -> None:
        for number in range(50):
            text = "ä" * 1_000
            event.log.info("%d", number, extra={"a": text, "b": text, "c": text, "d": text})
        event.log.info("x" * 8_000)

    lines = logged_by(make_module(), job)
    sizes = [len(line.message) + sum(len(str(value).encode()) for value in line.fields.values()) for line in lines]
    assert MAX_BYTES - 10_000 < sum(sizes) <= MAX_BYTES
    assert [line.message for line in lines[:-1]] == [str(number) for number in range(50 - len(lines) + 1, 50)]
    assert lines[0].dropped == 51 - len(lines)


@pytest.mark.parametrize("character", ["😀", "\x01"])
def test_the_largest_line_there_is_is_kept(make_module: MakeModule, character: str) -> None:
    """Four bytes of UTF-8 each, and six where JSON escapes it."""

    def job(event: TaskQueueEvent) -> None:
        fields = {f"{number}{character * 200}": character * 9_999 for number in range(200)}
        event.log.error(character * 9_999, extra=fields, exc_info=ValueError(character * 9_999))

    (line,) = logged_by(make_module(), job)
    assert line.dropped == 0
    assert line.message.startswith(character)


def test_each_attempt_has_its_own_bound_and_its_own_numbers(make_module: MakeModule, clock: FakeClock) -> None:
    """Attempts and runs come in order, each with what was dropped in front of it."""
    module = make_module(clock=clock)

    @module.task("job", retry=Retry(max_attempts=2, initial=1, jitter=False))
    def job(event: TaskQueueEvent) -> None:
        for number in range(MAX_LINES + event.attempt):
            event.log.info("%d", number)
        raise LookupError

    async def scenario() -> None:
        service = module.task_service
        task = await single(module)
        clock.advance(1)
        await drained(module)
        await service.retry_task(task.key)
        await drained(module)
        lines = await every_line(module, task.key)
        firsts = [line for line in lines if line.dropped]
        assert [(line.run, line.attempt, line.dropped, line.message) for line in firsts] == [
            (1, 1, 1, "1"),
            (1, 2, 2, "2"),
            (2, 1, 1, "1"),
        ]
        assert len(lines) == 3 * MAX_LINES
        assert [line.at for line in lines] == sorted(line.at for line in lines)

    asyncio.run(scenario())


def test_lines_after_the_end_of_the_attempt_are_not_kept(make_module: MakeModule, clock: FakeClock) -> None:
    """A thread whose time is up goes on, but the task is not its any more."""
    module, inside, leave, left = make_module(clock=clock), *(threading.Event() for _ in range(3))

    @module.task("job", timeout=5)
    def job(event: TaskQueueEvent) -> None:
        event.log.info("in time")
        inside.set()
        leave.wait(PATIENCE)
        event.log.info("too late")
        shop.warning("too late")
        left.set()

    async def scenario() -> None:
        task = await module.task_service.create_task(tenant_code="acme", task_type="job")
        async with module.worker():
            await asyncio.to_thread(inside.wait, PATIENCE)
            clock.advance(5)
            ended = await within_patience(module.task_service.wait(task.key))
            assert ended.status is TaskStatus.FAILED
            leave.set()
            await asyncio.to_thread(left.wait, PATIENCE)
            clock.advance(2)
        assert await messages(module, task.key) == ["in time"]

    asyncio.run(scenario())


# --- reading ---------------------------------------------------------------------------------------------------------


def test_the_cursor_leads_on_also_from_the_present_end(make_module: MakeModule) -> None:
    module = make_module()

    @module.task("job")
    def job(event: TaskQueueEvent) -> None:
        for number in range(5):
            event.log.info("%d of run %d", number, event.task.run)

    async def scenario() -> None:
        service = module.task_service
        task = await service.create_task(tenant_code="acme", task_type="job")
        page = await service.logs(task.key)
        assert (page.items, page.cursor) == ([], None)
        await drained(module)
        seen: list[str] = []
        cursor = None
        while (page := await service.logs(task.key, after=cursor, limit=2)).items:
            assert page.cursor is not None
            seen += [line.message for line in page.items]
            cursor = page.cursor
        assert page.cursor == cursor
        assert seen == [f"{number} of run 1" for number in range(5)]
        await service.retry_task(task.key, only_failed=False)
        assert (await service.logs(task.key, cursor)).items == []
        await drained(module)
        page = await service.logs(task.key, cursor)
        assert [line.message for line in page.items] == [f"{number} of run 2" for number in range(5)]

    asyncio.run(scenario())


def test_what_was_dropped_behind_the_cursor_is_counted(make_module: MakeModule, clock: FakeClock) -> None:
    """Whoever reads on while a handler logs more than is kept learns how much was missed."""
    module, speak = make_module(clock=clock), threading.Semaphore(0)

    @module.task("job")
    def job(event: TaskQueueEvent) -> None:
        event.log.info("first")
        speak.acquire(timeout=PATIENCE)
        for number in range(3_000):
            event.log.info("%d", number)

    async def scenario() -> None:
        service = module.task_service
        task = await service.create_task(tenant_code="acme", task_type="job")
        async with module.worker():
            page = await service.logs(task.key)
            while not page.items:
                clock.advance(0.5)
                page = await service.logs(task.key)
            speak.release()
            await within_patience(service.wait(task.key))
        assert [line.message for line in page.items] == ["first"]
        page = await service.logs(task.key, page.cursor)
        assert (page.items[0].message, page.items[0].dropped) == ("2000", 2_000)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"limit": "10"}, "limit"),
        ({"after": "nonsense"}, "cursor"),
        ({"after": "NQ"}, "cursor"),  # 5, as of sub-tasks
        ({"after": "WzEsMV0"}, "cursor"),  # [1,1]
        ({"after": "WzEsMSwtMV0"}, "cursor"),  # [1,1,-1]
        ({"after": 7}, "cursor"),
    ],
)
def test_what_leads_nowhere_is_refused(make_module: MakeModule, arguments: Any, field: str) -> None:
    module = make_module()
    module.task("job")(lambda event: event.log.info("x"))

    async def scenario() -> None:
        task = await single(module)
        with pytest.raises(InvalidInput) as refused:
            await module.task_service.logs(task.key, **arguments)
        assert refused.value.field == field

    asyncio.run(scenario())


def test_logs_of_no_task(make_module: MakeModule) -> None:
    service = make_module().task_service

    async def scenario() -> None:
        parent = await service.create_step_function_task(tenant_code="acme", task_type="job", input=[1])
        sub = TaskKey.sub_task("acme", "job", parent.code, 0)
        assert (await service.logs(sub)).items == []  # nobody has claimed it yet
        for key in (TaskKey.single("acme", "job", "01J0"), TaskKey.sub_task("acme", "job", parent.code, 1)):
            with pytest.raises(TaskNotFound):
                await service.logs(key)
            with pytest.raises(TaskNotFound):
                await anext(service.follow_logs(key))
        text: Any = parent.id
        with pytest.raises(InvalidType):
            await service.logs(text)
        with pytest.raises(InvalidType):
            await anext(service.follow_logs(text))

    asyncio.run(scenario())


# --- following -------------------------------------------------------------------------------------------------------


def test_follow_gives_lines_as_they_come_until_the_end(make_module: MakeModule, clock: FakeClock) -> None:
    module, seen = make_module(clock=clock), list[str]()

    async def scenario() -> Entity:
        heard = asyncio.Event()

        @module.task("job", retry=Retry(max_attempts=2, initial=5, jitter=False))
        async def job(event: TaskQueueEvent) -> None:
            for number in range(3):
                heard.clear()
                event.log.info("%d of attempt %d", number, event.attempt)
                if number < 2:  # the next line comes only when this one was heard
                    await within_patience(heard.wait())
            if event.attempt == 1:
                raise LookupError

        service = module.task_service
        task = await service.create_task(tenant_code="acme", task_type="job")

        async def follow() -> None:
            async for line in service.follow_logs(task.key):
                seen.append(line.message)
                heard.set()

        async with module.worker():
            following = asyncio.create_task(follow())
            while not following.done():
                clock.advance(0.5)
                await asyncio.wait([following], timeout=0.001)
            await following
        return await service.get_task(task.key)

    task = asyncio.run(scenario())
    assert task.status is TaskStatus.COMPLETED
    assert seen == [f"{number} of attempt {attempt}" for attempt in (1, 2) for number in range(3)]


def test_follow_hears_of_the_end_at_once(make_module: MakeModule, clock: FakeClock) -> None:
    """A signal wakes it: the clock stands still."""
    module = make_module(clock=clock)

    async def scenario() -> list[str]:
        following = asyncio.Event()

        @module.task("job")
        async def job(event: TaskQueueEvent) -> None:
            await within_patience(following.wait())
            event.log.info("the last words")

        service = module.task_service
        task = await service.create_task(tenant_code="acme", task_type="job")

        async def follow() -> list[str]:
            return [line.message async for line in service.follow_logs(task.key)]

        async with module.worker():
            follower = asyncio.create_task(follow())
            for _ in range(20):
                await asyncio.to_thread(lambda: None)
            following.set()
            return await within_patience(follower)  # type: ignore[no-any-return]

    assert asyncio.run(scenario()) == ["the last words"]


@pytest.mark.parametrize("kind", ["task", "sub-task", "fan-out"])
def test_follow_of_what_has_ended(make_module: MakeModule, kind: str) -> None:
    """More than a page of it, and nothing of a fan-out itself."""
    module = make_module()

    def job(event: Any) -> None:
        for number in range(MAX_LINES):
            event.log.info("%d", number)
        if event.attempt < 2:
            raise LookupError

    retry = Retry(max_attempts=2, initial=0)
    module.task("job", retry=retry)(job)
    module.step_function_task("job", retry=retry)(job)

    async def scenario() -> list[str]:
        task = await single(module)
        parent = await fan_out(module, [1])
        (sub,) = await sub_tasks(module, parent)
        key = {"task": task, "sub-task": sub, "fan-out": parent}[kind].key
        return [line.message async for line in module.task_service.follow_logs(key)]

    expected = [] if kind == "fan-out" else [str(number) for number in range(MAX_LINES)] * 2
    assert asyncio.run(scenario()) == expected


def test_sync_reads_and_follows(make_module: MakeModule) -> None:
    module = make_module()
    module.task("job")(lambda event: event.log.info("hello"))
    tasks = module.sync.task_service
    task = tasks.create_task(tenant_code="acme", task_type="job")
    worker = threading.Thread(target=lambda: asyncio.run(drained(module)))
    worker.start()
    assert [line.message for line in tasks.follow_logs(task.key)] == ["hello"]
    worker.join(PATIENCE)
    assert [line.message for line in tasks.logs(task.key).items] == ["hello"]
    assert tasks.logs(task.key, tasks.logs(task.key).cursor).items == []
