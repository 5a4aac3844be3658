"""`create`: from an argument, a file, or line by line."""

import getpass
import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskloom import TaskEntity, TaskKey, TaskModule
from taskloom.cli.commands import creating
from taskloom.record import to_item
from tests.cli.program import Ended, Program, call
from tests.conftest import MakeModule

Capture = pytest.CaptureFixture[str]
Create = Callable[..., Ended]


@pytest.fixture
def module(make_module: MakeModule, database: Path) -> TaskModule:
    """A module without handlers, over a database that is there already."""
    module = make_module()
    module.sync.task_service.list_tasks("mbc")
    return module


@pytest.fixture
def create(module: TaskModule, database: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> Create:
    """Runs `create` for the tenant mbc, with what it finds on its standard input."""

    def run(*args: str, stdin: bytes = b"", type_: str = "cat") -> Ended:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        return call(capsys, "create", "--tenant", "mbc", "--type", type_, "--database", database, *args)

    return run


def ids(module: TaskModule, type: Any = "TASK") -> list[str]:
    return [task.id for task in module.sync.task_service.list_tasks("mbc", type=type, order="asc", limit=1000).items]


def created(module: TaskModule, ended: Ended) -> list[TaskEntity[Any]]:
    """The tasks whose ids the command has printed."""
    assert (ended.code, ended.err) == (0, "")
    return [module.sync.task_service.get_task(TaskKey.parse(line)) for line in ended.out.splitlines()]


def test_a_task_with_an_input(module: TaskModule, create: Create) -> None:
    (task,) = created(module, create('{"name": "Käthe", "age": 3}'))
    assert (task.input, task.task_type, task.name, task.priority) == ({"name": "Käthe", "age": 3}, "cat", "cat", 5)
    assert task.created_by == getpass.getuser()
    assert ids(module) == [task.id]


def test_a_task_without_an_input(module: TaskModule, create: Create) -> None:
    (task,) = created(module, create())
    assert task.input is None


def test_all_that_can_be_said_of_a_task(module: TaskModule, create: Create) -> None:
    options = ["--name", "Tama", "--priority", "9", "--deadline", "60", "--by", "ann", "--idempotency-key", "k"]
    (task,) = created(module, create("1", *options))
    assert (task.name, task.priority, task.created_by) == ("Tama", 9, "ann")
    assert task.deadline_at is not None
    assert (task.deadline_at - task.created_at).total_seconds() == 60
    assert created(module, create("1", *options)) == [task]
    code, out, err = create("2", *options)
    assert (code, out) == (1, "")
    assert "idempotency key 'k' was used with other content" in err


def test_json_is_the_stored_form(module: TaskModule, create: Create) -> None:
    code, out, err = create('"ü"', "--json")
    assert (code, err) == (0, "")
    item = json.loads(out)
    assert item == to_item(module.sync.task_service.get_task(TaskKey.parse(item["id"])))


@pytest.mark.parametrize("source", ["input.json", "-"])
def test_an_input_from_a_file(module: TaskModule, create: Create, tmp_path: Path, source: str) -> None:
    """Which may be spread over lines."""
    text = b'\n{"a":\n  [1, 2]}\n'
    (tmp_path / "input.json").write_bytes(text)
    path = source if source == "-" else str(tmp_path / source)
    (task,) = created(module, create("--file", path, stdin=text))
    assert task.input == {"a": [1, 2]}


def test_a_task_for_each_line(module: TaskModule, create: Create) -> None:
    """In their order; empty lines count for nothing, and the last one needs no end."""
    tasks = created(module, create("--lines", "--priority", "2", stdin=b'1\n\n  {"a": "\xc3\xbc"}\r\n[3]\nnull'))
    assert [task.input for task in tasks] == [1, {"a": "ü"}, [3], None]
    assert {task.priority for task in tasks} == {2}
    assert ids(module) == [task.id for task in tasks]


@pytest.mark.parametrize("more", [["1"], ["[1]", "--fan-out"], ["--lines"], ["--lines", "--fan-out"]])
def test_a_time_to_live(module: TaskModule, create: Create, more: list[str]) -> None:
    (task,) = created(module, create(*more, "--ttl", "90", stdin=b"1\n"))
    assert task.options.ttl == 90


def test_lines_from_a_file(module: TaskModule, create: Create, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("1\n2\n")
    assert [task.input for task in created(module, create("--lines", "--file", str(tmp_path / "lines")))] == [1, 2]


def test_no_lines_make_no_task(module: TaskModule, create: Create) -> None:
    assert create("--lines") == (0, "", "")
    assert ids(module) == []


def test_json_of_lines_is_a_line_for_each_task(module: TaskModule, create: Create) -> None:
    code, out, _ = create("--lines", "--json", stdin=b"1\n2\n")
    assert code == 0
    assert [json.loads(line)["input"] for line in out.splitlines()] == [1, 2]


def test_a_bad_line_is_named_and_nothing_of_its_portion_is_created(
    module: TaskModule, create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was created before is said, by its ids and by the line with which to go on."""
    monkeypatch.setattr(creating, "PORTION", 3)
    code, out, err = create("--lines", stdin=b"1\n2\n\n3\n4\n5\nno\n7\n")
    assert code == 2
    assert err == "Error: line 7: is no JSON: Expecting value at column 1; correct it, and go on with line 5\n"
    assert out.splitlines() == ids(module)
    assert len(ids(module)) == 3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "is no JSON: Expecting property name enclosed in double quotes at column 2; "),
        (b'"\xff"', "is no UTF-8: invalid start byte at byte 1; "),
        (b'{"a": [0, 1e400]}', "input.a[1]: inf is no JSON number; send None or a string instead; "),
        (b"NaN", "input: nan is no JSON number; send None or a string instead; "),
        (b"[" * 100_000, "is nested too deep; "),
        (b"9" * 5000, "cannot be read: Exceeds the limit (4300 digits)"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--fan-out"]])
def test_what_is_wrong_with_a_line_is_said(
    module: TaskModule, create: Create, line: bytes, said: str, more: list[str]
) -> None:
    code, out, err = create("--lines", *more, stdin=b"1\n\n" + line + b"\n2\n")
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: line 3: {said}")
    assert err.endswith("correct it; nothing was created\n")
    assert ids(module) == ids(module, "SFN_TASK") == []


def test_lines_with_a_key_can_be_given_again(
    module: TaskModule, create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import that broke off is repeated as it was; each line has a key of its own."""
    monkeypatch.setattr(creating, "PORTION", 2)
    first = create("--lines", "--idempotency-key", "import", stdin=b"1\n1\n3\nno\n")
    assert first.code == 2
    again = create("--lines", "--idempotency-key", "import", stdin=b"1\n1\n3\n4\n")
    assert again.code == 0
    assert again.out.splitlines()[:2] == first.out.splitlines()
    assert again.out.splitlines() == ids(module)
    code, _, err = create("--lines", "--idempotency-key", "import", stdin=b"1\n2\n")
    assert code == 1
    assert "'import#2' was used with other content" in err


def test_a_fan_out_of_a_list(module: TaskModule, create: Create) -> None:
    (task,) = created(module, create("[1, {}]", "--fan-out", "--name", "all"))
    assert (task.id, task.name, task.input) == (ids(module, "SFN_TASK")[0], "all", [1, {}])
    assert task.attributes.sub_task_count == 2


def test_a_fan_out_of_lines(module: TaskModule, create: Create) -> None:
    """Also of more than a row may hold."""
    (small,) = created(module, create("--fan-out", "--lines", stdin=b"1\n\n2\n"))
    assert small.input == [1, 2]
    lines = b"".join(b'"%d"\n' % number for number in range(30_000))
    (large,) = created(module, create("--fan-out", "--lines", stdin=lines))
    assert large.attributes.sub_task_count == 30_000
    last = TaskKey.sub_task("mbc", "cat", large.code, 29_999)
    assert module.sync.task_service.get_task(last).input == "29999"


def test_a_line_that_ends_a_large_fan_out_leaves_nothing(module: TaskModule, create: Create) -> None:
    lines = b"".join(b'"%d"\n' % number for number in range(30_000))
    code, out, err = create("--fan-out", "--lines", stdin=lines + b"no\n")
    assert (code, out) == (2, "")
    assert err.startswith("Error: line 30001: is no JSON")
    assert ids(module, "SFN_TASK") == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cat"], "INPUT: is no JSON: Expecting value at column 1; give JSON; a text stands in quotes"),
        (["{\n,}"], "INPUT: is no JSON: Expecting property name enclosed in double quotes at line 2, column 1"),
        (["1", "--lines"], "INPUT: is given, and --lines too; give one of them"),
        (["1", "--file", "x"], "INPUT: is given, and --file too; give one of them"),
        (["--file", "missing.json"], "--file: missing.json: No such file or directory; give a file"),
        (["--fan-out"], "INPUT: is missing; give a list"),
        (["{}", "--fan-out"], "input: dict is no list of inputs"),
        (["[1, NaN]", "--fan-out"], "input[1]: nan is no JSON number"),
        (["--tenant", "no/slash"], "tenant_code: 'no/slash' is not allowed"),
        (["--tenant", "no/slash", "--lines"], "tenant_code: 'no/slash' is not allowed"),
        (["--type", "", "--lines"], "task_type: '' is not allowed"),
        (["--priority", "10"], "priority: 10 is out of range"),
        (["--priority", "x"], "Invalid value for '--priority'"),
        (["--deadline", "0"], "deadline: 0.0 is out of range"),
        (["--name", ""], "name: has 0 characters"),
        (["--idempotency-key", ""], "idempotency_key: has 0 characters"),
    ],
)
def test_what_is_wrong_with_a_call_is_said(module: TaskModule, create: Create, arguments: list[str], said: str) -> None:
    code, out, err = create(*arguments)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())
    assert ids(module) == []


def test_what_is_wrong_with_an_option_is_not_blamed_on_a_line(module: TaskModule, create: Create) -> None:
    for options, said in (
        (["--priority", "10"], "Error: priority: 10 is out of range; give a whole number from 0 to 9\n"),
        (["--name", ""], "Error: name: has 0 characters; give 1 to 256\n"),
    ):
        for more in ([], ["--fan-out"]):
            assert create("--lines", *options, *more, stdin=b"1\n2\n") == (2, "", said)


def test_a_closed_standard_input_is_said(
    module: TaskModule, database: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    code, out, err = call(capsys, "create", "--lines", "--tenant", "mbc", "--type", "cat", "--database", database)
    assert (code, out) == (2, "")
    assert "the standard input is closed" in err


def test_tenant_and_type_must_be_given(module: TaskModule, database: Path, capsys: Capture) -> None:
    for arguments, missing in ((["--type", "cat"], "--tenant"), (["--tenant", "mbc"], "--type")):
        code, _, err = call(capsys, "create", "1", *arguments, "--database", database)
        assert code == 2
        assert f"Missing option '{missing}'" in err


def test_no_database_is_made(tmp_path: Path, capsys: Capture) -> None:
    """A path that was mistyped would else take tasks that nobody ever runs."""
    code, out, err = call(
        capsys, "create", "1", "--tenant", "mbc", "--type", "cat", "--database", tmp_path / "missing.db"
    )
    assert (code, out) == (2, "")
    assert "missing.db does not exist" in err
    assert list(tmp_path.iterdir()) == []


def test_tasks_are_created_while_their_lines_come(module: TaskModule, database: Path, tmp_path: Path) -> None:
    """Nothing is held until the end, which may never come; Ctrl-C ends the waiting for the next line."""
    arguments = ["create", "--lines", "--tenant", "mbc", "--type", "cat", "--database", str(database)]
    with Program(tmp_path, *arguments, stdin=subprocess.PIPE) as program:
        program.type("".join(f"{number}\n" for number in range(creating.PORTION)))
        program.says("TASK#mbc#cat#")
        program.says(ids(module)[-1])
        program.type("1\n")
        program.send(signal.SIGINT)
        code, out, err = program.ended()
    assert (code, err) == (130, "Interrupted.\n")
    assert out.splitlines() == ids(module)
    assert len(ids(module)) == creating.PORTION


def test_ctrl_c_leaves_nothing_of_a_fan_out(module: TaskModule, database: Path, tmp_path: Path) -> None:
    """Not even the part of its input that was stored already: the rules of the file are checked afterwards."""
    arguments = ["create", "--lines", "--fan-out", "--tenant", "mbc", "--type", "cat", "--database", str(database)]
    with Program(tmp_path, *arguments, stdin=subprocess.PIPE) as program:
        program.type("".join(f'"{number}{"x" * 1000}"\n' for number in range(2000)))
        program.send(signal.SIGINT)
        code, out, err = program.ended()
    assert (code, out, err) == (130, "", "Interrupted.\n")
    assert ids(module, "SFN_TASK") == []
