"""An emulator whose clock the tests move, and a stack for each test."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskloom import TaskModule
from taskloom.aws.clients import Clients
from tests.aws.emulator import REGION, Emulator, running
from tests.aws.flow.pump import MakePump, Pump, pumped_stack, wait_scale
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


@pytest.fixture
def make_pump(
    stack: Stack, moving_clock: MovingClock, moved: Emulator, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakePump]:
    """Makes the module of an application, and what calls its functions. `wait_scale` of the emulator is 0."""
    for name, value in (
        ("AWS_ENDPOINT_URL", moved.endpoint),
        ("AWS_DEFAULT_REGION", REGION),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
    ):
        monkeypatch.setenv(name, value)
    wait_scale(moved, 0)
    calls, events = pumped_stack(stack)
    modules: list[TaskModule] = []

    def make(**arguments: Any) -> Pump:
        module = TaskModule.register(**{"settings": stack.settings, "clock": moving_clock, **arguments})
        modules.append(module)
        return Pump(stack, module, moving_clock, calls, events)

    yield make
    for module in modules:
        module.close()
