"""`ports.Steps` over DynamoDB: an item per step beside its task, and one per token that leads to it."""

import hashlib
import secrets
from collections.abc import Mapping
from typing import Any, Final

from taskloom.aws import changes, items, table
from taskloom.aws.dynamo import SERVICE, Dynamo
from taskloom.aws.failures import Cancelled
from taskloom.aws.items import Item, is_expired, key_item, task_of
from taskloom.aws.limits import check_item
from taskloom.aws.sizes import item_bytes
from taskloom.errors import StoreBusy
from taskloom.lifecycle import Change, Refused, Written
from taskloom.model import TaskEntity, TaskKey
from taskloom.ports import Answer, Step, StepKind
from taskloom.record import PK, SK, parse_time, time_text
from taskloom.values import EncodedJson

RACES: Final = 20
"""How often a step is put again that somebody else's write came before, while a history is shortened."""
_LEADS: Final = "TOKEN"
_FIRST: Final = 1


class DynamoSteps:
    """Steps in the table of tasks. A put is a transaction, which costs twice the units of its writes."""

    def __init__(self, dynamo: Dynamo) -> None:
        self._dynamo = dynamo

    async def get(self, key: TaskKey, kind: StepKind, name: str) -> Step | None:
        """See `ports.Steps`."""
        item = await self._dynamo.clients.run(lambda: self._dynamo.get(step_key(key, kind, name)))
        return None if item is None else _step(item)

    async def find(self, token: str) -> Step | None:
        """See `ports.Steps`."""

        def work() -> Step | None:
            found = self._dynamo.get(_token_key(token))
            if found is None:
                return None
            item = self._dynamo.get({PK: found["of"], SK: found["name"]})
            step = None if item is None else _step(item)
            return step if step is not None and step.token == token else None  # a new token replaces the one before

        return await self._dynamo.clients.run(work)

    async def put(self, step: Step, change: Change, *, chunk: int | None = None) -> Written | Refused | Step:
        """See `ports.Steps`. The execution looks at *chunk* at the next pass of its Map, within a minute."""
        del chunk
        return await self._dynamo.clients.run(lambda: self._put(step, change))

    def _put(self, step: Step, change: Change) -> Written | Refused | Step:
        item = _item(step)
        check_item(item_bytes(item), "step")
        standing: TaskEntity[Any] | None = None
        for _ in range(RACES):
            writes = [self._step_put(step, item), self._task_update(change, standing)]
            if step.token is not None:
                writes.append(self._token_put(step.token, item))
            try:
                # The token makes a repeat by botocore the same transaction (source: API reference, TransactWriteItems).
                self._dynamo.clients.send(
                    SERVICE, "transact_write_items", TransactItems=writes, ClientRequestToken=secrets.token_hex(16)
                )
            except Cancelled as cancelled:
                kept, task = (reason.get("Item") for reason in cancelled.reasons[:2])
                if _failed(cancelled.reasons[0]):
                    return Refused(None) if kept is None else _step(kept)
                standing = None if task is None or is_expired(task, self._dynamo.seconds) else task_of(task)
                if standing is None or not changes.lacks_room(change, standing):
                    return Refused(standing)
            else:
                return self._written(change)
        raise StoreBusy(f"others write {change.key} all the time")

    def _written(self, change: Change) -> Written:
        item = self._dynamo.get(key_item(change.key)) if change.returning else None
        return Written() if item is None else Written(task_of(item))

    def _step_put(self, step: Step, item: dict[str, Any]) -> dict[str, Any]:
        expression = changes.Expression()
        if step.version == _FIRST:
            condition = f"attribute_not_exists({expression.path(PK)})"
        else:
            before = expression.value({"N": str(step.version - 1)})
            condition = f"{expression.path('version')} = {before}"
        put = {
            "TableName": self._dynamo.table_name,
            "Item": item,
            "ConditionExpression": condition,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            **expression.parameters(),
        }
        return {"Put": put}

    def _task_update(self, change: Change, standing: TaskEntity[Any] | None) -> dict[str, Any]:
        request = changes.update(self._dynamo.table_name, change, self._dynamo.seconds, standing)
        del request["ReturnValues"]
        return {"Update": request}

    def _token_put(self, token: str, item: Item) -> dict[str, Any]:
        return {
            "Put": {
                "TableName": self._dynamo.table_name,
                "Item": {**_token_key(token), "of": item[PK], "name": item[SK]},
            }
        }


def unanswered(table_name: str, key: TaskKey, name: str) -> dict[str, Any]:
    """The condition, of a transaction, that the callback *name* of a task was not answered."""
    return {
        "ConditionCheck": {
            "TableName": table_name,
            "Key": step_key(key, StepKind.CALLBACK, name),
            "ConditionExpression": "attribute_not_exists(#answer)",
            "ExpressionAttributeNames": {"#answer": "answer"},
        }
    }


def step_key(key: TaskKey, kind: StepKind, name: str) -> dict[str, Any]:
    """The primary key of a step."""
    return {PK: {"S": table.step_pk(key)}, SK: {"S": f"{kind}#{name}"}}


def _token_key(token: str) -> dict[str, Any]:
    """By its hash, so that any text may be asked for."""
    digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
    return {PK: {"S": f"{_LEADS}#{digest}"}, SK: {"S": _LEADS}}


def _failed(reason: Mapping[str, Any]) -> bool:
    return reason.get("Code") == "ConditionalCheckFailed"


def _item(step: Step) -> dict[str, Any]:
    item: dict[str, Any] = {
        **step_key(step.key, step.kind, step.name),
        "task": {"S": step.key.id},
        "version": {"N": str(step.version)},
        "writeId": {"S": step.write_id},
        "run": {"N": str(step.run)},
        "at": items.time_value(step.at),
    }
    texts = {
        "until": None if step.until is None else time_text(step.until),
        "token": step.token,
        "answer": None if step.answer is None else str(step.answer),
        "result": step.result,
        "resultRef": step.result_ref,
    }
    return item | {name: {"S": text} for name, text in texts.items() if text is not None}


def _step(item: Item) -> Step:
    def text(name: str) -> str | None:
        return item[name]["S"] if name in item else None

    kind, _, name = item[SK]["S"].partition("#")
    until, answer, result = text("until"), text("answer"), text("result")
    return Step(
        key=TaskKey.parse(item["task"]["S"]),
        kind=StepKind(kind),
        name=name,
        version=int(item["version"]["N"]),
        write_id=item["writeId"]["S"],
        run=int(item["run"]["N"]),
        at=parse_time(item["at"]["S"]),
        until=None if until is None else parse_time(until),
        token=text("token"),
        answer=None if answer is None else Answer(answer),
        result=None if result is None else EncodedJson(result),
        result_ref=text("resultRef"),
    )
