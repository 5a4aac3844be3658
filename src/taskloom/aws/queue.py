"""Task messages over SQS: sending them, and `ports.Queue` for workers that poll a queue of their own.

A queue is a standard one. Its messages carry the tenant as their group, so that a tenant with many makes the others
wait no longer (source: Amazon SQS developer guide, "Amazon SQS fair queues").
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from taskloom.aws.batches import batches
from taskloom.aws.clients import Clients
from taskloom.aws.refusals import refusal
from taskloom.errors import InvalidInput, StoreBusy, StoreError
from taskloom.events import shapes
from taskloom.lifecycle import Standing
from taskloom.model import Kind
from taskloom.ports import Clock, Delivery, MessageKind, Pause, PauseScope, Receipt, Served

SERVICE: Final = "sqs"
BATCH_MESSAGES: Final = 10
"""Entries of one call (source: Amazon SQS API reference, SendMessageBatch and its like, ReceiveMessage)."""
MESSAGE_BYTES: Final = 1024 * 1024
"""A message with its attributes, and all of a batch (source: Amazon SQS developer guide, "Message quotas")."""
LONGEST_VISIBILITY: Final = timedelta(hours=12)
"""Counted from when the message was received (source: API reference, ChangeMessageVisibility)."""
LONGEST_WAIT: Final = timedelta(minutes=15)
"""A message waits no longer than this. The table knows of longer waits, and sends another message then."""
LONG_POLL: Final = 10
"""Seconds; at most 20 (source: API reference, ReceiveMessage, WaitTimeSeconds)."""
PAUSED_FOR: Final = timedelta(seconds=30)
"""How long a message waits whose type or tenant is paused, before somebody looks again."""

_STALE: Final = frozenset({"ReceiptHandleIsInvalid", "InvalidParameterValue", "MessageNotInflight"})
"""Of a receipt: the message was deleted, delivered again, or has been held for the longest time there is."""

TASK_DISPATCH: Final = "task-dispatch"
"""`action` of a message that tells a worker to dispatch a stream record once more."""

log = logging.getLogger(__name__)

Pauses = Callable[[], Awaitable[Sequence[Pause]]]


@dataclass(frozen=True, slots=True)
class Again:
    """A stream record to be dispatched once more, by whoever receives it."""

    record: Mapping[str, Any]


class SqsSender:
    """Sends task messages to one queue."""

    def __init__(self, clients: Clients, queue_url: str) -> None:
        self._clients = clients
        self._queue_url = queue_url

    async def send(self, records: "Sequence[Mapping[str, Any] | Again]") -> list[bool]:
        """Send the message of each of these stream *records*; for each whether it was sent. At least once each."""
        entries = [entry_of(number, record) for number, record in enumerate(records)]
        sent = [False] * len(records)
        calls = [self._send(batch, sent) for batch in batches(entries, _entry_bytes, BATCH_MESSAGES, MESSAGE_BYTES)]
        await asyncio.gather(*calls)
        return sent

    async def _send(self, batch: list[dict[str, Any]], sent: list[bool]) -> None:
        try:
            answer = await self._clients.call(SERVICE, "send_message_batch", QueueUrl=self._queue_url, Entries=batch)
        except StoreError as error:
            if not error.retryable:
                raise
            log.warning("messages could not be sent", extra={"queue": self._queue_url, "error": str(error)})
            return
        for done in answer.get("Successful", ()):
            sent[int(done["Id"])] = True
        for failed in answer.get("Failed", ()):
            log.warning("a message could not be sent", extra={"queue": self._queue_url, "error": str(failed)})


class SqsQueue:
    """The queue that workers poll.

    Receives in no promised order, whatever the priority; what a worker does not serve, and what is paused, goes back.
    """

    def __init__(
        self, clients: Clients, queue_url: str | None, clock: Clock, pauses: Pauses, *, wait: int = LONG_POLL
    ) -> None:
        self._clients = clients
        self._queue_url = queue_url
        self._clock = clock
        self._pauses = pauses
        self._wait = wait

    async def receive(self, served: Served, limit: int, *, visible_at: datetime) -> Sequence[Delivery]:
        """See `ports.Queue`."""
        if self._queue_url is None:
            raise InvalidInput(
                "worker_queue_url",
                "is missing, and a worker polls that queue",
                "give Settings(worker_queue_url=…) or TASKLOOM_WORKER_QUEUE_URL",
            )
        if served.tasks == served.fan_outs == frozenset():
            return []
        answer = await self._clients.call(
            SERVICE,
            "receive_message",
            QueueUrl=self._queue_url,
            MaxNumberOfMessages=min(limit, BATCH_MESSAGES),
            VisibilityTimeout=self._seconds(visible_at),
            WaitTimeSeconds=self._wait,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        messages = answer.get("Messages", ())
        if not messages:
            return []
        paused = {(pause.scope, pause.name) for pause in await self._pauses()}
        mine: list[Delivery] = []
        later: list[tuple[str, int]] = []
        for message in messages:
            delivery = delivery_of(
                message["Body"],
                message_id=message["MessageId"],
                handle=message["ReceiptHandle"],
                received=int(message["Attributes"]["ApproximateReceiveCount"]),
            )
            if not serves(served, delivery):
                later.append((message["ReceiptHandle"], 0))  # for another worker
            elif is_paused(paused, delivery):
                later.append((message["ReceiptHandle"], int(PAUSED_FOR.total_seconds())))
            else:
                mine.append(delivery)
        await self._change(later)
        return mine

    async def delete(self, receipts: Sequence[Receipt]) -> None:
        """See `ports.Queue`."""
        entries = [{"Id": str(n), "ReceiptHandle": str(receipt.id)} for n, receipt in enumerate(receipts)]
        await self._batched("delete_message_batch", entries)

    async def release(self, receipt: Receipt, at: datetime) -> None:
        """See `ports.Queue`. Whoever has to wait for longer than a message can gets another one in time."""
        if at > self._clock.now() + LONGEST_WAIT:
            await self.delete([receipt])
        else:
            await self._change([(str(receipt.id), self._seconds(at))])

    async def extend(self, receipts: Sequence[Receipt], visible_at: datetime) -> None:
        """See `ports.Queue`."""
        seconds = self._seconds(visible_at)
        await self._change([(str(receipt.id), seconds) for receipt in receipts])

    async def next_due(self, served: Served) -> datetime | None:  # noqa: ARG002 - SQS does not say
        """See `ports.Queue`. SQS does not say; whoever waits for it polls."""
        return None

    def _seconds(self, at: datetime) -> int:
        seconds = -(-(at - self._clock.now()) // timedelta(seconds=1))  # not before it
        return max(0, min(seconds, int(LONGEST_VISIBILITY.total_seconds())))

    async def _change(self, handles: Sequence[tuple[str, int]]) -> None:
        entries = [
            {"Id": str(n), "ReceiptHandle": handle, "VisibilityTimeout": seconds}
            for n, (handle, seconds) in enumerate(handles)
        ]
        await self._batched("change_message_visibility_batch", entries)

    async def _batched(self, operation: str, entries: list[dict[str, Any]]) -> None:
        for first in range(0, len(entries), BATCH_MESSAGES):
            batch = entries[first : first + BATCH_MESSAGES]
            answer = await self._clients.call(SERVICE, operation, QueueUrl=self._queue_url, Entries=batch)
            failed = [entry for entry in answer.get("Failed", ()) if entry["Code"].rpartition(".")[2] not in _STALE]
            if failed:
                raise StoreBusy(f"SQS left {len(failed)} of {len(batch)} messages as they were: {failed[0]}")


async def wait_for(clients: Clients, queue_url: str, handle: str, seconds: int) -> None:
    """Deliver the message of *handle* again after so many *seconds*. Does nothing when it was delivered again."""
    try:
        await clients.call(
            SERVICE,
            "change_message_visibility",
            QueueUrl=queue_url,
            ReceiptHandle=handle,
            VisibilityTimeout=max(0, min(seconds, int(LONGEST_VISIBILITY.total_seconds()))),
        )
    except StoreError as error:
        if refusal(error).rpartition(".")[2] not in _STALE:
            raise


def entry_of(number: int, record: "Mapping[str, Any] | Again") -> dict[str, Any]:
    """The message of the stream *record*, as an entry of SendMessageBatch.

    One whose item is too large for a message goes without it: whoever receives it looks it up.
    """
    action = shapes.TASK_EXECUTE
    if isinstance(record, Again):
        record, action = record.record, TASK_DISPATCH
    body = _text({**shapes.task_message(record), "action": action})
    if len(body.encode()) > MESSAGE_BYTES - 1024:
        change = {name: value for name, value in record["dynamodb"].items() if name != "NewImage"}
        body = _text({**shapes.task_message({**record, "dynamodb": change}), "action": action})
    return {
        "Id": str(number),
        "MessageBody": body,
        "MessageAttributes": {"action": {"DataType": "String", "StringValue": action}},
        "MessageGroupId": shapes.key_of(record).tenant_code,
    }


def delivery_of(body: str, *, message_id: str, handle: str, received: int) -> Delivery:
    """A received task message. Raises: InvalidInput when it is none."""
    message = shapes.body_of({"body": body})
    return delivery_from(message, message_id=message_id, handle=handle, received=received)


def delivery_from(message: Mapping[str, Any], *, message_id: str, handle: str, received: int) -> Delivery:
    """The same of its body. Raises: InvalidInput."""
    key = shapes.key_of(message)
    parts = key.parts
    return Delivery(
        receipt=Receipt(id=handle, count=received),
        kind=MessageKind.TASK,
        message_id=message_id,
        event_id=str(message.get("eventID", message_id)),
        key=key,
        task_kind=parts.kind,
        task_type=parts.task_type,
        standing=_standing(message) if received == 1 else None,
        received=received,
    )


def _standing(message: Mapping[str, Any]) -> Standing | None:
    """How the task stood when the message was made, which is how it stands unless somebody was faster: the claim is
    tried on this, and saves a read. A message that comes again looks the task up."""
    if "NewImage" not in message["dynamodb"] and "_taskEntity" not in message:
        return None
    return shapes.entity_of(message)


def is_paused(paused: set[tuple[PauseScope, str]], delivery: Delivery) -> bool:
    """Whether the type or the tenant of this message is among what is *paused*."""
    tenant = delivery.key.tenant_code
    return (PauseScope.TASK_TYPE, delivery.task_type) in paused or (PauseScope.TENANT, tenant) in paused


def serves(served: Served, delivery: Delivery) -> bool:
    """Whether the task of this message is among what is *served*."""
    types = served.tasks if delivery.task_kind is Kind.TASK else served.fan_outs
    return types is None or delivery.task_type in types


def _entry_bytes(entry: Mapping[str, Any]) -> int:
    """With the attribute, whose name, type and value count (source: developer guide, "Message metadata")."""
    return len(entry["MessageBody"].encode()) + len("action" + "String" + shapes.TASK_EXECUTE)


def _text(message: Mapping[str, Any]) -> str:
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))


async def has_backlog(clients: Clients, queue_url: str) -> bool:
    """Whether messages wait in the queue; as well as SQS can tell."""
    name = "ApproximateNumberOfMessages"
    answer = await clients.call(SERVICE, "get_queue_attributes", QueueUrl=queue_url, AttributeNames=[name])
    return int(answer["Attributes"][name]) > 0
