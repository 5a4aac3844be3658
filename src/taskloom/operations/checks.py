"""What callers may give: each function raises InvalidInput or InvalidType that names the field."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from typing import Final

from taskloom import model
from taskloom.errors import InvalidInput, InvalidType
from taskloom.model import InvokeContext, TaskStatus, TenantCode
from taskloom.values import check_text

MAX_NAME: Final = 256
MAX_IDEMPOTENCY_KEY: Final = 255


def tenant(tenant_code: str, context: InvokeContext | None, path: str) -> TenantCode:
    """*tenant_code*, which must be the caller's own if *context* knows it (rule 7)."""
    tenant = model.tenant_code(tenant_code, f"{path}tenant_code")
    if context is not None and not isinstance(context, InvokeContext):
        raise InvalidType("invoke_context", f"{context!r} is no InvokeContext", "give taskloom.InvokeContext(...)")
    if context is not None and context.tenant_code is not None and context.tenant_code != tenant:
        raise InvalidInput(  # rule 7
            f"{path}tenant_code", f"{tenant!r} is not the tenant of the caller", "create tasks in the caller's tenant"
        )
    return tenant


def name_or(name: str | None, default: str, path: str) -> str:
    """*name*, or *default* for None."""
    if name is None:
        return default
    if not isinstance(name, str):
        raise InvalidType(f"{path}name", f"{name!r} is no string", "give a short text, or None")
    if not 0 < len(name) <= MAX_NAME:
        raise InvalidInput(f"{path}name", f"has {len(name)} characters", f"give 1 to {MAX_NAME}")
    check_text(name, f"{path}name")
    return name


def short(text: str | None, field: str) -> None:
    """Refuse a *text* that is none, or longer than a name."""
    if text is None:
        return
    if not isinstance(text, str):
        raise InvalidType(field, f"{text!r} is no string", "give a short text, or None")
    if len(text) > MAX_NAME:
        raise InvalidInput(field, f"has {len(text)} characters", f"give at most {MAX_NAME}")
    check_text(text, field)


def idempotency_key(key: str, path: str) -> str:
    """*key*, if it is one."""
    field = f"{path}idempotency_key"
    if not isinstance(key, str):
        raise InvalidType(field, f"{key!r} is no string", "give a text, or None")
    if not 0 < len(key) <= MAX_IDEMPOTENCY_KEY:
        raise InvalidInput(field, f"has {len(key)} characters", f"give 1 to {MAX_IDEMPOTENCY_KEY}")
    check_text(key, field)
    return key


def status_of(status: TaskStatus | str) -> TaskStatus:
    """*status* as one."""
    return TaskStatus(one_of(str(status), "status", tuple(TaskStatus)))


def one_of(value: str, field: str, allowed: Sequence[str]) -> str:
    """*value*, if it is one of *allowed*."""
    if value not in allowed:
        raise InvalidInput(field, f"{value!r} is not known", f"give one of {', '.join(map(str, allowed))}")
    return value


def elements(input: object) -> AsyncIterator[object]:
    """The inputs of a fan-out one by one, from an Iterable or AsyncIterable. What has elements of another kind, such as
    the characters of a string, is refused."""
    if isinstance(input, (str, bytes, bytearray, memoryview, Mapping)) or not isinstance(
        input, (Iterable, AsyncIterable)
    ):
        problem = f"{type(input).__name__} is no list of inputs"
        raise InvalidType("input", problem, "give an iterable with one JSON value per sub-task")
    return _elements(input)


async def _elements(input: Iterable[object] | AsyncIterable[object]) -> AsyncIterator[object]:
    if isinstance(input, AsyncIterable):
        async for value in input:
            yield value
    else:
        for value in input:
            yield value
