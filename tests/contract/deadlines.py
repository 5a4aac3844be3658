"""The contract of `ports.TaskStore.list_overdue` and `next_deadline`."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from taskloom import lifecycle
from taskloom.lifecycle import Change
from taskloom.model import TaskEntity, TaskKey, TaskOptions
from taskloom.ports import Backend, NewTaskRow
from tests.contract.base import HOUR, Contract, scenario
from tests.support.rows import Rows

MS = timedelta(milliseconds=1)


class DeadlinesContract(Contract):
    """Every sentence of both. No task of `backend` has a deadline at first, and nobody else works on it."""

    @scenario
    async def test_a_store_without_deadlines_has_nothing_overdue(self, backend: Backend) -> None:
        rows = Rows(backend)
        await rows.create(rows.single(), rows.fan_out())
        await self.elapse(backend, self.tick)
        assert list(await backend.store.list_overdue(100)) == []
        assert await backend.store.next_deadline() is None

    @scenario
    async def test_a_task_is_overdue_from_its_deadline_on(self, backend: Backend) -> None:
        """At that very instant, not before; and as long as it is open."""
        rows = Rows(backend)
        at = rows.now + self.tick
        tasks = await rows.create(rows.single(deadline_at=at), rows.fan_out(deadline_at=at))
        assert list(await backend.store.list_overdue(100)) == []
        assert await backend.store.next_deadline() == at
        for time in (self.tick, HOUR):
            await self.elapse(backend, time)
            assert _by_key(await backend.store.list_overdue(100)) == _by_key(tasks)
            assert await backend.store.next_deadline() == at

    @scenario
    async def test_deadlines_differ_by_milliseconds(self, backend: Backend) -> None:
        """The next one is the earliest, to the millisecond, whatever the order in which the tasks were made."""
        rows = Rows(backend)
        at = rows.now + HOUR + 5 * MS
        for deadline in (at, at + MS, at - MS):
            await rows.create(rows.single(deadline_at=deadline))
        assert await backend.store.next_deadline() == at - MS

    @scenario
    async def test_all_that_is_open_is_found(self, backend: Backend) -> None:
        """Whoever has it, of whatever tenant and type; as it stands now."""
        rows = Rows(backend)
        past = rows.now - HOUR
        waiting = await rows.create(rows.single(deadline_at=past), rows.fan_out(deadline_at=past))
        running = [await rows.claimed(kind(deadline_at=past)) for kind in (rows.single, rows.fan_out)]
        again = await rows.carry_out(rows.waits_for_retry(await rows.claimed(rows.single(deadline_at=past))))
        others, options = Rows(backend), TaskOptions(deadline=3600.0)
        other = await others.create(others.single({"a": [1]}, deadline_at=past, options=options))
        expected = _by_key([*waiting, *running, again, *other])
        assert _by_key(await backend.store.list_overdue(100)) == expected

    @scenario
    async def test_what_has_ended_is_not_overdue(self, backend: Backend) -> None:
        """However it ended: nothing is due any more."""
        rows = Rows(backend)
        for end in (rows.completed, rows.failed, _overdue(rows), _cancelled(rows)):
            await rows.carry_out(end(await rows.claimed(_late(rows))))
        for end in (rows.rejected, _overdue(rows), _cancelled(rows)):
            for row in (_late(rows), rows.fan_out(deadline_at=rows.now - HOUR)):
                (task,) = await rows.create(row)
                await rows.carry_out(end(task))
        parent = await rows.claimed(rows.fan_out(0, deadline_at=rows.now - HOUR))
        await rows.carry_out(
            lifecycle.finalized(parent, succeeded=0, failed=0, now=rows.now, by="worker", claim_id="ended")
        )
        assert list(await backend.store.list_overdue(100)) == []
        assert await backend.store.next_deadline() is None

    @scenario
    async def test_a_fan_out_that_is_to_end_is_left_to_its_execution(self, backend: Backend) -> None:
        """Another one, whose deadline comes later, is the next."""
        rows = Rows(backend)
        parent = await rows.claimed(rows.fan_out(deadline_at=rows.now - HOUR))
        later = rows.now + HOUR
        await rows.create(rows.fan_out(deadline_at=later))
        await rows.carry_out(lifecycle.cancel_requested(parent, reason="late", by="worker", now=rows.now))
        assert list(await backend.store.list_overdue(100)) == []
        assert await backend.store.next_deadline() == later

    @scenario
    async def test_sub_tasks_are_not_overdue(self, backend: Backend) -> None:
        """Only top-level tasks: they go with their parent."""
        rows = Rows(backend)
        parent = await rows.claimed(rows.fan_out(2, deadline_at=rows.now - HOUR))
        for index in range(2):
            await rows.sub_task(index, parent)
        assert list(await backend.store.list_overdue(100)) == [parent]

    @scenario
    async def test_the_earliest_come_first_and_at_most_limit(self, backend: Backend) -> None:
        rows = Rows(backend)
        ages = [3, 60, 1, 2000, 7, 59, 86400, 5]
        made = [
            (await rows.create(kind(deadline_at=rows.now - timedelta(seconds=age))))[0]
            for kind, age in zip((rows.single, rows.fan_out) * 4, ages, strict=True)
        ]
        await rows.create(rows.single(deadline_at=rows.now + HOUR))
        made.sort(key=_deadline)
        for limit in (1, 3, 8, 100):
            assert list(await backend.store.list_overdue(limit)) == made[:limit]
        assert await backend.store.next_deadline() == made[0].deadline_at

    @scenario
    async def test_what_was_ended_makes_room_for_the_next(self, backend: Backend) -> None:
        """Whoever ends what it gets, portion by portion, ends all."""
        rows = Rows(backend)
        await rows.create(*(rows.single(deadline_at=rows.now - MS * n) for n in range(25)))
        seen: list[TaskEntity] = []
        while found := await backend.store.list_overdue(10):
            await backend.store.update_many([_overdue(rows)(task) for task in found])
            seen += found
        assert len({task.key for task in seen}) == len(seen) == 25
        assert [_deadline(task) for task in seen] == sorted(_deadline(task) for task in seen)
        assert await backend.store.next_deadline() is None

    @scenario
    async def test_a_new_run_has_its_own_deadline(self, backend: Backend) -> None:
        """The change that begins it sets another one, which counts from then on."""
        rows = Rows(backend)
        (task,) = await rows.create(rows.single(deadline_at=rows.now - HOUR, options=TaskOptions(deadline=60.0)))
        ended = await rows.carry_out(_overdue(rows)(task))
        again = lifecycle.retried(
            ended,
            only_failed=True,
            execution_arn=None,
            reason=None,
            by=None,
            now=rows.now,
            dispatch="again",
            claim_id="retried",
        )
        retried = await rows.carry_out(again)
        assert retried.deadline_at == again.patch["deadline_at"] == rows.now + timedelta(seconds=60)
        assert list(await backend.store.list_overdue(100)) == []
        assert await backend.store.next_deadline() == retried.deadline_at

    @scenario
    async def test_deadlines_outlive_the_use_of_the_backend(self, backend: Backend) -> None:
        rows = Rows(backend)
        tasks = await rows.create(_late(rows))
        backend.close()
        assert list(await backend.store.list_overdue(100)) == tasks
        backend.close()
        assert await backend.store.next_deadline() == tasks[0].deadline_at


def _late(rows: Rows) -> NewTaskRow:
    return rows.single(deadline_at=rows.now - HOUR)


def _deadline(task: TaskEntity) -> datetime:
    assert task.deadline_at is not None
    return task.deadline_at


def _by_key(tasks: Sequence[TaskEntity]) -> dict[TaskKey, TaskEntity]:
    found = {task.key: task for task in tasks}
    assert len(found) == len(tasks), "one comes twice"
    return found


def _overdue(rows: Rows) -> Callable[[TaskEntity], Change]:
    return lambda task: lifecycle.overdue(task, now=rows.now, by="worker", claim_id=rows.backend.ids.token())


def _cancelled(rows: Rows) -> Callable[[TaskEntity], Change]:
    return lambda task: lifecycle.cancelled(
        task, reason=None, by="ann", now=rows.now, claim_id=rows.backend.ids.token()
    )
