"""Queues, workers, pauses and dead letters: for operators."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, Response

from taskloom.errors import NotPermitted
from taskloom.model import TaskKey
from taskloom.operations.items import item
from taskloom.operations.queues import MAX_ID, MAX_LETTERS
from taskloom.ports import Pause, PauseScope, WorkerFacts
from taskloom.web.auth import Caller, Role
from taskloom.web.deps import CALLER, WEB, GuardedRoute, Web, needs
from taskloom.web.documentation import answers
from taskloom.web.models import (
    Counted,
    DeadLetterPage,
    ExpiredShown,
    HoldBody,
    PurgeBody,
    QueuesShown,
    RedriveBody,
    RepairsShown,
    Resumed,
    ThroughputShown,
)
from taskloom.web.rendering import page_answer

router = APIRouter(prefix="/queues", tags=["queues"], route_class=GuardedRoute)

ADMIN: Final = needs(Role.ADMIN)
Everybody = Annotated[bool, Query(alias="all", description="Of all tenants; for roles that may choose a tenant.")]
Limit = Annotated[int, Query(ge=1, le=MAX_LETTERS)]
Cursor = Annotated[str | None, Query(max_length=2000)]


@router.get("", openapi_extra=ADMIN, responses=answers(s200=QueuesShown), response_class=Response)
async def queues(
    everybody: Everybody = False, limit: Limit = 100, cursor: Cursor = None, web: Web = WEB, caller: Caller = CALLER
) -> Response:
    """Depth, in flight, oldest age and dead letters, per tenant and type; which workers live; what is paused."""
    tenant = scope_of(caller, everybody)
    service = web.module.task_service.queues
    figures, workers, pauses = await asyncio.gather(
        service.figures(tenant_code=tenant), service.workers(), service.pauses()
    )
    last = web.signer.position(cursor, "queues", tenant)
    rows = [row for row in figures if last is None or _name(row) > last]
    shown = rows[:limit]
    items = [item(row) | ({"rate": None} if tenant is not None else {}) for row in shown]
    more = web.signer.cursor(_name(shown[-1]) if len(rows) > limit else None, "queues", tenant)
    return page_answer(
        items,
        more,
        workers=[item(worker) for worker in seen_by(workers, tenant)],
        pauses=[_pause(pause) for pause in pauses_of(pauses, tenant)],
    )


@router.get("/dead-letters", openapi_extra=ADMIN, responses=answers(s200=DeadLetterPage), response_class=Response)
async def dead_letters(
    everybody: Everybody = False,
    limit: Limit = 100,
    after: Annotated[int, Query(ge=0, le=MAX_ID, description="Go on behind this letter; instead of a cursor.")] = 0,
    cursor: Cursor = None,
    web: Web = WEB,
    caller: Caller = CALLER,
) -> Response:
    """Tasks that could not be handed to a worker, with the reason."""
    tenant = scope_of(caller, everybody)
    after = int(web.signer.position(cursor, "dead-letters", tenant) or after)
    found = await web.module.task_service.queues.dead_letters(
        tenant_code=tenant, after=after, limit=min(limit + 1, MAX_LETTERS)
    )
    shown = found[:limit]
    more = str(shown[-1].id) if len(found) > limit or len(found) == MAX_LETTERS else None
    return page_answer([item(letter) for letter in shown], web.signer.cursor(more, "dead-letters", tenant))


@router.get("/throughput", openapi_extra=ADMIN, responses=answers(s200=ThroughputShown), response_class=Response)
async def throughput(
    minutes: Annotated[int, Query(ge=1, le=24 * 60)] = 60, web: Web = WEB, caller: Caller = CALLER
) -> Response:
    """What ended per minute, by kind and type, over all tenants: for roles that may choose a tenant."""
    scope_of(caller, True)
    return page_answer([item(row) for row in await web.module.task_service.queues.throughput(minutes)], None)


@router.get("/expired", openapi_extra=ADMIN, responses=answers(s200=ExpiredShown), response_class=Response)
async def expired(web: Web = WEB, caller: Caller = CALLER) -> Response:
    """How many tasks have expired, and wait to be removed: for roles that may choose a tenant."""
    scope_of(caller, True)
    return JSONResponse({"count": await web.module.task_service.queues.expired()})


@router.get("/repairs", openapi_extra=ADMIN, responses=answers(s200=RepairsShown), response_class=Response)
async def repairs(web: Web = WEB, caller: Caller = CALLER) -> Response:
    """What the reconciler did when it looked last: for roles that may choose a tenant."""
    scope_of(caller, True)
    return JSONResponse({"repairs": await web.module.task_service.queues.repairs()})


@router.post("/pause", status_code=204, openapi_extra=ADMIN, responses=answers(415), response_class=Response)
async def pause(body: HoldBody, web: Web = WEB, caller: Caller = CALLER) -> Response:
    """Start no more tasks of a tenant, or of a type (of all tenants: for roles that may choose a tenant)."""
    _check_scope(caller, body)
    await web.module.task_service.queues.pause(
        task_type=body.task_type, tenant_code=body.tenant_code, reason=body.reason, by=caller.user_id
    )
    return Response(status_code=204)


@router.post("/resume", openapi_extra=ADMIN, responses=answers(415, s200=Resumed), response_class=Response)
async def resume(body: HoldBody, web: Web = WEB, caller: Caller = CALLER) -> Response:
    """End a pause."""
    _check_scope(caller, body)
    was = await web.module.task_service.queues.resume(task_type=body.task_type, tenant_code=body.tenant_code)
    return JSONResponse({"wasPaused": was})


@router.post("/purge", openapi_extra=ADMIN, responses=answers(415, s200=Counted), response_class=Response)
async def purge(body: PurgeBody, web: Web = WEB, caller: Caller = CALLER) -> Response:
    """Cancel all tasks that wait; of a type, of a tenant, or of a tenant's type. Without tenant: the caller's own."""
    tenant = body.tenant_code if caller.is_unrestricted else caller.tenant_or(body.tenant_code)
    count = await web.module.task_service.queues.purge(
        task_type=body.task_type, tenant_code=tenant, reason=body.reason, by=caller.user_id
    )
    return JSONResponse({"count": count})


@router.post("/redrive", openapi_extra=ADMIN, responses=answers(415, s200=Counted), response_class=Response)
async def redrive(body: RedriveBody, web: Web = WEB, caller: Caller = CALLER) -> Response:
    """Run the tasks of dead letters again: of one, or of all of the tenant."""
    tenant = body.tenant_code if caller.is_unrestricted else caller.tenant_or(body.tenant_code)
    count = await web.module.task_service.queues.redrive(
        body.id, tenant_code=tenant, per_second=body.per_second, by=caller.user_id
    )
    return JSONResponse({"count": count})


def scope_of(caller: Caller, everybody: bool) -> str | None:
    """The tenant whose queues the caller sees; None: all. Raises: NotPermitted."""
    if everybody and not caller.spans_tenants:
        raise NotPermitted("all tenants are for roles that may choose one")
    return None if everybody or caller.is_unrestricted else caller.tenant_or(None)


def seen_by(workers: Sequence[WorkerFacts], tenant: str | None) -> Sequence[WorkerFacts]:
    """*workers*; of what they run only what belongs to *tenant* (rule 7)."""
    if tenant is None:
        return workers
    return [
        replace(worker, running=[id for id in worker.running if TaskKey.parse(id).tenant_code == tenant])
        for worker in workers
    ]


def pauses_of(pauses: Sequence[Pause], tenant: str | None) -> Sequence[Pause]:
    """Those of *pauses* that hold up *tenant*, or a type."""
    return [pause for pause in pauses if tenant in (None, pause.name) or pause.scope is PauseScope.TASK_TYPE]


def _check_scope(caller: Caller, body: HoldBody) -> None:
    if body.tenant_code is not None:
        caller.check_tenant(body.tenant_code)
    if body.task_type is not None and not caller.spans_tenants:
        raise NotPermitted("a type is shared by all tenants, so it is for roles that may choose one")


def _pause(pause: Pause) -> dict[str, Any]:
    return {name: value for name, value in item(pause).items() if value is not None}


def _name(row: Any) -> str:
    return f"{row.tenant_code}#{row.kind}#{row.task_type}"
