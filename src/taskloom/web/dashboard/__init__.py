"""The dashboard: pages for operators and tenants, rendered here, live by polling and server-sent events.

It reads and changes tasks through `TaskService` alone. Every page works without JavaScript; changes are forms.
"""

from typing import Final

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from taskloom.web.auth import Role
from taskloom.web.dashboard.actions import Actions
from taskloom.web.dashboard.assets import asset
from taskloom.web.dashboard.fan_out import FanOutPage
from taskloom.web.dashboard.frame import PREFIX
from taskloom.web.dashboard.guard import Guard
from taskloom.web.dashboard.overview import Overview
from taskloom.web.dashboard.pages import Pages
from taskloom.web.dashboard.queues import QueuePage
from taskloom.web.dashboard.signing_in import SigningIn
from taskloom.web.dashboard.task import TaskPage
from taskloom.web.dashboard.tasks import TaskList
from taskloom.web.deps import Web

_TASK: Final = f"{PREFIX}/tasks/{{pk}}/{{sk}}"


def router(web: Web, *, takes_tokens: bool) -> APIRouter:
    """The pages at `/dashboard`; *takes_tokens*: strangers are asked for one."""
    pages = Pages(web)
    guard = Guard(web, pages, takes_tokens=takes_tokens)
    overview, tasks, task = Overview(web, pages), TaskList(web, pages), TaskPage(web, pages)
    fan_out, queues, actions = FanOutPage(web, pages), QueuePage(web, pages), Actions(web, pages)
    signing_in = SigningIn(web, pages)
    shown = [
        (PREFIX, guard(overview.show, "overview")),
        (f"{PREFIX}/", guard(overview.show, "overview")),
        (f"{PREFIX}/tasks", guard(tasks.show, "tasks")),
        (_TASK, guard(task.show, "tasks")),
        (f"{_TASK}/fan-out", guard(fan_out.show, "tasks")),
        (f"{_TASK}/values/{{name}}", guard(task.value, "tasks")),
        (f"{PREFIX}/queues", guard(queues.show, "queues", Role.ADMIN)),
        (f"{PREFIX}/language", guard.open(signing_in.language)),
        (f"{PREFIX}/static/{{name:path}}", guard.open(asset)),
        (f"{PREFIX}/{{rest:path}}", guard.open(_nothing)),
    ]
    done = [
        ("confirm", guard(actions.confirm, "tasks", Role.OPERATOR)),
        ("cancel", guard(actions.cancel, "tasks", Role.OPERATOR)),
        ("retry", guard(actions.retry, "tasks", Role.OPERATOR)),
        ("pause", guard(actions.pause, "queues", Role.ADMIN)),
        ("resume", guard(actions.resume, "queues", Role.ADMIN)),
        ("redrive", guard(actions.redrive, "queues", Role.ADMIN)),
        ("sign-out", guard(signing_in.sign_out, "overview")),
        ("sign-in", guard.open(signing_in.sign_in)),
    ]
    made = APIRouter()
    for path, endpoint in shown:
        made.add_route(path, endpoint, methods=["GET"], include_in_schema=False)
    for name, endpoint in done:
        made.add_route(f"{PREFIX}/{name}", endpoint, methods=["POST"], include_in_schema=False)
    return made


async def _nothing(request: Request) -> Response:
    raise HTTPException(404, f"there is no page {request.url.path}")
