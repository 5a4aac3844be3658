"""Live updates as server-sent events: of one task, and of a tenant's list."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import Response, StreamingResponse

from taskloom import model
from taskloom.clock import EPOCH, from_milliseconds, to_milliseconds
from taskloom.model import Kind, TaskEntity, TaskKey, TaskStatus
from taskloom.ports import Clock, LogPosition, TaskQuery
from taskloom.record import log_item, to_item
from taskloom.web.auth import Caller, Role
from taskloom.web.deps import CALLER, WEB, GuardedRoute, Tenant, Web, located_by_code, located_by_key, needs
from taskloom.web.documentation import answers
from taskloom.web.models import Status, TopKind
from taskloom.web.problems import TooManyStreams
from taskloom.web.rendering import compact
from taskloom.web.watching import MAX_STREAMS, Hub, TaskWatch

MEDIA_TYPE: Final = "text/event-stream"
HEARTBEAT: Final = timedelta(seconds=15)
"""How long a stream is silent at most, so that nobody in between thinks that it is dead."""
LONGEST: Final = timedelta(minutes=15)
"""After so long a stream ends. The browser comes again, goes on without a gap, and shows its token anew."""
MAX_PAGE: Final = 100
OVERLAP: Final = timedelta(seconds=10)
"""Of a list: what changed so shortly before the last event is sent again; clocks of workers may differ."""

router = APIRouter(prefix="/tasks", tags=["live"], route_class=GuardedRoute)

LastEventId = Annotated[
    str | None, Header(alias="Last-Event-ID", max_length=200, description="Go on behind this event.")
]
_EVENT: Final = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("event", "id", "data")},
    "description": "`data` is JSON.",
}
_EVENTS: Final = {MEDIA_TYPE: {"schema": _EVENT}}
_STREAM: Final = answers(404)
_STREAM[200] = {
    "description": "Events, until the task has ended.",
    "content": _EVENTS,
}
_STREAM[204] = {"description": "It has ended, and nothing came behind the last event: do not come again."}
_LIST_STREAM: Final = answers()
_LIST_STREAM[200] = {"description": "Events.", "content": _EVENTS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a stream of a task is: what its `id:` fields say."""

    version: int = -1
    """Of the snapshot that was sent last."""
    changes: int = 0
    """Entries of the history that were sent."""
    line: LogPosition | None = None
    """The last log line that was sent."""

    @classmethod
    def parse(cls, text: str | None) -> "Position":
        """The position in *text*; the beginning for what is none."""
        found = re.fullmatch(
            r"(-1|\d{1,15})\.(\d{1,15})(?:\.(\d{1,15})\.(\d{1,15})\.(\d{1,15}))?", text or "", re.ASCII
        )
        if found is None:
            return cls()
        version, changes, *line = found.groups()
        position = LogPosition(*map(int, line)) if line[0] is not None else None
        return cls(version=int(version), changes=int(changes), line=position)

    def __str__(self) -> str:
        line = "" if self.line is None else "." + ".".join(map(str, self.line))
        return f"{self.version}.{self.changes}{line}"


@router.get("/{tenant}/events", openapi_extra=needs(Role.VIEWER), responses=_LIST_STREAM, response_class=Response)
async def list_events(
    tenant: Tenant,
    type: Annotated[TopKind, Query()] = "TASK",
    status: Annotated[Status | None, Query()] = None,
    task_type: Annotated[str | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many of the newest tasks.")] = 20,
    last_event_id: LastEventId = None,
    web: Web = WEB,
    caller: Caller = CALLER,
) -> Response:
    """The newest tasks of a tenant, live.

    `page` names the tasks that are shown now, `task` says how one stands.
    """
    caller.check_tenant(tenant)
    query = TaskQuery(
        tenant_code=model.tenant_code(tenant),
        kind=Kind(type),
        status=None if status is None else TaskStatus(status),
        task_type=None if task_type is None else model.task_type(task_type),
        limit=limit,
    )
    return _streaming(web.hub, _list_stream(web.hub, query, _instant(last_event_id)))


async def _task_events(
    key: TaskKey,
    last_event_id: LastEventId = None,
    web: Web = WEB,
) -> Response:
    """One task or sub-task, live, until it has ended.

    `status` is a change of status (none is left out), `task` how it stands (at most four times a second), `log` a log
    line (none is left out), `end` the end.
    """
    position = Position.parse(last_event_id)
    task = await web.finding.stored(key)
    is_seen = task.is_terminal and (position.version, position.changes) == (task.version, _changes(task))
    if is_seen and not await web.backend.logs.read(key, position.line, 1):
        return Response(status_code=204)
    return _streaming(web.hub, _task_stream(web.hub, key, position))


def _add(path: str, locate: Any, name: str) -> None:
    located = Depends(locate)

    async def events(key: TaskKey = located, last_event_id: LastEventId = None, web: Web = WEB) -> Response:
        return await _task_events(key, last_event_id, web)

    router.add_api_route(
        path,
        events,
        name=name,
        operation_id=name,
        description=_task_events.__doc__,
        openapi_extra=needs(Role.VIEWER),
        responses=_STREAM,
        response_class=Response,
    )


_add("/by-code/{code}/events", located_by_code, "events_by_code")
_add("/{pk}/{sk}/events", located_by_key, "events")


def _streaming(hub: Hub, events: AsyncIterator[str]) -> Response:
    if hub.is_closed or hub.streams >= MAX_STREAMS:
        raise TooManyStreams
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the latter: nginx must not hold it back
    return StreamingResponse(events, media_type=MEDIA_TYPE, headers=headers)


async def _task_stream(hub: Hub, key: TaskKey, position: Position) -> AsyncIterator[str]:
    with hub.task(key) as watch:
        beat = _Beat(hub.backend.clock)
        yield ": hello\n\n"
        while not beat.is_over:
            changed = watch.changed
            async for reached, event in _news(watch, position):
                position = reached
                yield event
                beat.delay()
            task = watch.task
            if task is not None and task.is_terminal and position.version == task.version:
                yield _event("end", compact({"status": str(task.status)}), position)
                return
            if watch.is_over:
                return
            if not await beat.wait(changed):
                yield ": heartbeat\n\n"


async def _news(watch: TaskWatch, position: Position) -> AsyncIterator[tuple[Position, str]]:
    """What came behind *position*: the new position beside each event."""
    task = watch.task
    if task is None:
        return
    if _changes(task) > position.changes:
        for number, entry in enumerate(to_item(task)["history"]):
            number += task.history_dropped if number else 0
            if number >= position.changes:
                position = replace(position, changes=number + 1)
                yield position, _event("status", compact(entry), position)
    while lines := await watch.lines_behind(position.line):
        for at, line in lines:
            position = replace(position, line=at)
            yield position, _event("log", compact(log_item(line)), position)
    if position.version != task.version:  # last, so that whoever has it has what was before it
        position = replace(position, version=task.version)
        yield position, _event("task", watch.text_of(task), position)


async def _list_stream(hub: Hub, query: TaskQuery, since: datetime) -> AsyncIterator[str]:
    sent: dict[str, int] = {}
    page: list[str] | None = None
    with hub.list(query) as watch:
        beat = _Beat(hub.backend.clock)
        yield ": hello\n\n"
        while not beat.is_over and not watch.is_over:
            changed, tasks = watch.changed, watch.tasks
            if tasks is not None:
                mark = str(max((to_milliseconds(task.updated_at) for task in tasks), default=0))
                ids = [task.id for task in tasks]
                if ids != page:
                    page = ids
                    yield _event("page", compact({"tasks": ids}), mark)
                for task in reversed(tasks):
                    if sent.get(task.id) != task.version and (task.id in sent or task.updated_at >= since):
                        yield _event("task", watch.text_of(task), mark)
                sent = {task.id: task.version for task in tasks}
                beat.delay()
            if not await beat.wait(changed):
                yield ": heartbeat\n\n"


class _Beat:
    """When a stream must say something, and when it is to end."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until = clock.now() + LONGEST
        self.delay()

    def delay(self) -> None:
        """Something was said."""
        self._next = self._clock.now() + HEARTBEAT

    @property
    def is_over(self) -> bool:
        """Whether the stream has been open for long enough."""
        return self._clock.now() >= self._until

    async def wait(self, changed: asyncio.Event) -> bool:
        """Whether there is news; else it is time for a heartbeat."""
        is_news = await self._clock.wait(changed, min(self._next, self._until))
        if not is_news:
            self.delay()
        return is_news


def _event(name: str, data: str, id: object) -> str:
    return f"event: {name}\nid: {id}\ndata: {data}\n\n"


def _changes(task: TaskEntity[Any]) -> int:
    return len(task.history) + task.history_dropped


def _instant(last_event_id: str | None) -> datetime:
    """From when on changes are to be sent."""
    if last_event_id is None or not re.fullmatch(r"\d{1,13}", last_event_id, re.ASCII):
        return EPOCH
    return max(EPOCH, from_milliseconds(int(last_event_id)) - OVERLAP)
