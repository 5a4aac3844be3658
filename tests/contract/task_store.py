"""The contract of `ports.TaskStore`."""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from taskloom import lifecycle
from taskloom.lifecycle import Change, Guard, Patch, Refused, Written
from taskloom.model import Failure, FanOut, HistoryEntry, Kind, Progress, TaskCode, TaskEntity, TaskKey, TaskStatus
from taskloom.ports import Backend, ChunkRow, StatusRange, TaskQuery
from taskloom.values import EncodedJson, Json
from tests.contract.base import HOUR, Contract, cut_short, in_threads, needs, scenario
from tests.contract.model import holds, patched
from tests.support.rows import LEASE, Rows

PENDING, IN_PROGRESS, COMPLETED = TaskStatus.PENDING, TaskStatus.IN_PROGRESS, TaskStatus.COMPLETED
MS = timedelta(milliseconds=1)
AWKWARD: Json = {"": {}, "käse": [1, -2.5, None, True, [], "\u2028\u0085 \n\"'😀\0"], "n": 10**37, "#": "%_;--"}


class TaskStoreContract(Contract):
    """Every sentence of `ports.TaskStore`."""

    # --- create --------------------------------------------------------------------------------------------------

    @scenario
    async def test_a_created_single_task_is_read_back_whole(self, backend: Backend) -> None:
        rows = Rows(backend)
        people = {"created_by": "ann", "updated_by": "ann", "created_ip": "192.0.2.1", "updated_ip": "192.0.2.1"}
        new = rows.single(AWKWARD, name='Käse, "frisch" 🧀', request_id="r-1", **people)
        (task,) = await rows.create(new)
        assert await backend.store.get(task.key) == task

    @scenario
    async def test_a_created_fan_out_is_read_back_whole(self, backend: Backend) -> None:
        rows = Rows(backend)
        tasks = await rows.create(rows.fan_out(3), rows.fan_out(0))
        assert [await backend.store.get(task.key) for task in tasks] == tasks

    @scenario
    async def test_an_input_that_lies_elsewhere_is_known_by_its_reference(self, backend: Backend) -> None:
        rows = Rows(backend)
        tasks = await rows.create(rows.single(input_ref="there/1"), rows.fan_out(3, input_ref="there/2"))
        assert [await backend.store.get(task.key) for task in tasks] == tasks
        assert [task.input for task in tasks] == [None, None]

    @scenario
    async def test_many_are_created_at_once(self, backend: Backend) -> None:
        """More than any backend takes in one request of its own."""
        rows = Rows(backend)
        tasks = await rows.create(*(rows.fan_out(2) if n % 5 == 0 else rows.single({"n": n}) for n in range(130)))
        assert [await backend.store.get(task.key) for task in tasks] == tasks

    @scenario
    async def test_creating_nothing_does_nothing(self, backend: Backend) -> None:
        rows = Rows(backend)
        await backend.store.create([])
        assert await _listed(backend, rows.tenant) == []

    @scenario
    async def test_what_was_answered_outlives_the_use_of_the_backend(self, backend: Backend) -> None:
        """Durable: created, changed and chunk rows are there when everything is opened again."""
        rows = Rows(backend)
        (waiting,) = await rows.create(rows.single(AWKWARD))
        parent = await rows.claimed(rows.fan_out(1))
        child = await rows.sub_task(0, parent)
        row = ChunkRow(parent=parent.key, run=1, chunk=0, succeeded=1, failed=0)
        await backend.store.put_chunk(row)
        backend.close()
        assert await backend.store.get(waiting.key) == waiting
        assert await backend.store.get(parent.key) == parent
        assert await backend.store.get(child.key) == child
        assert await backend.store.list_chunks(parent.key, 1) == [row]

    @needs("pulls_stream")
    @scenario
    async def test_a_created_task_with_dispatch_comes_through_the_stream(self, backend: Backend) -> None:
        """Rule 1, and a task without dispatch asks for no message."""
        rows = Rows(backend)
        kinds = (rows.single, rows.fan_out)
        loud = await rows.create(*(kind() for kind in kinds), *(kind() for kind in kinds))
        await rows.create(*(kind(dispatch=None) for kind in kinds))
        records = await self.records(rows)
        assert {record.image.key: record.image for record in records} == {task.key: task for task in loud}
        assert len(records) == len(loud)
        assert {record.event_name for record in records} == {"INSERT"}

    @needs("pulls_stream")
    @scenario
    async def test_a_task_and_its_record_are_one_write(self, backend: Backend) -> None:
        """Whoever gives up during the creation leaves both or neither."""
        rows = Rows(backend)
        for _ in range(5):
            new = rows.single()
            await cut_short(backend.store.create([new]))
            await rows.create(rows.single(dispatch=None))  # a write later, so that the first one had its time
            is_there = await backend.store.get(new.entity.key) is not None
            assert [record.image.key for record in await self.records(rows)] == [new.entity.key] * is_there

    @needs("pulls_stream")
    @scenario
    async def test_who_finds_a_record_finds_its_task(self, backend: Backend) -> None:
        rows, found = Rows(backend), 0

        async def read() -> None:
            nonlocal found
            while found < 20:
                for record in await self.records(rows):
                    assert await backend.store.get(record.image.key) == record.image
                    found += 1

        async def write() -> None:
            for _ in range(20):
                await rows.create(rows.single())

        await asyncio.gather(write(), read())

    # --- update: what it writes ----------------------------------------------------------------------------------

    @scenario
    async def test_a_change_writes_all_its_values(self, backend: Backend) -> None:
        rows = Rows(backend)
        for task in await self._one_of_each(rows):
            entry = HistoryEntry(at=rows.now, status=COMPLETED, run=2, attempt=3, reason='so "it" is – 😀', by=None)
            change = Change(key=task.key, guard=Guard(), patch=_everything(rows.now, task.kind), history=entry)
            outcome = await backend.store.update(change)
            assert isinstance(outcome, Written)
            assert outcome.entity == patched(task, change)
            assert await backend.store.get(task.key) == outcome.entity

    @scenario
    async def test_a_change_writes_nothing_else(self, backend: Backend) -> None:
        """Each value alone, set and then removed where it can be."""
        rows = Rows(backend)
        for task in await self._one_of_each(rows):
            whole = _everything(rows.now, task.kind)
            changes = [
                Change(key=task.key, guard=Guard(), patch=_only(name, value)) for name, value in whole.items()
            ] + [Change(key=task.key, guard=Guard(), patch=_only(name, None)) for name in whole if name in _REMOVABLE]
            expected = []
            for change in changes:
                task = patched(task, change)
                expected.append(Written(task))
            assert await backend.store.update_many(changes) == expected

    @scenario
    async def test_a_change_may_ask_for_no_answer(self, backend: Backend) -> None:
        """It does the same; its caller just does not get the task."""
        rows = Rows(backend)
        for task in await self._one_of_each(rows):
            change = Change(key=task.key, guard=Guard(), patch={"claim_id": "c"}, returning=False)
            outcome = await backend.store.update(change)
            assert isinstance(outcome, Written)
            assert await backend.store.get(task.key) == patched(task, change)
            assert outcome.entity in (None, patched(task, change))
            late = replace(change, guard=Guard(fence=task.fence + 1))
            assert await backend.store.update(late) == Refused(patched(task, change))

    @scenario
    async def test_version_grows_by_one_with_each_write(self, backend: Backend) -> None:
        rows = Rows(backend)
        for task in await self._one_of_each(rows):
            guards = (Guard(), Guard(fence=task.fence), Guard(fence=task.fence + 1), Guard(run=task.run))
            versions = []
            for guard in guards:
                change = Change(key=task.key, guard=guard, patch={"updated_at": rows.now}, history=_entry(rows.now))
                outcome = await backend.store.update(change)
                versions.append((await rows.stored(task.key)).version)
                told = outcome.entity if isinstance(outcome, Written) else outcome.current
                assert told is not None
                assert told.version == versions[-1]
            first = task.version
            assert versions == [first + 1, first + 2, first + 2, first + 3]

    # --- update: its guard ---------------------------------------------------------------------------------------

    @scenario
    async def test_a_guard_without_conditions_always_holds(self, backend: Backend) -> None:
        rows = Rows(backend)
        for task in await self._standing(rows):
            assert await self._let_through(rows, task, [Guard()]) == [True]

    @scenario
    async def test_guard_status(self, backend: Backend) -> None:
        rows = Rows(backend)
        for task in await self._standing(rows):
            sets = [frozenset(s) for n in range(1, 6) for s in itertools.combinations(TaskStatus, n)]
            passed = await self._let_through(rows, task, [Guard(status=statuses) for statuses in sets])
            assert passed == [IN_PROGRESS in statuses for statuses in sets]

    @scenario
    async def test_guard_fence(self, backend: Backend) -> None:
        """Rule 2: neither an older fence nor one that was never given."""
        rows = Rows(backend)
        for task in await self._standing(rows):
            fences = [0, task.fence - 1, task.fence, task.fence + 1, task.fence * 10]
            passed = await self._let_through(rows, task, [Guard(fence=fence) for fence in fences])
            assert passed == [False, False, True, False, False]

    @scenario
    async def test_guard_run(self, backend: Backend) -> None:
        """Rule 3: what an earlier run of a fan-out sends changes nothing."""
        rows = Rows(backend)
        for task in await self._standing(rows):
            runs = [1, task.run - 1, task.run, task.run + 1]
            passed = await self._let_through(rows, task, [Guard(run=run) for run in runs])
            assert passed == [False, False, True, False]

    @scenario
    async def test_guard_lease(self, backend: Backend) -> None:
        """A lease that ends at an instant has ended by then, to the millisecond."""
        rows = Rows(backend)
        for task in await self._standing(rows):
            until = task.lease_until
            assert until is not None
            instants = [until - HOUR, until - MS, until, until + MS, until + HOUR]
            passed = await self._let_through(rows, task, [Guard(lease_ended_by=at) for at in instants])
            assert passed == [False, False, True, True, True]

    @scenario
    async def test_guard_lease_holds_without_a_lease(self, backend: Backend) -> None:
        rows = Rows(backend)
        for task in await self._standing(rows, lease_until=None):
            assert await self._let_through(rows, task, [Guard(lease_ended_by=rows.now - HOUR)]) == [True]

    @scenario
    async def test_all_of_a_guard_must_hold(self, backend: Backend) -> None:
        rows = Rows(backend)
        for task in await self._standing(rows):
            until = task.lease_until
            assert until is not None
            guards = [
                Guard(status=status, fence=fence, run=run, lease_ended_by=ended)
                for status in (None, frozenset({IN_PROGRESS, PENDING}), frozenset({PENDING}))
                for fence in (None, task.fence, task.fence + 1)
                for run in (None, task.run, task.run + 1)
                for ended in (None, until, until - MS)
            ]
            assert await self._let_through(rows, task, guards) == [holds(guard, task) for guard in guards]

    @scenario
    async def test_a_refused_change_changes_nothing(self, backend: Backend) -> None:
        rows = Rows(backend)
        for task in await self._standing(rows):
            everything = _everything(rows.now, task.kind)
            for guard in (Guard(status=frozenset({PENDING})), Guard(fence=0), Guard(run=1), _lease(rows.now - HOUR)):
                change = Change(key=task.key, guard=guard, patch=everything, history=_entry(rows.now))
                if task.kind is Kind.SFN_TASK:
                    change = replace(change, patch={"updated_at": rows.now}, add={"sub_task_failed_count": 1})
                assert isinstance(await backend.store.update(change), Refused)
                assert await backend.store.get(task.key) == task

    @scenario
    async def test_refused_tells_how_the_task_stands(self, backend: Backend) -> None:
        """Read no earlier than the refusal: it shows what came last."""
        rows = Rows(backend)
        for task in (await rows.claimed(), await rows.sub_task()):
            for done in range(3):
                current = await rows.carry_out(rows.progressed(task, done))
                late = Change(key=task.key, guard=Guard(fence=task.fence - 1), patch={"claim_id": "late"})
                assert await backend.store.update(late) == Refused(current)
                assert await backend.store.update_many([late]) == [Refused(current)]

    @scenario
    async def test_a_change_of_a_task_that_is_not_there_is_refused(self, backend: Backend) -> None:
        """Only `absent` creates, whatever else a guard says."""
        rows = Rows(backend)
        parent = await rows.claimed(rows.fan_out())
        code = backend.ids.code(rows.now)
        keys = [
            TaskKey.single(rows.tenant, rows.task_type, code),
            TaskKey.step_function(rows.tenant, rows.task_type, code),
            TaskKey.sub_task(rows.tenant, rows.task_type, code, 0),
            TaskKey.sub_task(rows.tenant, rows.task_type, parent.code, 0),
        ]
        guards = [Guard(), Guard(status=frozenset({PENDING})), Guard(fence=0), Guard(run=1), _lease(rows.now)]
        for key, guard in itertools.product(keys, guards):
            change = Change(key=key, guard=guard, patch={"updated_at": rows.now})
            assert await backend.store.update(change) == Refused(None)
            assert await backend.store.get(key) is None

    # --- update: sub-tasks that are not there yet ----------------------------------------------------------------

    @scenario
    async def test_absent_creates_the_sub_task(self, backend: Backend) -> None:
        rows = Rows(backend)
        parent = await rows.claimed(rows.fan_out(3, name="Katzen", request_id="r", created_by="ann", created_ip="::1"))
        change, fresh = lifecycle.first_claim(parent, 1, {"key": "v"}, rows.claimant())
        assert isinstance(await backend.store.update(change), Written)
        stored = await rows.stored(fresh.key)
        assert stored == replace(
            fresh,
            name=rows.task_type,
            input=None,
            request_id=None,
            created_by=None,
            created_ip=None,
            version=stored.version,
        )

    @scenario
    async def test_absent_tells_what_it_created(self, backend: Backend) -> None:
        rows = Rows(backend)
        parent = await rows.claimed(rows.fan_out())
        change = replace(rows.first_claim(parent, 0), returning=True)
        outcome = await backend.store.update(change)
        assert outcome == Written(await rows.stored(change.key))

    @scenario
    async def test_absent_refuses_what_is_there(self, backend: Backend) -> None:
        """Running or ended: nobody creates a sub-task twice."""
        rows = Rows(backend)
        parent = await rows.claimed(rows.fan_out())
        task = await rows.sub_task(0, parent)
        for returning in (True, False):
            again = replace(rows.first_claim(parent, 0), returning=returning)
            assert await backend.store.update(again) == Refused(task)
            assert await backend.store.get(task.key) == task
        ended = await rows.carry_out(rows.completed(task))
        assert await backend.store.update(again) == Refused(ended)

    @scenario
    async def test_a_sub_task_is_claimed_again_like_any_task(self, backend: Backend) -> None:
        """After its lease ended, and after it waited for its next attempt."""
        rows = Rows(backend)
        task = await rows.sub_task()
        later = rows.now + LEASE
        again = await rows.carry_out(rows.claim(task, who=rows.claimant(now=later)))
        assert (again.status, again.attempt, again.fence) == (IN_PROGRESS, 2, 2)
        waiting = await rows.carry_out(rows.given_back(again))
        assert (waiting.status, waiting.lease_until) == (PENDING, None)
        last = await rows.carry_out(rows.claim(waiting))
        assert (last.status, last.fence) == (IN_PROGRESS, 3)
        assert [entry.status for entry in last.history] == [IN_PROGRESS, IN_PROGRESS, PENDING, IN_PROGRESS]

    # --- update: history -----------------------------------------------------------------------------------------

    @scenario
    async def test_history_is_oldest_first_and_begins_with_the_creation(self, backend: Backend) -> None:
        rows = Rows(backend)
        task = await rows.claimed()
        waiting = await rows.carry_out(rows.given_back(task))
        claimed = await rows.carry_out(rows.claim(waiting))
        await rows.carry_out(rows.progressed(claimed, 1))  # no change of the status, so no entry
        ended = await rows.carry_out(rows.failed(claimed))
        statuses = [PENDING, IN_PROGRESS, PENDING, IN_PROGRESS, TaskStatus.FAILED]
        assert [entry.status for entry in ended.history] == statuses
        assert ended.history[:4] == claimed.history
        assert [entry.reason for entry in ended.history] == [None, None, "the worker stopped", None, "no"]
        assert [entry.by for entry in ended.history] == ["ann", *["worker"] * 4]

    @scenario
    async def test_a_status_and_its_history_are_seen_together(self, backend: Backend) -> None:
        """Rule 5: whoever reads between two writes finds them in step."""
        rows = Rows(backend)
        (task,) = await rows.create(rows.single())
        done = asyncio.Event()

        async def read() -> None:
            while not done.is_set():
                seen = await rows.stored(task.key)
                assert seen.history[-1].status is seen.status

        async def write() -> None:
            for _ in range(15):
                claimed = await rows.carry_out(rows.claim(await rows.stored(task.key)))
                await rows.carry_out(rows.given_back(claimed))
            done.set()

        await asyncio.gather(read(), read(), write())

    @scenario
    async def test_a_caller_that_gives_up_leaves_no_half_write(self, backend: Backend) -> None:
        """Rule 5: status and history entry stand or fall together, also when nobody waits for the answer."""
        rows = Rows(backend)
        for _ in range(5):
            (task,) = await rows.create(rows.single())
            change = rows.claim(task)
            await cut_short(backend.store.update(change))
            await rows.create(rows.single())  # a write later, so that the first one had its time
            assert await backend.store.get(task.key) in (task, patched(task, change))

    @scenario
    async def test_a_history_may_begin_late(self, backend: Backend) -> None:
        """A change need not have an entry, nor need the one that creates a sub-task."""
        rows = Rows(backend)
        parent = await rows.claimed(rows.fan_out())
        task = await rows.carry_out(replace(rows.first_claim(parent, 0), history=None))
        assert list(task.history) == []
        ended = await rows.carry_out(rows.completed(task))
        assert [entry.status for entry in ended.history] == [COMPLETED]

    # --- update: counters ----------------------------------------------------------------------------------------

    @scenario
    async def test_amounts_are_added(self, backend: Backend) -> None:
        rows = Rows(backend)
        parent = await rows.claimed(rows.fan_out(100))
        for succeeded, failed in ((3, 0), (0, 2), (5, 1), (0, 0)):
            change = lifecycle.counted(parent.key, 1, succeeded=succeeded, failed=failed, now=rows.now)
            expected = patched(parent, change)
            parent = await rows.carry_out(change)
            assert parent == expected
        assert (parent.attributes.sub_task_succeed_count, parent.attributes.sub_task_failed_count) == (8, 3)

    @scenario
    async def test_additions_from_all_sides_are_all_counted(self, backend: Backend) -> None:
        """Nobody reads a counter to write it."""
        rows = Rows(backend)
        parent = await rows.claimed(rows.fan_out(100))
        changes = [lifecycle.counted(parent.key, 1, succeeded=1, failed=2, now=rows.now)] * 20
        outcomes = await asyncio.gather(*map(backend.store.update, changes))
        assert all(isinstance(outcome, Written) for outcome in outcomes)
        attributes = (await rows.stored(parent.key)).attributes
        assert (attributes.sub_task_succeed_count, attributes.sub_task_failed_count) == (20, 40)

    # --- update: dispatch ----------------------------------------------------------------------------------------

    @needs("pulls_stream")
    @scenario
    async def test_a_change_that_sets_dispatch_comes_through_the_stream(self, backend: Backend) -> None:
        """Rule 1: whatever needs a message gets it, whoever wrote it and whether or not it asked for an answer."""
        rows = Rows(backend)
        tasks = await rows.create(*(kind(dispatch=None) for kind in (rows.single, rows.fan_out)))
        for task, returning in itertools.product(tasks, (True, False)):
            token = backend.ids.token()
            change = Change(key=task.key, guard=Guard(), patch={"dispatch": token}, returning=returning)
            for write in (backend.store.update, lambda change: backend.store.update_many([change])):
                await write(change)
                resumed = await rows.stored(task.key)
                assert resumed.dispatch == token
                records = await self.records(rows)
                assert [(record.event_name, record.image) for record in records] == [("MODIFY", resumed)]

    @needs("pulls_stream")
    @scenario
    async def test_nothing_else_comes_through_the_stream(self, backend: Backend) -> None:
        """Neither refused changes nor those that set no dispatch, and nothing of sub-tasks and chunks."""
        rows = Rows(backend)
        single, fan_out = await rows.create(rows.single(dispatch=None), rows.fan_out(dispatch=None))
        for task in (single, fan_out):
            for patch in (Patch(dispatch=None), Patch(updated_at=rows.now)):
                await rows.carry_out(Change(key=task.key, guard=Guard(), patch=patch))
            late = Change(key=task.key, guard=Guard(fence=9), patch={"dispatch": "late"})
            assert isinstance(await backend.store.update(late), Refused)
            claimed = await rows.carry_out(rows.claim(await rows.stored(task.key)))
        child = await rows.sub_task(0, claimed)
        await rows.carry_out(rows.completed(child))
        await backend.store.put_chunk(ChunkRow(parent=fan_out.key, run=1, chunk=0, succeeded=1, failed=0))
        assert await self.records(rows) == []

    @needs("pulls_stream")
    @scenario
    async def test_a_change_and_its_record_are_one_write(self, backend: Backend) -> None:
        """Whoever gives up during the change leaves both or neither."""
        rows = Rows(backend)
        for _ in range(5):
            (task,) = await rows.create(rows.single(dispatch=None))
            await cut_short(backend.store.update(Change(key=task.key, guard=Guard(), patch={"dispatch": "d"})))
            await rows.create(rows.single(dispatch=None))  # a write later, so that the first one had its time
            is_set = (await rows.stored(task.key)).dispatch is not None
            assert [record.image.key for record in await self.records(rows)] == [task.key] * is_set

    # --- update: who is faster -----------------------------------------------------------------------------------

    @scenario
    async def test_a_repeated_claim_finds_its_own_claim_id(self, backend: Backend) -> None:
        """Rule 2: a refused write that finds its own claim id had been carried out; its answer was lost."""
        rows = Rows(backend)
        (task,) = await rows.create(rows.single())
        claim = rows.claim(task)
        claimed = await rows.carry_out(claim)
        ended = rows.completed(claimed)
        for change in (claim, ended):
            await backend.store.update(change)
            outcome = await backend.store.update(change)
            assert isinstance(outcome, Refused)
            assert lifecycle.is_mine(change, outcome)
        outcome = await backend.store.update(rows.claim(task))
        assert isinstance(outcome, Refused)
        assert not lifecycle.is_mine(claim, outcome)

    @scenario
    async def test_one_of_many_claims_wins(self, backend: Backend) -> None:
        """Rule 2: one owner at a time; everybody else learns who it is."""
        rows = Rows(backend)
        parent = await rows.claimed(rows.fan_out(1))
        (task,) = await rows.create(rows.single())
        for claims in ([rows.claim(task) for _ in range(30)], [rows.first_claim(parent, 0) for _ in range(30)]):
            outcomes = await asyncio.gather(*map(backend.store.update, claims))
            _one_winner(claims, outcomes)

    def test_one_of_many_claims_wins_over_threads(self, backend: Backend) -> None:
        """Rule 2, from several event loops at the same time."""
        rows = Rows(backend)

        async def prepare() -> tuple[TaskEntity, Sequence[TaskEntity]]:
            return await rows.claimed(rows.fan_out(6)), await rows.create(*(rows.single() for _ in range(6)))

        parent, tasks = asyncio.run(prepare())

        async def claim(_: int) -> list[tuple[Change, Written | Refused]]:
            changes = [rows.claim(task) for task in tasks] + [rows.first_claim(parent, index) for index in range(6)]
            return [(change, await backend.store.update(change)) for change in changes]

        for tries in zip(*in_threads(6, claim), strict=True):
            _one_winner([change for change, _ in tries], [outcome for _, outcome in tries])

    @scenario
    async def test_the_end_of_a_task_races_its_next_claim(self, backend: Backend) -> None:
        """Rule 2: when the lease has ended, either the owner still ends the task, or the next one has it."""
        rows = Rows(backend)
        late = rows.claimant(now=rows.now + LEASE)
        for task in [await rows.claimed() for _ in range(10)] + [await rows.sub_task() for _ in range(5)]:
            pair = [rows.completed(task), rows.claim(task, who=replace(late, claim_id=backend.ids.token()))]
            outcomes = await asyncio.gather(*map(backend.store.update, pair))
            _one_winner(pair, outcomes)

    # --- update_many ---------------------------------------------------------------------------------------------

    @scenario
    async def test_changes_are_carried_out_in_their_order(self, backend: Backend) -> None:
        """Each meets what its predecessors left."""
        rows = Rows(backend)
        (task,) = await rows.create(rows.single())
        claim = rows.claim(task)
        claimed = patched(task, claim)
        changes = [claim, rows.progressed(claimed, 1), rows.progressed(claimed, 2), rows.completed(claimed), claim]
        changes = [replace(change, returning=True) for change in changes]
        expected: list[Written | Refused] = []
        for change in changes[:-1]:
            task = patched(task, change)
            expected.append(Written(task))
        assert await backend.store.update_many(changes) == [*expected, Refused(task)]
        assert await backend.store.get(task.key) == task

    @scenario
    async def test_a_refused_change_holds_up_no_other(self, backend: Backend) -> None:
        """Not atomic together."""
        rows = Rows(backend)
        tasks = await rows.create(*(rows.single() for _ in range(5)))
        claimed = await rows.carry_out(rows.claim(tasks[2]))
        outcomes = await backend.store.update_many([rows.claim(task) for task in tasks])
        assert [isinstance(outcome, Written) for outcome in outcomes] == [True, True, False, True, True]
        assert outcomes[2] == Refused(claimed)
        for task in tasks:
            assert (await rows.stored(task.key)).status is IN_PROGRESS

    @scenario
    async def test_the_end_of_one_sub_task_and_the_claim_of_the_next_go_together(self, backend: Backend) -> None:
        rows = Rows(backend)
        parent = await rows.claimed(rows.fan_out(4))
        task = await rows.sub_task(0, parent)
        for index in range(1, 4):
            outcomes = await backend.store.update_many([rows.completed(task), rows.first_claim(parent, index)])
            assert all(isinstance(outcome, Written) for outcome in outcomes)
            (ended, task) = await backend.store.list_sub_tasks(parent.key, range(index - 1, index + 1))
            assert (ended.status, task.status) == (COMPLETED, IN_PROGRESS)

    @scenario
    async def test_no_change_is_seen_before_its_predecessor(self, backend: Backend) -> None:
        """One is durable before, or together with, its successor."""
        rows = Rows(backend)
        pairs = [await rows.create(rows.single(), rows.single()) for _ in range(15)]
        done = asyncio.Event()

        async def read() -> None:
            while not done.is_set():
                for first, second in pairs:
                    late, early = await rows.stored(second.key), await rows.stored(first.key)
                    assert early.fence >= late.fence

        async def write() -> None:
            for pair in pairs:
                await backend.store.update_many([rows.claim(task) for task in pair])
            done.set()

        await asyncio.gather(read(), write())

    @scenario
    async def test_a_caller_that_gives_up_leaves_no_change_without_its_predecessor(self, backend: Backend) -> None:
        rows = Rows(backend)
        for _ in range(5):
            pair = await rows.create(rows.single(), rows.single())
            await cut_short(backend.store.update_many([rows.claim(task) for task in pair]))
            await rows.create(rows.single())  # a write later, so that the first one had its time
            early, late = [(await rows.stored(task.key)).fence for task in pair]
            assert early >= late

    @scenario
    async def test_many_changes_are_carried_out(self, backend: Backend) -> None:
        """None at all, and more than any backend takes in one request of its own."""
        rows = Rows(backend)
        assert list(await backend.store.update_many([])) == []
        parent = await rows.claimed(rows.fan_out(130))
        claims = [rows.first_claim(parent, index) for index in range(130)]
        outcomes = await backend.store.update_many(claims)
        assert len(outcomes) == 130
        assert all(isinstance(outcome, Written) for outcome in outcomes)
        assert [task.index for task in await backend.store.list_sub_tasks(parent.key, range(130))] == [*range(130)]

    # --- get -----------------------------------------------------------------------------------------------------

    @scenario
    async def test_get_sees_every_write_that_was_answered(self, backend: Backend) -> None:
        """From any event loop and any thread."""
        rows = Rows(backend)
        (task,) = await rows.create(rows.single())

        async def get() -> TaskEntity | None:
            return await backend.store.get(task.key)

        def elsewhere() -> TaskEntity | None:
            return asyncio.run(get())

        assert await asyncio.to_thread(elsewhere) == task
        task = await rows.carry_out(rows.claim(task))
        for done in range(10):
            change = rows.progressed(task, done)
            expected = patched(await rows.stored(task.key), change)
            assert isinstance(await backend.store.update(change), Written)
            assert await backend.store.get(task.key) == expected
            assert await asyncio.to_thread(elsewhere) == expected

    @scenario
    async def test_get_finds_nothing_under_any_other_key(self, backend: Backend) -> None:
        rows, other = Rows(backend), Rows(backend)
        (single,) = await rows.create(rows.single())
        parent = await rows.claimed(rows.fan_out())
        child = await rows.sub_task(1, parent)
        tenant, task_type = rows.tenant, rows.task_type
        for key in (
            TaskKey.single(tenant, task_type, parent.code),
            TaskKey.step_function(tenant, task_type, single.code),
            TaskKey.single(tenant, other.task_type, single.code),
            TaskKey.step_function(tenant, other.task_type, parent.code),
            TaskKey.single(other.tenant, task_type, single.code),  # rule 7
            TaskKey.step_function(other.tenant, task_type, parent.code),
            TaskKey.sub_task(other.tenant, task_type, parent.code, 1),
            TaskKey.sub_task(tenant, other.task_type, parent.code, 1),
            TaskKey.sub_task(tenant, task_type, single.code, 1),
            TaskKey.sub_task(tenant, task_type, parent.code, 0),
            TaskKey.sub_task(tenant, task_type, parent.code, 1001),
        ):
            assert await backend.store.get(key) is None
        for task in (single, parent, child):
            assert await backend.store.get(TaskKey.parse(task.id)) == task

    # --- list_tasks ----------------------------------------------------------------------------------------------

    @scenario
    async def test_list_is_in_the_order_of_codes(self, backend: Backend) -> None:
        """Whatever order they were stored in, and as whole as `get` has them."""
        rows = Rows(backend)
        new = [rows.single({"n": n}, name=f"task {n}") for n in range(7)]
        await rows.create(*(new[n] for n in (3, 0, 6, 5, 1, 4, 2)))
        tasks = [row.entity for row in new]
        tasks[2] = await rows.carry_out(rows.claim(tasks[2]))
        for newest_first in (True, False):
            found = await _listed(backend, rows.tenant, newest_first=newest_first)
            assert found == (tasks[::-1] if newest_first else tasks)

    @scenario
    async def test_list_gives_at_most_limit_and_goes_on_behind_it(self, backend: Backend) -> None:
        rows = Rows(backend)
        tasks = await rows.create(*(rows.single() for _ in range(6)))
        for newest_first, limit in itertools.product((True, False), (1, 2, 3, 4, 6, 7, 1000)):
            found = await _listed(backend, rows.tenant, newest_first=newest_first, limit=limit)
            assert [task.code for task in found] == [task.code for task in (tasks[::-1] if newest_first else tasks)]

    @scenario
    async def test_list_goes_on_behind_any_code(self, backend: Backend) -> None:
        """Also behind one that no task has (any more)."""
        rows = Rows(backend)
        codes = [backend.ids.code(rows.now) for _ in range(7)]
        await rows.create(*(rows.single(code=code) for code in codes[1::2]))
        for position, newest_first in itertools.product(range(7), (True, False)):
            after = TaskCode(codes[position])
            found = await _listed(backend, rows.tenant, newest_first=newest_first, after=after)
            behind = [code for code in codes[1::2] if (code < after if newest_first else code > after)]
            assert [task.code for task in found] == sorted(behind, reverse=newest_first)

    @scenario
    async def test_list_picks_by_kind_status_and_type(self, backend: Backend) -> None:
        """Each alone, and all of them page by page."""
        rows = Rows(backend)
        types = [rows.task_type, rows.task_type + "s", rows.task_type[:-1], rows.task_type.upper()]
        tasks = await rows.create(
            *(kind(task_type=type_) for type_ in types for kind in (rows.single, rows.fan_out) for _ in range(3))
        )
        for position in range(0, len(tasks), 2):
            tasks[position] = await rows.carry_out(rows.claim(tasks[position]))
        for position in range(0, len(tasks), 4):
            if tasks[position].kind is Kind.TASK:
                tasks[position] = await rows.carry_out(rows.completed(tasks[position]))
        statuses = (None, PENDING, IN_PROGRESS, COMPLETED, TaskStatus.CANCELLED)
        for kind, status, task_type in itertools.product((Kind.TASK, Kind.SFN_TASK), statuses, (None, *types)):
            found = await _listed(backend, rows.tenant, kind=kind, status=status, task_type=task_type, limit=2)
            assert found == [
                task
                for task in reversed(tasks)
                if task.kind is kind and status in (None, task.status) and task_type in (None, task.task_type)
            ]

    @scenario
    async def test_list_finds_what_is_rare(self, backend: Backend) -> None:
        """Among so many tasks that a page comes back short, or empty, though more follow."""
        rows, other = Rows(backend), Rows(backend)
        new = [rows.single(dispatch=None) for _ in range(self.many)]
        for position in (0, 1, self.many // 2, self.many - 1):
            new[position] = rows.single(dispatch=None, task_type=other.task_type)
        await rows.create(*new)
        rare = [row.entity for row in new if row.entity.task_type == other.task_type]
        for position in (0, 2):
            rare[position] = await rows.carry_out(rows.claim(rare[position]))
        rare[0] = await rows.carry_out(rows.failed(rare[0]))
        for newest_first, limit in itertools.product((True, False), (1, 2, 100)):
            for filters, expected in (
                ({"task_type": other.task_type}, rare),
                ({"status": TaskStatus.FAILED}, rare[:1]),
                ({"status": IN_PROGRESS}, rare[2:3]),
                ({"status": PENDING, "task_type": other.task_type}, [rare[1], rare[3]]),
            ):
                found = await _listed(backend, rows.tenant, newest_first=newest_first, limit=limit, **filters)
                assert found == (expected[::-1] if newest_first else expected)

    @scenario
    async def test_list_meets_neither_sub_tasks_nor_chunks(self, backend: Backend) -> None:
        rows = Rows(backend)
        parent = await rows.claimed(rows.fan_out())
        await rows.sub_task(0, parent)
        await backend.store.put_chunk(ChunkRow(parent=parent.key, run=1, chunk=0, succeeded=1, failed=0))
        assert await _listed(backend, rows.tenant, kind=Kind.SFN_TASK) == [parent]
        assert await _listed(backend, rows.tenant) == []

    # --- sub-tasks -----------------------------------------------------------------------------------------------

    @scenario
    async def test_sub_tasks_come_in_index_order(self, backend: Backend) -> None:
        """Those that are stored; also where one shard ends and the next begins."""
        rows = Rows(backend)
        parent = await rows.claimed(rows.fan_out(1005))
        stored = [0, 2, 9, 10, 11, 100, 998, 999, 1000, 1001, 1004]
        await backend.store.update_many([rows.first_claim(parent, index) for index in reversed(stored)])
        for indexes in (range(1005), range(3), range(1, 3), range(9, 12), range(995, 1003), range(999, 1000)):
            found = await backend.store.list_sub_tasks(parent.key, indexes)
            assert [task.index for task in found] == [index for index in stored if index in indexes]
            for task in found:
                assert task == await backend.store.get(task.key)
        for indexes in (range(0), range(5, 5), range(3, 9), range(1005, 1010)):
            assert list(await backend.store.list_sub_tasks(parent.key, indexes)) == []

    @scenario
    async def test_sub_tasks_are_those_of_their_parent(self, backend: Backend) -> None:
        rows = Rows(backend)
        first, second = await rows.claimed(rows.fan_out(2)), await rows.claimed(rows.fan_out(2))
        await rows.sub_task(0, first)
        task = await rows.sub_task(1, second)
        assert await backend.store.list_sub_tasks(second.key, range(2)) == [task]

    @scenario
    async def test_statuses_are_told_in_ranges(self, backend: Backend) -> None:
        """As few as tell it, over the borders of shards; what is not stored is in none."""
        rows = Rows(backend)
        parent = await rows.claimed(rows.fan_out(1005))
        stored = [0, 1, 2, 5, 6, 998, 999, 1000, 1001, 1004]
        await backend.store.update_many([rows.first_claim(parent, index) for index in stored])
        for index, end in ((1, rows.completed), (2, rows.completed), (6, rows.failed), (1000, rows.completed)):
            key = TaskKey.sub_task(rows.tenant, rows.task_type, parent.code, index)
            await rows.carry_out(end(await rows.stored(key)))
        expected = [
            StatusRange(0, 1, IN_PROGRESS),
            StatusRange(1, 3, COMPLETED),
            StatusRange(5, 6, IN_PROGRESS),
            StatusRange(6, 7, TaskStatus.FAILED),
            StatusRange(998, 1000, IN_PROGRESS),
            StatusRange(1000, 1001, COMPLETED),
            StatusRange(1001, 1002, IN_PROGRESS),
            StatusRange(1004, 1005, IN_PROGRESS),
        ]
        assert list(await backend.store.list_sub_task_statuses(parent.key, range(1005))) == expected
        assert list(await backend.store.list_sub_task_statuses(parent.key, range(2, 6))) == [
            StatusRange(2, 3, COMPLETED),
            StatusRange(5, 6, IN_PROGRESS),
        ]
        for indexes in (range(0), range(3, 5), range(1005, 1010)):
            assert list(await backend.store.list_sub_task_statuses(parent.key, indexes)) == []

    @scenario
    async def test_statuses_are_those_of_the_parent(self, backend: Backend) -> None:
        """Rule 7: neither of another fan-out, nor of another tenant's of the same code."""
        rows = Rows(backend)
        first, second = await rows.claimed(rows.fan_out(2)), await rows.claimed(rows.fan_out(2))
        await rows.sub_task(0, first)
        await rows.sub_task(1, second)
        assert list(await backend.store.list_sub_task_statuses(second.key, range(2))) == [
            StatusRange(1, 2, IN_PROGRESS)
        ]
        foreign = TaskKey.step_function(rows.tenant + "-1", rows.task_type, second.code)
        assert list(await backend.store.list_sub_task_statuses(foreign, range(2))) == []

    # --- chunk rows ----------------------------------------------------------------------------------------------

    @scenario
    async def test_a_chunk_ends_once(self, backend: Backend) -> None:
        """Rule 4: a repeat changes nothing, whatever it says."""
        rows = Rows(backend)
        parent = await rows.claimed(rows.fan_out())
        row = ChunkRow(parent=parent.key, run=1, chunk=0, succeeded=2, failed=1)
        assert await backend.store.put_chunk(row) is True
        for repeat in (row, replace(row, succeeded=3, failed=0)):
            assert await backend.store.put_chunk(repeat) is False
        assert await backend.store.list_chunks(parent.key, 1) == [row]

    @scenario
    async def test_one_of_many_ends_a_chunk(self, backend: Backend) -> None:
        rows = Rows(backend)
        parent = await rows.claimed(rows.fan_out())
        row = ChunkRow(parent=parent.key, run=1, chunk=0, succeeded=2, failed=1)
        first = await asyncio.gather(*(backend.store.put_chunk(row) for _ in range(20)))
        assert sorted(first) == [False] * 19 + [True]

    @scenario
    async def test_chunks_come_in_their_order_and_by_run(self, backend: Backend) -> None:
        rows = Rows(backend)
        one, other = await rows.claimed(rows.fan_out(99)), await rows.claimed(rows.fan_out(99))
        chunks = [
            ChunkRow(parent=parent.key, run=run, chunk=chunk, succeeded=chunk, failed=run)
            for parent in (one, other)
            for run in (1, 2, 11)
            for chunk in (0, 2, 9, 10, 11, 100, 9999)
        ]
        for row in reversed(chunks):
            assert await backend.store.put_chunk(row) is True
        for parent, run in itertools.product((one, other), (1, 2, 3, 11)):
            expected = [row for row in chunks if row.parent == parent.key and row.run == run]
            assert list(await backend.store.list_chunks(parent.key, run)) == expected

    # --- tenants (rule 7) ----------------------------------------------------------------------------------------

    @scenario
    async def test_tenants_are_listed_apart(self, backend: Backend) -> None:
        """However much their names look alike, and with every cursor of somebody else."""
        rows = Rows(backend)
        tenants = [rows.tenant, rows.tenant + "_", rows.tenant[:-1], rows.tenant + "-1", rows.tenant.upper()]
        by_tenant = {
            tenant: await rows.create(
                *(kind(tenant_code=tenant) for kind in (rows.single, rows.fan_out) for _ in range(2))
            )
            for tenant in tenants
        }
        for tenant, kind in itertools.product(tenants, (Kind.TASK, Kind.SFN_TASK)):
            own = [task for task in by_tenant[tenant] if task.kind is kind]
            assert await _listed(backend, tenant, kind=kind, newest_first=False, limit=1) == own
            assert await _listed(backend, tenant, kind=kind, newest_first=False, task_type=rows.task_type) == own
            for stranger in (task for tasks in by_tenant.values() for task in tasks):
                found = await _listed(backend, tenant, kind=kind, after=TaskCode(stranger.code), newest_first=False)
                assert found == [task for task in own if task.code > stranger.code]

    @scenario
    async def test_the_same_code_in_two_tenants_is_two_tasks(self, backend: Backend) -> None:
        rows, other = Rows(backend), Rows(backend)
        for kind, stranger in ((rows.single, other.single), (rows.fan_out, other.fan_out)):
            (mine,) = await rows.create(kind("mine") if kind is rows.single else kind())
            (theirs,) = await other.create(stranger(code=mine.code, task_type=mine.task_type, name="theirs"))
            mine = await rows.carry_out(rows.claim(mine))
            assert await backend.store.get(theirs.key) == theirs
            assert await _listed(backend, rows.tenant, kind=mine.kind) == [mine]
            assert await _listed(backend, other.tenant, kind=mine.kind) == [theirs]

    @scenario
    async def test_the_same_code_in_two_tenants_is_two_fan_outs(self, backend: Backend) -> None:
        """Sub-tasks and chunk rows belong to the tenant of their parent."""
        rows, other = Rows(backend), Rows(backend)
        mine = await rows.claimed(rows.fan_out())
        theirs = await other.claimed(other.fan_out(code=mine.code, task_type=mine.task_type))
        child = await rows.sub_task(0, mine)
        row = ChunkRow(parent=mine.key, run=1, chunk=0, succeeded=1, failed=0)
        await backend.store.put_chunk(row)
        assert list(await backend.store.list_sub_tasks(theirs.key, range(3))) == []
        assert list(await backend.store.list_chunks(theirs.key, 1)) == []
        twin = await other.sub_task(0, theirs)
        twin = await other.carry_out(other.completed(twin))
        assert await backend.store.put_chunk(replace(row, parent=theirs.key, failed=1)) is True
        assert await backend.store.list_sub_tasks(mine.key, range(3)) == [child]
        assert await backend.store.list_sub_tasks(theirs.key, range(3)) == [twin]
        assert list(await backend.store.list_chunks(mine.key, 1)) == [row]

    @scenario
    async def test_nobody_changes_the_task_of_another_tenant(self, backend: Backend) -> None:
        rows, other = Rows(backend), Rows(backend)
        single, parent = await rows.claimed(), await rows.claimed(rows.fan_out())
        child = await rows.sub_task(0, parent)
        type_ = rows.task_type
        for task, key in (
            (single, TaskKey.single(other.tenant, type_, single.code)),
            (parent, TaskKey.step_function(other.tenant, type_, parent.code)),
            (child, TaskKey.sub_task(other.tenant, type_, child.code, 0)),
        ):
            change = Change(key=key, guard=Guard(), patch={"claim_id": "stranger"}, history=_entry(rows.now))
            assert await backend.store.update(change) == Refused(None)
            assert await backend.store.get(task.key) == task

    # --- helpers -------------------------------------------------------------------------------------------------

    async def _one_of_each(self, rows: Rows) -> list[TaskEntity]:
        """A claimed task of each kind."""
        return [await rows.claimed(), await rows.claimed(rows.fan_out()), await rows.sub_task()]

    async def _standing(self, rows: Rows, **values: Any) -> list[TaskEntity]:
        """A task of each kind in run 3 with fence 5 and a lease for an hour, unless *values* say otherwise."""
        patch: Any = {"run": 3, "fence": 5, "lease_until": rows.now + HOUR} | values
        return [
            await rows.carry_out(Change(key=task.key, guard=Guard(), patch=patch))
            for task in await self._one_of_each(rows)
        ]

    async def _let_through(self, rows: Rows, task: TaskEntity, guards: Sequence[Guard]) -> list[bool]:
        """Which of the guards let a change of *task* through; what they look at stays as it is."""
        changes = [Change(key=task.key, guard=guard, patch={"claim_id": f"c{n}"}) for n, guard in enumerate(guards)]
        passed = []
        for change, outcome in zip(changes, await rows.backend.store.update_many(changes), strict=True):
            told = outcome.entity if isinstance(outcome, Written) else outcome.current
            assert told is not None
            passed.append(told.claim_id == change.patch["claim_id"])
            assert isinstance(outcome, Written) == passed[-1]
        # One on its own goes the same way as many together.
        alone = Change(key=task.key, guard=guards[0], patch={"claim_id": "alone"})
        assert isinstance(await rows.backend.store.update(alone), Written) == passed[0]
        assert ((await rows.stored(task.key)).claim_id == "alone") == passed[0]
        return passed


_REMOVABLE = {
    "claim_id",
    "dispatch",
    "error",
    "execution_arn",
    "fan_out",
    "finished_at",
    "lease_until",
    "next_attempt_at",
    "progress",
    "result_ref",
    "results",
    "started_at",
}


def _everything(now: datetime, kind: Kind) -> Patch:
    """A value for all that can be written of a task of this kind."""
    patch: Patch = {
        "status": COMPLETED,
        "run": 4,
        "attempt": 7,
        "fence": 9,
        "claim_id": "claim-id",
        "lease_until": now + HOUR + MS,
        "next_attempt_at": now + 2 * HOUR,
        "created_at": now - HOUR,
        "updated_at": now + MS,
        "started_at": now - 2 * MS,
        "finished_at": now + 3 * MS,
        "progress": Progress(done=2.5, total=10, message="half – 50 %"),
        "results": EncodedJson('[[{"a":1},null],["\u2028"]]'),
        "result_ref": "there/1",
        "error": Failure(type="ValueError", message='no "way"', traceback="File …\n  1/0", attempt=7, will_retry=True),
    }
    if kind is not Kind.SUB_TASK:
        patch["dispatch"] = "dispatch"
    if kind is Kind.SFN_TASK:
        patch["execution_arn"] = "arn:another"
        patch["sub_task_succeed_count"] = 5
        patch["sub_task_failed_count"] = 6
        patch["fan_out"] = FanOut(
            chunk_size=3, chunk_concurrency=2, max_concurrency=7, tolerated_failure_percentage=12.5
        )
    return patch


def _only(name: str, value: object) -> Patch:
    patch: Any = {name: value}
    return patch  # type: ignore[no-any-return]


def _entry(now: datetime) -> HistoryEntry:
    return HistoryEntry(at=now, status=IN_PROGRESS, run=1, attempt=1)


def _lease(at: datetime) -> Guard:
    return Guard(lease_ended_by=at)


def _one_winner(changes: Sequence[Change], outcomes: Sequence[Written | Refused]) -> None:
    """Assert that exactly one change was carried out and that the others were told so."""
    winners = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Written)]
    assert len(winners) == 1
    claim_id = changes[winners[0]].patch["claim_id"]
    for outcome in outcomes:
        if isinstance(outcome, Refused):
            assert outcome.current is not None
            assert outcome.current.claim_id == claim_id


async def _listed(backend: Backend, tenant: str, **fields: Any) -> list[TaskEntity]:
    """All tasks that a query finds, page by page; each page is checked for its limit."""
    values: dict[str, Any] = {"tenant_code": tenant, "kind": Kind.TASK, "limit": 100}
    query = TaskQuery(**(values | fields))
    found: list[TaskEntity] = []
    for _ in range(1000):
        page, after = await backend.store.list_tasks(query)
        assert len(page) <= query.limit
        found += page
        if after is None:
            return found
        query = replace(query, after=after)
    raise AssertionError("the list has no end")
