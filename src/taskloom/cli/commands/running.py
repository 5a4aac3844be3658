"""Running tasks: the worker, and the demonstration."""

import asyncio
import sys
import sysconfig
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from taskloom.cli import demo_view, finding, logs, output, session, supervisor, working
from taskloom.cli.options import App
from taskloom.demo.run import run as run_demo
from taskloom.policy import whole_number


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


def worker(
    application: App,
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
        session.run(module, working.work(module, options))
        return
    module.worker(concurrency=concurrency, task_types=task_type or None, grace=grace)  # says now what is wrong
    command = supervisor.worker_command(application, options, log_level)
    seconds = module.settings.grace_seconds if grace is None else grace
    code = asyncio.run(supervisor.Supervisor(command, processes, grace=timedelta(seconds=seconds)).run())
    if code:
        raise typer.Exit(code)
