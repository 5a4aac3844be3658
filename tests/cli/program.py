"""Starts the command line: within the test, or as the program that a user starts."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NamedTuple, Self

import pytest

from taskloom.cli import main

TIMEOUT = 60
"""Seconds after which a started program counts as hanging."""


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def call(capsys: pytest.CaptureFixture[str], *args: str | os.PathLike[str]) -> Ended:
    """Run the command within this process; for what only reads."""
    capsys.readouterr()
    code = main([os.fspath(arg) for arg in args])
    return Ended(code, *capsys.readouterr())


def command(*args: str | os.PathLike[str]) -> list[str]:
    """The command line of the program with *args*."""
    return [sys.executable, "-m", "taskloom.cli", *(os.fspath(arg) for arg in args)]


def run(folder: Path, *args: str | os.PathLike[str], environment: Mapping[str, str] | None = None) -> Ended:
    """Run the program in *folder* to its end, without a terminal."""
    with Program(folder, *args, environment=environment) as program:
        return program.ended()


class Program:
    """The program while it runs in *folder*, without a terminal; killed at the end of the `with` block."""

    def __init__(
        self,
        folder: Path,
        *args: str | os.PathLike[str],
        environment: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self.process = subprocess.Popen(
            command(*args),
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_take_ctrl_c,
        )
        self._said = threading.Condition()
        self._text = {"out": "", "err": ""}
        self._readers = [
            threading.Thread(target=self._read, args=(name, stream))
            for name, stream in (("out", self.process.stdout), ("err", self.process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def _read(self, name: str, stream: IO[str]) -> None:
        for line in stream:
            with self._said:
                self._text[name] += line
                self._said.notify_all()

    def says(self, text: str) -> None:
        """Wait until the program has said *text*."""
        with self._said:
            said = self._said.wait_for(lambda: text in self._text["out"] + self._text["err"], TIMEOUT)
            assert said, f"{text!r} is not in {self._text}"

    def said(self) -> str:
        """What it has said so far on its standard output."""
        with self._said:
            return self._text["out"]

    def type(self, text: str) -> None:
        """Write *text* to its standard input, which must be a pipe."""
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def ended(self) -> Ended:
        """Wait for its end."""
        code = self.process.wait(TIMEOUT)
        for reader in self._readers:
            reader.join()
        return Ended(code, self._text["out"], self._text["err"])


class Terminal:
    """The program while it runs in *folder* on a terminal; killed at the end of the `with` block."""

    def __init__(self, folder: Path, *args: str | os.PathLike[str]) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command(*args),
            cwd=folder,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(theirs)
        self._text = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def says(self, text: str) -> None:
        """Wait until *text* stands on the terminal."""
        while text not in self._text:
            assert self._read(), f"{text!r} is not in {self._text!r}"

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._ours, text.encode())

    def ended(self) -> Ended:
        """Wait for its end: what it wrote to its standard output, a pipe, and to the terminal."""
        while self._read():
            pass
        assert self.process.stdout is not None
        out = self.process.stdout.read().decode()
        return Ended(self.process.wait(TIMEOUT), out, self._text)

    def _read(self) -> bool:
        try:
            block = os.read(self._ours, 65536)
        except OSError:  # how Linux says that the other side has gone
            return False
        self._text += block.decode(errors="replace")
        return bool(block)


def _take_ctrl_c() -> None:
    # Whoever runs the tests in the background of a shell passes an ignored SIGINT on.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _take_terminal() -> None:
    _take_ctrl_c()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C on it means something
