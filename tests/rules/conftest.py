"""A backend over the checked database file, in virtual time."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from taskloom.ports import Backend
from tests.support.clock import FakeClock
from tests.support.scenarios import open_backend


@pytest.fixture
def backend(database: Path, clock: FakeClock) -> Iterator[Backend]:
    """The embedded engine over `database`, closed after the test."""
    backend = open_backend(database, clock)
    yield backend
    backend.close()
