"""Callbacks in this process."""

import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, TypeAlias

from taskloom.execution.threads import HandlerThreads
from taskloom.notifications.message import message
from taskloom.notifications.pump import KEEP, Pump, Terms
from taskloom.notifications.threads import PumpThread
from taskloom.policy import Retry
from taskloom.ports import Backend, Listener, Notice
from taskloom.webhooks import Filter

Subscriber: TypeAlias = Callable[[dict[str, Any]], object]
"""Takes the message, as a function or a coroutine function; what it returns does not matter."""

KEEP_UNNAMED: Final = timedelta(minutes=5)
"""The same for a subscription without a name, which goes with its process."""
SUBSCRIBER_RETRY: Final = Retry(max_attempts=10, initial=1.0, multiplier=2.0, maximum=300.0)
MAX_HANGING: Final = 8
"""Threads of a subscriber that never came back; then it is called no more until one does."""


class Subscription:
    """A callback that is told of status changes until this object is called, or its module closed."""

    def __init__(
        self,
        backend: Backend,
        callback: Subscriber,
        *,
        name: str | None,
        filter: Filter,
        timeout: timedelta,
        retry: Retry,
    ) -> None:
        self.name = f"~{backend.ids.token()}" if name is None else name
        self._callback = callback
        self._threads = HandlerThreads("taskloom-subscriber")
        self._in_threads = 0
        listener = Listener(name=self.name, filter=filter)
        keep = KEEP_UNNAMED if name is None else KEEP
        # What this process writes from now on is published, although the pump may not have begun.
        backend.notifier.announce(listener, backend.clock.now() + keep)
        terms = Terms(keep=keep, retry=retry, timeout=timeout, at_once=1, ends_with_pump=name is None)
        self._thread = PumpThread("taskloom-subscription", [Pump(backend, listener, terms, self._deliver)])

    def __call__(self) -> None:
        """Unsubscribe: the callback is not called any more, but for a call that has begun."""
        self._thread.stop()

    def join(self) -> None:
        """Wait a few seconds for the end of the call that has begun."""
        self._thread.join()

    async def _deliver(self, notice: Notice) -> None:
        told = message(notice)
        if _is_coroutine_function(self._callback):
            await _awaited(self._callback(told))
            return
        if self._in_threads >= MAX_HANGING:
            raise RuntimeError(f"{MAX_HANGING} calls before this one have not returned")
        made = await self._threads.run(self._call, told)
        if inspect.isawaitable(made):  # of a function that only passes a coroutine on
            await made

    def _call(self, told: dict[str, Any]) -> object:
        self._in_threads += 1
        try:
            return self._callback(told)
        finally:
            self._in_threads -= 1


async def _awaited(made: Any) -> None:
    await made


def _is_coroutine_function(callback: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(type(callback).__call__)
