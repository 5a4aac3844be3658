"""The demonstration as a whole, compared with a plain loop over the same folder."""

import ast
import asyncio
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from taskloom import Settings, TaskModule
from taskloom.demo.run import DemoFailed, Outcome, run
from taskloom.errors import InvalidInput
from taskloom.model import Kind, TaskEntity, TaskStatus
from tests.support.rules import check_rules

STDLIB = Path(sysconfig.get_path("stdlib"))


class Seen:
    """What an observer is told."""

    def __init__(self, after_inventory: Callable[[], object] = lambda: None) -> None:
        self.inventories: list[TaskEntity[Any]] = []
        self.parents: list[TaskEntity[Any]] = []
        self.written: list[tuple[int, int]] = []
        self._after_inventory = after_inventory

    def inventory(self, task: TaskEntity[Any]) -> None:
        self.inventories.append(task)
        if task.is_terminal:  # told once
            self._after_inventory()

    def fingerprints(self, task: TaskEntity[Any]) -> None:
        self.parents.append(task)

    def report(self, done: int, total: int) -> None:
        self.written.append((done, total))


def demo(folder: Path, out: Path, seen: Seen | None = None) -> Outcome:
    outcome = asyncio.run(run(folder, out, Seen() if seen is None else seen))
    check_rules(outcome.database)
    return outcome


def entries(out: Path) -> dict[str, dict[str, Any]]:
    report = json.loads((out / "report.json").read_text())
    by_path = {entry["path"]: entry for entry in report}
    assert len(by_path) == len(report)
    assert list(by_path) == sorted(by_path)
    return by_path


def plainly(folder: Path) -> dict[str, dict[str, Any]]:
    """The same report by a plain loop: of every regular file, and of links to one."""
    report = {}
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        content = path.read_bytes()
        entry: dict[str, Any] = {
            "path": path.relative_to(folder).as_posix(),
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "lines": content.count(b"\n"),
            "functions": None,
            "classes": None,
        }
        if path.suffix == ".py":
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    nodes = list(ast.walk(ast.parse(content)))
            except (SyntaxError, ValueError) as error:
                entry["error"] = type(error).__name__
            else:
                entry["functions"] = sum(isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) for node in nodes)
                entry["classes"] = sum(isinstance(node, ast.ClassDef) for node in nodes)
        report[entry["path"]] = entry
    return report


def with_short_errors(report: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of an error only its class, which is all that the plain loop knows."""
    return {
        path: entry | {"error": entry["error"].partition(":")[0]} if "error" in entry else entry
        for path, entry in report.items()
    }


def test_the_report_is_that_of_a_plain_loop_over_the_standard_library(tmp_path: Path) -> None:
    """Copied first, so that nobody adds compiled files while the test compares."""
    folder = tmp_path / "library"
    for package in ("email", "json", "lib2to3", "test/tokenizedata"):
        if (STDLIB / package).is_dir():
            shutil.copytree(STDLIB / package, folder / package)
    expected = plainly(folder)
    outcome = demo(folder, tmp_path / "out")
    assert with_short_errors(entries(tmp_path / "out")) == expected
    assert len(expected) > 60
    failed = sum("error" in entry for entry in expected.values())
    summary = outcome.summary
    assert (summary.files, summary.failed) == (len(expected), failed)
    for name, total in (
        ("size", summary.bytes),
        ("lines", summary.lines),
        ("functions", summary.functions),
        ("classes", summary.classes),
    ):
        assert total == sum(entry[name] or 0 for entry in expected.values()), name
    assert outcome.fingerprints.status is TaskStatus.COMPLETED
    assert outcome.fingerprints.attributes.sub_task_count == len(expected)
    assert outcome.fingerprints.attributes.sub_task_failed_count == failed


def make_odd(folder: Path) -> None:
    """Every odd case that a file system allows."""
    folder.mkdir()
    (folder / "good.py").write_text("class A:\n    def f(self): ...\n")
    (folder / "bad.py").write_text("def f(:\n")
    (folder / "null.py").write_bytes(b"x = 1\0\n")
    (folder / "latin.py").write_bytes(b'# coding: latin-1\nx = "\xe9"\ndef f(): ...\n')
    (folder / "wrong.py").write_bytes(b'x = "\xe9"\n')
    (folder / "warns.py").write_text('x = 1 is 1, "\\d"\n')
    (folder / "empty.py").write_text("")
    (folder / "data.bin").write_bytes(bytes(range(256)) * 100)
    (folder / "no newline").write_text("a\nb")
    (folder / "new\nline.txt").write_text("x\n")
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "deep" / "ünïcödé 🐈.py").write_text("async def g(): ...\n")
    (folder / "sub" / "up").symlink_to("..")
    (folder / "sub" / "link.py").symlink_to("../good.py")
    (folder / "sub" / "empty folder").mkdir()


def test_every_odd_file_is_an_entry_and_none_stops_the_others(tmp_path: Path) -> None:
    folder, out = tmp_path / "folder", tmp_path / "out"
    make_odd(folder)
    expected = plainly(folder)
    os.mkfifo(folder / "pipe.py")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    (folder / "device").symlink_to(os.devnull)
    with open(os.fsencode(folder) + b"/caf\xe9.py", "wb") as file:
        file.write(b"def f(): ...\n")
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(folder)  # the whole path may be too long for a socket
        listening.bind("socket")
        os.chdir(here)
        outcome = demo(folder, out)
    report = entries(out)
    none = dict.fromkeys(("size", "sha256", "lines", "functions", "classes"))
    assert report.pop("caf\\xe9.py") == {
        "path": "caf\\xe9.py",
        "pathBase64": "Y2Fm6S5weQ==",
        "size": 13,
        "sha256": hashlib.sha256(b"def f(): ...\n").hexdigest(),
        "lines": 1,
        "functions": 1,
        "classes": 0,
    }
    odd = {
        "dangling": "FileNotFoundError",
        "device": "NotARegularFile",
        "loop": "OSError",
        "pipe.py": "NotARegularFile",
        "socket": "NotARegularFile",
    }
    assert with_short_errors(report) == expected | {
        path: none | {"path": path, "error": reason} for path, reason in odd.items()
    }
    bad = report["bad.py"]
    assert bad["error"] == "SyntaxError: invalid syntax (line 1)"
    assert bad["sha256"] == hashlib.sha256(b"def f(:\n").hexdigest()
    assert outcome.summary.failed == len(odd) + 3
    assert outcome.inventory.result == {"list": "inventory.jsonl", "files": 18, "folders": 4, "linksToFolders": 1}


def test_a_single_task_takes_the_inventory_and_a_fan_out_the_fingerprints(tmp_path: Path) -> None:
    """What the database holds afterwards is what the command line shows."""
    folder, out = tmp_path / "folder", tmp_path / "out"
    make_odd(folder)
    outcome = demo(folder, out)
    module = TaskModule.register(settings=Settings(database=outcome.database))
    service = module.sync.task_service
    single = service.list_tasks("demo", type="TASK").items
    parents = service.list_tasks("demo", type="SFN_TASK").items
    assert [task.id for task in single] == [outcome.inventory.id]
    assert [task.id for task in parents] == [outcome.fingerprints.id]
    assert single[0].finished_at is not None
    assert parents[0].created_at >= single[0].finished_at
    sub_tasks = list(service.iter_sub_tasks(parents[0].key))
    module.close()
    assert len(sub_tasks) == single[0].result["files"] == 12  # type: ignore[index, call-overload]
    assert {task.kind for task in sub_tasks} == {Kind.SUB_TASK}
    assert all(task.input["root"] == str(folder) for task in sub_tasks)
    failed = {task.input["path"] for task in sub_tasks if task.status is TaskStatus.FAILED}
    assert failed == {"bad.py", "null.py", "wrong.py"}


def test_the_observer_is_told_from_beginning_to_end(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.py").write_text("def f(): ...\n" * number)
    seen = Seen()
    demo(folder, tmp_path / "out", seen)
    assert seen.inventories[-1].progress is not None
    assert seen.inventories[-1].progress.done == 30
    last = seen.parents[-1]
    assert (last.status, last.attributes.sub_task_succeed_count, last.seconds_left) == (TaskStatus.COMPLETED, 30, 0)
    assert last.rate
    assert not seen.parents[0].is_terminal
    assert seen.written == [(done, 30) for done in range(1, 31)]


def test_an_empty_folder_makes_an_empty_report(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    outcome = demo(tmp_path / "folder", tmp_path / "out")
    assert entries(tmp_path / "out") == {}
    assert outcome.fingerprints.status is TaskStatus.COMPLETED
    assert outcome.summary.files == 0


def test_the_output_folder_is_never_fingerprinted(tmp_path: Path) -> None:
    """Also when it lies inside, also the second time, when it is full of files."""
    make_odd(tmp_path / "folder")
    out = tmp_path / "folder" / "sub" / "out"
    expected = plainly(tmp_path / "folder")
    for _ in range(2):
        demo(tmp_path / "folder", out)
        assert with_short_errors(entries(out)) == expected


def test_each_run_replaces_what_the_last_one_left(tmp_path: Path) -> None:
    folder, out = tmp_path / "folder", tmp_path / "out"
    make_odd(folder)
    first = demo(folder, out)
    (folder / "bad.py").unlink()
    second = demo(folder, out)
    assert "bad.py" not in entries(out)
    assert second.summary.files == first.summary.files - 1
    assert second.fingerprints.id != first.fingerprints.id


def test_files_that_vanish_or_change_after_the_inventory(tmp_path: Path) -> None:
    """What was listed is reported: as it is when its turn comes, or with the reason."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("becomes a folder", "changes.py", "vanishes.py"):
        (folder / name).write_text("before\n")

    def change() -> None:
        (folder / "vanishes.py").unlink()
        (folder / "changes.py").write_text("def f(): ...\n")
        (folder / "becomes a folder").unlink()
        (folder / "becomes a folder").mkdir()
        (folder / "comes late.py").write_text("")

    demo(folder, tmp_path / "out", Seen(change))
    report = entries(tmp_path / "out")
    assert list(report) == ["becomes a folder", "changes.py", "vanishes.py"]
    assert report["changes.py"]["functions"] == 1
    assert report["vanishes.py"]["error"] == "FileNotFoundError: No such file or directory"
    assert report["becomes a folder"]["error"] == "NotARegularFile: it is a folder"


def test_the_folder_may_be_a_link_and_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_odd(tmp_path / "folder")
    (tmp_path / "link").symlink_to("folder")
    monkeypatch.chdir(tmp_path)
    outcome = demo(Path("link"), Path("out"))
    assert outcome.report == tmp_path / "out" / "report.json"
    assert with_short_errors(entries(tmp_path / "out")) == plainly(tmp_path / "folder")


def test_a_folder_whose_own_name_is_no_unicode(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    make_odd(folder)
    demo(folder, tmp_path / "out")
    assert with_short_errors(entries(tmp_path / "out")) == plainly(folder)


def test_a_folder_with_a_name_that_is_too_long_for_a_task(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 200) / ("y" * 200)
    folder.mkdir(parents=True)
    outcome = demo(folder, tmp_path / "out")
    assert len(outcome.fingerprints.name) == 256
    assert outcome.fingerprints.name.endswith("y" * 200)


@pytest.mark.parametrize(
    ("folder", "out", "message"),
    [
        ("missing", "out", "FOLDER: {}/missing does not exist; give the folder that holds the files"),
        ("file", "out", "FOLDER: {}/file is no folder; give the folder that holds the files"),
        (".", "file", "--out: {}/file is no folder; give another one"),
        ("folder", "folder", "--out: is FOLDER itself, and would be fingerprinted; give another folder"),
        ("folder", "link", "--out: is FOLDER itself, and would be fingerprinted; give another folder"),
        ("folder", "theirs", "--out: the file demo.db there is not from a demo; give another folder"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(tmp_path: Path, folder: str, out: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "demo.db").write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InvalidInput) as raised:
        demo(tmp_path / folder, tmp_path / out)
    assert str(raised.value) == message.format(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_two_demos_do_not_share_an_output_folder(tmp_path: Path) -> None:
    """The second would remove the database under the first."""
    make_odd(tmp_path / "folder")
    refusals = []

    def second() -> None:
        with ThreadPoolExecutor(1) as pool, pytest.raises(InvalidInput) as raised:
            pool.submit(demo, tmp_path / "folder", tmp_path / "out").result()
        refusals.append(str(raised.value))

    demo(tmp_path / "folder", tmp_path / "out", Seen(second))
    assert refusals == ["--out: another demo works in this folder; wait, or give another one"]
    assert len(entries(tmp_path / "out")) == 12


def test_an_output_folder_that_takes_no_files_ends_the_demo_with_the_reason(tmp_path: Path) -> None:
    """The single task fails, and with it the demonstration; nothing waits for ever."""
    make_odd(tmp_path / "folder")
    (tmp_path / "out" / "inventory.jsonl").mkdir(parents=True)
    with pytest.raises(DemoFailed, match=r"^the task TASK#demo#inventory#\w+ ended FAILED: IsADirectoryError: "):
        demo(tmp_path / "folder", tmp_path / "out")
    with pytest.raises(DemoFailed, match=r"^NotADirectoryError: "):
        demo(tmp_path / "folder", tmp_path / "folder" / "bad.py" / "out")


def test_it_needs_no_extra() -> None:
    """The part that draws lives in the command line."""
    program = "import sys; sys.modules['rich'] = sys.modules['typer'] = None; import taskloom.demo.run"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
