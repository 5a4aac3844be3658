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
    many = MAX_LOOK + 2


class TestDynamoIdempotency(IdempotencyContract):
    signals_arrive = False


class TestDynamoDeadlines(DeadlinesContract):
    pass


class TestDynamoTaskLogs(TaskLogsContract):
    pass


class TestDynamoQueueAdmin(QueueAdminContract):
    pass


@pytest.mark.long
def test_task_store_matches_model(backend: Backend) -> None:
    """The suites try each promise; this tries them in any order."""
    run_store_machine(backend)
