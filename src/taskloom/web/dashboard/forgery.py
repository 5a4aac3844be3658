"""Forms come from our own pages: a token in each, which belongs to a cookie of the browser."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import Response

from taskloom.errors import InvalidInput, NotPermitted
from taskloom.web.auth import check_origin
from taskloom.web.dashboard.frame import cookie_path
from taskloom.web.signing import Signer

COOKIE: Final = "taskloom_form"
FIELD: Final = "form"
MAX_FIELDS: Final = 2000
PURPOSE: Final = "form"

Form = Mapping[str, Sequence[str]]


class Forged(NotPermitted):
    """The form was not sent by one of our pages."""


def cookie_of(request: Request) -> str:
    """The cookie of this browser; a new one if it has none yet."""
    known: str | None = getattr(request.state, "form_cookie", None)
    if known is None:
        known = request.cookies.get(COOKIE) or secrets.token_urlsafe(24)
        request.state.form_cookie = known
    return known


def token(request: Request, signer: Signer) -> str:
    """What forms carry."""
    return signer.mac(PURPOSE, cookie_of(request))


def keep(request: Request, response: Response) -> None:
    """Give the browser its cookie, unless it has it."""
    if request.cookies.get(COOKIE) != cookie_of(request):
        response.set_cookie(
            COOKIE,
            cookie_of(request),
            path=cookie_path(request),
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )


async def form_of(request: Request, signer: Signer) -> Form:
    """The fields of the form that was sent. Raises: Forged; NotPermitted; InvalidInput when it is no form."""
    check_origin(request)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise InvalidInput("content-type", "is not that of a form", "send application/x-www-form-urlencoded")
    body = await request.body()
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise InvalidInput("form", "cannot be read", f"send at most {MAX_FIELDS} fields in UTF-8") from error
    cookie = request.cookies.get(COOKIE)
    if not cookie or not signer.is_mac(field(fields, FIELD), PURPOSE, cookie):
        raise Forged("the form has no token, or that of another browser")
    return fields


def field(form: Form, name: str) -> str:
    """The value of the field *name*; "" when there is none."""
    return form.get(name, [""])[0]
