"""`watch`: until the end, with a bar or with lines; the exit code tells the outcome."""

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskloom import TaskKey, TaskModule
from taskloom.cli import watching
from taskloom.events.task_events import StepFunctionTaskEvent, TaskQueueEvent
from taskloom.record import to_item
from tests.cli.program import Program, Terminal, call
from tests.conftest import MakeModule

Capture = pytest.CaptureFixture[str]
WAIT = 60


class Gate:
    """Where the handler of the test stops until it may go on."""

    def __init__(self) -> None:
        self.is_open = threading.Event()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.is_open.set()


@pytest.fixture
def module(make_module: MakeModule, gate: Gate) -> TaskModule:
    """A module with a handler that says how far it is and waits at the gate, one that fails, and a fan-out."""
    module = make_module()

    @module.task("slow")
    def slow(event: TaskQueueEvent[Any]) -> Any:
        event.progress(3, 4, "nearly\x1b[31m")
        assert gate.is_open.wait(WAIT)
        event.progress(4, 4, "there")
        return 42

    @module.task("bad")
    async def bad(event: TaskQueueEvent[Any]) -> Any:
        raise ValueError("no such\ncat")

    @module.step_function_task("cats", tolerated_failure_percentage=50)
    async def cats(event: StepFunctionTaskEvent[Any]) -> Any:
        return 1 / event.input.input

    return module


class AtWork:
    """A worker in a thread, until the end of the `with` block."""

    def __init__(self, module: TaskModule) -> None:
        self._module = module
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._work()))

    async def _work(self) -> None:
        async with self._module.worker() as worker:
            self._stop = worker.stop
            self._loop = asyncio.get_running_loop()
            self._started.set()
            await worker.run()

    def __enter__(self) -> None:
        self._thread.start()
        assert self._started.wait(WAIT)

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join()


def create(module: TaskModule, type_: str) -> TaskKey:
    return module.sync.task_service.create_task(tenant_code="mbc", task_type=type_).key


def drain(module: TaskModule) -> None:
    async def work() -> None:
        async with module.worker() as worker:
            await worker.drain()

    asyncio.run(work())


def test_the_exit_code_tells_how_it_ended(module: TaskModule, gate: Gate, database: Path, capsys: Capture) -> None:
    gate.is_open.set()
    service = module.sync.task_service
    keys = [create(module, "slow"), create(module, "bad"), create(module, "slow")]
    service.cancel_task(keys[2], reason="no longer needed", by="ann")
    some = service.create_step_function_task(tenant_code="mbc", task_type="cats", input=[1, 0])
    drain(module)
    waits = create(module, "slow")
    expected = [
        (keys[0], 0, "COMPLETED in ", ", 4 of 4, there\n"),
        (keys[1], 5, "FAILED in ", ": ValueError: no such\\ncat\n"),
        (keys[2], 6, "CANCELLED", ": no longer needed (by ann)\n"),
        (some.key, 0, "COMPLETED in ", ", 2 of 2, 1 failed\n"),
        (waits, 7, "still PENDING", "still PENDING\n"),
    ]
    for key, code, start, end in expected:
        ended = call(capsys, "watch", key.id, "--database", database, "--timeout", "0")
        assert (ended.code, ended.err) == (code, "")
        assert ended.out.startswith(start)
        assert ended.out.endswith(end)
        ended = call(capsys, "watch", key.id, "--database", database, "--timeout", "0", "--json")
        assert ended.code == code
        assert json.loads(ended.out) == to_item(service.get_task(key))


def test_off_a_terminal_lines_say_how_far_it_is(module: TaskModule, gate: Gate, database: Path, tmp_path: Path) -> None:
    """On the standard error: the outcome alone is the result. What the handler says cannot reach the terminal."""
    key = create(module, "slow")
    with Program(tmp_path, "watch", key.id, "--database", database) as program:
        program.says("PENDING: no worker is alive; start one with: taskloom worker APP\n")
        with AtWork(module):
            program.says("IN_PROGRESS: 3 of 4, nearly\\x1b[31m")
            gate.is_open.set()
            code, out, err = program.ended()
    assert code == 0
    assert out.startswith("COMPLETED in ")
    assert out.endswith(" s, 4 of 4, there\n")
    assert "\x1b" not in out + err


def test_on_a_terminal_a_bar_shows_how_far_it_is(
    module: TaskModule, gate: Gate, database: Path, tmp_path: Path
) -> None:
    key = create(module, "slow")
    with Terminal(tmp_path, "watch", key.id, "--database", database) as terminal:
        terminal.says("PENDING")
        terminal.says("no worker is alive; start one")
        with AtWork(module):
            terminal.says("IN_PROGRESS")
            terminal.says("3 of 4, nearly\\x1b[31m")
            gate.is_open.set()
            code, out, shown = terminal.ended()
    assert code == 0
    assert "━" in shown
    assert "\x1b[31mw" not in shown
    assert out.startswith("COMPLETED in ")
    assert "\x1b" not in out


def test_ctrl_c_ends_the_watching_and_not_the_task(module: TaskModule, database: Path, tmp_path: Path) -> None:
    key = create(module, "slow")
    for terminal in (False, True):
        if terminal:
            with Terminal(tmp_path, "watch", key.id, "--database", database) as shown:
                shown.says("PENDING")
                shown.type("\x03")
                code, out, err = shown.ended()
        else:
            with Program(tmp_path, "watch", key.id, "--database", database) as program:
                program.says("PENDING")
                program.send(signal.SIGINT)
                code, out, err = program.ended()
        assert (code, out) == (130, "")
        assert "Interrupted." in err
        assert "Traceback" not in err
    assert not module.sync.task_service.get_task(key).is_terminal


def test_it_says_once_why_a_task_waits(
    module: TaskModule, database: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not again as long as that is all there is to say."""
    monkeypatch.setattr(watching, "EXPLAIN_AFTER", 0.0)
    monkeypatch.setattr(watching, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(watching, "LINE_EVERY", 0.0)
    key = create(module, "slow")
    code, out, err = call(capsys, "watch", key.id, "--database", database, "--timeout", "0.2")
    assert (code, out) == (7, "still PENDING\n")
    assert err == "PENDING: no worker is alive; start one with: taskloom worker APP\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "Missing argument"),
        (["nonsense"], 2, "names no task"),
        (["TASK#mbc#slow#01JTZ3"], 3, "there is no task TASK#mbc#slow#01JTZ3"),
        (["TASK#mbc#slow#01JTZ3", "--timeout", "-1"], 2, "timeout: -1.0 is out of range"),
        (["TASK#mbc#slow#01JTZ3", "--timeout", "nan"], 2, "timeout: nan is out of range"),
    ],
)
def test_what_is_wrong_with_a_call_is_said(
    module: TaskModule, database: Path, capsys: Capture, arguments: list[str], code: int, said: str
) -> None:
    create(module, "slow")
    ended = call(capsys, "watch", *arguments, "--database", database)
    assert (ended.code, ended.out) == (code, "")
    assert said in " ".join(ended.err.split())
