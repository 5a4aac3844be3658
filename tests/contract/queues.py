"""The contract of `ports.Queue`, for the messages of tasks; `executions` has the steps."""

import asyncio
from collections import Counter
from datetime import timedelta

from taskloom.capabilities import Feature
from taskloom.model import TaskKey
from taskloom.ports import Backend, Cap, Delivery, MessageKind, Pause, PauseScope, Receipt, Served
from tests.contract.base import HOUR, Contract, due, exactly, in_threads, needs, scenario
from tests.support.rows import Rows

NOTHING = Served(tasks=frozenset(), fan_outs=frozenset())


class QueueContract(Contract):
    """Every sentence of `ports.Queue`."""

    # --- receive -------------------------------------------------------------------------------------------------

    @scenario
    async def test_a_message_names_its_task(self, backend: Backend) -> None:
        rows = Rows(backend)
        tasks = await self.sent(rows, rows.single(), rows.fan_out())
        deliveries = await self.received(rows)
        assert len(deliveries) == 2
        assert len({delivery.message_id for delivery in deliveries}) == 2
        for task in tasks:
            (delivery,) = (delivery for delivery in deliveries if delivery.key == task.key)
            assert (delivery.task_kind, delivery.task_type) == (task.kind, task.task_type)
            assert (delivery.kind, delivery.run, delivery.chunk) == (MessageKind.TASK, 1, None)
            assert (delivery.received, bool(delivery.event_id)) == (1, True)

    @scenario
    async def test_receive_gives_at_most_limit(self, backend: Backend) -> None:
        rows = Rows(backend)
        tasks = await self.sent(rows, *(rows.single() for _ in range(5)))
        own: list[Delivery] = []
        for limit in (1, 2, 1, 10):
            found = await backend.queue.receive(_only(rows), limit, visible_at=rows.now + HOUR)
            assert len(found) <= limit
            own += found
        own += await self.received(rows)
        assert sorted(delivery.key.id for delivery in own) == sorted(task.id for task in tasks)

    @needs("keeps_order")
    @scenario
    async def test_the_oldest_message_of_a_lane_comes_first(self, backend: Backend) -> None:
        """A lane: one type, one tenant, one priority."""
        rows = Rows(backend)
        tasks = []
        for _ in range(6):
            tasks += await self.sent(rows, rows.single())
            await self.elapse(backend, self.tick)
        keys: list[object] = []
        for limit in (3, 1, 10):
            found = await backend.queue.receive(_only(rows), limit, visible_at=rows.now + HOUR)
            assert len(found) <= limit
            keys += [delivery.key for delivery in found]
        assert keys == [task.key for task in tasks]

    @exactly(Feature.FAIRNESS)
    @scenario
    async def test_types_and_kinds_take_turns(self, backend: Backend) -> None:
        """Whichever has more, and whoever was there first."""
        rows, other = Rows(backend), Rows(backend)
        await self.sent(rows, *(rows.single() for _ in range(20)))
        await self.elapse(backend, self.tick)
        few = await self.sent(
            rows, rows.fan_out(), rows.single(task_type=other.task_type), rows.fan_out(task_type=other.task_type)
        )
        both = frozenset({rows.task_type, other.task_type})
        found = await backend.queue.receive(Served(tasks=both, fan_outs=both), 4, visible_at=rows.now + HOUR)
        assert {task.key for task in few} <= {delivery.key for delivery in found}

    @exactly(Feature.FAIRNESS)
    @scenario
    async def test_tenants_take_turns(self, backend: Backend) -> None:
        """However the slots become free: another tenant's new task waits for one round of all tenants."""
        for limit in (1, 3, 8):
            rows = Rows(backend)
            tenants = [f"{rows.tenant}-{number}" for number in range(4)]
            await self.sent(rows, *(rows.single(tenant_code=tenants[0]) for _ in range(60)))
            await self._taken(rows, limit)
            for late, tenant in enumerate(tenants[1:], start=2):
                (new,) = await self.sent(rows, rows.single(tenant_code=tenant))
                taken: list[TaskKey] = []
                while new.key not in taken:
                    taken += await self._taken(rows, limit)
                assert len(taken) <= late * limit

    @exactly(Feature.FAIRNESS)
    @scenario
    async def test_tenants_share_evenly(self, backend: Backend) -> None:
        rows = Rows(backend)
        tenants = [f"{rows.tenant}-{number}" for number in range(3)]
        for tenant, count in zip(tenants, (40, 30, 20), strict=True):
            await self.sent(rows, *(rows.single(tenant_code=tenant) for _ in range(count)))
        taken = [key for _ in range(15) for key in await self._taken(rows, 4)]
        assert Counter(key.tenant_code for key in taken) == dict.fromkeys(tenants, 20)

    @exactly(Feature.PRIORITY)
    @scenario
    async def test_a_higher_priority_goes_first(self, backend: Backend) -> None:
        """Over tenants and types; and whatever waited before."""
        rows, other = Rows(backend), Rows(backend)
        tasks: dict[TaskKey, int] = {}
        for priority in (5, 0, 9, 3):
            for number, task_type in enumerate((rows.task_type, other.task_type)):
                row = rows.single(priority=priority, task_type=task_type, tenant_code=f"{rows.tenant}-{number}")
                (task,) = await self.sent(rows, row)
                tasks[task.key] = priority
        both = Served(tasks=frozenset({rows.task_type, other.task_type}), fan_outs=frozenset())
        for limit in (2, 1, 1, 4):
            for delivery in await backend.queue.receive(both, limit, visible_at=rows.now + HOUR):
                assert tasks[delivery.key] == max(tasks.values())
                del tasks[delivery.key]
        assert not tasks

    @exactly(Feature.MAX_CONCURRENCY)
    @scenario
    async def test_a_cap_bounds_what_is_in_the_hands_of_workers(self, backend: Backend) -> None:
        """In all and per tenant; what is deleted or released makes room, and what is not capped is not held up."""
        rows, other = Rows(backend), Rows(backend)
        a, b = f"{rows.tenant}-a", f"{rows.tenant}-b"
        await self.sent(rows, *(rows.single(tenant_code=tenant) for tenant in (a, b) for _ in range(5)))
        await self.sent(rows, *(rows.single(task_type=other.task_type) for _ in range(5)))
        types = frozenset({rows.task_type, other.task_type})
        served = Served(tasks=types, fan_outs=frozenset(), caps={rows.task_type: Cap(total=3, per_tenant=2)})

        async def take() -> list[Delivery]:
            return list(await backend.queue.receive(served, 20, visible_at=rows.now + HOUR))

        held = await take()
        assert Counter(delivery.task_type for delivery in held) == {rows.task_type: 3, other.task_type: 5}
        capped = [delivery for delivery in held if delivery.task_type == rows.task_type]
        assert sorted(Counter(delivery.key.tenant_code for delivery in capped).values()) == [1, 2]
        assert await take() == []
        due = await backend.queue.next_due(served)
        assert due is None or due > rows.now, "nothing may be taken, so nobody is to come and look"
        await backend.queue.delete([capped[0].receipt])
        assert len(await take()) == 1
        await backend.queue.release(capped[1].receipt, rows.now)
        assert len(await take()) == 1
        only = Served(tasks=types, fan_outs=frozenset())
        assert len(await backend.queue.receive(only, 20, visible_at=rows.now + HOUR)) == 10 - 1 - 3

    @exactly(Feature.PAUSE)
    @scenario
    async def test_what_is_paused_is_not_taken(self, backend: Backend) -> None:
        """A type or a tenant; what is in the hands of workers goes on. After the end of the pause it comes."""
        rows, other = Rows(backend), Rows(backend)
        scopes: list[tuple[PauseScope, str]] = [
            (PauseScope.TASK_TYPE, rows.task_type),
            (PauseScope.TENANT, rows.tenant),
        ]
        for scope, name in scopes:
            await self.sent(rows, rows.single(), rows.single())
            free = await self.sent(other, other.single())
            (held,) = await backend.queue.receive(_only(rows), 1, visible_at=rows.now + HOUR)
            pause = Pause(scope=scope, name=name, at=rows.now, reason="why", by="ann")
            await backend.admin.pause(pause)
            assert pause in await backend.admin.pauses()
            assert await backend.queue.receive(_only(rows), 10, visible_at=rows.now + HOUR) == []
            due = await backend.queue.next_due(_only(rows))
            assert due is None or due > rows.now
            both = frozenset({rows.task_type, other.task_type})
            others = await backend.queue.receive(Served(tasks=both, fan_outs=both), 10, visible_at=rows.now + HOUR)
            assert [delivery.key for delivery in others] == [task.key for task in free]
            await backend.queue.extend([held.receipt], rows.now + 2 * HOUR)
            assert await backend.admin.resume(scope, name)
            assert not await backend.admin.resume(scope, name)
            assert pause not in await backend.admin.pauses()
            (rest,) = await backend.queue.receive(_only(rows), 10, visible_at=rows.now + HOUR)
            await backend.queue.delete([held.receipt, rest.receipt])

    @scenario
    async def test_nobody_else_gets_a_received_message(self, backend: Backend) -> None:
        """Until its visibility ends; then it comes again, and says so."""
        rows = Rows(backend)
        await self.sent(rows, rows.single())
        for count in (1, 2, 3):
            (delivery,) = await self.received(rows, for_=self.tick)
            assert delivery.received == count
            assert await self.received(rows) == []
            await self.elapse(backend, self.tick)
        (last,) = await self.received(rows)
        assert (last.message_id, last.key, last.event_id) == (delivery.message_id, delivery.key, delivery.event_id)
        assert last.receipt != delivery.receipt

    @scenario
    async def test_a_delivery_tells_how_the_task_stands(self, backend: Backend) -> None:
        """If it tells anything: the words are those of the task at that moment."""
        rows = Rows(backend)
        (task,) = await self.sent(rows, rows.single())
        for step in (rows.claim, rows.waits_for_retry, rows.rejected):
            (delivery,) = await self.received(rows, for_=self.tick)
            if delivery.standing is not None:
                for name in ("status", "run", "attempt", "fence", "lease_until", "next_attempt_at", "started_at"):
                    assert getattr(delivery.standing, name) == getattr(task, name)
            task = await rows.carry_out(step(task))
            await self.elapse(backend, self.tick)

    def test_each_message_is_received_by_one_of_many(self, backend: Backend) -> None:
        rows = Rows(backend)
        tasks = asyncio.run(self.sent(rows, *(rows.single() for _ in range(60))))

        async def receive(_: int) -> list[str]:
            own: list[str] = []
            while found := await backend.queue.receive(_only(rows), 3, visible_at=rows.now + HOUR):
                own += [delivery.key.id for delivery in found]
            return own

        received = [key for own in in_threads(4, receive) for key in own]
        assert sorted(received) == sorted(task.id for task in tasks)

    @scenario
    async def test_messages_outlive_the_use_of_the_backend(self, backend: Backend) -> None:
        rows = Rows(backend)
        (task,) = await self.sent(rows, rows.single())
        backend.close()
        assert [delivery.key for delivery in await self.received(rows)] == [task.key]

    # --- served --------------------------------------------------------------------------------------------------

    @scenario
    async def test_a_worker_gets_only_what_it_serves(self, backend: Backend) -> None:
        """Single tasks and fan-outs of one type are two things."""
        rows, other = Rows(backend), Rows(backend)
        mine, theirs = rows.task_type, other.task_type
        single, fan_out, alien, alien_fan_out = await self.sent(
            rows, rows.single(), rows.fan_out(), rows.single(task_type=theirs), rows.fan_out(task_type=theirs)
        )
        none = frozenset[str]()
        for tasks, fan_outs, expected in (
            (none, none, set()),
            (frozenset({mine + "s", mine[:-1], mine.upper()}), none, set()),
            (frozenset({mine}), none, {single.key}),
            (none, frozenset({mine}), {fan_out.key}),
            (frozenset({theirs}), frozenset({mine}), {alien.key, fan_out.key}),
            (frozenset({mine, theirs}), frozenset({theirs}), {single.key, alien.key, alien_fan_out.key}),
        ):
            served = Served(tasks=tasks, fan_outs=fan_outs)
            assert {delivery.key for delivery in await self._look(rows, served)} == expected

    @scenario
    async def test_none_serves_all(self, backend: Backend) -> None:
        """On its own side, and beside a choice on the other."""
        rows, other = Rows(backend), Rows(backend)
        mine, theirs = rows.task_type, other.task_type
        single, fan_out, alien, alien_fan_out = await self.sent(
            rows, rows.single(), rows.fan_out(), rows.single(task_type=theirs), rows.fan_out(task_type=theirs)
        )
        for served, expected in (
            (Served(tasks=None, fan_outs=frozenset()), {single.key, alien.key}),
            (Served(tasks=frozenset(), fan_outs=None), {fan_out.key, alien_fan_out.key}),
            (Served(tasks=frozenset({mine}), fan_outs=None), {single.key, fan_out.key, alien_fan_out.key}),
            (Served(tasks=None, fan_outs=None), {single.key, fan_out.key, alien.key, alien_fan_out.key}),
        ):
            assert {delivery.key for delivery in await self._look(rows, served)} == expected

    # --- delete, release, extend ---------------------------------------------------------------------------------

    @scenario
    async def test_a_deleted_message_never_comes_again(self, backend: Backend) -> None:
        rows = Rows(backend)
        first, second = await self.sent(rows, rows.single(), rows.single())
        deliveries = {delivery.key: delivery for delivery in await self.received(rows)}
        await backend.queue.delete([deliveries[first.key].receipt])
        await backend.queue.delete([deliveries[first.key].receipt])
        await self.elapse(backend, HOUR)
        assert [delivery.key for delivery in await self.received(rows)] == [second.key]

    @scenario
    async def test_a_late_worker_may_still_delete(self, backend: Backend) -> None:
        """Its visibility has ended, but nobody else has the message."""
        rows = Rows(backend)
        await self.sent(rows, rows.single())
        (delivery,) = await self.received(rows, for_=self.tick)
        await self.elapse(backend, self.tick)
        await backend.queue.delete([delivery.receipt])
        assert await self.received(rows) == []

    @scenario
    async def test_a_released_message_comes_again_in_time(self, backend: Backend) -> None:
        """Not before the instant, whether that is sooner or later than its visibility would have ended."""
        rows = Rows(backend)
        await self.sent(rows, rows.single())
        (delivery,) = await self.received(rows, for_=HOUR)
        await backend.queue.release(delivery.receipt, rows.now)
        (delivery,) = await self.received(rows, for_=timedelta())
        await backend.queue.release(delivery.receipt, rows.now + self.tick)
        assert await self.received(rows) == []
        await self.elapse(backend, self.tick)
        (delivery,) = await self.received(rows)
        assert delivery.received == 3

    @scenario
    async def test_extended_deliveries_are_kept(self, backend: Backend) -> None:
        """Until the new instant, all of them, and not longer."""
        rows = Rows(backend)
        kept = await self.sent(rows, rows.single(), rows.single())
        held = await self.received(rows, for_=2 * self.tick)
        (other,) = await self.sent(rows, rows.single())
        await self.received(rows, for_=2 * self.tick)
        await self.elapse(backend, self.tick)
        await backend.queue.extend([delivery.receipt for delivery in held], rows.now + 2 * self.tick)
        await backend.queue.extend([], rows.now)
        await self.elapse(backend, self.tick)
        assert [delivery.key for delivery in await self.received(rows)] == [other.key]
        await self.elapse(backend, self.tick)
        assert {delivery.key for delivery in await self.received(rows)} == {task.key for task in kept}

    @scenario
    async def test_an_extension_may_end_sooner(self, backend: Backend) -> None:
        rows = Rows(backend)
        await self.sent(rows, rows.single())
        (delivery,) = await self.received(rows, for_=HOUR)
        await backend.queue.extend([delivery.receipt], rows.now + self.tick)
        await self.elapse(backend, self.tick)
        assert len(await self.received(rows)) == 1

    @scenario
    async def test_an_older_receipt_deletes_nothing(self, backend: Backend) -> None:
        rows = Rows(backend)
        old, new = await self._delivered_twice(rows)
        await backend.queue.delete([old])
        await self.elapse(backend, self.tick)
        (delivery,) = await self.received(rows)
        assert delivery.received == 3
        await backend.queue.delete([new])
        await self.elapse(backend, HOUR)
        assert len(await self.received(rows)) == 1

    @scenario
    async def test_an_older_receipt_releases_nothing(self, backend: Backend) -> None:
        rows = Rows(backend)
        old, _ = await self._delivered_twice(rows)
        await backend.queue.release(old, rows.now)
        assert await self.received(rows) == []
        await backend.queue.release(old, rows.now + HOUR)
        await self.elapse(backend, self.tick)
        assert len(await self.received(rows)) == 1

    @scenario
    async def test_an_older_receipt_extends_nothing(self, backend: Backend) -> None:
        """And does not keep the others in the call from being extended."""
        rows = Rows(backend)
        old, _ = await self._delivered_twice(rows)
        (other,) = await self.sent(rows, rows.single())
        (delivery,) = await self.received(rows, for_=self.tick)
        await backend.queue.extend([old, delivery.receipt, old], rows.now + HOUR)
        await self.elapse(backend, self.tick)
        (again,) = await self.received(rows)
        assert again.key != other.key

    @scenario
    async def test_a_receipt_of_a_deleted_message_does_nothing(self, backend: Backend) -> None:
        rows = Rows(backend)
        await self.sent(rows, rows.single())
        (delivery,) = await self.received(rows)
        await backend.queue.delete([delivery.receipt])
        await backend.queue.release(delivery.receipt, rows.now)
        await backend.queue.extend([delivery.receipt], rows.now)
        assert await self.received(rows) == []

    # --- next_due ------------------------------------------------------------------------------------------------

    @needs("foresees")
    @scenario
    async def test_next_due_says_when_there_is_something_to_receive(self, backend: Backend) -> None:
        rows = Rows(backend)
        served = _only(rows)
        assert await backend.queue.next_due(served) is None
        await self.sent(rows, rows.single())
        assert due(await backend.queue.next_due(served), backend)
        visible_at = rows.now + HOUR
        (first,) = await backend.queue.receive(served, 10, visible_at=visible_at)
        assert await backend.queue.next_due(served) == visible_at
        await self.sent(rows, rows.fan_out())
        assert due(await backend.queue.next_due(served), backend)
        (second,) = await backend.queue.receive(served, 10, visible_at=visible_at + HOUR)
        assert await backend.queue.next_due(served) == visible_at
        await backend.queue.extend([first.receipt], visible_at + 2 * HOUR)
        assert await backend.queue.next_due(served) == visible_at + HOUR
        await backend.queue.release(first.receipt, visible_at)
        assert await backend.queue.next_due(served) == visible_at
        await backend.queue.delete([first.receipt])
        assert await backend.queue.next_due(served) == visible_at + HOUR
        await backend.queue.delete([second.receipt])
        assert await backend.queue.next_due(served) is None

    @needs("foresees")
    @scenario
    async def test_next_due_speaks_of_what_the_worker_serves(self, backend: Backend) -> None:
        rows = Rows(backend)
        own = frozenset({rows.task_type})
        await self.sent(rows, rows.single())
        assert await backend.queue.next_due(NOTHING) is None
        assert await backend.queue.next_due(Served(tasks=frozenset(), fan_outs=own)) is None
        assert due(await backend.queue.next_due(Served(tasks=own, fan_outs=frozenset())), backend)
        assert due(await backend.queue.next_due(Served(tasks=None, fan_outs=frozenset())), backend)

    # --- helpers -------------------------------------------------------------------------------------------------

    async def received(self, rows: Rows, *, for_: timedelta = HOUR) -> list[Delivery]:
        """The messages of the task type of *rows* that are due, received for this time."""
        own: list[Delivery] = []
        for _ in range(self.polls):
            own += await rows.backend.queue.receive(_only(rows), 10, visible_at=rows.now + for_)
        return own

    async def _look(self, rows: Rows, served: Served) -> list[Delivery]:
        """The messages of the tenant of *rows* that such a worker gets; they are all given back."""
        own: list[Delivery] = []
        for _ in range(self.polls):
            while found := await rows.backend.queue.receive(served, 10, visible_at=rows.now + HOUR):
                own += found
        for delivery in own:
            await rows.backend.queue.release(delivery.receipt, rows.now)
        return [delivery for delivery in own if delivery.key.tenant_code == rows.tenant]

    async def _taken(self, rows: Rows, limit: int) -> list[TaskKey]:
        """What a worker with so many free slots takes, and is done with."""
        found = await rows.backend.queue.receive(_only(rows), limit, visible_at=rows.now + HOUR)
        await rows.backend.queue.delete([delivery.receipt for delivery in found])
        return [delivery.key for delivery in found]

    async def _delivered_twice(self, rows: Rows) -> tuple[Receipt, Receipt]:
        """The receipts of the first and the second delivery of a message; the second holds for a tick."""
        await self.sent(rows, rows.single())
        (old,) = await self.received(rows, for_=self.tick)
        await self.elapse(rows.backend, self.tick)
        (new,) = await self.received(rows, for_=self.tick)
        return old.receipt, new.receipt


def _only(rows: Rows) -> Served:
    own = frozenset({rows.task_type})
    return Served(tasks=own, fan_outs=own)
