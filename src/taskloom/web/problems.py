"""Errors as HTTP answers: problem details (RFC 9457), from one table."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from taskloom import errors
from taskloom.errors import InvalidInput, TaskloomError

MEDIA_TYPE: Final = "application/problem+json"
RETRY_SECONDS: Final = 1

STATUSES: Final[tuple[tuple[type[TaskloomError], int], ...]] = (
    (errors.InvalidInput, 400),
    (errors.NotAuthenticated, 401),
    (errors.NotPermitted, 403),
    (errors.TaskNotFound, 404),
    (errors.ExecutionNotFound, 404),
    (errors.TaskTokenUsed, 409),
    (errors.TaskTokenNotFound, 404),
    (errors.TaskEnded, 409),
    (errors.TaskOpen, 409),
    (errors.IdempotencyConflict, 422),
    (errors.StoreBusy, 503),
    (errors.StoreFull, 503),
    (errors.TaskloomError, 500),
)
"""Error class → status; the first that matches counts."""

TITLES: Final[Mapping[int, str]] = {
    400: "Something in the request is not acceptable",
    401: "Nobody knows who calls",
    403: "The caller may not do this",
    404: "There is no such thing",
    405: "This method is not for this address",
    409: "The task does not stand so that this could be done",
    413: "The body is too large",
    415: "The body is of a wrong type",
    422: "The idempotency key was used with other content",
    500: "The server failed",
    503: "The server cannot do it now; try again",
}
REFUSALS: Final = frozenset({401, 403})

log = logging.getLogger(__name__)


class TooLarge(HTTPException):
    """The body is longer than it may be. An HTTPException, since FastAPI lets no other through while it reads one."""

    def __init__(self, limit: int, what: str = "the body") -> None:
        super().__init__(413, f"{what} has more than {limit} bytes")


class WrongMediaType(HTTPException):
    """The body is no JSON."""

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__(415, f"send {' or '.join(allowed)}")


class TooManyStreams(HTTPException):
    """As many event streams are open as one process serves."""

    def __init__(self) -> None:
        super().__init__(503, "too many event streams are open", {"Retry-After": "5"})


def status_of(error: TaskloomError) -> int:
    """The status for *error*."""
    return next(status for kind, status in STATUSES if isinstance(error, kind))


def problem(
    status: int,
    detail: str,
    *,
    kind: str | None = None,
    fields: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Response:
    """The answer that says what is wrong; *fields*: which values, each as `field`, `problem`, `remedy`."""
    body: dict[str, Any] = {
        "type": f"urn:taskloom:problem:{kind}" if kind else "about:blank",
        "title": TITLES.get(status, "The request was refused"),
        "status": status,
        "detail": detail,
    }
    if fields:
        body["errors"] = list(fields)
    body.update(more)
    answer = {"Cache-Control": "no-store", **(headers or {})}
    if status == 401:
        answer["WWW-Authenticate"] = "Bearer"
    if status == 503:
        answer.setdefault("Retry-After", str(RETRY_SECONDS))
    return JSONResponse(body, status, answer, MEDIA_TYPE)


def of_error(request: Request, error: Exception) -> Response:
    """The answer to an error of ours."""
    assert isinstance(error, TaskloomError)  # noqa: S101 - registered for these alone
    status = status_of(error)
    if status in REFUSALS:
        log_refusal(request, status, str(error))
    elif status >= 500:
        log.error("a request failed", extra={**_about(request), "error": str(error)}, exc_info=error)
    detail = "the storage failed; the log says more" if status == 500 else str(error)
    fields = (
        [_field(_shown(request, error.field), error.problem, error.remedy)] if isinstance(error, InvalidInput) else []
    )
    more: dict[str, Any] = {}
    if isinstance(error, (errors.TaskEnded, errors.TaskOpen)):
        more = {"taskStatus": error.status}
    elif isinstance(error, errors.TaskExpired):
        more = {"expiredAt": error.at}
    elif isinstance(error, errors.IdempotencyConflict):
        more = {"key": error.key, "first": error.first, "second": error.second}
    return problem(status, detail, kind=_kind(error), fields=fields, **more)


def _of_validation(request: Request, error: Exception) -> Response:  # noqa: ARG001 - as FastAPI calls it
    assert isinstance(error, RequestValidationError)  # noqa: S101
    fields = [_field(_path(item["loc"]), item["msg"], _REMEDIES.get(item["type"], "")) for item in error.errors()]
    detail = "; ".join(f"{field['field']}: {field['problem']}" for field in fields)
    return problem(400, detail, kind="invalid-input", fields=fields)


def _of_http(request: Request, error: Exception) -> Response:  # noqa: ARG001
    assert isinstance(error, HTTPException)  # noqa: S101
    return problem(error.status_code, error.detail, headers=error.headers)


def _of_anything(request: Request, error: Exception) -> Response:
    log.error("a request failed", extra=_about(request), exc_info=error)
    return problem(500, "the server failed; its log says more")


def install(app: FastAPI) -> None:
    """Have *app* answer errors so."""
    app.add_exception_handler(TaskloomError, of_error)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(Exception, _of_anything)


def log_refusal(request: Request, status: int, reason: str) -> None:
    """Log that a request was refused, and why; the caller is not told."""
    log.warning("a request was refused", extra={**_about(request), "status": status, "reason": reason})


def _about(request: Request) -> dict[str, Any]:
    caller = getattr(request.state, "caller", None)
    return {
        "method": request.method,
        "path": request.url.path,
        "ip": request.client.host if request.client else None,
        "user": caller and caller.user_id,
        "tenant": caller and caller.tenant_code,
        "request_id": getattr(request.state, "request_id", None),
    }


def _kind(error: TaskloomError) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__).lower()


_IN_BODIES: Final = {"notify_url": "notifyUrl"}
"""Names that the service finds fault with, as they stand in JSON; faults of the others are found before."""


def _shown(request: Request, field: str) -> str:
    is_json = request.headers.get("content-type", "").startswith("application/json")
    return _IN_BODIES.get(field, field) if is_json else field


_REMEDIES: Final = {"extra_forbidden": "leave it out", "missing": "give it", "json_invalid": "send JSON"}


def _field(field: str, problem: str, remedy: str) -> dict[str, str]:
    return {"field": field, "problem": problem, **({"remedy": remedy} if remedy else {})}


def _path(location: Sequence[str | int]) -> str:
    """`input.items[3]`, without the part of the request in which it lies."""
    path = ""
    for part in location[1:]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or str(location[0])
