"""One emulator for the whole session; a table for each test."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from taskloom.aws.admin import DynamoQueueAdmin
from taskloom.aws.clients import Clients
from taskloom.aws.durable_steps import DynamoSteps
from taskloom.aws.dynamo import Dynamo
from taskloom.aws.ends import Ends
from taskloom.aws.store import DynamoTaskStore
from taskloom.aws.table import DEFINITION
from taskloom.aws.task_logs import DynamoTaskLogs
from taskloom.embedded.backend import embedded_backend
from taskloom.ids import RandomIds
from taskloom.ports import Backend
from tests.aws.emulator import Emulator, running
from tests.aws.stream_pump import StreamPump
from tests.support.clock import FakeClock

_NUMBERS: Final = itertools.count(1)


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """The emulator. Whoever needs one of its own, or another environment, calls `tests.aws.emulator.running`."""
    with running() as emulator:
        yield emulator


@pytest.fixture(scope="session")
def clients(emulator: Emulator) -> Iterator[Clients]:
    """The clients of this process."""
    clients = Clients(emulator.arguments)
    yield clients
    clients.close()


@pytest.fixture
def make_table(clients: Clients) -> Callable[[], dict[str, Any]]:
    """Makes a table as the stack does, with a name of its own; gives its description.

    Without expiry: the emulator's own goes by real time, and the tests' time is virtual.
    """

    def make() -> dict[str, Any]:
        name = f"test-{next(_NUMBERS)}-tasks"
        description: dict[str, Any] = clients.send("dynamodb", "create_table", TableName=name, **DEFINITION)
        return dict(description["TableDescription"])

    return make


@pytest.fixture
def dynamo(clients: Clients, make_table: Callable[[], dict[str, Any]], clock: FakeClock) -> Dynamo:
    """A table of the test's own."""
    return Dynamo(clients, make_table()["TableName"], clock)


@pytest.fixture
def backend(dynamo: Dynamo, clients: Clients, clock: FakeClock, tmp_path: Path) -> Iterator[Backend]:
    """The ports over the table; what is not of the table is the embedded engine's."""
    others = embedded_backend(tmp_path / "others.db", "NORMAL", clock, RandomIds())
    ends = Ends(dynamo)
    admin = DynamoQueueAdmin(dynamo, ends)
    stream_arn = clients.send("dynamodb", "describe_table", TableName=dynamo.table_name)["Table"]["LatestStreamArn"]

    def close() -> None:
        ends.flush()
        clients.close()
        others.close()

    yield replace(
        others,
        name="aws",
        store=DynamoTaskStore(dynamo, ends),
        logs=DynamoTaskLogs(dynamo),
        steps=DynamoSteps(dynamo),
        admin=admin,
        stream=StreamPump(clients, stream_arn, clock, admin),
        stream_arn=stream_arn,
        close=close,
    )
    others.close()
