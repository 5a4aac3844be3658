"""TaskModule: wires one application. The only place that names adapters."""

import functools
import inspect
import logging
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeAlias, TypeVar, overload

from taskloom import model
from taskloom import providers as providers_
from taskloom.capabilities import Feature, require
from taskloom.clock import SystemClock
from taskloom.errors import InvalidInput, InvalidType, WiringError
from taskloom.events.factory import (
    EventFactory,
    ITaskQueueEventFactory,
    TransformsStepFunctionTask,
    TransformsTask,
)
from taskloom.events.marks import is_event_factory
from taskloom.events.registry import Definition, Registry, TypePolicy
from taskloom.execution.threads import HandlerThreads
from taskloom.execution.worker import Worker
from taskloom.ids import RandomIds
from taskloom.model import DEFAULT_PRIORITY, InvokeContext, Kind, TaskEntity, TaskStatus
from taskloom.notifications.pump import KEEP
from taskloom.notifications.subscriptions import SUBSCRIBER_RETRY, Subscriber, Subscription
from taskloom.policy import MAX_SECONDS, Retry, check_fan_out_options, number, retention, whole_number
from taskloom.ports import NOTIFY_URL, Backend, Clock, Ids, Listener, Served
from taskloom.service import TaskService
from taskloom.settings import Settings
from taskloom.state_service import StepFunctionService
from taskloom.sync import SyncModule
from taskloom.webhooks import STATUS_ACTION, Webhook, checked_filter, checked_url, listener_name

if TYPE_CHECKING:
    from taskloom.notifications.delivery import WebhookDelivery

ResultT = TypeVar("ResultT")
P = ParamSpec("P")

Provider: TypeAlias = Any
"""What `Given` says, of a class that is marked with `event_handler`."""

SubscriberT = TypeVar("SubscriberT", bound=Subscriber)
GivenT = TypeVar("GivenT")
Given: TypeAlias = "type[GivenT] | GivenT | Callable[[TaskModule], GivenT]"
"""A class, an instance, or a callable that takes the module and returns an instance."""

MAX_CONCURRENCY: Final = 10_000


class TaskFunction(Generic[P, ResultT]):
    """A function that handles a task type. Called, it is still the function."""

    def __init__(self, service: TaskService, function: Callable[P, ResultT], task_type: str) -> None:
        self._service = service
        self._function = function
        self.task_type = task_type
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> ResultT:
        return self._function(*args, **kwargs)


class SingleTaskFunction(TaskFunction[P, ResultT]):
    """What `TaskModule.task` makes of a function."""

    async def create(
        self,
        *,
        tenant_code: str,
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
        """See `TaskService.create_task`."""
        return await self._service.create_task(
            tenant_code=tenant_code,
            task_type=self.task_type,
            input=input,
            name=name,
            retry=retry,
            deadline=deadline,
            ttl=ttl,
            idempotency_key=idempotency_key,
            priority=priority,
            notify_url=notify_url,
            invoke_context=invoke_context,
        )


class FanOutFunction(TaskFunction[P, ResultT]):
    """What `TaskModule.step_function_task` makes of a function."""

    async def create(
        self,
        *,
        tenant_code: str,
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
        """See `TaskService.create_step_function_task`."""
        return await self._service.create_step_function_task(
            tenant_code=tenant_code,
            task_type=self.task_type,
            input=input,
            name=name,
            retry=retry,
            deadline=deadline,
            ttl=ttl,
            idempotency_key=idempotency_key,
            priority=priority,
            notify_url=notify_url,
            invoke_context=invoke_context,
        )


class TaskModule:
    """The tasks of one application. Many modules may live in one process; nothing is shared between them."""

    def __init__(
        self,
        settings: Settings,
        backend: Backend,
        registry: Registry,
        *,
        enable_controller: bool = False,
        webhooks: Sequence[Webhook] = (),
    ) -> None:
        self.settings = settings
        self.enable_controller = enable_controller
        """Whether the application serves the REST endpoints for tasks."""
        self.task_service = TaskService(
            backend,
            registry,
            idempotency_ttl=settings.idempotency_ttl,
            ttl=retention(settings.ttl, "ttl"),
            has_webhook_secret=settings.webhook_secret is not None,
            allow_private=settings.webhook_private_addresses,
        )
        self.step_function_service = StepFunctionService(backend)
        self.sync = SyncModule(self.task_service, self.step_function_service)
        """The same services for programs without an event loop."""
        self._backend = backend
        self._registry = registry
        self._webhooks = _checked_webhooks(webhooks, settings)
        self._subscriptions: list[Subscription] = []
        for webhook in self._webhooks:
            listener = Listener(name=webhook.listener(), filter=webhook.filter())
            backend.notifier.announce(listener, backend.clock.now() + KEEP)

    @classmethod
    def register(
        cls,
        *,
        task_queue_event_factory: "Given[ITaskQueueEventFactory] | None" = None,
        providers: Sequence[Provider] = (),
        event_factory: "Given[EventFactory] | None" = None,
        enable_controller: bool = False,
        webhooks: Sequence[Webhook] = (),
        settings: Settings | None = None,
        clock: Clock | None = None,
        ids: Ids | None = None,
    ) -> "TaskModule":
        """A module of these handlers and factories.

        *task_queue_event_factory* turns tasks into events, *providers* hold the handlers of those events,
        *event_factory* has its say on raw AWS events. Each is a class, an instance, or a callable that takes the
        module. *webhooks*: whom to tell of what happens to tasks; the workers of this module post it.
        Constructor parameters of classes that are annotated `TaskService`, `StepFunctionService`, `Settings` or
        `TaskModule` are filled in. *clock* and *ids* are for tests.
        Raises: WiringError, InvalidInput; at once, not when the first task runs.
        """
        settings = Settings() if settings is None else settings
        if not isinstance(settings, Settings):
            raise InvalidType("settings", f"{settings!r} is no Settings", "give taskloom.Settings(...)")
        backend = _backend(settings, SystemClock() if clock is None else clock, RandomIds() if ids is None else ids)
        registry = Registry(default_policy=TypePolicy(retry=settings.retry))
        module = cls(settings, backend, registry, enable_controller=enable_controller, webhooks=webhooks)
        module._wire(task_queue_event_factory, providers, event_factory)
        return module

    def _wire(self, factory: Any, handlers: Sequence[Provider], event_factory: Any) -> None:
        known = MappingProxyType(
            {
                TaskService: self.task_service,
                StepFunctionService: self.step_function_service,
                Settings: self.settings,
                TaskModule: self,
            }
        )
        if isinstance(handlers, (str, type)) or not isinstance(handlers, Iterable):
            raise WiringError(f"providers: {handlers!r} is no list; give a list of classes, instances or callables")
        if factory is not None:
            self._registry.factory = _task_factory(providers_.build(factory, known, self))
        event_factories = [] if event_factory is None else [event_factory]
        for provider in handlers:
            if isinstance(provider, type) and is_event_factory(provider):
                event_factories.append(provider)
            else:
                self._registry.add_handler(providers_.build(provider, known, self))
        if len(event_factories) > 1:
            raise WiringError(f"there can be one event factory, but {len(event_factories)} are given")
        if event_factories:
            made = providers_.build(event_factories[0], known, self)
            if not isinstance(made, EventFactory):
                raise WiringError(
                    f"event_factory: {type(made).__qualname__} is no EventFactory; derive it from EventFactoryAddedTask"
                )
            self._registry.event_factory = made

    def task(
        self,
        task_type: str,
        *,
        retry: Retry | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        ttl: float | timedelta | None = None,
        max_concurrency: int | None = None,
        max_concurrency_per_tenant: int | None = None,
    ) -> "_SingleDecorator":
        """Decorate the function that handles single tasks of *task_type*, `async def` or `def` (runs in a thread).

        *retry* (default: `Settings.retry`), *timeout*: seconds per attempt, *deadline*: seconds from the creation in
        which tasks that this module creates must end, *ttl*: seconds (or a timedelta, at least 1 s) from its end for
        which a task that this module creates is kept (default: `Settings.ttl`). *max_concurrency*,
        *max_concurrency_per_tenant*: how many of this type run at the same time, over all workers. Raises: WiringError
        when the type has a handler already, or the backend refuses what is asked for; InvalidInput, InvalidType.
        """
        for feature, name, value in (
            (Feature.MAX_CONCURRENCY, "max_concurrency", max_concurrency),
            (Feature.MAX_CONCURRENCY_PER_TENANT, "max_concurrency_per_tenant", max_concurrency_per_tenant),
        ):
            if value is not None:
                whole_number(value, name, low=1, high=MAX_CONCURRENCY)
                require(self._backend.name, feature, f"task type {task_type!r}, {name}")
        policy = TypePolicy(
            retry=self._retry(retry),
            timeout=_seconds(timeout, "timeout"),
            deadline=_seconds(deadline, "deadline"),
            ttl=retention(ttl, "ttl"),
            max_concurrency=max_concurrency,
            max_concurrency_per_tenant=max_concurrency_per_tenant,
        )
        return _SingleDecorator(self, model.task_type(task_type), policy)

    def step_function_task(
        self,
        task_type: str,
        *,
        retry: Retry | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        ttl: float | timedelta | None = None,
        max_concurrency: int = 40,
        chunk_size: int | None = None,
        chunk_concurrency: int = 1,
        tolerated_failure_percentage: float = 0,
    ) -> "_FanOutDecorator":
        """Decorate the function that handles one sub-task of fan-outs of *task_type*.

        *retry* and *timeout* count for each sub-task, *deadline* and *ttl* (see `task`) for the whole.
        *max_concurrency*: sub-tasks that run at the same time, over all workers; *chunk_size*: sub-tasks that one
        worker claims together (default: 1 up to 100 inputs, then ceil(n / 100), at most 100); *chunk_concurrency*: how
        many of a chunk run at the same time; *tolerated_failure_percentage*: up to how many percent of failed
        sub-tasks the whole still counts as COMPLETED. Raises: as `task`.
        """
        check_fan_out_options(chunk_size, chunk_concurrency, max_concurrency, tolerated_failure_percentage)
        policy = TypePolicy(
            retry=self._retry(retry),
            timeout=_seconds(timeout, "timeout"),
            deadline=_seconds(deadline, "deadline"),
            ttl=retention(ttl, "ttl"),
            chunk_size=chunk_size,
            chunk_concurrency=chunk_concurrency,
            max_concurrency=max_concurrency,
            tolerated_failure_percentage=tolerated_failure_percentage,
        )
        return _FanOutDecorator(self, model.task_type(task_type), policy)

    def worker(
        self, *, concurrency: int = 8, task_types: Iterable[str] | None = None, grace: float | None = None
    ) -> Worker:
        """A worker for `async with`, in the running event loop.

        *concurrency*: handlers at a time; *task_types* narrows what it takes; *grace*: seconds that running handlers
        have at the end (default: `Settings.grace_seconds`). Raises: WiringError when the module handles nothing.
        """
        whole_number(concurrency, "concurrency", low=1, high=MAX_CONCURRENCY)
        seconds = self.settings.grace_seconds if grace is None else number(grace, "grace", low=0, high=86400)
        if isinstance(task_types, str):
            raise InvalidType("task_types", f"{task_types!r} is a string", "give a list of task types")
        return Worker(
            self._backend,
            self._registry,
            concurrency=concurrency,
            task_types=None if task_types is None else frozenset(model.task_type(item) for item in task_types),
            lease=timedelta(seconds=self.settings.lease_seconds),
            grace=timedelta(seconds=seconds),
            log_level=logging.getLevelNamesMapping()[self.settings.log_level],
            beside=self._webhook_delivery(),
        )

    def _webhook_delivery(self) -> "WebhookDelivery | None":
        if not self._webhooks and self.settings.webhook_secret is None:
            return None
        from taskloom.notifications.delivery import WebhookDelivery  # only where it is used: it loads an HTTP client

        return WebhookDelivery(
            self._backend,
            self._webhooks,
            secret=self.settings.webhook_secret,
            allow_private=self.settings.webhook_private_addresses,
        )

    @overload
    def subscribe(
        self,
        callback: Subscriber,
        /,
        *,
        name: str | None = None,
        task_types: Sequence[str] | None = None,
        statuses: Sequence[TaskStatus | str] | None = None,
        sub_tasks: bool = False,
        action: str = STATUS_ACTION,
        timeout: float = 30.0,
        retry: Retry = SUBSCRIBER_RETRY,
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        callback: None = None,
        /,
        *,
        name: str | None = None,
        task_types: Sequence[str] | None = None,
        statuses: Sequence[TaskStatus | str] | None = None,
        sub_tasks: bool = False,
        action: str = STATUS_ACTION,
        timeout: float = 30.0,
        retry: Retry = SUBSCRIBER_RETRY,
    ) -> Callable[[SubscriberT], SubscriberT]: ...
    def subscribe(
        self,
        callback: Subscriber | None = None,
        /,
        *,
        name: str | None = None,
        task_types: Sequence[str] | None = None,
        statuses: Sequence[TaskStatus | str] | None = None,
        sub_tasks: bool = False,
        action: str = STATUS_ACTION,
        timeout: float = 30.0,
        retry: Retry = SUBSCRIBER_RETRY,
    ) -> Any:
        """Call *callback* with the message of each status change from now on, whichever process makes it.

        Returns what ends that when it is called. As a decorator, `@module.subscribe()` leaves the function as it is,
        and it is told until the module is closed.
        *callback* is `async def` or `def`; it runs in a thread of this subscription, one call at a time, and holds up
        neither tasks nor other subscribers. Raising, or taking longer than *timeout* seconds, fails the delivery,
        which is tried again as *retry* says, and then given up: see `task_service.webhooks`.
        With a *name* nothing is missed while no process is there, for 7 days, and processes that use the same name
        share the messages: each goes to one of them. Without one, this process gets all of them while it lives.
        *task_types* and *statuses* narrow what comes (None: all); *sub_tasks*: those of fan-outs too; *action*:
        "task-status" for changes, "sfn-alarm" for one alarm per task that ends FAILED.
        Raises: InvalidInput, InvalidType.
        """
        chosen = checked_filter("", action, statuses, task_types, sub_tasks)
        limit = timedelta(seconds=number(timeout, "timeout", low=0.001, high=86400))
        if not isinstance(retry, Retry):
            raise InvalidType("retry", f"{retry!r} is no Retry", "give taskloom.Retry(...)")
        if name is not None:
            _free_name(listener_name(name, "name"), "name")

        def begin(callback: Subscriber) -> Subscription:
            if not callable(callback) or isinstance(callback, type):
                raise InvalidType("callback", f"{callback!r} is no function", "give one that takes a message")
            subscription = Subscription(self._backend, callback, name=name, filter=chosen, timeout=limit, retry=retry)
            self._subscriptions.append(subscription)
            return subscription

        def decorate(callback: SubscriberT) -> SubscriberT:
            begin(callback)
            return callback

        return decorate if callback is None else begin(callback)

    @property
    def served(self) -> Served:
        """Which tasks a worker of this module takes."""
        return self._registry.served(None)

    def close(self) -> None:
        """Give back files and threads. Optional: nothing keeps a process alive, and the next use opens them again."""
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            subscription()
        for subscription in subscriptions:
            subscription.join()
        self.sync.close()
        self._backend.close()

    async def aclose(self) -> None:
        """`close` for event loops."""
        await HandlerThreads("taskloom-close").run(self.close)

    def define(self, kind: Kind, task_type: str, function: Callable[..., Any], policy: TypePolicy) -> None:
        """What the decorators do. Raises: WiringError."""
        if not callable(function) or isinstance(function, type):
            raise WiringError(f"task type {task_type!r}: {function!r} is no function that takes an event")
        try:
            inspect.signature(function).bind(object())
        except TypeError as error:
            raise WiringError(
                f"task type {task_type!r}: {getattr(function, '__qualname__', function)} must take one argument, "
                f"the event: {error}"
            ) from error
        self._registry.define(kind, task_type, Definition(function=function, policy=policy))

    def _retry(self, retry: Retry | None) -> Retry | None:
        if retry is not None and not isinstance(retry, Retry):
            raise InvalidType("retry", f"{retry!r} is no Retry", "give taskloom.Retry(...) or None")
        return self.settings.retry if retry is None else retry


class _SingleDecorator:
    def __init__(self, module: TaskModule, task_type: str, policy: TypePolicy) -> None:
        self._module, self._task_type, self._policy = module, task_type, policy

    def __call__(self, function: Callable[P, ResultT]) -> SingleTaskFunction[P, ResultT]:
        self._module.define(Kind.TASK, self._task_type, function, self._policy)
        return SingleTaskFunction(self._module.task_service, function, self._task_type)


class _FanOutDecorator:
    def __init__(self, module: TaskModule, task_type: str, policy: TypePolicy) -> None:
        self._module, self._task_type, self._policy = module, task_type, policy

    def __call__(self, function: Callable[P, ResultT]) -> FanOutFunction[P, ResultT]:
        self._module.define(Kind.SFN_TASK, self._task_type, function, self._policy)
        return FanOutFunction(self._module.task_service, function, self._task_type)


def _backend(settings: Settings, clock: Clock, ids: Ids) -> Backend:
    from taskloom.embedded.backend import embedded_backend  # only where it is used

    return embedded_backend(Path(settings.database).absolute(), settings.synchronous, clock, ids)


def _task_factory(factory: object) -> object:
    if not isinstance(factory, (TransformsTask, TransformsStepFunctionTask)):
        raise WiringError(
            f"task_queue_event_factory: {type(factory).__qualname__} has neither transform_task nor "
            "transform_step_function_task; define what your tasks need"
        )
    return factory


def _checked_webhooks(webhooks: Sequence[Webhook], settings: Settings) -> Sequence[Webhook]:
    if isinstance(webhooks, (str, bytes)) or not isinstance(webhooks, Iterable):
        raise WiringError(f"webhooks: {webhooks!r} is no list; give a list of taskloom.Webhook(...)")
    checked = list(webhooks)
    for index, webhook in enumerate(checked):
        if not isinstance(webhook, Webhook):
            raise WiringError(f"webhooks[{index}]: {webhook!r} is no Webhook; give taskloom.Webhook(url, secret)")
        checked_url(webhook.url, f"webhooks[{index}].url", allow_private=settings.webhook_private_addresses)
        if webhook.secret is None and settings.webhook_secret is None:
            raise InvalidInput(f"webhooks[{index}].secret", "is not given", "give one, or set Settings.webhook_secret")
        _free_name(webhook.listener(), f"webhooks[{index}].name")
    names = [webhook.listener() for webhook in checked]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInput("webhooks", f"two of them have the name {twice!r}", "give each a name of its own")
    return checked


def _free_name(name: str, field: str) -> None:
    if name == NOTIFY_URL:
        raise InvalidInput(field, f"{name!r} stands for the addresses of tasks", "give another name")


def _seconds(value: float | None, field: str) -> float | None:
    return None if value is None else number(value, field, low=0.001, high=MAX_SECONDS)
