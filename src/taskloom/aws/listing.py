"""Lists of a tenant's tasks."""

from collections.abc import Sequence
from typing import Any, Final

from taskloom.aws import table
from taskloom.aws.dynamo import Dynamo, Query
from taskloom.aws.items import Item, task_of
from taskloom.errors import InvalidInput
from taskloom.model import TaskCode, TaskEntity, TaskKey, TaskStatus
from taskloom.ports import TaskQuery
from taskloom.record import PK, SK

MAX_LOOK: Final = 1000
"""Tasks that one page with a filter looks at: bounds its time and its cost, however rare a match is."""
PART: Final = 100
"""Tasks that are read at a time where not every one matches."""
_LAST: Final = "\x7f"
"""Behind every code."""


class Listing:
    """Pages of tasks, newest or oldest first, each from one query and the reads of what it found."""

    def __init__(self, dynamo: Dynamo) -> None:
        self._dynamo = dynamo

    def page(self, query: TaskQuery) -> tuple[Sequence[TaskEntity[Any]], TaskCode | None]:
        """At most `limit` tasks, and where to go on."""
        found: list[TaskEntity[Any]] = []
        looked = 0
        own, per_page = self._query(query)
        for page, start in self._dynamo.pages(own):
            tasks = self._tasks(page, query)
            for place, task in enumerate(tasks):
                if query.status not in (None, task.status):
                    continue
                found.append(task)
                if len(found) == query.limit:
                    is_last = start is None and place == len(tasks) - 1
                    return found, None if is_last else TaskCode(task.code)
            looked += per_page
            if start is not None and looked >= MAX_LOOK:
                return found, TaskCode(start[SK]["S"].split("#")[1])
        return found, None

    def _query(self, query: TaskQuery) -> tuple[Query, int]:
        """The query, and how many entries one page of it looks at."""
        pk, forward = table.list_pk(query.kind, query.tenant_code), not query.newest_first
        prefix = None if query.task_type is None else f"{query.task_type}#"
        if query.status is TaskStatus.FAILED:
            limit = query.limit if prefix is None else max(query.limit, PART)
            own = Query((table.MARK, table.failed_mark(pk)), index=table.MARK_INDEX, forward=forward, limit=limit)
            own = _behind(own, table.MARK_AT, query)
            return (own if prefix is None else own.beginning(SK, prefix)), limit
        # One more, since the bounds of a range are part of it.
        limit = query.limit + 1 if query.status is None else max(query.limit + 1, PART)
        if prefix is None:
            own = Query((PK, pk), index=table.ALL_INDEX, forward=forward, limit=limit)
            return _behind(own, table.CODE, query), limit
        low, high = prefix, prefix + _LAST
        if query.after is not None:
            low, high = (low, prefix + query.after) if query.newest_first else (prefix + query.after, high)
        return Query((PK, pk), forward=forward, limit=limit).between(SK, low, high), limit

    def _tasks(self, items: Sequence[Item], query: TaskQuery) -> list[TaskEntity[Any]]:
        """The tasks of a page, which the table itself gives whole and an index by their keys."""
        own = [item for item in items if _is_top_level(item)]
        if query.status is TaskStatus.FAILED or query.task_type is None:
            own = self._dynamo.get_many([{PK: item[PK], SK: item[SK]} for item in own])
        return [task for task in map(task_of, own) if task.code != query.after]


def _behind(query: Query, name: str, asked: TaskQuery) -> Query:
    return query if asked.after is None else query.compared(name, "<" if asked.newest_first else ">", asked.after)


def _is_top_level(item: Item) -> bool:
    """The TypeScript original keeps sub-tasks beside their parents."""
    try:
        return TaskKey(item[PK]["S"], item[SK]["S"]).parts.index is None
    except InvalidInput:
        return False
