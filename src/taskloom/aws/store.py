"""`ports.TaskStore` over DynamoDB."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, Final

from taskloom.aws import changes, items, table
from taskloom.aws.durable_steps import unanswered
from taskloom.aws.dynamo import SERVICE, Dynamo, Query
from taskloom.aws.ends import Ends
from taskloom.aws.failures import Cancelled, ConditionFailed, PathMissing
from taskloom.aws.items import ATTRIBUTES, Item, is_expired, key_item, task_of
from taskloom.aws.limits import check_item
from taskloom.aws.listing import Listing
from taskloom.aws.looks import Looks
from taskloom.aws.sizes import item_bytes
from taskloom.clock import to_milliseconds
from taskloom.errors import StoreBusy
from taskloom.lifecycle import Change, Refused, Written
from taskloom.model import SHARD_SIZE, TaskCode, TaskEntity, TaskKey, TaskStatus, TenantCode
from taskloom.ports import ChunkRow, Idempotency, Known, NewTaskRow, StatusRange, TaskQuery
from taskloom.record import PK, SK

RACES: Final = 20
"""How often a change is made again that somebody else's write came before, while it shortens a history."""
_KEY: Final = "KEY"
"""Sort key of idempotency keys: each has its partition."""
_MAY_GO: Final = "mayGo"
"""Of an idempotency key whose task expires some time after its end."""


class DynamoTaskStore:
    """Tasks, sub-tasks, chunk rows and idempotency keys in one table.

    *has_backlog* tells whether messages wait in the task queue; without it a task that was not claimed in time counts
    as one that has lost its message.
    """

    def __init__(
        self, dynamo: Dynamo, ends: Ends | None = None, has_backlog: Callable[[], Awaitable[bool]] | None = None
    ) -> None:
        self._dynamo = dynamo
        self._ends = ends or Ends(dynamo)
        self._listing = Listing(dynamo)
        self._looks = Looks(dynamo, has_backlog)

    async def create(self, rows: Sequence[NewTaskRow]) -> Sequence[Known | None]:
        """See `ports.TaskStore`."""
        puts = [(row, _checked(items.new_task_item(row))) for row in rows]
        groups: dict[object, list[int]] = {}
        for place, row in enumerate(rows):
            # Those of one idempotency key go one after the other, in their order; all else at the same time.
            name = place if row.idempotency is None else (row.entity.tenant_code, row.idempotency.key)
            groups.setdefault(name, []).append(place)
        answers: list[Known | None] = [None] * len(rows)

        def work(places: Sequence[int]) -> None:
            for place in places:
                answers[place] = self._create(*puts[place])

        await self._together([partial(work, places) for places in groups.values()])
        return answers

    def _create(self, row: NewTaskRow, item: dict[str, Any]) -> Known | None:
        if row.idempotency is not None:
            return self._create_once(row, row.idempotency, item)
        with suppress(ConditionFailed):  # rule 4: nobody else makes this key, so an answer was lost
            self._dynamo.send("put_item", Item=item, ConditionExpression=f"attribute_not_exists({PK})")
        return None

    def _create_once(self, row: NewTaskRow, idempotency: Idempotency, item: dict[str, Any]) -> Known | None:
        gone: str | None = None
        for _ in range(RACES):
            try:
                puts = [self._key_put(row, idempotency, gone), self._task_put(item)]
                # The token makes a repeat by botocore the same transaction (source: API reference, TransactWriteItems).
                token = secrets.token_hex(16)
                self._dynamo.clients.send(SERVICE, "transact_write_items", TransactItems=puts, ClientRequestToken=token)
            except Cancelled as cancelled:
                standing = cancelled.reasons[0].get("Item")
                if standing is None:
                    if self._dynamo.get(row_key := key_item(row.entity.key)) is None:
                        raise StoreBusy(f"an idempotency key of {row_key} was being written by somebody else") from None
                    return None
                known = _known(standing)
                if known.task == row.entity.key:
                    return None  # our own: the answer to an earlier try was lost
                if not self._is_gone(standing):
                    return known
                gone = known.task.id
            else:
                return None
        raise StoreBusy("others write an idempotency key all the time")

    def _key_put(self, row: NewTaskRow, idempotency: Idempotency, gone: str | None) -> dict[str, Any]:
        """Take the idempotency key, if it is free, or stands for the task *gone*, which has expired."""
        expires_at = to_milliseconds(idempotency.expires_at)
        item: dict[str, Any] = {
            PK: {"S": table.idempotency_pk(row.entity.tenant_code, idempotency.key)},
            SK: {"S": _KEY},
            "task": {"S": row.entity.id},
            "fingerprint": {"S": idempotency.fingerprint},
            "expiresAt": {"N": str(expires_at)},
            table.TTL: {"N": str(-(-expires_at // 1000))},
        }
        if row.entity.options.ttl is not None:
            item[_MAY_GO] = {"BOOL": True}
        return {
            "Put": {
                "TableName": self._dynamo.table_name,
                "Item": item,
                "ConditionExpression": f"attribute_not_exists({PK}) OR #expires <= :now OR #task = :gone",
                "ExpressionAttributeNames": {"#expires": "expiresAt", "#task": "task"},
                "ExpressionAttributeValues": {
                    ":now": {"N": str(self._dynamo.milliseconds)},
                    ":gone": {"S": gone or "none"},
                },
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            }
        }

    def _task_put(self, item: dict[str, Any]) -> dict[str, Any]:
        put = {"TableName": self._dynamo.table_name, "Item": item, "ConditionExpression": f"attribute_not_exists({PK})"}
        return {"Put": put}

    def _is_gone(self, item: Item) -> bool:
        """Whether the task that an idempotency key stands for has expired. Only of those that may is that asked."""
        return _MAY_GO in item and self._dynamo.get(key_item(_known(item).task)) is None

    async def known(self, tenant: TenantCode, key: str) -> Known | None:
        """See `ports.TaskStore`."""
        name = {PK: {"S": table.idempotency_pk(tenant, key)}, SK: {"S": _KEY}}

        def work() -> Known | None:
            item = self._dynamo.get(name)
            is_over = item is None or int(item["expiresAt"]["N"]) <= self._dynamo.milliseconds
            return None if item is None or is_over or self._is_gone(item) else _known(item)

        return await self._dynamo.clients.run(work)

    async def update(self, change: Change) -> Written | Refused:
        """See `ports.TaskStore`."""
        return await self._dynamo.clients.run(lambda: self._carry_out(change))

    async def update_many(self, changes: Sequence[Change]) -> Sequence[Written | Refused]:
        """See `ports.TaskStore`. One after the other, in one thread: whoever gives up leaves no gap."""
        if not changes:
            return []
        return await self._dynamo.clients.run(lambda: [self._carry_out(change) for change in changes])

    def _carry_out(self, change: Change) -> Written | Refused:
        outcome = self._create_sub_task(change) if change.guard.absent else self._update(change)
        if isinstance(outcome, Written) and changes.is_end(change):
            self._ends.note(change)
        return outcome

    def _create_sub_task(self, change: Change) -> Written | Refused:
        request = changes.creation(self._dynamo.table_name, change, self._dynamo.seconds)
        _checked(request["Item"])
        try:
            self._dynamo.send("put_item", **request)
        except ConditionFailed as refused:
            return Refused(self._current(refused.item))
        return Written(task_of(request["Item"])) if change.returning else _WRITTEN

    def _update(self, change: Change) -> Written | Refused:
        standing: TaskEntity[Any] | None = None
        for _ in range(RACES):
            request = changes.update(self._dynamo.table_name, change, self._dynamo.seconds, standing)
            _checked(request["ExpressionAttributeValues"])
            try:
                answer = self._sent(change, request)
            except ConditionFailed as refused:
                standing = self._current(refused.item)
                if standing is None or not changes.lacks_room(change, standing):
                    return Refused(standing)
            except PathMissing:
                self._add_attributes(change.key)
            else:
                return Written(task_of(answer["Attributes"])) if change.returning else _WRITTEN
        raise StoreBusy(f"others write {change.key} all the time")

    def _sent(self, change: Change, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to *request*, which may also ask that a callback was not answered."""
        if change.guard.unanswered is None:
            answer: dict[str, Any] = self._dynamo.send("update_item", **request)
            return answer
        del request["ReturnValues"]
        check = unanswered(self._dynamo.table_name, change.key, change.guard.unanswered)
        try:
            self._dynamo.clients.send(
                SERVICE,
                "transact_write_items",
                TransactItems=[check, {"Update": request}],
                ClientRequestToken=secrets.token_hex(16),
            )
        except Cancelled as cancelled:
            raise ConditionFailed(
                cancelled.reasons[1].get("Item") or self._dynamo.get_expired(key_item(change.key))
            ) from None
        return {"Attributes": self._dynamo.get(key_item(change.key))} if change.returning else {}

    def _add_attributes(self, key: TaskKey) -> None:
        """What the TypeScript original stored has no `attributes` until it ends."""
        with suppress(ConditionFailed):  # it is gone, which the change will find out
            self._dynamo.send(
                "update_item",
                Key=key_item(key),
                UpdateExpression="SET #a = if_not_exists(#a, :none)",
                ConditionExpression=f"attribute_exists({PK})",
                ExpressionAttributeNames={"#a": ATTRIBUTES},
                ExpressionAttributeValues={":none": {"M": {}}},
            )

    def _current(self, item: Item | None) -> TaskEntity[Any] | None:
        return None if item is None or is_expired(item, self._dynamo.seconds) else task_of(item)

    async def get(self, key: TaskKey) -> TaskEntity[Any] | None:
        """See `ports.TaskStore`."""
        item = await self._dynamo.clients.run(lambda: self._dynamo.get(key_item(key)))
        return None if item is None else task_of(item)

    async def expired_at(self, key: TaskKey) -> datetime | None:
        """See `ports.TaskStore`. Nobody can tell any more once DynamoDB has removed it."""
        item = await self._dynamo.clients.run(lambda: self._dynamo.get_expired(key_item(key)))
        return task_of(item).ttl if item is not None and is_expired(item, self._dynamo.seconds) else None

    async def list_tasks(self, query: TaskQuery) -> tuple[Sequence[TaskEntity[Any]], TaskCode | None]:
        """See `ports.TaskStore`. Tasks of a type come from the table itself; else an index may lag by a moment."""
        return await self._dynamo.clients.run(lambda: self._listing.page(query))

    async def list_overdue(self, limit: int) -> Sequence[TaskEntity[Any]]:
        """See `ports.TaskStore`."""
        found = await self._together([partial(self._looks.due, bucket, limit) for bucket in table.buckets()])
        return await self._dynamo.clients.run(lambda: self._looks.overdue(found, limit))

    async def list_stranded(self, limit: int) -> Sequence[TaskEntity[Any]]:
        """See `ports.TaskStore`. As well as the times of the task tell: see `aws.looks`."""
        return await self._looks.stranded(limit)

    async def next_deadline(self) -> datetime | None:
        """See `ports.TaskStore`."""
        found = await self._together([partial(self._looks.next_deadline, bucket) for bucket in table.buckets()])
        return min((at for at in found if at is not None), default=None)

    async def list_sub_tasks(self, parent: TaskKey, indexes: range) -> Sequence[TaskEntity[Any]]:
        """See `ports.TaskStore`. A query per thousand."""
        queries = _queries(parent, indexes)
        found = await self._together([partial(self._dynamo.all, query) for query in queries])
        return [task_of(item) for part in found for item in part]

    async def list_sub_task_statuses(self, parent: TaskKey, indexes: range) -> Sequence[StatusRange]:
        """See `ports.TaskStore`. A query per thousand, one after the other."""

        def work() -> list[StatusRange]:
            ranges: list[StatusRange] = []
            for query in _queries(parent, indexes):
                for page, _ in self._dynamo.pages(query):
                    for task in map(task_of, page):
                        _extend(ranges, task.index or 0, task.status)
            return ranges

        return await self._dynamo.clients.run(work)

    async def put_chunk(self, row: ChunkRow) -> bool:
        """See `ports.TaskStore`."""
        token = secrets.token_hex(8)
        item = {
            PK: {"S": table.chunk_pk(row.parent, row.run)},
            SK: {"S": f"{row.chunk:07d}"},
            "succeeded": {"N": str(row.succeeded)},
            "failed": {"N": str(row.failed)},
            "token": {"S": token},
        }

        def work() -> bool:
            standing = self._dynamo.put_new(item)
            # Our own token: it was written now, and the answer was lost.
            return standing is None or standing.get("token") == {"S": token}

        return await self._dynamo.clients.run(work)

    async def list_chunks(self, parent: TaskKey, run: int) -> Sequence[ChunkRow]:
        """See `ports.TaskStore`."""
        query = Query((PK, table.chunk_pk(parent, run)))
        return [
            ChunkRow(
                parent=parent,
                run=run,
                chunk=int(item[SK]["S"]),
                succeeded=int(item["succeeded"]["N"]),
                failed=int(item["failed"]["N"]),
            )
            for item in await self._dynamo.clients.run(lambda: self._dynamo.all(query))
        ]

    async def _together(self, works: Iterable[Callable[[], Any]]) -> list[Any]:
        """What all of *works* return, each in a thread. Raises the first error, when all have ended."""
        outcomes = await asyncio.gather(*map(self._dynamo.clients.run, works), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return outcomes


_WRITTEN: Final = Written()


def _queries(parent: TaskKey, indexes: range) -> list[Query]:
    """Those that find the stored sub-tasks with these indexes, in order; one per shard."""
    parts = parent.parts
    queries = []
    for shard in range(indexes.start // SHARD_SIZE, -(-indexes.stop // SHARD_SIZE) if len(indexes) else 0):
        own = range(max(indexes.start, shard * SHARD_SIZE), min(indexes.stop, (shard + 1) * SHARD_SIZE))
        first, last = (
            TaskKey.sub_task(parts.tenant_code, parts.task_type, parts.code, index) for index in (own[0], own[-1])
        )
        queries.append(Query((PK, first.pk)).between(SK, first.sk, last.sk))
    return queries


def _extend(ranges: list[StatusRange], index: int, status: TaskStatus) -> None:
    """Add a sub-task behind those that are in *ranges*."""
    if ranges and (ranges[-1].end, ranges[-1].status) == (index, status):
        ranges[-1] = ranges[-1]._replace(end=index + 1)
    else:
        ranges.append(StatusRange(index, index + 1, status))


def _known(item: Item) -> Known:
    return Known(task=TaskKey.parse(item["task"]["S"]), fingerprint=item["fingerprint"]["S"])


def _checked(item: dict[str, Any]) -> dict[str, Any]:
    check_item(item_bytes(item), "task")
    return item
