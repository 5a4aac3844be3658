"""The sub-tasks of a fan-out as a grid of cells: of 100,000 a cell stands for a range, and opens it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from taskloom.model import TaskStatus
from taskloom.operations.fan_outs import Cell
from taskloom.web.dashboard.text import Translate

CELLS: Final = 1000
"""At most; more would make the page too heavy."""
COLUMNS: Final = 50
SIDE: Final = 12
"""From one cell to the next."""

_LETTER: Final = {
    TaskStatus.PENDING: "p",
    TaskStatus.IN_PROGRESS: "i",
    TaskStatus.COMPLETED: "c",
    TaskStatus.FAILED: "f",
    TaskStatus.CANCELLED: "x",
}
"""Short, since it stands in the page a thousand times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Square:
    """One cell in the picture."""

    x: int
    y: int
    letter: str
    """Its class: of a status, or `m` for partly done; `f1` to `f3` say how much of it has failed."""
    query: str
    """What opens it."""
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The picture, `width` × `height`."""

    squares: Sequence[Square]
    width: int
    height: int
    each: int
    """Sub-tasks per cell."""


def grid(cells: Sequence[Cell], t: Translate) -> Grid:
    """The picture of *cells*."""
    columns = COLUMNS if len(cells) > COLUMNS else max(1, len(cells))
    squares = []
    for number, cell in enumerate(cells):
        is_one = cell.end - cell.first == 1
        squares.append(
            Square(
                x=number % columns * SIDE,
                y=number // columns * SIDE,
                letter=letter(cell),
                query=f"at={cell.first}" if is_one else f"first={cell.first}&end={cell.end}",
                label=label(cell, t),
            )
        )
    rows = -(-len(cells) // columns)
    each = max((cell.end - cell.first for cell in cells), default=1)
    return Grid(squares=squares, width=columns * SIDE, height=rows * SIDE, each=each)


def letter(cell: Cell) -> str:
    """The class of *cell*: what a person should notice first."""
    size, counts = cell.end - cell.first, cell.counts
    failed = counts.get(TaskStatus.FAILED, 0)
    if failed:
        return "f" if failed == size else f"f{1 if failed * 10 < size else 2 if failed * 2 < size else 3}"
    if TaskStatus.IN_PROGRESS in counts:
        return "i"
    if len(counts) == 1:
        return _LETTER[next(iter(counts))]
    return "x" if TaskStatus.CANCELLED in counts else "m"


def label(cell: Cell, t: Translate) -> str:
    """What *cell* is, in words."""
    where = f"{cell.first:,}" if cell.end - cell.first == 1 else f"{cell.first:,}–{cell.end - 1:,}"
    if len(cell.counts) == 1:
        return f"{where}: {t(f'status.{next(iter(cell.counts))}')}"
    counts = ", ".join(
        f"{t(f'status.{status}')} {cell.counts[status]:,}" for status in TaskStatus if status in cell.counts
    )
    return f"{where}: {counts}"
