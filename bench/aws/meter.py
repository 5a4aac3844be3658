"""Counts AWS's calls, and DynamoDB's read and write units by the sizes of items and index entries.

By our own count, since an emulator's own is not to be relied on (source of the rules: Amazon DynamoDB developer guide,
"Read and write capacity", "Using global secondary indexes", "Transactions").
"""

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from taskloom.aws import table
from taskloom.aws.clients import Clients
from taskloom.aws.items import Item
from taskloom.aws.limits import READ_UNIT_BYTES, WRITE_UNIT_BYTES
from taskloom.aws.sizes import item_bytes

ResultT = TypeVar("ResultT")

DYNAMODB: Final = "dynamodb"
UNSEEN_ENTRY_BYTES: Final = 256
"""What an entry is taken for that was looked at and filtered out, where none came back to measure."""


@dataclass
class Bill:
    """What was used."""

    calls: "Counter[str]" = field(default_factory=Counter)
    """Calls by service and operation: `dynamodb.put_item`."""
    table_writes: int = 0
    """Items written, or refused by a condition: both are paid for."""
    write_units: float = 0.0
    """With those of the indexes."""
    index_units: float = 0.0
    """The part of them that the indexes took."""
    read_units: float = 0.0

    def __str__(self) -> str:
        return (
            f"{sum(self.calls.values())} calls, {self.table_writes} table writes, {self.write_units:g} write units "
            f"({self.index_units:g} of indexes), {self.read_units:g} read units"
        )


class Meter(Clients):
    """Clients that write down what each call uses; what they look up for that is not counted.

    Exact while no two calls write the same item at the same time.
    """

    def __init__(self, real: Clients) -> None:
        super().__init__()
        self._real = real
        self._bill_lock = threading.Lock()
        self.bill = Bill()

    def taken(self) -> Bill:
        """The bill so far; counting begins anew."""
        with self._bill_lock:
            bill, self.bill = self.bill, Bill()
        return bill

    async def run(self, work: Callable[[], ResultT]) -> ResultT:
        return await self._real.run(work)

    def client(self, service: str) -> Any:
        return self._real.client(service)

    def close(self) -> None:
        self._real.close()

    def send(self, service: str, operation: str, **parameters: Any) -> Any:
        with self._bill_lock:
            self.bill.calls[f"{service}.{operation}"] += 1
        if service != DYNAMODB:
            return self._real.send(service, operation, **parameters)
        keys = list(_written(operation, parameters))
        if keys:
            return self._write(operation, parameters, keys)
        answer = self._real.send(service, operation, **parameters)
        with self._bill_lock:
            self.bill.read_units += _read_units(operation, parameters, answer)
        return answer

    def _write(self, operation: str, parameters: Mapping[str, Any], keys: list[tuple[str, Item]]) -> Any:
        before = [self._look(*key) for key in keys]
        try:
            return self._real.send(DYNAMODB, operation, **parameters)
        finally:
            factor = 2 if operation.startswith("transact") else 1  # prepared, then committed; indexes follow later
            with self._bill_lock:
                for old, key in zip(before, keys, strict=True):
                    new = self._look(*key)
                    on_indexes = sum(_index_units(index, old, new) for index in table.INDEXES)
                    self.bill.table_writes += 1
                    self.bill.index_units += on_indexes
                    self.bill.write_units += factor * _units(max(_size(old), _size(new)), WRITE_UNIT_BYTES) + on_indexes

    def _look(self, table_name: str, key: Item) -> Item | None:
        answer = self._real.send(DYNAMODB, "get_item", TableName=table_name, Key=dict(key), ConsistentRead=True)
        item: Item | None = answer.get("Item")
        return item


def _written(operation: str, parameters: Mapping[str, Any]) -> Iterable[tuple[str, Item]]:
    """The keys that an operation writes, or tries to."""
    match operation:
        case "put_item":
            yield parameters["TableName"], _key_of(parameters["Item"])
        case "update_item" | "delete_item":
            yield parameters["TableName"], parameters["Key"]
        case "transact_write_items":
            for action in parameters["TransactItems"]:
                ((kind, inner),) = action.items()
                yield inner["TableName"], _key_of(inner["Item"]) if kind == "Put" else inner["Key"]
        case "batch_write_item":
            for name, requests in parameters["RequestItems"].items():
                for request in requests:
                    ((kind, inner),) = request.items()
                    yield name, _key_of(inner["Item"]) if kind == "PutRequest" else inner["Key"]


def _key_of(item: Item) -> Item:
    return {"pk": item["pk"], "sk": item["sk"]}


def _index_units(index: str, old: Item | None, new: Item | None) -> int:
    """An entry that appears or goes is written; one whose keys change goes and appears."""
    before, after = _entry(index, old), _entry(index, new)
    if before == after:
        return 0
    return sum(_units(item_bytes(entry), WRITE_UNIT_BYTES) for entry in (before, after) if entry is not None)


def _entry(index: str, item: Item | None) -> Item | None:
    names = table.keys_of(index)
    if item is None or any(name not in item for name in names):
        return None
    return {name: item[name] for name in names}


def _read_units(operation: str, parameters: Mapping[str, Any], answer: Mapping[str, Any]) -> float:
    match operation:
        case "get_item":
            return _read(_size(answer.get("Item")), parameters.get("ConsistentRead"))
        case "query":
            items = answer["Items"]
            total = sum(map(item_bytes, items))
            unseen = answer["ScannedCount"] - len(items)
            total += unseen * (total // len(items) if items else UNSEEN_ENTRY_BYTES)
            return _read(total, parameters.get("ConsistentRead"))
        case "batch_get_item":
            units = 0.0
            for name, request in parameters["RequestItems"].items():
                found = [item_bytes(item) for item in answer["Responses"].get(name, ())]
                sizes = found + [0] * (len(request["Keys"]) - len(found))
                units += sum(_read(size, request.get("ConsistentRead")) for size in sizes)
            return units
        case _:
            return 0.0


def _read(size: int, consistent: object) -> float:
    return _units(size, READ_UNIT_BYTES) * (1 if consistent else 0.5)


def _units(size: int, per_unit: int) -> int:
    return max(1, math.ceil(size / per_unit))


def _size(item: Item | None) -> int:
    return 0 if item is None else item_bytes(item)
