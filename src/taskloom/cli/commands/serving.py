"""Serving the web application."""

from typing import Annotated

import typer

from taskloom.cli import finding, logs, session
from taskloom.cli import serving as server
from taskloom.cli.options import App
from taskloom.policy import whole_number


def serve(
    application: App,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="On which port; 0: any that is free.")] = 8000,
    worker: Annotated[bool, typer.Option("--worker/--no-worker", help="Run tasks in this process too.")] = True,
    concurrency: Annotated[int, typer.Option(metavar="N", help="Handlers at a time.")] = 8,
    grace: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="What running handlers have at the end. [default: TASKLOOM_GRACE_SECONDS, else 30]",
            show_default=False,
        ),
    ] = None,
    log_level: Annotated[logs.LogLevel, typer.Option(help="What is logged, to the standard error.")] = (
        logs.LogLevel.INFO
    ),
) -> None:
    """Serve an application over HTTP, and run its tasks.

    REST endpoints (where the module has enable_controller=True), live updates and the dashboard. It ends with SIGINT
    (Ctrl-C) or SIGTERM, as `worker` does. Without authentication (TASKLOOM_AUTH) only this machine is served.
    """
    logs.configure(log_level)
    whole_number(port, "--port", low=0, high=65535)
    module = finding.find_module(application)
    options = server.Options(host=host, port=port, concurrency=concurrency if worker else None, grace=grace)
    session.run(module, server.serve(module, options))
