"""`taskloom demo` as a user starts it: without a terminal, and on one."""

import json
import os
import pty
import re
import signal
import subprocess
import sysconfig
from pathlib import Path

import pytest

from taskloom.cli import app
from taskloom.cli.commands import running
from tests.cli.program import TIMEOUT, Program, call, command, run
from tests.demo.test_run import entries, make_odd, plainly, with_short_errors

STDLIB = Path(sysconfig.get_path("stdlib"))


def test_in_another_folder_without_a_terminal(tmp_path: Path) -> None:
    """The report is right, failures do not change the exit code, and the path of the report stands alone on a line."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    make_odd(tmp_path / "folder")
    code, out, err = run(elsewhere, "demo", tmp_path / "folder")
    assert code == 0
    report = elsewhere / "taskloom-demo" / "report.json"
    assert out.splitlines()[-1] == str(report)
    expected = plainly(tmp_path / "folder")
    assert with_short_errors(entries(report.parent)) == expected
    rows = {tuple(line.split()) for line in out.splitlines()}
    assert {("files", "12"), ("failed", "3")} <= rows
    for name, field in (("bytes", "size"), ("lines", "lines"), ("functions", "functions"), ("classes", "classes")):
        assert (name, f"{sum(entry[field] or 0 for entry in expected.values()):,}") in rows
    assert re.search(r"^bad\.py +SyntaxError: invalid syntax \(line 1\) *$", out, re.MULTILINE)
    assert err.splitlines() == [
        "Taking the inventory: 12 files",
        *[line for line in err.splitlines() if line.startswith("Taking fingerprints: 12 of 12 files")],
        "Writing the report: 12 of 12 files",
    ]
    assert len(err.splitlines()) == 3


def test_on_a_terminal_bars_show_the_progress(tmp_path: Path) -> None:
    """They go to the standard error: the standard output, which may be a file, holds the table alone."""
    make_odd(tmp_path / "folder")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command("demo", "folder"),
        cwd=tmp_path,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while block := os.read(ours, 65536):
                shown += block
        except OSError:  # how Linux says that the other side has gone
            pass
        os.close(ours)
        assert process.stdout is not None
        out = process.stdout.read().decode()
        assert process.wait(TIMEOUT) == 0
    text = shown.decode()
    for step in ("Taking the inventory", "Taking fingerprints", "Writing the report"):
        assert step in text
    assert "12/12" in text
    assert "files/s" in text
    assert "\x1b" in text
    assert "\x1b" not in out
    assert out.splitlines()[-1] == str(tmp_path / "taskloom-demo" / "report.json")


def test_ctrl_c_ends_it_and_the_next_run_begins_anew(tmp_path: Path) -> None:
    """In the middle of a file that takes minutes: it is all hole, and occupies no space."""
    make_odd(tmp_path / "folder")
    huge = tmp_path / "folder" / "huge"
    huge.touch()
    os.truncate(huge, 1 << 38)
    with Program(tmp_path, "demo", "folder", "--out", "out") as program:
        program.says("Taking the inventory: 13 files")
        program.send(signal.SIGINT)
        code, out, err = program.ended()
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "report.json").exists()
    huge.unlink()
    assert run(tmp_path, "demo", "folder", "--out", "out").code == 0
    assert len(entries(tmp_path / "out")) == 12


def test_out_is_where_everything_goes(tmp_path: Path) -> None:
    make_odd(tmp_path / "folder")
    code, out, _ = run(tmp_path, "demo", "folder", "--out", "folder/deep/there")
    assert code == 0
    assert out.splitlines()[-1] == str(tmp_path / "folder" / "deep" / "there" / "report.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]
    assert len(entries(tmp_path / "folder" / "deep" / "there")) == 12


def test_the_path_of_the_report_is_printed_as_it_is(tmp_path: Path) -> None:
    """Long, with what looks like markup in it, and with bytes that are no Unicode: a program can open it."""
    (tmp_path / "folder").mkdir()
    out = os.path.join(os.fsencode(tmp_path), b"[red]" + b"x" * 120, b"caf\xe9 \xf0\x9f\x90\x88")
    done = subprocess.run(
        command("demo", "folder", "--out", os.fsdecode(out)), cwd=tmp_path, capture_output=True, timeout=TIMEOUT
    )
    assert done.returncode == 0
    path = done.stdout.splitlines()[-1]
    assert path == os.path.join(out, b"report.json")
    assert json.loads(Path(os.fsdecode(path)).read_text()) == []


def test_the_default_is_the_standard_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Looked up, not run: that takes a while."""
    asked = []

    class Enough(Exception):
        """Ends the command where the test has seen enough."""

    def looked_at(folder: Path, out: Path, observer: object) -> None:
        asked.append((folder, out))
        raise Enough

    monkeypatch.setattr(running, "run_demo", looked_at)
    with pytest.raises(Enough):
        app.run(["demo"])
    assert asked == [(STDLIB, Path("taskloom-demo"))]


def test_what_is_no_folder_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "missing"
    code, out, err = call(capsys, "demo", missing, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert err == f"Error: FOLDER: {missing} does not exist; give the folder that holds the files\n"
    assert not (tmp_path / "out").exists()
