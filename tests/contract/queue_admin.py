"""The contract of `ports.QueueAdmin`."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from taskloom import lifecycle
from taskloom.capabilities import Feature
from taskloom.model import FanOut, Kind, TaskEntity, TaskKey
from taskloom.ports import (
    Backend,
    Cap,
    DeadLetter,
    Delivery,
    LaneFigures,
    NewTaskRow,
    Pause,
    PauseScope,
    Served,
    StreamFailure,
    Throughput,
    WorkerFacts,
)
from taskloom.values import Json
from tests.contract.base import HOUR, Contract, exactly, needs, scenario
from tests.support.rows import Rows

MINUTE = timedelta(minutes=1)
SCOPES: Sequence[PauseScope] = (PauseScope.TASK_TYPE, PauseScope.TENANT)


class QueueAdminContract(Contract):
    """Every sentence of `ports.QueueAdmin`; what a pause keeps from being received stands in `QueueContract`."""

    # --- pauses --------------------------------------------------------------------------------------------------

    @scenario
    async def test_a_pause_is_there_until_it_is_resumed(self, backend: Backend) -> None:
        rows = Rows(backend)
        for scope in SCOPES:
            pause = Pause(scope=scope, name=rows.tenant, at=rows.now, reason="é, and why", by="ann")
            await backend.admin.pause(pause)
            assert await self._pauses(rows) == [pause]
            assert await backend.admin.resume(scope, rows.tenant)
            assert await self._pauses(rows) == []
            assert not await backend.admin.resume(scope, rows.tenant)

    @scenario
    async def test_a_pause_needs_neither_reason_nor_name(self, backend: Backend) -> None:
        rows = Rows(backend)
        pause = Pause(scope=PauseScope.TENANT, name=rows.tenant, at=rows.now)
        await backend.admin.pause(pause)
        assert await self._pauses(rows) == [pause]
        assert (pause.reason, pause.by) == (None, None)

    @scenario
    async def test_a_pause_is_durable(self, backend: Backend) -> None:
        rows = Rows(backend)
        pause = Pause(scope=PauseScope.TASK_TYPE, name=rows.task_type, at=rows.now, reason="why", by="ann")
        await backend.admin.pause(pause)
        backend.close()
        assert await self._pauses(rows) == [pause]
        (task,) = await self.sent(rows, rows.single())
        assert await self._received(rows, 10) == []
        await backend.admin.resume(pause.scope, pause.name)
        backend.close()
        assert await self._pauses(rows) == []
        assert [delivery.key for delivery in await self._received(rows, 10)] == [task.key]

    @scenario
    async def test_a_pause_that_is_there_is_replaced(self, backend: Backend) -> None:
        """By all that the second one says; and one resume ends it."""
        rows = Rows(backend)
        for scope in SCOPES:
            await backend.admin.pause(Pause(scope=scope, name=rows.tenant, at=rows.now, reason="first", by="ann"))
            await self.elapse(backend, self.tick)
            second = Pause(scope=scope, name=rows.tenant, at=rows.now, by="bob")
            await backend.admin.pause(second)
            assert await self._pauses(rows) == [second]
            assert await backend.admin.resume(scope, rows.tenant)
            assert await self._pauses(rows) == []

    @scenario
    async def test_a_type_and_a_tenant_of_one_name_are_two_things(self, backend: Backend) -> None:
        rows = Rows(backend)
        pauses = [Pause(scope=scope, name=rows.tenant, at=rows.now) for scope in SCOPES]
        for pause in pauses:
            await backend.admin.pause(pause)
        assert {pause.scope for pause in await self._pauses(rows)} == set(SCOPES)
        assert await backend.admin.resume(SCOPES[0], rows.tenant)
        assert await self._pauses(rows) == pauses[1:]

    @scenario
    async def test_pauses_come_oldest_first(self, backend: Backend) -> None:
        """By the time at which they were made, not by their names."""
        rows = Rows(backend)
        pauses = []
        for suffix in ("-c", "-a", "-b"):
            pauses.append(Pause(scope=PauseScope.TENANT, name=rows.tenant + suffix, at=rows.now))
            await backend.admin.pause(pauses[-1])
            await self.elapse(backend, self.tick)
        assert await self._pauses(rows) == pauses

    # --- lanes ---------------------------------------------------------------------------------------------------

    @exactly(Feature.QUEUE_DEPTHS)
    @scenario
    async def test_lanes_say_what_waits_is_delayed_and_is_held(self, backend: Backend) -> None:
        rows = Rows(backend)
        assert await self._lanes(rows) == []
        since = rows.now
        await self.sent(rows, *(rows.single() for _ in range(6)))
        assert await self._lanes(rows) == [self._lane(rows, waiting=6, oldest_at=since)]
        await self.elapse(backend, self.tick)
        deliveries = await self._received(rows, 5)
        assert await self._lanes(rows) == [self._lane(rows, waiting=1, in_flight=5, oldest_at=since)]
        later = rows.now + self.tick
        for delivery in deliveries[:2]:
            await backend.queue.release(delivery.receipt, later)
        await backend.queue.delete([deliveries[2].receipt])
        assert await self._lanes(rows) == [self._lane(rows, waiting=1, delayed=2, in_flight=2, oldest_at=since)]
        (first,) = await self._received(rows, 1)
        assert await self._lanes(rows) == [self._lane(rows, delayed=2, in_flight=3)]
        await self.elapse(backend, self.tick)
        assert await self._lanes(rows) == [self._lane(rows, waiting=2, in_flight=3, oldest_at=later)]
        await backend.queue.delete([first.receipt])
        assert await self._lanes(rows) == [self._lane(rows, waiting=2, in_flight=2, oldest_at=later)]

    @exactly(Feature.QUEUE_DEPTHS)
    @scenario
    async def test_a_delivery_that_nobody_kept_waits_again(self, backend: Backend) -> None:
        """Since its visibility ended: whoever had it is gone."""
        rows = Rows(backend)
        await self.sent(rows, rows.single())
        await self._received(rows, 1, for_=self.tick)
        ends = rows.now + self.tick
        await self.elapse(backend, 2 * self.tick)
        assert await self._lanes(rows) == [self._lane(rows, waiting=1, oldest_at=ends)]

    @exactly(Feature.QUEUE_DEPTHS)
    @scenario
    async def test_messages_of_tasks_that_have_ended_do_not_count(self, backend: Backend) -> None:
        """They are still there, and a worker will drop them; but nothing waits."""
        rows = Rows(backend)
        tasks = await self.sent(rows, rows.single(), rows.single())
        await rows.carry_out(rows.rejected(tasks[0]))
        assert await self._lanes(rows) == [self._lane(rows, waiting=1, oldest_at=rows.now)]
        assert len(await self._received(rows, 5)) == 2
        await rows.carry_out(rows.rejected(tasks[1]))
        assert await self._lanes(rows) == []

    @exactly(Feature.QUEUE_DEPTHS)
    @scenario
    async def test_each_tenant_kind_and_type_is_one_line(self, backend: Backend) -> None:
        """Whatever the priorities; and nothing is left of one whose last message is gone."""
        rows, other = Rows(backend), Rows(backend)
        await self.sent(
            rows,
            rows.single(priority=9),
            rows.single(priority=0),
            rows.fan_out(),
            rows.single(task_type=other.task_type),
            rows.single(tenant_code=f"{rows.tenant}-b"),
        )
        found = await self._lanes(rows, f"{rows.tenant}-b")
        assert {(lane.tenant_code, lane.kind, lane.task_type): lane.waiting for lane in found} == {
            (rows.tenant, Kind.TASK, rows.task_type): 2,
            (rows.tenant, Kind.SFN_TASK, rows.task_type): 1,
            (rows.tenant, Kind.TASK, other.task_type): 1,
            (f"{rows.tenant}-b", Kind.TASK, rows.task_type): 1,
        }
        assert len(found) == 4
        await backend.queue.delete([delivery.receipt for delivery in await self._received(rows, 10)])
        assert [lane.task_type for lane in await self._lanes(rows, f"{rows.tenant}-b")] == [other.task_type]

    # --- throughput ----------------------------------------------------------------------------------------------

    @exactly(Feature.THROUGHPUT)
    @scenario
    async def test_what_ends_is_counted_in_its_minute(self, backend: Backend) -> None:
        """By kind and type: what ended well, and what did not; whatever is tried again has not ended."""
        rows = Rows(backend)
        await self._to_the_next_minute(backend)
        since = rows.now
        for _ in range(3):
            await rows.carry_out(rows.completed(await rows.claimed()))
        await rows.carry_out(rows.failed(await rows.claimed()))
        (waiting,) = await rows.create(rows.single())
        cancelled = lifecycle.cancelled(
            waiting, reason=None, by=None, now=rows.now, claim_id=backend.ids.token()
        )  # fmt: skip
        await rows.carry_out(cancelled)
        await rows.carry_out(rows.waits_for_retry(await rows.claimed()))
        await rows.carry_out(rows.given_back(await rows.claimed()))
        (parent,) = await rows.create(rows.fan_out(2))
        parent = await rows.carry_out(rows.claim(parent, plan=_plan()))
        await rows.carry_out(rows.completed(await rows.sub_task(0, parent)))
        await rows.carry_out(rows.failed(await rows.sub_task(1, parent)))
        finalized = lifecycle.finalized(
            parent, succeeded=1, failed=1, now=rows.now, by="worker", claim_id=backend.ids.token()
        )
        await rows.carry_out(finalized)
        found = await self._throughput(rows, since)
        assert {minute.minute for minute in found} == {since.replace(second=0, microsecond=0)}
        assert {(minute.kind, minute.completed, minute.failed) for minute in found} == {
            (Kind.TASK, 3, 2),
            (Kind.SUB_TASK, 1, 1),
            (Kind.SFN_TASK, 0, 1),
        }

    @exactly(Feature.THROUGHPUT)
    @scenario
    async def test_minutes_come_oldest_first_and_from_the_wanted_one_on(self, backend: Backend) -> None:
        rows = Rows(backend)
        await self._to_the_next_minute(backend)
        minutes = []
        for count in (1, 2, 3):
            minutes.append(rows.now.replace(second=0, microsecond=0))
            for _ in range(count):
                await rows.carry_out(rows.completed(await rows.claimed()))
            await self.elapse(backend, MINUTE)
        found = await self._throughput(rows, minutes[0])
        assert [(minute.minute, minute.completed) for minute in found] == list(zip(minutes, (1, 2, 3), strict=True))
        within = minutes[1] + timedelta(seconds=30)
        assert [minute.minute for minute in await self._throughput(rows, within)] == minutes[1:]
        assert await self._throughput(rows, rows.now + MINUTE) == []

    @exactly(Feature.THROUGHPUT)
    @scenario
    async def test_a_refused_end_is_not_counted(self, backend: Backend) -> None:
        """An end counts once, however often its worker or a late one writes it."""
        rows = Rows(backend)
        task = await rows.claimed()
        await rows.carry_out(rows.completed(task))
        await backend.store.update_many([rows.completed(task), rows.failed(task)])
        found = await self._throughput(rows, rows.now - MINUTE)
        assert [(minute.completed, minute.failed) for minute in found] == [(1, 0)]

    # --- place ---------------------------------------------------------------------------------------------------

    @exactly(Feature.EXPLAIN_POSITION)
    @scenario
    async def test_place_counts_those_before_it(self, backend: Backend) -> None:
        """Those of its own tenant, type and priority that are due."""
        rows, other = Rows(backend), Rows(backend)
        aside = [
            rows.single(priority=4),
            rows.fan_out(),
            rows.single(tenant_code=f"{rows.tenant}-b"),
            rows.single(task_type=other.task_type),
        ]
        await self.sent(rows, *aside)
        since = rows.now
        tasks = await self.sent(rows, *(rows.single(priority=3) for _ in range(5)))
        for ahead, task in enumerate(tasks):
            place = await backend.admin.place(task.key, 10)
            assert place is not None
            assert (place.ahead, place.is_exact, place.is_held, place.visible_at) == (ahead, True, False, since)

    @exactly(Feature.EXPLAIN_POSITION)
    @scenario
    async def test_place_counts_to_the_limit_at_most(self, backend: Backend) -> None:
        rows = Rows(backend)
        tasks = await self.sent(rows, *(rows.single() for _ in range(4)))
        for limit, expected in ((2, (2, False)), (3, (3, True)), (4, (3, True))):
            place = await backend.admin.place(tasks[3].key, limit)
            assert place is not None
            assert (place.ahead, place.is_exact) == expected

    @exactly(Feature.EXPLAIN_POSITION)
    @scenario
    async def test_place_of_what_is_held(self, backend: Backend) -> None:
        """It is in nobody's hands any more once its visibility has ended, or it was released."""
        rows = Rows(backend)
        first, second, third = await self.sent(rows, rows.single(), rows.single(), rows.single())
        until = rows.now + self.tick
        held, other = await self._received(rows, 2, for_=self.tick)
        assert {held.key, other.key} == {first.key, second.key}
        place = await backend.admin.place(held.key, 10)
        assert place is not None
        assert (place.is_held, place.visible_at) == (True, until)
        behind = await backend.admin.place(third.key, 10)
        assert behind is not None
        assert (behind.is_held, behind.ahead) == (False, 0)
        await backend.queue.release(other.receipt, until + self.tick)
        place = await backend.admin.place(other.key, 10)
        assert place is not None
        assert (place.is_held, place.visible_at) == (False, until + self.tick)
        await self.elapse(backend, self.tick)
        place = await backend.admin.place(held.key, 10)
        assert place is not None
        assert (place.is_held, place.visible_at) == (False, until)

    @exactly(Feature.EXPLAIN_POSITION)
    @scenario
    async def test_place_counts_the_lanes_that_take_turns_with_it(self, backend: Backend) -> None:
        """With something due, of its priority or a higher one; another test may have left some."""
        rows, other = Rows(backend), Rows(backend)
        (task,) = await self.sent(rows, rows.single(priority=5))
        before = await self._lanes_beside(backend, task)
        await self.sent(
            rows,
            rows.single(priority=5),
            rows.single(priority=5, tenant_code=f"{rows.tenant}-b"),
            rows.single(priority=5, task_type=other.task_type),
            rows.fan_out(priority=9),
            rows.single(priority=4),
        )
        assert await self._lanes_beside(backend, task) == before + 3
        served = Served(tasks=frozenset({other.task_type}), fan_outs=frozenset())
        (delivery,) = await backend.queue.receive(served, 1, visible_at=rows.now + HOUR)
        assert await self._lanes_beside(backend, task) == before + 2
        await backend.queue.release(delivery.receipt, rows.now)
        assert await self._lanes_beside(backend, task) == before + 3

    @scenario
    async def test_what_has_no_message_has_no_place(self, backend: Backend) -> None:
        """Neither before it is dispatched, nor once its message is done with; the kinds are two things."""
        rows = Rows(backend)
        (task,) = await rows.create(rows.single())
        assert await backend.admin.place(task.key, 10) is None
        (sent,) = await self.sent(rows, rows.single())
        assert await backend.admin.place(TaskKey.step_function(rows.tenant, rows.task_type, sent.code), 10) is None
        assert await backend.admin.place(TaskKey.single(f"{rows.tenant}-b", rows.task_type, sent.code), 10) is None
        await backend.queue.delete([delivery.receipt for delivery in await self._received(rows, 10)])
        assert await backend.admin.place(sent.key, 10) is None

    @exactly(Feature.EXPLAIN_POSITION)
    @scenario
    async def test_a_fan_out_that_waits_has_a_place(self, backend: Backend) -> None:
        rows = Rows(backend)
        _, second = await self.sent(rows, rows.fan_out(), rows.fan_out())
        place = await backend.admin.place(second.key, 10)
        assert place is not None
        assert (place.ahead, place.is_exact, place.is_held) == (1, True, False)

    # --- waiting -------------------------------------------------------------------------------------------------

    @scenario
    async def test_waiting_are_pending_top_level_tasks(self, backend: Backend) -> None:
        """Whether they have a message yet or not, and those that wait for another attempt."""
        rows = Rows(backend)
        fresh = await rows.create(rows.single(), rows.fan_out())
        queued = await self.sent(rows, rows.single(), rows.fan_out())
        again = await rows.carry_out(rows.waits_for_retry(await rows.claimed()))
        await rows.claimed()
        parent = await rows.claimed(rows.fan_out())
        await rows.carry_out(rows.given_back(await rows.sub_task(0, parent)))
        await rows.carry_out(rows.completed(await rows.claimed()))
        await rows.carry_out(rows.failed(await rows.claimed()))
        expected = {task.key for task in (*fresh, *queued, again)}
        assert set(await self._waiting(backend, rows.tenant, None)) == expected

    @scenario
    async def test_waiting_picks_by_tenant_and_type(self, backend: Backend) -> None:
        """Of a tenant, of a type, or both; names that begin alike are two."""
        rows, other = Rows(backend), Rows(backend)
        b, longer = f"{rows.tenant}-b", f"{rows.task_type}-longer"
        made = {
            (tenant, task_type): [
                task.key
                for task in await rows.create(
                    rows.single(tenant_code=tenant, task_type=task_type),
                    rows.fan_out(tenant_code=tenant, task_type=task_type),
                )
            ]
            for tenant in (rows.tenant, b)
            for task_type in (rows.task_type, other.task_type, longer)
        }

        def keys(tenants: Sequence[str], types: Sequence[str]) -> set[TaskKey]:
            return {key for tenant in tenants for task_type in types for key in made[tenant, task_type]}

        all_types = (rows.task_type, other.task_type, longer)
        for tenant, task_type, expected in (
            (rows.tenant, None, keys([rows.tenant], all_types)),
            (b, None, keys([b], all_types)),
            (None, rows.task_type, keys([rows.tenant, b], [rows.task_type])),
            (None, longer, keys([rows.tenant, b], [longer])),
            (rows.tenant, other.task_type, keys([rows.tenant], [other.task_type])),
            (other.tenant, None, set()),
            (other.tenant, rows.task_type, set()),
        ):
            assert set(await self._waiting(backend, tenant, task_type)) == expected

    @scenario
    async def test_waiting_goes_on_behind_any_key(self, backend: Backend) -> None:
        """Each once, however small the pages; also when what was read last is gone since."""
        rows = Rows(backend)
        tasks = await rows.create(
            *(rows.single(tenant_code=f"{rows.tenant}-{number % 3}") for number in range(8)),
            *(rows.fan_out(tenant_code=f"{rows.tenant}-{number % 3}") for number in range(5)),
        )
        for limit in (1, 3, 100):
            found = await self._waiting(backend, None, rows.task_type, limit=limit)
            assert len(found) == len(set(found)) == len(tasks)
        last: TaskKey | None = None
        seen: list[TaskKey] = []
        while page := await backend.admin.waiting(None, rows.task_type, last, 2):
            assert len(page) <= 2
            last = page[-1]
            seen += page
            for key in page:
                task = await rows.stored(key)
                gone = lifecycle.cancelled(task, reason=None, by=None, now=rows.now, claim_id=backend.ids.token())
                await rows.carry_out(gone)
        assert sorted(seen, key=str) == sorted((task.key for task in tasks), key=str)

    # --- dead letters --------------------------------------------------------------------------------------------

    @needs("pulls_stream")
    @scenario
    async def test_a_dead_letter_tells_what_it_was(self, backend: Backend) -> None:
        """Which task, when, after how many failures, and why."""
        rows = Rows(backend)
        single, fan_out = await self._dead(rows, rows.single(), rows.fan_out(), failures=3)
        assert [(letter.key, letter.failures, letter.reason, letter.at) for letter in await self._letters(rows)] == [
            (single.key, 3, "why: é", rows.now),
            (fan_out.key, 3, "why: é", rows.now),
        ]

    @needs("pulls_stream")
    @scenario
    async def test_dead_letters_come_in_the_order_of_their_ids(self, backend: Backend) -> None:
        """Behind the one that was read last, at most as many as wanted."""
        rows = Rows(backend)
        tasks = await self._dead(rows, *(rows.single() for _ in range(5)))
        letters = await self._letters(rows)
        assert [letter.key for letter in letters] == [task.key for task in tasks]
        ids = [letter.id for letter in letters]
        assert ids == sorted(set(ids))
        assert min(ids) > 0
        page = await backend.admin.dead_letters(rows.tenant, ids[1], 2)
        assert [letter.id for letter in page] == ids[2:4]
        assert await backend.admin.dead_letters(rows.tenant, ids[-1], 2) == []

    @needs("pulls_stream")
    @scenario
    async def test_dead_letters_of_one_tenant_or_of_all(self, backend: Backend) -> None:
        rows = Rows(backend)
        b = f"{rows.tenant}-b"
        mine, theirs = await self._dead(rows, rows.single(), rows.single(tenant_code=b))
        assert [letter.key for letter in await self._letters(rows)] == [mine.key]
        assert [letter.key for letter in await self._letters(rows, b)] == [theirs.key]
        (first,) = await self._letters(rows)
        everybody = await backend.admin.dead_letters(None, first.id - 1, 10)
        assert [letter.key for letter in everybody if letter.key.tenant_code in (rows.tenant, b)] == [
            mine.key,
            theirs.key,
        ]

    @needs("pulls_stream")
    @scenario
    async def test_removed_dead_letters_are_forgotten(self, backend: Backend) -> None:
        """Those that were named, and no others; their tasks stay. A removed id is not used again."""
        rows = Rows(backend)
        tasks = await self._dead(rows, *(rows.single() for _ in range(4)))
        ids = [letter.id for letter in await self._letters(rows)]
        await backend.admin.remove_dead_letters([ids[0], ids[3]])
        await backend.admin.remove_dead_letters([ids[0], ids[3] + 1_000_000])
        await backend.admin.remove_dead_letters([])
        assert [letter.id for letter in await self._letters(rows)] == ids[1:3]
        assert (await rows.stored(tasks[0].key)).key == tasks[0].key
        await self._dead(rows, rows.single())
        assert max(letter.id for letter in await self._letters(rows)) > ids[3]

    # --- workers -------------------------------------------------------------------------------------------------

    @scenario
    async def test_a_worker_is_what_it_said_last(self, backend: Backend) -> None:
        rows = Rows(backend)
        worker = self._worker(rows, tasks=["cat", "dög"], fan_outs=[], running=["TASK#a#cat#1"])
        await backend.admin.beat(worker)
        assert await self._workers(rows, rows.now) == [worker]
        await self.elapse(backend, self.tick)
        caps = {"dög": Cap(total=3), "cat": Cap(per_tenant=1), "cow": Cap(total=8, per_tenant=2)}
        later = replace(worker, seen_at=rows.now, running=[], tasks=None, fan_outs=None, caps=caps)
        await backend.admin.beat(later)
        assert await self._workers(rows, worker.seen_at) == [later]

    @scenario
    async def test_workers_are_those_that_were_seen_since(self, backend: Backend) -> None:
        rows = Rows(backend)
        first = self._worker(rows, "-first")
        await backend.admin.beat(first)
        await self.elapse(backend, self.tick)
        second = self._worker(rows, "-second")
        await backend.admin.beat(second)
        assert await self._workers(rows, first.seen_at) == [first, second]
        assert await self._workers(rows, first.seen_at + timedelta(milliseconds=1)) == [second]
        assert await self._workers(rows, second.seen_at + timedelta(milliseconds=1)) == []

    @scenario
    async def test_a_worker_that_leaves_is_gone(self, backend: Backend) -> None:
        """It alone; and it may come again."""
        rows = Rows(backend)
        first, second = self._worker(rows, "-first"), self._worker(rows, "-second")
        for worker in (first, second):
            await backend.admin.beat(worker)
        await backend.admin.leave(first.name)
        await backend.admin.leave(first.name)
        assert await self._workers(rows, rows.now) == [second]
        await backend.admin.beat(first)
        assert await self._workers(rows, rows.now) == [first, second]

    @scenario
    async def test_a_worker_serves_what_it_takes(self, backend: Backend) -> None:
        """Single tasks and fan-outs of one type are two things; None: all."""
        rows = Rows(backend)
        for tasks, fan_outs, expected in (
            (["cat"], [], {(Kind.TASK, "cat")}),
            ([], ["cat"], {(Kind.SFN_TASK, "cat")}),
            (None, ["dog"], {(Kind.TASK, "cat"), (Kind.TASK, "dog"), (Kind.SFN_TASK, "dog")}),
        ):
            await backend.admin.beat(self._worker(rows, tasks=tasks, fan_outs=fan_outs))
            (worker,) = await self._workers(rows, rows.now)
            pairs = {(kind, type_) for kind in (Kind.TASK, Kind.SFN_TASK) for type_ in ("cat", "dog")}
            assert {pair for pair in pairs if worker.serves(*pair)} == expected

    # --- helpers -------------------------------------------------------------------------------------------------

    async def _pauses(self, rows: Rows) -> list[Pause]:
        """Those that the test made."""
        pauses = await rows.backend.admin.pauses()
        return [pause for pause in pauses if pause.name.startswith((rows.tenant, rows.task_type))]

    async def _received(self, rows: Rows, limit: int, *, for_: timedelta = HOUR) -> Sequence[Delivery]:
        own = frozenset({rows.task_type})
        served = Served(tasks=own, fan_outs=own)
        return await rows.backend.queue.receive(served, limit, visible_at=rows.now + for_)

    async def _lanes(self, rows: Rows, *others: str) -> list[LaneFigures]:
        tenants = (rows.tenant, *others)
        return [lane for lane in await rows.backend.admin.lanes() if lane.tenant_code in tenants]

    def _lane(
        self, rows: Rows, *, waiting: int = 0, delayed: int = 0, in_flight: int = 0, oldest_at: datetime | None = None
    ) -> LaneFigures:
        return LaneFigures(
            tenant_code=rows.tenant,
            kind=Kind.TASK,
            task_type=rows.task_type,
            waiting=waiting,
            delayed=delayed,
            in_flight=in_flight,
            oldest_at=oldest_at,
        )

    async def _throughput(self, rows: Rows, since: datetime) -> list[Throughput]:
        found = await rows.backend.admin.throughput(since)
        return [minute for minute in found if minute.task_type == rows.task_type]

    async def _to_the_next_minute(self, backend: Backend) -> None:
        now = backend.clock.now()
        await self.elapse(backend, MINUTE - timedelta(seconds=now.second, microseconds=now.microsecond))

    async def _lanes_beside(self, backend: Backend, task: TaskEntity) -> int:
        place = await backend.admin.place(task.key, 10)
        assert place is not None
        return place.lanes

    # --- duties --------------------------------------------------------------------------------------------------

    @scenario
    async def test_a_duty_is_taken_by_one_at_a_time(self, backend: Backend) -> None:
        """Until its time is over, to the instant; the next one takes it then."""
        name, now = Rows(backend).tenant, Rows(backend).now
        until = now + MINUTE
        assert await backend.admin.take_duty(name, now, until)
        assert not await backend.admin.take_duty(name, now, until)
        assert not await backend.admin.take_duty(name, until - timedelta(milliseconds=1), until + HOUR)
        assert await backend.admin.take_duty(name, until, until + MINUTE)
        assert not await backend.admin.take_duty(name, until, until + MINUTE)

    @scenario
    async def test_one_of_many_takes_a_duty(self, backend: Backend) -> None:
        name, now = Rows(backend).tenant, Rows(backend).now
        taken = await asyncio.gather(*(backend.admin.take_duty(name, now, now + MINUTE) for _ in range(10)))
        assert sum(taken) == 1

    @scenario
    async def test_duties_are_apart(self, backend: Backend) -> None:
        name, now = Rows(backend).tenant, Rows(backend).now
        assert await backend.admin.take_duty(f"{name}-a", now, now + MINUTE)
        assert await backend.admin.take_duty(f"{name}-b", now, now + MINUTE)
        await backend.admin.report_duty(f"{name}-a", {"done": 1})
        assert await backend.admin.duty(f"{name}-b") is None

    @scenario
    async def test_what_was_reported_last_is_known(self, backend: Backend) -> None:
        """Any JSON; also while somebody else has the duty."""
        name, now = Rows(backend).tenant, Rows(backend).now
        assert await backend.admin.duty(name) is None
        await backend.admin.take_duty(name, now, now + MINUTE)
        assert await backend.admin.duty(name) is None
        reports: Sequence[Mapping[str, Json]] = (
            {"at": "é", "done": {"x": 1, "y": [None, True, 1.5]}},
            {"done": 2},
        )
        for facts in reports:
            await backend.admin.report_duty(name, facts)
            assert await backend.admin.duty(name) == facts
        await backend.admin.take_duty(name, now + MINUTE, now + HOUR)
        assert await backend.admin.duty(name) == {"done": 2}

    async def _waiting(
        self, backend: Backend, tenant: str | None, task_type: str | None, *, limit: int = 3
    ) -> list[TaskKey]:
        """All of them, page by page."""
        found: list[TaskKey] = []
        while page := await backend.admin.waiting(tenant, task_type, found[-1] if found else None, limit):
            found += page
        return found

    async def _dead(self, rows: Rows, *new: NewTaskRow, failures: int = 1) -> list[TaskEntity]:
        """The tasks of *new*, which are stored now and could not be dispatched."""
        tasks = await rows.create(*new)
        for number in range(1, failures + 1):
            retry_at = rows.now if number < failures else None
            records = await self.records(rows)
            assert len(records) == len(tasks)
            problems = [
                StreamFailure(sequence=record.sequence, failures=record.failures, reason="why: é", retry_at=retry_at)
                for record in records
            ]
            await rows.backend.stream.settle([], problems)
        return tasks

    async def _letters(self, rows: Rows, tenant: str | None = None) -> Sequence[DeadLetter]:
        return await rows.backend.admin.dead_letters(tenant or rows.tenant, 0, 100)

    def _worker(
        self,
        rows: Rows,
        suffix: str = "",
        *,
        tasks: Sequence[str] | None = ("cat",),
        fan_outs: Sequence[str] | None = ("cat",),
        running: Sequence[str] = (),
    ) -> WorkerFacts:
        return WorkerFacts(
            name=rows.tenant + suffix,
            host="host",
            pid=4711,
            version="1.2.3",
            started_at=rows.now - HOUR,
            seen_at=rows.now,
            concurrency=8,
            tasks=None if tasks is None else list(tasks),
            fan_outs=None if fan_outs is None else list(fan_outs),
            running=list(running),
        )

    async def _workers(self, rows: Rows, since: datetime) -> list[WorkerFacts]:
        found = await rows.backend.admin.workers(since)
        return sorted(
            (worker for worker in found if worker.name.startswith(rows.tenant)), key=lambda worker: worker.name
        )


def _plan() -> FanOut:
    return FanOut(chunk_size=1, chunk_concurrency=1, max_concurrency=2, tolerated_failure_percentage=0)
