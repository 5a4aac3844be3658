"""AWS's errors become ours: each of them, and those that the emulator cannot make by strict stubs."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import boto3
import botocore.exceptions
import pytest
from botocore.config import Config
from botocore.stub import Stubber

from taskloom.aws import clients as clients_module
from taskloom.aws import failures
from taskloom.aws.clients import CONFLICTS, Clients
from taskloom.aws.dynamo import Dynamo
from taskloom.aws.failures import Cancelled, ConditionFailed, translated
from taskloom.aws.items import key_item
from taskloom.aws.store import DynamoTaskStore
from taskloom.errors import InvalidInput, StoreBusy, StoreError, StoreFull, TaskloomError
from taskloom.model import TaskKey
from tests.support.clock import FakeClock

KEY = TaskKey.single("acme", "cat", "01JTEST0000000000000000000")
OFFLINE: dict[str, Any] = {
    "region_name": "eu-central-1",
    "aws_access_key_id": "test",
    "aws_secret_access_key": "test",
}


@pytest.fixture
def stub() -> Iterator[tuple[Stubber, Dynamo]]:
    """A client that gives the answers of its test, in their order, to exactly the calls that it expects."""
    clients = Clients(OFFLINE | {"config": Config(retries={"total_max_attempts": 1})})
    with Stubber(clients.client("dynamodb")) as stubber:
        yield stubber, Dynamo(clients, "tasks", FakeClock())
        stubber.assert_no_pending_responses()
    clients.close()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeats come at once: the pauses between them are real time."""
    monkeypatch.setattr(clients_module, "FIRST_PAUSE", 0.0)


def answer(code: str, message: str = "m", status: int = 400, **more: Any) -> botocore.exceptions.ClientError:
    response: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return botocore.exceptions.ClientError(response | more, "UpdateItem")


def error_codes(service: str) -> list[str]:
    """All errors that the service's model names."""
    client = boto3.session.Session().client(service, **OFFLINE)
    shapes = client.meta.service_model.error_shapes
    client.close()
    return sorted({shape.metadata.get("error", {}).get("code", shape.name) for shape in shapes})


@pytest.mark.parametrize("service", ["dynamodb", "sqs", "sns", "stepfunctions", "s3"])
def test_every_error_of_a_service_is_translated(service: str) -> None:
    """To one of ours, or to one of the three that the adapters handle themselves."""
    own = (TaskloomError, ConditionFailed, Cancelled)
    codes = error_codes(service)
    assert codes
    assert [code for code in codes if not isinstance(translated(answer(code)), own)] == []


def every_botocore_error(root: type[Exception] = botocore.exceptions.BotoCoreError) -> Iterator[type[Exception]]:
    for error in root.__subclasses__():
        yield error
        yield from every_botocore_error(error)


def test_every_error_of_botocore_is_translated() -> None:
    for kind in every_botocore_error():
        error = kind.__new__(kind)
        Exception.__init__(error, "m")
        assert isinstance(translated(error), StoreError), kind


@pytest.mark.parametrize(
    ("code", "status", "expected", "retryable"),
    [
        ("ThrottlingException", 400, StoreBusy, True),
        ("ProvisionedThroughputExceededException", 400, StoreBusy, True),
        ("RequestLimitExceeded", 400, StoreBusy, True),
        ("TransactionInProgressException", 400, StoreBusy, True),
        ("TransactionConflictException", 400, StoreBusy, True),
        ("InternalServerError", 500, StoreBusy, True),
        ("ServiceUnavailable", 503, StoreBusy, True),
        ("SomethingNew", 502, StoreBusy, True),
        ("ItemCollectionSizeLimitExceededException", 400, StoreFull, True),
        ("ValidationException", 400, StoreError, False),
        ("ResourceNotFoundException", 400, StoreError, False),
        ("AccessDeniedException", 400, StoreError, False),
        ("ExpiredTokenException", 400, StoreError, False),
        ("SomethingNew", 400, StoreError, False),
    ],
)
def test_what_helps_is_said(code: str, status: int, expected: type[StoreError], retryable: bool) -> None:
    error = translated(answer(code, status=status))
    assert type(error) is expected
    assert error.retryable is retryable
    if code in failures.REMEDIES:
        assert failures.REMEDIES[code] in str(error)


@pytest.mark.parametrize(
    "message",
    ["Item size has exceeded the maximum allowed size", "Item size to update has exceeded the maximum allowed size"],
)
def test_an_item_that_outgrew_its_limit_is_the_callers_matter(message: str) -> None:
    assert isinstance(translated(answer("ValidationException", message)), InvalidInput)


@pytest.mark.parametrize(
    "kind",
    [
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "EndpointConnectionError",
        "ConnectionClosedError",
        "ProxyConnectionError",
    ],
)
def test_the_network_is_busy(kind: str) -> None:
    error = getattr(botocore.exceptions, kind)(endpoint_url="https://example.com", proxy_url="p", error="e")
    assert isinstance(translated(error), StoreBusy)


def test_nobody_there_is_busy() -> None:
    """A real connection that is refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and never listening
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        clients = Clients(OFFLINE | {"endpoint_url": endpoint, "config": Config(retries={"total_max_attempts": 1})})
        with pytest.raises(StoreBusy, match="did not answer"):
            asyncio.run(clients.call("dynamodb", "list_tables"))
        clients.close()


def test_a_missing_region_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows when the client is made."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    with pytest.raises(StoreError, match="set up credentials and region"):
        asyncio.run(Clients().call("dynamodb", "list_tables"))


def test_missing_credentials_are_named() -> None:
    error = translated(botocore.exceptions.NoCredentialsError())
    assert isinstance(error, StoreError)
    assert "credentials" in str(error)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        (["None", "ConditionalCheckFailed"], Cancelled),
        (["TransactionConflict", "ConditionalCheckFailed"], Cancelled),
        (["TransactionConflict", "None"], StoreBusy),
        (["ThrottlingError", "None"], StoreBusy),
        (["ProvisionedThroughputExceeded", "None"], StoreBusy),
        (["ItemCollectionSizeLimitExceeded", "None"], StoreFull),
        (["ValidationError", "None"], StoreError),
        ([], StoreBusy),
    ],
)
def test_cancelled_transactions(codes: list[str], expected: type[Exception]) -> None:
    reasons = [{"Code": code} for code in codes]
    assert type(translated(answer("TransactionCanceledException", CancellationReasons=reasons))) is expected


# --- repeats ---------------------------------------------------------------------------------------------------------


def conflict(stubber: Stubber, operation: str) -> None:
    stubber.add_client_error(operation, "TransactionConflictException", "m", 400)


def test_a_write_that_met_a_transaction_is_made_again(stub: tuple[Stubber, Dynamo]) -> None:
    stubber, dynamo = stub
    expected = {"TableName": "tasks", "Key": key_item(KEY)}
    for _ in range(3):
        stubber.add_client_error("delete_item", "TransactionConflictException", "m", 400, expected_params=expected)
    stubber.add_response("delete_item", {}, expected)
    dynamo.send("delete_item", Key=key_item(KEY))


def test_a_transaction_that_met_another_is_made_again_as_the_same(stub: tuple[Stubber, Dynamo]) -> None:
    """With the same token, so that it cannot happen twice."""
    stubber, dynamo = stub
    items = [{"Delete": {"TableName": "tasks", "Key": key_item(KEY)}}]
    expected = {"TransactItems": items, "ClientRequestToken": "token"}
    reasons = {"CancellationReasons": [{"Code": "TransactionConflict"}]}
    stubber.add_client_error(
        "transact_write_items",
        "TransactionCanceledException",
        "m",
        400,
        expected_params=expected,
        modeled_fields=reasons,
    )
    stubber.add_response("transact_write_items", {}, expected)
    dynamo.clients.send("dynamodb", "transact_write_items", TransactItems=items, ClientRequestToken="token")


def test_a_transaction_that_a_condition_refused_is_not_made_again(stub: tuple[Stubber, Dynamo]) -> None:
    """Whatever else stood against it: what the condition says will not change by itself."""
    stubber, dynamo = stub
    reasons = {"CancellationReasons": [{"Code": "TransactionConflict"}, {"Code": "ConditionalCheckFailed"}]}
    stubber.add_client_error("transact_write_items", "TransactionCanceledException", "m", 400, modeled_fields=reasons)
    items = [{"Delete": {"TableName": "tasks", "Key": key_item(KEY)}}]
    with pytest.raises(Cancelled):
        dynamo.clients.send("dynamodb", "transact_write_items", TransactItems=items)


def test_conflicts_without_end_are_told(stub: tuple[Stubber, Dynamo]) -> None:
    stubber, dynamo = stub
    for _ in range(CONFLICTS + 1):
        conflict(stubber, "delete_item")
    with pytest.raises(StoreBusy):
        dynamo.send("delete_item", Key=key_item(KEY))


def test_nothing_else_is_repeated_here(stub: tuple[Stubber, Dynamo]) -> None:
    """The core has its own patience."""
    stubber, dynamo = stub
    stubber.add_client_error("delete_item", "ThrottlingException", "m", 400)
    with pytest.raises(StoreBusy):
        dynamo.send("delete_item", Key=key_item(KEY))


def test_what_a_batch_left_undone_is_asked_for_again(stub: tuple[Stubber, Dynamo]) -> None:
    stubber, dynamo = stub
    keys = [key_item(TaskKey.single("acme", "cat", f"01JTEST000000000000000000{n}")) for n in range(3)]

    def asked(*numbers: int) -> dict[str, Any]:
        return {"tasks": {"Keys": [keys[number] for number in numbers], "ConsistentRead": True}}

    for numbers, done in (([0, 1, 2], 1), ([0, 2], 2), ([0], 0)):
        left = [number for number in numbers if number != done]
        response: dict[str, Any] = {"Responses": {"tasks": [keys[done]]}, "UnprocessedKeys": {}}
        if left:
            response["UnprocessedKeys"] = asked(*left)
        stubber.add_response("batch_get_item", response, {"RequestItems": asked(*numbers)})
    assert dynamo.get_many(keys) == keys


def test_a_batch_that_is_never_done_is_told(stub: tuple[Stubber, Dynamo], monkeypatch: pytest.MonkeyPatch) -> None:
    stubber, dynamo = stub
    monkeypatch.setattr("taskloom.aws.dynamo.FIRST_PAUSE", 0.0)
    request = {"tasks": {"Keys": [key_item(KEY)], "ConsistentRead": True}}
    for _ in range(10):
        stubber.add_response("batch_get_item", {"Responses": {}, "UnprocessedKeys": request})
    with pytest.raises(StoreBusy):
        dynamo.get_many([key_item(KEY)])


def test_errors_reach_the_caller_of_a_port(stub: tuple[Stubber, Dynamo]) -> None:
    """With AWS's own as the cause."""
    stubber, dynamo = stub
    stubber.add_client_error("get_item", "ResourceNotFoundException", "no table", 400)
    with pytest.raises(StoreError, match="deploy the stack") as caught:
        asyncio.run(DynamoTaskStore(dynamo).get(KEY))
    assert isinstance(caught.value.__cause__, botocore.exceptions.ClientError)
    assert not caught.value.retryable
