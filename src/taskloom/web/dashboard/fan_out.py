"""A fan-out as a whole: the grid of its sub-tasks, and its failures."""

from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from taskloom.errors import InvalidInput
from taskloom.model import TaskEntity, TaskKey
from taskloom.operations import cursors
from taskloom.operations.fan_outs import Failures
from taskloom.service import TaskService
from taskloom.web.dashboard import grid
from taskloom.web.dashboard.frame import Frame
from taskloom.web.dashboard.pages import HEADERS, Pages
from taskloom.web.dashboard.task import events_url, key_of
from taskloom.web.dashboard.text import translator
from taskloom.web.deps import Web

LISTED: Final = 100
"""Of a part with at most so many sub-tasks each gets a line."""
_NO_FAILURES: Final = Failures(groups=(), seen=0, more=False)


class FanOutPage:
    """Shows fan-outs as a whole."""

    def __init__(self, web: Web, pages: Pages) -> None:
        self._web = web
        self._pages = pages

    async def show(self, request: Request, frame: Frame) -> Response:
        """The page; with `at` the way to one sub-task."""
        key, frame = key_of(request, frame)
        service, query = self._web.module.task_service, request.query_params
        if "at" in query:
            sub_task = TaskKey.sub_task(
                key.tenant_code, key.parts.task_type, key.parts.code, _number(query["at"], "at")
            )
            return RedirectResponse(frame.task_url(sub_task), 303, HEADERS)
        task = await service.get_task(key)
        count = task.attributes.sub_task_count or 0
        first, end = _part(query.get("first"), query.get("end"), query.get("last"), count)
        part = query.get("part")
        cells = [] if part == "failures" else await service.fan_outs.map(key, first=first, end=end, cells=grid.CELLS)
        if cells:
            first = cells[0].first  # cells begin where chunks do
        picture = grid.grid(cells, translator(frame.language))
        is_part = (first, end) != (0, count)
        return self._pages.page(
            request,
            frame,
            "fan_out",
            ("fan_out", "failures"),
            task=task,
            count=count,
            first=first,
            end=end,
            is_zoomed=is_part,
            grid=picture,
            rows=await _rows(service, key, first, end) if part != "failures" else [],
            failures=await service.fan_outs.failures(key) if _has_failures(task, part) else _NO_FAILURES,
            tenant_query=f"&{urlencode({'tenant': frame.chosen_tenant})}" if frame.chosen_tenant else "",
            events=events_url(request, frame, task, self._web),
        )


def _has_failures(task: TaskEntity[Any], part: str | None) -> bool:
    """Whether to look for failures: not for the grid alone, nor where nothing can have failed."""
    return part != "fan_out" and (task.attributes.sub_task_failed_count > 0 or not task.is_terminal)


async def _rows(service: TaskService, key: TaskKey, first: int, end: int) -> list[TaskEntity[Any]]:
    if not 0 < end - first <= LISTED:
        return []
    page = await service.list_sub_tasks(key, limit=end - first, cursor=cursors.of(first))
    return list(page.items)


def _part(first: str | None, end: str | None, last: str | None, count: int) -> tuple[int, int]:
    """Which sub-tasks to show; *last* is the end as people say it. Raises: InvalidInput."""
    begin = _number(first, "first") if first else 0
    stop = _number(end, "end") if end else _number(last, "last") + 1 if last else count
    begin, stop = min(begin, max(0, count - 1)), min(stop, count)
    if count and stop <= begin:
        raise InvalidInput("last", f"{stop - 1} is before first, {begin}", "give a larger one")
    return begin, stop


def _number(text: str, field: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 7):
        raise InvalidInput(field, f"{text[:40]!r} is no number of a sub-task", "give digits")
    return int(text)
