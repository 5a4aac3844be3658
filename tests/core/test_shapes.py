"""AWS's raw events: what is built is read back, and what is no such event is refused."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.errors import InvalidInput
from taskloom.events import shapes
from taskloom.model import Kind, TaskEntity, TaskKey
from tests.core.strategies import entities, plain

ARN = "arn:aws:dynamodb:eu-central-1:123456789012:table/tasks/stream/2026-05-01T00:00:00.000"


def record_of(task: TaskEntity[Any]) -> dict[str, Any]:
    return shapes.stream_record(
        event_id="e1", event_name="INSERT", arn=ARN, sequence="1", image=task, at=task.updated_at
    )


@settings(max_examples=50)
@given(entities())
def test_a_stream_record_shows_the_task(task: TaskEntity[Any]) -> None:
    record = json.loads(json.dumps(record_of(task)))
    assert shapes.entity_of(record) == task
    assert record["dynamodb"]["Keys"] == {"pk": {"S": task.pk}, "sk": {"S": task.sk}}
    assert record["awsRegion"] == "eu-central-1"


@settings(max_examples=50)
@given(entities())
def test_a_task_message_shows_the_task(task: TaskEntity[Any]) -> None:
    """From the stream record through the queue: what a worker gets is what was stored."""
    event = shapes.sqs_event(
        "m1", "r1", shapes.task_message(record_of(task)), arn="arn:aws:sqs:eu-central-1:1:q", received=2
    )
    (record,) = json.loads(json.dumps(event))["Records"]
    body = shapes.body_of(record)
    assert body["action"] == shapes.TASK_EXECUTE
    assert body["eventID"] == "e1"
    assert shapes.entity_of(body) == task
    assert record["messageAttributes"]["action"]["stringValue"] == shapes.TASK_EXECUTE
    assert record["attributes"]["ApproximateReceiveCount"] == "2"


@settings(max_examples=50)
@given(entities())
def test_which_records_are_dispatched(task: TaskEntity[Any]) -> None:
    """Top-level tasks that carry `dispatch`, and nothing else: sub-tasks never."""
    assert shapes.is_task_record(record_of(task)) == (task.dispatch is not None and task.kind is not Kind.SUB_TASK)


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"dynamodb": {}},
        {"dynamodb": {"Keys": {"pk": {"S": "TASK#acme"}}}},
        {"dynamodb": {"Keys": {"pk": {"S": "CHUNK#acme"}}, "NewImage": {"dispatch": {"S": "d"}}}},
        {"dynamodb": {"Keys": {"pk": {"S": "SFN_TASK#acme#01J#0"}}, "NewImage": {"dispatch": {"S": "d"}}}},
        {"dynamodb": {"Keys": {"pk": {"S": "TASK"}}, "NewImage": {"dispatch": {"S": "d"}}}},
        {"dynamodb": {"Keys": {"id": {"N": "1"}}, "NewImage": {"dispatch": {"S": "d"}}}},
    ],
    ids=str,
)
def test_records_of_other_things_are_let_go(record: dict[str, Any]) -> None:
    assert not shapes.is_task_record(record)


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({}, "record.dynamodb"),
        ({"dynamodb": {}}, "record.dynamodb.NewImage"),
        ({"dynamodb": {"NewImage": {}}}, "item"),
        ("text", "record.dynamodb"),
    ],
)
def test_a_record_without_a_task(record: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        shapes.entity_of(record)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({}, "record.body"),
        ({"body": "{"}, "record.body"),
        ({"body": "[]"}, "record.body.action"),
        ({"body": "{}"}, "record.body.action"),
        ({"body": '{"action": "task-status"}'}, "record.body.action"),
        (None, "record.body"),
    ],
    ids=str,
)
def test_a_message_that_is_none_of_ours(record: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        shapes.body_of(record)
    assert caught.value.field == field


def test_an_item_from_the_original_in_a_message() -> None:
    """The TypeScript original puts the entity beside the record of a stream that shows keys only."""
    task = plain(input={"key": "v"})
    from taskloom.record import to_item

    record = {"dynamodb": {"Keys": {}}, "_taskEntity": to_item(task)}
    assert shapes.entity_of(record) == task


@given(st.integers(1, 5), st.integers(0, 5))
def test_the_context_of_a_step(run: int, retries: int) -> None:
    """As Step Functions has it, so that a factory reads the same fields everywhere."""
    key = TaskKey.step_function("acme", "cat", "01J0000000000000000000000A")
    arn = "arn:aws:states:eu-central-1:1:execution:sfn-task:01J0000000000000000000000A"
    context = shapes.state_context(
        arn=arn, name="01J0000000000000000000000A", key=key, run=run, state="chunk", retries=retries,
        started_at=plain().created_at,
    )  # fmt: skip
    assert context["Execution"]["Id"] == arn
    assert context["Execution"]["Input"] == {"pk": key.pk, "sk": key.sk, "run": run}
    assert context["StateMachine"] == {"Id": "arn:aws:states:eu-central-1:1:stateMachine:sfn-task", "Name": "sfn-task"}
    assert context["State"] == {"Name": "chunk", "RetryCount": retries}
    json.dumps(context)
