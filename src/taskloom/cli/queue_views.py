"""The queues for people: tables of depths, workers, pauses and dead letters. For machines: the same as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from taskloom.cli.output import cell, print_columns
from taskloom.cli.views import head, seconds_text
from taskloom.model import TaskKey
from taskloom.operations.explaining import Explanation
from taskloom.operations.queues import QueueFigures
from taskloom.ports import Cap, DeadLetter, ListenerFigures, Pause, WorkerFacts
from taskloom.record import time_text

_NAMES: Final = {"task_type": "type", "key": "task"}
"""As in the stored form of a task."""

MAX_LETTER: Final = 2**63 - 1
"""The highest number of a dead letter that there can be."""


def item(
    value: QueueFigures | WorkerFacts | Pause | DeadLetter | Explanation | Cap | ListenerFigures,
) -> dict[str, Any]:
    """*value* as JSON."""
    return {_name(field.name): _plain(getattr(value, field.name)) for field in fields(value)}


def queues_item(
    figures: Sequence[QueueFigures], workers: Sequence[WorkerFacts], pauses: Sequence[Pause]
) -> dict[str, Any]:
    """All that `print_queues` shows as JSON."""
    return {
        "queues": [item(row) for row in figures],
        "workers": [item(worker) for worker in workers],
        "pauses": [item(pause) for pause in pauses],
    }


def print_queues(
    console: Console, figures: Sequence[QueueFigures], workers: Sequence[WorkerFacts], pauses: Sequence[Pause]
) -> None:
    """Depths, below them the workers that live, below them what is paused."""
    if figures:
        names = ("TENANT", "KIND", "TYPE", "WAITING", "DELAYED", "IN FLIGHT", "OLDEST", "RATE", "DEAD LETTERS", "")
        print_columns(console, [head(*names), *map(_figures, figures)])
    else:
        console.print("nothing is in the queues")
    console.print()
    if workers:
        print_columns(console, [head("WORKER", "VERSION", "STARTED", "RUNS", "SERVES"), *map(_worker, workers)])
    else:
        console.print("no worker is alive", style="yellow")
    if pauses:
        console.print()
        print_columns(console, [head("PAUSED", "NAME", "SINCE", "BY", "REASON"), *map(_pause, pauses)])


def print_dead_letters(console: Console, letters: Sequence[DeadLetter], *, more: bool) -> None:
    """A line per letter; the reason comes last, since it may be long."""
    if not letters:
        console.print("no dead letters")
        return
    rows = [
        [cell(letter.id), cell(time_text(letter.at)), cell(letter.failures), cell(letter.key.id), cell(letter.reason)]
        for letter in letters
    ]
    print_columns(console, [head("ID", "AT", "FAILURES", "TASK", "REASON"), *rows])
    if more:
        console.print(f"more: --cursor {letters[-1].id}", soft_wrap=True)


def print_dead_letter(console: Console, letter: DeadLetter) -> None:
    """Everything about *letter*."""
    rows = {
        "id": letter.id,
        "at": time_text(letter.at),
        "task": letter.key.id,
        "failures": letter.failures,
        "reason": letter.reason,
    }
    print_columns(console, [[cell(name, "bold"), cell(value)] for name, value in rows.items()])


def served_text(worker: WorkerFacts) -> str:
    """Which task types *worker* serves."""
    if worker.tasks is None or worker.fan_outs is None:
        return "all types"
    return ", ".join(sorted({*worker.tasks, *worker.fan_outs})) or "nothing"


def _figures(row: QueueFigures) -> list[Text]:
    return [
        cell(row.tenant_code),
        cell(row.kind),
        cell(row.task_type),
        cell(f"{row.waiting:,}"),
        cell(f"{row.delayed:,}"),
        cell(f"{row.in_flight:,}"),
        cell(seconds_text(row.oldest_age) if row.waiting else ""),
        cell(f"{row.rate:,.3g}/s" if row.rate else ""),
        cell(f"{row.dead_letters:,}", "bold red" if row.dead_letters else ""),
        cell("paused" if row.is_paused else "", "yellow"),
    ]


def _worker(worker: WorkerFacts) -> list[Text]:
    return [
        cell(worker.name),
        cell(worker.version),
        cell(time_text(worker.started_at)),
        cell(f"{len(worker.running)} of {worker.concurrency}"),
        cell(served_text(worker)),
    ]


def _pause(pause: Pause) -> list[Text]:
    return [
        cell(pause.scope),
        cell(pause.name),
        cell(time_text(pause.at)),
        cell(pause.by or ""),
        cell(pause.reason or ""),
    ]


def _name(name: str) -> str:
    if name in _NAMES:
        return _NAMES[name]
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def _entry(name: str, part: Any) -> tuple[str, Any]:
    # Caps stand under task types, which are no names of ours.
    return (name, item(part)) if isinstance(part, Cap) else (_name(name), part)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return time_text(value)
    if isinstance(value, Mapping):
        return dict(_entry(name, part) for name, part in value.items())
    return value.id if isinstance(value, TaskKey) else value
