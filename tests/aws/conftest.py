"""One emulator for the whole session."""

from collections.abc import Iterator

import pytest

from tests.aws.emulator import Emulator, running


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """The emulator. Whoever needs one of its own, or another environment, calls `tests.aws.emulator.running`."""
    with running() as emulator:
        yield emulator
