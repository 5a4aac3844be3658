"""Backends that fail on purpose: wrappers around a real one, through which every call of a port passes.

A *tap* sees each call, may carry it out, and answers it. Taps compose: `tapped(tapped(backend, inner), outer)`.
"""

import asyncio
import inspect
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, cast

from taskloom import ports
from taskloom.errors import StoreBusy, StoreError
from taskloom.ports import Backend

DEADLINE: Final = 30.0
"""Seconds of real time after which a test gives up waiting for what must come."""


@dataclass(frozen=True, slots=True)
class PortCall:
    """One call of a port."""

    name: str
    """As in `store.update`."""
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


Inner = Callable[..., Awaitable[Any]]
"""Carries the call out; given arguments take the place of the positional ones."""
Tap = Callable[[PortCall, Inner], Awaitable[Any]]

_PORTS: Final[Mapping[str, type]] = {
    "store": ports.TaskStore,
    "stream": ports.ChangeStream,
    "queue": ports.Queue,
    "machine": ports.StateMachine,
    "payloads": ports.PayloadStore,
    "items": ports.ItemWriter,
    "logs": ports.TaskLogs,
    "steps": ports.Steps,
    "admin": ports.QueueAdmin,
    "notifier": ports.Notifier,
}
_BEST_EFFORT: Final = frozenset({"admin.beat", "admin.leave", "admin.take_duty", "admin.report_duty"})
"""What workers say about themselves, whenever they like: nobody relies on it, and it would blur the order of calls."""


def calls_of(port: str) -> frozenset[str]:
    """The names of all calls of *port* (`store.update`, …), as its Protocol lists them."""
    members = vars(_PORTS[port])
    names = (f"{port}.{name}" for name, member in members.items() if inspect.iscoroutinefunction(member))
    return frozenset(names) - _BEST_EFFORT


READS: Final = frozenset(
    {
        *("store.get", "store.list_tasks", "store.list_sub_tasks", "store.list_chunks", "store.known"),
        *("store.list_overdue", "store.list_stranded", "store.next_deadline"),
        *("stream.next_due", "queue.next_due", "machine.describe", "payloads.get", "payloads.read_items"),
        *("logs.read", "steps.get", "steps.find"),
        *("logs.read", "notifier.next_due", "notifier.listeners", "notifier.notices"),
        *("admin.pauses", "admin.lanes", "admin.throughput", "admin.place", "admin.waiting", "admin.dead_letters"),
        *("admin.duty", "admin.workers"),
    }
)
"""Calls that change nothing."""


def tapped(backend: Backend, tap: Tap) -> Backend:
    """*backend* with every call of its ports, but those of clock, ids and signals, going through *tap*."""
    return replace(
        backend,
        store=cast("ports.TaskStore", _Port(backend.store, "store", tap)),
        stream=cast("ports.ChangeStream", _Port(backend.stream, "stream", tap)),
        queue=cast("ports.Queue", _Port(backend.queue, "queue", tap)),
        machine=cast("ports.StateMachine", _Port(backend.machine, "machine", tap)),
        payloads=cast("ports.PayloadStore", _Port(backend.payloads, "payloads", tap)),
        logs=cast("ports.TaskLogs", _Port(backend.logs, "logs", tap)),
        steps=cast("ports.Steps", _Port(backend.steps, "steps", tap)),
        admin=cast("ports.QueueAdmin", _Port(backend.admin, "admin", tap)),
        notifier=cast("ports.Notifier", _Port(backend.notifier, "notifier", tap)),
    )


class _Port:
    def __init__(self, target: object, port: str, tap: Tap) -> None:
        self._target = target
        self._port = port
        self._tap = tap
        self._calls = calls_of(port)

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(self._target, attribute)
        name = f"{self._port}.{attribute}"
        if name == "payloads.items":
            return lambda *args: _Port(value(*args), "items", self._tap)
        if name not in self._calls:
            return value

        async def call(*args: Any, **kwargs: Any) -> Any:
            async def inner(*instead: Any) -> Any:
                return await value(*(instead or args), **kwargs)

            return await self._tap(PortCall(name, args, kwargs), inner)

        return call


class Probe:
    """A tap that changes nothing: it knows which calls were made, and tells when they were answered."""

    def __init__(self) -> None:
        self.made: list[PortCall] = []
        self.answers: list[Any] = []
        """What the calls came to, in the order of their answers."""
        self._answered: Counter[str] = Counter()
        self._condition = threading.Condition()

    async def __call__(self, call: PortCall, inner: Inner) -> Any:
        with self._condition:
            self.made.append(call)
            self._condition.notify_all()
        answer = await inner()
        with self._condition:
            self.answers.append(answer)
            self._answered[call.name] += 1
            self._condition.notify_all()
        return answer

    def count(self, name: str) -> int:
        """How many calls of this name were answered."""
        return self._answered[name]

    def named(self, name: str) -> list[PortCall]:
        """The calls of this name that were made."""
        return [call for call in self.made if call.name == name]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until *condition*, which speaks of this probe, holds."""

        def wait() -> bool:
            with self._condition:
                return self._condition.wait_for(condition, DEADLINE)

        assert await asyncio.to_thread(wait), "the calls that the test waits for were not made"

    async def answered(self, name: str, times: int) -> None:
        """Wait until *times* calls of this name were answered, counted from the beginning."""
        await self.until(lambda: self._answered[name] >= times)


class Crash(BaseException):
    """The process is dead. No `except Exception` catches it."""


def _raise_crash() -> None:
    raise Crash


class CrashAt:
    """A tap under which the process dies at call *number* (from 1), before or after it was carried out.

    From then on every call dies too, so that nobody tidies up. *die* may do it in another way.
    """

    def __init__(self, number: int, *, after: bool, die: Callable[[], None] = _raise_crash) -> None:
        self._number = number
        self._after = after
        self._die = die
        self._lock = threading.Lock()
        self._made = 0
        self.at: PortCall | None = None
        """The call at which it happened; None while the process lives."""

    async def __call__(self, call: PortCall, inner: Inner) -> Any:
        with self._lock:
            dead = self.at is not None
            self._made += not dead
            dies = not dead and self._made == self._number
            if dies:
                self.at = call
        if not dies:
            answer = None if dead else await inner()
            if self.at is not None:  # it died meanwhile: nobody is there to hear the answer
                await self._end()
            return answer
        if self._after:
            await inner()
        self._die()
        raise AssertionError("it should be dead")

    async def _end(self) -> None:
        if self._die is not _raise_crash:
            await asyncio.Event().wait()  # whoever kills it is on the way
        raise Crash


class FailAt:
    """A tap under which call *number* (from 1) raises *error*; with *reply_lost* it was carried out all the same."""

    def __init__(self, number: int, *, reply_lost: bool, error: Callable[[str], StoreError] = StoreBusy) -> None:
        self._number = number
        self._reply_lost = reply_lost
        self._error = error
        self._lock = threading.Lock()
        self._made = 0
        self.at: PortCall | None = None

    async def __call__(self, call: PortCall, inner: Inner) -> Any:
        with self._lock:
            self._made += 1
            fails = self._made == self._number
            if fails:
                self.at = call
        if not fails:
            return await inner()
        if self._reply_lost:
            await inner()
        raise self._error(f"on purpose, at {call.name}")


class Gate:
    """A tap that holds the calls which *holds* picks until it is opened; with *answer* it holds their answers."""

    def __init__(self, holds: Callable[[PortCall], bool], *, answer: bool = False) -> None:
        self._holds = holds
        self._answer = answer
        self._condition = threading.Condition()
        self._open = False
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def __call__(self, call: PortCall, inner: Inner) -> Any:
        if not self._holds(call):
            return await inner()
        answer = await inner() if self._answer else None
        passed = asyncio.Event()
        with self._condition:
            if self._open:
                passed.set()
            else:
                self._waiting.append((asyncio.get_running_loop(), passed))
            self._condition.notify_all()
        await passed.wait()
        return answer if self._answer else await inner()

    async def held(self, calls: int = 1) -> None:
        """Wait until at least *calls* calls are held."""

        def wait() -> bool:
            with self._condition:
                return self._condition.wait_for(lambda: len(self._waiting) >= calls, DEADLINE)

        assert await asyncio.to_thread(wait), "nothing came to the gate"

    def close(self) -> None:
        """Hold again what comes from now on."""
        with self._condition:
            self._open = False

    def open(self) -> None:
        """Let all calls pass, those held and those to come."""
        with self._condition:
            self._open = True
            waiting, self._waiting = self._waiting, []
        for loop, passed in waiting:
            loop.call_soon_threadsafe(passed.set)


_LIMITS: Final = {"stream.take": 0, "queue.receive": 1}
"""Calls that deliver, and which argument says how much at most."""
_NEXT_DUE: Final = {"stream.next_due": "stream.take", "queue.next_due": "queue.receive"}
LONG_AGO: Final = datetime.fromisoformat("1970-01-02T00:00:00+00:00")


class _Disturbing:
    """A tap that keeps a backlog of records and of messages, and hands it out as the worker asks for more."""

    def __init__(self) -> None:
        self._backlog: dict[str, list[Any]] = {name: [] for name in _LIMITS}

    async def __call__(self, call: PortCall, inner: Inner) -> Any:
        if call.name in _LIMITS:
            backlog, limit = self._backlog[call.name], call.args[_LIMITS[call.name]]
            if len(backlog) < limit:
                # What is in the backlog counts: whoever asks for one gets one.
                args = list(call.args)
                args[_LIMITS[call.name]] = limit - len(backlog)
                self._take(call.name, backlog, list(await inner(*args)))
            return [backlog.pop(0) for _ in range(min(limit, len(backlog)))]
        answer = await inner()
        if call.name in _NEXT_DUE and self._backlog[_NEXT_DUE[call.name]]:
            return LONG_AGO
        return answer

    def _take(self, name: str, backlog: list[Any], arrived: list[Any]) -> None:
        raise NotImplementedError


class Duplicating(_Disturbing):
    """A tap that delivers every stream record and every message twice, one right behind the other."""

    def _take(self, name: str, backlog: list[Any], arrived: list[Any]) -> None:
        backlog += [item for item in arrived for _ in range(2)]


class Replaying(_Disturbing):
    """A tap that remembers every stream record and every message, and delivers them all again after `replay`."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, list[Any]] = {name: [] for name in _LIMITS}

    def replay(self, *, newest_first: bool = False) -> int:
        """Deliver all again, late; how many there are."""
        for name, seen in self._seen.items():
            self._backlog[name] += seen[::-1] if newest_first else seen
        return sum(map(len, self._backlog.values()))

    def _take(self, name: str, backlog: list[Any], arrived: list[Any]) -> None:
        self._seen[name] += arrived
        backlog += arrived


class Reordering(_Disturbing):
    """A tap that delivers records and messages in the wrong order: each batch backwards, and behind the next one."""

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[str, list[Any]] = {name: [] for name in _LIMITS}

    async def __call__(self, call: PortCall, inner: Inner) -> Any:
        answer = await super().__call__(call, inner)
        return LONG_AGO if call.name in _NEXT_DUE and self._held[_NEXT_DUE[call.name]] else answer

    def _take(self, name: str, backlog: list[Any], arrived: list[Any]) -> None:
        held = self._held[name]
        if held:
            backlog += [*arrived[::-1], *held]
            held.clear()
        else:
            held += arrived[::-1]
