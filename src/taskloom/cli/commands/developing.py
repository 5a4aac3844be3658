"""An application on this machine, as it runs elsewhere."""

import shlex
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from taskloom.cli import finding
from taskloom.cli.options import App
from taskloom.errors import InvalidInput, MissingExtra

LOOK_EVERY = 1.0
"""Seconds between two looks at the functions' logs."""


def dev(
    application: App,
    aws: Annotated[bool, typer.Option("--aws", help="On an AWS emulator, with the stack deployed on it.")] = False,
    home: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the emulator is installed. [default: ~/.cache/taskloom/emulator]"),
    ] = None,
) -> None:
    """Run an application on an AWS emulator, without Docker.

    Installs the emulator at the first time, deploys the stack on it, prints what other programs need to create and
    watch tasks there, and then shows what the functions log, until Ctrl-C.
    """
    if not aws:
        raise InvalidInput("--aws", "is missing", "give it; embedded, `taskloom worker APP` is all that is needed")
    finding.find_module(application)
    try:
        import aws_cdk
        import boto3
    except ImportError as error:
        raise MissingExtra("taskloom dev --aws", "aws,cdk") from error
    del aws_cdk, boto3
    from taskloom.deploy import emulator, local, template

    with emulator.running(home or emulator.HOME, TASKLOOM_MAP_AT_ONCE=str(local.AT_ONCE)) as started:
        print("Deploying …", file=sys.stderr, flush=True)
        stack = local.deploy(started, template.template("taskloom", code_key="taskloom.zip"), application)
        for name, value in stack.environment.items():
            print(f"export {name}={shlex.quote(value)}")
        print("Ready. Ctrl-C ends it.", file=sys.stderr, flush=True)
        pause = threading.Event()  # nobody sets it: Ctrl-C ends this
        position: dict[str, int] = {}
        while True:
            for line in stack.logged(position):
                print(line, file=sys.stderr, flush=True)
            pause.wait(LOOK_EVERY)
