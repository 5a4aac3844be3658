"""Which handlers a module has, and the way from an event to them. Nothing here is global."""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from taskloom.errors import InvalidInput, NoHandler, WiringError
from taskloom.events.factory import EventFactory, EventFactoryAddedTask
from taskloom.events.marks import event_of
from taskloom.events.task_events import StepFunctionTaskEvent, TaskQueueEvent
from taskloom.model import Kind
from taskloom.policy import Retry
from taskloom.ports import Cap, Served
from taskloom.values import Json, check

Handler: TypeAlias = Callable[[Any], Any]
Call: TypeAlias = Callable[[Handler, Any], Awaitable[Any]]
"""Calls a handler with an event: an `async def` on the loop, a `def` in a thread."""

_FACTORY_METHODS: Final = {Kind.TASK: "transform_task", Kind.SUB_TASK: "transform_step_function_task"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TypePolicy:
    """How tasks of one type are run."""

    retry: Retry | None = None
    timeout: float | None = None
    """Seconds per attempt; None: as long as it takes."""
    deadline: float | None = None
    """Seconds from the creation in which a task must end; None: whenever it likes."""
    ttl: float | None = None
    """Seconds from its end for which a task is kept; None: as `Settings.ttl` says."""
    chunk_size: int | None = None
    chunk_concurrency: int = 1
    max_concurrency: int | None = None
    """Of fan-outs: sub-tasks of one that run at the same time; of single tasks: those of the type."""
    max_concurrency_per_tenant: int | None = None
    """Of single tasks only."""
    tolerated_failure_percentage: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A task type whose handler is a decorated function."""

    function: Handler
    policy: TypePolicy


@dataclass(slots=True)
class Registry:
    """The handlers of one module."""

    default_policy: TypePolicy
    factory: object | None = None
    """Turns tasks into events of the application's own (`ITaskQueueEventFactory`)."""
    event_factory: EventFactory = field(default_factory=EventFactoryAddedTask)
    _definitions: dict[tuple[Kind, str], Definition] = field(default_factory=dict)
    _handlers: dict[type, list[Handler]] = field(default_factory=dict)
    _handler_classes: set[type] = field(default_factory=set)

    def define(self, kind: Kind, task_type: str, definition: Definition) -> None:
        """Add a decorated function. Raises: WiringError when the type has one already."""
        if (kind, task_type) in self._definitions:
            known = self._definitions[kind, task_type].function
            raise WiringError(
                f"task type {task_type!r} ({kind}) has the handler {known!r} already; give it another type"
            )
        self._definitions[kind, task_type] = definition

    def add_handler(self, handler: object) -> None:
        """Add an instance of a class that is marked with `event_handler`.

        Raises: WiringError when it is not marked, or another instance of its class is there already.
        """
        event = event_of(type(handler))
        if event is None:
            raise WiringError(
                f"{type(handler).__qualname__} handles nothing: mark the class with @event_handler(EventClass)"
            )
        if type(handler) in self._handler_classes:
            raise WiringError(f"{type(handler).__qualname__} stands twice in the providers; give it once")
        self._handler_classes.add(type(handler))
        self._handlers.setdefault(event, []).append(handler.execute)  # type: ignore[attr-defined]

    def policy(self, kind: Kind, task_type: str) -> TypePolicy:
        """How tasks of this type are run; sub-tasks share their parent's."""
        definition = self._definitions.get((Kind.SFN_TASK if kind is Kind.SUB_TASK else kind, task_type))
        return self.default_policy if definition is None else definition.policy

    def served(self, task_types: frozenset[str] | None) -> Served:
        """What a worker of this module takes; *task_types* narrows it."""

        def narrow(kind: Kind) -> frozenset[str] | None:
            if self.factory is not None:
                return task_types
            known = frozenset(type_ for owner, type_ in self._definitions if owner is kind)
            return known if task_types is None else known & task_types

        return Served(tasks=narrow(Kind.TASK), fan_outs=narrow(Kind.SFN_TASK), caps=self.caps())

    def caps(self) -> dict[str, Cap]:
        """How many single tasks may run at the same time, by their type."""
        caps = {}
        for (kind, type_), definition in self._definitions.items():
            total, per_tenant = definition.policy.max_concurrency, definition.policy.max_concurrency_per_tenant
            if kind is Kind.TASK and not total is per_tenant is None:
                caps[type_] = Cap(total=total, per_tenant=per_tenant)
        return caps

    @property
    def serves_anything(self) -> bool:
        """Whether a worker of this module has anything to do."""
        return self.factory is not None or bool(self._definitions)

    def lacks_fan_out(self, task_type: str) -> str | None:
        """Why no sub-task of this type can ever be run here; None when it can."""
        if (Kind.SFN_TASK, task_type) in self._definitions:
            return None
        return self._lacks_method(Kind.SUB_TASK, task_type)

    def _lacks_method(self, kind: Kind, task_type: str) -> str | None:
        name = _FACTORY_METHODS[kind]
        if self.factory is None:
            return f"task type {task_type!r} has no handler here and there is no task queue event factory"
        if not callable(getattr(self.factory, name, None)):
            return f"{type(self.factory).__qualname__} has no method {name}, which tasks of type {task_type!r} need"
        return None

    @property
    def watches_stream(self) -> bool:
        """Whether the application has its own say on the records of the change stream."""
        return _overrides(self.event_factory, "transform_dynamodb_stream")

    @property
    def watches_queue(self) -> bool:
        """Whether the application has its own say on the messages of the task queue."""
        return _overrides(self.event_factory, "transform_sqs")

    async def run(
        self, kind: Kind, task_type: str, event: TaskQueueEvent[Any] | StepFunctionTaskEvent[Any], call: Call
    ) -> list[list[Json]]:
        """Call the handlers of a task or sub-task, one after the other; a list per event of a list per handler.

        Raises: NoHandler when there are none; InvalidInput or InvalidType for a result that cannot be stored; and
        whatever a handler raises.
        """
        definition = self._definitions.get((Kind.SFN_TASK if kind is Kind.SUB_TASK else kind, task_type))
        if definition is not None:
            return [[_checked(await call(definition.function, event), definition.function)]]
        lack = self._lacks_method(kind, task_type)
        if lack is not None:
            raise NoHandler(lack)
        name = _FACTORY_METHODS[kind]
        events = getattr(self.factory, name)(event)
        if inspect.isawaitable(events):
            events = await events
        calls = self._calls(events, f"{type(self.factory).__qualname__}.{name}", task_type)
        return [[_checked(await call(handler, own), handler) for handler in handlers] for own, handlers in calls]

    def _calls(self, events: object, name: str, task_type: str) -> list[tuple[Any, Sequence[Handler]]]:
        if not isinstance(events, (list, tuple)):
            raise NoHandler(f"{name} returned {type(events).__name__}, not a list of events")
        if not events:
            raise NoHandler(f"{name} returned no event for task type {task_type!r}")
        # All are looked up before the first one runs: nothing is half done for want of a handler.
        return [(event, self.handlers(event)) for event in events]

    def handlers(self, event: object) -> Sequence[Handler]:
        """The handlers of exactly the class of *event*. Raises: NoHandler when there are none."""
        handlers = self._handlers.get(type(event))
        if not handlers:
            raise NoHandler(f"no handler takes {type(event).__qualname__}; add one to the providers of the module")
        return handlers


def _checked(value: Any, handler: Handler) -> Json:
    try:
        check(value, "result")
    except InvalidInput as error:
        error.add_note(f"returned by {getattr(handler, '__qualname__', handler)!r}")
        raise
    return value  # type: ignore[no-any-return]


def _overrides(factory: EventFactory, name: str) -> bool:
    return getattr(type(factory), name) is not getattr(EventFactoryAddedTask, name)
