"""`python -m tests.chaos`: the long chaos story, and its figures."""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.chaos.checker import check
from tests.chaos.story import LONG, tell


def main(arguments: Sequence[str] | None = None) -> None:
    """Tell it, check it, print its figures; raises AssertionError when it did not end well, and keeps the folder."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Kill workers while they work.")
    parser.add_argument("--tasks", type=int, default=LONG.tasks, help="single tasks (default: %(default)s)")
    parser.add_argument("--sub-tasks", type=int, default=LONG.sub_tasks, help="of one fan-out (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=LONG.kills, help="by the killer (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=LONG.workers, help="at the same time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=LONG.seed, help="of victims and moments (default: %(default)s)")
    plan = replace(LONG, **vars(parser.parse_args(arguments)))
    # Not removed by a `with`: whoever looks for the reason of a failure needs the file.
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"{plan}\nin {folder}", flush=True)
    print(check(tell(plan, folder)))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
