"""Looking at tasks, and steering them: by key, and by code."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import JSONResponse, Response

from taskloom.model import MAX_SUB_TASKS, TaskKey
from taskloom.operations.fan_outs import MAX_CELLS
from taskloom.operations.finding import MAX_PAGE
from taskloom.operations.items import item
from taskloom.record import log_item, to_item
from taskloom.web.auth import Caller, Role
from taskloom.web.deps import CALLER, WEB, GuardedRoute, Tenant, Web, located_by_code, located_by_key, needs
from taskloom.web.documentation import answers
from taskloom.web.models import (
    CancelBody,
    ExplanationShown,
    FailuresShown,
    HistoryPage,
    LogPage,
    MapShown,
    RetryBody,
    Status,
    TaskPage,
    TaskShown,
    TopKind,
)
from taskloom.web.rendering import is_fresh, page_answer, task_answer

router = APIRouter(prefix="/tasks", tags=["tasks"], route_class=GuardedRoute)

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="At most so many.")]
Cursor = Annotated[str | None, Query(max_length=2000, description="Go on where the page before ended.")]
OfStatus = Annotated[Status | None, Query(description="Only those.")]
READ: Final = needs(Role.VIEWER)
STEER: Final = needs(Role.OPERATOR)

_FOUND: Final = answers(404, s200=TaskShown)
_FOUND[304] = {"description": "It stands as it did."}


@router.get("/{tenant}", openapi_extra=READ, responses=answers(s200=TaskPage), response_class=Response)
async def list_tasks(
    tenant: Tenant,
    type: Annotated[TopKind, Query(description="Single tasks, or the parents of fan-outs.")] = "TASK",
    status: OfStatus = None,
    task_type: Annotated[str | None, Query(description="Only those of this type.")] = None,
    order: Annotated[Literal["asc", "desc"], Query(description="Oldest or newest first.")] = "desc",
    limit: Limit = 20,
    cursor: Cursor = None,
    web: Web = WEB,
    caller: Caller = CALLER,
) -> Response:
    """The tasks of a tenant."""
    caller.check_tenant(tenant)
    purpose = ("tasks", tenant, type, status, task_type, order)
    page = await web.module.task_service.list_tasks(
        tenant,
        type=type,
        status=status,
        task_type=task_type,
        order=order,
        limit=limit,
        cursor=web.signer.position(cursor, *purpose),
    )
    return page_answer([to_item(task) for task in page.items], web.signer.cursor(page.cursor, *purpose))


def _routes_of_one(prefix: str, locate: Callable[..., Any], suffix: str) -> None:
    """The addresses below one task, which *locate* finds in the path."""
    located = Depends(locate)

    def path(name: str) -> dict[str, Any]:
        return {"path": f"{prefix}{name}", "response_class": Response}

    def named(name: str) -> dict[str, Any]:
        return {"name": f"{name}{suffix}", "operation_id": f"{name}{suffix}"}

    @router.get(**path(""), **named("get_task"), openapi_extra=READ, responses=_FOUND)
    async def get_task(request: Request, key: TaskKey = located, web: Web = WEB) -> Response:
        """A task or sub-task as it stands. With `If-None-Match` only if it changed."""
        task = await web.module.task_service.get_task(key)
        answer = task_answer(request, task)
        if is_fresh(request, task):
            return Response(status_code=304, headers={"ETag": answer.headers["ETag"]})
        return answer

    @router.get(
        **path("/sub-tasks"), **named("list_sub_tasks"), openapi_extra=READ, responses=answers(404, s200=TaskPage)
    )
    async def list_sub_tasks(
        key: TaskKey = located, status: OfStatus = None, limit: Limit = 100, cursor: Cursor = None, web: Web = WEB
    ) -> Response:
        """The sub-tasks of a fan-out, in the order of its input. A page may be short, or empty, though more follows."""
        purpose = ("sub-tasks", key, status)
        page = await web.module.task_service.list_sub_tasks(
            key, status=status, limit=limit, cursor=web.signer.position(cursor, *purpose)
        )
        return page_answer([to_item(task) for task in page.items], web.signer.cursor(page.cursor, *purpose))

    @router.get(**path("/map"), **named("map"), openapi_extra=READ, responses=answers(404, s200=MapShown))
    async def show_map(
        key: TaskKey = located,
        first: Annotated[int, Query(ge=0, le=MAX_SUB_TASKS, description="The first index.")] = 0,
        end: Annotated[int | None, Query(ge=0, le=MAX_SUB_TASKS, description="The index behind the last one.")] = None,
        cells: Annotated[int, Query(ge=1, le=MAX_CELLS, description="At most so many.")] = 1000,
        web: Web = WEB,
    ) -> Response:
        """How the sub-tasks of a fan-out stand, in cells of the same size; cheap however many there are."""
        found = await web.module.task_service.fan_outs.map(key, first=first, end=end, cells=cells)
        items = [{"first": cell.first, "end": cell.end, "counts": dict(cell.counts)} for cell in found]
        return page_answer(items, None)

    @router.get(
        **path("/failures"), **named("failures"), openapi_extra=READ, responses=answers(404, s200=FailuresShown)
    )
    async def failures(key: TaskKey = located, web: Web = WEB) -> Response:
        """The failed sub-tasks of a fan-out, by what their errors say."""
        found = await web.module.task_service.fan_outs.failures(key)
        return page_answer([asdict(group) for group in found.groups], None, seen=found.seen, more=found.more)

    @router.get(**path("/history"), **named("history"), openapi_extra=READ, responses=answers(404, s200=HistoryPage))
    async def history(key: TaskKey = located, limit: Limit = 100, cursor: Cursor = None, web: Web = WEB) -> Response:
        """The status changes of a task, oldest first."""
        at = web.signer.position(cursor, "history", key)
        task = await web.finding.stored(key)
        start = int(at or 0) - task.history_dropped
        start = max(0, start) if at else 0
        entries = to_item(task)["history"]
        end = start + limit
        more = str(end + task.history_dropped) if end < len(entries) else None
        return page_answer(entries[start:end], web.signer.cursor(more, "history", key), dropped=task.history_dropped)

    @router.get(**path("/logs"), **named("logs"), openapi_extra=READ, responses=answers(404, s200=LogPage))
    async def logs(key: TaskKey = located, limit: Limit = 1000, cursor: Cursor = None, web: Web = WEB) -> Response:
        """What the handlers of a task logged, oldest line first.

        The cursor of the last page leads on too: to what is written from then on. A page without lines says that there
        are no more at present.
        """
        after = web.signer.position(cursor, "logs", key)
        page = await web.module.task_service.logs(key, after=after, limit=limit)
        return page_answer([log_item(line) for line in page.items], web.signer.cursor(page.cursor, "logs", key))

    @router.get(
        **path("/explain"), **named("explain"), openapi_extra=READ, responses=answers(404, s200=ExplanationShown)
    )
    async def explain(key: TaskKey = located, web: Web = WEB) -> Response:
        """Where a task stands, and why: in plain words, and as data."""
        return JSONResponse(item(await web.module.task_service.explain(key)))

    @router.post(
        **path("/cancel"),
        **named("cancel"),
        openapi_extra=STEER,
        responses=answers(404, 409, 415, s200=TaskShown, s202=TaskShown),
    )
    async def cancel(
        request: Request,
        key: TaskKey = located,
        body: CancelBody | None = None,
        web: Web = WEB,
        caller: Caller = CALLER,
    ) -> Response:
        """Cancel a task that has not ended. 202: it is a running fan-out, which ends a little later."""
        reason = None if body is None else body.reason
        task = await web.module.task_service.cancel_task(key, reason=reason, by=caller.user_id)
        return task_answer(request, task, 200 if task.is_terminal else 202)

    @router.post(
        **path("/retry"),
        **named("retry"),
        status_code=202,
        openapi_extra=STEER,
        responses=answers(404, 409, 415, s202=TaskShown),
    )
    async def retry(
        request: Request,
        key: TaskKey = located,
        body: RetryBody | None = None,
        web: Web = WEB,
        caller: Caller = CALLER,
    ) -> Response:
        """Run a task again that has ended."""
        body = RetryBody() if body is None else body
        task = await web.module.task_service.retry_task(
            key, only_failed=body.only_failed, reason=body.reason, by=caller.user_id
        )
        return task_answer(request, task, 202)


_routes_of_one("/by-code/{code}", located_by_code, "_by_code")
_routes_of_one("/{pk}/{sk}", located_by_key, "")
