"""Huey on SQLite with fsync, its own consumer with four threads.

The consumer runs in the measuring process unless the name says otherwise; in two processes Huey is no faster. Results
are read without being removed (`preserve=True`): removing them would cost a commit each, and Taskloom keeps them too.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench.child import Children
from bench.figures import latency_figures, timed
from bench.job import Figures, Job, Measurement
from bench.peers.huey_app import HueyApp

WAIT: Final = 3600
GAP: Final = 0.02
PRODUCERS: Final = 4


def _path(job: Job) -> str:
    return str(Path(job.folder, "huey.db"))


def _result(result: Any) -> Any:
    # Polled without growing pauses, so that the reader is never what is waited for.
    return result.get(blocking=True, timeout=WAIT, preserve=True, backoff=1, max_delay=0.005)


@contextmanager
def _running(app: HueyApp) -> Iterator[None]:
    consumer = app.consumer()
    consumer.start()
    try:
        _result(app.noop(-1))
        yield
    finally:
        consumer.stop(graceful=True)


def _create_one(job: Job) -> Figures:
    app = HueyApp(_path(job))
    app.noop(-1)
    seconds = timed(lambda: [app.noop(number) for number in range(job.count)])
    return {"rate": job.count / seconds}


def _create_concurrently(job: Job) -> Figures:
    app = HueyApp(_path(job))
    app.noop(-1)
    with ThreadPoolExecutor(PRODUCERS) as threads:
        seconds = timed(lambda: list(threads.map(app.noop, range(job.count))))
    return {"rate": job.count / seconds}


def _through(app: HueyApp, count: int) -> None:
    results = [app.noop(number) for number in range(count)]
    for number, result in enumerate(results):
        assert _result(result) == number


def _measured(figures: Callable[[float, int], Figures]) -> Measurement:
    def measure(job: Job) -> Figures:
        app = HueyApp(_path(job))
        with _running(app):
            seconds = timed(lambda: _through(app, job.count))
        assert sorted(app.runs) == list(range(-1, job.count)), f"{len(app.runs)} runs of {job.count + 1} tasks"
        return figures(seconds, job.count)

    return measure


def _samples(app: HueyApp, count: int) -> Figures:
    starts, results = [], []
    for _ in range(count + 1):
        time.sleep(GAP)
        begin = time.monotonic_ns()
        started = _result(app.stamp())
        results.append((time.monotonic_ns() - begin) / 1e9)
        starts.append((started - begin) / 1e9)
    return latency_figures(starts[1:], results[1:])


def _latency_one_process(job: Job) -> Figures:
    app = HueyApp(_path(job))
    with _running(app):
        return _samples(app, job.count)


def _latency_two_processes(job: Job) -> Figures:
    with Children("bench.peers.huey_consumer", [_path(job)], 1):
        return _samples(HueyApp(_path(job)), job.count)


MEASUREMENTS: Final[dict[str, Measurement]] = {
    "create-one": _create_one,
    "create-concurrent": _create_concurrently,
    "end-to-end": _measured(lambda seconds, count: {"rate": count / seconds}),
    "join": _measured(lambda seconds, _: {"read": seconds}),
    "latency-one-process": _latency_one_process,
    "latency-two-processes": _latency_two_processes,
}
