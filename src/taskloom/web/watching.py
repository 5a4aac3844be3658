"""Watching tasks for event streams: however many streams look at a task, it is read once.

Watches belong to the event loop that serves the streams; the last stream of a watch ends it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, TypeVar

from taskloom.errors import StoreError, TaskNotFound
from taskloom.model import LogLine, TaskEntity, TaskKey, TaskStatus
from taskloom.operations.finding import Finding
from taskloom.ports import Backend, LogPosition, TaskQuery
from taskloom.web.rendering import compact, summary

SOONEST: Final = timedelta(milliseconds=250)
"""Between two looks at a task: so no more than four updates a second reach anybody, however fast the work is."""
LATEST: Final = timedelta(seconds=1)
"""How long a task that does not change is left alone."""
PER_WATCH: Final = timedelta(milliseconds=2)
"""What each watch adds to the time between two looks: all together look at most 500 times a second."""
PER_STREAM: Final = timedelta(milliseconds=2)
"""The same for streams: all together hear at most some 500 updates a second, so that a worker beside them has time."""
LINES_KEPT: Final = 200
"""The newest log lines of a watched task, which its streams share; older ones each reads for itself."""
LINE_PAGE: Final = 1000
MAX_STREAMS: Final = 1000

log = logging.getLogger(__name__)

Line = tuple[LogPosition, LogLine]
WatchT = TypeVar("WatchT", bound="Watch")


class Watch:
    """Looks again and again, and wakes the streams when something changed."""

    def __init__(self, hub: "Hub") -> None:
        self.hub = hub
        self.changed = asyncio.Event()
        """Set when there is something new, and then replaced."""
        self.is_over = False
        """Whether nothing will come any more."""
        self.users = 0
        self.pump: asyncio.Task[None] | None = None
        self._texts: dict[str, tuple[int, TaskStatus, str]] = {}

    def text_of(self, task: TaskEntity[Any]) -> str:
        """How *task* stands, as JSON; made once for all streams."""
        known = self._texts.get(task.code)
        if known is None or known[:2] != (task.version, task.status):
            known = (task.version, task.status, compact(summary(task)))
            self._texts[task.code] = known
        return known[2]

    def tell(self) -> None:
        """Wake all streams."""
        before, self.changed = self.changed, asyncio.Event()
        before.set()

    def end(self) -> None:
        """Nothing comes any more."""
        self.is_over = True
        self.tell()

    async def run(self) -> None:
        """Look until nobody wants to know any more."""
        try:
            await self._run()
        except TaskNotFound:
            pass  # it is gone
        finally:
            self.end()

    async def _run(self) -> None:
        raise NotImplementedError

    async def look(self) -> bool:
        """Read once; whether something changed."""
        raise NotImplementedError

    async def look_on(self, hint: asyncio.Event) -> None:
        """Look, then leave it alone for a while, the longer the less happens; *hint* makes it shorter."""
        clock, pause = self.hub.backend.clock, SOONEST
        while True:
            hint.clear()
            try:
                is_news = await self.look()
            except StoreError as error:
                if not error.retryable:
                    raise
                log.warning("a watched task cannot be read now", extra={"error": str(error)})
                is_news = False
            if is_news:
                self.tell()
            now, soonest = clock.now(), self.hub.soonest
            pause = soonest if is_news else min(max(LATEST, soonest), pause * 2)
            await clock.wait(asyncio.Event(), now + soonest)
            await clock.wait(hint, now + pause)


class TaskWatch(Watch):
    """One task: how it stands, and its log lines."""

    def __init__(self, hub: "Hub", key: TaskKey) -> None:
        super().__init__(hub)
        self._key = key
        self.task: TaskEntity[Any] | None = None
        """None until it was read first."""
        self._lines: deque[Line] = deque(maxlen=LINES_KEPT)
        self._floor: LogPosition | None = None
        """Behind it all lines are kept."""
        self._head: LogPosition | None = None
        """The last line that was read."""

    async def _run(self) -> None:
        with self.hub.finding.changes(self._key) as ended:
            await self.look_on(ended)

    async def look(self) -> bool:
        """See `Watch`."""
        task = await self.hub.finding.stored(self._key)  # before its lines: once it has ended, they are all written
        is_news = self.task is None or (task.version, task.status) != (self.task.version, self.task.status)
        while True:
            lines = await self.hub.backend.logs.read(self._key, self._head, LINE_PAGE)
            if not lines:
                break
            is_news = True
            for line in lines:
                if len(self._lines) == LINES_KEPT:
                    self._floor = self._lines[0][0]
                self._lines.append(line)
            self._head = lines[-1][0]
        self.task = task
        return is_news

    async def lines_behind(self, position: LogPosition | None) -> Sequence[Line]:
        """Some of the lines behind *position*; none only when nothing more was read."""
        if self._head is None or (position is not None and position >= self._head):
            return ()
        if self._floor is None or (position is not None and position >= self._floor):
            return [line for line in self._lines if position is None or line[0] > position]
        return await self.hub.backend.logs.read(self._key, position, LINE_PAGE)


class ListWatch(Watch):
    """A page of a tenant's tasks."""

    def __init__(self, hub: "Hub", query: TaskQuery) -> None:
        super().__init__(hub)
        self._query = query
        self.tasks: Sequence[TaskEntity[Any]] | None = None
        """None until they were read first."""

    async def _run(self) -> None:
        await self.look_on(asyncio.Event())

    async def look(self) -> bool:
        """See `Watch`."""
        tasks, after = await self.hub.backend.store.list_tasks(self._query)
        found = list(tasks)
        while after is not None and len(found) < self._query.limit:  # a page may be short
            query = TaskQuery(
                tenant_code=self._query.tenant_code,
                kind=self._query.kind,
                status=self._query.status,
                task_type=self._query.task_type,
                after=after,
                limit=self._query.limit - len(found),
            )
            tasks, after = await self.hub.backend.store.list_tasks(query)
            found += tasks
        is_news = self.tasks is None or list(map(_stamp, found)) != list(map(_stamp, self.tasks))
        self.tasks = found
        shown = {task.code for task in found}
        self._texts = {code: text for code, text in self._texts.items() if code in shown}
        return is_news


class Hub:
    """All watches of one application."""

    def __init__(self, backend: Backend, finding: Finding) -> None:
        self.backend = backend
        self.finding = finding
        self.streams = 0
        """How many are open."""
        self.is_closed = False
        self._watches: dict[Any, Any] = {}

    @property
    def count(self) -> int:
        """How many watches there are."""
        return len(self._watches)

    @property
    def soonest(self) -> timedelta:
        """The time between two looks at a task."""
        return max(SOONEST, self.count * PER_WATCH, self.streams * PER_STREAM)

    @contextmanager
    def task(self, key: TaskKey) -> Iterator[TaskWatch]:
        """The watch of a task, as long as the block runs."""
        with self._watch(key, lambda: TaskWatch(self, key)) as watch:
            yield watch

    @contextmanager
    def list(self, query: TaskQuery) -> Iterator[ListWatch]:
        """The watch of a page of a list, as long as the block runs."""
        with self._watch(query, lambda: ListWatch(self, query)) as watch:
            yield watch

    def close(self) -> None:
        """End all streams, and begin none any more, so that the server can end."""
        self.is_closed = True
        for watch in list(self._watches.values()):
            watch.end()

    @contextmanager
    def _watch(self, name: object, make: Callable[[], WatchT]) -> Iterator[WatchT]:
        known: WatchT | None = self._watches.get(name)
        watch = make() if known is None or known.is_over else known
        if watch is not known:
            self._watches[name] = watch
            watch.pump = asyncio.create_task(watch.run())
        watch.users += 1
        self.streams += 1
        try:
            yield watch
        finally:
            self.streams -= 1
            watch.users -= 1
            if not watch.users:
                if self._watches.get(name) is watch:
                    del self._watches[name]
                if watch.pump is not None:
                    watch.pump.cancel()


def _stamp(task: TaskEntity[Any]) -> tuple[str, int]:
    return task.code, task.version
