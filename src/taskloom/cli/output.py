"""Where output goes, and that it stays readable there: on a terminal, in a file, in a pipe."""

import os
import sys
from pathlib import Path
from typing import Final, TextIO

from rich.console import Console
from rich.text import Text

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


def _visible(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def cell(text: object, style: str = "") -> Text:
    """*text* for a table; where a terminal is too narrow it goes on in the next line, and is never cut."""
    return Text(visible(str(text)), style=style, overflow="fold")


def print_path(path: Path) -> None:
    """Print *path* alone on a line, byte for byte, so that a program can read it."""
    sys.stdout.flush()
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None:
        print(path)
    else:
        binary.write(os.fsencode(path) + b"\n")
        binary.flush()
