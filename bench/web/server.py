"""`taskloom serve` in a process of its own, with one worker."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.runner import ROOT

PATIENCE: Final = 30.0


class Server:
    """The server while the block runs."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "taskloom.cli", "serve", "bench.web.application:module", "--port", "0"]
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        environment = {**os.environ, "TASKLOOM_DATABASE": str(folder / "tasks.db"), "PYTHONPATH": paths}
        self._process = subprocess.Popen(
            [*command, "--log-level", "error"],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        found = re.search(r"serving http://127\.0\.0\.1:(\d+)", said)
        if found is None:
            self._process.kill()
            raise RuntimeError(f"the server did not start: {said!r}")
        self.port = int(found[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def memory(self) -> int | None:
        """Bytes of memory that the process holds; None where nobody can tell."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:
            return None
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024
