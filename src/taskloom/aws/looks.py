"""Which open tasks need looking after: late ones, and those that nothing would bring back."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from taskloom.aws import table
from taskloom.aws.changes import LONGEST_WITH_MESSAGE
from taskloom.aws.dynamo import Dynamo, Query
from taskloom.aws.items import Item, task_of
from taskloom.clock import to_milliseconds
from taskloom.model import Kind, TaskEntity, TaskStatus
from taskloom.record import PK, SK, parse_time, time_text

GRACE: Final = timedelta(minutes=5)
"""How long after its time a task may still be on its way through stream and queue."""
BACKLOG_GRACE: Final = timedelta(hours=12)
"""... while messages wait in the queue, so that a backlog does not breed messages."""
EXECUTION_GRACE: Final = timedelta(minutes=10)
"""How long a running fan-out may stand still before its execution is asked."""
MAX_LOOK: Final = 2000
"""Open tasks that one call looks at; the next one goes on behind them."""
PART: Final = 100
"""Open tasks that are read at a time."""


class Looks:
    """Walks through the indexes of open tasks; in threads, except `stranded`."""

    def __init__(self, dynamo: Dynamo, has_backlog: Callable[[], Awaitable[bool]] | None) -> None:
        self._dynamo = dynamo
        self._has_backlog = has_backlog
        self._position: tuple[str, Item | None] | None = None
        """Bucket and place in it where the last walk broke off."""

    # --- deadlines -----------------------------------------------------------------------------------------------

    def due(self, bucket: str, limit: int) -> list[Item]:
        """Entries of open tasks of one bucket whose deadline has come, earliest first."""
        now = time_text(self._dynamo.now)
        query = Query((table.MARK, table.due_mark(bucket)), index=table.MARK_INDEX, limit=limit)
        return self._dynamo.first(query.compared(table.MARK_AT, "<=", now), limit)

    def overdue(self, found: Sequence[Sequence[Item]], limit: int) -> list[TaskEntity[Any]]:
        """The tasks of what `due` found in all buckets, earliest deadline first."""
        entries = sorted((item for part in found for item in part), key=lambda item: str(item[table.MARK_AT]["S"]))
        now = self._dynamo.now
        keys = [{PK: item[PK], SK: item[SK]} for item in entries[:limit]]
        return [
            task
            for task in map(task_of, self._dynamo.get_many(keys))
            # An index may lag behind the table.
            if not task.is_terminal
            and task.cancel_requested is None
            and task.deadline_at is not None
            and task.deadline_at <= now
        ]

    def next_deadline(self, bucket: str) -> datetime | None:
        """The earliest deadline of the open tasks of one bucket."""
        query = Query((table.MARK, table.due_mark(bucket)), index=table.MARK_INDEX, limit=1)
        found = self._dynamo.first(query, 1)
        return parse_time(found[0][table.MARK_AT]["S"]) if found else None

    # --- what nothing would bring back ---------------------------------------------------------------------------

    async def stranded(self, limit: int) -> list[TaskEntity[Any]]:
        """At most *limit* open tasks that have been due for longer than anything on its way would take.

        Goes on where the call before broke off, once around at most.
        """
        grace = BACKLOG_GRACE if self._has_backlog is not None and await self._has_backlog() else GRACE
        return await self._dynamo.clients.run(lambda: self._stranded(limit, grace))

    def _stranded(self, limit: int, grace: timedelta) -> list[TaskEntity[Any]]:
        found: list[TaskEntity[Any]] = []
        looked, now = 0, self._dynamo.now
        young = table.time_prefix(to_milliseconds(now - GRACE) + 1)
        for bucket, page, start in self._walk():
            due = [item for item in page if not _is_young(item, young)]
            tasks = {(task.pk, task.sk): task for task in map(task_of, self._dynamo.get_many(_keys(due)))}
            for item in page:
                self._position = (bucket, {name: item[name] for name in table.keys_of(table.OPEN_INDEX)})
                task = tasks.get((item[PK]["S"], item[SK]["S"]))
                if task is not None and is_stranded(task, now, grace):
                    found.append(task)
                    if len(found) == limit:
                        return found
            # Behind the last page of a bucket the next one begins; this one would come again, perhaps for ever.
            self._position = (bucket, start) if start is not None else (table.next_bucket(bucket), None)
            looked += len(page)
            if looked >= MAX_LOOK:
                return found
        self._position = None
        return found

    def _walk(self) -> Iterator[tuple[str, list[Item], Item | None]]:
        """Pages of entries of all buckets, from the position on; what began later than any grace has no place yet."""
        first, place = self._position or ("0", None)
        until = table.time_prefix(to_milliseconds(self._dynamo.now) + 1)
        every = table.buckets()
        start = every.index(first)
        for bucket in every[start:] + every[:start]:
            query = Query((table.OPEN, bucket), index=table.OPEN_INDEX, limit=PART)
            query = query.compared(table.OPEN_AT, "<", until)
            for page, next_ in self._dynamo.pages(query, place if bucket == first else None):
                yield bucket, page, next_

    # --- all that is open ----------------------------------------------------------------------------------------

    def open_tasks(
        self, tenant: str | None, task_type: str | None, after: "Item | None" = None
    ) -> Iterator[list[Item]]:
        """Pages of entries of open tasks of a tenant, a type, both, or all; behind the entry *after*."""
        every = table.buckets()
        start = 0 if after is None else every.index(after[table.OPEN]["S"])
        for bucket in every[start:]:
            query = Query((table.OPEN, bucket), index=table.OPEN_INDEX)
            if tenant is not None:
                query.one_of(PK, [table.list_pk(kind, tenant) for kind in (Kind.TASK, Kind.SFN_TASK)])
            if task_type is not None:
                query.beginning(SK, f"{task_type}#")
            own = after if after is not None and bucket == after[table.OPEN]["S"] else None
            for page, _ in self._dynamo.pages(query, own):
                yield page


def _is_young(item: Item, since: str) -> bool:
    """Whether a task that never waited for long was created so lately that it cannot be stranded; costs no read."""
    code = item[SK]["S"].partition("#")[2]
    return table.is_ulid(code) and item[table.OPEN_AT]["S"] == code and code >= since


def _keys(page: Sequence[Item]) -> list[Item]:
    return [{PK: item[PK], SK: item[SK]} for item in page]


def is_stranded(task: TaskEntity[Any], now: datetime, grace: timedelta) -> bool:
    """Whether the open *task* has been due for so long that nothing can be on its way to it any more."""
    if task.is_terminal:
        return False
    if task.status is TaskStatus.PENDING:
        at = task.next_attempt_at
        if at is None:
            return now >= task.updated_at + grace
        if at - task.updated_at > LONGEST_WITH_MESSAGE and task.dispatch is None:
            return now >= at  # it has no message, and was to be given one
        return now >= max(at, task.updated_at) + grace
    if task.kind is Kind.SFN_TASK:
        return now >= task.updated_at + EXECUTION_GRACE  # rule 3: its execution knows
    return now >= max(task.lease_until or task.updated_at, task.updated_at) + grace
