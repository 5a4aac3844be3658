"""What the figures were taken on."""

import importlib.metadata
import os
import platform
import sqlite3
import statistics
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

WRITES: Final = 100
BLOCK: Final = b"\0" * 4096


def facts(folder: Path, root: Path) -> dict[str, Any]:
    """What to know about this machine, *folder* (where the databases lie) and the working copy *root*."""
    return {
        "commit": commit(root),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(aliased=True, terse=True),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "file_system": _file_system(folder),
        "fsync_ms": round(_fsync_milliseconds(folder), 3),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        **{name: _version(name) for name in ("huey", "dramatiq", "redis")},
        "redis_server": _redis_server(),
    }


def commit(root: Path) -> str:
    """The short name of the commit that is checked out, with `-dirty` when files differ from it."""
    return git(root, "describe", "--always", "--dirty", "--exclude=*") or "unknown"


def git(root: Path, *arguments: str) -> str | None:
    """What a reading git command prints; None when it fails."""
    try:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file_system(folder: Path) -> str:
    """The type of the file system: on one in memory durability costs nothing, and figures mean little."""
    best, kind = "", "unknown"
    with suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, place, found, *_ = line.split()
            if folder.resolve().is_relative_to(place) and len(place) >= len(best):
                best, kind = place, found
    return kind


def _fsync_milliseconds(folder: Path) -> float:
    """How long it takes to append 4 KB and have it on disk; the median."""
    times = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(WRITES):
            file.write(BLOCK)
            file.flush()
            begin = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1000


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _redis_server() -> str | None:
    try:
        said = subprocess.run(["redis-server", "--version"], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return next((word[2:] for word in said.split() if word.startswith("v=")), said.strip())
