"""`taskloom worker --processes N`: real processes, real signals."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskloom import Settings, TaskEntity, TaskModule, TaskStatus
from tests.cli.program import TIMEOUT, Program, run

APPLICATION = '''
import os, pathlib, threading
from taskloom import Settings, TaskModule

module = TaskModule.register(settings=Settings(database="tasks.db", lease_seconds=2))

@module.task("who")
def who(event):
    return os.getpid()

@module.task("meet")
def meet(event):
    """Both sides of a pipe: two of them need two handlers at a time."""
    if event.task.input == "left":
        pathlib.Path("meeting").read_text()
    else:
        pathlib.Path("meeting").write_text("met")
    return os.getpid()

@module.task("die")
def die(event):
    if event.attempt == 1:
        os._exit(9)
    return os.getpid()

@module.task("stuck")
def stuck(event):
    print("stuck runs", flush=True)
    threading.Event().wait()
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


def create(client: TaskModule, task_type: str, input: object = None) -> TaskEntity[Any]:
    return client.sync.task_service.create_task(tenant_code="mbc", task_type=task_type, input=input)


def done(client: TaskModule, task: TaskEntity[Any]) -> TaskEntity[Any]:
    return client.sync.task_service.wait(task.key, timeout=TIMEOUT)


def supervised(folder: Path, *options: str) -> Program:
    return Program(folder, "worker", "application:module", "--processes", "2", *options)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_each_process_works_and_a_signal_ends_all(folder: Path, client: TaskModule) -> None:
    os.mkfifo(folder / "meeting")
    with supervised(folder, "--concurrency", "1") as program:
        left, right = create(client, "meet", "left"), create(client, "meet", "right")
        pids = {done(client, task).result for task in (left, right)}
        assert len(pids) == 2
        program.send(signal.SIGTERM)
        code, out, err = program.ended()
    assert code == 0
    assert out.count("has stopped") == 2
    assert "Traceback" not in err
    assert not any(alive(int(str(pid))) for pid in pids)


def test_what_dies_is_started_again(folder: Path, client: TaskModule) -> None:
    """And its task is run by whoever comes first, once its lease has ended."""
    with supervised(folder) as program:
        task = done(client, create(client, "die"))
        program.says("ended with 9; starting it again")
        assert (task.status, task.attempt) == (TaskStatus.COMPLETED, 2)
        program.send(signal.SIGINT)
        assert program.ended().code == 0


def test_what_does_not_finish_is_given_back(folder: Path, client: TaskModule) -> None:
    task = create(client, "stuck")
    with supervised(folder, "--grace", "0.2") as program:
        program.says("stuck runs")
        program.send(signal.SIGTERM)
        assert program.ended().code == 0
    assert client.sync.task_service.get_task(task.key).status is TaskStatus.PENDING


def test_a_second_signal_kills(folder: Path, client: TaskModule) -> None:
    create(client, "stuck")
    with supervised(folder, "--grace", "3600") as program:
        program.says("stuck runs")
        program.send(signal.SIGTERM)
        program.says("asked to stop")
        program.send(signal.SIGTERM)
        assert program.ended().code == 128 + signal.SIGKILL


def test_processes_do_not_outlive_a_supervisor_that_is_killed(folder: Path, client: TaskModule) -> None:
    with supervised(folder) as program:
        done(client, create(client, "who"))
        program.send(signal.SIGKILL)
        # Their standard output is the supervisor's: it ends when the last of them does.
        code, out, _ = program.ended()
    assert code == -signal.SIGKILL
    assert out.count("has stopped") == 2


@pytest.mark.parametrize("count", ["0", "-1", "1000"])
def test_how_many_is_checked(folder: Path, count: str) -> None:
    code, _, err = run(folder, "worker", "application:module", "--processes", count)
    assert code == 2
    assert "processes" in err
    assert "Traceback" not in err


def test_an_application_that_cannot_run_is_said_once(folder: Path) -> None:
    (folder / "empty.py").write_text("from taskloom import TaskModule\nmodule = TaskModule.register()\n")
    code, _, err = run(folder, "worker", "empty:module", "--processes", "2")
    assert code == 2
    assert err.count("this module runs no task") == 1
