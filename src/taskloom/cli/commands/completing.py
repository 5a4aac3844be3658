"""Completion in the shell."""

from enum import StrEnum
from typing import Annotated, Final

import typer

# Typer's own options for this would write into the files of the shell, and guess which one it is.
from typer._completion_classes import completion_init
from typer._completion_shared import get_completion_script

VARIABLE: Final = "_TASKLOOM_COMPLETE"
"""Set by the shell that asks what may follow."""


class Shell(StrEnum):
    """Shells that can ask."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.", show_default=False)],
) -> None:
    """Print what makes your shell complete commands and options."""
    print(get_completion_script(prog_name="taskloom", complete_var=VARIABLE, shell=shell.value))


def prepare() -> None:
    """Be ready to answer a shell that asks."""
    completion_init()
