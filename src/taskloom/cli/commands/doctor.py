"""The doctor: what is wrong, and what to do about it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from taskloom.cli import checkup, diagnosis, output, session, views
from taskloom.cli.diagnosis import Finding, problem
from taskloom.cli.exit_codes import FAILED
from taskloom.cli.file_checkup import FileCheckup
from taskloom.cli.finding import find_module
from taskloom.cli.options import Database
from taskloom.clock import SystemClock
from taskloom.errors import StoreError
from taskloom.module import TaskModule
from taskloom.settings import Settings


def doctor(
    application: Annotated[
        str | None,
        typer.Argument(metavar="APP", help="Look at this application too, as `worker` takes it.", show_default=False),
    ] = None,
    database: Database = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON, for programs.")] = False,
) -> None:
    """Look for what is wrong, and say what to do about it.

    At the versions, the database, the clock, the workers and the queues. Nothing is changed. The exit code is 1 if
    there is a problem.
    """
    found = list(_findings(application, database))
    console = output.console()
    problems = diagnosis.problems(found)
    if as_json:
        views.print_json(console, {"problems": problems, "findings": [finding.item() for finding in found]})
    else:
        diagnosis.print_findings(console, found)
    if problems:
        raise typer.Exit(FAILED)


def _findings(application: str | None, database: Path | None) -> Iterator[Finding]:
    yield from checkup.versions()
    module = None
    if application is not None:
        module = find_module(application)
        yield checkup.application_finding(application, module)
    if database is None:
        database = Path((Settings() if module is None else module.settings).database)
    file = FileCheckup(database, SystemClock().now())
    yield from file.findings()
    if file.is_usable:
        yield from _queues(database, module)


def _queues(database: Path, module: TaskModule | None) -> list[Finding]:
    served = None if module is None else module.served
    try:
        return session.ask(database, lambda service: checkup.queues(service, served))
    except StoreError as error:
        return [problem("queues", f"they cannot be read: {error}", "see `lock`, `writable` and `disk`")]
