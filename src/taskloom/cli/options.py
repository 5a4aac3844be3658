"""Arguments and options that several commands share: one word for one thing."""

import getpass
from pathlib import Path
from typing import Annotated

import typer

Database = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH", help="The database of the application. [default: TASKLOOM_DATABASE, else taskloom.db]"
    ),
]
App = Annotated[
    str,
    typer.Argument(
        metavar="APP", help="package.module:attribute, a TaskModule or a function without arguments that makes one."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the stored form, for programs.")]
Key = Annotated[str, typer.Argument(metavar="KEY", help="The id of a task or of a sub-task, as `list` prints it.")]
Keys = Annotated[list[str], typer.Argument(metavar="KEY...", help="The ids of tasks, as `list` prints them.")]
OfType = Annotated[str | None, typer.Option("--type", "--task-type", metavar="T", help="Those of this task type.")]
OfTenant = Annotated[str | None, typer.Option("--tenant", metavar="T", help="Those of this tenant.")]
Reason = Annotated[str | None, typer.Option(metavar="TEXT", help="Why; it is kept, and shown to whoever asks.")]
By = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Who does this, for the record. [default: the login name]"),
]


def who(by: str | None) -> str | None:
    """*by*, or the login name; None where nobody is named and the machine knows no name."""
    if by is not None:
        return by or None
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container whose user is a bare number
        return None
