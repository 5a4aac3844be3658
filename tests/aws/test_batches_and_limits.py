"""What the emulator does not do: parts of a batch that fail, limits, answers that are errors. By strict stubs."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from taskloom.aws import notifier, payload_store, queue
from taskloom.aws.batches import batches
from taskloom.aws.clients import Clients
from taskloom.aws.failures import translated
from taskloom.aws.notifier import SnsPublisher
from taskloom.aws.payload_store import S3PayloadStore
from taskloom.aws.queue import Again, SqsQueue, SqsSender, delivery_of
from taskloom.aws.state_machine import STATE_BYTES, StepFunctionsStateMachine, input_text
from taskloom.errors import InvalidInput, StoreBusy, StoreError, TaskTokenNotFound
from taskloom.model import TaskKey
from taskloom.policy import MAX_CHUNKS, chunk_count, chunks_at_once, fan_out_plan
from taskloom.ports import ExecutionInput, ExecutionStatus, Pause, PauseScope, Receipt, Served
from taskloom.values import EncodedJson, Json
from tests.support.clock import FakeClock

MACHINE = "arn:aws:states:eu-central-1:000000000000:stateMachine:sfn-task"
KEY = TaskKey.step_function("mbc", "cat", "01HXXXXXXXXXXXXXXXXXXXXXXX")


class Script(Clients):
    """Answers the calls of a test in their order; any other call is an error."""

    def __init__(self, *steps: tuple[str, Any]) -> None:
        super().__init__()
        self.steps = list(steps)
        self.calls: list[tuple[str, Mapping[str, Any]]] = []

    def send(self, service: str, operation: str, **parameters: Any) -> Any:
        expected, answer = self.steps.pop(0)
        assert operation == expected
        self.calls.append((operation, parameters))
        answer = answer(parameters) if callable(answer) else answer
        if isinstance(answer, str):
            error = ClientError({"Error": {"Code": answer, "Message": "no"}}, operation)
            raise translated(error) from error
        return answer


def record(number: int, **image: Any) -> dict[str, Any]:
    key = TaskKey.single(f"t{number % 3}", "cat", f"01HX{number}")
    keys = {"pk": {"S": key.pk}, "sk": {"S": key.sk}}
    return {
        "eventID": str(number),
        "eventName": "INSERT",
        "eventSourceARN": "arn:aws:dynamodb:eu-central-1:000000000000:table/tasks/stream/1",
        "dynamodb": {"Keys": keys, "NewImage": keys | image, "SequenceNumber": str(number)},
    }


def all_sent(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"Successful": [{"Id": entry["Id"]} for entry in parameters["Entries"]]}


# --- batches ---------------------------------------------------------------------------------------------------------


def test_batches_hold_to_count_and_size() -> None:
    sizes = [5, 5, 5, 30, 1, 1, 1, 1, 1]
    found = list(batches(sizes, lambda size: size, 4, 12))
    assert found == [[5, 5], [5], [30], [1, 1, 1, 1], [1]]
    assert list(batches([], len, 4, 12)) == []


# --- SQS -------------------------------------------------------------------------------------------------------------


def test_messages_go_by_tens_with_their_tenant_as_group() -> None:
    script = Script(*[("send_message_batch", all_sent)] * 3)
    sent = asyncio.run(SqsSender(script, "url").send([record(n) for n in range(23)]))
    assert sent == [True] * 23
    entries = [entry for _, call in script.calls for entry in call["Entries"]]
    assert sorted(len(call["Entries"]) for _, call in script.calls) == [3, 10, 10]
    for entry in entries:
        body = json.loads(entry["MessageBody"])
        assert body["action"] == "task-execute"
        assert body["source"] == body["eventSourceARN"]
        assert body["dynamodb"]["Keys"]["pk"]["S"] == f"TASK#{entry['MessageGroupId']}"
        assert entry["MessageAttributes"]["action"]["StringValue"] == "task-execute"


def test_large_messages_are_split_by_size() -> None:
    script = Script(*[("send_message_batch", all_sent)] * 2)
    large = [record(n, text={"S": "x" * 250_000}) for n in range(5)]
    assert asyncio.run(SqsSender(script, "url").send(large)) == [True] * 5
    for _, call in script.calls:
        assert sum(len(entry["MessageBody"].encode()) for entry in call["Entries"]) <= queue.MESSAGE_BYTES


def test_an_item_that_is_too_large_for_a_message_stays_away() -> None:
    """Whoever receives it looks it up."""
    script = Script(("send_message_batch", all_sent))
    asyncio.run(SqsSender(script, "url").send([record(1, text={"S": "ä" * 600_000})]))
    (entry,) = script.calls[0][1]["Entries"]
    delivery = delivery_of(entry["MessageBody"], message_id="m", handle="h", received=1)
    assert delivery.standing is None
    assert delivery.key == TaskKey.single("t1", "cat", "01HX1")


def test_a_part_of_a_batch_that_fails_fails_alone() -> None:
    def but_two(parameters: Mapping[str, Any]) -> dict[str, Any]:
        failed = [{"Id": "2", "Code": "InternalError", "SenderFault": False}]
        return {"Successful": [{"Id": e["Id"]} for e in parameters["Entries"] if e["Id"] != "2"], "Failed": failed}

    script = Script(("send_message_batch", but_two), ("send_message_batch", "ThrottlingException"))
    sent = asyncio.run(SqsSender(script, "url").send([record(n) for n in range(12)]))
    assert sent == [True, True, False, *[True] * 7, False, False]


def test_a_queue_that_is_not_there_is_an_error_that_says_what_to_do() -> None:
    script = Script(("send_message_batch", "QueueDoesNotExist"))
    with pytest.raises(StoreError, match="deploy the stack"):
        asyncio.run(SqsSender(script, "url").send([record(1)]))


def test_a_record_to_be_dispatched_again_says_so() -> None:
    script = Script(("send_message_batch", all_sent))
    asyncio.run(SqsSender(script, "url").send([Again(record(1))]))
    (entry,) = script.calls[0][1]["Entries"]
    assert json.loads(entry["MessageBody"])["action"] == "task-dispatch"


def test_what_is_paused_goes_back_for_a_while(clock: FakeClock) -> None:
    message = {
        "MessageId": "m",
        "ReceiptHandle": "h",
        "Body": json.dumps({"action": "task-execute", **record(1)}),
        "Attributes": {"ApproximateReceiveCount": "2"},
    }
    script = Script(("receive_message", {"Messages": [message]}), ("change_message_visibility_batch", {}))

    async def pauses() -> Sequence[Pause]:
        return [Pause(scope=PauseScope.TENANT, name="t1", at=clock.now())]

    tasks = SqsQueue(script, "url", clock, pauses)
    served = Served(tasks=None, fan_outs=None)
    found = asyncio.run(tasks.receive(served, 50, visible_at=clock.now() + timedelta(minutes=1)))
    assert found == []
    received, changed = script.calls
    assert (received[1]["MaxNumberOfMessages"], received[1]["VisibilityTimeout"]) == (10, 60)
    assert [entry["VisibilityTimeout"] for entry in changed[1]["Entries"]] == [30]


async def _no_pauses() -> Sequence[Pause]:
    return []


def test_receipts_that_are_worth_nothing_any_more_are_no_error(clock: FakeClock) -> None:
    receipts = [Receipt(id=f"h{n}", count=1) for n in range(12)]
    stale = {"Failed": [{"Id": "1", "Code": "ReceiptHandleIsInvalid"}, {"Id": "2", "Code": "InvalidParameterValue"}]}
    script = Script(("delete_message_batch", stale), ("delete_message_batch", {}))
    asyncio.run(SqsQueue(script, "url", clock, _no_pauses).delete(receipts))
    assert [len(call["Entries"]) for _, call in script.calls] == [10, 2]
    busy = Script(("delete_message_batch", {"Failed": [{"Id": "1", "Code": "InternalError"}]}))
    with pytest.raises(StoreBusy):
        asyncio.run(SqsQueue(busy, "url", clock, _no_pauses).delete(receipts[:3]))


def test_visibility_is_never_longer_than_sqs_allows(clock: FakeClock) -> None:
    script = Script(("change_message_visibility_batch", {}))
    far = clock.now() + timedelta(days=2)
    asyncio.run(SqsQueue(script, "url", clock, _no_pauses).extend([Receipt(id="h", count=1)], far))
    assert script.calls[0][1]["Entries"][0]["VisibilityTimeout"] == 43200


def test_who_waits_longer_than_a_message_can_keeps_none(clock: FakeClock) -> None:
    script = Script(("delete_message_batch", {}), ("change_message_visibility_batch", {}))
    tasks = SqsQueue(script, "url", clock, _no_pauses)
    receipt = Receipt(id="h", count=1)
    asyncio.run(tasks.release(receipt, clock.now() + timedelta(minutes=15, milliseconds=1)))
    asyncio.run(tasks.release(receipt, clock.now() + timedelta(minutes=14, milliseconds=1)))
    assert script.calls[1][1]["Entries"][0]["VisibilityTimeout"] == 841  # not before it


# --- SNS -------------------------------------------------------------------------------------------------------------


def test_what_sns_leaves_undone_is_published_again() -> None:
    def first(parameters: Mapping[str, Any]) -> dict[str, Any]:
        ids = [entry["Id"] for entry in parameters["PublishBatchRequestEntries"]]
        failed = [{"Id": id_, "Code": "InternalError", "SenderFault": False} for id_ in ids[1:]]
        return {"Successful": [{"Id": ids[0]}], "Failed": failed}

    def rest(parameters: Mapping[str, Any]) -> dict[str, Any]:
        return {"Successful": [{"Id": entry["Id"]} for entry in parameters["PublishBatchRequestEntries"]]}

    messages: list[dict[str, Json]] = [{"action": "task-status", "n": n} for n in range(3)]
    script = Script(("publish_batch", first), ("publish_batch", rest))
    asyncio.run(SnsPublisher(script, "topic").publish(messages))
    assert [len(call["PublishBatchRequestEntries"]) for _, call in script.calls] == [3, 2]
    never = Script(*[("publish_batch", {"Failed": []})] * notifier.TRIES)
    with pytest.raises(StoreBusy):
        asyncio.run(SnsPublisher(never, "topic").publish(messages))


def test_a_message_that_is_too_long_loses_its_attributes() -> None:
    def done(parameters: Mapping[str, Any]) -> dict[str, Any]:
        return {"Successful": [{"Id": entry["Id"]} for entry in parameters["PublishBatchRequestEntries"]]}

    script = Script(("publish_batch", done))
    content: Json = {"status": "COMPLETED", "attributes": {"result": [["x" * 300_000]]}}
    asyncio.run(SnsPublisher(script, "topic").publish([{"action": "task-status", "content": content}]))
    (entry,) = script.calls[0][1]["PublishBatchRequestEntries"]
    assert json.loads(entry["Message"])["content"] == {"status": "COMPLETED"}
    with pytest.raises(InvalidInput):
        asyncio.run(SnsPublisher(Script(), "topic").publish([{"action": "a", "text": "x" * 300_000}]))


# --- Step Functions --------------------------------------------------------------------------------------------------


async def _not_promised(code: str, arn: str) -> bool:
    return False


def machine(script: Script) -> StepFunctionsStateMachine:
    return StepFunctionsStateMachine(script, MACHINE, _not_promised)


@pytest.mark.parametrize("count", [1, 100, 101, 10_000, 1_000_000, 10_000_000])
def test_an_execution_is_started_with_little_however_large_it_is(count: int) -> None:
    """Rule 6: chunk numbers only; under 100 KB for a million sub-tasks."""
    plan = fan_out_plan(count)
    chunks = chunk_count(count, plan.chunk_size)
    text = input_text(ExecutionInput(key=KEY, run=1, chunks=chunks, at_once=chunks_at_once(plan)))
    assert len(text) < 100_000
    state = json.loads(text)
    assert state["todo"] == list(range(chunks))
    # With what all chunks may answer the state is still one that Step Functions takes.
    answers = [[chunk, 1_900_000_000] for chunk in range(chunks)]
    assert len(json.dumps(state | {"answers": answers}, separators=(",", ":"))) < STATE_BYTES


def test_more_chunks_than_there_may_be_are_refused() -> None:
    with pytest.raises(InvalidInput):
        input_text(ExecutionInput(key=KEY, run=1, chunks=MAX_CHUNKS * 5, at_once=1))


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("RUNNING", ExecutionStatus.RUNNING),
        ("SUCCEEDED", ExecutionStatus.SUCCEEDED),
        ("FAILED", ExecutionStatus.FAILED),
        ("TIMED_OUT", ExecutionStatus.FAILED),
        ("ABORTED", ExecutionStatus.ABORTED),
    ],
)
def test_a_name_that_was_used_is_looked_at(status: str, expected: ExecutionStatus) -> None:
    """Rule 3: "already exists" asks the execution itself."""
    asked = ExecutionInput(key=KEY, run=1, chunks=2, at_once=1)
    found = {
        "executionArn": f"{MACHINE.replace('stateMachine', 'execution')}:name",
        "name": "name",
        "status": status,
        "input": input_text(asked),
        "startDate": datetime(2026, 5, 1, tzinfo=UTC),
    }
    script = Script(("start_execution", "ExecutionAlreadyExists"), ("describe_execution", found))
    execution = asyncio.run(machine(script).start("name", asked))
    assert (execution.status, execution.input) == (expected, asked)


def test_only_an_execution_that_waits_is_stopped() -> None:
    for last in ("MapRunStarted", "TaskScheduled", "ExecutionSucceeded"):
        asyncio.run(machine(Script(("get_execution_history", {"events": [{"type": last}]}))).hurry(KEY, 1))
    waiting = {"events": [{"type": "WaitStateEntered"}]}
    script = Script(("get_execution_history", waiting), ("stop_execution", {}))
    asyncio.run(machine(script).hurry(KEY, 2))
    assert script.calls[1][1]["executionArn"].endswith(f":{KEY.parts.code}-2")
    asyncio.run(machine(Script(("get_execution_history", "ExecutionDoesNotExist"))).hurry(KEY, 1))


def test_a_token_is_answered_or_known_to_nobody() -> None:
    script = Script(("send_task_success", {}))
    asyncio.run(machine(script).resume("token", {"a": 1}))
    assert script.calls[0][1] == {"taskToken": "token", "output": '{"a":1}'}
    for code in ("TaskDoesNotExist", "InvalidToken", "TaskTimedOut"):
        with pytest.raises(TaskTokenNotFound):
            asyncio.run(machine(Script(("send_task_success", code))).resume("token", None))
    for token in ("", "x" * 2049):
        with pytest.raises(TaskTokenNotFound):
            asyncio.run(machine(Script()).resume(token, None))
    with pytest.raises(InvalidInput):
        asyncio.run(machine(Script()).resume("token", "x" * STATE_BYTES))


# --- S3 --------------------------------------------------------------------------------------------------------------


def test_a_list_with_too_many_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload_store, "PART_BYTES", 10)
    monkeypatch.setattr(payload_store, "MAX_PARTS", 2)
    script = Script(
        ("create_multipart_upload", {"UploadId": "u"}),
        ("upload_part", {"ETag": "1"}),
        ("upload_part", {"ETag": "2"}),
        ("abort_multipart_upload", {}),
        ("delete_object", {}),
    )

    async def write() -> None:
        writer = S3PayloadStore(script, "bucket").items("name")
        with pytest.raises(InvalidInput):
            await writer.add([EncodedJson("1234567890" * 3)])
        await writer.discard()

    asyncio.run(write())
    assert script.steps == []


def test_a_list_of_many_parts_is_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines and table lie behind one another, wherever the parts are cut."""
    monkeypatch.setattr(payload_store, "PART_BYTES", 10)
    parts: list[bytes] = []

    def upload(parameters: Mapping[str, Any]) -> dict[str, Any]:
        parts.append(parameters["Body"])
        assert parameters["PartNumber"] == len(parts)
        return {"ETag": str(len(parts))}

    def complete(parameters: Mapping[str, Any]) -> dict[str, Any]:
        assert [part["PartNumber"] for part in parameters["MultipartUpload"]["Parts"]] == [1, 2, 3, 4, 5]
        return {}

    script = Script(
        ("create_multipart_upload", {"UploadId": "u"}),
        *[("upload_part", upload)] * 5,
        ("complete_multipart_upload", complete),
    )

    async def write() -> str:
        writer = S3PayloadStore(script, "bucket").items("TASK#t#cat#1/items")
        await writer.add([EncodedJson("123456"), EncodedJson("1234")])
        await writer.add([EncodedJson("12")])
        return await writer.close()

    reference = asyncio.run(write())
    assert reference == "s3://bucket/payloads/TASK/t/cat/1/items?items=3&table=15"
    whole = b"".join(parts)
    table = b"".join(start.to_bytes(8, "big") for start in (0, 7, 12, 15))
    assert whole == b"123456\n1234\n12\n" + table
    assert [len(part) for part in parts] == [10, 10, 10, 10, 7]
