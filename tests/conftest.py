"""What all tests share: a database that is checked after each test, a clock, and modules that are closed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from taskloom import Settings, TaskModule
from tests.support.clock import FakeClock
from tests.support.rules import check_rules

# Failed assertions of the suites explain themselves like those of test files. Here, since any test may import them.
for _suite in (
    "backends",
    "base",
    "change_stream",
    "clocks",
    "deadlines",
    "executions",
    "idempotency",
    "ids",
    "notifier",
    "payloads",
    "queue_admin",
    "queue_machine",
    "queues",
    "repairs",
    "signals",
    "steps",
    "task_logs",
    "task_store",
):
    pytest.register_assert_rewrite(f"tests.contract.{_suite}")

# No deadline for one example: how fast a machine is says nothing about a rule. The timeout of the whole test stays.
settings.register_profile("taskloom", deadline=None)
settings.load_profile("taskloom")

MakeModule = Callable[..., TaskModule]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's shell says must not reach a test."""
    import os

    for name in os.environ:
        if name.startswith("TASKLOOM_"):
            monkeypatch.delenv(name)


@pytest.fixture
def clock() -> FakeClock:
    """Virtual time. Give it to `make_module(clock=clock)`; without it a module runs on real time."""
    return FakeClock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Path]:
    """The path of a database file; the rules of design are checked on it after the test."""
    path = tmp_path / "tasks.db"
    yield path
    check_rules(path)


@pytest.fixture
def make_module(database: Path) -> Iterator[MakeModule]:
    """Makes modules over `database` (or settings=…), and closes them after the test."""
    modules: list[TaskModule] = []

    def make(**arguments: Any) -> TaskModule:
        arguments.setdefault("settings", Settings(database=database))
        module = TaskModule.register(**arguments)
        modules.append(module)
        return module

    yield make
    for module in modules:
        module.close()
