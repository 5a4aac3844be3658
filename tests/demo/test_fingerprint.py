"""The fingerprint of one file: right for every file, and never in the way of the others."""

import ast
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from taskloom.demo import fingerprint as module
from taskloom.demo.fingerprint import Fingerprint, count_definitions, fingerprint

STDLIB = Path(sysconfig.get_path("stdlib"))

EVERY_STATEMENT = """
import contextlib
async def one():
    async for x in y:
        def two(): pass
    else:
        class Three: pass
    async with z:
        def four(): pass
if a:
    def five(): pass
elif b:
    def six(): pass
else:
    class Seven:
        def eight(self):
            class Nine: pass
            return lambda: 1
for x in y:
    def ten(): pass
else:
    def eleven(): pass
while x:
    class Twelve: pass
else:
    def thirteen(): pass
try:
    def fourteen(): pass
except ValueError:
    def fifteen(): pass
else:
    def sixteen(): pass
finally:
    class Seventeen: pass
try:
    pass
except* ValueError:
    def eighteen(): pass
with x:
    def nineteen(): pass
match x:
    case 1:
        def twenty(): pass
    case [a, *b] if c:
        class TwentyOne: pass
@decorated(lambda: [x for x in y])
def last(a=lambda: 1, *b, **c): "text"
"""


def walked(tree: ast.Module) -> tuple[int, int]:
    """The definition of the two counts, slow and plain."""
    nodes = list(ast.walk(tree))
    functions = sum(isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) for node in nodes)
    return functions, sum(isinstance(node, ast.ClassDef) for node in nodes)


def test_definitions_in_every_kind_of_block_are_counted() -> None:
    tree = ast.parse(EVERY_STATEMENT)
    assert count_definitions(tree) == walked(tree) == (16, 6)


@pytest.mark.parametrize("package", ["asyncio", "dataclasses.py", "email", "typing.py", "unittest"])
def test_counts_are_those_of_ast_walk(package: str) -> None:
    """The fast count leaves out expressions; real code says whether it may."""
    path = STDLIB / package
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert files
    for file in files:
        tree = ast.parse(file.read_bytes())
        assert count_definitions(tree) == walked(tree), file


def found(path: Path) -> Fingerprint:
    return fingerprint(str(path))


def test_a_python_file(tmp_path: Path) -> None:
    content = b"class A:\n    def f(self): ...\n\nasync def g(): ...\n"
    file = tmp_path / "a.py"
    file.write_bytes(content)
    result = found(file)
    assert (result.size, result.lines, result.functions, result.classes) == (len(content), 4, 2, 1)
    assert result.sha256 == hashlib.sha256(content).hexdigest()
    assert result.error is None
    assert result.seconds > 0


@pytest.mark.parametrize("content", [b"", b"no newline at the end", b"\r\n\r\n", bytes(range(256)) * 9000])
def test_another_file_is_only_read(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "data.bin"
    file.write_bytes(content)
    result = found(file)
    assert (result.size, result.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert result.lines == content.count(b"\n")
    assert (result.functions, result.classes, result.error) == (None, None, None)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"def f(:\n", "SyntaxError: invalid syntax (line 1)"),
        (b"\xff\xfe", "SyntaxError: "),
        (b"# coding: nonsense\n", "SyntaxError: "),
        (b"x = 1\0\n", "null bytes"),
        (b"(" * 500, "SyntaxError: too many nested parentheses (line 1)"),
        (b"-" * 100_000 + b"1\n", "Error"),
        (b"x" + b".a" * 100_000 + b"\n", "Error"),
    ],
    ids=["syntax", "encoding", "unknown encoding", "null", "parentheses", "deep", "long chain"],
)
def test_a_file_that_does_not_parse_keeps_its_sha256(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "odd.py"
    file.write_bytes(content)
    result = found(file)
    assert result.error is not None
    assert reason in result.error
    assert (result.size, result.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (result.lines, result.functions, result.classes) == (content.count(b"\n"), None, None)


def test_more_source_than_can_be_parsed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is moved, not the file blown up: the real one is 32 MB."""
    monkeypatch.setattr(module, "MAX_PARSED", 100)
    monkeypatch.setattr(module, "BLOCK", 7)
    content = b"x = 1\n" * 20
    file = tmp_path / "large.py"
    file.write_bytes(content)
    result = found(file)
    assert (result.size, result.sha256) == (120, hashlib.sha256(content).hexdigest())
    assert result.functions is None
    assert result.error is not None
    assert result.error.startswith("TooLarge: ")
    file.write_bytes(content[:96])
    assert found(file).functions == 0


def test_what_is_no_regular_file_fails_at_once(tmp_path: Path) -> None:
    """None of these may be opened: a pipe without a writer, above all, would never answer."""
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(tmp_path)  # the whole path may be too long for a socket
        listening.bind("socket")
        os.chdir(here)
        reasons = {
            "pipe.py": "NotARegularFile: it is a named pipe",
            "folder": "NotARegularFile: it is a folder",
            "socket": "NotARegularFile: it is a socket",
        }
        assert {name: found(tmp_path / name).error for name in reasons} == reasons
    assert found(Path(os.devnull)).error == "NotARegularFile: it is a character device"


def test_links_count_as_what_they_lead_to(tmp_path: Path) -> None:
    (tmp_path / "real.py").write_text("def f(): ...\n")
    (tmp_path / "link.py").symlink_to("real.py")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    assert found(tmp_path / "link.py").sha256 == found(tmp_path / "real.py").sha256
    assert found(tmp_path / "dangling").error == "FileNotFoundError: No such file or directory"
    loop = found(tmp_path / "loop")
    assert loop.error is not None
    assert loop.error.startswith("OSError: ")
    assert (loop.size, loop.sha256, loop.lines) == (None, None, None)


def test_without_parse_the_source_is_not_looked_into(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("def f(:\n")
    result = fingerprint(str(file), parse=False)
    assert (result.error, result.size, result.functions) == (None, 8, None)


def test_as_a_script_it_answers_line_by_line(tmp_path: Path) -> None:
    """It needs neither the package nor the environment, says nothing about odd files, and lives on after Ctrl-C."""
    odd = tmp_path / "odd\nname.py"
    odd.write_text('if 1 is 1: x = "\\d"\n')
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", module.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONWARNINGS": "error"},
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        for path, functions, error in (
            (odd, 0, None),
            (tmp_path / "missing", None, "FileNotFoundError: No such file or directory"),
        ):
            process.stdin.write(json.dumps([str(path), True]).encode() + b"\n")
            process.stdin.flush()
            answer = Fingerprint(**json.loads(process.stdout.readline()))
            assert (answer.functions, answer.error) == (functions, error)
            process.send_signal(signal.SIGINT)
        process.stdin.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0
