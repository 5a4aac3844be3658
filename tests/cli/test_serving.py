"""`taskloom serve`, and the commands that ask a server."""

import json
import signal
import socket
from pathlib import Path

import httpx
import pytest

from taskloom.cli import serving
from tests.cli.program import Program, call, run

APPLICATION = """
from taskloom import TaskModule

module = TaskModule.register(enable_controller=True)


@module.task("cat")
async def cat(event):
    event.log.info("feeding")
    return f"fed {event.task.input['name']}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cats.py").write_text(APPLICATION)
    return tmp_path


def address_of(program: Program) -> str:
    program.says("; Ctrl-C or SIGTERM stops it")
    return program.said().partition("serving ")[2].split()[0]


def test_web_and_worker_in_one_process(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Program(folder, "serve", "cats:module", "--port", "0") as program:
        url = address_of(program)
        program.says("AUTHENTICATION IS OFF")

        def ask(*args: str, code: int = 0) -> str:
            ended = call(capsys, "--url", url, *args)
            assert ended.code == code, ended.err
            return ended.out

        key = ask("create", "--tenant", "mbc", "--type", "cat", '{"name": "Tama"}').strip()
        assert ask("watch", key).startswith("COMPLETED")
        assert json.loads(ask("show", key, "--json"))["attributes"]["result"] == [["fed Tama"]]
        assert key in ask("list", "--tenant", "mbc")
        assert "feeding" in ask("logs", key)
        assert "COMPLETED (ended)" in ask("explain", key)
        ask("cancel", key, code=1)
        kept = ask("create", "--tenant", "mbc", "--type", "nobody", "--ttl", "60", "--priority", "7").strip()
        assert json.loads(ask("show", kept, "--json"))["options"]["ttl"] == 60
        assert ask("retry", key, "--all").startswith("PENDING")
        ask("pause", "--type", "cat")
        assert "PAUSED" in ask("queues")
        ask("resume", "--type", "cat")
        assert ask("purge", "--tenant", "other", "--yes") == "cancelled: 0\n"
        assert ask("redrive", "--all") == "redriven: 0\n"
        assert "nobody is told" in ask("webhooks")
        assert "no delivery was given up" in ask("webhooks", "--failed")
        assert ask("webhooks", "--all") == "to be delivered again: 0\n"
        assert "no dead letters" in ask("dead-letters")
        with httpx.stream("GET", f"{url}/tasks/mbc/events") as stream:  # which would never end by itself
            next(stream.iter_text())
            program.send(signal.SIGTERM)
            ended = program.ended()
    assert ended.code == 0, ended.err
    assert "the server has stopped" in ended.out


def test_others_are_not_served_without_authentication(folder: Path) -> None:
    ended = run(folder, "serve", "cats:module", "--host", "0.0.0.0", "--port", "0")
    assert ended.code == 2
    assert "--host" in ended.err
    assert "TASKLOOM_AUTH" in ended.err


def test_what_authentication_needs_is_asked_for(folder: Path) -> None:
    ended = run(folder, "serve", "cats:module", "--port", "0", environment={"TASKLOOM_AUTH": "jwt"})
    assert ended.code == 2
    assert "auth_issuer" in ended.err


def test_a_port_that_is_taken_is_named(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run(folder, "serve", "cats:module", "--port", str(port))
    assert ended.code == 2
    assert f"127.0.0.1:{port} cannot be served" in ended.err


def test_a_server_without_worker_leaves_tasks_alone(folder: Path) -> None:
    with Program(folder, "serve", "cats:module", "--port", "0", "--no-worker") as program:
        url = address_of(program)
        made = httpx.post(f"{url}/tasks", json={"tenantCode": "mbc", "taskType": "cat"})
        assert httpx.get(f"{url}/queues").json()["workers"] == []
        assert made.status_code == 202
        program.send(signal.SIGINT)
        assert program.ended().code == 0


@pytest.mark.parametrize("command", [["worker", "cats:module"], ["serve", "cats:module"], ["doctor"], ["demo"]])
def test_what_works_here_asks_no_server(folder: Path, command: list[str]) -> None:
    ended = run(folder, "--url", "http://127.0.0.1:1", *command)
    assert ended.code == 2
    assert "--url" in ended.err


def test_a_server_that_is_not_there_is_named(folder: Path) -> None:
    ended = run(folder, "list", "--tenant", "mbc", environment={"TASKLOOM_URL": "http://127.0.0.1:1"})
    assert ended.code == 4
    assert "http://127.0.0.1:1 cannot be reached" in ended.err


def test_database_and_server_exclude_each_other(folder: Path) -> None:
    ended = run(folder, "--url", "http://127.0.0.1:1", "list", "--tenant", "mbc", "--database", "tasks.db")
    assert ended.code == 2
    assert "--database: is given, and --url too" in ended.err


def test_a_database_on_the_command_line_wins_over_the_environment(folder: Path) -> None:
    environment = {"TASKLOOM_URL": "http://127.0.0.1:1"}
    ended = run(folder, "list", "--tenant", "mbc", "--database", "tasks.db", environment=environment)
    assert ended.code == 2
    assert "tasks.db does not exist" in ended.err


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """What a connection has that was accepted; the event loop does not see to it here."""
    options = serving.Options(host="127.0.0.1", port=0, concurrency=None, grace=None)
    with (
        serving.listening(options) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
