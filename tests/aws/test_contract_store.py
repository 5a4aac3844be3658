"""The contracts of what lies in the table, kept by DynamoDB."""

import pytest

from taskloom.aws import listing
from taskloom.ports import Backend
from tests.contract.deadlines import DeadlinesContract
from tests.contract.idempotency import IdempotencyContract
from tests.contract.queue_admin import QueueAdminContract
from tests.contract.repairs import RepairsContract
from tests.contract.retention import ExpiryContract
from tests.contract.state_machine import run_store_machine
from tests.contract.steps import StepsContract
from tests.contract.task_logs import TaskLogsContract
from tests.contract.task_store import TaskStoreContract


class TestDynamoTaskStore(TaskStoreContract):
    backend_name = "aws"
    many = 102

    @pytest.fixture(autouse=True)
    def _short_looks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """So that not thousands of tasks are needed for a page that finds nothing."""
        monkeypatch.setattr(listing, "MAX_LOOK", self.many - 2)
        monkeypatch.setattr(listing, "PART", 20)


class TestDynamoIdempotency(IdempotencyContract):
    backend_name = "aws"
    signals_arrive = False


class TestDynamoDeadlines(DeadlinesContract):
    backend_name = "aws"


class TestDynamoExpiry(ExpiryContract):
    backend_name = "aws"


class TestDynamoRepairs(RepairsContract):
    backend_name = "aws"


class TestDynamoSteps(StepsContract):
    backend_name = "aws"
    pulls_steps = False


class TestDynamoTaskLogs(TaskLogsContract):
    backend_name = "aws"


class TestDynamoQueueAdmin(QueueAdminContract):
    backend_name = "aws"


@pytest.mark.long
def test_task_store_matches_model(backend: Backend) -> None:
    """The suites try each promise; this tries them in any order."""
    run_store_machine(backend)
