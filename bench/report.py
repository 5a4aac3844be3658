"""The table and the JSON."""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from bench.plan import Metric, Workload
from bench.runner import Series, label


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    workload: str
    title: str
    metric: str
    contender: str
    unit: str
    median: float
    min: float
    max: float
    ratio: float | None
    """To the first contender of the workload, which is Taskloom; None for itself."""
    change: float | None
    """To the same figure of the other commit; None for its own rows, and without one."""
    values: Sequence[float]


NOTES: Final = (
    "median and spread (lowest – highest) of all repetitions; ratio: to the first row of the same workload",
    "Taskloom: synchronous=FULL, history kept, {concurrency} handlers at a time per worker process; 64 calls in flight "
    "where many create or wait; fan-outs with the default options",
    "bare SQLite: the same rows in the same tables, synchronous=FULL, 500 tasks per commit (one where a call creates "
    "one), one thread, nobody to wake; 'as a queue': {concurrency} tasks per commit, and each claim and finish learns "
    "whether it took place",
    "Huey: SqliteHuey(fsync=True), its consumer with 4 threads",
    "Dramatiq: its command with 8 threads per core, Redis with an append-only file synced each second, so that a power "
    "cut may take a second of work",
    "end to end: from the first submit until the result of every task is stored and read back, each exactly once",
)


def rows(series: Sequence[Series]) -> list[Row]:
    """The rows of the table, grouped by workload and metric."""
    found: list[Row] = []
    for workload in dict.fromkeys(one.workload for one in series):
        own = [one for one in series if one.workload is workload]
        for metric in workload.metrics:
            found += _rows(workload, metric, own)
    return found


def _rows(workload: Workload, metric: Metric, series: Iterable[Series]) -> Iterator[Row]:
    taken = [
        (one.case, values)
        for one in series
        if (values := [figures[metric.name] for figures in one.figures if metric.name in figures])
    ]
    medians = {case: statistics.median(values) for case, values in taken}
    others = {label(case): median for case, median in medians.items() if case.other_commit}
    first = next(iter(medians.values()), 0.0)
    for number, (case, values) in enumerate(taken):
        median = medians[case]
        before = None if case.other_commit else others.get(f"{label(case)}, other commit")
        yield Row(
            workload=workload.name,
            title=f"{workload.title}: {metric.title}" if metric.title else workload.title,
            metric=metric.name,
            contender=label(case),
            unit=metric.unit,
            median=median,
            min=min(values),
            max=max(values),
            ratio=median / first if number and first else None,
            change=median / before if before else None,
            values=values,
        )


def table(rows: Sequence[Row], *, compared: str | None) -> str:
    """The rows as a table that is also Markdown."""
    head = ["workload", "contender", "median", "spread", "unit", "ratio"]
    if compared is not None:
        head.append(f"to {compared}")
    lines = [head]
    title = None
    for row in rows:
        cells = ["" if row.title == title else row.title, row.contender, _number(row.median)]
        cells += [f"{_number(row.min)} – {_number(row.max)}", row.unit, _ratio(row.ratio)]
        lines.append(cells if compared is None else [*cells, _ratio(row.change)])
        title = row.title
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    rule = [f"{'-' * (width - 1)}{':' if column in (2, 5, 6) else '-'}" for column, width in enumerate(widths)]
    return "\n".join(_line(line, widths) for line in [head, rule, *lines[1:]])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    texts = [
        cell.rjust(width) if column in (2, 5, 6) else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(texts)} |"


def _number(value: float) -> str:
    """Three digits that count, or all before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def document(
    rows: Sequence[Row],
    series: Sequence[Series],
    machine: dict[str, Any],
    settings: dict[str, Any],
    left_out: Sequence[str],
) -> dict[str, Any]:
    """The run as JSON."""
    return {
        "machine": machine,
        "settings": settings,
        "rows": [asdict(row) for row in rows],
        "left_out": list(left_out),
        "failures": list(failures(series)),
    }


def failures(series: Sequence[Series]) -> Iterator[str]:
    """One line for each measurement that failed."""
    for one in series:
        for failure in one.failures:
            yield f"{one.workload.title} · {label(one.case)}: {failure}"
