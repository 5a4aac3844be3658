"""The few calls of DynamoDB that the adapters make, each for a thread; and what counts as absent."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Final

from taskloom.aws.changes import Expression
from taskloom.aws.clients import FIRST_PAUSE, Clients, pause
from taskloom.aws.items import Item, is_expired
from taskloom.aws.limits import BATCH_GET_ITEMS
from taskloom.clock import to_milliseconds
from taskloom.errors import StoreBusy
from taskloom.ports import Clock

SERVICE: Final = "dynamodb"
BATCH_TRIES: Final = 10
"""How often what a batch left undone is asked for again."""


class Dynamo:
    """One table."""

    def __init__(self, clients: Clients, table_name: str, clock: Clock) -> None:
        self.clients = clients
        self.table_name = table_name
        self._clock = clock

    @property
    def now(self) -> datetime:
        """The instant."""
        return self._clock.now()

    @property
    def seconds(self) -> int:
        """Now, in whole seconds since 1970: what `ttl` is compared with."""
        return to_milliseconds(self._clock.now()) // 1000

    @property
    def milliseconds(self) -> int:
        """Now, in milliseconds since 1970."""
        return to_milliseconds(self._clock.now())

    def send(self, operation: str, **parameters: Any) -> Any:
        """The answer of one operation on the table."""
        return self.clients.send(SERVICE, operation, **({"TableName": self.table_name} | parameters))

    def get(self, key: Mapping[str, Any]) -> Item | None:
        """The item *key*, strongly consistent; None when it is absent."""
        item = self.send("get_item", Key=dict(key), ConsistentRead=True).get("Item")
        return None if item is None or is_expired(item, self.seconds) else item

    def get_many(self, keys: Sequence[Mapping[str, Any]], *, consistent: bool = True) -> list[Item]:
        """Those of the items *keys* that are there, in their order."""
        found: dict[tuple[str, str], Item] = {}
        for first in range(0, len(keys), BATCH_GET_ITEMS):
            asked: Any = [dict(key) for key in keys[first : first + BATCH_GET_ITEMS]]
            for attempt in range(BATCH_TRIES):
                request = {self.table_name: {"Keys": asked, "ConsistentRead": consistent}}
                answer = self.clients.send(SERVICE, "batch_get_item", RequestItems=request)
                for item in answer["Responses"].get(self.table_name, ()):
                    found[item["pk"]["S"], item["sk"]["S"]] = item
                asked = answer.get("UnprocessedKeys", {}).get(self.table_name, {}).get("Keys")
                if not asked:
                    break
                pause(FIRST_PAUSE, attempt)
            else:
                raise StoreBusy("DynamoDB left a part of a batch undone, again and again")
        now = self.seconds
        items = (found.get((key["pk"]["S"], key["sk"]["S"])) for key in keys)
        return [item for item in items if item is not None and not is_expired(item, now)]

    def pages(self, query: "Query", start: Item | None = None) -> Iterator[tuple[list[Item], Item | None]]:
        """The pages of *query* behind *start*, each with where the next one begins; None: there is none."""
        while True:
            parameters = query.parameters()
            if start is not None:
                parameters["ExclusiveStartKey"] = dict(start)
            answer = self.send("query", **parameters)
            start = answer.get("LastEvaluatedKey")
            now = self.seconds
            yield [item for item in answer["Items"] if not is_expired(item, now)], start
            if start is None:
                return

    def first(self, query: "Query", limit: int) -> list[Item]:
        """The first *limit* items of *query*, from as many pages as it takes."""
        return list(islice((item for page, _ in self.pages(query) for item in page), limit))

    def all(self, query: "Query") -> list[Item]:
        """All items of *query*."""
        return [item for page, _ in self.pages(query) for item in page]


class Query:
    """A Query of the table or of an index, put together."""

    def __init__(
        self,
        partition: tuple[str, str],
        *,
        index: str | None = None,
        forward: bool = True,
        limit: int | None = None,
    ) -> None:
        self._expression = Expression()
        name, value = partition
        self._conditions = [f"{self._expression.path(name)} = {self._expression.value({'S': value})}"]
        self._filters: list[str] = []
        self._more: dict[str, Any] = {"ScanIndexForward": forward}
        if index is None:
            self._more["ConsistentRead"] = True
        else:
            self._more["IndexName"] = index
        if limit is not None:
            self._more["Limit"] = limit

    def between(self, name: str, low: str, high: str) -> "Query":
        """The sort key is between *low* and *high*, inclusive."""
        bounds = [self._expression.value({"S": text}) for text in (low, high)]
        self._conditions.append(f"{self._expression.path(name)} BETWEEN {' AND '.join(bounds)}")
        return self

    def compared(self, name: str, operator: str, text: str) -> "Query":
        """The sort key is <, <=, > or >= *text*."""
        self._conditions.append(f"{self._expression.path(name)} {operator} {self._expression.value({'S': text})}")
        return self

    def beginning(self, name: str, prefix: str) -> "Query":
        """Only items where *name*, which is no key here, begins with *prefix*; what else is looked at is paid for."""
        value = self._expression.value({"S": prefix})
        self._filters.append(f"begins_with({self._expression.path(name)}, {value})")
        return self

    def one_of(self, name: str, texts: Sequence[str]) -> "Query":
        """Only items where *name*, which is no key here, is one of *texts*."""
        values = ", ".join(self._expression.value({"S": text}) for text in texts)
        self._filters.append(f"{self._expression.path(name)} IN ({values})")
        return self

    def parameters(self) -> dict[str, Any]:
        """As `query` takes them."""
        parameters = {"KeyConditionExpression": " AND ".join(self._conditions), **self._more}
        if self._filters:
            parameters["FilterExpression"] = " AND ".join(self._filters)
        return parameters | self._expression.parameters()
