"""What routes share: the services of the application, the caller, and the guard in front of every route."""

import re
import secrets
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

from fastapi import Depends, Path, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.responses import Response

from taskloom import model
from taskloom.errors import InvalidInput, NotPermitted
from taskloom.model import TaskKey
from taskloom.module import TaskModule
from taskloom.operations.finding import Finding
from taskloom.ports import Backend
from taskloom.web.auth import Authenticator, Caller, Role
from taskloom.web.problems import WrongMediaType
from taskloom.web.signing import Signer

TENANT_HEADER: Final = "x-tenant-code"
REQUEST_HEADER: Final = "x-request-id"
ROLE: Final = "x-taskloom-role"
"""In the OpenAPI document: the role that an operation needs."""
_REQUEST_ID: Final = re.compile(r"[\w.:/=+-]{1,128}", re.ASCII)


_PK: Final = "(SFN_)?TASK#[A-Za-z0-9_-]{1,64}(#[A-Za-z0-9-]{1,64}#[0-9]{1,5})?"
_SK: Final = "[A-Za-z0-9._-]{1,128}#[A-Za-z0-9-]{1,64}(#[0-9]{7})?"
# The patterns are for readers of the document: what is wrong with a key, the key itself says better.
PartitionKey = Annotated[str, Path(examples=["TASK#mbc"], json_schema_extra={"pattern": f"^{_PK}$"})]
SortKey = Annotated[str, Path(examples=["cat#01JTZ3Q8XW6V5T4S3R2P1N0M9K"], json_schema_extra={"pattern": f"^{_SK}$"})]
Code = Annotated[
    str, Path(examples=["01JTZ3Q8XW6V5T4S3R2P1N0M9K"], json_schema_extra={"pattern": "^[A-Za-z0-9-]{1,64}$"})
]
Tenant = Annotated[str, Path(examples=["mbc"], json_schema_extra={"pattern": "^[A-Za-z0-9_-]{1,64}$"})]


@dataclass(frozen=True, slots=True, kw_only=True)
class Web:
    """The application as its routes see it: `request.app.state.web`."""

    module: TaskModule
    backend: Backend
    finding: Finding
    authenticate: Authenticator
    signer: Signer
    cross_tenant_roles: frozenset[str]
    hub: Any
    """See `events.Hub`."""


def web_of(request: Request) -> Web:
    """The services of the application."""
    web: Web = request.app.state.web
    return web


def request_id_of(request: Request) -> str:
    """The id that the request brings along, that of the gateway, or a new one."""
    event = request.scope.get("aws.event")
    context = event.get("requestContext") if isinstance(event, dict) else None
    given = request.headers.get(REQUEST_HEADER) or (context.get("requestId") if isinstance(context, dict) else None)
    return given if isinstance(given, str) and _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


async def identify(request: Request) -> Caller:
    """Who calls, in the tenant that the request chooses. Raises: NotAuthenticated, NotPermitted, InvalidInput."""
    known = getattr(request.state, "caller", None)
    if known is not None:
        return known  # type: ignore[no-any-return]
    web = web_of(request)
    request.state.request_id = request_id_of(request)
    caller = await web.authenticate(request)
    caller = replace(
        caller,
        spans_tenants=caller.is_unrestricted or bool(caller.roles & web.cross_tenant_roles),
        source_ip=caller.source_ip or _source_ip(request),
        request_id=caller.request_id or request.state.request_id,
    )
    request.state.caller = caller
    wanted = request.headers.get(TENANT_HEADER)
    if wanted is not None and wanted != caller.tenant_code:
        if not caller.spans_tenants:
            raise NotPermitted("the tenant is not the one in which the caller acts")
        caller = replace(caller, tenant_code=model.tenant_code(wanted, TENANT_HEADER), is_unrestricted=False)
        request.state.caller = caller
    return caller


class GuardedRoute(APIRoute):
    """A route that asks who calls, and whether they may, before anything of the request is read.

    The role stands in `openapi_extra`; a route without one cannot be made.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See APIRoute."""
        handler = super().get_route_handler()
        role = Role((self.openapi_extra or {})[ROLE])
        known = frozenset(_parameters(self.dependant))
        takes_json = self.body_field is not None

        async def guarded(request: Request) -> Response:
            caller = await identify(request)
            caller.check_role(role)
            for name in request.query_params:
                if name not in known:
                    raise InvalidInput(name[:100], "is no parameter of this address", "leave it out")
            if takes_json:
                _check_json(request)
            response = await handler(request)
            response.headers[REQUEST_HEADER] = request.state.request_id
            response.headers.setdefault("Cache-Control", "no-store")
            return response

        return guarded


def needs(role: Role, **more: Any) -> dict[str, Any]:
    """The `openapi_extra` of a route that needs *role*."""
    return {ROLE: str(role), **more}


def located_by_key(request: Request, pk: PartitionKey, sk: SortKey) -> TaskKey:
    """The key in the path, of the caller's tenant. Raises: InvalidInput, NotPermitted."""
    key = TaskKey(pk, sk)
    request.state.caller.check_tenant(key.tenant_code)
    return key


async def located_by_code(request: Request, code: Code) -> TaskKey:
    """The key of the caller's task that has this code. Raises: TaskNotFound, InvalidInput."""
    caller: Caller = request.state.caller
    task = await web_of(request).module.task_service.find_task(caller.tenant_or(None), code)
    return task.key


def the_caller(request: Request) -> Caller:
    """Who calls; the guard has asked."""
    caller: Caller = request.state.caller
    return caller


CALLER: Final = Depends(the_caller)
WEB: Final = Depends(web_of)


def _parameters(dependant: Dependant) -> Iterator[str]:
    """The names of all query parameters."""
    for field in dependant.query_params:
        yield field.alias
    for part in dependant.dependencies:
        yield from _parameters(part)


def _check_json(request: Request) -> None:
    headers = request.headers
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if has_body and media_type != "application/json":
        raise WrongMediaType(["application/json"])


def _source_ip(request: Request) -> str | None:
    event = request.scope.get("aws.event")
    if isinstance(event, dict):
        context = event.get("requestContext") or {}
        return (context.get("http") or context.get("identity") or {}).get("sourceIp")
    return request.client.host if request.client else None
