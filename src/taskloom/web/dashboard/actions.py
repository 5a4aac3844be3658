"""What forms do: cancel, retry, pause, resume, redrive. Each answers with the way back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from taskloom.errors import InvalidInput, NotPermitted, TaskEnded, TaskNotFound, TaskOpen
from taskloom.model import TaskKey, TaskStatus
from taskloom.operations.checks import one_of
from taskloom.operations.queues import MAX_ID
from taskloom.web.auth import Role
from taskloom.web.dashboard.forgery import Form, field, form_of
from taskloom.web.dashboard.frame import PREFIX, Frame
from taskloom.web.dashboard.pages import HEADERS, Pages
from taskloom.web.dashboard.queues import own_tenant
from taskloom.web.deps import Web

ACTIONS: Final = ("cancel", "retry", "redrive")
MAX_TASKS: Final = 500
"""That one form may name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A task that is to be confirmed."""

    id: str
    name: str
    code: str
    status: TaskStatus | None


class Actions:
    """Carries out forms."""

    def __init__(self, web: Web, pages: Pages) -> None:
        self._web = web
        self._pages = pages
        self._service = web.module.task_service

    async def confirm(self, request: Request, frame: Frame) -> Response:
        """The question before something that cannot be undone. Nothing is changed."""
        form = await form_of(request, self._web.signer)
        action = one_of(field(form, "action"), "action", ACTIONS)
        if action == "redrive":
            frame.caller.check_role(Role.ADMIN)
            items: list[Item] = []
        else:
            items = [await self._item(key) for key in _keys(form, frame)]
            if not items:
                return RedirectResponse(back_of(form, frame), 303, HEADERS)
        back = back_of(form, frame)
        return self._pages.page(request, frame, "confirm", action=action, items=items, back=back)

    async def cancel(self, request: Request, frame: Frame) -> Response:
        """Cancel tasks."""
        form = await form_of(request, self._web.signer)
        done = left = 0
        for key in _keys(form, frame):
            try:
                await self._service.cancel_task(key, reason=field(form, "reason") or None, by=frame.by)
                done += 1
            except (TaskEnded, TaskNotFound):
                left += 1
        return _went(form, frame, "cancel", done, left)

    async def retry(self, request: Request, frame: Frame) -> Response:
        """Run tasks again."""
        form = await form_of(request, self._web.signer)
        done = left = 0
        for key in _keys(form, frame):
            try:
                await self._service.retry_task(key, reason=field(form, "reason") or None, by=frame.by)
                done += 1
            except (TaskOpen, TaskNotFound, InvalidInput):
                left += 1
        return _went(form, frame, "retry", done, left)

    async def pause(self, request: Request, frame: Frame) -> Response:
        """Hold up a type or a tenant."""
        form = await form_of(request, self._web.signer)
        reason = field(form, "reason") or None
        await self._service.queues.pause(**_scope(form, frame), reason=reason, by=frame.by)
        return _went(form, frame, "pause", 1, 0)

    async def resume(self, request: Request, frame: Frame) -> Response:
        """End a pause."""
        form = await form_of(request, self._web.signer)
        await self._service.queues.resume(**_scope(form, frame))
        return _went(form, frame, "resume", 1, 0)

    async def redrive(self, request: Request, frame: Frame) -> Response:
        """Run the task of one dead letter again, or those of all."""
        form = await form_of(request, self._web.signer)
        letter = field(form, "letter")
        if letter and not (letter.isascii() and letter.isdecimal() and len(letter) < 20 and int(letter) <= MAX_ID):
            raise InvalidInput("letter", f"{letter[:40]!r} is no number of a letter", "use the button of one")
        tenant = own_tenant(frame)
        count = await self._service.queues.redrive(int(letter) if letter else None, tenant_code=tenant, by=frame.by)
        return _went(form, frame, "redrive", count, 0)

    async def _item(self, key: TaskKey) -> Item:
        try:
            task = await self._web.finding.stored(key)
        except TaskNotFound:
            return Item(id=key.id, name=key.parts.task_type, code=key.parts.code, status=None)
        return Item(id=task.id, name=task.name, code=task.code, status=task.status)


def back_of(form: Form, frame: Frame) -> str:
    """Where to go then: a page of the dashboard."""
    home, back = f"{frame.root}{PREFIX}", field(form, "back")
    is_ours = back == home or back.startswith((f"{home}/", f"{home}?"))
    return back if is_ours and back.isascii() and back.isprintable() and "\\" not in back else home


def _keys(form: Form, frame: Frame) -> Sequence[TaskKey]:
    """The tasks that are named. Raises: NotPermitted when one is another tenant's, before anything is done (rule 7)."""
    named = list(dict.fromkeys(form.get("task", ())))
    if len(named) > MAX_TASKS:
        raise InvalidInput("task", f"{len(named)} tasks are named", f"name at most {MAX_TASKS}")
    keys = [TaskKey.parse(text) for text in named]
    for key in keys:
        frame.within(key.tenant_code)
    return keys


def _scope(form: Form, frame: Frame) -> dict[str, Any]:
    scope = one_of(field(form, "scope"), "scope", ("type", "tenant"))
    name = field(form, "name").strip()
    if scope == "type":
        if not frame.may_choose_tenant:
            raise NotPermitted("a type is paused for all tenants")
        return {"task_type": name}
    return {"tenant_code": frame.within(name).tenant}


def _went(form: Form, frame: Frame, done: str, count: int, left: int) -> Response:
    back = back_of(form, frame)
    joint = "&" if "?" in back else "?"
    query = urlencode({"done": done, "count": count} | ({"left": left} if left else {}))
    return RedirectResponse(f"{back}{joint}{query}", 303, HEADERS)
