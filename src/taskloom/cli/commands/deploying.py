"""Deploying on AWS."""

import json
from pathlib import Path
from typing import Annotated

import typer

from taskloom.cli import finding, output
from taskloom.cli.options import App
from taskloom.errors import InvalidInput, MissingExtra

app = typer.Typer(help="Deploy an application on AWS.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Deploy an application on AWS."""


@app.command("synth")
def synth(
    application: App,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where template and package go.")] = Path("taskloom-deploy"),
    stack: Annotated[str, typer.Option(metavar="NAME", help="Name of the stack.")] = "taskloom",
    requirements: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What else the application needs, for pip.", dir_okay=False)
    ] = None,
    memory: Annotated[int, typer.Option(metavar="MB", min=128, max=10240, help="Memory of each function.")] = 512,
    timeout: Annotated[int, typer.Option(metavar="SECONDS", min=10, max=900, help="Longest run of a function.")] = 900,
    max_concurrency: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            max=1000,
            help="Single tasks at a time. [default: what the account allows]",
            show_default=False,
        ),
    ] = None,
    python: Annotated[str, typer.Option(metavar="VERSION", help="Python of the functions.")] = "3.13",
    x86: Annotated[bool, typer.Option("--x86", help="x86_64 instead of Arm.")] = False,
    jwt_issuer: Annotated[
        str | None, typer.Option(metavar="URL", help="Add an HTTP API that accepts the tokens of this issuer.")
    ] = None,
    jwt_audience: Annotated[
        list[str] | None, typer.Option(metavar="A", help="For whom the tokens are; may be given more than once.")
    ] = None,
) -> None:
    """Write a CloudFormation template and the package of its functions.

    Upload the package to a bucket of yours and deploy the template with the parameters CodeBucket and CodeKey.
    """
    try:
        import aws_cdk  # noqa: F401
    except ImportError as error:
        raise MissingExtra("taskloom deploy", "cdk") from error
    from taskloom.deploy import package, template
    from taskloom.deploy.api import Jwt

    if (jwt_issuer is None) != (not jwt_audience):
        raise InvalidInput("--jwt-issuer", "needs --jwt-audience, and the other way round", "give both or neither")
    finding.find_module(application)
    if requirements is not None and not requirements.is_file():
        raise InvalidInput("--requirements", f"{requirements} does not exist", "give a file as pip reads it")
    out.mkdir(parents=True, exist_ok=True)
    fresh = out / "package.zip"
    digest = package.build(application, fresh, requirements=requirements, python=python, arm=not x86)
    zipped = fresh.replace(out / f"{stack}-{digest[:16]}.zip")
    made = template.template(
        stack,
        code_key=zipped.name,
        memory_size=memory,
        timeout=timeout,
        max_concurrency=max_concurrency,
        python=python,
        arm=not x86,
        jwt=None if jwt_issuer is None else Jwt(issuer=jwt_issuer, audience=jwt_audience or ()),
    )
    written = out / f"{stack}.template.json"
    written.write_text(json.dumps(made, indent=1) + "\n", "utf-8")
    output.print_path(written)
    output.print_path(zipped)
