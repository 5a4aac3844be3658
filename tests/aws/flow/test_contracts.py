"""The contracts of queue, payload store and state machine, kept by SQS, S3 and Step Functions."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from taskloom.aws.backend import AwsBackend, aws_backend
from taskloom.aws.clients import Clients
from taskloom.aws.queue import SqsSender
from taskloom.ids import RandomIds
from taskloom.model import TaskEntity
from taskloom.ports import Backend, NewTaskRow
from tests.aws.moving_clock import MovingClock
from tests.aws.stack import Stack, TableStream
from tests.contract.backends import BackendContract
from tests.contract.executions import StateMachineContract
from tests.contract.payloads import PayloadStoreContract
from tests.contract.queues import QueueContract
from tests.support.rows import Rows

WAITS = json.dumps({"StartAt": "Wait", "States": {"Wait": {"Type": "Wait", "Seconds": 86400, "End": True}}})
"""Executions that run on, so that they can be looked at."""

_STREAMS: dict[int, tuple[TableStream, SqsSender]] = {}


@pytest.fixture
def backend(moved_clients: Clients, moving_clock: MovingClock) -> Iterator[AwsBackend]:
    stack = Stack(moved_clients, machine=WAITS)
    backend = aws_backend(stack.settings, moving_clock, RandomIds(), moved_clients, poll=0)
    _STREAMS[id(backend)] = TableStream(stack), SqsSender(moved_clients, stack.settings.worker_queue_url or "")
    yield backend
    del _STREAMS[id(backend)]


class TestSqsQueue(QueueContract):
    backend_name = "aws"
    pulls_stream = False
    keeps_order = False
    foresees = False

    async def sent(self, rows: Rows, *new: NewTaskRow) -> list[TaskEntity[Any]]:
        """Through the table's stream, as the dispatching function does it."""
        tasks = await rows.create(*new)
        stream, sender = _STREAMS[id(rows.backend)]
        sent = await sender.send(stream.records())
        assert sent == [True] * len(new)
        return tasks


class TestStepFunctions(StateMachineContract):
    backend_name = "aws"
    pulls_steps = False


class TestS3PayloadStore(PayloadStoreContract):
    backend_name = "aws"


class TestAwsBackend(BackendContract):
    backend_name = "aws"


def test_backend_is_one(backend: Backend) -> None:
    """The same object gives all ports."""
    assert isinstance(backend, AwsBackend)
