"""TaskService: what a program does with tasks."""

from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterable, Sequence
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from taskloom import payloads
from taskloom.events.registry import Registry
from taskloom.model import DEFAULT_PRIORITY, InvokeContext, LogLine, Page, TaskEntity, TaskKey, TaskStatus
from taskloom.operations.callbacks import Callbacks
from taskloom.operations.creation import Creation, NewTask
from taskloom.operations.explaining import Explaining, Explanation
from taskloom.operations.fan_outs import FanOuts
from taskloom.operations.finding import Finding
from taskloom.operations.logs import Logs
from taskloom.operations.paging import all_pages
from taskloom.operations.queues import Queues
from taskloom.operations.steering import Steering
from taskloom.operations.webhooks import Webhooks
from taskloom.policy import Retry
from taskloom.ports import Backend

Order: TypeAlias = Literal["asc", "desc"]
TopKind: TypeAlias = Literal["TASK", "SFN_TASK"]


class TaskService:
    """Creates tasks, finds them, waits for them. Usable from any event loop and thread, without worker or start."""

    def __init__(
        self,
        backend: Backend,
        registry: Registry,
        *,
        idempotency_ttl: float,
        ttl: float | None = None,
        has_webhook_secret: bool = False,
        allow_private: bool = False,
    ) -> None:
        self._finding = Finding(backend)
        self._creation = Creation(
            backend,
            registry,
            self._finding,
            idempotency_ttl=idempotency_ttl,
            ttl=ttl,
            has_webhook_secret=has_webhook_secret,
            allow_private=allow_private,
        )
        self._steering = Steering(backend, self._finding)
        self._explaining = Explaining(backend, self._finding)
        self._logs = Logs(backend, self._finding)
        self._callbacks = Callbacks(backend)
        self.queues = Queues(backend, self._finding, self._steering)
        """For operators: depths, workers, pauses, purging, dead letters."""
        self.webhooks = Webhooks(backend)
        """For operators: who is told of status changes, what could not be delivered, and delivering it again."""
        self.fan_outs = FanOuts(backend, self._finding)
        """Fan-outs as a whole: a map of their sub-tasks, and failures by what they say."""

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
        invoke_context: InvokeContext | None = None,
    ) -> TaskEntity[Any]:
        """The new single task, PENDING; it is on disk, and will be run by a worker that serves *task_type*.

        *input* is any JSON value; *name* is for people, at most 256 characters (default: the task type).
        *retry* counts instead of the policy of the task type; which exceptions are retried is for the type to say.
        *deadline*: seconds from now after which the task is FAILED unless it has ended (default: that of the task type,
        where this module defines it). *idempotency_key*: when the tenant used it before, within
        `Settings.idempotency_ttl`, nothing is created, and the task of that time comes back as it stands.
        *ttl*: seconds (or a timedelta, at least 1 s) from its end for which the task is kept; from then on it counts as
        absent (default: that of the task type, where this module defines it, else `Settings.ttl`; None: for ever).
        *priority*: 0 to 9; of the tasks that wait for a worker those with a higher one go first.
        *notify_url*: an http or https address to which each change of the task's status is posted, signed with
        `Settings.webhook_secret`.
        Raises: InvalidInput, InvalidType; IdempotencyConflict when that task has another type, name or input.
        """
        new = NewTask(
            tenant_code=tenant_code,
            task_type=task_type,
            input=input,
            name=name,
            retry=retry,
            deadline=deadline,
            ttl=ttl,
            idempotency_key=idempotency_key,
            priority=priority,
            notify_url=notify_url,
        )
        return await self._creation.single(new, invoke_context)

    async def create_tasks(
        self, tasks: Iterable[NewTask], *, invoke_context: InvokeContext | None = None
    ) -> Sequence[TaskEntity[Any]]:
        """Many new single tasks, in the order given; far cheaper than one call each.

        All are checked before the first one is stored. They are stored in portions of 500: should the storage fail in
        between, the first ones exist.
        Raises: InvalidInput or InvalidType, with the path of the task (`tasks[3].input.price`); IdempotencyConflict.
        """
        return await self._creation.singles(tasks, invoke_context)

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
        invoke_context: InvokeContext | None = None,
    ) -> TaskEntity[Any]:
        """The new fan-out, PENDING: one sub-task per element of *input*, an iterable that is read here, to its end.

        A long input goes to the payload store while it is read and is never held in memory. If reading it raises, or
        an element is refused, nothing is created. An empty input makes a fan-out that ends COMPLETED.
        *retry* is for each sub-task, *deadline* and *ttl* for the whole; for these, *idempotency_key*, *priority* and
        *notify_url* (of the whole, not of each sub-task) see `create_task`.
        Raises: InvalidInput, InvalidType (*input* is a str, bytes, a mapping, or no iterable); IdempotencyConflict.
        """
        new = NewTask(
            tenant_code=tenant_code,
            task_type=task_type,
            name=name,
            retry=retry,
            deadline=deadline,
            ttl=ttl,
            idempotency_key=idempotency_key,
            priority=priority,
            notify_url=notify_url,
        )
        return await self._creation.fan_out(new, input, invoke_context)

    async def get_task(self, key: TaskKey) -> TaskEntity[Any]:
        """The task or sub-task *key* as it stands now. Raises: TaskNotFound (TaskExpired when its `ttl`
        has passed); InvalidInput for what is no key."""
        return await self._finding.whole(key)

    async def find_task(self, tenant_code: str, code: str) -> TaskEntity[Any]:
        """The single task or fan-out of a tenant that has this *code*, as it stands now.

        Raises: TaskNotFound, InvalidInput, InvalidType.
        """
        return await self._finding.by_code(tenant_code, code)

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
        """At most *limit* (1–1000) tasks of a tenant in the order of their creation, newest first unless "asc".

        *type*: single tasks ("TASK") or the parents of fan-outs ("SFN_TASK"). Raises: InvalidInput, InvalidType.
        """
        return await self._finding.page(
            tenant_code, type=type, status=status, task_type=task_type, limit=limit, order=order, cursor=cursor
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
        """All tasks of a tenant, page by page; see `list_tasks`."""

        def page(cursor: str | None) -> Coroutine[Any, Any, Page[TaskEntity[Any]]]:
            return self.list_tasks(
                tenant_code, type=type, status=status, task_type=task_type, limit=100, order=order, cursor=cursor
            )

        return all_pages(page)

    async def list_sub_tasks(
        self, key: TaskKey, *, status: TaskStatus | str | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page[TaskEntity[Any]]:
        """At most *limit* (1–1000) sub-tasks of the fan-out *key* in the order of its input; the page may be short.

        Those that nobody has claimed yet are PENDING. Raises: TaskNotFound, InvalidInput, InvalidType.
        """
        return await self._finding.sub_task_page(key, status=status, limit=limit, cursor=cursor)

    def iter_sub_tasks(self, key: TaskKey, *, status: TaskStatus | str | None = None) -> AsyncIterator[TaskEntity[Any]]:
        """All sub-tasks of the fan-out *key* in the order of its input; see `list_sub_tasks`."""

        def page(cursor: str | None) -> Coroutine[Any, Any, Page[TaskEntity[Any]]]:
            return self.list_sub_tasks(key, status=status, limit=payloads.SUB_TASK_PAGE, cursor=cursor)

        return all_pages(page)

    async def wait(self, key: TaskKey, timeout: float | None = None) -> TaskEntity[Any]:
        """The task *key* once it has ended, well or badly; at most *timeout* seconds (None: for ever).

        Raises: TimeoutError, TaskNotFound.
        """
        return await self._finding.ended(key, timeout)

    async def explain(self, key: TaskKey) -> Explanation:
        """Where the task *key* stands and why: in plain words, and as data. Raises: TaskNotFound, InvalidInput."""
        return await self._explaining.explain(key)

    async def logs(self, key: TaskKey, after: str | None = None, limit: int = 1000) -> Page[LogLine]:
        """At most *limit* (1–1000) lines that handlers logged for the task or sub-task *key*, oldest first; of all runs
        and attempts.

        *after*: the `cursor` of an earlier page. That of the last page leads on, too: to the lines that are written
        from then on. A page without lines says that there are no more at present. At most 1,000 lines and 256 KB of an
        attempt are kept, the newest ones; `line.dropped` counts what is missing before a line. A running attempt's
        lines are written once a second. Raises: TaskNotFound, InvalidInput, InvalidType.
        """
        return await self._logs.page(key, after=after, limit=limit)

    async def follow_logs(self, key: TaskKey) -> AsyncIterator[LogLine]:
        """The lines of the task or sub-task *key* from the first one on, as they come, until it has ended.

        They come a second late at most; nothing comes of an attempt that lost its claim once the next one has logged.
        Raises: as `logs`.
        """
        async for line in self._logs.follow(key):
            yield line

    async def cancel_task(self, key: TaskKey, *, reason: str | None = None, by: str | None = None) -> TaskEntity[Any]:
        """End the task *key*. It is CANCELLED when this returns, but a running fan-out ends a little later: see `wait`.

        A running `async def` handler gets CancelledError within a second; a `def` handler goes on, sees
        `event.cancelled`, and its result is dropped. A fan-out starts no more sub-tasks, and its running ones are
        cancelled. *reason* and *by* (who) stand in the history.
        Raises: TaskEnded (nothing was changed), TaskNotFound, InvalidInput for a sub-task.
        """
        return await self._steering.cancel(key, reason=reason, by=by)

    async def retry_task(
        self, key: TaskKey, *, only_failed: bool = True, reason: str | None = None, by: str | None = None
    ) -> TaskEntity[Any]:
        """The ended task *key* in a new run, PENDING: its attempts begin at 1 again, its history goes on.

        Of a fan-out only what has FAILED, was CANCELLED or never started runs again; with *only_failed* false
        everything. *reason* and *by* (who) stand in the history.
        Raises: TaskOpen (nothing was changed), TaskNotFound (TaskExpired when its `ttl` has passed), InvalidInput for a
        sub-task, and for a single task that is COMPLETED unless *only_failed* is false.
        """
        return await self._steering.retry(key, only_failed=only_failed, reason=reason, by=by)

    async def resume(self, task_token: str, output: object = None, *, tenant_code: str | None = None) -> None:
        """Answer the callback *task_token* with *output*, any JSON value: its task goes on at once, and gets it.

        Once only. With *tenant_code* tokens of other tenants are unknown.
        Raises: TaskTokenNotFound when nobody waits for it, or its task has ended; TaskTokenUsed, which is one of these,
        when it was answered before or its time is over; InvalidInput, InvalidType.
        """
        await self._callbacks.resume(task_token, output, tenant_code=tenant_code)

    async def fail(self, task_token: str, error: str, *, tenant_code: str | None = None) -> None:
        """Answer the callback *task_token* with an *error* (1 to 2,000 characters): its handler gets CallbackFailed.

        Everything else as in `resume`.
        """
        await self._callbacks.fail(task_token, error, tenant_code=tenant_code)
