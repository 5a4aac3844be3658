"""`taskloom logs`: what handlers logged, for people and for programs."""

import asyncio
import json
import logging
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from taskloom import Retry, StepFunctionTaskEvent, TaskKey, TaskModule, TaskQueueEvent
from taskloom.cli.exit_codes import NOT_FOUND, OK, SIGNAL, USAGE
from taskloom.record import log_item
from tests.cli.program import Program, call, run
from tests.conftest import MakeModule

Capture = pytest.CaptureFixture[str]
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture
def module(make_module: MakeModule) -> TaskModule:
    """A module whose handlers talk."""
    module = make_module()

    @module.task("job", retry=Retry(max_attempts=2, initial=0))
    def job(event: TaskQueueEvent[Any]) -> None:
        event.log.info("copied %d", 3, extra={"names": ["a", "ä"], "by": "ann"})
        logging.getLogger("shop.mail").warning("slow\nor \x1b[2Jdown")
        if event.attempt == 1:
            raise LookupError
        try:
            raise ValueError("no \x07 cat")
        except ValueError:
            event.log.exception("gave up")

    @module.task("chatty")
    def chatty(event: TaskQueueEvent[int]) -> None:
        for number in range(event.task.input):
            event.log.info("%d", number)

    @module.step_function_task("cats")
    async def cats(event: StepFunctionTaskEvent[Any]) -> None:
        event.log.info("cat %d", event.task.input)

    return module


def drain(module: TaskModule) -> None:
    async def work() -> None:
        async with module.worker() as worker:
            await worker.drain()

    asyncio.run(work())


def test_a_line_for_each_line(module: TaskModule, database: Path, capsys: Capture) -> None:
    """What cannot be printed is escaped: it may come from anybody."""
    key = module.sync.task_service.create_task(tenant_code="mbc", task_type="job").key
    drain(module)
    code, out, err = call(capsys, "logs", key.id, "--database", database)
    assert (code, err) == (OK, "")
    patterns = [
        rf'{TIME} INFO     1/{attempt} copied 3 names=\["a", "ä"\] by=ann\n'
        rf"{TIME} WARNING  1/{attempt} shop\.mail: slow\\nor \\x1b\[2Jdown\n"
        for attempt in (1, 2)
    ]
    patterns += [
        rf"{TIME} ERROR    1/2 gave up\n"
        r"    Traceback \(most recent call last\):\n(      .*\n)+    ValueError: no \\x07 cat\n"
    ]
    assert re.fullmatch("".join(patterns), out), out
    assert out == call(capsys, "logs", "-f", key.id, "--database", database).out


def test_json_is_an_object_per_line(module: TaskModule, database: Path, capsys: Capture) -> None:
    tasks = module.sync.task_service
    key = tasks.create_task(tenant_code="mbc", task_type="job").key
    drain(module)
    for options in ([], ["--follow"]):
        code, out, err = call(capsys, "logs", key.id, "--database", database, "--json", *options)
        assert (code, err) == (OK, "")
        assert out.isascii()
        assert [json.loads(row) for row in out.splitlines()] == [log_item(line) for line in tasks.logs(key).items]
    first = json.loads(out.splitlines()[0])
    assert list(first) == ["at", "level", "logger", "run", "attempt", "message", "fields"]
    assert first["fields"] == {"names": ["a", "ä"], "by": "ann"}
    assert "exception" in json.loads(out.splitlines()[-1])


def test_more_than_a_page_and_what_was_dropped(module: TaskModule, database: Path, capsys: Capture) -> None:
    tasks = module.sync.task_service
    key = tasks.create_task(tenant_code="mbc", task_type="chatty", input=2_300).key
    drain(module)
    tasks.retry_task(key, only_failed=False)
    drain(module)
    code, out, _ = call(capsys, "logs", key.id, "--database", database)
    assert code == OK
    rows = out.splitlines()
    assert [row for row in rows if row.startswith("…")] == ["… 1,300 lines were dropped"] * 2
    assert len(rows) == 2 * 1_001
    out = call(capsys, "logs", key.id, "--database", database, "--json").out
    items = [json.loads(row) for row in out.splitlines()]
    assert [item["dropped"] for item in items if "dropped" in item] == [1_300, 1_300]


def test_lines_of_a_sub_task(module: TaskModule, database: Path, capsys: Capture) -> None:
    parent = module.sync.task_service.create_step_function_task(tenant_code="mbc", task_type="cats", input=[7, 8])
    drain(module)
    key = TaskKey.sub_task("mbc", "cats", parent.code, 1)
    assert re.fullmatch(rf"{TIME} INFO     1/1 cat 8\n", call(capsys, "logs", key.id, "--database", database).out)
    assert call(capsys, "logs", parent.id, "--database", database) == (OK, "no lines\n", "")


def test_no_lines(module: TaskModule, database: Path, capsys: Capture) -> None:
    key = module.sync.task_service.create_task(tenant_code="mbc", task_type="job").key
    assert call(capsys, "logs", key.id, "--database", database) == (OK, "no lines\n", "")
    assert call(capsys, "logs", key.id, "--database", database, "--json") == (OK, "", "")


@pytest.mark.parametrize("options", [[], ["--follow"], ["--json"]])
def test_what_is_not_there(module: TaskModule, database: Path, capsys: Capture, options: list[str]) -> None:
    module.sync.task_service.create_task(tenant_code="mbc", task_type="job")
    code, out, err = call(capsys, "logs", "TASK#mbc#job#01JTZ3", "--database", database, *options)
    assert (code, out, err) == (NOT_FOUND, "", "Error: there is no task TASK#mbc#job#01JTZ3\n")
    assert call(capsys, "logs", "nonsense", "--database", database, *options).code == USAGE
    assert call(capsys, "logs", "TASK#mbc#job#01JTZ3", "--database", database.with_name("x"), *options).code == USAGE


def test_follow_shows_lines_as_they_come_until_the_end(module: TaskModule, database: Path, tmp_path: Path) -> None:
    """As a program, with its output in a pipe: each line is there at once."""
    go_on = asyncio.Event()

    async def scenario() -> None:
        @module.task("slow")
        async def slow(event: TaskQueueEvent[Any]) -> None:
            event.log.info("beginning")
            await go_on.wait()
            event.log.info("nearly done")
            raise LookupError

        task = await module.task_service.create_task(tenant_code="mbc", task_type="slow")
        with Program(tmp_path, "logs", task.id, "--follow", "--database", database) as program:
            async with module.worker():
                await asyncio.to_thread(program.says, "beginning")
                go_on.set()
                code, out, err = await asyncio.to_thread(program.ended)
        assert (code, err) == (OK, "")  # however the task ended
        assert [row.rpartition("1/1 ")[2] for row in out.splitlines()] == ["beginning", "nearly done"]

    asyncio.run(scenario())


def test_ctrl_c_ends_the_following(module: TaskModule, database: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        @module.task("endless")
        async def endless(event: TaskQueueEvent[Any]) -> None:
            event.log.info("beginning")
            await asyncio.Event().wait()

        task = await module.task_service.create_task(tenant_code="mbc", task_type="endless")
        with Program(tmp_path, "logs", task.id, "-f", "--json", "--database", database) as program:
            async with module.worker(grace=0):
                await asyncio.to_thread(program.says, "beginning")
                program.send(signal.SIGINT)
                code, out, err = await asyncio.to_thread(program.ended)
        assert (code, err) == (SIGNAL + signal.SIGINT, "Interrupted.\n")
        assert json.loads(out)["message"] == "beginning"

    asyncio.run(scenario())


def test_it_is_a_program(module: TaskModule, database: Path, tmp_path: Path) -> None:
    key = module.sync.task_service.create_task(tenant_code="mbc", task_type="chatty", input=3).key
    drain(module)
    code, out, err = run(tmp_path, "logs", key.id, environment={"TASKLOOM_DATABASE": str(database)})
    assert (code, err) == (OK, "")
    assert [row[-1] for row in out.splitlines()] == ["0", "1", "2"]
