"""The commands. They parse, call one use case, and show what comes of it; errors become exit codes in one place."""

import asyncio
import sys
import sysconfig
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import typer
from typer.core import TyperGroup

from taskloom.cli import demo_view, finding, logs, output, supervisor, views, working
from taskloom.cli.exit_codes import SIGNAL, exit_code
from taskloom.demo.run import run as run_demo
from taskloom.errors import TaskloomError
from taskloom.model import LogLine, TaskKey
from taskloom.module import TaskModule
from taskloom.policy import whole_number
from taskloom.record import to_item
from taskloom.service import TaskService

ResultT = TypeVar("ResultT")


class Commands(TyperGroup):
    """The one place that turns errors into exit codes."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what Taskloom raises is said on the standard error."""
        try:
            return super().invoke(ctx)
        except TaskloomError as error:
            print(f"Error: {output.visible(str(error))}", file=sys.stderr)
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

Database = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH", help="The database of the application. [default: TASKLOOM_DATABASE, else taskloom.db]"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the stored form, for programs.")]


def run(args: Sequence[str] | None = None) -> int:
    """Run the command *args* (default: what the program was started with); its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name must not end the program
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


@app.command()
def demo(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER", help="What to look at. [default: the standard library of this Python]"),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where the report goes; never fingerprinted itself.")
    ] = Path("taskloom-demo"),
) -> None:
    """Fingerprint every file below a folder.

    The inventory is a single task; its result starts a step function task with one sub-task per file, which takes the
    size, the SHA-256, the number of lines and, of Python files, the number of functions and classes. Links to folders
    are not followed; a link to a file counts as that file. A file that cannot be read or parsed fails alone.
    """
    logs.configure(logs.LogLevel.WARNING)
    folder = Path(sysconfig.get_path("stdlib")) if folder is None else folder
    with demo_view.observer(output.console(sys.stderr)) as observer:
        outcome = asyncio.run(run_demo(folder, out, observer))
    demo_view.print_outcome(output.console(), folder, outcome)
    output.print_path(outcome.report)


@app.command()
def worker(
    application: Annotated[
        str,
        typer.Argument(
            metavar="APP", help="package.module:attribute, a TaskModule or a function without arguments that makes one."
        ),
    ],
    concurrency: Annotated[int, typer.Option(metavar="N", help="Handlers at a time.")] = 8,
    task_type: Annotated[
        list[str] | None, typer.Option(metavar="T", help="Take only tasks of this type; may be given more than once.")
    ] = None,
    grace: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="What running handlers have at the end. [default: TASKLOOM_GRACE_SECONDS, else 30]",
            show_default=False,
        ),
    ] = None,
    processes: Annotated[int, typer.Option(metavar="N", help="Worker processes, each with its own handlers.")] = 1,
    log_level: Annotated[logs.LogLevel, typer.Option(help="What is logged, to the standard error.")] = (
        logs.LogLevel.INFO
    ),
    until_closed: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the tasks of an application.

    It ends with SIGINT (Ctrl-C) or SIGTERM: nothing more is claimed, running handlers have the grace time, and what
    still runs then is given back for another worker. A second signal ends the process at once. With several processes,
    one that dies is started again.
    """
    logs.configure(log_level)
    whole_number(processes, "processes", low=1, high=supervisor.MAX_PROCESSES)
    module = finding.find_module(application)
    options = working.Options(
        concurrency=concurrency, task_types=task_type or None, grace=grace, until_closed=until_closed
    )
    if processes == 1:
        _run(module, working.work(module, options))
        return
    module.worker(concurrency=concurrency, task_types=task_type or None, grace=grace)  # says now what is wrong
    command = supervisor.worker_command(application, options, log_level)
    seconds = module.settings.grace_seconds if grace is None else grace
    code = asyncio.run(supervisor.Supervisor(command, processes, grace=timedelta(seconds=seconds)).run())
    if code:
        raise typer.Exit(code)


@app.command()
def show(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The id of a task or of a sub-task, as `list` prints it.")],
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Show one task or sub-task.

    Its status, progress, input, result, error and history.
    """
    task_key = TaskKey.parse(key)
    module = finding.open_database(database)
    task = _run(module, module.task_service.get_task(task_key))
    console = output.console()
    if as_json:
        views.print_json(console, to_item(task))
    else:
        views.print_task(console, task)


@app.command("logs")
def logs_(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The id of a task or of a sub-task, as `list` prints it.")],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with the lines that come, until the task has ended.")
    ] = False,
    database: Database = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object per line, for programs.")] = False,
) -> None:
    """Show what the handlers of a task logged.

    The oldest line first, of all runs and attempts.
    """
    task_key = TaskKey.parse(key)
    module = finding.open_database(database)
    console = output.console()

    def show_line(line: LogLine) -> None:
        if as_json:
            views.print_json_line(console, line)
        else:
            views.print_line(console, line)

    shown = _run(module, _show_lines(module.task_service, task_key, follow, show_line))
    if not shown and not as_json:
        console.print("no lines")


async def _show_lines(service: TaskService, key: TaskKey, follow: bool, show_line: Callable[[LogLine], None]) -> int:
    """How many lines there were."""
    shown = 0
    if follow:
        async for line in service.follow_logs(key):
            show_line(line)
            shown += 1
        return shown
    page = await service.logs(key)
    while page.items:
        for line in page.items:
            show_line(line)
        shown += len(page.items)
        page = await service.logs(key, after=page.cursor)
    return shown


@app.command("list")
def list_(
    tenant: Annotated[str, typer.Option(metavar="T", help="Whose tasks.")],
    type_: Annotated[
        str, typer.Option("--type", metavar="TASK|SFN_TASK", help="Single tasks, or the parents of fan-outs.")
    ] = "TASK",
    status: Annotated[
        str | None,
        typer.Option(metavar="STATUS", help="Only PENDING, IN_PROGRESS, COMPLETED, FAILED or CANCELLED ones."),
    ] = None,
    task_type: Annotated[str | None, typer.Option(metavar="T", help="Only tasks of this type.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", help="At most so many (1 to 1000).")] = 20,
    order: Annotated[str, typer.Option(metavar="asc|desc", help="Oldest or newest first.")] = "desc",
    cursor: Annotated[str | None, typer.Option(metavar="C", help="Go on where the page before ended.")] = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """List the tasks of a tenant, newest first."""
    module = finding.open_database(database)
    page = _run(
        module,
        module.task_service.list_tasks(
            tenant,
            type=cast(Literal["TASK", "SFN_TASK"], type_),
            status=status,
            task_type=task_type,
            limit=limit,
            order=cast(Literal["asc", "desc"], order),
            cursor=cursor,
        ),
    )
    console = output.console()
    if as_json:
        views.print_json(console, views.page_item(page))
    else:
        views.print_page(console, page)


def _run(module: TaskModule, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    async def run_and_close() -> ResultT:
        try:
            return await work
        finally:
            await module.aclose()

    return asyncio.run(run_and_close())
