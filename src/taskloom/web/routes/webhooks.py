"""Who is told of status changes, and what could not be delivered: for operators of all tenants."""

from typing import Annotated, Final

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, Response

from taskloom.operations.items import item
from taskloom.operations.webhooks import MAX_ID, MAX_PAGE
from taskloom.web.auth import Caller, Role
from taskloom.web.deps import CALLER, WEB, GuardedRoute, Web, needs
from taskloom.web.documentation import answers
from taskloom.web.models import Counted, DeliveryPage, ForgetBody, Forgotten, ListenersShown, ReplayBody
from taskloom.web.rendering import page_answer
from taskloom.web.routes.queues import scope_of
from taskloom.webhooks import MAX_NAME

router = APIRouter(prefix="/webhooks", tags=["webhooks"], route_class=GuardedRoute)

ADMIN: Final = needs(Role.ADMIN)


@router.get("", openapi_extra=ADMIN, responses=answers(s200=ListenersShown), response_class=Response)
async def webhooks(web: Web = WEB, caller: Caller = CALLER) -> Response:
    """Webhooks and subscriptions, and how much waits for each: for roles that may choose a tenant."""
    scope_of(caller, True)
    return page_answer([item(listener) for listener in await web.module.task_service.webhooks.listeners()], None)


@router.get("/deliveries", openapi_extra=ADMIN, responses=answers(s200=DeliveryPage), response_class=Response)
async def deliveries(
    listener: Annotated[str | None, Query(min_length=1, max_length=MAX_NAME, description="Only of this one.")] = None,
    failed: Annotated[bool, Query(description="Only what was given up; else what waits, too.")] = True,
    after: Annotated[int, Query(ge=0, le=MAX_ID, description="Go on behind this number; instead of a cursor.")] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
    cursor: Annotated[str | None, Query(max_length=2000)] = None,
    web: Web = WEB,
    caller: Caller = CALLER,
) -> Response:
    """What could not be delivered, with the reason: for roles that may choose a tenant."""
    scope_of(caller, True)
    purpose = ("deliveries", listener, failed)
    after = int(web.signer.position(cursor, *purpose) or after)
    found = await web.module.task_service.webhooks.deliveries(
        listener=listener, failed=failed, after=after, limit=min(limit + 1, MAX_PAGE)
    )
    shown = found[:limit]
    more = str(shown[-1].number) if len(found) > limit or len(found) == MAX_PAGE else None
    return page_answer([item(notice) for notice in shown], web.signer.cursor(more, *purpose))


@router.post("/replay", openapi_extra=ADMIN, responses=answers(415, s200=Counted), response_class=Response)
async def replay(body: ReplayBody, web: Web = WEB, caller: Caller = CALLER) -> Response:
    """Deliver again what was given up: for roles that may choose a tenant."""
    scope_of(caller, True)
    count = await web.module.task_service.webhooks.replay(body.number, listener=body.listener)
    return JSONResponse({"count": count})


@router.post("/forget", openapi_extra=ADMIN, responses=answers(415, s200=Forgotten), response_class=Response)
async def forget(body: ForgetBody, web: Web = WEB, caller: Caller = CALLER) -> Response:
    """Keep nothing for a listener any more: for roles that may choose a tenant."""
    scope_of(caller, True)
    return JSONResponse({"wasThere": await web.module.task_service.webhooks.forget(body.listener)})
