"""The report: what the sub-tasks found, one entry per file; and the sums for the table."""

import heapq
import json
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from taskloom.demo.application import NotFingerprinted
from taskloom.demo.fingerprint import Fingerprint
from taskloom.model import TaskEntity, TaskStatus

SHOWN: Final = 20
"""Failures that the summary holds; all are in the report."""
SLOWEST: Final = 5


@dataclass(slots=True)
class Summary:
    """Sums over all files."""

    files: int = 0
    failed: int = 0
    bytes: int = 0
    """Of the files that could be read, parsed or not; and so are the lines."""
    lines: int = 0
    functions: int = 0
    classes: int = 0
    slowest: list[tuple[float, str]] = field(default_factory=list)
    """Seconds and path, the slowest first."""
    failures: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason of the first ones."""

    def add(self, path: str, found: Fingerprint) -> None:
        """Count a file."""
        self.files += 1
        self.bytes += found.size or 0
        self.lines += found.lines or 0
        self.functions += found.functions or 0
        self.classes += found.classes or 0
        self.slowest = heapq.nlargest(SLOWEST, [*self.slowest, (found.seconds, path)])
        if found.error is not None:
            self.failed += 1
            if len(self.failures) < SHOWN:
                self.failures.append((path, found.error))


async def write_report(
    sub_tasks: AsyncIterable[TaskEntity[Any]], target: Path, on_file: Callable[[int], None]
) -> Summary:
    """Write one entry per sub-task to *target*, a JSON list with a line for each; the sums.

    Nothing is held in memory but the sums. The file appears as a whole. *on_file* is called with the files so far.
    """
    summary = Summary()
    unfinished = target.with_name(target.name + ".tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write("[")
        async for task in sub_tasks:
            found = found_by(task)
            file.write((",\n" if summary.files else "\n") + json.dumps(entry(task.input, found), ensure_ascii=False))
            summary.add(task.input["path"], found)
            on_file(summary.files)
        file.write("\n]\n")
    unfinished.replace(target)
    return summary


def found_by(task: TaskEntity[Any]) -> Fingerprint:
    """What the sub-task *task* found out about its file, also when it failed."""
    result = task.result
    if task.status is TaskStatus.COMPLETED and isinstance(result, dict):
        return Fingerprint(**result)  # type: ignore[arg-type] # as the handler wrote it
    if task.error is not None:
        return NotFingerprinted.read(task.error.message)
    return Fingerprint(error=f"the sub-task is {task.status}")


def entry(file: dict[str, str], found: Fingerprint) -> dict[str, Any]:
    """The entry of a file: `error` only where there is one, and `pathBase64` only where the name is no Unicode."""
    item: dict[str, Any] = {name: file[name] for name in ("path", "pathBase64") if name in file}
    item |= {name: getattr(found, name) for name in ("size", "sha256", "lines", "functions", "classes")}
    return item if found.error is None else item | {"error": found.error}
