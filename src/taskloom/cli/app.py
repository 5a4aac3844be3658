"""The program: which commands there are. What they raise becomes an exit code here, and nowhere else."""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from taskloom.cli import output
from taskloom.cli.commands import completing, creating, doctor, running, seeing, steering, webhooks
from taskloom.cli.exit_codes import SIGNAL, exit_code
from taskloom.errors import TaskloomError


class Commands(TyperGroup):
    """The one place that turns errors into exit codes."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what Taskloom raises is said on the standard error."""
        try:
            return super().invoke(ctx)
        except TaskloomError as error:
            output.complain(error)
            raise typer.Exit(exit_code(error)) from error
        except KeyboardInterrupt:
            print("Interrupted.", file=sys.stderr)
            raise typer.Exit(SIGNAL + 2) from None


app = typer.Typer(
    cls=Commands,
    help="Long-running tasks on one SQLite file: run them and look at them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: the same on a terminal, in a pipe and in a log
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run(args: Sequence[str] | None = None) -> int:
    """Run the command *args* (default: what the program was started with); its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name must not end the program
    if completing.VARIABLE in os.environ:
        completing.prepare()
    try:
        app(None if args is None else list(args), prog_name="taskloom")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"taskloom {version('taskloom')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


app.command("demo")(running.demo)
app.command("worker")(running.worker)
app.command("create")(creating.create)
app.command("watch")(seeing.watch)
app.command("show")(seeing.show)
app.command("list")(seeing.list_)
app.command("explain")(seeing.explain)
app.command("logs")(seeing.logs)
app.command("cancel")(steering.cancel)
app.command("retry")(steering.retry)
app.command("queues")(seeing.queues)
app.command("pause")(steering.pause)
app.command("resume")(steering.resume)
app.command("purge")(steering.purge)
app.command("dead-letters")(seeing.dead_letters)
app.command("redrive")(steering.redrive)
app.command("webhooks")(webhooks.webhooks)
app.command("doctor")(doctor.doctor)
app.command("completion")(completing.completion)
