"""The contracts of time and ids, kept by what the package brings and by what the tests use instead."""

from pathlib import Path

import pytest

from taskloom.clock import SystemClock
from taskloom.embedded.backend import embedded_backend
from taskloom.ids import RandomIds
from taskloom.ports import Backend
from tests.contract.clocks import ClockContract
from tests.contract.ids import IdsContract
from tests.support.clock import FakeClock


class TestSystemClock(ClockContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return embedded_backend(tmp_path / "tasks.db", "FULL", SystemClock(), RandomIds())


class TestFakeClock(ClockContract):
    """What the tests measure time with must not differ from what the package does."""

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return embedded_backend(tmp_path / "tasks.db", "FULL", FakeClock(), RandomIds())


class TestRandomIds(IdsContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return embedded_backend(tmp_path / "tasks.db", "FULL", SystemClock(), RandomIds())
