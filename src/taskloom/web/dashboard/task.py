"""One task: where it stands, its timeline, its values, its log."""

from collections import deque
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from taskloom.errors import TaskNotFound
from taskloom.model import Kind, LogLine, TaskEntity, TaskKey, TaskStatus
from taskloom.service import TaskService
from taskloom.web.dashboard import timeline, values
from taskloom.web.dashboard.frame import Frame
from taskloom.web.dashboard.pages import HEADERS, Pages
from taskloom.web.deps import Web
from taskloom.web.rendering import path_of

LINES: Final = 300
"""Log lines that a page shows: the last ones."""


class TaskPage:
    """Shows single tasks, fan-outs and sub-tasks."""

    def __init__(self, web: Web, pages: Pages) -> None:
        self._web = web
        self._pages = pages

    async def show(self, request: Request, frame: Frame) -> Response:
        """The page."""
        key, frame = key_of(request, frame)
        service, now = self._web.module.task_service, self._web.backend.clock.now()
        task = await service.get_task(key)
        part = request.query_params.get("part")
        lines, line_count = ([], 0) if part in ("task", "outcome") else await _last_lines(service, key)
        return self._pages.page(
            request,
            frame,
            "task",
            ("task", "outcome", "log"),
            task=task,
            explanation=await service.explain(key),
            runs=timeline.runs(task, now),
            may_retry=task.status is not TaskStatus.COMPLETED or task.attributes.sub_task_failed_count > 0,
            input=_shown(task.input) if task.kind is not Kind.SFN_TASK or task.input is not None else None,
            input_count=task.attributes.sub_task_count,
            result=None if task.attributes.results is None else _shown(_result(task)),
            saved=None if task.state is None else _shown(task.state),
            lines=lines,
            line_count=line_count,
            events=events_url(request, frame, task, self._web),
        )

    async def value(self, request: Request, frame: Frame) -> Response:
        """A value of a task, as a file."""
        key, frame = key_of(request, frame)
        task = await self._web.module.task_service.get_task(key)
        name = request.path_params["name"]
        found = {"input": task.input, "result": _result(task), "state": task.state}
        if name not in found:
            raise TaskNotFound(key)
        return Response(
            values.json_text(found[name]),
            media_type="application/json",
            headers={**HEADERS, "Content-Disposition": f'attachment; filename="{task.code}-{name}.json"'},
        )


def key_of(request: Request, frame: Frame) -> tuple[TaskKey, Frame]:
    """The key in the address, and the frame in its tenant. Raises: InvalidInput, NotPermitted."""
    key = TaskKey(request.path_params["pk"], request.path_params["sk"])
    return key, frame.within(key.tenant_code)


def events_url(request: Request, frame: Frame, task: TaskEntity[Any], web: Web) -> str | None:
    """Where a browser hears of changes; None where it must look by itself: a browser cannot say there which tenant it
    chooses, and behind an API Gateway nothing streams."""
    is_own = frame.caller.is_unrestricted or frame.tenant == frame.caller.tenant_code
    streams = web.module.enable_controller and "aws.event" not in request.scope
    return f"{path_of(request, task.key)}/events" if is_own and streams and not task.is_terminal else None


def _result(task: TaskEntity[Any]) -> Any:
    results = task.attributes.results
    is_one = results is not None and len(results) == 1 and len(results[0]) == 1
    return task.result if is_one else results


def _shown(value: Any) -> values.Shown:
    return values.shown(value)


async def _last_lines(service: TaskService, key: TaskKey) -> tuple[list[LogLine], int]:
    """The last lines, and how many there are."""
    last: deque[LogLine] = deque(maxlen=LINES)
    count, after = 0, None
    while (page := await service.logs(key, after=after)).items:
        last.extend(page.items)
        count += len(page.items)
        after = page.cursor
    return list(last), count
