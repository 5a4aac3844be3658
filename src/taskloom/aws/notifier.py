"""Messages to an SNS topic, in batches."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from taskloom.aws.batches import batches
from taskloom.aws.clients import Clients
from taskloom.errors import InvalidInput, StoreBusy
from taskloom.values import Json

SERVICE: Final = "sns"
BATCH_MESSAGES: Final = 10
"""Source: Amazon SNS API reference, PublishBatch."""
BATCH_BYTES: Final = 256 * 1024
"""A message, and all messages of a batch (source: Amazon SNS API reference, Publish and PublishBatch)."""
TRIES: Final = 3
"""How often what a batch left undone is published."""


class SnsPublisher:
    """Publishes to one topic; each message carries its `action`, by which subscriptions filter."""

    def __init__(self, clients: Clients, topic_arn: str) -> None:
        self._clients = clients
        self._topic_arn = topic_arn

    async def publish(self, messages: Sequence[Mapping[str, Json]]) -> None:
        """Publish *messages*, each with an `action`; at least once each.

        What is too long loses its `content.attributes` first, which can be looked up. Raises: StoreError when some were
        not published, so that all are to be published again; InvalidInput for one that is too long all the same.
        """
        entries = [_entry(number, message) for number, message in enumerate(messages)]
        left = {entry["Id"]: entry for entry in entries}
        for _ in range(TRIES):
            for batch in batches(list(left.values()), _size, BATCH_MESSAGES, BATCH_BYTES):
                answer = await self._clients.call(
                    SERVICE, "publish_batch", TopicArn=self._topic_arn, PublishBatchRequestEntries=batch
                )
                for done in answer.get("Successful", ()):
                    left.pop(done["Id"], None)
                for failed in answer.get("Failed", ()):
                    if failed.get("SenderFault"):
                        raise InvalidInput("message", f"was refused by SNS: {failed.get('Message')}", "shorten it")
            if not left:
                return
        raise StoreBusy(f"SNS left {len(left)} of {len(entries)} messages unpublished")


def _entry(number: int, message: Mapping[str, Json]) -> dict[str, Any]:
    text = _text(message)
    content = message.get("content")
    if len(text.encode()) > BATCH_BYTES - 1024 and isinstance(content, dict):
        text = _text({**message, "content": {name: value for name, value in content.items() if name != "attributes"}})
    action = str(message["action"])
    entry = {
        "Id": str(number),
        "Message": text,
        "MessageAttributes": {"action": {"DataType": "String", "StringValue": action}},
    }
    if _size(entry) > BATCH_BYTES:
        raise InvalidInput("message", f"has {_size(entry)} bytes", f"SNS takes {BATCH_BYTES}; shorten it")
    return entry


def _text(message: Mapping[str, Json]) -> str:
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))


def _size(entry: Mapping[str, Any]) -> int:
    """With the attribute, whose name, type and value count (source: developer guide, "Message attributes")."""
    action = entry["MessageAttributes"]["action"]["StringValue"]
    return len(entry["Message"].encode()) + len("action" + "String" + action)
