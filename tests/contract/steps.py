"""The contract of `ports.Steps`, and of the guard that speaks of them."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from taskloom import lifecycle
from taskloom.lifecycle import Change, Guard, Refused, Written
from taskloom.model import FanOut, Kind, TaskEntity, TaskKey, TaskStatus, TenantCode
from taskloom.ports import (
    Answer,
    Backend,
    Delivery,
    ExecutionInput,
    MessageKind,
    Served,
    Step,
    StepKind,
    StepOutcome,
    TaskQuery,
)
from taskloom.values import EncodedJson
from tests.contract.base import HOUR, Contract, cut_short, in_threads, needs, scenario
from tests.support.rows import Rows

STEP, SLEEP, CALLBACK = StepKind.STEP, StepKind.SLEEP, StepKind.CALLBACK
AWKWARD = ["a", "A", " ", "a/b#c", "'\"; -- %s {} \\", "ä😀", "x" * 128, "#1", "\n\0"]


class StepsContract(Contract):
    """Every sentence of `ports.Steps`."""

    # --- what was kept is found ----------------------------------------------------------------------------------

    @scenario
    async def test_nothing_kept_is_nothing_found(self, backend: Backend) -> None:
        rows = Rows(backend)
        task = await rows.claimed()
        for kind in StepKind:
            assert await backend.steps.get(task.key, kind, "a") is None
        assert await backend.steps.get(_elsewhere(backend), STEP, "a") is None
        for token in ("", "a", "\0", "x" * 5_000):
            assert await backend.steps.find(token) is None

    @pytest.mark.parametrize("sub_task", [False, True])
    def test_a_step_comes_back_as_it_was(self, backend: Backend, sub_task: bool) -> None:
        """Each value of each field, of each kind, under any name."""

        async def main() -> None:
            rows = Rows(backend)
            task = await (rows.sub_task(1234) if sub_task else rows.claimed())
            kept = [_step(rows, task, kind, name=name) for kind in StepKind for name in AWKWARD]
            kept += [
                _step(rows, task, STEP, name="result", result=EncodedJson('{"a":[1,"ä😀",null]}')),
                _step(rows, task, STEP, name="none", result=EncodedJson("null")),
                _step(rows, task, STEP, name="large", result_ref="somewhere/else"),
                _step(rows, task, SLEEP, name="sleep", until=rows.now + HOUR),
            ]
            for answer in (None, *Answer):
                token = backend.ids.token()
                text = EncodedJson('"text"')
                kept.append(_step(rows, task, CALLBACK, name=f"{answer}", token=token, answer=answer, result=text))
            for step in kept:
                assert isinstance(await backend.steps.put(step, _holds(rows, task)), Written)
            for step in kept:
                assert await backend.steps.get(task.key, step.kind, step.name) == step
                if step.token is not None:
                    assert await backend.steps.find(step.token) == step

        asyncio.run(main())

    @scenario
    async def test_every_task_has_its_own(self, backend: Backend) -> None:
        """Rule 7: the same code in another tenant, of another kind, of another sub-task, is another task."""
        rows = Rows(backend)
        code = backend.ids.code(rows.now)
        singles = [rows.single(tenant_code=f"{rows.tenant}{mark}", code=code) for mark in ("", "a", "A")]
        tasks = [await rows.claimed(row) for row in singles]
        parents = [await rows.claimed(rows.fan_out(3, tenant_code=f"{rows.tenant}{m}", code=code)) for m in ("", "a")]
        tasks += [await rows.sub_task(index, parent) for parent in parents for index in (0, 1, 2)]
        for task in tasks:
            step = _step(rows, task, result=EncodedJson(f'"{task.id}"'))
            assert isinstance(await backend.steps.put(step, _holds(rows, task)), Written)
        for task in tasks:
            found = await backend.steps.get(task.key, STEP, "a")
            assert found is not None
            assert (found.key, found.result) == (task.key, f'"{task.id}"')

    @scenario
    async def test_nothing_of_it_is_a_task(self, backend: Backend) -> None:
        """Neither listed nor streamed nor due; the fence and the status of the task stay."""
        rows = Rows(backend)
        task = await rows.claimed()
        await self.records(rows)  # that of its creation may still be there
        assert isinstance(await backend.steps.put(_step(rows, task), _holds(rows, task)), Written)
        query = TaskQuery(tenant_code=TenantCode(rows.tenant), kind=Kind.TASK, limit=10)
        found, _ = await backend.store.list_tasks(query)
        assert [item.key for item in found] == [task.key]
        assert await self.records(rows) == []
        stored = await rows.stored(task.key)
        assert replace(stored, version=task.version) == task

    # --- versions ------------------------------------------------------------------------------------------------

    @scenario
    async def test_a_step_is_kept_over_the_version_before(self, backend: Backend) -> None:
        """What stands there otherwise comes back, and nothing is changed: neither the step nor the task."""
        rows = Rows(backend)
        task = await rows.claimed()
        first = _step(rows, task, CALLBACK, token=backend.ids.token())
        for version in (2, 3, 0):
            outcome = await backend.steps.put(replace(first, version=version), _holds(rows, task))
            assert isinstance(outcome, Refused)
        assert isinstance(await backend.steps.put(first, _holds(rows, task)), Written)
        second = replace(first, version=2, write_id=backend.ids.token(), answer=Answer.RESUMED)
        for other in (first, replace(first, write_id="other"), replace(second, version=3)):
            before = await rows.stored(task.key)
            assert await backend.steps.put(other, _holds(rows, task)) == first
            assert await rows.stored(task.key) == before
        assert isinstance(await backend.steps.put(second, _holds(rows, task)), Written)
        assert await backend.steps.get(task.key, CALLBACK, "a") == second
        assert await backend.steps.put(second, _holds(rows, task)) == second

    @scenario
    async def test_a_new_token_replaces_the_one_before(self, backend: Backend) -> None:
        rows = Rows(backend)
        task = await rows.claimed()
        old, new = backend.ids.token(), backend.ids.token()
        first = _step(rows, task, CALLBACK, token=old)
        second = replace(first, version=2, token=new, write_id="second")
        for step in (first, second):
            assert isinstance(await backend.steps.put(step, _holds(rows, task)), Written)
        assert await backend.steps.find(old) is None
        assert await backend.steps.find(new) == second
        for wrong in (new.upper() if new.upper() != new else new.lower(), new[:-1], f"{new}x"):
            assert await backend.steps.find(wrong) is None

    # --- together with the task ----------------------------------------------------------------------------------

    @pytest.mark.parametrize("sub_task", [False, True])
    def test_whoever_lost_its_claim_keeps_nothing(self, backend: Backend, sub_task: bool) -> None:
        """Rule 2. Refused tells how the task stands."""

        async def main() -> None:
            rows = Rows(backend)
            task = await (rows.sub_task() if sub_task else rows.claimed())
            ended = await rows.carry_out(rows.completed(task))
            outcome = await backend.steps.put(_step(rows, task), _holds(rows, task))
            assert outcome == Refused(ended)
            assert await backend.steps.get(task.key, STEP, "a") is None
            assert await rows.stored(task.key) == ended

        asyncio.run(main())

    @scenario
    async def test_a_task_that_is_gone_refuses(self, backend: Backend) -> None:
        rows = Rows(backend)
        task = await rows.claimed()
        gone = replace(task, key=_elsewhere(backend))
        assert await backend.steps.put(_step(rows, gone), _holds(rows, gone)) == Refused(None)
        assert await backend.steps.get(gone.key, STEP, "a") is None

    @scenario
    async def test_the_change_is_carried_out_with_it(self, backend: Backend) -> None:
        """All of it: history, dispatch and its record on the stream; the task comes back."""
        rows = Rows(backend)
        task, step = await self._waiting(rows)
        answer = _answered(rows, step)
        outcome = await backend.steps.put(answer, _wakes(rows, task))
        stored = await rows.stored(task.key)
        assert outcome == Written(stored)
        assert (stored.status, stored.next_attempt_at, stored.fence) == (TaskStatus.PENDING, rows.now, task.fence)
        assert (stored.version, len(stored.history)) == (task.version + 1, len(task.history) + 1)
        assert [record.image for record in await self.records(rows)] == [stored]

    @scenario
    async def test_a_caller_that_gives_up_leaves_no_half_write(self, backend: Backend) -> None:
        rows = Rows(backend)
        for _ in range(5):
            task, step = await self._waiting(rows)
            await cut_short(backend.steps.put(_answered(rows, step), _wakes(rows, task)))
            # A second one that is answered comes behind the first.
            kept = await backend.steps.put(_answered(rows, step, "second"), _wakes(rows, task))
            found = await backend.steps.find(step.token or "")
            assert found is not None
            assert found.answer is Answer.RESUMED
            assert (await rows.stored(task.key)).next_attempt_at == rows.now
            assert isinstance(kept, (Written, Step))

    def test_of_many_one_is_kept(self, backend: Backend) -> None:
        """And the others find it; the task is changed once."""
        rows = Rows(backend)
        task, step = asyncio.run(self._waiting(rows))
        change = _wakes(rows, task)

        async def put(number: int) -> Written | Refused | Step:
            return await backend.steps.put(_answered(rows, step, f"{number}"), change)

        outcomes = in_threads(6, put)
        (winner,) = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Written)]
        kept = asyncio.run(backend.steps.find(step.token or ""))
        assert kept is not None
        assert kept.write_id == f"{winner}"
        assert [outcome for outcome in outcomes if not isinstance(outcome, Written)] == [kept] * 5
        assert asyncio.run(rows.stored(task.key)).version == task.version + 1

    # --- the guard -----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("sub_task", [False, True])
    def test_a_wait_is_refused_once_its_answer_is_there(self, backend: Backend, sub_task: bool) -> None:
        """Whatever the answer; nobody else's answer, and no other callback of the task, stands against it."""

        async def main() -> None:
            rows = Rows(backend)
            for answer in Answer:
                task = await (rows.sub_task() if sub_task else rows.claimed())
                other = await (rows.sub_task() if sub_task else rows.claimed())
                for owner, name, kind in ((other, "a", CALLBACK), (task, "b", CALLBACK), (task, "a", STEP)):
                    await self._answer(rows, owner, kind, name, answer)
                assert await self._may_wait(rows, task, "none")
                step = _step(rows, task, CALLBACK, token=backend.ids.token())
                assert isinstance(await backend.steps.put(step, _holds(rows, task)), Written)
                assert await self._may_wait(rows, task, "a"), "it has no answer yet"
                assert isinstance(await backend.steps.put(_answered(rows, step), _holds(rows, task)), Written)
                assert not await self._may_wait(rows, task, "a")
                wait = _suspended(rows, task)
                assert await backend.store.update(wait) == Refused(await rows.stored(task.key))

        asyncio.run(main())

    async def _may_wait(self, rows: Rows, task: TaskEntity, name: str) -> bool:
        guard = Guard(status=frozenset({TaskStatus.IN_PROGRESS}), fence=task.fence, unanswered=name)
        change = Change(key=task.key, guard=guard, patch={"updated_at": rows.now})
        return isinstance(await rows.backend.store.update(change), Written)

    async def _answer(self, rows: Rows, task: TaskEntity, kind: StepKind, name: str, answer: Answer) -> None:
        step = _step(rows, task, kind, name=name, token=rows.backend.ids.token(), answer=answer)
        assert isinstance(await rows.backend.steps.put(step, _holds(rows, task)), Written)

    async def _waiting(self, rows: Rows) -> tuple[TaskEntity, Step]:
        """A single task that waits for its callback "a"; nothing of it is on the stream."""
        task = await rows.claimed()
        step = _step(rows, task, CALLBACK, token=rows.backend.ids.token())
        assert isinstance(await rows.backend.steps.put(step, _holds(rows, task)), Written)
        await self.records(rows)
        return await rows.carry_out(_suspended(rows, task)), step

    # --- chunks --------------------------------------------------------------------------------------------------

    @needs("pulls_steps")
    @scenario
    async def test_a_chunk_that_waits_comes_at_once(self, backend: Backend) -> None:
        """Its message is on its way, but not due."""
        rows = Rows(backend)
        subs = await self._fan_out(rows, chunks=2, at_once=2)
        for delivery in await self._chunks(rows):
            await backend.machine.report(delivery, StepOutcome(again_at=rows.now + HOUR))
        assert await self._chunks(rows) == []
        await self._wake(rows, subs[1])
        assert [delivery.chunk for delivery in await self._chunks(rows)] == [1]

    @needs("pulls_steps")
    @pytest.mark.parametrize("at_once", [1, 2, 3])
    def test_a_chunk_comes_although_others_wait_before_it(self, backend: Backend, at_once: int) -> None:
        """It takes the place of one that is not due, so that no more than *at_once* are on their way."""

        async def main() -> None:
            rows = Rows(backend)
            subs = await self._fan_out(rows, chunks=4, at_once=at_once)
            while steps := await self._chunks(rows):
                for delivery in steps:
                    await backend.machine.report(delivery, StepOutcome(again_at=rows.now + HOUR))
            for number in (3, 0, 2, 1):
                await self._wake(rows, subs[number])
                (delivery,) = await self._chunks(rows)
                assert delivery.chunk == number
                await backend.machine.report(delivery, StepOutcome())
            (collect,) = await self._steps(rows)
            assert collect.kind is MessageKind.COLLECT

        asyncio.run(main())

    @needs("pulls_steps")
    @scenario
    async def test_no_more_than_may_run_come_at_once(self, backend: Backend) -> None:
        """All are woken together: the rest comes as soon as one has run."""
        rows = Rows(backend)
        subs = await self._fan_out(rows, chunks=5, at_once=2)
        while steps := await self._chunks(rows):
            for delivery in steps:
                await backend.machine.report(delivery, StepOutcome(again_at=rows.now + HOUR))
        for sub in subs:
            await self._wake(rows, sub)
        seen: list[int | None] = []
        while steps := await self._chunks(rows):
            assert len(steps) <= 2
            seen += [delivery.chunk for delivery in steps]
            for delivery in steps:
                await backend.machine.report(delivery, StepOutcome())
        assert sorted(number for number in seen if number is not None) == [0, 1, 2, 3, 4]

    @needs("pulls_steps")
    @scenario
    async def test_a_chunk_that_runs_comes_again_afterwards(self, backend: Backend) -> None:
        """It looked at the sub-task before it was woken. Once: it does not come over and over."""
        rows = Rows(backend)
        subs = await self._fan_out(rows, chunks=1, at_once=1)
        (running,) = await self._chunks(rows)
        await self._wake(rows, subs[0])
        assert await self._chunks(rows) == []
        await backend.machine.report(running, StepOutcome(again_at=rows.now + HOUR))
        (again,) = await self._chunks(rows)
        assert again.chunk == 0
        await backend.machine.report(again, StepOutcome(again_at=rows.now + HOUR))
        assert await self._chunks(rows) == []

    @needs("pulls_steps")
    @scenario
    async def test_a_chunk_that_is_done_does_not_come_again(self, backend: Backend) -> None:
        rows = Rows(backend)
        subs = await self._fan_out(rows, chunks=1, at_once=1)
        (running,) = await self._chunks(rows)
        await self._wake(rows, subs[0])
        await backend.machine.report(running, StepOutcome())
        (collect,) = await self._steps(rows)
        assert collect.kind is MessageKind.COLLECT

    @needs("pulls_steps")
    @scenario
    async def test_a_refused_step_wakes_nobody(self, backend: Backend) -> None:
        rows = Rows(backend)
        subs = await self._fan_out(rows, chunks=1, at_once=1)
        (running,) = await self._chunks(rows)
        await backend.machine.report(running, StepOutcome(again_at=rows.now + HOUR))
        step = _step(rows, subs[0], version=2)
        assert isinstance(await backend.steps.put(step, _holds(rows, subs[0]), chunk=0), Refused)
        await rows.carry_out(rows.completed(subs[0]))
        assert isinstance(await backend.steps.put(_step(rows, subs[0]), _holds(rows, subs[0]), chunk=0), Refused)
        assert await self._chunks(rows) == []

    async def _fan_out(self, rows: Rows, *, chunks: int, at_once: int) -> list[TaskEntity]:
        """The claimed sub-tasks of a fan-out that runs, one per chunk."""
        (made,) = await rows.create(rows.fan_out(chunks))
        await self.records(rows)
        parent = await rows.carry_out(rows.claim(made, plan=FanOut(chunk_size=1)))
        asked = ExecutionInput(key=parent.key, run=1, chunks=chunks, at_once=at_once)
        await rows.backend.machine.start(parent.code, asked)
        return [await rows.sub_task(index, parent) for index in range(chunks)]

    async def _wake(self, rows: Rows, sub: TaskEntity) -> None:
        step = _step(rows, sub)
        outcome = await rows.backend.steps.put(step, _holds(rows, sub), chunk=sub.index)
        assert isinstance(outcome, Written)

    async def _steps(self, rows: Rows) -> Sequence[Delivery]:
        """The steps of executions that are due."""
        served, found = Served(tasks=frozenset(), fan_outs=frozenset({rows.task_type})), list[Delivery]()
        for _ in range(self.polls):
            found += await rows.backend.queue.receive(served, 100, visible_at=rows.now + HOUR)
        return found

    async def _chunks(self, rows: Rows) -> Sequence[Delivery]:
        return [step for step in await self._steps(rows) if step.kind is MessageKind.CHUNK]


def _step(rows: Rows, task: TaskEntity, kind: StepKind = STEP, *, name: str = "a", **fields: Any) -> Step:
    values: dict[str, Any] = {"write_id": rows.backend.ids.token(), "run": task.run, "at": rows.now} | fields
    return Step(key=task.key, kind=kind, name=name, **values)


def _answered(rows: Rows, step: Step, write_id: str | None = None) -> Step:
    return replace(step, version=step.version + 1, write_id=write_id or rows.backend.ids.token(), answer=Answer.RESUMED)


def _holds(rows: Rows, task: TaskEntity) -> Change:
    return lifecycle.touched(task, now=rows.now)


def _wakes(rows: Rows, task: TaskEntity) -> Change:
    token = rows.backend.ids.token
    return lifecycle.answered(task, "a", now=rows.now, by=None, dispatch=token(), claim_id=token())


def _suspended(rows: Rows, task: TaskEntity) -> Change:
    return lifecycle.suspended(
        task,
        until=rows.now + HOUR,
        callback="a",
        state=None,
        progress=None,
        reason=lifecycle.waits("a", None),
        now=rows.now,
        by="worker",
        claim_id=rows.backend.ids.token(),
    )


def _elsewhere(backend: Backend) -> TaskKey:
    return TaskKey.single("nobody", "cat", backend.ids.code(backend.clock.now()))
