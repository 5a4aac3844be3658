"""Answers to tasks that wait for somebody outside."""

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from taskloom.errors import InvalidInput
from taskloom.web.auth import Caller, Role
from taskloom.web.deps import CALLER, WEB, GuardedRoute, Web, needs
from taskloom.web.documentation import answers
from taskloom.web.models import CallbackBody

router = APIRouter(prefix="/callbacks", tags=["callbacks"], route_class=GuardedRoute)
Token = Annotated[str, Path(description="What `event.callback` gave the handler.", max_length=2048)]


@router.post(
    "/{token:path}",  # one of Step Functions has slashes
    status_code=204,
    openapi_extra=needs(Role.OPERATOR),
    responses=answers(404, 409, 415),
    response_class=Response,
)
async def answer(token: Token, body: CallbackBody, web: Web = WEB, caller: Caller = CALLER) -> Response:
    """Answer the callback for which a task waits: with an output, or with an error. Once only."""
    tenant = None if caller.is_unrestricted else caller.tenant_or(None)
    service = web.module.task_service
    if body.model_fields_set == {"output"}:
        await service.resume(token, body.output, tenant_code=tenant)
    elif body.model_fields_set == {"error"} and body.error is not None:
        await service.fail(token, body.error, tenant_code=tenant)
    else:
        raise InvalidInput("output", "and error exclude each other, and one is needed", "give exactly one of them")
    return Response(status_code=204)
