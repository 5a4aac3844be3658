"""Which measurements a run consists of."""

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from bench.options import Options
from bench.peers import redis_server

LABELS: Final = {
    "taskloom": "Taskloom",
    "sqlite": "bare SQLite",
    "huey": "Huey (fsync)",
    "dramatiq": "Dramatiq on Redis",
}
LEAST: Final = 5
"""However small the scale, a measurement has this size at least."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a workload."""

    name: str
    title: str
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One contender's part in a workload; the fields beside the first three are those of `bench.job.Job`."""

    contender: str
    measurement: str
    label: str = ""
    """How the table calls it; empty: the contender's name."""
    count: int
    processes: int = 1
    old: int = 0
    waiting: int = 0
    other_commit: bool = False
    """Run it over the Taskloom of the commit that is compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The same work for several contenders; the first one is what the others are compared with."""

    name: str
    title: str
    metrics: tuple[Metric, ...]
    cases: tuple[Case, ...]
    large: bool = False


_RATE: Final = (Metric("rate", "", "tasks/s"),)
_FILE: Final = (
    Metric("bytes_each", "file, per task", "bytes"),
    Metric("free_percent", "free pages of the file", "%"),
    Metric("log_mb", "write-ahead log at the end", "MB"),
)
_LATENCY: Final = (
    Metric("start_p50", "submit → handler start, p50", "ms"),
    Metric("start_p95", "submit → handler start, p95", "ms"),
    Metric("seen_p50", "submit → result seen, p50", "ms"),
    Metric("seen_p95", "submit → result seen, p95", "ms"),
)
_FAN_OUT: Final = (
    Metric("rate", "from the call to its end", "sub-tasks/s"),
    Metric("create_rate", "of that, creating", "inputs/s"),
    Metric("producer_mb", "peak memory of the producer", "MB"),
    Metric("worker_mb", "peak memory of the worker", "MB"),
    *_FILE,
)
_READS: Final = (
    Metric("get", "get_task, p50", "ms"),
    Metric("list", "list_tasks, newest 20, p50", "ms"),
    Metric("list_status", "list_tasks, a status that no task has, p50", "ms"),
    Metric("list_type", "list_tasks, a type that no task has, p50", "ms"),
)
_FAIRNESS: Final = (
    Metric("most_others", "others before it, most", "tasks"),
    Metric("others", "others before it, p50", "tasks"),
    Metric("bound", "promised: tenants × concurrency", "tasks"),
    Metric("newcomer", "submit → result seen, less its work, p50", "ms"),
)
_CAPS: Final = (*_RATE, Metric("most_at_once", "ran at the same time, at most", "tasks"))


def workloads(options: Options) -> list[Workload]:
    """What is to be measured, in its order, without the contenders that cannot run here."""
    usable = {name for name in options.contenders if missing(name) is None}
    chosen = []
    for workload in _all(options):
        wanted = not options.only or any(text.lower() in workload.name for text in options.only)
        cases = tuple(case for case in workload.cases if case.contender in usable)
        if wanted and cases and (options.large or not workload.large):
            chosen.append(replace(workload, cases=_with_other_commit(cases) if options.compare else cases))
    return chosen


def missing(contender: str) -> str | None:
    """Why *contender* cannot run here and what to do about it; None when it can."""
    if contender in ("huey", "dramatiq") and importlib.util.find_spec(contender) is None:
        return f"the package {contender} is not installed; get it with: pip install 'taskloom[bench]'"
    if contender == "dramatiq" and not redis_server.is_there():
        return "redis-server is not on the PATH; get it on Debian or Ubuntu with: apt-get install redis-server"
    return None


def _with_other_commit(cases: Iterable[Case]) -> tuple[Case, ...]:
    found: list[Case] = []
    for case in cases:
        found.append(case)
        if case.contender == "taskloom":
            found.append(replace(case, other_commit=True))
    return tuple(found)


def _all(options: Options) -> Sequence[Workload]:
    def size(count: int) -> int:
        return max(LEAST, round(count * options.scale))

    def cases(measurement: str, **counts: int) -> tuple[Case, ...]:
        return tuple(
            Case(contender=contender, measurement=measurement, count=size(count)) for contender, count in counts.items()
        )

    tasks, million = size(5_000), size(1_000_000)
    finished = f"{million:,} finished"
    return [
        Workload(
            name="create-one",
            title="create, one call at a time",
            metrics=_RATE,
            cases=cases("create-one", taskloom=2_000, sqlite=2_000, huey=2_000, dramatiq=2_000),
        ),
        Workload(
            name="create-one-sync",
            title="create, one call at a time, blocking (module.sync)",
            metrics=_RATE,
            cases=cases("create-one-sync", taskloom=2_000),
        ),
        Workload(
            name="create-concurrent",
            title="create, many calls at a time",
            metrics=_RATE,
            cases=cases("create-concurrent", taskloom=5_000, huey=2_000, dramatiq=5_000),
        ),
        Workload(
            name="create-bulk",
            title="create in bulk",
            metrics=_RATE,
            cases=cases("create-bulk", taskloom=20_000, sqlite=20_000),
        ),
        Workload(
            name="end-to-end",
            title=f"end to end, {tasks:,} tasks",
            metrics=(*_RATE, *_FILE),
            cases=(
                *cases("end-to-end", taskloom=5_000),
                Case(
                    contender="taskloom",
                    measurement="end-to-end-one-process",
                    label="Taskloom, all in one process",
                    count=tasks,
                ),
                *cases("end-to-end", sqlite=5_000),
                Case(
                    contender="sqlite",
                    measurement="end-to-end-as-queue",
                    label="bare SQLite, as a queue",
                    count=tasks,
                ),
                *cases("end-to-end", huey=5_000, dramatiq=5_000),
            ),
        ),
        Workload(
            name="end-to-end-bulk",
            title=f"end to end, {tasks:,} tasks created in bulk",
            metrics=_RATE,
            cases=cases("end-to-end-bulk", taskloom=5_000),
        ),
        Workload(
            name="latency-one-process",
            title="latency in one process",
            metrics=_LATENCY,
            cases=cases("latency-one-process", taskloom=200, huey=50),
        ),
        Workload(
            name="latency-two-processes",
            title="latency across two processes",
            metrics=_LATENCY,
            cases=cases("latency-two-processes", taskloom=200, huey=50, dramatiq=50),
        ),
        Workload(
            name="join",
            title=f"fan-out and join of {size(1_000):,}",
            metrics=(Metric("joined", "until joined", "s"), Metric("read", "until all results are read", "s")),
            cases=cases("join", taskloom=1_000, sqlite=1_000, huey=1_000, dramatiq=1_000),
        ),
        Workload(
            name="fan-out",
            title=f"fan-out of {size(100_000):,}",
            metrics=_FAN_OUT,
            cases=cases("fan-out", taskloom=100_000, sqlite=100_000),
        ),
        Workload(
            name="workers",
            title=f"worker processes, {tasks:,} tasks",
            metrics=(*_RATE, Metric("worker_mb", "peak memory of a worker", "MB")),
            cases=tuple(
                Case(
                    contender="taskloom",
                    measurement="end-to-end",
                    label=f"Taskloom, {processes} {'process' if processes == 1 else 'processes'}",
                    count=tasks,
                    processes=processes,
                )
                for processes in (1, 2, 4)
            ),
        ),
        Workload(
            name="fairness",
            title=f"a second tenant's task, {size(100_000):,} of the first one waiting",
            metrics=_FAIRNESS,
            cases=(Case(contender="taskloom", measurement="fairness", count=size(50), waiting=size(100_000)),),
        ),
        Workload(
            name="caps",
            title=f"limits over 2 worker processes, {size(3_000):,} tasks of 2 ms",
            metrics=_CAPS,
            cases=tuple(
                Case(
                    contender="taskloom",
                    measurement=measurement,
                    label=f"Taskloom, {label}",
                    count=size(3_000),
                    processes=2,
                )
                for measurement, label in (
                    ("no-cap", "no limit"),
                    ("wide-cap", "a limit that is never reached"),
                    ("cap", "at most 8"),
                )
            ),
        ),
        Workload(
            name="fan-out-million",
            title=f"fan-out of {million:,}",
            metrics=_FAN_OUT,
            cases=cases("fan-out", taskloom=1_000_000, sqlite=1_000_000),
            large=True,
        ),
        Workload(
            name="old-tasks",
            title=f"end to end, {tasks:,} tasks, in a file with old ones",
            metrics=_RATE,
            cases=(
                Case(contender="taskloom", measurement="end-to-end", label="Taskloom, empty file", count=tasks),
                Case(
                    contender="taskloom",
                    measurement="end-to-end",
                    label=f"Taskloom, {finished}",
                    count=tasks,
                    old=million,
                ),
            ),
            large=True,
        ),
        Workload(
            name="retention",
            title=f"end to end, {tasks:,} tasks, while expired ones are removed",
            metrics=_RATE,
            cases=(
                Case(
                    contender="taskloom",
                    measurement="end-to-end",
                    label=f"Taskloom, {finished}, none expired",
                    count=tasks,
                    old=million,
                ),
                Case(
                    contender="taskloom",
                    measurement="end-to-end-removing",
                    label=f"Taskloom, {million:,} expired",
                    count=tasks,
                    old=million,
                ),
            ),
            large=True,
        ),
        Workload(
            name="backlog",
            title=f"claim, run and finish {tasks:,} of the tasks that wait",
            metrics=_RATE,
            cases=tuple(
                Case(
                    contender="taskloom",
                    measurement="backlog",
                    label=f"Taskloom, {waiting:,} waiting",
                    count=tasks,
                    waiting=waiting,
                )
                for waiting in (2 * tasks, million)
            ),
            large=True,
        ),
        Workload(
            name="reads",
            title="reading",
            metrics=_READS,
            cases=tuple(
                Case(
                    contender="taskloom",
                    measurement="reads",
                    label=f"Taskloom, {old:,} finished",
                    count=size(100),
                    old=old,
                )
                for old in (size(1_000), million)
            ),
            large=True,
        ),
    ]
