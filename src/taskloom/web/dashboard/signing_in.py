"""Signing in: a token is checked and kept in a cookie, since a browser sends no header when it opens a page."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from taskloom.errors import TaskloomError
from taskloom.web.auth import COOKIE
from taskloom.web.dashboard.actions import back_of
from taskloom.web.dashboard.forgery import field, form_of
from taskloom.web.dashboard.frame import LANGUAGE_COOKIE, Frame, remember, root_of, strangers_frame
from taskloom.web.dashboard.pages import HEADERS, Pages
from taskloom.web.dashboard.text import LANGUAGES
from taskloom.web.deps import Web


class SigningIn:
    """Signs people in and out, and lets them choose a language."""

    def __init__(self, web: Web, pages: Pages) -> None:
        self._web = web
        self._pages = pages

    async def sign_in(self, request: Request) -> Response:
        """Check the token that was sent, and keep it."""
        frame = strangers_frame(request)
        form = await form_of(request, self._web.signer)
        token = field(form, "token").strip()
        if not await self._is_accepted(request, token):
            return self._pages.page(request, frame, "sign_in", status=401, is_refused=True)
        response = RedirectResponse(back_of(form, frame), 303, HEADERS)
        response.set_cookie(
            COOKIE,
            token,
            path=root_of(request) or "/",  # event streams lie beside the dashboard
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="lax",
        )
        return response

    async def sign_out(self, request: Request, frame: Frame) -> Response:
        """Forget the token."""
        await form_of(request, self._web.signer)
        response = RedirectResponse(frame.url(""), 303, HEADERS)
        response.delete_cookie(COOKIE, path=root_of(request) or "/")
        return response

    async def language(self, request: Request) -> Response:
        """Keep the language that was chosen."""
        frame = strangers_frame(request)
        back = back_of({"back": [request.query_params.get("back", "")]}, frame)
        response = RedirectResponse(back, 303, HEADERS)
        to = request.query_params.get("to", "")
        if to in LANGUAGES:
            remember(response, request, {LANGUAGE_COOKIE: to})
        return response

    async def _is_accepted(self, request: Request, token: str) -> bool:
        if not token or not token.isascii() or not token.isprintable() or any(letter in token for letter in ' ;,"\\'):
            return False
        headers = [pair for pair in request.scope["headers"] if pair[0] not in (b"authorization", b"cookie")]
        headers.append((b"authorization", f"Bearer {token}".encode()))
        try:
            await self._web.authenticate(Request({**request.scope, "headers": headers}))
        except TaskloomError:
            return False
        return True
