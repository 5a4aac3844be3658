"""Tasks for people: a table of many, a sheet of one. For machines: the stored form as JSON."""

import json
from collections.abc import Iterator
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from taskloom.cli.output import cell, print_columns, visible
from taskloom.events.task_log import NAME
from taskloom.model import HistoryEntry, Kind, LogLine, Page, TaskEntity, TaskStatus
from taskloom.record import log_item, time_text, to_item

STYLES: Final = {
    TaskStatus.PENDING: "yellow",
    TaskStatus.IN_PROGRESS: "cyan",
    TaskStatus.COMPLETED: "green",
    TaskStatus.FAILED: "bold red",
    TaskStatus.CANCELLED: "magenta",
}
LEVEL_STYLES: Final = {"DEBUG": "dim", "WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold red"}
MAX_VALUE: Final = 2_000
"""Characters of an input or a result that people get to see."""


def print_json(console: Console, value: Any) -> None:
    """*value* as JSON: ASCII, so that it survives every terminal and pipe."""
    console.file.write(json.dumps(value, indent=2) + "\n")


def page_item(page: Page[TaskEntity[Any]]) -> dict[str, Any]:
    """A page as JSON: the tasks as they are stored, and where the next page begins."""
    return {"items": [to_item(task) for task in page.items], "cursor": page.cursor}


def print_page(console: Console, page: Page[TaskEntity[Any]]) -> None:
    """A line per task. The id comes last, so that it is easy to copy."""
    if not page.items:
        console.print("no tasks")
    else:
        tasks = [
            [
                cell(time_text(task.created_at)),
                cell(task.status, STYLES[task.status]),
                cell(_progress(task)),
                cell(task.name),
                cell(task.id),
            ]
            for task in page.items
        ]
        print_columns(console, [_head("CREATED", "STATUS", "PROGRESS", "NAME", "ID"), *tasks])
    if page.cursor is not None:
        console.print(f"more: --cursor {page.cursor}", soft_wrap=True)


def print_line(console: Console, line: LogLine) -> None:
    """A log line on a line of its own, and below it the exception."""
    if line.dropped:
        console.print(f"… {line.dropped:,} lines were dropped", soft_wrap=True)
    text = Text.assemble(
        f"{time_text(line.at)} ",
        (f"{visible(line.level):8}", LEVEL_STYLES.get(line.level, "")),
        f" {line.run}/{line.attempt} ",
        "" if line.logger == NAME else f"{visible(line.logger)}: ",
        visible(line.message),
        *(f" {visible(name)}={visible(_field(value))}" for name, value in line.fields.items()),
    )
    console.print(text, soft_wrap=True)
    if line.exception is not None:
        for row in line.exception.rstrip("\n").split("\n"):
            console.print(Text(f"    {visible(row)}"), soft_wrap=True)


def print_json_line(console: Console, line: LogLine) -> None:
    """A log line as JSON on a line of its own, at once: somebody may be following."""
    console.file.write(json.dumps(log_item(line)) + "\n")
    console.file.flush()


def _field(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def print_task(console: Console, task: TaskEntity[Any]) -> None:
    """Everything about *task*, and its history."""
    print_columns(
        console,
        [
            [cell(name, "bold"), cell(value, STYLES[task.status] if name == "status" else "")]
            for name, value in _fields(task)
        ],
    )
    if task.history:
        console.print()
        print_columns(console, [_head("AT", "STATUS", "RUN", "ATTEMPT", "BY", "REASON"), *map(_entry, task.history)])
    if task.error is not None and task.error.traceback is not None:
        console.print()
        for line in task.error.traceback.rstrip("\n").split("\n"):
            console.print(visible(line), soft_wrap=True)


def _fields(task: TaskEntity[Any]) -> Iterator[tuple[str, str]]:
    yield "id", task.id
    yield "kind", _KINDS[task.kind]
    yield "name", task.name
    yield "status", str(task.status)
    if progress := _progress(task):
        yield "progress", progress
    if task.rate is not None:
        left = f", {seconds_text(task.seconds_left)} left" if task.seconds_left else ""
        yield "rate", f"{task.rate:,.1f}/s{left}"
    yield "created", f"{time_text(task.created_at)}{f' by {task.created_by}' if task.created_by else ''}"
    for name, at in (
        ("started", task.started_at),
        ("finished", task.finished_at),
        ("next attempt", task.next_attempt_at),
        ("lease until", task.lease_until),
    ):
        if at is not None:
            yield name, time_text(at)
    if task.started_at is not None and task.finished_at is not None:
        yield "took", seconds_text((task.finished_at - task.started_at).total_seconds())
    yield "run, attempt", f"{task.run}, {task.attempt}"
    if task.execution_arn is not None:
        yield "execution", task.execution_arn
    if task.kind is Kind.SFN_TASK and task.input is None:
        yield "input", f"{task.attributes.sub_task_count:,} elements, not shown"
    else:
        yield "input", _value(task.input)
    if task.attributes.results is not None:
        alone = len(task.attributes.results) == 1 and len(task.attributes.results[0]) == 1
        yield "result", _value(task.result if alone else task.attributes.results)
    if task.error is not None:
        yield "error", f"{task.error.type}: {task.error.message}"


_KINDS: Final = {
    Kind.TASK: "single task",
    Kind.SFN_TASK: "step function task",
    Kind.SUB_TASK: "sub-task",
}


def _entry(entry: HistoryEntry) -> list[Text]:
    return [
        cell(time_text(entry.at)),
        cell(entry.status, STYLES[entry.status]),
        cell(entry.run),
        cell(entry.attempt),
        cell(entry.by or ""),
        cell(entry.reason or ""),
    ]


def _head(*names: str) -> list[Text]:
    return [cell(name, "bold") for name in names]


def _progress(task: TaskEntity[Any]) -> str:
    attributes, progress = task.attributes, task.progress
    if attributes.sub_task_count is not None:
        failed = f", {attributes.sub_task_failed_count:,} failed" if attributes.sub_task_failed_count else ""
        done = attributes.sub_task_succeed_count + attributes.sub_task_failed_count
        return f"{done:,} of {attributes.sub_task_count:,}{failed}"
    if progress is None:
        return ""
    total = "" if progress.total is None else f" of {progress.total:,}"
    return f"{progress.done:,}{total}" + (f", {progress.message}" if progress.message else "")


def _value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]} … (all of it: --json)"


def seconds_text(seconds: float | None) -> str:
    """A duration for people: `0.041 s`, `4.1 s`, `41 s`, `4:10`, `1:02:03`; "?" when nobody knows."""
    if seconds is None:
        return "?"
    if seconds < 60:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
