"""The contract of `ports.TaskStore.list_stranded`."""

from datetime import timedelta

from taskloom import lifecycle
from taskloom.model import TaskEntity
from taskloom.ports import Backend, NewTaskRow
from tests.contract.base import Contract, needs, scenario
from tests.support.rows import Rows

LONG = timedelta(days=1)
"""Longer than any backend takes a message for being on its way."""


class RepairsContract(Contract):
    """Every sentence of it. Nobody else works on `backend`."""

    @needs("pulls_stream")
    @scenario
    async def test_what_has_lost_its_message_is_found(self, backend: Backend) -> None:
        """Of both kinds and any tenant, as it stands; as long as nobody did anything about it."""
        rows, other = Rows(backend), Rows(backend)
        lost = [*await self._lost(rows, rows.single({"a": [1]}), rows.fan_out(2)), *await self._lost(other)]
        await self.elapse(backend, LONG)
        for _ in range(2):
            found = await backend.store.list_stranded(10)
            assert {task.key: task for task in found} == {task.key: task for task in lost}
            assert len(found) == len(lost)

    @needs("pulls_stream")
    @scenario
    async def test_what_waits_for_its_next_attempt_is_due_then(self, backend: Backend) -> None:
        rows = Rows(backend)
        (task,) = await self._lost(rows)
        waiting = await rows.carry_out(rows.waits_for_retry(await rows.carry_out(rows.claim(task))))
        assert list(await backend.store.list_stranded(10)) == []
        await self.elapse(backend, LONG)
        assert list(await backend.store.list_stranded(10)) == [waiting]

    @needs("pulls_stream")
    @scenario
    async def test_what_is_in_somebodys_hands_is_found_when_they_let_go(self, backend: Backend) -> None:
        """By the end of the lease."""
        rows = Rows(backend)
        (task,) = await self._lost(rows)
        claimed = await rows.carry_out(rows.claim(task))
        assert list(await backend.store.list_stranded(10)) == []
        await self.elapse(backend, LONG)
        assert list(await backend.store.list_stranded(10)) == [claimed]

    @scenario
    async def test_a_new_task_is_on_its_way(self, backend: Backend) -> None:
        """Whether or not anybody has taken its record."""
        rows = Rows(backend)
        await rows.create(rows.single(), rows.fan_out(2))
        await rows.claimed()
        assert list(await backend.store.list_stranded(10)) == []

    @needs("pulls_stream")
    @scenario
    async def test_what_was_repaired_is_on_its_way(self, backend: Backend) -> None:
        rows = Rows(backend)
        for task in await self._lost(rows, rows.single(), rows.fan_out(2)):
            await self.elapse(backend, LONG)
            token = backend.ids.token
            await rows.carry_out(
                lifecycle.repaired(task, "why", now=rows.now, by="worker", dispatch=token(), claim_id=token())
            )
            assert task.key not in [found.key for found in await backend.store.list_stranded(10)]

    @needs("pulls_stream")
    @scenario
    async def test_ended_tasks_and_sub_tasks_are_not_stranded(self, backend: Backend) -> None:
        """Whoever has ended needs nobody; a sub-task goes with its fan-out."""
        rows = Rows(backend)
        for task in await self._lost(rows, rows.single(), rows.single()):
            await rows.carry_out(rows.completed(await rows.carry_out(rows.claim(task))))
        (parent,) = await self._lost(rows, rows.fan_out(1))
        parent = await rows.carry_out(rows.claim(parent))
        await rows.sub_task(0, parent)
        ended = lifecycle.finalized(parent, succeeded=1, failed=0, now=rows.now, by="worker", claim_id="ended")
        await rows.carry_out(ended)
        await self.elapse(backend, LONG)
        assert list(await backend.store.list_stranded(10)) == []

    @needs("pulls_stream")
    @scenario
    async def test_at_most_limit_and_all_in_the_end(self, backend: Backend) -> None:
        """Whoever mends what it gets, portion by portion, mends all."""
        rows = Rows(backend)
        lost = await self._lost(rows, *(rows.single() for _ in range(7)))
        await self.elapse(backend, LONG)
        seen: list[TaskEntity] = []
        while found := await backend.store.list_stranded(3):
            assert len(found) <= 3
            seen += found
            for task in found:
                gone = lifecycle.cancelled(task, reason=None, by=None, now=rows.now, claim_id=backend.ids.token())
                await rows.carry_out(gone)
        assert {task.key for task in seen} == {task.key for task in lost}
        assert len(seen) == len(lost)

    async def _lost(self, rows: Rows, *new: NewTaskRow) -> list[TaskEntity]:
        """The entities of *new*, by default of a single task, which are stored now and will get no message."""
        tasks = await rows.create(*(new or [rows.single()]))
        records = await self.records(rows)
        assert len(records) == len(tasks)
        await rows.backend.stream.settle([(record.sequence, None) for record in records], [])
        return tasks
