"""Answers to tasks that wait for somebody outside."""

from fastapi import APIRouter
from starlette.responses import Response

from taskloom.web.auth import Role
from taskloom.web.deps import WEB, GuardedRoute, Web, needs
from taskloom.web.documentation import answers
from taskloom.web.models import CallbackBody

router = APIRouter(prefix="/callbacks", tags=["callbacks"], route_class=GuardedRoute)


@router.post(
    "/{token}",
    status_code=204,
    openapi_extra=needs(Role.OPERATOR),
    responses=answers(404, 415),
    response_class=Response,
)
async def answer(token: str, body: CallbackBody, web: Web = WEB) -> Response:
    """Resume the task that waits for *token* with an output."""
    await web.module.step_function_service.resume_execution(token, body.output)
    return Response(status_code=204)
