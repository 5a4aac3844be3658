"""A fan-out as a whole: a map of how its sub-tasks stand, and its failures by what they say."""

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from taskloom.errors import InvalidInput
from taskloom.model import MAX_SUB_TASKS, TaskEntity, TaskKey, TaskStatus
from taskloom.operations.finding import Finding
from taskloom.policy import chunk_range, whole_number
from taskloom.ports import Backend, ChunkRow

MAX_CELLS: Final = 2000
MAX_FAILURES: Final = 2000
"""Failed sub-tasks that are looked at for one list of failures."""
MAX_GROUPS: Final = 100
EXAMPLES: Final = 5
LOOK: Final = 1000
"""Sub-tasks that one look for failures covers: one shard's worth."""
_APART: Final = 16
"""More spans than this are read as one, with what lies between them."""
_PATTERN: Final = 200
"""Characters of a message by which it is told from others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Neighbouring sub-tasks, and how many of them stand how."""

    first: int
    end: int
    """The index behind the last one."""
    counts: Mapping[TaskStatus, int]
    """Without statuses that none has; together `end - first`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureGroup:
    """Failed sub-tasks whose errors say the same, but for the numbers in them."""

    type: str
    message: str
    """Of the first one."""
    count: int
    examples: Sequence[int]
    """The first indexes, at most five."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """What went wrong in a fan-out."""

    groups: Sequence[FailureGroup]
    """The largest first, at most 100."""
    seen: int
    """How many failed sub-tasks were looked at."""
    more: bool
    """Whether there are others."""


class FanOuts:
    """Fan-outs as a whole: `TaskService.fan_outs`."""

    def __init__(self, backend: Backend, finding: Finding) -> None:
        self._backend = backend
        self._finding = finding

    async def map(self, key: TaskKey, *, first: int = 0, end: int | None = None, cells: int = 1000) -> Sequence[Cell]:
        """The sub-tasks *first* to *end*, exclusive (None: all), of the fan-out *key*, in at most *cells* (1–2000)
        cells of the same size, the last one excepted.

        Chunks that have ended are counted as a whole, so this is cheap however many sub-tasks there are. Cells that
        hold several chunks begin where a chunk does: the first one may begin before *first*.
        Raises: TaskNotFound; InvalidInput, also when *key* is no fan-out.
        """
        whole_number(cells, "cells", low=1, high=MAX_CELLS)
        parent = await self._finding.fan_out(key)
        view = _view(parent, first, end)
        size = max(1, -(-len(view) // cells))
        plan = parent.fan_out
        rows: list[ChunkRow] = []
        if plan is not None and size >= plan.chunk_size:
            size = -(-size // plan.chunk_size) * plan.chunk_size
            view = range(view.start // plan.chunk_size * plan.chunk_size, view.stop)
            rows = [row for row in await self._chunks(parent) if _within(_indexes(parent, row), view)]
        counts: dict[int, dict[TaskStatus, int]] = {at: {} for at in range(view.start, view.stop, size)}
        for row in rows:
            indexes = _indexes(parent, row)
            ended = {TaskStatus.COMPLETED: row.succeeded, TaskStatus.FAILED: row.failed}
            ended[_unclaimed(parent)] = len(indexes) - row.succeeded - row.failed
            _add(counts, view, size, indexes, ended)
        gaps = list(_gaps([_indexes(parent, row) for row in rows], view))
        async for part, status in self._statuses(parent, gaps):
            for indexes in _cut(part, view, size):
                _add(counts, view, size, indexes, {status: len(indexes)})
        return [
            Cell(first=at, end=min(at + size, view.stop), counts={s: n for s, n in found.items() if n})
            for at, found in counts.items()
        ]

    async def failures(self, key: TaskKey) -> Failures:
        """The failed sub-tasks of the fan-out *key*, by what their errors say. At most 2,000 are looked at, the first
        ones. Raises: as `map`."""
        parent = await self._finding.fan_out(key)
        groups: dict[tuple[str, str], FailureGroup] = {}
        seen = 0
        async for indexes in self._failed(parent):
            for row in await self._backend.store.list_sub_tasks(parent.key, indexes):
                if row.status is not TaskStatus.FAILED:
                    continue
                if seen == MAX_FAILURES:
                    return Failures(groups=_largest(groups), seen=seen, more=True)
                seen += 1
                _count(groups, row)
        return Failures(groups=_largest(groups), seen=seen, more=False)

    async def _failed(self, parent: TaskEntity[Any]) -> AsyncIterator[range]:
        """Where failed sub-tasks are, in index order."""
        view = _view(parent, 0, None)
        rows = await self._chunks(parent) if parent.fan_out is not None else []
        spans = [_indexes(parent, row) for row in rows if row.failed]
        async for part, status in self._statuses(parent, list(_gaps([_indexes(parent, row) for row in rows], view))):
            if status is TaskStatus.FAILED:
                spans.append(part)
        for span in _joined(sorted(spans, key=lambda span: span.start)):
            for at in range(span.start, span.stop, LOOK):
                yield range(at, min(at + LOOK, span.stop))

    async def _chunks(self, parent: TaskEntity[Any]) -> Sequence[ChunkRow]:
        return await self._backend.store.list_chunks(parent.key, parent.run)

    async def _statuses(
        self, parent: TaskEntity[Any], gaps: Sequence[range]
    ) -> AsyncIterator[tuple[range, TaskStatus]]:
        """How all sub-tasks in *gaps* stand, stored or not, in ranges."""
        spans = [range(gaps[0].start, gaps[-1].stop)] if len(gaps) > _APART else gaps
        for span in spans:
            at = span.start
            for found in await self._backend.store.list_sub_task_statuses(parent.key, span):
                for part, status in (
                    (range(at, found.first), _unclaimed(parent)),
                    (range(found.first, found.end), found.status),
                ):
                    for inside in _inside(part, gaps):
                        yield inside, status
                at = found.end
            for inside in _inside(range(at, span.stop), gaps):
                yield inside, _unclaimed(parent)


def _view(parent: TaskEntity[Any], first: int, end: int | None) -> range:
    count = parent.attributes.sub_task_count or 0
    whole_number(first, "first", low=0, high=MAX_SUB_TASKS)
    if end is not None:
        whole_number(end, "end", low=0, high=MAX_SUB_TASKS)
        if end < first:
            raise InvalidInput("end", f"{end} is before first, {first}", "give a larger one")
    return range(min(first, count), count if end is None else min(end, count))


def _unclaimed(parent: TaskEntity[Any]) -> TaskStatus:
    """How those stand of which nothing is stored; see `payloads.unclaimed`."""
    return TaskStatus.CANCELLED if parent.is_terminal else TaskStatus.PENDING


def _indexes(parent: TaskEntity[Any], row: ChunkRow) -> range:
    size = parent.fan_out.chunk_size if parent.fan_out is not None else 1
    return chunk_range(row.chunk, parent.attributes.sub_task_count or 0, size)


def _within(indexes: range, view: range) -> bool:
    return view.start <= indexes.start < indexes.stop <= view.stop


def _gaps(covered: Sequence[range], view: range) -> Iterator[range]:
    """What of *view* is not covered; *covered* is in order."""
    edges = [range(view.start, view.start), *covered, range(view.stop, view.stop)]
    for before, behind in pairwise(edges):
        if before.stop < behind.start:
            yield range(before.stop, behind.start)


def _inside(part: range, gaps: Sequence[range]) -> Iterator[range]:
    for gap in gaps:
        inside = range(max(part.start, gap.start), min(part.stop, gap.stop))
        if inside:
            yield inside


def _cut(part: range, view: range, size: int) -> Iterator[range]:
    """*part*, cut where cells end."""
    at = part.start
    while at < part.stop:
        end = min(part.stop, view.start + ((at - view.start) // size + 1) * size)
        yield range(at, end)
        at = end


def _add(
    counts: dict[int, dict[TaskStatus, int]],
    view: range,
    size: int,
    indexes: range,
    found: Mapping[TaskStatus, int],
) -> None:
    cell = counts[view.start + (indexes.start - view.start) // size * size]
    for status, count in found.items():
        cell[status] = cell.get(status, 0) + count


def _joined(spans: Sequence[range]) -> Iterator[range]:
    """*spans* with neighbours made one."""
    last: range | None = None
    for span in spans:
        if last is not None and span.start <= last.stop:
            last = range(last.start, max(last.stop, span.stop))
            continue
        if last is not None:
            yield last
        last = span
    if last is not None:
        yield last


def _count(groups: dict[tuple[str, str], FailureGroup], row: TaskEntity[Any]) -> None:
    error, index = row.error, row.index or 0
    type_, message = ("", "") if error is None else (error.type, error.message)
    name = (type_, re.sub(r"\d+", "0", message[: _PATTERN * 2])[:_PATTERN])
    group = groups.get(name)
    if group is None:
        groups[name] = FailureGroup(type=type_, message=message, count=1, examples=(index,))
        return
    examples = group.examples if len(group.examples) == EXAMPLES else (*group.examples, index)
    groups[name] = FailureGroup(type=type_, message=group.message, count=group.count + 1, examples=examples)


def _largest(groups: Mapping[tuple[str, str], FailureGroup]) -> Sequence[FailureGroup]:
    return sorted(groups.values(), key=lambda group: -group.count)[:MAX_GROUPS]
