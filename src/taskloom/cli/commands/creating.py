"""Creating tasks."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

import typer

from taskloom import model
from taskloom.cli import json_lines, output, session, views
from taskloom.cli.json_lines import JsonLines
from taskloom.cli.options import AsJson, By, Database, who
from taskloom.errors import InvalidInput
from taskloom.model import DEFAULT_PRIORITY, InvokeContext, TaskEntity
from taskloom.operations.creation import NewTask
from taskloom.record import to_item
from taskloom.service import TaskService

PORTION: Final = 500
"""Lines that are created together: all of them, or none."""
STANDARD_INPUT: Final = Path("-")


def create(
    tenant: Annotated[str, typer.Option(metavar="T", help="Whose task it is.")],
    task_type: Annotated[str, typer.Option("--type", "--task-type", metavar="T", help="Which handler it is for.")],
    input_: Annotated[
        str | None, typer.Argument(metavar="INPUT", help="The input, as JSON. [default: null]", show_default=False)
    ] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="F", help="Read the input from this file; - is the standard input.")
    ] = None,
    lines: Annotated[
        bool, typer.Option("--lines", help="Read one JSON value per line, from the standard input or --file.")
    ] = False,
    fan_out: Annotated[
        bool, typer.Option("--fan-out", help="One step function task: a sub-task per line, or element of INPUT.")
    ] = False,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="For people. [default: the task type]")] = None,
    priority: Annotated[int, typer.Option(metavar="N", help="0 to 9; higher ones go first.")] = DEFAULT_PRIORITY,
    deadline: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="It fails unless it has ended by then.")
    ] = None,
    ttl: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="It is kept so long once it has ended. [default: for ever]")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="K", help="Create nothing if this key was used before.")
    ] = None,
    by: By = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Create tasks, and print their ids.

    One task; with --lines one for each line, in portions of 500. With --fan-out one step function task instead. A
    worker of the application runs them.
    """
    new = NewTask(
        tenant_code=model.tenant_code(tenant),
        task_type=model.task_type(task_type),
        name=name,
        priority=priority,
        deadline=deadline,
        ttl=ttl,
        idempotency_key=idempotency_key,
    )
    context = InvokeContext(user_id=who(by))
    if lines:
        if input_ is not None:
            raise InvalidInput("INPUT", "is given, and --lines too", "give one of them")
        with _opened(file or STANDARD_INPUT) as stream, session.immediate_ctrl_c():
            source = JsonLines(stream)
            if fan_out:
                task = session.ask(database, lambda service: _fan_out_of_lines(service, new, source, context))
                _print([task], as_json=as_json)
            else:
                session.ask(database, lambda service: _create_lines(service, new, source, context, as_json))
        return
    value = _value(input_, file, fan_out=fan_out)
    make = _fan_out if fan_out else _single
    _print([session.ask(database, lambda service: make(service, new, value, context))], as_json=as_json)


def _value(text: str | None, file: Path | None, *, fan_out: bool) -> Any:
    if text is not None and file is not None:
        raise InvalidInput("INPUT", "is given, and --file too", "give one of them")
    if file is not None:
        with _opened(file) as stream:
            return json_lines.parse(stream.read(), str(file))
    if text is not None:
        return json_lines.parse(text, "INPUT", "give JSON; a text stands in quotes: '\"text\"'")
    if fan_out:
        raise InvalidInput("INPUT", "is missing", "give a list with one JSON value per sub-task, --file or --lines")
    return None


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if path == STANDARD_INPUT:
        if sys.stdin is None:  # how Python says that the shell has closed it
            raise InvalidInput("--file", "the standard input is closed", "give a file")
        yield sys.stdin.buffer
        return
    with json_lines.open_file(path) as stream:
        yield stream


async def _single(service: TaskService, new: NewTask, value: Any, context: InvokeContext) -> TaskEntity[Any]:
    return await service.create_task(**_options(new), input=value, invoke_context=context)


async def _fan_out(service: TaskService, new: NewTask, value: Any, context: InvokeContext) -> TaskEntity[Any]:
    return await service.create_step_function_task(**_options(new), input=value, invoke_context=context)


def _options(new: NewTask) -> dict[str, Any]:
    return {field.name: getattr(new, field.name) for field in fields(NewTask) if field.name != "input"}


async def _fan_out_of_lines(
    service: TaskService, new: NewTask, source: JsonLines, context: InvokeContext
) -> TaskEntity[Any]:
    try:
        return await _fan_out(service, new, source, context)
    except InvalidInput as error:
        raise _located(error, error.field, source.number, "correct it; nothing was created") from error


async def _create_lines(
    service: TaskService, new: NewTask, source: JsonLines, context: InvokeContext, as_json: bool
) -> None:
    values, first = iter(source), 1
    while True:
        numbers: list[int] = []
        remedy = f"correct it, and go on with line {first}" if first > 1 else "correct it; nothing was created"
        try:
            tasks = []
            for value in islice(values, PORTION):
                key = None if new.idempotency_key is None else f"{new.idempotency_key}#{source.number}"
                numbers.append(source.number)
                tasks.append(replace(new, input=value, idempotency_key=key))
            created = await service.create_tasks(tasks, invoke_context=context)
        except InvalidInput as error:
            index, _, field = error.field.removeprefix("tasks[").partition("].")
            line = numbers[int(index)] if field else source.number
            raise _located(error, field or error.field, line, remedy) from error
        if not created:
            return
        _print(created, as_json=as_json, by_line=True)
        first = source.number + 1


def _located(error: InvalidInput, field: str, line: int, remedy: str) -> InvalidInput:
    """*error* with the number of the line that is to blame; of an option it stays as it is."""
    if field.startswith("line "):
        return InvalidInput(field, error.problem, remedy)
    if not field.startswith("input"):
        return InvalidInput(field, error.problem, error.remedy)
    path = re.sub(r"^input\[\d+\]", "input", field)
    return InvalidInput(f"line {line}", f"{path}: {error.problem}", f"{error.remedy}; {remedy}")


def _print(tasks: Sequence[TaskEntity[Any]], *, as_json: bool, by_line: bool = False) -> None:
    console = output.console()
    for task in tasks:
        if not as_json:
            console.file.write(f"{task.id}\n")
        elif by_line:
            views.print_compact(console, to_item(task))
        else:
            views.print_json(console, to_item(task))
    console.file.flush()
