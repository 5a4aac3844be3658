"""Who calls: authentication settings turned into a `Caller`."""

import ipaddress
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from inspect import isawaitable
from typing import Any, Final, Protocol, TypeAlias
from urllib.parse import urlsplit

from starlette.requests import Request

from taskloom.errors import InvalidInput, NotAuthenticated, NotPermitted
from taskloom.model import InvokeContext
from taskloom.settings import Settings

COOKIE: Final = "taskloom_token"
"""Holds the token where a browser cannot send a header: of the dashboard, and of event streams."""
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})

log = logging.getLogger(__name__)


class Role(StrEnum):
    """What a caller may do; each may do what those before it may."""

    VIEWER = "viewer"
    """Look at tasks."""
    OPERATOR = "operator"
    """Create, cancel and retry tasks, answer callbacks."""
    ADMIN = "admin"
    """Look at queues and steer them."""


_RANK: Final = {role: rank for rank, role in enumerate(Role)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls, and what they may do. A function given as *authenticate* returns one."""

    user_id: str | None = None
    tenant_code: str | None = None
    """The tenant in which the caller acts."""
    roles: frozenset[str] = frozenset()
    """`viewer`, `operator`, `admin`, and whatever else `Settings.cross_tenant_roles` names."""
    is_unrestricted: bool = False
    """Whether the caller acts in every tenant at once: only where nobody is asked who they are."""
    spans_tenants: bool = False
    """Whether the caller may choose another tenant, and do what concerns all of them; filled in from
    `Settings.cross_tenant_roles`."""
    source_ip: str | None = None
    """Filled in from the connection when None."""
    request_id: str | None = None
    """Filled in from the request when None."""

    def may(self, role: Role) -> bool:
        """Whether the caller has *role*, or one that includes it."""
        return any(_RANK[role] <= _RANK[Role(name)] for name in self.roles if name in _RANK)

    def check_role(self, role: Role) -> None:
        """Raises: NotPermitted unless the caller has *role*."""
        if not self.may(role):
            raise NotPermitted(f"this needs the role {role}")

    def check_tenant(self, tenant_code: str) -> None:
        """Raises: NotPermitted unless the caller acts in this tenant (rule 7). Call it before anything is read."""
        if not self.is_unrestricted and tenant_code != self.tenant_code:
            raise NotPermitted("the tenant is not the one in which the caller acts")

    def tenant_or(self, tenant_code: str | None) -> str:
        """The tenant to act in: *tenant_code* if the caller may, else its own. Raises: NotPermitted, InvalidInput."""
        if tenant_code is not None:
            self.check_tenant(tenant_code)
            return tenant_code
        if self.tenant_code is not None:
            return self.tenant_code
        if self.is_unrestricted:
            raise InvalidInput("tenantCode", "is missing", "name the tenant, or send the header x-tenant-code")
        raise NotPermitted("the caller has no tenant")

    @property
    def invoke_context(self) -> InvokeContext:
        """What is kept with the tasks that the caller creates."""
        return InvokeContext(
            user_id=self.user_id,
            source_ip=self.source_ip,
            request_id=self.request_id,
            tenant_code=self.tenant_code,
            roles=tuple(sorted(self.roles)),
        )


Authenticate: TypeAlias = Callable[[Request], Awaitable[Caller | None] | Caller | None]
"""Says who calls; None: nobody known. Plain or async."""


class Authenticator(Protocol):
    """Says who calls."""

    async def __call__(self, request: Request) -> Caller:
        """The caller. Raises: NotAuthenticated, NotPermitted."""


class Verify(Protocol):
    """Checks tokens."""

    async def claims(self, token: str) -> Mapping[str, Any]:
        """What the *token* says. Raises: NotAuthenticated."""


class NoAuthentication:
    """Everybody on this machine may do everything; nobody else anything."""

    async def __call__(self, request: Request) -> Caller:
        """See `Authenticator`. The name under which the server is called counts too: a page from elsewhere may have
        its own name lead to this machine (DNS rebinding)."""
        server = request.scope.get("server")
        if server is not None and not is_loopback(server[0]) and not server[0].startswith("/"):
            raise NotPermitted("authentication is off, so only this machine is served")
        if not is_loopback(request.url.hostname or ""):
            raise NotPermitted("authentication is off, so the server must be called by the name of this machine")
        check_origin(request)
        return Caller(roles=frozenset({Role.ADMIN}), is_unrestricted=True, spans_tenants=True)


class TokenAuthentication:
    """By a token in the header `Authorization`, or in a cookie."""

    def __init__(self, settings: Settings, verify: Verify) -> None:
        self._settings = settings
        self._verify = verify

    async def __call__(self, request: Request) -> Caller:
        """See `Authenticator`."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not token and COOKIE in request.cookies:
            check_origin(request)  # a browser sends a cookie along whoever asks it to
            scheme, token = "bearer", request.cookies[COOKIE]
        if scheme.lower() != "bearer" or not token.strip():
            raise NotAuthenticated("a token is needed: Authorization: Bearer <token>")
        return caller_of(await self._verify.claims(token.strip()), self._settings)


class GatewayAuthentication:
    """By the claims that an API Gateway's authorizer has checked; the Lambda entry hands the event over."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def __call__(self, request: Request) -> Caller:
        """See `Authenticator`. Only the event counts: a header could come from anybody."""
        context = _mapping(_mapping(request.scope.get("aws.event")).get("requestContext"))
        authorizer = _mapping(context.get("authorizer"))
        claims = _mapping(_mapping(authorizer.get("jwt")).get("claims")) or _mapping(authorizer.get("claims"))
        if not claims:
            raise NotAuthenticated("the gateway has checked no token")
        return caller_of(claims, self._settings)


class CustomAuthentication:
    """By a function of the application."""

    def __init__(self, authenticate: Authenticate) -> None:
        self._authenticate = authenticate

    async def __call__(self, request: Request) -> Caller:
        """See `Authenticator`."""
        found = self._authenticate(request)
        caller = await found if isawaitable(found) else found
        if caller is None:
            raise NotAuthenticated("the caller is not known")
        if not isinstance(caller, Caller):
            raise TypeError(f"authenticate returned {type(caller).__name__}, not a Caller or None")
        return caller


def caller_of(claims: Mapping[str, Any], settings: Settings) -> Caller:
    """The caller of whom checked *claims* speak. Raises: NotAuthenticated when they name no user."""
    user = claims.get(settings.auth_user_claim)
    if not isinstance(user, str) or not user:
        raise NotAuthenticated(f"the token has no claim {settings.auth_user_claim!r}")
    tenant = claims.get(settings.auth_tenant_claim)
    tenant = tenant if isinstance(tenant, str) and tenant else None
    return Caller(
        user_id=user, tenant_code=tenant, roles=frozenset(roles_of(claims.get(settings.auth_roles_claim), tenant))
    )


def roles_of(value: object, tenant: str | None) -> list[str]:
    """Names of roles in a claim: a list; a text with commas or spaces; or JSON, also of `{"tenant", "role"}` objects,
    of which those of *tenant* or without tenant count."""
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            try:
                return roles_of(json.loads(text), tenant)
            except ValueError:
                text = text.strip("[]")  # as API Gateway renders a list: [a b]
        return [name for name in re.split(r"[\s,]+", text) if name]
    if not isinstance(value, list):
        return []
    names: list[str] = []
    for item in value:
        if isinstance(item, str):
            names.append(item)
        elif isinstance(item, dict) and isinstance(item.get("role"), str) and item.get("tenant") in (None, "", tenant):
            names.append(item["role"])
    return names


def check_origin(request: Request) -> None:
    """Refuse what another site has a browser send. Raises: NotPermitted."""
    if request.method in SAFE:
        return
    origin = request.headers.get("origin")
    if origin is None:
        if request.headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
            return
    elif urlsplit(origin).netloc == request.headers.get("host"):
        return
    raise NotPermitted("the request comes from another site")


def is_loopback(host: str) -> bool:
    """Whether *host* (name or address) is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
