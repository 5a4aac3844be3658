"""How figures are taken: rates, percentiles, peak memory, size of files. The same for every contender."""

import math
import os
import resource
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bench.job import Figures

MEGABYTE: Final = 1_000_000


def timed(work: Callable[[], object]) -> float:
    """How many seconds *work* takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of *values* that *percent* of them do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def latency_figures(starts: Sequence[float], results: Sequence[float]) -> Figures:
    """Milliseconds from submit to handler start and to the result, of seconds."""
    return {
        "start_p50": percentile(starts, 50) * 1000,
        "start_p95": percentile(starts, 95) * 1000,
        "seen_p50": percentile(results, 50) * 1000,
        "seen_p95": percentile(results, 95) * 1000,
    }


def peak_memory() -> float:
    """The most memory that this process ever held, in MB."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / MEGABYTE
    except OSError:
        pass
    # Not the first choice: on Linux a new process inherits the figure of the one that started it.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / MEGABYTE


def log_size(database: Path) -> float:
    """MB of the write-ahead log, while the database is open."""
    log = database.with_name(database.name + "-wal")
    return os.stat(log).st_size / MEGABYTE if log.exists() else 0.0


def file_figures(database: Path, count: int, log_mb: float) -> Figures:
    """What *count* tasks cost on disk: once everything is closed, and *log_mb* while it was open."""
    connection = sqlite3.connect(database)
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    finally:
        connection.close()
    return {
        "bytes_each": os.stat(database).st_size / count,
        "log_mb": log_mb,
        "free_percent": 100 * free / pages,
    }
