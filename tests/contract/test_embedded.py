"""The contracts, kept by SQLite."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from taskloom.embedded.backend import embedded_backend
from taskloom.embedded.store import MAX_LOOK
from taskloom.ids import RandomIds
from taskloom.ports import Backend
from tests.contract.backends import BackendContract
from tests.contract.change_stream import ChangeStreamContract
from tests.contract.deadlines import DeadlinesContract
from tests.contract.executions import StateMachineContract
from tests.contract.idempotency import IdempotencyContract
from tests.contract.notifier import NotifierContract
from tests.contract.payloads import PayloadStoreContract
from tests.contract.queue_admin import QueueAdminContract
from tests.contract.queue_machine import QueueMachine
from tests.contract.queues import QueueContract
from tests.contract.retention import LettersOfTheGoneContract, RetentionContract
from tests.contract.signals import SignalsContract
from tests.contract.state_machine import run_store_machine
from tests.contract.steps import StepsContract
from tests.contract.task_logs import TaskLogsContract
from tests.contract.task_store import TaskStoreContract
from tests.support.clock import FakeClock


@pytest.fixture
def backend(tmp_path: Path, clock: FakeClock) -> Iterator[Backend]:
    backend = embedded_backend(tmp_path / "tasks.db", "FULL", clock, RandomIds())
    yield backend
    backend.close()


class TestSqliteTaskStore(TaskStoreContract):
    many = MAX_LOOK + 2


class TestSqliteIdempotency(IdempotencyContract):
    pass


class TestSqliteDeadlines(DeadlinesContract):
    pass


class TestSqliteChangeStream(ChangeStreamContract):
    pass


class TestSqliteQueue(QueueContract):
    pass


class TestSqliteQueueAdmin(QueueAdminContract):
    pass


class TestSqliteStateMachine(StateMachineContract):
    pass


class TestSqlitePayloadStore(PayloadStoreContract):
    pass


class TestSqliteTaskLogs(TaskLogsContract):
    pass


class TestSqliteSteps(StepsContract):
    pass


class TestSqliteNotifier(NotifierContract):
    pass


class TestSqliteRetention(RetentionContract):
    pass


class TestSqliteLettersOfTheGone(LettersOfTheGoneContract):
    pass


class TestFileSignals(SignalsContract):
    pass


class TestEmbeddedBackend(BackendContract):
    pass


def test_task_store_matches_model(backend: Backend) -> None:
    """The suite tries each promise; this tries them in any order."""
    run_store_machine(backend)


def test_queue_matches_model(backend: Backend) -> None:
    """The same, with operators who pause and resume, and tasks of any priority."""
    run_store_machine(backend, QueueMachine, runs=60)
