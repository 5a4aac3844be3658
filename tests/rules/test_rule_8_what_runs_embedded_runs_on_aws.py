"""Rule 8: what runs embedded runs on AWS: events of AWS's own shape, values that every backend keeps."""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from taskloom import (
    EventFactoryAddedTask,
    StepFunctionTaskEvent,
    TaskEvent,
    TaskModule,
    TaskQueueEvent,
    TaskStatus,
    current,
)
from taskloom.errors import InvalidInput
from taskloom.model import TaskEntity
from taskloom.ports import Backend
from tests.support.clock import FakeClock
from tests.support.scenarios import TENANT, module_over, open_backend, work


class Recording(EventFactoryAddedTask):
    """Keeps the raw events, as they come over a wire."""

    def __init__(self) -> None:
        self.streams: list[Any] = []
        self.messages: list[Any] = []

    async def transform_dynamodb_stream(self, event: Mapping[str, Any]) -> Sequence[Any]:
        self.streams.append(json.loads(json.dumps(event, allow_nan=False)))
        return await super().transform_dynamodb_stream(event)

    async def transform_sqs(self, event: Mapping[str, Any]) -> Sequence[Any]:
        self.messages.append(json.loads(json.dumps(event, allow_nan=False)))
        return await super().transform_sqs(event)


INPUTS: list[Any] = [None, True, 0, -1.5, 10**37, "ä€😀", [], {}, {"a": [1, {"b": None}], "": "empty"}]


def run_recorded(backend: Backend) -> tuple[Recording, list[TaskEntity[Any]], list[TaskEntity[Any]]]:
    """What an application's factory sees of tasks of both kinds; the tasks as created, and as the handlers got them."""
    factory = Recording()
    module, handled = module_over(backend, event_factory=factory), []

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> Any:
        handled.append(event.task)
        return event.task.input

    @module.step_function_task("cat")
    async def cats(event: StepFunctionTaskEvent) -> None:
        pass

    async def main() -> list[TaskEntity[Any]]:
        service = module.task_service
        made = [await service.create_task(tenant_code=TENANT, task_type="cat", input=own) for own in INPUTS]
        made.append(await service.create_step_function_task(tenant_code=TENANT, task_type="cat", input=[1, 2]))
        await work(module)
        return made

    return factory, asyncio.run(main()), handled


def check_stream_record(record: Mapping[str, Any]) -> None:
    """Assert the shape of a record (source: DynamoDB Streams API reference, "Record", as Lambda hands it over)."""
    assert set(record) >= {"eventID", "eventName", "eventVersion", "eventSource", "awsRegion", "dynamodb"}
    assert re.fullmatch(r"[0-9a-f]{32}", record["eventID"])
    assert record["eventName"] in ("INSERT", "MODIFY")
    assert record["eventSource"] == "aws:dynamodb"
    assert re.fullmatch(
        r"arn:[a-z]+:dynamodb:[^:]+:[0-9]{12}:table/[^/]*tasks[^/]*/stream/.+", record["eventSourceARN"]
    )
    change = record["dynamodb"]
    assert set(change) >= {"ApproximateCreationDateTime", "Keys", "NewImage", "SequenceNumber", "StreamViewType"}
    assert isinstance(change["SequenceNumber"], str)
    assert set(change["Keys"]) == {"pk", "sk"}
    for name, value in change["NewImage"].items():
        assert len(value) == 1, name
        assert next(iter(value)) in {"S", "N", "BOOL", "NULL", "L", "M"}, name
    assert change["NewImage"]["id"]["S"] == f"{change['Keys']['pk']['S']}#{change['Keys']['sk']['S']}"


def check_sqs_record(record: Mapping[str, Any]) -> None:
    """Assert the shape of a message (source: Lambda developer guide, "Using Lambda with Amazon SQS")."""
    assert set(record) >= {"messageId", "receiptHandle", "body", "attributes", "messageAttributes", "eventSourceARN"}
    assert record["eventSource"] == "aws:sqs"
    assert record["messageAttributes"]["action"] == {"stringValue": "task-execute", "dataType": "String"}
    assert int(record["attributes"]["ApproximateReceiveCount"]) >= 1
    body = json.loads(record["body"])
    assert body["action"] == "task-execute"
    check_stream_record({name: value for name, value in body.items() if name not in ("action", "source")})


def test_raw_events_have_the_shape_of_aws(backend: Backend) -> None:
    factory, made, _ = run_recorded(backend)
    assert len(factory.streams) == len(made)
    assert len(factory.messages) == len(made) - 1, "a parent is started by the engine itself"
    for event in factory.streams:
        assert list(event) == ["Records"]
        for record in event["Records"]:
            check_stream_record(record)
    for event in factory.messages:
        assert len(event["Records"]) == 1, "the queue of tasks is read one by one"
        check_sqs_record(event["Records"][0])


def test_raw_events_show_the_tasks(backend: Backend) -> None:
    """Read with the same methods that a Lambda function reads them with."""
    factory, made, handled = run_recorded(backend)
    shown = [TaskEvent.from_dynamodb_record(event["Records"][0]).task_entity for event in factory.streams]
    assert sorted(shown, key=lambda task: task.code) == made
    events: list[TaskQueueEvent] = [TaskQueueEvent.from_sqs_record(event["Records"][0]) for event in factory.messages]
    by_code = {task.code: task for task in handled}
    for event in events:
        assert event.task_event.task_key in {task.key for task in made}
        assert event.task_event.task_entity == by_code[event.task.code]


def check_documented_factory(backend: Backend) -> None:
    """Assert that the factory of the documentation, which reads raw records itself, dispatches its tasks."""

    class Documented(EventFactoryAddedTask):
        async def transform_dynamodb_stream(self, event: Mapping[str, Any]) -> Sequence[Any]:
            mine = [
                TaskEvent.from_dynamodb_record(record)
                for record in event["Records"]
                if "tasks" in record["eventSourceARN"] and record["eventName"] == "INSERT"
            ]
            return [event for event in mine if len(event.task_entity.sk.split("#")) < 3]

    module = module_over(backend, event_factory=Documented())
    module.task("cat")(lambda event: "done")

    async def main() -> None:
        task = await module.task_service.create_task(tenant_code=TENANT, task_type="cat")
        await work(module)
        assert (await module.task_service.get_task(task.key)).status is TaskStatus.COMPLETED

    asyncio.run(main())


def test_a_factory_that_reads_raw_records_works(backend: Backend) -> None:
    check_documented_factory(backend)


def test_an_arn_of_another_shape_is_noticed(tmp_path: Path, clock: FakeClock) -> None:
    """The check above would see a stream whose ARN does not name the table."""
    backend = open_backend(tmp_path / "broken.db", clock)
    broken = replace(backend, stream_arn="arn:taskloom:dynamodb:local:000000000000:table/other/stream/1")
    with pytest.raises(AssertionError):
        check_documented_factory(broken)
    backend.close()


def test_the_context_of_a_sub_task_is_that_of_step_functions(backend: Backend) -> None:
    """Inside the Map; the execution is named by the parent's code."""
    module: TaskModule = module_over(backend)
    contexts: list[Mapping[str, Any]] = []

    @module.step_function_task("cat")
    async def cat(event: StepFunctionTaskEvent) -> None:
        contexts.append(json.loads(json.dumps(event.context)))
        assert event.task_key == event.input.key == current().task.key

    async def main() -> None:
        parent = await module.task_service.create_step_function_task(tenant_code=TENANT, task_type="cat", input=[1, 2])
        await work(module)
        assert len(contexts) == 2
        for context in contexts:
            assert context["Execution"]["Id"] == parent.execution_arn
            assert context["Execution"]["Name"] == parent.code
            assert context["Execution"]["Input"] == {"pk": parent.pk, "sk": parent.sk, "run": 1}
            assert set(context) >= {"Execution", "State", "StateMachine"}

    asyncio.run(main())


@pytest.mark.parametrize("own", INPUTS, ids=repr)
def test_values_come_back_equal_on_their_whole_way(backend: Backend, own: Any) -> None:
    """Created, read, handled, returned, read again; as input of a task and of a sub-task."""
    module = module_over(backend)
    seen: list[Any] = []

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> Any:
        seen.append(event.task.input)
        return event.task.input

    @module.step_function_task("cat")
    def cats(event: StepFunctionTaskEvent) -> Any:
        seen.append(event.task.input)
        return event.task.input

    async def main() -> None:
        service = module.task_service
        task = await service.create_task(tenant_code=TENANT, task_type="cat", input=own)
        parent = await service.create_step_function_task(tenant_code=TENANT, task_type="cat", input=[own])
        assert (await service.get_task(task.key)).input == own
        await work(module)
        assert (await service.get_task(task.key)).result == own
        (sub,) = (await service.list_sub_tasks(parent.key)).items
        assert sub.input == sub.result == own
        assert seen == [own, own]

    asyncio.run(main())


def test_nobody_shares_a_live_object_with_a_store(backend: Backend) -> None:
    """On AWS there is a network between them: what the caller or a handler changes afterwards is theirs alone."""
    module = module_over(backend)

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> Any:
        event.task.input["by the handler"] = True
        return event.task.input

    async def main() -> None:
        own = {"key": ["v"]}
        task = await module.task_service.create_task(tenant_code=TENANT, task_type="cat", input=own)
        own["key"].append("by the caller")
        assert task.input == {"key": ["v"]}
        task.input["key"].append("by the caller")
        await work(module)
        done = await module.task_service.get_task(task.key)
        assert done.input == {"key": ["v"]}
        assert done.result == {"key": ["v"], "by the handler": True}

    asyncio.run(main())


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 1e200, 10**38, "\ud800", b"x", {1: 2}, object()], ids=repr
)
def test_values_that_aws_could_not_keep_are_refused_here_too(backend: Backend, value: Any) -> None:
    """Before anything is written; otherwise a program would work until it is deployed."""

    async def main() -> None:
        service = module_over(backend).task_service
        with pytest.raises(InvalidInput, match=r"^input"):
            await service.create_task(tenant_code=TENANT, task_type="cat", input=value)
        with pytest.raises(InvalidInput, match=r"^input\[1\]"):
            await service.create_step_function_task(tenant_code=TENANT, task_type="cat", input=[1, value])
        assert (await service.list_tasks(TENANT)).items == []
        assert (await service.list_tasks(TENANT, type="SFN_TASK")).items == []

    asyncio.run(main())
