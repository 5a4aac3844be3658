"""The state machine of the store, with operators beside it: priorities, pauses, and what the queue then gives.

What is received is released again at once, so every task that ever asked for a message has one: that makes it simple to
say what must come.
"""

from typing import Final

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from taskloom.capabilities import Feature, is_exact
from taskloom.model import TaskEntity, TaskKey, TaskStatus
from taskloom.ports import Backend, Pause, PauseScope, Served
from tests.contract.base import HOUR
from tests.contract.state_machine import MAX_TOPS, StoreMachine

MANY: Final = 200
SCOPES: Final = st.sampled_from(PauseScope)
MORE_TOPS: Final = MAX_TOPS + 3


class QueueMachine(StoreMachine):
    """Rules act on the queue and its operators too."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.backend = backend
        self.paused: dict[tuple[PauseScope, str], Pause] = {}
        types = frozenset({self.rows.task_type, f"{self.rows.task_type}s"})
        self.served = Served(tasks=types, fan_outs=types)

    def teardown(self) -> None:
        for scope, name in list(self.paused):
            self.run(self.backend.admin.resume(scope, name))
        super().teardown()

    # --- rules ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.tops < MORE_TOPS)
    @rule(target=StoreMachine.sightings, priority=st.sampled_from([0, 4, 9]), other_type=st.booleans())
    def create_with_priority(self, priority: int, other_type: bool) -> TaskEntity:
        row = self.rows.single(priority=priority, task_type=self.rows.task_type + ("s" if other_type else ""))
        self.create(row)
        return row.entity

    @rule(scope=SCOPES)
    def pause(self, scope: PauseScope) -> None:
        """Or pause again, which replaces the reason."""
        pause = Pause(
            scope=scope,
            name=self.name_of(scope),
            at=self.backend.clock.now(),
            reason=f"reason {len(self.paused)}",
            by="operator",
        )
        self.run(self.backend.admin.pause(pause))
        self.paused[scope, pause.name] = pause

    @rule(scope=SCOPES)
    def resume(self, scope: PauseScope) -> None:
        name = self.name_of(scope)
        was_paused = self.paused.pop((scope, name), None) is not None
        assert self.run(self.backend.admin.resume(scope, name)) == was_paused

    @rule(limit=st.integers(1, 3))
    def receive(self, limit: int) -> None:
        """First a few, then the rest: nothing paused, the urgent ones before the others, and nothing is missing."""
        while self.run(self.backend.stream.forward(MANY)) == MANY:
            pass
        first, rest = self.received(limit, MANY)
        assert len(first) == min(limit, len(first) + len(rest))
        for key in (*first, *rest):
            assert not self.is_paused(key)
        if first and rest and is_exact(self.backend.name, Feature.PRIORITY):
            assert min(map(self.priority_of, first)) >= max(map(self.priority_of, rest))
        for key, task in self.model.tasks.items():  # rule 1
            if task.status is TaskStatus.PENDING and task.dispatch is not None and not self.is_paused(key):
                assert key in first or key in rest

    # --- what must hold ------------------------------------------------------------------------------------------

    @invariant()
    def pauses_are_those_that_were_made(self) -> None:
        own = {self.name_of(scope) for scope in PauseScope}
        found = [pause for pause in self.run(self.backend.admin.pauses()) if pause.name in own]
        assert {(pause.scope, pause.name): pause for pause in found} == self.paused
        assert len(found) == len(self.paused)

    # --- helpers -------------------------------------------------------------------------------------------------

    def name_of(self, scope: PauseScope) -> str:
        return self.rows.task_type if scope is PauseScope.TASK_TYPE else self.rows.tenant

    def is_paused(self, key: TaskKey) -> bool:
        parts = key.parts
        names = {(PauseScope.TASK_TYPE, parts.task_type), (PauseScope.TENANT, parts.tenant_code)}
        return not names.isdisjoint(self.paused)

    def priority_of(self, key: TaskKey) -> int:
        return self.model.tasks[key].priority

    def received(self, *limits: int) -> list[list[TaskKey]]:
        """What workers get that ask one after the other; all of it is free again then."""
        queue, now = self.backend.queue, self.backend.clock.now()
        found = [self.run(queue.receive(self.served, limit, visible_at=now + HOUR)) for limit in limits]
        for deliveries in found:
            for delivery in deliveries:
                self.run(queue.release(delivery.receipt, now))
        return [[delivery.key for delivery in deliveries] for deliveries in found]
