"""The files below a folder."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from taskloom.demo import names

REPORT_EVERY: Final = 100
"""Files between two calls of `on_file`."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is to be fingerprinted: whatever is no folder, and a folder that cannot be read."""

    path: str
    """Relative, with "/" between the parts."""
    problem: str | None = None
    """Why the folder cannot be read."""

    def to_json(self) -> dict[str, str]:
        """As a line of the list."""
        return names.to_json("path", self.path) | ({} if self.problem is None else {"problem": self.problem})


@dataclass(slots=True)
class Counts:
    """What the walk met."""

    files: int = 0
    folders: int = 0
    links_to_folders: int = 0
    """Not followed: they may lead round in circles, or out of the folder."""


def walk(root: str, leave_out: str | None, counts: Counts) -> Iterator[Found]:
    """Everything below *root* but the folder *leave_out*, in the order of the paths.

    Holds no more in memory than the folders on the way to the current file. Links to folders are neither followed nor
    listed; all other links are listed, whether they lead somewhere or not.
    """
    hidden = None if leave_out is None else _identity(leave_out)
    if hidden is not None and hidden == _identity(root):
        return
    waiting: list[Iterator[tuple[str, bool]]] = [iter([("", True)])]
    while waiting:
        try:
            path, is_folder = next(waiting[-1])
        except StopIteration:
            waiting.pop()
            continue
        if not is_folder:
            counts.files += 1
            yield Found(path)
            continue
        try:
            inside = _entries(root, path, hidden, counts)
        except OSError as error:
            counts.files += 1
            yield Found(path or ".", f"{type(error).__name__}: {error.strerror} (the folder cannot be read)")
        else:
            counts.folders += 1
            waiting.append(iter(inside))


def _entries(root: str, folder: str, hidden: tuple[int, int] | None, counts: Counts) -> list[tuple[str, bool]]:
    found: list[tuple[str, bool]] = []
    prefix = f"{folder}/" if folder else ""
    with os.scandir(os.path.join(root, folder)) as entries:
        for entry in entries:
            kind = _kind(entry)
            if kind == "link to a folder":
                counts.links_to_folders += 1
            elif kind == "file" or hidden is None or _identity(entry.path) != hidden:
                found.append((f"{prefix}{entry.name}", kind == "folder"))
    # A folder sorts as its content does, so that the whole list is in the order of the paths.
    return sorted(found, key=lambda item: f"{item[0]}/" if item[1] else item[0])


def _kind(entry: "os.DirEntry[str]") -> str:
    try:
        if entry.is_dir(follow_symlinks=False):
            return "folder"
        return "link to a folder" if entry.is_symlink() and entry.is_dir() else "file"
    except OSError:  # a link that leads to itself, say: its fingerprint will tell
        return "file"


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def write_list(root: str, leave_out: str, target: Path, on_file: Callable[[int], None]) -> dict[str, Any]:
    """Write the inventory of *root* to *target*, one JSON object per line; the counts, as the result of a task.

    *on_file* is called now and then with the number of files so far. Written again, the file is replaced as a whole.
    """
    counts = Counts()
    unfinished = target.with_name(target.name + ".tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        for found in walk(root, leave_out, counts):
            file.write(json.dumps(found.to_json(), ensure_ascii=False) + "\n")
            if counts.files % REPORT_EVERY == 0:
                on_file(counts.files)
    unfinished.replace(target)
    on_file(counts.files)
    return {
        "list": target.name,
        "files": counts.files,
        "folders": counts.folders,
        "linksToFolders": counts.links_to_folders,
    }


def read_list(path: Path) -> Iterator[dict[str, str]]:
    """The lines of an inventory, one after the other."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
