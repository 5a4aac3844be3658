"""`ports.TaskLogs` over DynamoDB: neighbouring lines of an attempt share an item, which costs a unit per kilobyte."""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final

from taskloom.aws import table
from taskloom.aws.dynamo import Dynamo, Query
from taskloom.aws.failures import ConditionFailed
from taskloom.aws.items import Item
from taskloom.clock import from_milliseconds, to_milliseconds
from taskloom.model import LogLine, TaskKey
from taskloom.ports import LogBatch, LogPosition
from taskloom.record import PK, SK
from taskloom.values import decode, encode_checked

LINES_PER_ITEM: Final = 100
BYTES_PER_ITEM: Final = 100_000
"""Of an item's lines before they are compressed; a single line may have more, and never as much as an item holds."""
COMPRESS_FROM: Final = 512
"""Bytes from which on lines are compressed."""

_LINES: Final = "lines"
_COUNT: Final = "count"
_DROPPED: Final = "dropped"


class DynamoTaskLogs:
    """Items of up to a hundred lines, each named by its first one; and one per attempt that says what was dropped."""

    def __init__(self, dynamo: Dynamo) -> None:
        self._dynamo = dynamo

    async def append(self, batches: Sequence[LogBatch]) -> None:
        """See `ports.TaskLogs`."""

        def work() -> None:
            for batch in batches:
                self._append(batch)

        if batches:
            await self._dynamo.clients.run(work)

    def _append(self, batch: LogBatch) -> None:
        if batch.dropped:
            self._drop(batch)
        number = batch.first
        while number < batch.first + len(batch.lines):
            number += self._put(batch, number)

    def _put(self, batch: LogBatch, first: int) -> int:
        """Keep lines from the number *first* on, in one item; how many are there now."""
        texts = _fitting(batch.lines[first - batch.first :])
        item = {
            **_key(batch.key, batch.run, batch.fence, first),
            _COUNT: {"N": str(len(texts))},
            _LINES: _packed(texts),
        }
        try:
            self._dynamo.send(
                "put_item",
                Item=item,
                ConditionExpression=f"attribute_not_exists({PK})",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ConditionFailed as refused:
            if refused.item is not None:
                return int(refused.item[_COUNT]["N"])  # a line that is there already stays as it is
        return len(texts)

    def _drop(self, batch: LogBatch) -> None:
        head = _key(batch.key, batch.run, batch.fence, None)
        with suppress(ConditionFailed):  # more was dropped already
            self._dynamo.send(
                "update_item",
                Key=head,
                UpdateExpression="SET #dropped = :dropped",
                ConditionExpression="attribute_not_exists(#dropped) OR #dropped < :dropped",
                ExpressionAttributeNames={"#dropped": _DROPPED},
                ExpressionAttributeValues={":dropped": {"N": str(batch.dropped)}},
            )
        first, last = (_key(batch.key, batch.run, batch.fence, number)[SK]["S"] for number in (0, batch.dropped - 1))
        for item in self._dynamo.all(Query((PK, head[PK]["S"])).between(SK, first, last)):
            if _first(item) + int(item[_COUNT]["N"]) <= batch.dropped:
                self._dynamo.send("delete_item", Key={PK: item[PK], SK: item[SK]})

    async def read(self, key: TaskKey, after: LogPosition | None, limit: int) -> Sequence[tuple[LogPosition, LogLine]]:
        """See `ports.TaskLogs`."""
        return await self._dynamo.clients.run(lambda: list(islice(self._lines(key, after), limit)))

    def _lines(self, key: TaskKey, after: LogPosition | None) -> Iterator[tuple[LogPosition, LogLine]]:
        pk = table.log_pk(key)
        query = Query((PK, pk), limit=LINES_PER_ITEM)
        attempt, next_, dropped = (0, 0), 0, 0
        if after is not None:
            # Its lines may lie in an item that begins before them; what was dropped of its attempt, before all.
            attempt, next_ = (after.run, after.fence), after.number + 1
            first = max(0, next_ - LINES_PER_ITEM)
            query.compared(SK, ">=", _key(key, *attempt, first)[SK]["S"])
            dropped = _dropped(self._dynamo.get(_key(key, *attempt, None)))
        for page, _ in self._dynamo.pages(query):
            for item in page:
                run, fence = (int(part) for part in item[SK]["S"].split("#")[:2])
                if (run, fence) != attempt:
                    attempt, next_, dropped = (run, fence), 0, 0
                if _DROPPED in item:
                    dropped = _dropped(item)
                    continue
                first = _first(item)
                for number, values in enumerate(_unpacked(item), first):
                    # A number below the next one was in another item: two had the same lines at the same time.
                    if number >= max(next_, dropped):
                        next_ = number + 1
                        yield LogPosition(run, fence, number), _line(run, values)


def _key(key: TaskKey, run: int, fence: int, number: int | None) -> dict[str, Any]:
    """Of the item that begins with this line; None: of the one that says what was dropped, before all others."""
    place = "" if number is None else f"{number:010d}"
    return {PK: {"S": table.log_pk(key)}, SK: {"S": f"{run:07d}#{fence:010d}#{place}"}}


def _first(item: Item) -> int:
    return int(item[SK]["S"].rpartition("#")[2])


def _dropped(item: Item | None) -> int:
    return 0 if item is None else int(item[_DROPPED]["N"])


def _fitting(lines: Sequence[LogLine]) -> list[str]:
    """As many of the first *lines* as go into one item, as text; at least one."""
    texts: list[str] = []
    size = 0
    for line in lines[:LINES_PER_ITEM]:
        text = _text(line)
        size += len(text.encode())
        if texts and size > BYTES_PER_ITEM:
            break
        texts.append(text)
    return texts


def _text(line: LogLine) -> str:
    fields = dict(line.fields) or None
    values = [to_milliseconds(line.at), line.level, line.logger, line.attempt, line.message, fields, line.exception]
    while values[-1] is None:
        values.pop()
    return encode_checked(values)


def _packed(texts: Sequence[str]) -> dict[str, Any]:
    data = f"[{','.join(texts)}]".encode()
    return {"B": zlib.compress(data)} if len(data) >= COMPRESS_FROM else {"S": data.decode()}


def _unpacked(item: Item) -> list[Any]:
    lines = item[_LINES]
    found: list[Any] = decode(zlib.decompress(lines["B"]).decode() if "B" in lines else lines["S"])
    return found


def _line(run: int, values: Sequence[Any]) -> LogLine:
    at, level, logger, attempt, message, fields, exception = (*values, None, None)[:7]
    return LogLine(
        at=from_milliseconds(at),
        level=level,
        logger=logger,
        run=run,
        attempt=attempt,
        message=message,
        fields=fields or {},
        exception=exception,
    )
