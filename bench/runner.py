"""Runs the measurements: each in a process and a folder of its own, the contenders in turns."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.job import Figures, Job
from bench.measure import SOURCE
from bench.options import Options
from bench.plan import LABELS, Case, Workload

ROOT: Final = Path(__file__).resolve().parent.parent
"""The working copy."""


@dataclass(slots=True)
class Series:
    """What the repetitions of one case gave."""

    workload: Workload
    case: Case
    figures: list[Figures] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class MeasurementFailed(Exception):
    """A measurement did not come to its end."""


def run(workloads: Sequence[Workload], options: Options, sources: dict[bool, Path], folder: Path) -> list[Series]:
    """Measure everything; *sources* says where Taskloom comes from, here and at the other commit."""
    series = [Series(workload, case) for workload in workloads for case in workload.cases]
    total, done = len(series) * options.repeat, 0
    for repetition in range(options.repeat):
        for one in _in_turns(series, repetition):
            done += 1
            title = f"[{done}/{total}] {one.workload.title} · {label(one.case)}"
            print(f"{title} …", end="", file=sys.stderr, flush=True)
            begin = time.perf_counter()
            try:
                figures = measure(one.case, options, sources[one.case.other_commit], folder)
            except MeasurementFailed as error:
                one.failures.append(str(error))
                print(f" failed: {error}", file=sys.stderr)
            else:
                one.figures.append(figures)
                print(f" {_first(one.workload, figures)} ({time.perf_counter() - begin:.1f} s)", file=sys.stderr)
    return series


def label(case: Case) -> str:
    """How the table calls the case."""
    return (case.label or LABELS[case.contender]) + (", other commit" if case.other_commit else "")


def measure(case: Case, options: Options, source: Path, folder: Path) -> Figures:
    """The figures of one measurement. Raises: MeasurementFailed."""
    own = tempfile.mkdtemp(prefix="", dir=folder)
    # What was written before must not slow down the first commits of the next.
    os.sync()
    try:
        job = Job(
            folder=own,
            count=case.count,
            concurrency=options.concurrency,
            processes=case.processes,
            old=case.old,
            waiting=case.waiting,
        )
        output = _run([case.contender, case.measurement, job.text()], _environment(source), options.limit)
        figures: Figures = json.loads(output.splitlines()[-1])
        return figures
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _in_turns(series: Sequence[Series], repetition: int) -> Sequence[Series]:
    """Every other time the contenders of a workload go in the opposite order: none is always the first."""
    if repetition % 2 == 0:
        return series
    workloads = dict.fromkeys(one.workload for one in series)
    return [one for workload in workloads for one in reversed(series) if one.workload is workload]


def _environment(source: Path) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TASKLOOM_")}
    # Before the installed package, which is the working copy.
    environment["PYTHONPATH"] = os.pathsep.join([str(source), str(ROOT)])
    environment[SOURCE] = str(source)
    return environment


def _run(arguments: Sequence[str], environment: dict[str, str], limit: float) -> str:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.measure", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that its workers and servers can be ended with it
    )
    try:
        output, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        _end(process)
        raise MeasurementFailed(f"it took more than {limit:g} seconds") from None
    except BaseException:
        _end(process)
        raise
    if process.returncode != 0:
        last = errors.strip().splitlines()[-1:] or [f"it ended with {process.returncode}"]
        raise MeasurementFailed(last[0])
    return output


def _end(process: "subprocess.Popen[str]") -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _first(workload: Workload, figures: Figures) -> str:
    metric = next(metric for metric in workload.metrics if metric.name in figures)
    return f"{figures[metric.name]:,.4g} {metric.unit}"
