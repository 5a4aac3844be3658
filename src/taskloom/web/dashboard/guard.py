"""What stands before every page: who looks, what they may, and what becomes of errors."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from taskloom.errors import InvalidInput, NotAuthenticated, NotPermitted, TaskloomError, TaskNotFound
from taskloom.web import problems
from taskloom.web.auth import Role
from taskloom.web.dashboard.forgery import Forged
from taskloom.web.dashboard.frame import Frame, frame_of, strangers_frame
from taskloom.web.dashboard.pages import Pages
from taskloom.web.dashboard.text import translator
from taskloom.web.deps import Web, request_id_of

Show = Callable[[Request, Frame], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]

log = logging.getLogger(__name__)


class Guard:
    """Makes endpoints of what shows pages and carries out forms."""

    def __init__(self, web: Web, pages: Pages, *, takes_tokens: bool) -> None:
        self._web = web
        self._pages = pages
        self._takes_tokens = takes_tokens

    def __call__(self, show: Show, page: str, role: Role = Role.VIEWER) -> Endpoint:
        """The endpoint that runs *show* for whoever has *role*."""

        async def endpoint(request: Request) -> Response:
            request.state.request_id = request_id_of(request)
            frame = strangers_frame(request)
            try:
                frame = await frame_of(request, self._web, page)
                frame.caller.check_role(role)
                request.state.caller = frame.caller
                return await show(request, frame)
            except NotAuthenticated as error:
                problems.log_refusal(request, 401, str(error))
                return self._stranger(request)
            except (TaskloomError, HTTPException) as error:
                return self._error(request, frame, error)

        return endpoint

    def open(self, show: Endpoint) -> Endpoint:
        """The endpoint that runs *show* for everybody."""

        async def endpoint(request: Request) -> Response:
            request.state.request_id = request_id_of(request)
            try:
                return await show(request)
            except (TaskloomError, HTTPException) as error:
                return self._error(request, strangers_frame(request), error)

        return endpoint

    def _stranger(self, request: Request) -> Response:
        frame = strangers_frame(request)
        if self._takes_tokens and request.query_params.get("part") is None:
            return self._pages.page(request, frame, "sign_in", status=401, is_refused=frame.has_cookie)
        t = translator(frame.language)
        return self._pages.page(request, frame, "error", status=401, message=t("error.forbidden"))

    def _error(self, request: Request, frame: Frame, error: TaskloomError | HTTPException) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else problems.status_of(error)
        if status in problems.REFUSALS:
            problems.log_refusal(request, status, str(error))
        elif status >= 500:
            log.error("a page failed", extra={"path": request.url.path, "error": str(error)}, exc_info=error)
        t = translator(frame.language)
        return self._pages.page(request, frame, "error", status=status, message=_message(error, status, t))


def _message(error: TaskloomError | HTTPException, status: int, t: Any) -> str:
    match error:
        case Forged():
            return str(t("error.forged"))
        case NotPermitted():
            return str(t("error.forbidden"))
        case TaskNotFound():
            return str(t("error.not_found"))
        case InvalidInput():
            return str(error)
    return str(t(_TEXTS.get(status, "error.failed")))


_TEXTS: Final = {413: "error.too_large", 404: "error.not_found", 503: "error.busy"}
