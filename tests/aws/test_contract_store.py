"""The contracts of what lies in the table, kept by DynamoDB."""

import pytest

from taskloom.aws.listing import MAX_LOOK
from taskloom.ports import Backend
from tests.contract.deadlines import DeadlinesContract
from tests.contract.idempotency import IdempotencyContract
from tests.contract.queue_admin import QueueAdminContract
from tests.contract.state_machine import run_store_machine
from tests.contract.task_logs import TaskLogsContract
from tests.contract.task_store import TaskStoreContract


class TestDynamoTaskStore(TaskStoreContract):
    backend_name = "aws"
    many = MAX_LOOK + 2


class TestDynamoIdempotency(IdempotencyContract):
    backend_name = "aws"
    signals_arrive = False


class TestDynamoDeadlines(DeadlinesContract):
    backend_name = "aws"


class TestDynamoTaskLogs(TaskLogsContract):
    backend_name = "aws"


class TestDynamoQueueAdmin(QueueAdminContract):
    backend_name = "aws"


@pytest.mark.long
def test_task_store_matches_model(backend: Backend) -> None:
    """The suites try each promise; this tries them in any order."""
    run_store_machine(backend)
