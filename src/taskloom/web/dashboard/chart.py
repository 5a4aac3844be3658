"""What ended per minute, as a small chart: stacked bars of what went well and what did not."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from taskloom.model import TaskEntity, TaskStatus
from taskloom.ports import Throughput

MINUTES: Final = 60
WIDTH: Final = 1080
HEIGHT: Final = 170
LEFT: Final = 60
"""Room for the numbers of the scale."""
BOTTOM: Final = 24
_STEP: Final = (WIDTH - LEFT) / MINUTES
_MINUTE: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One minute: where its two parts stand in the picture."""

    minute: datetime
    completed: int
    failed: int
    x: float
    width: float
    completed_y: float
    completed_height: float
    failed_y: float
    failed_height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """The last hour; coordinates are those of a picture of `WIDTH` × `HEIGHT`."""

    bars: Sequence[Bar]
    """Minutes in which something ended."""
    top: int
    """The number at the upper end of the scale."""
    lines: Sequence[tuple[float, int]]
    """Height and number of the lines of the scale."""
    completed: int
    failed: int


def chart(counts: Mapping[datetime, tuple[int, int]], now: datetime) -> Chart:
    """The chart of *counts*: completed and failed by minute, of which those of the hour up to *now* are drawn."""
    first = _minute(now) - _MINUTE * (MINUTES - 1)
    drawn = {minute: found for minute, found in counts.items() if first <= minute <= now and found != (0, 0)}
    top = _round_up(max((sum(found) for found in drawn.values()), default=0))
    scale = (HEIGHT - BOTTOM - 10) / top
    base = HEIGHT - BOTTOM
    bars = []
    for minute, (completed, failed) in sorted(drawn.items()):
        well, badly = completed * scale, failed * scale
        bars.append(
            Bar(
                minute=minute,
                completed=completed,
                failed=failed,
                x=round(LEFT + (minute - first) / _MINUTE * _STEP + 1, 1),
                width=round(_STEP - 2, 1),
                completed_y=round(base - well, 1),
                completed_height=round(well, 1),
                failed_y=round(base - well - badly, 1),
                failed_height=round(badly, 1),
            )
        )
    marks = (0, top // 2, top) if top > 1 else (0, top)
    return Chart(
        bars=bars,
        top=top,
        lines=[(round(base - mark * scale, 1), mark) for mark in marks],
        completed=sum(completed for completed, _ in drawn.values()),
        failed=sum(failed for _, failed in drawn.values()),
    )


def of_throughput(minutes: Iterable[Throughput]) -> dict[datetime, tuple[int, int]]:
    """What all tenants did: completed and failed by minute."""
    counts: dict[datetime, tuple[int, int]] = {}
    for row in minutes:
        completed, failed = counts.get(row.minute, (0, 0))
        counts[row.minute] = (completed + row.completed, failed + row.failed)
    return counts


def of_tasks(tasks: Iterable[TaskEntity[Any]]) -> dict[datetime, tuple[int, int]]:
    """What became of *tasks*: completed and failed by minute."""
    counts: dict[datetime, tuple[int, int]] = {}
    for task in tasks:
        if task.finished_at is None or not task.is_terminal:
            continue
        minute = _minute(task.finished_at)
        completed, failed = counts.get(minute, (0, 0))
        is_well = task.status is TaskStatus.COMPLETED
        counts[minute] = (completed + is_well, failed + (not is_well))
    return counts


def _minute(at: datetime) -> datetime:
    return at.replace(second=0, microsecond=0)


def _round_up(count: int) -> int:
    """The next number that looks well at a scale: 1, 2, 4, 10, 20, 40, 100, …"""
    power = 1
    while True:
        for factor in (1, 2, 4):
            if factor * power >= count:
                return factor * power
        power *= 10
