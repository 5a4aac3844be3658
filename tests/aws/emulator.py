"""The emulator of the tests, with its environment in the working copy.

`python -m tests.aws.emulator` makes the environment, which the first test does otherwise.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from taskloom.deploy import emulator
from taskloom.deploy.emulator import Emulator

__all__ = ["HOME", "Emulator", "running"]

HOME: Final = Path(__file__).parents[2] / ".emulator"


@contextmanager
def running(**environment: str) -> Iterator[Emulator]:
    """An emulator until the end of the block; *environment* adds to its own."""
    with emulator.running(HOME, **environment) as started:
        yield started


if __name__ == "__main__":
    emulator.prepare(HOME)
