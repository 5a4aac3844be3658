"""`taskloom worker` as a real process, stopped by real signals."""

import logging
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskloom import Settings, TaskEntity, TaskModule, TaskStatus
from taskloom.cli.logs import PlainFormatter
from tests.cli.program import TIMEOUT, Program, run

APPLICATION = '''
import asyncio, os, pathlib, threading
from taskloom import Settings, TaskModule

module = TaskModule.register(settings=Settings(database="tasks.db"))

def say(*words):
    print(*words, flush=True)

@module.task("quick")
async def quick(event):
    say("quick runs")

@module.task("gate")
def gate(event):
    """Ends when the test opens the pipe `gate`."""
    say("gate runs")
    pathlib.Path("gate").read_text()
    return "through"

@module.task("stuck")
def stuck(event):
    """The first attempt of a task never ends."""
    say("stuck runs")
    if os.environ.get("STUCK"):
        threading.Event().wait()
    return "in the end"

@module.task("stuck-async")
async def stuck_async(event):
    say("stuck-async runs")
    await asyncio.Event().wait()

@module.task("stuck-executor")
async def stuck_executor(event):
    await asyncio.to_thread(threading.Event().wait)

@module.task("blocks-loop")
async def blocks_loop(event):
    say("blocks-loop runs")
    while True:  # not one endless wait: a signal that comes just before it would not be seen
        threading.Event().wait(0.1)

@module.task("left")
def left(event):
    pathlib.Path("meeting").read_text()
    record(event)

@module.task("right")
def right(event):
    pathlib.Path("meeting").write_text("met")
    record(event)

@module.task("recorded")
async def recorded(event):
    record(event)

@module.step_function_task("recorded-many", chunk_size=5)
def recorded_many(event):
    record(event)

def record(event):
    with open("ran.txt", "ab", buffering=0) as file:
        file.write(f"{os.getpid()} {event.task.id}\\n".encode())
'''


@pytest.fixture
def folder(tmp_path: Path, database: Path) -> Path:
    """The folder of an application whose database is `database`."""
    (tmp_path / "application.py").write_text(APPLICATION)
    return tmp_path


@pytest.fixture
def client(database: Path) -> Iterator[TaskModule]:
    """Creates tasks and looks at them; runs none."""
    module = TaskModule.register(settings=Settings(database=database))
    yield module
    module.close()


def create(client: TaskModule, task_type: str) -> TaskEntity[Any]:
    return client.sync.task_service.create_task(tenant_code="mbc", task_type=task_type)


def worker(folder: Path, *options: str, **environment: str) -> Program:
    return Program(folder, "worker", "application:module", *options, environment=environment)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_running_handler_finish(folder: Path, client: TaskModule, number: signal.Signals) -> None:
    """And nothing more is claimed: the task that was created meanwhile is left for another worker."""
    os.mkfifo(folder / "gate")
    running = create(client, "gate")
    with worker(folder, "--concurrency", "4", "--grace", "100") as program:
        program.says("gate runs")
        program.send(number)
        program.says("asked to stop")
        later = create(client, "quick")
        (folder / "gate").write_text("open")
        code, out, err = program.ended()
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("worker ")
    assert lines[0].endswith(" runs 4 at a time; Ctrl-C or SIGTERM stops it")
    assert lines[1:-1] == ["gate runs"]
    assert lines[-1].endswith(" has stopped")
    assert "Traceback" not in err
    service = client.sync.task_service
    assert service.get_task(running.key).result == "through"
    assert service.get_task(later.key).status is TaskStatus.PENDING


@pytest.mark.parametrize("task_type", ["stuck", "stuck-async"])
def test_what_does_not_finish_in_time_is_given_back(folder: Path, client: TaskModule, task_type: str) -> None:
    """The thread of a handler that never returns does not keep the process alive."""
    task = create(client, task_type)
    with worker(folder, "--grace", "0.2", STUCK="1") as program:
        program.says(f"{task_type} runs")
        program.send(signal.SIGTERM)
        code, _, err = program.ended()
    assert code == 0
    assert "Traceback" not in err
    given_back = client.sync.task_service.get_task(task.key)
    assert given_back.status is TaskStatus.PENDING
    assert given_back.history[-1].reason == "the worker stopped"


def test_what_was_given_back_is_run_by_the_next_worker(folder: Path, client: TaskModule) -> None:
    """At once, not when a lease has ended; and it is no second attempt."""
    task = create(client, "stuck")
    with worker(folder, "--grace", "0", STUCK="1") as first:
        first.says("stuck runs")
        first.send(signal.SIGTERM)
        assert first.ended().code == 0
    with worker(folder) as second:
        done = client.sync.task_service.wait(task.key, timeout=TIMEOUT)
        second.send(signal.SIGTERM)
        assert second.ended().code == 0
    assert (done.result, done.attempt) == ("in the end", 1)
    workers = [entry.by for entry in done.history if entry.status is TaskStatus.IN_PROGRESS]
    assert len(workers) == len(set(workers)) == 2


@pytest.mark.parametrize("count", [1, 12], ids=["one", "more than the executor has threads"])
def test_threads_of_the_event_loop_do_not_keep_the_process_alive_either(
    folder: Path, client: TaskModule, count: int
) -> None:
    """An async handler that was given back may have left `asyncio.to_thread` behind, which Python would wait for."""
    tasks = [create(client, "stuck-executor") for _ in range(count)]
    last = create(client, "stuck-async")
    with worker(folder, "--concurrency", "40", "--grace", "0.2") as program:
        program.says("stuck-async runs")
        program.send(signal.SIGTERM)
        assert program.ended().code == 0
    for task in (*tasks, last):
        assert client.sync.task_service.get_task(task.key).status is TaskStatus.PENDING


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(folder: Path, client: TaskModule, second: signal.Signals) -> None:
    create(client, "stuck")
    with worker(folder, "--grace", "3600", STUCK="1") as program:
        program.says("stuck runs")
        program.send(signal.SIGTERM)
        program.says("asked to stop")
        program.send(second)
        assert program.ended().code == 128 + second


def test_a_second_signal_ends_also_a_worker_whose_loop_is_blocked(folder: Path, client: TaskModule) -> None:
    """An async handler that blocks holds up everything but the signals. Two kinds, so that none is merged."""
    create(client, "blocks-loop")
    with worker(folder, "--grace", "3600") as program:
        program.says("blocks-loop runs")
        program.send(signal.SIGINT)
        program.send(signal.SIGTERM)
        assert program.ended().code in (128 + signal.SIGTERM, 128 + signal.SIGINT)


def test_a_worker_takes_only_the_types_that_it_is_told(folder: Path, client: TaskModule) -> None:
    wanted, other = create(client, "recorded"), create(client, "quick")
    many = client.sync.task_service.create_step_function_task(
        tenant_code="mbc", task_type="recorded-many", input=range(3)
    )
    with worker(folder, "--task-type", "recorded", "--task-type", "recorded-many") as program:
        assert client.sync.task_service.wait(wanted.key, timeout=TIMEOUT).status is TaskStatus.COMPLETED
        assert client.sync.task_service.wait(many.key, timeout=TIMEOUT).status is TaskStatus.COMPLETED
        program.send(signal.SIGTERM)
        assert program.ended().code == 0
    assert client.sync.task_service.get_task(other.key).status is TaskStatus.PENDING


def test_two_workers_on_one_file_never_run_a_task_twice(folder: Path, client: TaskModule) -> None:
    """Both do work: two tasks that wait for each other need both, at one handler each."""
    service = client.sync.task_service
    os.mkfifo(folder / "meeting")
    with worker(folder, "--concurrency", "1") as one, worker(folder, "--concurrency", "1") as two:
        one.says("at a time")
        two.says("at a time")
        tasks = [create(client, "left"), create(client, "right")]
        tasks += [create(client, "recorded") for _ in range(200)]
        parent = service.create_step_function_task(tenant_code="mbc", task_type="recorded-many", input=range(200))
        for task in (*tasks, parent):
            assert service.wait(task.key, timeout=TIMEOUT).status is TaskStatus.COMPLETED
        for program in (one, two):
            program.send(signal.SIGTERM)
            assert program.ended().code == 0
        pids = {str(program.process.pid) for program in (one, two)}
    ran = [line.split() for line in (folder / "ran.txt").read_text().splitlines()]
    assert {pid for pid, _ in ran} == pids
    expected = [task.id for task in (*tasks, *service.iter_sub_tasks(parent.key))]
    assert Counter(id_ for _, id_ in ran) == Counter(expected)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["worker"], "Missing argument"),
        (["worker", "application:nothing"], "APP: 'application' has no attribute 'nothing'"),
        (["worker", "application:module", "--concurrency", "0"], "concurrency: 0 is out of range"),
        (["worker", "application:module", "--grace", "-1"], "grace: -1.0 is out of range"),
        (["worker", "application:module", "--task-type", "a b"], "task_type: 'a b' is not allowed"),
        (["worker", "application:module", "--log-level", "loud"], "Invalid value for '--log-level'"),
        (["worker", "empty:module"], "this module runs no task"),
    ],
)
def test_a_worker_that_cannot_start_says_why(folder: Path, arguments: list[str], said: str) -> None:
    (folder / "empty.py").write_text("from taskloom import TaskModule\nmodule = TaskModule.register()\n")
    code, out, err = run(folder, *arguments)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())
    assert "Traceback" not in err


def test_a_database_that_cannot_be_opened_does_not_go_unnoticed(folder: Path) -> None:
    """The worker tries again by itself, for the folder may be mounted later; what it waits for stands in its log."""
    with Program(folder, "worker", "application:module", environment={"TASKLOOM_DATABASE": "unused"}) as program:
        (folder / "tasks.db").write_text("no database " * 1000)
        program.says("WARNING taskloom.execution.worker: the storage fails; trying again")
        program.send(signal.SIGTERM)
        assert program.ended().code == 0
    (folder / "tasks.db").unlink()


def test_log_lines_are_plain_text_with_the_data_of_the_record() -> None:
    record = logging.LogRecord("taskloom.x", logging.INFO, __file__, 1, "an attempt %s", ("failed",), None)
    record.task, record.attempt, record.note = "TASK#a#b#c", 2, "two\nlines"
    line = PlainFormatter().format(record)
    assert line.endswith("INFO taskloom.x: an attempt failed task=TASK#a#b#c attempt=2 note=two\\nlines")
    assert "\n" not in line


def test_the_log_level_decides_what_is_said(folder: Path, client: TaskModule) -> None:
    for level, there in (("info", True), ("error", False)):
        with worker(folder, "--log-level", level) as program:
            program.says("at a time")
            program.send(signal.SIGTERM)
            _, out, err = program.ended()
        assert ("INFO taskloom.execution.worker: the worker starts worker=" in err) is there
        assert len(out.splitlines()) == 2
