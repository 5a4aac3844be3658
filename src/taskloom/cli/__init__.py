"""The command line. `pip install 'taskloom[cli]'` brings what it needs."""

import sys
from collections.abc import Sequence

from taskloom.errors import MissingExtra


def main(args: Sequence[str] | None = None) -> int:
    """Run the command *args* (default: what the program was started with); its exit code."""
    try:
        from taskloom.cli.app import run  # only here can its absence be explained
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("rich", "typer"):
            raise
        print(f"Error: {MissingExtra('the command line', 'cli')}", file=sys.stderr)
        return 2
    return run(args)
