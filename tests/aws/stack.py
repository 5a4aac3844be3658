"""What the stack is made of, made for one test."""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from taskloom import Settings
from taskloom.aws.clients import Clients
from taskloom.aws.state_machine import definition
from taskloom.aws.table import DEFINITION, STREAM_FILTER
from tests.aws.stream_pump import passes

ROLE: Final = "arn:aws:iam::000000000000:role/test"
FUNCTION: Final = "arn:aws:lambda:eu-central-1:000000000000:function:chunk"
RETRIES: Final = 3
"""How often a message is received before it goes to the dead letters."""
_NUMBERS: Final = itertools.count(1)


@dataclass
class Stack:
    """Table, queues, topics, bucket and state machine, with names of their own."""

    clients: Clients
    machine: str = field(default_factory=lambda: definition(FUNCTION))
    """The definition of the state machine."""
    name: str = field(default_factory=lambda: f"flow-{next(_NUMBERS)}")
    settings: Settings = field(init=False)
    stream_arn: str = field(init=False)
    dead_queue_url: str = field(init=False)
    notification_queue_url: str = field(init=False)

    def __post_init__(self) -> None:
        table = f"{self.name}-tasks"
        self.stream_arn = self.send("dynamodb", "create_table", TableName=table, **DEFINITION)["TableDescription"][
            "LatestStreamArn"
        ]
        self.dead_queue_url = self.queue("task-dead-letter-queue")
        redrive = {"deadLetterTargetArn": self.arn_of(self.dead_queue_url), "maxReceiveCount": 100}
        bucket = f"{self.name}-payloads"
        self.send(
            "s3", "create_bucket", Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
        )
        topic = self.send("sns", "create_topic", Name=f"{self.name}-status")["TopicArn"]
        self.notification_queue_url = self.queue("notification-queue")
        self.send(
            "sns",
            "subscribe",
            TopicArn=topic,
            Protocol="sqs",
            Endpoint=self.arn_of(self.notification_queue_url),
            Attributes={"RawMessageDelivery": "true"},
        )
        machine = self.send(
            "stepfunctions",
            "create_state_machine",
            name=f"{self.name}-sfn-task",
            definition=self.machine,
            roleArn=ROLE,
        )
        self.settings = Settings(
            backend="aws",
            table_name=table,
            task_queue_url=self.queue("task-action-queue", RedrivePolicy=json.dumps(redrive)),
            worker_queue_url=self.queue("worker-queue"),
            state_machine_arn=machine["stateMachineArn"],
            payload_bucket=bucket,
            topic_arn=topic,
            alarm_topic_arn=topic,
        )

    def send(self, service: str, operation: str, **parameters: Any) -> Any:
        """One call of AWS."""
        return self.clients.send(service, operation, **parameters)

    def queue(self, name: str, **attributes: str) -> str:
        """The URL of a new queue."""
        url = self.send("sqs", "create_queue", QueueName=f"{self.name}-{name}", Attributes=attributes)["QueueUrl"]
        return str(url)

    def arn_of(self, queue_url: str) -> str:
        """The ARN of a queue."""
        answer = self.send("sqs", "get_queue_attributes", QueueUrl=queue_url, AttributeNames=["QueueArn"])
        return str(answer["Attributes"]["QueueArn"])


class TableStream:
    """The records of a table's stream that pass the stack's filter, as Lambda hands them over."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._last: str | None = None
        """The sequence number of the last record."""

    def records(self) -> list[dict[str, Any]]:
        """Those that were written since the call before."""
        found: list[dict[str, Any]] = []
        iterator = self._begin()
        while records := (answer := self._send("get_records", ShardIterator=iterator))["Records"]:
            iterator = answer["NextShardIterator"]
            self._last = records[-1]["dynamodb"]["SequenceNumber"]
            found += [self._record(record) for record in records if passes(record, STREAM_FILTER)]
        return found

    def _record(self, record: Mapping[str, Any]) -> dict[str, Any]:
        change = record["dynamodb"]
        at = change["ApproximateCreationDateTime"].timestamp()
        return {
            **record,
            "eventSourceARN": self._stack.stream_arn,
            "dynamodb": {**change, "ApproximateCreationDateTime": at},
        }

    def _begin(self) -> str:
        arn = self._stack.stream_arn
        (shard,) = self._send("describe_stream", StreamArn=arn)["StreamDescription"]["Shards"]
        place: dict[str, str] = {"ShardIteratorType": "TRIM_HORIZON"}
        if self._last is not None:
            place = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": self._last}
        # A new one each time: they expire, and the tests move the clock.
        answer = self._send("get_shard_iterator", StreamArn=arn, ShardId=shard["ShardId"], **place)
        return str(answer["ShardIterator"])

    def _send(self, operation: str, **parameters: Any) -> Any:
        return self._stack.send("dynamodbstreams", operation, **parameters)
