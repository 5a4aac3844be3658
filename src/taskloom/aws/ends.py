"""How many tasks ended, minute by minute: counted in this process, and added up in the table now and then."""

import threading
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from taskloom.aws import table
from taskloom.aws.dynamo import Dynamo, Query
from taskloom.aws.items import Item
from taskloom.clock import from_milliseconds, to_milliseconds
from taskloom.errors import StoreError
from taskloom.lifecycle import Change
from taskloom.model import Kind, TaskStatus
from taskloom.ports import Throughput
from taskloom.record import PK, SK

MINUTE: Final = 60_000
"""Milliseconds."""
KEEP: Final = timedelta(days=1)
"""How long the figures are kept."""

_FIELDS: Final = {True: "completed", False: "failed"}


class Ends:
    """Counts the ends that this process wrote. Best effort: what a process counted since its last minute dies with it.

    Costs a write per process, task type and minute, not one per task.
    """

    def __init__(self, dynamo: Dynamo) -> None:
        self._dynamo = dynamo
        self._lock = threading.Lock()
        self._counts: Counter[tuple[int, str, bool]] = Counter()

    def note(self, change: Change) -> None:
        """A task ended by *change*; figures of earlier minutes are written. In a thread."""
        finished_at, parts = change.patch["finished_at"], change.key.parts
        minute = to_milliseconds(finished_at or self._dynamo.now) // MINUTE
        is_well = change.patch["status"] is TaskStatus.COMPLETED
        with self._lock:
            self._counts[minute, f"{parts.kind}#{parts.task_type}", is_well] += 1
            is_due = any(counted != minute for counted, _, _ in self._counts)
        if is_due:
            self.flush(but=minute)

    def flush(self, but: int | None = None) -> None:
        """Write what was counted, except in the minute *but*. In a thread. Never raises."""
        with self._lock:
            due = {name: count for name, count in self._counts.items() if name[0] != but}
            for name in due:
                del self._counts[name]
        for (minute, route, is_well), count in due.items():
            try:
                self._add(minute, route, _FIELDS[is_well], count)
            except StoreError:
                with self._lock:
                    self._counts[minute, route, is_well] += count  # the next one may have more luck

    def _add(self, minute: int, route: str, field: str, count: int) -> None:
        expires_at = from_milliseconds(minute * MINUTE) + KEEP
        self._dynamo.send(
            "update_item",
            Key={PK: {"S": "THROUGHPUT"}, SK: {"S": f"{minute:010d}#{route}"}},
            UpdateExpression="ADD #field :count SET #ttl = :ttl",
            ExpressionAttributeNames={"#field": field, "#ttl": table.TTL},
            ExpressionAttributeValues={
                ":count": {"N": str(count)},
                ":ttl": {"N": str(to_milliseconds(expires_at) // 1000)},
            },
        )

    def since(self, at: datetime) -> Sequence[Throughput]:
        """What ended in the minutes since then, oldest first; with what this process has counted. In a thread."""
        self.flush()
        first = f"{to_milliseconds(at) // MINUTE:010d}"
        found = []
        for item in self._dynamo.all(Query((PK, "THROUGHPUT")).compared(SK, ">=", first)):
            minute, kind, task_type = item[SK]["S"].split("#")
            found.append(
                Throughput(
                    minute=from_milliseconds(int(minute) * MINUTE),
                    kind=Kind(kind),
                    task_type=task_type,
                    completed=_count(item, "completed"),
                    failed=_count(item, "failed"),
                )
            )
        return found


def _count(item: Item, field: str) -> int:
    return int(item.get(field, {"N": "0"})["N"])
