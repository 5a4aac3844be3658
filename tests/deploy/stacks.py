"""A stack on the emulator, as a program outside sees it; and the same program on the embedded engine."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from taskloom import Settings, TaskEntity, TaskKey, TaskModule
from taskloom.aws.table import STREAM_FILTER
from taskloom.deploy.local import LocalStack
from tests.aws.stream_pump import passes
from tests.cli.program import Program
from tests.deploy import program

ROOT: Final = Path(__file__).parents[2]
APPLICATION: Final = "tests.deploy.program:make"
PATIENCE: Final = 90.0
"""Seconds for what should be there soon; a busy machine needs a while to start processes."""

Scenario: TypeAlias = "Callable[[TaskModule, Path], Awaitable[Outcome]]"


@dataclass(frozen=True)
class Outcome:
    """What a program came to: tasks as they ended, with what two engines must agree on."""

    tasks: tuple[Any, ...]
    notes: tuple[str, ...] = ()


def facts(task: TaskEntity[Any]) -> dict[str, Any]:
    """What every engine must say of a task that went the same way. Times, ids and texts of workers are its own."""
    attributes = task.attributes
    return {
        "kind": str(task.kind),
        "status": str(task.status),
        "run": task.run,
        "attempt": task.attempt,
        "result": task.result,
        "error": None if task.error is None else (task.error.type, task.error.message),
        "counters": (
            attributes.sub_task_count,
            attributes.sub_task_succeed_count,
            attributes.sub_task_failed_count,
            attributes.sub_task_running_count,
        ),
        "history": [(str(entry.status), entry.run, entry.attempt) for entry in task.history],
    }


def statuses(task: TaskEntity[Any]) -> list[str]:
    """The statuses that *task* had, in order."""
    return [str(entry.status) for entry in task.history]


async def sub_tasks(module: TaskModule, key: TaskKey) -> list[dict[str, Any]]:
    """The facts of all sub-tasks, in order."""
    return [facts(task) async for task in module.task_service.iter_sub_tasks(key)]


async def until(condition: Callable[[], bool], what: str) -> None:
    """Return when *condition* holds; for what no event tells of, as it happens in other processes."""
    loop, nobody = asyncio.get_running_loop(), asyncio.Event()
    end = loop.time() + PATIENCE
    while not await asyncio.to_thread(condition):
        if loop.time() > end:
            raise TimeoutError(f"after {PATIENCE:g} s still not: {what}")
        try:
            await asyncio.wait_for(nobody.wait(), 0.1)
        except TimeoutError:
            continue


def embedded(scenario: Scenario, folder: Path) -> Outcome:
    """What *scenario* comes to on the embedded engine."""

    async def worked(module: TaskModule, folder: Path) -> Outcome:
        async with module.worker(concurrency=4):
            return await scenario(module, folder)

    return _run(worked, Settings(database=folder / "tasks.db"), folder)


def embedded_apart(scenario: Scenario, folder: Path) -> Outcome:
    """The same with worker processes of their own, for handlers that end their process."""
    folder.mkdir()
    database = folder / "tasks.db"
    paths = [str(ROOT), *(path for path in sys.path if path)]
    environment = {
        "PYTHONPATH": os.pathsep.join(paths),
        "TASKLOOM_DATABASE": str(database),
        "TASKLOOM_LEASE_SECONDS": "2",
    }
    with Program(ROOT, "worker", APPLICATION, "--processes", "2", "--concurrency", "1", environment=environment):
        return _run(scenario, Settings(database=database), folder)


def _run(scenario: Scenario, settings: Settings, folder: Path) -> Outcome:
    folder.mkdir(exist_ok=True)

    async def run() -> Outcome:
        module = program.make(settings)
        try:
            return await scenario(module, folder)
        finally:
            await module.aclose()

    return asyncio.run(run())


class Outside:
    """A program outside of the stack: creates tasks, watches them, and meddles with what lies between."""

    def __init__(self, stack: LocalStack) -> None:
        self.stack = stack
        self.settings = Settings(**stack.settings)
        self.heard_url = self._listen()

    def client(self, service: str) -> Any:
        """A boto3 client of the emulator."""
        return self.stack.emulator.client(service)

    def run(self, scenario: Scenario, folder: Path) -> Outcome:
        """What *scenario* comes to on the stack."""
        try:
            return _run(scenario, self.settings, folder)
        except (AssertionError, TimeoutError) as error:
            lines = [line for line in self.stack.logged({}) if '"level"' in line or "Error" in line]
            error.add_note("\n".join(["the functions logged:", *lines[-50:]]))
            raise

    def function(self, name: str) -> str:
        """The name of the function whose logical id holds *name*."""
        functions = self.stack.resources("AWS::Lambda::Function")
        (found,) = (physical for logical, physical in functions.items() if name in logical)
        return found

    def invoke(self, name: str, event: Any) -> Any:
        """What a function answers to *event*."""
        answer = self.client("lambda").invoke(FunctionName=self.function(name), Payload=json.dumps(event).encode())
        body = json.loads(answer["Payload"].read() or b"null")
        assert "FunctionError" not in answer, body
        return body

    def records(self, key: TaskKey) -> list[dict[str, Any]]:
        """What Lambda was handed over of the table's stream for the task *key*."""
        streams = self.client("dynamodbstreams")
        table = self.client("dynamodb").describe_table(TableName=self.settings.table_name)["Table"]
        arn = table["LatestStreamArn"]
        found: list[dict[str, Any]] = []
        for shard in streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]:
            place = {"StreamArn": arn, "ShardId": shard["ShardId"], "ShardIteratorType": "TRIM_HORIZON"}
            iterator = streams.get_shard_iterator(**place)["ShardIterator"]
            while records := (answer := streams.get_records(ShardIterator=iterator))["Records"]:
                found += [_handed_over(record, arn) for record in records if _is_of(record, key)]
                iterator = answer["NextShardIterator"]
        return found

    def is_idle(self) -> bool:
        """Whether no message waits for a function, and none is with one."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = self.client("sqs").get_queue_attributes(QueueUrl=self.settings.task_queue_url, AttributeNames=names)
        return all(int(answer["Attributes"][name]) == 0 for name in names)

    def heard(self, keys: Collection[TaskKey], count: int) -> list[dict[str, Any]]:
        """What the topics told of the tasks *keys*, *count* messages, each once; those of other tasks are lost."""
        sqs, ids = self.client("sqs"), {key.id for key in keys}
        found: dict[str, dict[str, Any]] = {}
        for _ in range(int(PATIENCE)):
            answer = sqs.receive_message(QueueUrl=self.heard_url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
            for message in answer.get("Messages", ()):
                sqs.delete_message(QueueUrl=self.heard_url, ReceiptHandle=message["ReceiptHandle"])
                body = json.loads(message["Body"])
                if body["id"] in ids:
                    found[body["eventId"]] = body  # at least once: a repeat has the same id
            if len(found) >= count:
                return list(found.values())
        raise TimeoutError(f"only {len(found)} of {count} messages came")

    def _listen(self) -> str:
        sqs, sns = self.client("sqs"), self.client("sns")
        url: str = sqs.create_queue(QueueName=f"{self.stack.name}-heard")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        for topic in (self.settings.topic_arn, self.settings.alarm_topic_arn):
            raw = {"RawMessageDelivery": "true"}
            sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes=raw)
        return url


def told(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What *messages* say of ends, without the ids and times of one engine, in some fixed order."""
    kept = ("action", "type", "tenantCode", "run", "attempt", "content")
    said = [{name: one[name] for name in kept} for one in messages if _is_of_an_end(one)]
    return sorted(said, key=lambda one: json.dumps(one, sort_keys=True))


def _is_of_an_end(message: dict[str, Any]) -> bool:
    return message["content"].get("status") not in ("PENDING", "IN_PROGRESS")


def _is_of(record: dict[str, Any], key: TaskKey) -> bool:
    keys = record["dynamodb"]["Keys"]
    return passes(record, STREAM_FILTER) and (keys["pk"]["S"], keys["sk"]["S"]) == (key.pk, key.sk)


def _handed_over(record: dict[str, Any], arn: str) -> dict[str, Any]:
    change = record["dynamodb"]
    at = change["ApproximateCreationDateTime"].timestamp()
    return {**record, "eventSourceARN": arn, "dynamodb": {**change, "ApproximateCreationDateTime": at}}
