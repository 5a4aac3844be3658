"""An emulator whose clock the tests move, and a stack for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from taskloom.aws.clients import Clients
from tests.aws.emulator import Emulator, running
from tests.aws.moving_clock import MovingClock
from tests.aws.stack import Stack


@pytest.fixture(scope="session")
def moving_clock(tmp_path_factory: pytest.TempPathFactory) -> MovingClock:
    """The clock that the emulator goes by, too."""
    return MovingClock(_path(tmp_path_factory))


@pytest.fixture(scope="session")
def moved(tmp_path_factory: pytest.TempPathFactory, moving_clock: MovingClock) -> Iterator[Emulator]:
    """The emulator."""
    path = _path(tmp_path_factory)
    with running(PYTHONPATH=str(Path(__file__).parents[1] / "moving"), MOVED_CLOCK=str(path)) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def moved_clients(moved: Emulator) -> Iterator[Clients]:
    """Clients of the emulator."""
    clients = Clients(moved.arguments)
    yield clients
    clients.close()


@pytest.fixture
def stack(moved_clients: Clients) -> Stack:
    """A stack of the test's own."""
    return Stack(moved_clients)


def _path(factory: pytest.TempPathFactory) -> Path:
    return factory.getbasetemp() / "moved-clock"
