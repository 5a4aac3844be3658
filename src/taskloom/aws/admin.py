"""`ports.QueueAdmin`, as far as the table can tell: SQS does not show what waits in it."""

import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Final

from taskloom.aws import table
from taskloom.aws.dynamo import Dynamo, Query
from taskloom.aws.ends import Ends
from taskloom.aws.failures import ConditionFailed
from taskloom.aws.items import Item, key_item, task_of
from taskloom.aws.lanes import figures
from taskloom.aws.looks import Looks
from taskloom.clock import from_milliseconds, to_milliseconds
from taskloom.errors import InvalidInput
from taskloom.model import TaskKey, TaskStatus
from taskloom.ports import Cap, DeadLetter, LaneFigures, Pause, PauseScope, Place, Throughput, WorkerFacts
from taskloom.record import PK, SK
from taskloom.values import Json

FORGET_WORKERS_AFTER: Final = timedelta(days=1)
"""From the last sign of life of a worker that died."""
PART: Final = 100
"""Waiting tasks that are read at a time."""
_IDS: Final = {PK: {"S": "DEAD#ids"}, SK: {"S": "KEY"}}
"""Counts dead letters, so that no id is used twice."""


class DynamoQueueAdmin:
    """Pauses, duties, workers and dead letters are items; what waits is told from the open tasks."""

    def __init__(self, dynamo: Dynamo, ends: Ends) -> None:
        self._dynamo = dynamo
        self._ends = ends
        self._looks = Looks(dynamo, None)

    # --- pauses --------------------------------------------------------------------------------------------------

    async def pause(self, pause: Pause) -> None:
        """See `ports.QueueAdmin`."""
        item = {**_pause_key(pause.scope, pause.name), "at": _number(to_milliseconds(pause.at))}
        item |= {name: {"S": text} for name, text in (("reason", pause.reason), ("by", pause.by)) if text is not None}
        await self._run("put_item", Item=item)

    async def resume(self, scope: PauseScope, name: str) -> bool:
        """See `ports.QueueAdmin`."""
        answer = await self._run("delete_item", Key=_pause_key(scope, name), ReturnValues="ALL_OLD")
        return bool(answer.get("Attributes"))

    async def pauses(self) -> Sequence[Pause]:
        """See `ports.QueueAdmin`."""
        found = await self._all(Query((PK, "PAUSE")))
        pauses = []
        for item in found:
            scope, _, name = item[SK]["S"].partition("#")
            pauses.append(
                Pause(
                    scope=PauseScope(scope),
                    name=name,
                    at=from_milliseconds(int(item["at"]["N"])),
                    reason=_text(item, "reason"),
                    by=_text(item, "by"),
                )
            )
        return sorted(pauses, key=lambda pause: (pause.at, pause.scope, pause.name))

    # --- what waits ----------------------------------------------------------------------------------------------

    async def lanes(self) -> Sequence[LaneFigures]:
        """See `ports.QueueAdmin`. From the statuses of the open tasks: reads all of them."""

        def work() -> Sequence[LaneFigures]:
            pages = self._looks.open_tasks(None, None)
            tasks = (task_of(item) for page in pages for item in self._dynamo.get_many(_keys(page), consistent=False))
            return figures(tasks, self._dynamo.now)

        return await self._dynamo.clients.run(work)

    async def throughput(self, since: datetime) -> Sequence[Throughput]:
        """See `ports.QueueAdmin`. Without what other processes have counted in their last minute."""
        return await self._dynamo.clients.run(lambda: self._ends.since(since))

    async def place(self, key: TaskKey, limit: int) -> Place | None:  # noqa: ARG002 - the port asks for them
        """See `ports.QueueAdmin`. Always None: nobody can tell, and `capabilities` says so."""
        return None

    async def waiting(
        self, tenant_code: str | None, task_type: str | None, after: TaskKey | None, limit: int
    ) -> Sequence[TaskKey]:
        """See `ports.QueueAdmin`. In the order of the index of open tasks."""
        return await self._dynamo.clients.run(lambda: self._waiting(tenant_code, task_type, after, limit))

    def _waiting(self, tenant: str | None, task_type: str | None, after: TaskKey | None, limit: int) -> list[TaskKey]:
        found: list[TaskKey] = []
        for page in self._looks.open_tasks(tenant, task_type, None if after is None else self._entry(after)):
            for first in range(0, len(page), PART):
                for item in self._dynamo.get_many(_keys(page[first : first + PART])):
                    task = task_of(item)
                    if task.status is TaskStatus.PENDING:
                        found.append(task.key)
                        if len(found) == limit:
                            return found
        return found

    def _entry(self, key: TaskKey) -> Item:
        """Where *key* stands, or stood when it began, in the index of open tasks."""
        code = key.parts.code
        item = self._dynamo.get(key_item(key)) or {}
        at = item.get(table.OPEN_AT) or {"S": code}
        return {**key_item(key), table.OPEN: {"S": table.bucket(code)}, table.OPEN_AT: at}

    # --- dead letters --------------------------------------------------------------------------------------------

    async def bury(self, key: TaskKey, failures: int, reason: str) -> None:
        """Keep a dead letter: a stream record of the task *key* could not be dispatched."""

        def work() -> None:
            answer = self._dynamo.send(
                "update_item",
                Key=_IDS,
                UpdateExpression="ADD #last :one",
                ExpressionAttributeNames={"#last": "last"},
                ExpressionAttributeValues={":one": _number(1)},
                ReturnValues="UPDATED_NEW",
            )
            item = {
                **_letter_key(int(answer["Attributes"]["last"]["N"])),
                "at": _number(self._dynamo.milliseconds),
                "task": {"S": key.id},
                "tenantCode": {"S": key.tenant_code},
                "failures": _number(failures),
                "reason": {"S": reason},
            }
            self._dynamo.send("put_item", Item=item)

        await self._dynamo.clients.run(work)

    async def dead_letters(self, tenant_code: str | None, after: int, limit: int) -> Sequence[DeadLetter]:
        """See `ports.QueueAdmin`."""
        query = Query((PK, "DEAD")).compared(SK, ">", _letter_key(after)[SK]["S"])
        if tenant_code is not None:
            query.one_of("tenantCode", [tenant_code])
        return [
            DeadLetter(
                id=int(item[SK]["S"]),
                at=from_milliseconds(int(item["at"]["N"])),
                key=TaskKey.parse(item["task"]["S"]),
                failures=int(item["failures"]["N"]),
                reason=item["reason"]["S"],
            )
            for item in await self._dynamo.clients.run(lambda: self._dynamo.first(query, limit))
        ]

    async def remove_dead_letters(self, ids: Sequence[int]) -> None:
        """See `ports.QueueAdmin`."""

        def work() -> None:
            for id_ in ids:
                self._dynamo.send("delete_item", Key=_letter_key(id_))

        await self._dynamo.clients.run(work)

    # --- duties --------------------------------------------------------------------------------------------------

    async def take_duty(self, name: str, now: datetime, until: datetime) -> bool:
        """See `ports.QueueAdmin`."""
        token = {"S": secrets.token_hex(8)}

        def work() -> bool:
            try:
                self._dynamo.send(
                    "update_item",
                    Key=_duty_key(name),
                    UpdateExpression="SET #until = :until, #token = :token",
                    ConditionExpression=f"attribute_not_exists({PK}) OR #until <= :now",
                    ExpressionAttributeNames={"#until": "until", "#token": "token"},
                    ExpressionAttributeValues={
                        ":until": _number(to_milliseconds(until)),
                        ":now": _number(to_milliseconds(now)),
                        ":token": token,
                    },
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                )
            except ConditionFailed as refused:
                # Our own token: the answer to an earlier try was lost.
                return refused.item is not None and refused.item.get("token") == token
            return True

        return await self._dynamo.clients.run(work)

    async def report_duty(self, name: str, facts: Mapping[str, Json]) -> None:
        """See `ports.QueueAdmin`."""
        with suppress(ConditionFailed):
            await self._run(
                "update_item",
                Key=_duty_key(name),
                UpdateExpression="SET #facts = :facts",
                ConditionExpression=f"attribute_exists({PK})",
                ExpressionAttributeNames={"#facts": "facts"},
                ExpressionAttributeValues={":facts": {"S": json.dumps(facts, ensure_ascii=False)}},
            )

    async def duty(self, name: str) -> Mapping[str, Json] | None:
        """See `ports.QueueAdmin`."""
        item = await self._dynamo.clients.run(lambda: self._dynamo.get(_duty_key(name)))
        return None if item is None or "facts" not in item else json.loads(item["facts"]["S"])

    # --- workers -------------------------------------------------------------------------------------------------

    async def beat(self, worker: WorkerFacts) -> None:
        """See `ports.QueueAdmin`."""
        facts = asdict(worker) | {"started_at": to_milliseconds(worker.started_at)}
        del facts["seen_at"]
        item = {
            **_worker_key(worker.name),
            "seenAt": _number(to_milliseconds(worker.seen_at)),
            "facts": {"S": json.dumps(facts, ensure_ascii=False)},
            table.TTL: _number(to_milliseconds(worker.seen_at + FORGET_WORKERS_AFTER) // 1000),
        }
        await self._run("put_item", Item=item)

    async def leave(self, name: str) -> None:
        """See `ports.QueueAdmin`."""
        await self._run("delete_item", Key=_worker_key(name))

    async def workers(self, seen_since: datetime) -> Sequence[WorkerFacts]:
        """See `ports.QueueAdmin`."""
        since, workers = to_milliseconds(seen_since), []
        for item in await self._all(Query((PK, "WORKER"))):
            seen_at = int(item["seenAt"]["N"])
            if seen_at >= since:
                facts: dict[str, Any] = json.loads(item["facts"]["S"])
                facts |= {"started_at": from_milliseconds(facts["started_at"]), "seen_at": from_milliseconds(seen_at)}
                facts["caps"] = {name: Cap(**cap) for name, cap in facts.get("caps", {}).items()}
                workers.append(WorkerFacts(**facts))
        return workers

    async def _run(self, operation: str, **parameters: Any) -> Any:
        return await self._dynamo.clients.run(lambda: self._dynamo.send(operation, **parameters))

    async def _all(self, query: Query) -> list[Item]:
        return await self._dynamo.clients.run(lambda: self._dynamo.all(query))


def _number(value: int) -> dict[str, str]:
    return {"N": str(value)}


def _text(item: Item, name: str) -> str | None:
    return item[name]["S"] if name in item else None


def _keys(page: Sequence[Item]) -> list[Item]:
    return [{PK: item[PK], SK: item[SK]} for item in page]


def _pause_key(scope: PauseScope, name: str) -> dict[str, Any]:
    return {PK: {"S": "PAUSE"}, SK: {"S": f"{scope}#{name}"}}


def _letter_key(id_: int) -> dict[str, Any]:
    if id_ < 0:
        raise InvalidInput("ids", f"{id_} is none of a dead letter", "give ids as dead letters have them")
    return {PK: {"S": "DEAD"}, SK: {"S": f"{id_:016d}"}}


def _duty_key(name: str) -> dict[str, Any]:
    return {PK: {"S": f"DUTY#{name}"}, SK: {"S": "KEY"}}


def _worker_key(name: str) -> dict[str, Any]:
    return {PK: {"S": "WORKER"}, SK: {"S": name}}
