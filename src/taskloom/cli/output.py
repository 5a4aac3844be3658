"""Where output goes, and that it stays readable there: on a terminal, in a file, in a pipe."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

from rich.console import Console
from rich.text import Text

LINE_EVERY: Final = 5.0
"""Seconds between two lines about a count that grows, where there is no terminal."""
WIDE: Final = 1_000_000
"""Columns off a terminal: nothing is wrapped or cut."""


def console(file: TextIO | None = None) -> Console:
    """A console for *file* (default: the standard output). Off a terminal it writes text alone, no escape codes."""
    file = sys.stdout if file is None else file
    terminal = file.isatty()
    return Console(
        file=file,
        force_terminal=terminal,
        color_system="auto" if terminal else None,
        width=None if terminal else WIDE,
        markup=False,
        highlight=False,
        emoji=False,
    )


def visible(text: str) -> str:
    """*text* with an escape for each character that does not print: it may come from anybody."""
    return text if text.isprintable() else "".join(map(_visible, text))


def say(text: str) -> None:
    """Print *text* on the standard output."""
    print(visible(text))


def complain(error: object) -> None:
    """Say on the standard error what went wrong."""
    print(f"Error: {visible(str(error))}", file=sys.stderr)


def _visible(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """Call it with how many there are by now: shown on the standard error, on a terminal at once, elsewhere in a line
    every few seconds."""
    error = console(sys.stderr)
    if error.is_terminal:
        with error.status(f"{what}: 0") as status:
            yield lambda count: status.update(f"{what}: {count:,}")
        return
    next_line = time.monotonic() + LINE_EVERY

    def show(count: int) -> None:
        nonlocal next_line
        if time.monotonic() >= next_line:
            print(f"{what}: {count}", file=sys.stderr, flush=True)
            next_line = time.monotonic() + LINE_EVERY

    yield show


def cell(text: object, style: str = "") -> Text:
    """*text* for a table; where a terminal is too narrow it goes on in the next line, and is never cut."""
    return Text(visible(str(text)), style=style, overflow="fold")


def print_columns(console: Console, rows: Sequence[Sequence[Text]], *, gap: int = 2) -> None:
    """Print *rows* below each other, each column as wide as its widest cell but the last.

    A line is never broken here: a terminal wraps what is too long, and what is copied from it is still whole.
    """
    widths = [max(cell.cell_len for cell in column) + gap for column in zip(*rows, strict=True)]
    for row in rows:
        line = Text()
        for column, width in zip(row[:-1], widths, strict=False):
            line.append_text(column).append(" " * (width - column.cell_len))
        line.append_text(row[-1]).rstrip()
        console.print(line, soft_wrap=True)


def print_path(path: Path) -> None:
    """Print *path* alone on a line, byte for byte, so that a program can read it."""
    sys.stdout.flush()
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None:
        print(path)
    else:
        binary.write(os.fsencode(path) + b"\n")
        binary.flush()
