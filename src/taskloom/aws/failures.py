"""What AWS's errors mean here: one table from error codes to `taskloom.errors`."""

from collections.abc import Mapping
from typing import Any, Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
)

from taskloom.errors import InvalidInput, StoreBusy, StoreError, StoreFull

CONDITION_FAILED: Final = "ConditionalCheckFailedException"
CANCELLED: Final = "TransactionCanceledException"
CONFLICT: Final = "TransactionConflictException"

BUSY: Final = frozenset(
    {
        # Source: Amazon DynamoDB developer guide, "Error handling"; the common errors of the services' API references.
        "InternalFailure",
        "InternalServerError",
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "ReplicatedWriteConflictException",
        "RequestLimitExceeded",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
        "TransactionInProgressException",
        CONFLICT,
    }
)
"""Trying again helps."""
FULL: Final = frozenset({"ItemCollectionSizeLimitExceededException", "OverLimit", "ExecutionLimitExceeded"})
"""... once there is room."""
REMEDIES: Final[Mapping[str, str]] = {
    "AccessDenied": "grant the right that the message names to the role of this process",
    "AccessDeniedException": "grant the right that the message names to the role of this process",
    "ExpiredToken": "renew the credentials of this process",
    "ExpiredTokenException": "renew the credentials of this process",
    "IncompleteSignature": "correct the credentials of this process",
    "InvalidClientTokenId": "correct the credentials of this process",
    "InvalidSignatureException": "correct the credentials or the clock of this machine",
    "MissingAuthenticationToken": "give this process credentials",
    "OptInRequired": "enable the service or the region for this account",
    "ResourceNotFoundException": "deploy the stack, or correct the names in the settings and the region",
    "SignatureDoesNotMatch": "correct the credentials of this process",
    "UnrecognizedClientException": "correct the credentials of this process",
    "NoSuchBucket": "deploy the stack, or correct the names in the settings and the region",
    "NotFound": "deploy the stack, or correct the names in the settings and the region",
    "QueueDoesNotExist": "deploy the stack, or correct the names in the settings and the region",
    "AWS.SimpleQueueService.NonExistentQueue": "deploy the stack, or correct the names in the settings and the region",
    "StateMachineDoesNotExist": "deploy the stack, or correct the names in the settings and the region",
}
"""What somebody has to do before it can work."""

_REASONS_BUSY: Final = frozenset({"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"})


class ConditionFailed(Exception):
    """A conditional write was refused; never leaves the adapters."""

    def __init__(self, item: Mapping[str, Any] | None) -> None:
        self.item = item
        """What stands there, in typed JSON; None when there is nothing."""
        super().__init__("the condition did not hold")


class Cancelled(Exception):
    """A transaction was refused by a condition; never leaves the adapters."""

    def __init__(self, reasons: list[Mapping[str, Any]]) -> None:
        self.reasons = reasons
        """Per item of the transaction: `Code`, and `Item` where it was asked for."""
        super().__init__(", ".join(str(reason.get("Code")) for reason in reasons))


class PathMissing(Exception):
    """An update reaches into an object that the item does not have; never leaves the adapters."""


def code_of(error: ClientError) -> str:
    """The error code of AWS."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_conflict(error: BaseException) -> bool:
    """Whether two transactions met, so that one of them has to be made again."""
    if not isinstance(error, ClientError):
        return False
    if code_of(error) != CANCELLED:
        return code_of(error) == CONFLICT
    codes = _reason_codes(error)
    return "TransactionConflict" in codes and "ConditionalCheckFailed" not in codes


def translated(error: Exception) -> Exception:
    """What an adapter raises for *error* of boto3: a refusal that it handles itself, else a `TaskloomError`."""
    if isinstance(error, ClientError):
        return _of_service(error)
    if isinstance(error, (NoCredentialsError, PartialCredentialsError, NoRegionError)):
        return StoreError(f"AWS could not be called: {error}; set up credentials and region as boto3 finds them")
    if isinstance(error, (ConnectionError, HTTPClientError)):  # timeouts and refused or broken connections
        return StoreBusy(f"AWS did not answer: {error}")
    if isinstance(error, BotoCoreError):
        return StoreError(f"AWS could not be called: {error}")
    return error


def _of_service(error: ClientError) -> Exception:
    code = code_of(error)
    if code == CONDITION_FAILED:
        return ConditionFailed(error.response.get("Item"))
    if code == CANCELLED:
        return _of_transaction(error)
    message = str(error.response.get("Error", {}).get("Message", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in BUSY or (status >= 500 and code not in FULL):
        return StoreBusy(f"AWS is busy: {error}")
    if code in FULL:
        return StoreFull(f"AWS has no room: {error}")
    if code == "ValidationException" and "size" in message.lower() and "exceeded" in message.lower():
        return InvalidInput("task", f"has outgrown what DynamoDB keeps in one item: {message}", "save less in it")
    if code == "ValidationException" and "document path" in message:
        return PathMissing()
    remedy = REMEDIES.get(code)
    return StoreError(f"AWS refused: {error}" + (f"; {remedy}" if remedy else ""))


def _of_transaction(error: ClientError) -> Exception:
    reasons = list(error.response.get("CancellationReasons") or [])
    codes = _reason_codes(error)
    if "ConditionalCheckFailed" in codes:
        return Cancelled(reasons)
    if codes & _REASONS_BUSY or not codes:
        return StoreBusy(f"AWS is busy: {error}")
    if "ItemCollectionSizeLimitExceeded" in codes:
        return StoreFull(f"AWS has no room: {error}")
    return StoreError(f"AWS refused: {error}")


def _reason_codes(error: ClientError) -> set[str]:
    reasons = error.response.get("CancellationReasons") or []
    return {str(reason.get("Code")) for reason in reasons} - {"None"}
