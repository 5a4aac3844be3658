"""Whose turn it is: what a worker takes from the queue next.

The messages of one task type, priority and tenant are a *lane*. Higher priorities go first; the tenants of one priority
take turns, one message each, so that one with many messages, or of many types, does not hold up one with few; and so do
the types of a tenant. There is a row per lane that says when its tenant, and when itself was served, so choosing costs
the same however many messages wait in them.

`lanes.due_at` is a lower bound: triggers lower it when a message is sent or released, and serving the lane corrects it.
The lane goes with its last message.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import Final, TypeAlias

from taskloom.embedded.database import Transaction
from taskloom.model import Kind
from taskloom.ports import Cap, Served

ENGINE: Final = 10
"""The priority of what ends fan-outs: above that of tasks, and neither paused nor capped."""

Connection: TypeAlias = "sqlite3.Connection | Transaction"

_ROUTES: Final = (  # the distinct routes, by a jump per route instead of a look at every row
    "WITH RECURSIVE found (route) AS ("
    "SELECT min(route) FROM lanes UNION ALL "
    "SELECT (SELECT min(route) FROM lanes WHERE route > found.route) FROM found WHERE found.route IS NOT NULL"
    ") SELECT route FROM found WHERE route IS NOT NULL"
)
_PAUSES: Final = "SELECT scope, name FROM pauses"
_IN_FLIGHT: Final = "SELECT tenant, count(*) FROM queue WHERE route = ? AND held = 1 AND visible_at > ? GROUP BY tenant"
_HELD: Final = "CREATE INDEX IF NOT EXISTS queue_held ON queue (route, tenant, visible_at) WHERE held = 1"
_LANES: Final = (
    "SELECT route, priority, tenant, turn, served FROM lanes WHERE route = ? AND due_at <= ? "
    "ORDER BY priority DESC, turn"
)
_DUE: Final = (
    "SELECT id FROM queue WHERE route = ? AND priority = ? AND tenant = ? AND visible_at <= ? "
    "ORDER BY visible_at, id LIMIT ?"
)
_TURN: Final = "UPDATE turns SET turn = turn + ? RETURNING turn"
_FIRST: Final = "SELECT min(visible_at) FROM queue WHERE route = ? AND priority = ? AND tenant = ?"
_HAD_TURN: Final = "UPDATE lanes SET turn = ? WHERE priority = ? AND tenant = ?"
_KEEP: Final = "UPDATE lanes SET served = ?, due_at = ? WHERE route = ? AND priority = ? AND tenant = ?"
_DROP: Final = "DELETE FROM lanes WHERE route = ? AND priority = ? AND tenant = ?"
_BY_DUE: Final = "SELECT due_at, route, priority, tenant FROM lanes WHERE route = ? ORDER BY due_at"


@dataclass(slots=True)
class _Lane:
    route: str
    priority: int
    tenant: str
    turn: int
    """When a message of its tenant and priority was taken last."""
    served: int
    """When one of its own was."""
    last: int | None = None
    """The position of its last message among those that are taken now."""

    @property
    def key(self) -> tuple[str, int, str]:
        return self.route, self.priority, self.tenant


class _Gate:
    """What may be taken now: nothing that is paused, and no more of a type than its caps leave."""

    def __init__(self, connection: Connection, routes: Iterable[str], served: Served, now: int) -> None:
        self._types: set[str] = set()
        self._tenants: set[str] = set()
        for scope, name in connection.execute(_PAUSES).fetchall():
            (self._types if scope == "type" else self._tenants).add(name)
        self._rooms = {
            route: _Room(cap, Counter(dict(connection.execute(_IN_FLIGHT, (route, now)).fetchall())))
            for route in routes
            if (cap := _cap(served.caps, route)) is not None
        }

    def admits(self, route: str, priority: int, tenant: str) -> bool:
        """Whether one message of this lane may be taken."""
        if priority == ENGINE:
            return True
        if tenant in self._tenants or route.partition("#")[2] in self._types:
            return False
        room = self._rooms.get(route)
        return room is None or room.admits(tenant)

    def took(self, route: str, tenant: str) -> None:
        """One was taken."""
        room = self._rooms.get(route)
        if room is not None:
            room.in_flight[tenant] += 1


@dataclass(slots=True)
class _Room:
    cap: Cap
    in_flight: Counter[str]

    def admits(self, tenant: str) -> bool:
        cap, in_flight = self.cap, self.in_flight
        return (cap.total is None or in_flight.total() < cap.total) and (
            cap.per_tenant is None or in_flight[tenant] < cap.per_tenant
        )


@contextmanager
def taking_turns(transaction: Transaction, served: Served, now: int, limit: int) -> Iterator[Sequence[int]]:
    """The ids of at most *limit* messages to be received, which the caller does; it has had its turn then."""
    if served.caps:
        transaction.execute(_HELD)
    routes = list(_routes(transaction, served))
    gate = _Gate(transaction, routes, served, now)
    found = [lane for route in routes for lane in _first_lanes(transaction, route, gate, now, limit)]
    found.sort(key=lambda lane: (-lane.priority, lane.turn, lane.served))
    ids: list[int] = []
    looked_at: list[_Lane] = []
    for _, group in groupby(found, key=lambda lane: lane.priority):
        tenants = iter(_by_tenant(group))
        # Again while there is room: the first ones may be full, or have nothing due after all.
        while (room := limit - len(ids)) and (turn := list(islice(tenants, room))):
            looked_at += chain.from_iterable(turn)
            ids += _take(transaction, turn, gate, now, room, len(ids))
    yield ids
    if looked_at:
        _correct(transaction, looked_at, len(ids))


def _first_lanes(transaction: Transaction, route: str, gate: _Gate, now: int, limit: int) -> list[_Lane]:
    cursor = transaction.execute(_LANES, (route, now))
    lanes = list(islice((_Lane(*row) for row in cursor if gate.admits(*row[:3])), limit))
    cursor.close()
    return lanes


def _by_tenant(lanes: Iterable[_Lane]) -> Iterable[Sequence[_Lane]]:
    """The lanes of each tenant, in the order of their first ones."""
    tenants: dict[str, list[_Lane]] = {}
    for lane in lanes:
        tenants.setdefault(lane.tenant, []).append(lane)
    return tenants.values()


def _take(
    transaction: Transaction, tenants: Sequence[Sequence[_Lane]], gate: _Gate, now: int, room: int, offset: int
) -> list[int]:
    """At most *room* messages of one priority: one of each tenant, then another one of each, and so on."""
    most = room - len(tenants) + 1
    lines = [_line(transaction, lanes, now, most) for lanes in tenants]
    ids: list[int] = []
    while lines:
        left = []
        for line in lines:
            if len(ids) == room:
                return ids
            for lane, id_ in line:
                if gate.admits(*lane.key):
                    lane.last = offset + len(ids)
                    ids.append(id_)
                    gate.took(lane.route, lane.tenant)
                    left.append(line)
                    break
        lines = left
    return ids


def _line(transaction: Transaction, lanes: Sequence[_Lane], now: int, most: int) -> Iterator[tuple[_Lane, int]]:
    """What is due of one tenant, at most so much of each of its lanes: one of each, then another one, and so on."""
    waiting = [
        [(lane, id_) for (id_,) in transaction.execute(_DUE, (*lane.key, now, most)).fetchall()] for lane in lanes
    ]
    return chain.from_iterable((due[position] for due in waiting if position < len(due)) for position in range(most))


def _correct(transaction: Transaction, lanes: Sequence[_Lane], taken: int) -> None:
    """Tenants that were served have had their turn; and each lane is due when its first message is."""
    # One more than were taken, so that a new lane, which begins at the count, is behind these and before the next ones.
    end = transaction.execute(_TURN, (taken + 1,)).fetchone()[0] if taken else 0
    first = end - taken
    turns: dict[tuple[int, str], int] = {}
    for lane in lanes:
        if lane.last is not None:
            tenant = lane.priority, lane.tenant
            turns[tenant] = max(turns.get(tenant, 0), first + lane.last)
    transaction.executemany(_HAD_TURN, [(turn, *tenant) for tenant, turn in turns.items()])
    for lane in lanes:
        (due_at,) = transaction.execute(_FIRST, lane.key).fetchone()
        if due_at is not None:
            served = lane.served if lane.last is None else first + lane.last
            transaction.execute(_KEEP, (served, due_at, *lane.key))
        else:  # its messages were moved to another lane
            transaction.execute(_DROP, lane.key)


def next_due(connection: Connection, served: Served, now: int) -> int | None:
    """From when on a turn may find something; None when nothing waits that may be taken."""
    routes = list(_routes(connection, served))
    gate = _Gate(connection, routes, served, now)
    found: int | None = None
    for route in routes:
        for bound, *lane in connection.execute(_BY_DUE, (route,)).fetchall():
            if found is not None and bound >= found:
                break
            if gate.admits(*lane):
                (due_at,) = connection.execute(_FIRST, lane).fetchone()
                found = due_at if found is None or (due_at is not None and due_at < found) else found
    return found


def _routes(connection: Connection, served: Served) -> Iterable[str]:
    sides = ((Kind.TASK, served.tasks), (Kind.SFN_TASK, served.fan_outs))
    routes = [f"{kind}#{type_}" for kind, types in sides if types is not None for type_ in types]
    open_kinds = [kind for kind, types in sides if types is None]
    if open_kinds:
        known = [route for (route,) in connection.execute(_ROUTES)]
        routes += [route for route in known if route.partition("#")[0] in open_kinds]
    return routes


def _cap(caps: Mapping[str, Cap], route: str) -> Cap | None:
    kind, _, type_ = route.partition("#")
    return caps.get(type_) if kind == Kind.TASK else None
