"""The contract of `ttl` in `ports.TaskStore`, and of `ports.Retention`."""

from collections.abc import Sequence
from datetime import timedelta

from taskloom import lifecycle
from taskloom.lifecycle import Change, Refused, Written
from taskloom.model import Kind, LogLine, TaskEntity, TaskKey, TaskOptions
from taskloom.ports import (
    Backend,
    ChunkRow,
    ExecutionInput,
    Idempotency,
    LogBatch,
    NewTaskRow,
    Step,
    StepKind,
    StreamFailure,
    TaskQuery,
)
from taskloom.values import EncodedJson
from tests.contract.base import HOUR, Contract, needs, scenario
from tests.support.rows import Rows

TTL = 3600.0
KEPT = TaskOptions(ttl=TTL)


class ExpiryContract(Contract):
    """What has expired counts as absent. Nothing in `backend` expires at first, and nobody else removes anything."""

    # --- absent at once ------------------------------------------------------------------------------------------

    @scenario
    async def test_a_task_is_absent_from_its_ttl_on(self, backend: Backend) -> None:
        """At that very instant, for every read; and the store still knows since when."""
        rows = Rows(backend)
        task = await _ended(rows)
        assert task.ttl is not None
        assert timedelta() <= task.ttl - (rows.now + HOUR) < timedelta(seconds=1)
        await self.elapse(backend, task.ttl - rows.now - self.tick)
        assert await backend.store.get(task.key) == task
        assert await self._listed(rows) == [task.key]
        assert await backend.store.expired_at(task.key) is None
        await self.elapse(backend, self.tick)
        assert await backend.store.get(task.key) is None
        assert await self._listed(rows) == []
        assert await backend.store.expired_at(task.key) == task.ttl

    @scenario
    async def test_what_was_kept_for_ever_stays(self, backend: Backend) -> None:
        rows = Rows(backend)
        task = await rows.carry_out(rows.completed(await rows.claimed()))
        await self.elapse(backend, 1000 * HOUR)
        assert await backend.store.get(task.key) == task
        assert await backend.store.expired_at(task.key) is None
        assert await self._removed(backend) == 0
        assert await backend.store.get(task.key) == task

    @scenario
    async def test_no_change_is_carried_out_on_what_has_expired(self, backend: Backend) -> None:
        """And the refusal says that there is none."""
        rows = Rows(backend)
        task = await _ended(rows)
        await self.elapse(backend, HOUR + self.tick)
        assert await backend.store.update(_retried(rows, task)) == Refused(None)
        assert await backend.store.update_many([_retried(rows, task)]) == [Refused(None)]
        assert await backend.store.get(task.key) is None

    @scenario
    async def test_an_open_guard_that_fails_finds_nothing_either(self, backend: Backend) -> None:
        """A late end by a worker that lost its claim."""
        rows = Rows(backend)
        running = await rows.claimed(rows.single(options=KEPT))
        late = rows.failed(running)
        await rows.carry_out(rows.completed(running))
        await self.elapse(backend, HOUR + self.tick)
        assert await backend.store.update(late) == Refused(None)

    @scenario
    async def test_a_retry_clears_it(self, backend: Backend) -> None:
        """The task counts from its next end."""
        rows = Rows(backend)
        task = await _ended(rows)
        again = await rows.carry_out(_retried(rows, task))
        assert again.ttl is None
        await self.elapse(backend, 3 * HOUR)
        assert await backend.store.get(task.key) == again
        assert await self._removed(backend) == 0

    @scenario
    async def test_its_idempotency_key_is_free_again(self, backend: Backend) -> None:
        """Before and after the removal."""
        rows = Rows(backend)
        for is_removed in (False, True):
            first = await _ended(rows, idempotency=_key(rows))
            await self.elapse(backend, HOUR + self.tick)
            if is_removed:
                await self._removed(backend)
            assert await backend.store.known(first.key.tenant_code, "once") is None
            second = rows.single(options=KEPT)
            second.idempotency = _key(rows)
            assert list(await backend.store.create([second])) == [None]
            known = await backend.store.known(first.key.tenant_code, "once")
            assert known is not None
            assert known.task == second.entity.key
            await rows.carry_out(rows.completed(await rows.carry_out(rows.claim(second.entity))))
            await self.elapse(backend, HOUR + self.tick)

    @scenario
    async def test_a_list_goes_on_behind_what_has_expired(self, backend: Backend) -> None:
        """However many there are, in both directions and with every filter."""
        rows = Rows(backend)
        first = (await rows.create(rows.single()))[0]
        new = [rows.single(options=KEPT) for _ in range(10)]
        for task in await rows.create(*new):
            await rows.carry_out(rows.rejected(task))
        last = await rows.carry_out(rows.rejected((await rows.create(rows.single()))[0]))
        await self.elapse(backend, HOUR + self.tick)
        assert await self._listed(rows, newest_first=True) == [last.key, first.key]
        assert await self._listed(rows, newest_first=False) == [first.key, last.key]
        assert await self._listed(rows, status=last.status) == [last.key]
        assert await self._listed(rows, task_type=rows.task_type) == [last.key, first.key]

    # --- ways ----------------------------------------------------------------------------------------------------

    async def _removed(self, backend: Backend) -> int:
        removed = 0
        while rows := await backend.retention.remove_expired(100):
            removed += rows
        return removed

    async def _listed(self, rows: Rows, **how: object) -> list[object]:
        keys: list[object] = []
        query = TaskQuery(tenant_code=rows.tenant, kind=Kind.TASK, limit=3, **how)  # type: ignore[arg-type]
        while True:
            tasks, after = await rows.backend.store.list_tasks(query)
            keys += [task.key for task in tasks]
            if after is None:
                return keys
            query = TaskQuery(tenant_code=rows.tenant, kind=Kind.TASK, limit=3, after=after, **how)  # type: ignore[arg-type]


class RetentionContract(ExpiryContract):
    """... and is removed, with all that belongs to it."""

    @scenario
    async def test_its_execution_is_absent_too(self, backend: Backend) -> None:
        rows = Rows(backend)
        parent, arn = await self._fan_out(rows)
        assert await backend.machine.describe(arn) is not None
        await self.elapse(backend, HOUR + self.tick)
        assert await backend.machine.describe(arn) is None
        while await backend.retention.remove_expired(100):
            pass
        assert await backend.machine.describe(arn) is None
        assert await backend.store.get(parent.key) is None

    # --- removed -------------------------------------------------------------------------------------------------

    @scenario
    async def test_all_that_belongs_to_it_goes(self, backend: Backend) -> None:
        """What is left of another task, that has not expired, stays."""
        rows = Rows(backend)
        gone, stays = await self._with_all(rows, KEPT), await self._with_all(rows, TaskOptions())
        await self.elapse(backend, HOUR + self.tick)
        assert await backend.retention.expired(100) == 2
        assert await backend.retention.expired(1) == 1
        assert await self._removed(backend) >= 2 * 4
        assert await backend.retention.expired(100) == 0
        for tasks, is_there in ((gone, False), (stays, True)):
            single, parent = tasks
            assert (await backend.store.get(single.key) is not None) is is_there
            assert await backend.store.expired_at(single.key) is None
            assert bool(await backend.logs.read(single.key, None, 10)) is is_there
            assert bool(await backend.store.list_sub_tasks(parent.key, range(3))) is is_there
            for key in (single.key, TaskKey.parse(_sub(parent))):
                for name in ("small", "large"):
                    assert (await backend.steps.get(key, StepKind.STEP, name) is not None) is is_there
                assert await _has_payload(backend, f"{key.id}/step/1/1") is is_there
            assert bool(await backend.store.list_chunks(parent.key, 1)) is is_there
            for name in (f"{single.id}/input", f"{single.id}/result/1/1", f"{_sub(parent)}/result/1/1"):
                assert await _has_payload(backend, name) is is_there
            assert await _has_items(backend, f"{parent.id}/items") is is_there

    @scenario
    async def test_it_goes_in_portions(self, backend: Backend) -> None:
        """However small they are, the task stays absent and ends up gone; the clock may even go back."""
        rows = Rows(backend)
        tasks = await self._with_all(rows, KEPT)
        await self.elapse(backend, HOUR + self.tick)
        portions = 0
        while await backend.retention.remove_expired(1):
            portions += 1
            for task in tasks:
                assert await backend.store.get(task.key) is None
        assert portions >= 8
        assert not await backend.store.list_sub_tasks(tasks[1].key, range(3))
        assert not await backend.logs.read(tasks[0].key, None, 10)

    @scenario
    async def test_what_has_begun_to_go_says_when_it_expired(self, backend: Backend) -> None:
        rows = Rows(backend)
        single, _ = await self._with_all(rows, KEPT)
        await self.elapse(backend, HOUR + self.tick)
        await backend.retention.remove_expired(1)
        assert await backend.store.expired_at(single.key) in (None, single.ttl)
        assert await backend.store.update(_retried(rows, single)) == Refused(None)

    # --- orphans -------------------------------------------------------------------------------------------------

    @scenario
    async def test_old_payloads_that_nothing_names_are_removed(self, backend: Backend) -> None:
        """And only those: not what a task or a sub-task names, and not what is young."""
        rows = Rows(backend)
        single, parent = await self._with_all(rows, TaskOptions())
        kept = [f"{single.id}/input", f"{single.id}/result/1/1", f"{_sub(parent)}/result/1/1"]
        kept += [f"{single.id}/step/1/1", f"{_sub(parent)}/step/1/1"]
        orphans = [f"{single.id}/step/1/2", f"{_sub(parent)}/step/1/2"]
        orphans += [f"{rows.single().entity.id}/input", f"{single.id}/result/1/9", f"{_sub(parent)}/result/1/9"]
        for name in orphans:
            await backend.payloads.put(name, EncodedJson("1"))
        lost = f"{rows.fan_out().entity.id}/items"
        await _write_items(backend, lost)
        await self.elapse(backend, HOUR)
        young = f"{rows.single().entity.id}/input"
        await backend.payloads.put(young, EncodedJson("1"))
        for limit in (100, 1):  # the second time there is nothing left to do
            after: str | None = ""
            while after is not None:
                after = await backend.retention.remove_orphans(rows.now, after, limit)
            for name in [*kept, young]:
                assert await _has_payload(backend, name)
            for name in orphans:
                assert not await _has_payload(backend, name)
            assert await _has_items(backend, f"{parent.id}/items")
            assert not await _has_items(backend, lost)

    @scenario
    async def test_what_a_step_names_is_kept_and_goes_with_its_task(self, backend: Backend) -> None:
        rows = Rows(backend)
        task = await rows.claimed(rows.single(options=KEPT))
        name = f"{task.id}/step/a/1"
        reference = await backend.payloads.put(name, EncodedJson("1"))
        step = Step(key=task.key, kind=StepKind.STEP, name="a", write_id="w", run=1, at=rows.now, result_ref=reference)
        assert isinstance(await backend.steps.put(step, lifecycle.touched(task, now=rows.now)), Written)
        await self.elapse(backend, HOUR)
        after: str | None = ""
        while after is not None:
            after = await backend.retention.remove_orphans(rows.now, after, 100)
        assert await _has_payload(backend, name)
        await rows.carry_out(rows.completed(task))
        await self.elapse(backend, 2 * HOUR)
        await self._removed(backend)
        assert await backend.steps.get(task.key, StepKind.STEP, "a") is None
        assert not await _has_payload(backend, name)

    # --- ways ----------------------------------------------------------------------------------------------------

    async def _fan_out(self, rows: Rows, options: TaskOptions = KEPT) -> tuple[TaskEntity, str]:
        """A fan-out that has ended, with its execution."""
        backend = rows.backend
        new = rows.fan_out(3, options=options)
        reference = await _write_items(backend, f"{new.entity.id}/items")
        parent = await rows.claimed(rows.fan_out(3, options=options, code=new.entity.code, input_ref=reference))
        await backend.machine.start(parent.code, ExecutionInput(key=parent.key, run=1, chunks=1, at_once=1))
        for index in range(3):
            task = await rows.carry_out(rows.first_claim(parent, index))
            name = f"{task.id}/result/1/1"
            await backend.payloads.put(name, EncodedJson('[["x"]]'))
            await self._keep_steps(rows, task)
            await rows.carry_out(_completed(rows, task, name))
        await backend.store.put_chunk(ChunkRow(parent=parent.key, run=1, chunk=0, succeeded=3, failed=0))
        change = lifecycle.finalized(parent, succeeded=3, failed=0, now=rows.now, by="w", claim_id=backend.ids.token())
        return await rows.carry_out(change), parent.execution_arn or ""

    async def _keep_steps(self, rows: Rows, task: TaskEntity) -> None:
        """Two steps of the claimed *task*, one with its result elsewhere."""
        backend = rows.backend
        reference = await backend.payloads.put(f"{task.id}/step/1/1", EncodedJson("1"))
        for name, where in (("small", None), ("large", reference)):
            step = Step(key=task.key, kind=StepKind.STEP, name=name, write_id="1", run=1, at=rows.now, result_ref=where)
            assert isinstance(await backend.steps.put(step, lifecycle.touched(task, now=rows.now)), Written)

    async def _with_all(self, rows: Rows, options: TaskOptions) -> Sequence[TaskEntity]:
        """A single task and a fan-out that have ended, with all that is kept beside them."""
        backend = rows.backend
        new = rows.single(options=options)
        names = [f"{new.entity.id}/input", f"{new.entity.id}/result/1/1"]
        for name in names:
            await backend.payloads.put(name, EncodedJson('[["x"]]'))
        task = await rows.claimed(rows.single(options=options, code=new.entity.code, input_ref=names[0]))
        line = LogLine(at=rows.now, level="INFO", logger="x", run=1, attempt=1, message="m", fields={})
        await backend.logs.append([LogBatch(key=task.key, run=1, fence=1, first=0, lines=[line] * 3, dropped=0)])
        await self._keep_steps(rows, task)
        single = await rows.carry_out(_completed(rows, task, names[1]))
        parent, _ = await self._fan_out(rows, options)
        return single, parent


class LettersOfTheGoneContract(Contract):
    """Dead letters outlive their tasks, unless these expire."""

    @needs("pulls_stream")
    @scenario
    async def test_a_dead_letter_goes_with_its_task(self, backend: Backend) -> None:
        rows = Rows(backend)
        (task,) = await rows.create(rows.single(options=KEPT))
        (record,) = await self.records(rows)
        letter = StreamFailure(sequence=record.sequence, failures=0, reason="no", retry_at=None)
        await backend.stream.settle([], [letter])
        await rows.carry_out(rows.rejected(task))
        await self.elapse(backend, HOUR + self.tick)
        assert [found.key for found in await backend.admin.dead_letters(rows.tenant, 0, 9)] == [task.key]
        while await backend.retention.remove_expired(100):
            pass
        assert list(await backend.admin.dead_letters(rows.tenant, 0, 9)) == []


async def _ended(rows: Rows, idempotency: Idempotency | None = None) -> TaskEntity:
    new: NewTaskRow = rows.single(options=KEPT)
    new.idempotency = idempotency
    return await rows.carry_out(rows.completed(await rows.claimed(new)))


def _key(rows: Rows) -> Idempotency:
    return Idempotency(key="once", fingerprint="f", expires_at=rows.now + 1000 * HOUR)


def _completed(rows: Rows, task: TaskEntity, reference: str) -> Change:
    token = rows.backend.ids.token()
    return lifecycle.completed(
        task, results=None, result_ref=reference, progress=None, now=rows.now, by="worker", claim_id=token
    )


def _retried(rows: Rows, task: TaskEntity) -> Change:
    token = rows.backend.ids.token
    return lifecycle.retried(
        task,
        only_failed=False,
        execution_arn=None,
        reason=None,
        by=None,
        now=rows.now,
        dispatch=token(),
        claim_id=token(),
    )


def _sub(parent: TaskEntity) -> str:
    return f"{parent.pk}#{parent.code}#0#{parent.sk}#0000001"


async def _write_items(backend: Backend, name: str) -> str:
    writer = backend.payloads.items(name)
    await writer.add([EncodedJson("1"), EncodedJson("2"), EncodedJson("3")])
    return await writer.close()


async def _has_payload(backend: Backend, name: str) -> bool:
    try:
        await backend.payloads.get(name)
    except Exception:  # noqa: BLE001 - whatever says that it is gone
        return False
    return True


async def _has_items(backend: Backend, name: str) -> bool:
    try:
        await backend.payloads.read_items(name, range(1))
    except Exception:  # noqa: BLE001
        return False
    return True
