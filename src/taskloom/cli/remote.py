"""The server that `--url` names, for the commands that look at tasks and steer them."""

from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from taskloom.errors import InvalidInput

if TYPE_CHECKING:
    from taskloom.client import TaskloomClient

LOCAL: Final = frozenset({"completion", "demo", "doctor", "serve", "worker"})
"""Commands that work on this machine."""

Url = Annotated[
    str | None,
    typer.Option(
        metavar="URL", envvar="TASKLOOM_URL", show_envvar=False, help="Ask this server. [default: TASKLOOM_URL]"
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        metavar="T", envvar="TASKLOOM_TOKEN", show_envvar=False, help="What it is shown. [default: TASKLOOM_TOKEN]"
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A server, and the token shown to it."""

    url: str
    token: str | None = field(repr=False)
    is_explicit: bool
    """Whether the command line says so, not the environment."""

    def client(self) -> "TaskloomClient":
        """A client of the server. Raises: MissingExtra, InvalidInput."""
        from taskloom.client import TaskloomClient  # only where it is used

        return TaskloomClient(self.url, self.token)


_CHOSEN: Final[ContextVar[Remote | None]] = ContextVar("_CHOSEN", default=None)


def choose(context: typer.Context, url: str | None, token: str | None) -> None:
    """Remember for the command what the command line or the environment says. Raises: InvalidInput."""
    _CHOSEN.set(None)
    if url is None:
        return
    source = context.get_parameter_source("url")
    is_explicit = source is not None and source.name == "COMMANDLINE"
    if is_explicit and context.invoked_subcommand in LOCAL:
        raise InvalidInput("--url", f"is not for {context.invoked_subcommand!r}, which works here", "leave it out")
    _CHOSEN.set(Remote(url=url, token=token, is_explicit=is_explicit))


def chosen(database: Path | None) -> Remote | None:
    """The server to ask; None: the *database*. What the command line says wins. Raises: InvalidInput for both."""
    remote = _CHOSEN.get()
    if remote is None or database is None:
        return remote
    if remote.is_explicit:
        raise InvalidInput("--database", "is given, and --url too", "give one of them")
    return None
