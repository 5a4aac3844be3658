"""What every page knows: who looks at it, in which tenant, in which language, and where it lies."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from taskloom import model
from taskloom.errors import NotPermitted
from taskloom.model import TaskKey
from taskloom.web.auth import COOKIE, Caller, Role
from taskloom.web.dashboard.text import language_of
from taskloom.web.deps import TENANT_HEADER, Web

PREFIX: Final = "/dashboard"
LANGUAGE_COOKIE: Final = "taskloom_language"
TENANT_COOKIE: Final = "taskloom_tenant"
YEAR: Final = 365 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Who looks at a page, and how."""

    caller: Caller
    page: str
    """Which entry of the menu it belongs to."""
    root: str
    """Where the application lies below its server; "" at the top."""
    here: str
    """Path and query of the page."""
    language: str
    tenant: str | None
    """Whose tasks are shown; None: nobody has said yet."""
    may_choose_tenant: bool
    is_known: bool = True
    """Whether somebody is there at all; not on the page for signing in."""
    has_cookie: bool = False

    @property
    def chosen_tenant(self) -> str | None:
        """What links must carry along: the tenant, where it is not the caller's own."""
        return self.tenant if self.may_choose_tenant and self.tenant != self.caller.tenant_code else None

    @property
    def user(self) -> str | None:
        """Who is signed in."""
        return self.caller.user_id

    @property
    def is_open(self) -> bool:
        """Whether nobody is asked who they are."""
        return self.is_known and self.caller.is_unrestricted and self.caller.user_id is None

    @property
    def may_operate(self) -> bool:
        """Whether to offer cancel and retry."""
        return self.caller.may(Role.OPERATOR)

    @property
    def may_steer(self) -> bool:
        """Whether to offer pause, resume and redrive."""
        return self.caller.may(Role.ADMIN)

    @property
    def may_sign_out(self) -> bool:
        """Whether there is a cookie to remove."""
        return self.is_known and self.has_cookie

    @property
    def by(self) -> str:
        """Who did it, for the history."""
        return (self.caller.user_id or "dashboard")[:256]

    def url(self, path: str, **query: object) -> str:
        """The address of a page; values that are None are left out."""
        given = {name: value for name, value in query.items() if value not in (None, "")}
        return f"{self.root}{PREFIX}{path}" + (f"?{urlencode(given)}" if given else "")

    def task_url(self, key: TaskKey, path: str = "", **query: object) -> str:
        """The address of a task, or of something of it."""
        below = f"/tasks/{quote(key.pk, safe='')}/{quote(key.sk, safe='')}{path}"
        return self.url(below, tenant=self.chosen_tenant, **query)

    def within(self, tenant: str) -> "Frame":
        """The same in this tenant. Raises: NotPermitted when it is not the caller's; call it before anything is read
        (rule 7)."""
        if self.tenant != tenant and not self.may_choose_tenant:
            raise NotPermitted("the tenant is not the one in which the caller acts")
        return replace(self, tenant=tenant)


async def frame_of(request: Request, web: Web, page: str) -> Frame:
    """Who looks at *page*. Raises: NotAuthenticated, NotPermitted, InvalidInput."""
    caller: Caller = await web.authenticate(request)
    may_choose = caller.is_unrestricted or bool(caller.roles & web.cross_tenant_roles)
    wanted = request.query_params.get("tenant") or request.headers.get(TENANT_HEADER)
    if wanted:
        wanted = model.tenant_code(wanted, "tenant")
        if wanted != caller.tenant_code and not may_choose:
            raise NotPermitted("the tenant is not the one in which the caller acts")
    elif may_choose and caller.tenant_code is None:
        wanted = _remembered(request)
    return _frame(request, caller, page, tenant=wanted or caller.tenant_code, may_choose=may_choose)


def strangers_frame(request: Request) -> Frame:
    """For somebody who is not known."""
    return replace(_frame(request, Caller(), "", tenant=None, may_choose=False), is_known=False)


def remember(response: Response, request: Request, cookies: Mapping[str, str]) -> None:
    """Keep *cookies* in the browser: what somebody likes to see, no secret."""
    for name, value in cookies.items():
        response.set_cookie(name, value, max_age=YEAR, path=cookie_path(request), samesite="lax", httponly=True)


def cookie_path(request: Request) -> str:
    """Where the cookies of the dashboard count."""
    return f"{root_of(request)}{PREFIX}"


def root_of(request: Request) -> str:
    """Where the application lies below its server."""
    root: str = request.scope.get("root_path", "")
    return root.rstrip("/")


def _remembered(request: Request) -> str | None:
    try:
        return model.tenant_code(request.cookies.get(TENANT_COOKIE, ""))
    except ValueError:
        return None


def _frame(request: Request, caller: Caller, page: str, *, tenant: str | None, may_choose: bool) -> Frame:
    given = [(name, value) for name, value in request.query_params.multi_items() if name not in _PASSING]
    if may_choose and tenant is not None and tenant != caller.tenant_code:
        given.insert(0, ("tenant", tenant))  # also where a cookie said so: another window may change the cookie
    query = urlencode(given)
    path = quote(request.scope["path"], safe="/~")
    here = (path if path.startswith(root_of(request)) else f"{root_of(request)}{path}") + (f"?{query}" if query else "")
    return Frame(
        caller=caller,
        page=page,
        root=root_of(request),
        here=here if request.method == "GET" else f"{root_of(request)}{PREFIX}",
        language=language_of(request.cookies.get(LANGUAGE_COOKIE), request.headers.get("accept-language", "")),
        tenant=tenant,
        may_choose_tenant=may_choose,
        has_cookie=COOKIE in request.cookies,
    )


_PASSING: Final = frozenset({"part", "seen", "done", "count", "left", "tenant"})
"""Of a page as it was asked for once, not of its address; the tenant is added again."""
