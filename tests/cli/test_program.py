"""What holds of all commands: help, documentation, exit codes, the missing extra."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from taskloom import errors
from taskloom.cli.exit_codes import EXIT_CODES, OK, OUTCOMES, TASK_OPEN, exit_code
from taskloom.errors import MissingExtra, StoreFull, TaskloomError, TaskNotFound
from tests.cli.program import TIMEOUT, call, command, run

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cli.md").read_text()
COMMANDS = {
    "demo": ["FOLDER", "--out"],
    "worker": ["APP", "--concurrency", "--task-type", "--grace", "--processes", "--log-level"],
    "create": [
        "INPUT",
        "--tenant",
        "--type",
        "--file",
        "--lines",
        "--fan-out",
        "--name",
        "--priority",
        "--deadline",
        "--ttl",
        "--idempotency-key",
        "--by",
        "--database",
        "--json",
    ],
    "watch": ["KEY", "--timeout", "--database", "--json"],
    "show": ["KEY", "--database", "--json"],
    "list": [
        "--tenant",
        "--type",
        "--status",
        "--task-type",
        "--limit",
        "--order",
        "--cursor",
        "--database",
        "--json",
    ],
    "explain": ["KEY", "--database", "--json"],
    "logs": ["KEY", "--follow", "--database", "--json"],
    "cancel": ["KEY", "--reason", "--by", "--database"],
    "retry": ["KEY", "--all", "--reason", "--by", "--database"],
    "queues": ["--tenant", "--database", "--json"],
    "pause": ["--type", "--tenant", "--reason", "--by", "--database"],
    "resume": ["--type", "--tenant", "--database"],
    "purge": ["--type", "--tenant", "--yes", "--reason", "--by", "--database"],
    "dead-letters": ["ID", "--tenant", "--limit", "--cursor", "--database", "--json"],
    "redrive": ["ID", "--all", "--tenant", "--per-second", "--by", "--database"],
    "webhooks": [
        "ID",
        "--failed",
        "--replay",
        "--all",
        "--listener",
        "--forget",
        "--limit",
        "--cursor",
        "--database",
        "--json",
    ],
    "doctor": ["APP", "--database", "--json"],
    "completion": ["SHELL"],
}
"""What the commands take; a change of this is a change for users."""

Capture = pytest.CaptureFixture[str]


def section(title: str) -> str:
    """The text of a section of the page."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def test_the_commands_are_these(capsys: Capture) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0
    listed = re.findall(r"^  ([\w-]+)  +(.+)$", out.partition("Commands:")[2], re.MULTILINE)
    assert [name for name, _ in listed] == list(COMMANDS)
    assert all(text and "..." not in text for _, text in listed)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: Capture) -> None:
    """And every option of it a text."""
    code, out, _ = call(capsys, name, "--help")
    assert code == 0
    options = re.findall(r"^  (?:-\w, )?(--[\w-]+)(.*(?:\n {10,}\S.*)*)", out, re.MULTILINE)
    assert {option for option, _ in options} == {item for item in COMMANDS[name] if item.startswith("--")} | {"--help"}
    for option, text in options:
        assert len(text.split()) > 3, option
    for argument in COMMANDS[name]:
        assert argument in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name: str) -> None:
    """With all that it takes, and an example."""
    text = section(f"taskloom {name}")
    assert re.search(rf"^\$ taskloom {name} ", text, re.MULTILINE)
    table = text.partition("| takes |")[2].partition("\n\n")[0]
    documented = re.findall(r"^\| `([\w-]+)", table, re.MULTILINE)
    assert documented == COMMANDS[name]


def test_the_documented_exit_codes_are_those_of_the_program() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+?) \| (.*?) ?\|$", section("Exit codes"), re.MULTILINE)
    documented = {
        (name, int(code)) for code, _, names in rows for name in re.findall(r"`(\w+)`", names) if hasattr(errors, name)
    }
    assert documented == {(kind.__name__, code) for kind, code in EXIT_CODES}
    assert {int(code) for code, _, _ in rows} == {0, *(code for _, code in EXIT_CODES), *OUTCOMES.values(), 130}
    for status, code in OUTCOMES.items():
        said = "time is over" if code == TASK_OPEN else "done" if code == OK else str(status)
        assert said in next(text for row, text, _ in rows if int(row) == code)


def test_every_error_has_an_exit_code() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TaskloomError)}
    codes = {kind: next(code for base, code in EXIT_CODES if issubclass(kind, base)) for kind in kinds}
    assert set(codes.values()) == {1, 2, 3, 4}
    assert exit_code(TaskNotFound("x")) == 3
    assert exit_code(StoreFull("x")) == 4
    assert exit_code(MissingExtra("x", "y")) == 2
    assert exit_code(errors.InvalidType("x", "y")) == 2


def test_the_version(capsys: Capture) -> None:
    assert call(capsys, "--version") == (0, f"taskloom {version('taskloom')}\n", "")


@pytest.mark.parametrize("arguments", [["nonsense"], ["--nonsense"], ["demo", "a", "b"]])
def test_a_wrong_call_says_so(arguments: list[str], capsys: Capture) -> None:
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert "Usage: taskloom" in err


def test_alone_it_shows_its_help(capsys: Capture) -> None:
    _, out, err = call(capsys)
    assert "Usage: taskloom" in out + err
    assert all(name in out + err for name in COMMANDS)


def test_the_console_script_is_this_program() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"taskloom": "taskloom.cli:main"}
    script = Path(sys.executable).with_name("taskloom")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stdout) == (0, f"taskloom {version('taskloom')}\n")
    done = subprocess.run([script, "show", "nonsense"], capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 2


@pytest.mark.parametrize("missing", ["rich", "typer"])
def test_without_the_extra_it_says_how_to_get_it(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from taskloom.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program, "demo"], capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: the command line needs the extra 'cli': pip install 'taskloom[cli]'\n"


def test_another_missing_module_is_not_blamed_on_the_extra() -> None:
    program = "import sys; sys.modules['sysconfig'] = None; from taskloom.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 1
    assert "sysconfig" in done.stderr.splitlines()[-1]


def test_no_escape_codes_off_a_terminal(tmp_path: Path) -> None:
    """Not even where the environment asks for colours: what is written there is read by programs."""
    (tmp_path / "folder").mkdir()
    colours = {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1", "PY_COLORS": "1", "GITHUB_ACTIONS": "true", "COLUMNS": "40"}
    code, out, err = run(tmp_path, "demo", "folder", environment=colours)
    assert code == 0
    assert "\x1b" not in out + err
    listing = run(tmp_path, "list", "--tenant", "demo", "--database", "taskloom-demo/demo.db", environment=colours)
    assert "\x1b" not in listing.out
    assert len(listing.out.splitlines()) == 2
    assert "\x1b" not in run(tmp_path, "list", environment=colours).err


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """`taskloom list | head -1` must end without a traceback."""
    (tmp_path / "folder").mkdir()
    assert run(tmp_path, "demo", "folder").code == 0
    ours, theirs = os.pipe()
    os.close(ours)
    with open(theirs, "w") as pipe:
        done = subprocess.run(
            command("list", "--tenant", "demo", "--json", "--database", "taskloom-demo/demo.db"),
            cwd=tmp_path,
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT,
        )
    assert "Traceback" not in done.stderr


def test_output_that_the_encoding_cannot_hold_is_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "Käthe 🐈"
    folder.mkdir()
    (folder / "x.py").write_text("(")
    code, out, _ = run(tmp_path, "demo", folder, environment={"PYTHONIOENCODING": "ascii"})
    assert code == 0
    assert "K\\xe4the \\U0001f408" in out
