"""The change stream of the table as Lambda would see it: read with the stack's own filter, record by record."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from taskloom.aws.admin import DynamoQueueAdmin
from taskloom.aws.clients import Clients
from taskloom.aws.items import task_of
from taskloom.aws.table import STREAM_FILTER
from taskloom.ports import Clock, StreamFailure, StreamRecord, TaskMessage


@dataclass
class _Waiting:
    record: StreamRecord
    at: datetime
    failures: int = 0


class StreamPump:
    """`ports.ChangeStream` for the contract suites. On AWS a function is called with the records instead."""

    def __init__(self, clients: Clients, stream_arn: str, clock: Clock, admin: DynamoQueueAdmin) -> None:
        self._clients = clients
        self._arn = stream_arn
        self._clock = clock
        self._admin = admin
        self._lock = threading.Lock()
        self._iterator: str | None = None
        self._waiting: dict[int, _Waiting] = {}

    async def take(self, limit: int, *, again_at: datetime) -> Sequence[StreamRecord]:
        await self._clients.run(self._poll)
        with self._lock:
            due = [waiting for waiting in self._waiting.values() if waiting.at <= self._clock.now()][:limit]
            for waiting in due:
                waiting.at = again_at
            return [waiting.record for waiting in due]

    async def forward(self, limit: int) -> int:
        raise NotImplementedError("Lambda is given its records")

    async def settle(self, done: Sequence[tuple[int, TaskMessage | None]], failures: Sequence[StreamFailure]) -> None:
        for sequence, _ in done:
            self._waiting.pop(sequence, None)
        for failure in failures:
            waiting = self._waiting[failure.sequence]
            waiting.failures += 1
            if failure.retry_at is not None:
                waiting.at = failure.retry_at
                continue
            del self._waiting[failure.sequence]
            await self._admin.bury(waiting.record.image.key, waiting.failures, failure.reason)

    async def next_due(self) -> datetime | None:
        return min((waiting.at for waiting in self._waiting.values()), default=None)

    def _poll(self) -> None:
        with self._lock:
            if self._iterator is None:
                stream = self._send("describe_stream", StreamArn=self._arn)["StreamDescription"]
                (shard,) = stream["Shards"]
                answer = self._send(
                    "get_shard_iterator",
                    StreamArn=self._arn,
                    ShardId=shard["ShardId"],
                    ShardIteratorType="TRIM_HORIZON",
                )
                self._iterator = answer["ShardIterator"]
            while True:
                answer = self._send("get_records", ShardIterator=self._iterator)
                self._iterator = answer["NextShardIterator"]
                for record in answer["Records"]:
                    if passes(record, STREAM_FILTER):
                        self._keep(record)
                if not answer["Records"]:
                    return

    def _keep(self, record: dict[str, Any]) -> None:
        sequence = int(record["dynamodb"]["SequenceNumber"])
        self._waiting[sequence] = _Waiting(
            StreamRecord(
                sequence=sequence,
                event_id=record["eventID"],
                event_name=record["eventName"],
                image=task_of(record["dynamodb"]["NewImage"]),
                failures=0,
            ),
            self._clock.now(),
        )

    def _send(self, operation: str, **parameters: Any) -> Any:
        return self._clients.send("dynamodbstreams", operation, **parameters)


def passes(record: Any, pattern: Any) -> bool:
    """Whether Lambda would hand a record over (source: Lambda developer guide, "Event filtering"): `exists` only."""
    if isinstance(pattern, list):
        (rule,) = pattern
        return (record is not None) is bool(rule["exists"])
    return isinstance(record, dict) and all(passes(record.get(name), inner) for name, inner in pattern.items())
