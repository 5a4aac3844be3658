"""A process beside the measuring one: a worker or a consumer."""

import json
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self


class Child:
    """A Python module that prints `ready`, works until its standard input ends, and then prints a JSON object.

    That it ends with its input means that it never outlives the measurement, however that ends.
    """

    def __init__(self, module: str, arguments: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.report: dict[str, Any] = {}
        """What it printed last, once it has ended."""

    def wait_until_ready(self) -> None:
        """Return when it is ready; raise when it ends instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line.strip() != "ready":
            raise RuntimeError(f"{self._process.args!r} did not start: {line!r}")

    def stop(self) -> None:
        """Let it end, and take its report."""
        output, _ = self._process.communicate()
        if self._process.returncode != 0:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.returncode}")
        self.report = json.loads(output)


class Children:
    """Several of them for a `with`; at its end they have ended."""

    def __init__(self, module: str, arguments: Sequence[str], count: int) -> None:
        self._children = [Child(module, arguments) for _ in range(count)]

    def __enter__(self) -> Self:
        for child in self._children:
            child.wait_until_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for child in self._children:
            child.stop()

    @property
    def reports(self) -> list[dict[str, Any]]:
        """What each printed last."""
        return [child.report for child in self._children]
