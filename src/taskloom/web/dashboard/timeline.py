"""The life of a task, drawn to scale: when it waited, and when an attempt ran."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from taskloom.model import TERMINAL, HistoryEntry, TaskEntity, TaskStatus

WIDTH: Final = 1000
"""Of the picture, in its own units."""
SHORTEST: Final = 3.0
"""What is too short to be seen is drawn this wide."""

SegmentKind = Literal["wait", "attempt", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """What the task did for a while."""

    kind: SegmentKind
    """It waited, an attempt ran, or nobody knows any more."""
    begin: datetime
    end: datetime
    attempt: int
    by: str | None
    reason: str | None
    """Why the segment ended."""
    ending: TaskStatus | None
    """The status that came behind it; None while it goes on."""
    x: float = 0.0
    width: float = 0.0

    @property
    def time(self) -> timedelta:
        """How long it was."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a task; each has a scale of its own."""

    number: int
    begin: datetime
    end: datetime
    segments: Sequence[Segment]

    @property
    def time(self) -> timedelta:
        """How long it was, up to now."""
        return self.end - self.begin

    @property
    def attempts(self) -> int:
        """The number of the last attempt."""
        return max((segment.attempt for segment in self.segments), default=0)


def runs(task: TaskEntity[Any], now: datetime) -> list[Run]:
    """The runs of *task* up to *now*, oldest first."""
    found: dict[int, list[Segment]] = {}
    for segment, number in _segments(task, now):
        found.setdefault(number, []).append(segment)
    return [
        Run(number=number, begin=parts[0].begin, end=parts[-1].end, segments=_placed(parts))
        for number, parts in found.items()
    ]


def _segments(task: TaskEntity[Any], now: datetime) -> Iterator[tuple[Segment, int]]:
    history = task.history
    for position, entry in enumerate(history):
        if entry.status in TERMINAL:
            continue
        behind = history[position + 1] if position + 1 < len(history) else None
        end = now if behind is None else behind.at
        kind: SegmentKind = "attempt" if entry.status is TaskStatus.IN_PROGRESS else "wait"
        if task.history_dropped and position == 0:
            kind = "unknown"
        yield (
            Segment(
                kind=kind,
                begin=entry.at,
                end=max(entry.at, end),
                attempt=entry.attempt,
                by=entry.by,
                reason=None if behind is None else behind.reason,
                ending=None if behind is None else behind.status,
            ),
            _run(entry, behind, kind),
        )


def _run(entry: HistoryEntry, behind: HistoryEntry | None, kind: SegmentKind) -> int:
    """What was dropped behind the creation may reach into a later run."""
    return behind.run if kind == "unknown" and behind is not None else entry.run


def _placed(segments: Sequence[Segment]) -> list[Segment]:
    """*segments* with their places. Those that are too short are drawn wider, at the cost of the others."""
    whole = (segments[-1].end - segments[0].begin).total_seconds()
    if whole <= 0:
        widths = [WIDTH / len(segments)] * len(segments)
    else:
        widths = [segment.time.total_seconds() / whole * WIDTH for segment in segments]
        shortest = min(SHORTEST, WIDTH / len(segments))
        widths = [max(shortest, width) for width in widths]
        spare = sum(width - shortest for width in widths)
        over = sum(widths) - WIDTH
        if over > 0 and spare > 0:
            widths = [shortest + (width - shortest) * (1 - over / spare) for width in widths]
    placed, x = [], 0.0
    for segment, width in zip(segments, widths, strict=True):
        placed.append(replace(segment, x=round(x, 1), width=round(width, 1)))
        x += width
    return placed
