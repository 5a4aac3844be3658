"""Creating tasks."""

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.responses import Response

from taskloom.errors import InvalidInput
from taskloom.model import DEFAULT_PRIORITY, HIGHEST_PRIORITY
from taskloom.operations.checks import MAX_IDEMPOTENCY_KEY, MAX_NAME
from taskloom.policy import MAX_SECONDS, MAX_TTL, Retry
from taskloom.web.auth import Caller, Role
from taskloom.web.deps import CALLER, WEB, GuardedRoute, Web, needs
from taskloom.web.documentation import answers
from taskloom.web.limits import JSON_LINES
from taskloom.web.models import NewFanOutBody, NewTaskBody, RetryPolicy, TaskShown
from taskloom.web.problems import TooLarge, WrongMediaType
from taskloom.web.rendering import task_answer
from taskloom.webhooks import MAX_URL

router = APIRouter(prefix="/tasks", tags=["tasks"], route_class=GuardedRoute)

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=MAX_IDEMPOTENCY_KEY + 2,
        description="The same key and content creates one task, however often it is sent.",
    ),
]
_CREATED: Final = answers(409, 415, 422, s202=TaskShown)
_LOCATION: Final = {
    "Location": {"description": "The address of the task.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds after which to look.", "schema": {"type": "integer"}},
    "ETag": {"description": "For If-None-Match.", "schema": {"type": "string"}},
}
_CREATED[202]["headers"] = _LOCATION


@router.post("", status_code=202, openapi_extra=needs(Role.OPERATOR), responses=_CREATED, response_class=Response)
async def create_task(
    request: Request,
    body: NewTaskBody,
    idempotency_key: IdempotencyKey = None,
    web: Web = WEB,
    caller: Caller = CALLER,
) -> Response:
    """Create a single task."""
    task = await web.module.task_service.create_task(
        tenant_code=caller.tenant_or(body.tenant_code),
        task_type=body.task_type,
        input=body.input,
        name=body.name,
        retry=_retry(body.retry),
        deadline=body.deadline,
        ttl=body.ttl,
        idempotency_key=_unquoted(idempotency_key),
        priority=body.priority,
        notify_url=body.notify_url,
        invoke_context=caller.invoke_context,
    )
    return task_answer(request, task, 202)


_FAN_OUT_BODY: Final = {
    "required": True,
    "content": {
        "application/json": {"schema": NewFanOutBody.model_json_schema(ref_template="#/components/schemas/{model}")},
        JSON_LINES: {
            "schema": {
                "type": "string",
                "description": "One JSON value per line: the inputs of the sub-tasks. What else stands in a body is "
                "given as parameters. It is read while it comes, so it may be long.",
            },
            "example": '{"key": "value1"}\n{"key": "value2"}\n',
        },
    },
}
_FAN_OUT_BODY["content"]["application/json"]["schema"].pop("$defs", None)  # type: ignore[index]


@router.post(
    "/step-function-task",
    status_code=202,
    openapi_extra=needs(Role.OPERATOR, requestBody=_FAN_OUT_BODY),
    responses=_CREATED,
    response_class=Response,
)
async def create_step_function_task(
    request: Request,
    idempotency_key: IdempotencyKey = None,
    tenant_code: Annotated[str | None, Query(description="Of JSON lines. Default: the caller's tenant.")] = None,
    task_type: Annotated[str | None, Query(description="Of JSON lines, there required.")] = None,
    name: Annotated[str | None, Query(max_length=MAX_NAME, description="Of JSON lines.")] = None,
    deadline: Annotated[float | None, Query(ge=0.001, le=MAX_SECONDS, description="Of JSON lines.")] = None,
    priority: Annotated[int, Query(ge=0, le=HIGHEST_PRIORITY, description="Of JSON lines.")] = DEFAULT_PRIORITY,
    ttl: Annotated[float | None, Query(ge=1, le=MAX_TTL, description="Of JSON lines.")] = None,
    notify_url: Annotated[str | None, Query(max_length=MAX_URL, description="Of JSON lines.")] = None,
    retry: Annotated[str | None, Query(max_length=500, description="Of JSON lines: as in a body, as JSON.")] = None,
    web: Web = WEB,
    caller: Caller = CALLER,
) -> Response:
    """Create a step function task: one sub-task per element of its input.

    The input is a JSON array in a JSON body, or one value per line (`application/x-ndjson`).
    """
    key = _unquoted(idempotency_key)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == JSON_LINES:
        if task_type is None:
            raise InvalidInput("task_type", "is missing", "give it as a parameter")
        options: dict[str, Any] = {
            "tenant_code": caller.tenant_or(tenant_code),
            "task_type": task_type,
            "input": _lines(request, web.module.settings.max_body_bytes),
            "name": name,
            "deadline": deadline,
            "ttl": ttl,
            "priority": priority,
            "notify_url": notify_url,
            "retry": None if retry is None else _retry(_policy(retry)),
        }
    elif media_type == "application/json":
        if request.query_params:
            raise InvalidInput(next(iter(request.query_params)), "is a parameter of JSON lines", "put it into the body")
        body = await _body(request, NewFanOutBody)
        options = {
            "tenant_code": caller.tenant_or(body.tenant_code),
            "task_type": body.task_type,
            "input": body.input,
            "name": body.name,
            "retry": _retry(body.retry),
            "deadline": body.deadline,
            "ttl": body.ttl,
            "priority": body.priority,
            "notify_url": body.notify_url,
        }
    else:
        raise WrongMediaType(["application/json", JSON_LINES])
    task = await web.module.task_service.create_step_function_task(
        **options, idempotency_key=key, invoke_context=caller.invoke_context
    )
    return task_answer(request, task, 202)


async def _lines(request: Request, longest: int) -> AsyncIterator[Any]:
    """The values of the lines of the body, as they come; no more than one line is kept."""
    rest, number = bytearray(), 0
    async for block in request.stream():
        rest += block
        *lines, last = rest.split(b"\n")
        rest = last
        if len(rest) > longest:
            raise TooLarge(longest, f"line {number + len(lines) + 1}")
        for line in lines:
            number += 1
            if len(line) > longest:
                raise TooLarge(longest, f"line {number}")
            if line.strip():
                yield _value(line, number)
    if rest.strip():
        yield _value(rest, number + 1)


def _value(line: bytes | bytearray, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"line {number}", f"is no JSON: {error}", "send one JSON value per line") from None


async def _body(request: Request, model: type[NewFanOutBody]) -> NewFanOutBody:
    """The JSON body; FastAPI would not read it, since the route has two kinds."""
    try:
        value = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise InvalidInput("body", f"is no JSON: {error}", "send JSON") from None
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _refused(error, "body") from None


def _policy(text: str) -> RetryPolicy:
    try:
        return RetryPolicy.model_validate_json(text)
    except ValidationError as error:
        raise _refused(error, "query", "retry") from None


def _refused(error: ValidationError, *where: str) -> RequestValidationError:
    return RequestValidationError([{**item, "loc": (*where, *item["loc"])} for item in error.errors()])


def _retry(policy: RetryPolicy | None) -> Retry | None:
    return None if policy is None else Retry(**policy.model_dump())


def _unquoted(key: str | None) -> str | None:
    """The key itself; the draft of the header writes it as a quoted string. Bytes of UTF-8 are read as such."""
    if key is not None and not key.isascii():
        with suppress(ValueError):
            key = key.encode("latin-1").decode()
    if key is not None and len(key) > 2 and key[0] == key[-1] == '"':
        return key[1:-1]
    return key
