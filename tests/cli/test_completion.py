"""`completion`: what it prints makes a shell ask the program, and the program answers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.program import TIMEOUT, call, command

Capture = pytest.CaptureFixture[str]
ASK = """
source ./completion
COMP_WORDS=({words})
COMP_CWORD={number}
_taskloom_completion taskloom
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(("words", "offered"), [
    ("taskloom que", ["queues"]),
    ("taskloom re", ["resume", "retry", "redrive"]),
    ("taskloom watch --ti", ["--timeout"]),
    ("taskloom completion ", ["bash", "fish", "zsh"]),
])  # fmt: skip
def test_bash_completes_commands_and_options(tmp_path: Path, capsys: Capture, words: str, offered: list[str]) -> None:
    """In a real one."""
    code, out, err = call(capsys, "completion", "bash")
    assert (code, err) == (0, "")
    (tmp_path / "completion").write_text(out)
    program = tmp_path / "taskloom"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m taskloom.cli "$@"\n')
    program.chmod(0o755)
    number = len(words.split(" ")) - 1
    listed = words if not words.endswith(" ") else f"{words}''"
    done = subprocess.run(
        ["bash", "-c", ASK.format(words=listed, number=number)],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.split()) == sorted(offered)


@pytest.mark.parametrize(
    ("shell", "asked", "answer"),
    [
        ("zsh", {"_TYPER_COMPLETE_ARGS": "taskloom que"}, "queues"),
        ("fish", {"_TYPER_COMPLETE_ARGS": "taskloom que", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}, "queues"),
    ],
)
def test_other_shells_are_answered_as_their_script_asks(
    capsys: Capture, shell: str, asked: dict[str, str], answer: str
) -> None:
    code, script, err = call(capsys, "completion", shell)
    assert (code, err) == (0, "")
    assert f"_TASKLOOM_COMPLETE=complete_{shell}" in script
    assert all(name in script for name in asked)
    done = subprocess.run(
        command(),
        env={**os.environ, **asked, "_TASKLOOM_COMPLETE": f"complete_{shell}"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0
    assert answer in done.stdout


def test_an_unknown_shell_is_refused(capsys: Capture) -> None:
    code, out, err = call(capsys, "completion", "tcsh")
    assert (code, out) == (2, "")
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in err
