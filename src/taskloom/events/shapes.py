"""The shapes of AWS's raw events, built and read. A backend without AWS builds the same dicts."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from taskloom import record as stored
from taskloom.clock import to_milliseconds
from taskloom.errors import InvalidInput
from taskloom.model import Kind, TaskEntity, TaskKey
from taskloom.typed_json import from_typed, to_typed

TASK_EXECUTE: Final = "task-execute"
"""`action` of a message that tells a worker to run a task."""


def stream_record(
    *, event_id: str, event_name: str, arn: str, sequence: str, image: TaskEntity[Any], at: datetime
) -> dict[str, Any]:
    """One of `Records` of a DynamoDB stream event (source: DynamoDB Streams API reference, "Record")."""
    item = stored.to_item(image)
    return {
        "eventID": event_id,
        "eventName": event_name,
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": arn.split(":")[3],
        "eventSourceARN": arn,
        "dynamodb": {
            "ApproximateCreationDateTime": to_milliseconds(at) / 1000,
            "Keys": {stored.PK: {"S": image.pk}, stored.SK: {"S": image.sk}},
            "NewImage": {name: to_typed(value) for name, value in item.items()},
            "SequenceNumber": sequence,
            "SizeBytes": len(json.dumps(item)),
            "StreamViewType": "NEW_IMAGE",
        },
    }


def task_message(record: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a task message: the stream record and what to do with it."""
    return {"action": TASK_EXECUTE, **record, "source": member(record, "eventSourceARN")}


def sqs_event(message_id: str, receipt: str, body: Mapping[str, Any], *, arn: str, received: int) -> dict[str, Any]:
    """An SQS event with one record (source: AWS Lambda developer guide, "Using Lambda with Amazon SQS")."""
    return {
        "Records": [
            {
                "messageId": message_id,
                "receiptHandle": receipt,
                "body": json.dumps(body, ensure_ascii=False),
                "attributes": {"ApproximateReceiveCount": str(received)},
                "messageAttributes": {"action": {"stringValue": body["action"], "dataType": "String"}},
                "eventSource": "aws:sqs",
                "eventSourceARN": arn,
                "awsRegion": arn.split(":")[3],
            }
        ]
    }


def state_context(
    *, arn: str, name: str, key: TaskKey, run: int, state: str, retries: int, started_at: datetime
) -> dict[str, Any]:
    """The context object of a step (source: AWS Step Functions developer guide, "Context object")."""
    machine = arn.replace(":execution:", ":stateMachine:").rpartition(":")[0]
    return {
        "Execution": {
            "Id": arn,
            "Name": name,
            "Input": {"pk": key.pk, "sk": key.sk, "run": run},
            "StartTime": stored.time_text(started_at),
        },
        "StateMachine": {"Id": machine, "Name": machine.rpartition(":")[2]},
        "State": {"Name": state, "RetryCount": retries},
    }


def entity_of(record: Mapping[str, Any]) -> TaskEntity[Any]:
    """The task that a stream record or a task message shows. Raises: InvalidInput."""
    change = member(record, "dynamodb")
    image = change.get("NewImage")
    if image is not None:
        return stored.from_item({name: from_typed(value) for name, value in image.items()})
    if "_taskEntity" in record:
        return stored.from_item(record["_taskEntity"])
    raise InvalidInput("record.dynamodb.NewImage", "is missing", "set the stream's view type to NEW_IMAGE")


def body_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The task message in an SQS record. Raises: InvalidInput."""
    try:
        body = json.loads(member(record, "body"))
    except ValueError as error:
        raise InvalidInput("record.body", f"is no JSON: {error}", "send the message as Taskloom does") from error
    if not isinstance(body, Mapping) or body.get("action") != TASK_EXECUTE:
        raise InvalidInput("record.body.action", f"is not {TASK_EXECUTE!r}", "send it to another queue")
    return body


def member(record: Mapping[str, Any], name: str) -> Any:
    """`record[name]`. Raises: InvalidInput when it is missing."""
    if not isinstance(record, Mapping) or name not in record:
        raise InvalidInput(f"record.{name}", "is missing", "pass the event on as AWS hands it over")
    return record[name]


def is_task_record(record: Mapping[str, Any]) -> bool:
    """Whether a stream record shows a top-level task that needs a message."""
    image = record.get("dynamodb", {}).get("NewImage", {})
    pk = record.get("dynamodb", {}).get("Keys", {}).get(stored.PK, {}).get("S", "")
    return "dispatch" in image and pk.split("#")[0] in (Kind.TASK, Kind.SFN_TASK) and pk.count("#") == 1
