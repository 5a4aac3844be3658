"""The client: the methods of `TaskService`, carried out by a server."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final, Self
from urllib.parse import quote

from taskloom import payloads
from taskloom.client.connection import Connection, Token, path_of
from taskloom.client.fan_outs import RemoteFanOuts
from taskloom.client.parsing import line_of, page_of, task_of, understood
from taskloom.client.queues import RemoteQueues
from taskloom.client.webhooks import RemoteWebhooks
from taskloom.clock import SystemClock
from taskloom.errors import InvalidInput, InvalidType, TaskloomError, TaskTokenNotFound
from taskloom.model import DEFAULT_PRIORITY, InvokeContext, LogLine, Page, TaskEntity, TaskKey, TaskStatus
from taskloom.operations.checks import elements
from taskloom.operations.creation import NewTask
from taskloom.operations.explaining import Explanation
from taskloom.operations.items import of_item
from taskloom.operations.paging import all_pages
from taskloom.policy import MAX_SECONDS, Retry, number, retention, retry_numbers
from taskloom.service import Order, TopKind
from taskloom.values import encode

LOOK_SOONEST: Final = timedelta(milliseconds=100)
LOOK_LATEST: Final = timedelta(seconds=1)
"""How often `wait` asks. It is cheap: an unchanged task is not sent again."""
PATIENCE: Final = timedelta(seconds=30)
"""How long `wait` and `follow_logs` bear a server that does not answer; it may be starting again."""
AT_ONCE: Final = 8
"""Requests of one `create_tasks` that are under way."""
BLOCK: Final = 65536


class TaskloomClient:
    """The tasks of a server, by the methods of `TaskService`. For one event loop; close it at the end.

    *base_url*: of the server, as `https://tasks.example.com`; *token*: sent as a bearer token, or a function that
    returns the one to send; *timeout*: seconds for one answer. Methods raise what those of `TaskService` raise, and
    NotAuthenticated, NotPermitted, ServerUnreachable. Who calls the server knows from the token, so *invoke_context*
    and *by* are not sent.
    """

    def __init__(self, base_url: str, token: Token = None, *, timeout: float = 30.0, transport: Any = None) -> None:
        number(timeout, "timeout", low=0.001, high=MAX_SECONDS)
        self._connection = Connection(base_url, token, timeout, transport)
        self._clock = SystemClock()
        self.queues = RemoteQueues(self._connection)
        """For operators: depths, workers, pauses, purging, dead letters."""
        self.webhooks = RemoteWebhooks(self._connection)
        """For operators: who is told of status changes, what could not be delivered, and delivering it again."""
        self.fan_outs = RemoteFanOuts(self._connection)
        """Fan-outs as a whole: a map of their sub-tasks, and failures by what they say."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._connection.aclose()

    async def create_task(
        self,
        *,
        tenant_code: str,
        task_type: str,
        input: object = None,
        name: str | None = None,
        retry: Retry | None = None,
        deadline: float | None = None,
        ttl: float | timedelta | None = None,
        idempotency_key: str | None = None,
        priority: int = DEFAULT_PRIORITY,
        notify_url: str | None = None,
        invoke_context: InvokeContext | None = None,  # noqa: ARG002 - the server knows
    ) -> TaskEntity[Any]:
        """See `TaskService.create_task`."""
        encode(input, "input")  # says what is wrong with it
        body = _options(tenant_code, task_type, name, retry, deadline, ttl, priority, notify_url) | {"input": input}
        headers = _key_header(idempotency_key)
        return task_of(await self._connection.json("POST", "/tasks", tenant=tenant_code, body=body, headers=headers))

    async def create_tasks(
        self, tasks: Iterable[NewTask], *, invoke_context: InvokeContext | None = None
    ) -> Sequence[TaskEntity[Any]]:
        """Many new single tasks, in the order given, by a request each.

        Their inputs are checked before the first one is sent; should the server refuse one, others may exist.
        """
        given = list(tasks)
        for index, new in enumerate(given):
            if not isinstance(new, NewTask):
                raise InvalidType(f"tasks[{index}]", f"{new!r} is no NewTask", "give taskloom.NewTask(...)")
            encode(new.input, f"tasks[{index}].input")
        slots = asyncio.Semaphore(AT_ONCE)

        async def create(index: int, new: NewTask) -> TaskEntity[Any]:
            async with slots, _located(f"tasks[{index}]."):
                return await self.create_task(
                    tenant_code=new.tenant_code,
                    task_type=new.task_type,
                    input=new.input,
                    name=new.name,
                    retry=new.retry,
                    deadline=new.deadline,
                    ttl=new.ttl,
                    idempotency_key=new.idempotency_key,
                    priority=new.priority,
                    notify_url=new.notify_url,
                    invoke_context=invoke_context,
                )

        made = await asyncio.gather(*map(create, range(len(given)), given), return_exceptions=True)
        for item in made:
            if isinstance(item, BaseException):
                raise item
        return [item for item in made if not isinstance(item, BaseException)]

    async def create_step_function_task(
        self,
        *,
        tenant_code: str,
        task_type: str,
        input: Iterable[object] | AsyncIterable[object],
        name: str | None = None,
        retry: Retry | None = None,
        deadline: float | None = None,
        ttl: float | timedelta | None = None,
        idempotency_key: str | None = None,
        priority: int = DEFAULT_PRIORITY,
        notify_url: str | None = None,
        invoke_context: InvokeContext | None = None,  # noqa: ARG002 - the server knows
    ) -> TaskEntity[Any]:
        """See `TaskService.create_step_function_task`. *input* is sent while it is read, and never held in memory."""
        values = elements(input)
        options = _options(tenant_code, task_type, name, retry, deadline, ttl, priority, notify_url)
        query = {
            "tenant_code": tenant_code,
            "task_type": task_type,
            "name": name,
            "deadline": deadline,
            "ttl": options.get("ttl"),
            "priority": priority,
            "notify_url": notify_url,
            "retry": None if retry is None else encode(options["retry"], "retry"),
        }
        refused: list[BaseException] = []
        try:
            body = await self._connection.json(
                "POST",
                "/tasks/step-function-task",
                tenant=tenant_code,
                query=query,
                lines=_lines(values, refused),
                headers=_key_header(idempotency_key),
            )
        except TaskloomError:
            if refused:  # the request was broken off, because the input was
                raise refused[0] from None
            raise
        return task_of(body)

    async def get_task(self, key: TaskKey) -> TaskEntity[Any]:
        """See `TaskService.get_task`."""
        return task_of(await self._of_task("GET", key, ""))

    async def find_task(self, tenant_code: str, code: str) -> TaskEntity[Any]:
        """See `TaskService.find_task`."""
        path = path_of(TaskKey.single(tenant_code, "any", code)).rpartition("%23")[2]
        return task_of(await self._connection.json("GET", f"/tasks/by-code/{path}", tenant=tenant_code))

    async def list_tasks(
        self,
        tenant_code: str,
        *,
        type: TopKind = "TASK",
        status: TaskStatus | str | None = None,
        task_type: str | None = None,
        limit: int = 20,
        order: Order = "desc",
        cursor: str | None = None,
    ) -> Page[TaskEntity[Any]]:
        """See `TaskService.list_tasks`."""
        query = {
            "type": type,
            "status": status,
            "task_type": task_type,
            "limit": limit,
            "order": order,
            "cursor": cursor,
        }
        return page_of(
            await self._connection.json("GET", f"/tasks/{tenant_code}", tenant=tenant_code, query=query), task_of
        )

    def iter_tasks(
        self,
        tenant_code: str,
        *,
        type: TopKind = "TASK",
        status: TaskStatus | str | None = None,
        task_type: str | None = None,
        order: Order = "desc",
    ) -> AsyncIterator[TaskEntity[Any]]:
        """See `TaskService.iter_tasks`."""

        def page(cursor: str | None) -> Coroutine[Any, Any, Page[TaskEntity[Any]]]:
            return self.list_tasks(
                tenant_code, type=type, status=status, task_type=task_type, limit=100, order=order, cursor=cursor
            )

        return all_pages(page)

    async def list_sub_tasks(
        self, key: TaskKey, *, status: TaskStatus | str | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page[TaskEntity[Any]]:
        """See `TaskService.list_sub_tasks`."""
        query = {"status": status, "limit": limit, "cursor": cursor}
        return page_of(await self._of_task("GET", key, "/sub-tasks", query=query), task_of)

    def iter_sub_tasks(self, key: TaskKey, *, status: TaskStatus | str | None = None) -> AsyncIterator[TaskEntity[Any]]:
        """See `TaskService.iter_sub_tasks`."""

        def page(cursor: str | None) -> Coroutine[Any, Any, Page[TaskEntity[Any]]]:
            return self.list_sub_tasks(key, status=status, limit=payloads.SUB_TASK_PAGE, cursor=cursor)

        return all_pages(page)

    async def wait(self, key: TaskKey, timeout: float | None = None) -> TaskEntity[Any]:
        """See `TaskService.wait`. A server that does not answer is borne for half a minute."""
        began = self._clock.now()
        until = None
        if timeout is not None:
            until = began + timedelta(seconds=number(timeout, "timeout", low=0, high=MAX_SECONDS))
        pause, heard = LOOK_SOONEST, began
        task: TaskEntity[Any] | None = None
        tag: str | None = None
        while True:
            try:
                headers = {} if tag is None else {"If-None-Match": tag.encode()}
                answer = await self._connection.request("GET", path_of(key), tenant=key.tenant_code, headers=headers)
                heard = self._clock.now()
                if answer.status_code != 304:
                    with understood():
                        task, tag, pause = task_of(answer.json()), answer.headers.get("etag"), LOOK_SOONEST
            except TaskloomError as error:
                if not error.retryable or self._clock.now() - heard > PATIENCE:
                    raise
            now = self._clock.now()
            if task is not None and task.is_terminal:
                return task
            if until is not None and now >= until:
                status = "open" if task is None else task.status
                raise TimeoutError(f"{key} is still {status} after {timeout:g} s")
            await self._clock.wait(asyncio.Event(), now + pause if until is None else min(until, now + pause))
            pause = min(pause * 2, LOOK_LATEST)

    async def explain(self, key: TaskKey) -> Explanation:
        """See `TaskService.explain`."""
        item = await self._of_task("GET", key, "/explain")
        with understood():
            return of_item(Explanation, item)

    async def logs(self, key: TaskKey, after: str | None = None, limit: int = 1000) -> Page[LogLine]:
        """See `TaskService.logs`."""
        query = {"cursor": after, "limit": limit}
        return page_of(await self._of_task("GET", key, "/logs", query=query), line_of)

    async def follow_logs(self, key: TaskKey) -> AsyncIterator[LogLine]:
        """See `TaskService.follow_logs`."""
        cursor, heard = None, self._clock.now()
        while True:
            try:
                ended = (await self.get_task(key)).is_terminal  # before its lines: they are written by then
                while True:
                    page = await self.logs(key, after=cursor)
                    heard = self._clock.now()
                    cursor = page.cursor
                    if not page.items:
                        break
                    for line in page.items:
                        yield line
                if ended:
                    return
            except TaskloomError as error:
                if not error.retryable or self._clock.now() - heard > PATIENCE:
                    raise
            await self._clock.wait(asyncio.Event(), self._clock.now() + LOOK_LATEST)

    async def cancel_task(
        self,
        key: TaskKey,
        *,
        reason: str | None = None,
        by: str | None = None,  # noqa: ARG002
    ) -> TaskEntity[Any]:
        """See `TaskService.cancel_task`."""
        return task_of(await self._of_task("POST", key, "/cancel", body={"reason": reason}))

    async def retry_task(
        self,
        key: TaskKey,
        *,
        only_failed: bool = True,
        reason: str | None = None,
        by: str | None = None,  # noqa: ARG002
    ) -> TaskEntity[Any]:
        """See `TaskService.retry_task`."""
        body = {"onlyFailed": only_failed, "reason": reason}
        return task_of(await self._of_task("POST", key, "/retry", body=body))

    async def resume(self, task_token: str, output: object = None, *, tenant_code: str | None = None) -> None:
        """See `TaskService.resume`. Without *tenant_code* only tokens of the caller's tenant are known."""
        encode(output, "output")  # says what is wrong with it
        await self._answer(task_token, tenant_code, {"output": output})

    async def fail(self, task_token: str, error: str, *, tenant_code: str | None = None) -> None:
        """See `TaskService.fail`."""
        await self._answer(task_token, tenant_code, {"error": error})

    async def _answer(self, token: str, tenant: str | None, body: Mapping[str, object]) -> None:
        if not isinstance(token, str):
            raise InvalidType("task_token", f"{token!r} is no string", "give what event.callback returned")
        if not token:
            raise TaskTokenNotFound("nobody waits for this task token (any more)")
        await self._connection.request("POST", f"/callbacks/{quote(token, safe='')}", tenant=tenant, body=body)

    async def _of_task(self, method: str, key: TaskKey, below: str, **options: Any) -> Any:
        return await self._connection.json(method, path_of(key) + below, tenant=key.tenant_code, **options)


@asynccontextmanager
async def _located(path: str) -> AsyncIterator[None]:
    """Say of a value that is refused where it is."""
    try:
        yield
    except InvalidInput as error:
        raise type(error)(f"{path}{error.field}", error.problem, error.remedy) from error


def _options(
    tenant: str,
    task_type: str,
    name: str | None,
    retry: Retry | None,
    deadline: float | None,
    ttl: float | timedelta | None,
    priority: int,
    notify_url: str | None,
) -> dict[str, Any]:
    body: dict[str, Any] = {"tenantCode": tenant, "taskType": task_type, "priority": priority}
    if name is not None:
        body["name"] = name
    if deadline is not None:
        body["deadline"] = deadline
    if ttl is not None:
        body["ttl"] = retention(ttl, "ttl")
    if notify_url is not None:
        body["notifyUrl"] = notify_url
    if retry is not None:
        numbers = retry_numbers(retry, "retry")
        body["retry"] = {
            "maxAttempts": numbers.max_attempts,
            "initial": numbers.initial,
            "multiplier": numbers.multiplier,
            "maximum": numbers.maximum,
            "jitter": numbers.jitter,
        }
    return body


def _key_header(key: str | None) -> dict[str, bytes]:
    if key is None:
        return {}
    if not isinstance(key, str):
        raise InvalidType("idempotency_key", f"{key!r} is no string", "give a text, or None")
    if not key.isprintable():
        raise InvalidInput("idempotency_key", "has characters that do not print", "give text for a header")
    return {"Idempotency-Key": f'"{key}"'.encode()}


async def _lines(values: AsyncIterator[object], refused: list[BaseException]) -> AsyncIterator[bytes]:
    """The elements as JSON lines, in blocks; what reading them raises is put into *refused* too."""
    block = bytearray()
    number_ = 0
    try:
        async for value in values:
            block += encode(value, f"input[{number_}]").encode()
            block += b"\n"
            number_ += 1
            if len(block) >= BLOCK:
                yield bytes(block)
                block.clear()
        yield bytes(block)
    except BaseException as error:
        refused.append(error)
        raise
