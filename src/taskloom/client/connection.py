"""Requests to the REST interface: what goes out, and which error comes back."""

from collections.abc import AsyncIterable, Callable, Mapping
from typing import Any, Final, NoReturn, TypeAlias
from urllib.parse import quote

from taskloom.errors import (
    IdempotencyConflict,
    InvalidInput,
    InvalidType,
    MissingExtra,
    NotAuthenticated,
    NotPermitted,
    ServerUnreachable,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    TaskEnded,
    TaskExpired,
    TaskloomError,
    TaskNotFound,
    TaskOpen,
    TaskTokenNotFound,
    TaskTokenUsed,
)
from taskloom.model import TaskKey

try:
    import httpx
except ModuleNotFoundError as error:
    raise MissingExtra("the client", "client") from error

Token: TypeAlias = "str | Callable[[], str] | None"  # noqa: S105 - a type
"""A token, or a function that returns the one to be used now."""

TENANT_HEADER: Final = b"x-tenant-code"
PROBLEM: Final = "urn:taskloom:problem:"
LONGEST_FAN_OUT: Final = 3600.0
"""Seconds that the answer to a streamed fan-out may take."""


class Connection:
    """One server, and the token shown to it."""

    def __init__(
        self, base_url: str, token: Token, timeout: float, transport: "httpx.AsyncBaseTransport | None"
    ) -> None:
        if not isinstance(base_url, str) or not base_url.startswith(("http://", "https://")):
            raise InvalidInput("base_url", f"{base_url!r} is no address", "give http://… or https://…")
        self._token = token
        self._base_url = base_url.rstrip("/")
        self._http = httpx.AsyncClient(timeout=timeout, transport=transport, follow_redirects=False)

    async def request(
        self,
        method: str,
        path: str,
        *,
        tenant: str | None = None,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        lines: AsyncIterable[bytes] | None = None,
        headers: Mapping[str, bytes] | None = None,
    ) -> httpx.Response:
        """The answer, below 400. *body*: JSON; *lines*: JSON lines; *tenant*: the one that it is about.

        Raises: what `TaskService` would; NotAuthenticated, NotPermitted, ServerUnreachable.
        """
        sent = {name.encode(): value for name, value in (headers or {}).items()}
        token = self._token() if callable(self._token) else self._token
        if token is not None:
            sent[b"Authorization"] = f"Bearer {token}".encode()
        if tenant is not None:
            sent[TENANT_HEADER] = tenant.encode()
        options: dict[str, Any] = {}
        if lines is not None:
            sent[b"Content-Type"] = b"application/x-ndjson"
            options = {"content": lines, "timeout": httpx.Timeout(LONGEST_FAN_OUT, connect=10.0)}
        elif body is not None:
            options = {"json": body}
        given = {name: value for name, value in (query or {}).items() if value is not None}
        try:
            answer = await self._http.request(method, self._base_url + path, params=given, headers=sent, **options)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise ServerUnreachable(
                f"{self._base_url} cannot be reached: {str(error) or type(error).__name__}"
            ) from error
        if answer.status_code >= 300 and answer.status_code != 304:
            _raise(answer)
        return answer

    async def json(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of the answer; as `request`."""
        answer = await self.request(method, path, **options)
        try:
            return answer.json()
        except ValueError as error:
            raise ServerUnreachable(f"{self._base_url} did not answer with JSON; is it a Taskloom server?") from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def path_of(key: TaskKey) -> str:
    """The path of the task *key*. Raises: InvalidInput, InvalidType."""
    if not isinstance(key, TaskKey):
        raise InvalidType("key", f"{key!r} is no TaskKey", "give the key of a task entity, or TaskKey(pk, sk)")
    key.parts  # noqa: B018 - raises when the shape is wrong
    return f"/tasks/{quote(key.pk, safe='')}/{quote(key.sk, safe='')}"


def _raise(answer: "httpx.Response") -> NoReturn:
    try:
        problem = answer.json()
        detail = str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        raise ServerUnreachable(
            f"{answer.url} answered {answer.status_code} without a problem document; is it a Taskloom server?"
        ) from None
    raise error_of(answer.status_code, problem, detail)


def error_of(status: int, problem: Mapping[str, Any], detail: str) -> TaskloomError:
    """The error that the server's *problem* speaks of."""
    kind = str(problem.get("type", "")).removeprefix(PROBLEM)
    if kind in ("invalid-input", "invalid-type"):
        fields = problem.get("errors") or [{"field": "request", "problem": detail}]
        others = [f"{item['field']}: {item['problem']}" for item in fields[1:]]
        first = fields[0]
        error = InvalidType if kind == "invalid-type" else InvalidInput
        return error(first["field"], "; ".join([first["problem"], *others]), first.get("remedy", ""))
    match kind:
        case "task-not-found":
            return TaskNotFound(detail.removeprefix("there is no task "))
        case "task-expired":
            return TaskExpired(detail.partition(" expired at ")[0], str(problem.get("expiredAt", "")))
        case "task-ended":
            return TaskEnded(detail.partition(" has ended")[0], problem.get("taskStatus", ""))
        case "task-open":
            return TaskOpen(detail.partition(" has not ended")[0], problem.get("taskStatus", ""))
        case "idempotency-conflict":
            return IdempotencyConflict(*(str(problem.get(name, "")) for name in ("key", "first", "second")))
    if kind in _PLAIN:
        return _PLAIN[kind](detail)
    if status == 413:
        return InvalidInput("input", detail, "send less")
    return ServerUnreachable(f"the server answered {status}: {detail}")


_PLAIN: Final[Mapping[str, type[TaskloomError]]] = {
    "task-token-not-found": TaskTokenNotFound,
    "task-token-used": TaskTokenUsed,
    "not-authenticated": NotAuthenticated,
    "not-permitted": NotPermitted,
    "store-busy": StoreBusy,
    "store-full": StoreFull,
    "store-corrupt": StoreCorrupt,
    "store-error": StoreError,
}
