"""Dramatiq on Redis (append-only file, synced each second) with its Results middleware.

Its worker is its own command with its defaults: a process per core, eight threads each.
"""

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

from bench.figures import latency_figures, timed
from bench.job import Figures, Job, Measurement
from bench.peers.redis_server import redis_server

THREADS: Final = 8
PRODUCERS: Final = 4
WAIT_MILLISECONDS: Final = 3_600_000
GAP: Final = 0.02


@contextmanager
def _app(job: Job) -> Iterator[Any]:
    with redis_server(job.folder) as url:
        os.environ["BENCH_REDIS_URL"] = url
        app = importlib.import_module("bench.peers.dramatiq_app")
        app.noop.send(-1)  # connects
        yield app


@contextmanager
def _running(job: Job) -> Iterator[Any]:
    options = ["--processes", str(os.cpu_count() or 1), "--threads", str(THREADS)]
    with _app(job) as app:
        worker = subprocess.Popen(
            [sys.executable, "-m", "dramatiq", "bench.peers.dramatiq_app", *options], stderr=subprocess.DEVNULL
        )
        try:
            for message in [app.noop.send(-1) for _ in range(THREADS)]:
                _result(app, message)
            yield app
        finally:
            worker.terminate()
            worker.wait()


def _result(app: Any, message: Any) -> Any:
    return message.get_result(backend=app.results, block=True, timeout=WAIT_MILLISECONDS)


def _create_one(job: Job) -> Figures:
    with _app(job) as app:
        seconds = timed(lambda: [app.noop.send(number) for number in range(job.count)])
    return {"rate": job.count / seconds}


def _create_concurrently(job: Job) -> Figures:
    with _app(job) as app, ThreadPoolExecutor(PRODUCERS) as threads:
        seconds = timed(lambda: list(threads.map(app.noop.send, range(job.count))))
    return {"rate": job.count / seconds}


def _through(app: Any, count: int) -> None:
    messages = [app.noop.send(number) for number in range(count)]
    for number, message in enumerate(messages):
        assert _result(app, message) == number


def _join(app: Any, count: int) -> None:
    group = app.dramatiq.group([app.noop.message(number) for number in range(count)]).run()
    assert list(group.get_results(block=True, timeout=WAIT_MILLISECONDS)) == list(range(count))


def _measured(work: Callable[[Any, int], None], figures: Callable[[float, int], Figures]) -> Measurement:
    def measure(job: Job) -> Figures:
        with _running(job) as app:
            seconds = timed(lambda: work(app, job.count))
        return figures(seconds, job.count)

    return measure


def _latency(job: Job) -> Figures:
    starts, results = [], []
    with _running(job) as app:
        for _ in range(job.count):
            time.sleep(GAP)
            begin = time.monotonic_ns()
            started = _result(app, app.stamp.send())
            results.append((time.monotonic_ns() - begin) / 1e9)
            starts.append((started - begin) / 1e9)
    return latency_figures(starts, results)


MEASUREMENTS: Final[dict[str, Measurement]] = {
    "create-one": _create_one,
    "create-concurrent": _create_concurrently,
    "end-to-end": _measured(_through, lambda seconds, count: {"rate": count / seconds}),
    "join": _measured(_join, lambda seconds, _: {"read": seconds}),
    "latency-two-processes": _latency,
}
