"""Marks on classes. A mark registers nothing: it is read when the class is given to a module."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar, overload

from taskloom.errors import WiringError

HandlerT = TypeVar("HandlerT", bound=type)
ClassT = TypeVar("ClassT", bound=type)
EventT_contra = TypeVar("EventT_contra", contravariant=True)

EVENT: Final = "__taskloom_event__"
FACTORY: Final = "__taskloom_event_factory__"


class IEvent:
    """Base for events of your own; any class may be an event, this one only says so."""


class IEventHandler(Protocol[EventT_contra]):
    """What `event_handler` decorates: a class with `execute`, as `async def` or `def` (which runs in a thread)."""

    def execute(self, event: EventT_contra, /) -> Awaitable[Any] | Any:
        """Handle the event; what it returns is a result of the task."""


def event_handler(event: type) -> Callable[[HandlerT], HandlerT]:
    """Mark a class as a handler of events of exactly the class *event*.

    Raises: WiringError when *event* is no class, or the class has no `execute`.
    """
    if not isinstance(event, type):
        raise WiringError(f"event_handler takes the class of an event, as in @event_handler(CatEvent), not {event!r}")

    def mark(handler: HandlerT) -> HandlerT:
        if not isinstance(handler, type) or not callable(getattr(handler, "execute", None)):
            raise WiringError(
                f"@event_handler({event.__name__}) decorates a class with a method execute, not {handler!r}"
            )
        setattr(handler, EVENT, event)
        return handler

    return mark


@overload
def event_factory(cls: ClassT) -> ClassT: ...
@overload
def event_factory() -> Callable[[ClassT], ClassT]: ...
def event_factory(cls: ClassT | None = None) -> ClassT | Callable[[ClassT], ClassT]:
    """Mark a subclass of `EventFactory` as an event factory, with or without parentheses."""

    def mark(factory: ClassT) -> ClassT:
        if not isinstance(factory, type) or not callable(getattr(factory, "transform_dynamodb_stream", None)):
            raise WiringError(f"@event_factory decorates a subclass of EventFactory, not {factory!r}")
        setattr(factory, FACTORY, True)
        return factory

    return mark if cls is None else mark(cls)


def event_of(handler: type) -> type | None:
    """The event class that *handler* is marked for; a mark of its base class counts."""
    return getattr(handler, EVENT, None)


def is_event_factory(cls: type) -> bool:
    """Whether *cls* itself (not only its base) is marked as an event factory."""
    return FACTORY in vars(cls)
