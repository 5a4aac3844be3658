"""The fingerprint of one file. Run as a script: of one file after the other, named by the lines of its input.

Uses the standard library alone and nothing of this package, so that `python -I -S` runs it, quickly, anywhere.
"""

import ast
import gc
import hashlib
import json
import os
import signal
import stat
import sys
import time
import warnings
from dataclasses import dataclass, replace
from typing import IO, Any, Final

BLOCK: Final = 1 << 20
MAX_PARSED: Final = 32 << 20
"""Bytes of source: the tree of a larger file would need gigabytes."""
MAX_ERROR: Final = 500
"""Characters of a reason."""
COLLECT_EVERY: Final = 500
"""Files. Trees hold no cycles, and the automatic collection costs a quarter of the time that parsing takes."""

_DEFINITIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_BLOCKS: Final = ("body", "orelse", "finalbody", "handlers", "cases")
"""The fields that hold statements, or what holds statements: definitions stand nowhere else."""
_NOT_REGULAR: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What is known of a file; None where nothing is."""

    size: int | None = None
    """Bytes that were read."""
    sha256: str | None = None
    lines: int | None = None
    """Newline bytes."""
    functions: int | None = None
    """Of a `.py` file: `def` and `async def`, nested ones and methods too."""
    classes: int | None = None
    seconds: float = 0.0
    """How long it took."""
    error: str | None = None
    """Why something is missing: the class of the exception and what it says."""

    def to_json(self) -> dict[str, Any]:
        """Its fields."""
        return {name: getattr(self, name) for name in self.__slots__}


def fingerprint(path: str, *, parse: bool = True) -> Fingerprint:
    """The fingerprint of the file *path*; what goes wrong is its `error`. Never waits for pipes, sockets or devices.

    A symbolic link counts as the file to which it leads. Without *parse* a `.py` file is not looked into.
    """
    start = time.perf_counter()
    source: bytes | None = None
    try:
        found, source = _read(path, keep=parse and path.endswith(".py"))
    except OSError as error:
        found = Fingerprint(error=_reason(error, error.strerror or str(error)))
    if source is not None:
        found = _with_definitions(found, source)
    return replace(found, seconds=round(time.perf_counter() - start, 6))


def _read(path: str, *, keep: bool) -> tuple[Fingerprint, bytes | None]:
    # Looked at before it is opened: opening alone may wait, or rewind a tape.
    other = _NOT_REGULAR.get(stat.S_IFMT(os.stat(path).st_mode))
    if other is not None:
        return Fingerprint(error=f"NotARegularFile: it is {other}"), None
    digest, size, lines, blocks = hashlib.sha256(), 0, 0, list[bytes]()
    # O_NONBLOCK: what has become a pipe meanwhile, and files of /proc that wait for news.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        while block := os.read(descriptor, BLOCK):
            digest.update(block)
            size += len(block)
            lines += block.count(b"\n")
            if keep and size <= MAX_PARSED:
                blocks.append(block)
    finally:
        os.close(descriptor)
    found = Fingerprint(size=size, sha256=digest.hexdigest(), lines=lines)
    if keep and size > MAX_PARSED:
        return replace(found, error=f"TooLarge: more than {MAX_PARSED >> 20} MB of source are not parsed"), None
    return found, b"".join(blocks) if keep else None


def _with_definitions(found: Fingerprint, source: bytes) -> Fingerprint:
    try:
        functions, classes = count_definitions(ast.parse(source))
    except SyntaxError as error:
        where = f" (line {error.lineno})" if error.lineno else ""
        return replace(found, error=_reason(error, f"{error.msg}{where}"))
    except Exception as error:  # noqa: BLE001 - a strange file makes the parser raise almost anything
        return replace(found, error=_reason(error, str(error)))
    return replace(found, functions=functions, classes=classes)


def count_definitions(tree: ast.Module) -> tuple[int, int]:
    """How many functions and classes *tree* defines, as `ast.walk` would count them, in a tenth of its time."""
    functions = classes = 0
    blocks: list[list[ast.AST]] = [list(tree.body)]
    while blocks:
        for node in blocks.pop():
            if isinstance(node, _DEFINITIONS):
                if isinstance(node, ast.ClassDef):
                    classes += 1
                else:
                    functions += 1
            for name in _BLOCKS:
                block = getattr(node, name, None)
                if block.__class__ is list and block:
                    blocks.append(block)
    return functions, classes


def _reason(error: Exception, text: str) -> str:
    clean = f"{type(error).__name__}: {text}".rstrip(": ").encode("utf-8", "backslashreplace").decode()
    return clean if len(clean) <= MAX_ERROR else clean[:MAX_ERROR] + " …"


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer each line of *requests*, `[path, parse]`, with a line: the fields of the fingerprint. JSON both ways."""
    for number, line in enumerate(requests, start=1):
        path, parse = json.loads(line)
        answers.write(json.dumps(fingerprint(path, parse=parse).to_json()).encode() + b"\n")
        answers.flush()
        if number % COLLECT_EVERY == 0:
            gc.collect()


def main() -> None:
    """Serve the process that started this one, until it closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for that process, which then closes the pipe
    warnings.simplefilter("ignore")  # what is odd in the files of others is no news
    gc.disable()
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
