"""The contract of `ports.StateMachine`: Map over chunks → Collect → Wait → Map again … → Finalize."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from taskloom.errors import TaskTokenNotFound
from taskloom.model import Kind, TaskEntity
from taskloom.ports import (
    Backend,
    Delivery,
    Execution,
    ExecutionInput,
    ExecutionStatus,
    MessageKind,
    Served,
    StepOutcome,
)
from tests.contract.base import HOUR, Contract, in_threads, needs, scenario
from tests.support.rows import Rows

CHUNK, COLLECT, FINALIZE = MessageKind.CHUNK, MessageKind.COLLECT, MessageKind.FINALIZE
DONE = StepOutcome()


class StateMachineContract(Contract):
    """Every sentence of `ports.StateMachine`."""

    # --- start and describe --------------------------------------------------------------------------------------

    @scenario
    async def test_an_execution_starts(self, backend: Backend) -> None:
        rows = Rows(backend)
        parent = await self._parent(rows)
        asked = ExecutionInput(key=parent.key, run=1, chunks=3, at_once=2)
        before = rows.now
        execution = await backend.machine.start(parent.code, asked)
        assert (execution.arn, execution.name) == (backend.machine.arn(parent.code), parent.code)
        assert (execution.status, execution.input) == (ExecutionStatus.RUNNING, asked)
        assert execution.started_at is not None
        assert before <= execution.started_at <= rows.now
        assert execution.stopped_at is None
        assert await backend.machine.describe(execution.arn) == execution

    @scenario
    async def test_every_name_has_its_arn(self, backend: Backend) -> None:
        """Known before the start, and never another."""
        rows = Rows(backend)
        code = backend.ids.code(rows.now)
        arns = [backend.machine.arn(name) for name in (code, f"{code}-2", backend.ids.code(rows.now))]
        assert len(set(arns)) == 3
        assert all(arn.startswith("arn:") for arn in arns)
        assert backend.machine.arn(code) == arns[0]

    @scenario
    async def test_an_execution_is_pending_until_it_starts(self, backend: Backend) -> None:
        """A step function task names it, and nothing has started it."""
        rows = Rows(backend)
        parent = await self._parent(rows)
        arn = backend.machine.arn(parent.code)
        pending = Execution(
            arn=arn, name=parent.code, status=ExecutionStatus.PENDING, input=None, started_at=None, stopped_at=None
        )
        assert await backend.machine.describe(arn) == pending

    @scenario
    async def test_any_other_execution_is_none(self, backend: Backend) -> None:
        rows = Rows(backend)
        (single,) = await rows.create(rows.single(dispatch=None))
        parent = await self._parent(rows)
        for arn in (
            backend.machine.arn(backend.ids.code(rows.now)),
            backend.machine.arn(single.code),
            backend.machine.arn(f"{parent.code}-2"),
            backend.machine.arn(parent.code)[:-1],
            "arn:aws:states:eu-west-1:000000000000:execution:another:name",
            parent.code,
            "",
        ):
            assert await backend.machine.describe(arn) is None

    @scenario
    async def test_an_execution_starts_once(self, backend: Backend) -> None:
        """The one of that name comes back unchanged, whatever was asked."""
        rows = Rows(backend)
        parent = await self._parent(rows)
        asked = ExecutionInput(key=parent.key, run=1, chunks=3, at_once=3)
        execution = await backend.machine.start(parent.code, asked)
        await self.elapse(backend, self.tick)
        for other in (asked, replace(asked, chunks=9, at_once=9)):
            assert await backend.machine.start(parent.code, other) == execution
        assert await backend.machine.describe(execution.arn) == execution

    @needs("pulls_steps")
    @scenario
    async def test_a_second_start_maps_nothing_again(self, backend: Backend) -> None:
        rows = Rows(backend)
        parent = await self._started(rows, chunks=3, at_once=3)
        await self._started(rows, chunks=3, at_once=3, parent=parent)
        assert await self._finish_map(rows, 3) == [0, 1, 2]
        await self._end(rows)
        assert (await self._execution(rows, parent)).status is ExecutionStatus.SUCCEEDED
        await self._started(rows, chunks=3, at_once=3, parent=parent)
        assert await self._steps(rows) == []
        assert (await self._execution(rows, parent)).status is ExecutionStatus.SUCCEEDED

    @needs("pulls_steps")
    def test_one_of_many_starts_the_execution(self, backend: Backend) -> None:
        rows = Rows(backend)
        parent = asyncio.run(self._parent(rows))
        asked = ExecutionInput(key=parent.key, run=1, chunks=4, at_once=4)

        async def start(_: int) -> Execution:
            return await backend.machine.start(parent.code, asked)

        executions = in_threads(4, start)
        assert len({execution.arn for execution in executions}) == 1
        assert asyncio.run(self._finish_map(rows, 4)) == [0, 1, 2, 3]

    @needs("pulls_steps")
    @scenario
    async def test_an_execution_outlives_the_use_of_the_backend(self, backend: Backend) -> None:
        """Start and report are durable: it goes on where it was when everything is opened again."""
        rows = Rows(backend)
        parent = await self._started(rows, chunks=3, at_once=1)
        backend.close()
        seen = []
        for _ in range(3):
            (step,) = await self._steps(rows)
            seen.append(step.chunk)
            await backend.machine.report(step, DONE)
            backend.close()
        await self._end(rows)
        assert seen == [0, 1, 2]
        assert (await self._execution(rows, parent)).status is ExecutionStatus.SUCCEEDED

    # --- Map -----------------------------------------------------------------------------------------------------

    @needs("pulls_steps")
    @scenario
    async def test_a_step_names_its_chunk(self, backend: Backend) -> None:
        rows = Rows(backend)
        parent = await self._started(rows, chunks=2, at_once=2)
        steps = await self._steps(rows)
        assert sorted(step.chunk for step in steps if step.chunk is not None) == [0, 1]
        for step in steps:
            assert (step.kind, step.key, step.run) == (CHUNK, parent.key, 1)
            assert (step.task_kind, step.task_type, step.received) == (Kind.SFN_TASK, rows.task_type, 1)

    @needs("pulls_steps")
    @scenario
    async def test_every_chunk_comes_once_and_at_most_so_many_at_a_time(self, backend: Backend) -> None:
        for chunks, at_once in ((1, 1), (1, 5), (5, 1), (7, 3), (6, 6), (3, 40), (25, 4)):
            rows = Rows(backend)
            parent = await self._started(rows, chunks=chunks, at_once=at_once)
            assert await self._finish_map(rows, at_once) == [*range(chunks)]
            await self._end(rows)
            assert (await self._execution(rows, parent)).status is ExecutionStatus.SUCCEEDED

    @needs("pulls_steps")
    @scenario
    async def test_so_many_chunks_may_run_at_the_same_time(self, backend: Backend) -> None:
        """None of them need end for the others to begin, and each that ends makes room for one."""
        rows = Rows(backend)
        await self._started(rows, chunks=8, at_once=6)
        steps = await self._steps(rows)
        assert len(steps) == 6
        await backend.machine.report(steps[3], DONE)
        assert len(await self._steps(rows)) == 1

    @needs("pulls_steps")
    @scenario
    async def test_a_fan_out_of_nothing_is_collected_at_once(self, backend: Backend) -> None:
        rows = Rows(backend)
        parent = await self._started(rows, chunks=0, at_once=5)
        await self._end(rows)
        assert (await self._execution(rows, parent)).status is ExecutionStatus.SUCCEEDED

    @needs("pulls_steps")
    @scenario
    async def test_chunks_may_end_in_any_order(self, backend: Backend) -> None:
        rows = Rows(backend)
        await self._started(rows, chunks=4, at_once=4)
        steps = await self._steps(rows)
        for step in (steps[2], steps[0], steps[3]):
            await backend.machine.report(step, DONE)
            assert await self._steps(rows) == []
        await backend.machine.report(steps[1], DONE)
        await self._end(rows)

    # --- Collect, Wait, Map again, Finalize ----------------------------------------------------------------------

    @needs("pulls_steps")
    @scenario
    async def test_a_map_is_followed_by_one_collect_and_one_finalize(self, backend: Backend) -> None:
        rows = Rows(backend)
        parent = await self._started(rows, chunks=3, at_once=2)
        await self._finish_map(rows, 2)
        for kind in (COLLECT, FINALIZE):
            assert (await self._execution(rows, parent)).status is ExecutionStatus.RUNNING
            (step,) = await self._steps(rows)
            assert (step.kind, step.key, step.run, step.chunk) == (kind, parent.key, 1, None)
            await backend.machine.report(step, DONE)
        assert await self._steps(rows) == []
        assert await backend.queue.next_due(_steps_of(rows)) is None

    @needs("pulls_steps")
    @scenario
    async def test_an_execution_that_was_finalized_has_succeeded(self, backend: Backend) -> None:
        rows = Rows(backend)
        parent = await self._started(rows, chunks=1, at_once=1)
        running = await self._execution(rows, parent)
        await self._finish_map(rows, 1)
        await self.elapse(backend, self.tick)
        before = rows.now
        await self._end(rows)
        ended = await self._execution(rows, parent)
        assert ended.stopped_at is not None
        assert before <= ended.stopped_at <= rows.now
        assert ended == replace(running, status=ExecutionStatus.SUCCEEDED, stopped_at=ended.stopped_at)

    @needs("pulls_steps")
    @scenario
    async def test_what_is_left_is_mapped_again(self, backend: Backend) -> None:
        """And nothing else, with the same limit, as often as a collect says so."""
        rows = Rows(backend)
        parent = await self._started(rows, chunks=6, at_once=2)
        await self._finish_map(rows, 2)
        for left in ([0, 2, 3, 5], [2, 5], [5]):
            await self._collect(rows, left)
            assert await self._finish_map(rows, 2) == left
        await self._end(rows)
        assert (await self._execution(rows, parent)).status is ExecutionStatus.SUCCEEDED

    @needs("pulls_steps")
    @scenario
    async def test_only_the_chunks_that_are_asked_for_are_mapped(self, backend: Backend) -> None:
        """As a new run needs it. None at all is a collect at once."""
        rows = Rows(backend)
        for todo in ([1, 4, 5], []):
            parent = await self._parent(rows)
            asked = ExecutionInput(key=parent.key, run=1, chunks=6, at_once=2, todo=todo)
            await backend.machine.start(parent.code, asked)
            assert await self._finish_map(rows, 2) == todo
            await self._end(rows)
            assert (await self._execution(rows, parent)).status is ExecutionStatus.SUCCEEDED

    @needs("pulls_steps")
    @scenario
    async def test_a_chunk_that_stops_starts_no_other(self, backend: Backend) -> None:
        """Those that run are waited for, and the collect follows."""
        rows = Rows(backend)
        await self._started(rows, chunks=9, at_once=2)
        first, second = await self._steps(rows)
        await backend.machine.report(first, StepOutcome(stop=True))
        assert await self._steps(rows) == []
        await backend.machine.report(second, StepOutcome(stop=True))
        await self._end(rows)

    @needs("pulls_steps")
    @scenario
    async def test_a_hurried_execution_waits_for_nothing(self, backend: Backend) -> None:
        """But what somebody holds stays in his hands, and other executions and runs go on waiting."""
        rows = Rows(backend)
        hurried, other = await self._started(rows, chunks=2, at_once=2), await self._started(rows, chunks=1, at_once=1)
        held, waiting, foreign = await self._steps(rows)
        assert [step.key for step in (held, waiting, foreign)] == [hurried.key, hurried.key, other.key]
        for step in (waiting, foreign):
            await backend.queue.release(step.receipt, rows.now + HOUR)
        await backend.machine.hurry(hurried.key, 2)
        assert await self._steps(rows) == []
        await backend.machine.hurry(hurried.key, 1)
        (step,) = await self._steps(rows)
        assert (step.key, step.chunk) == (hurried.key, waiting.chunk)

    @needs("pulls_steps")
    @scenario
    async def test_a_chunk_with_something_left_comes_again_in_time(self, backend: Backend) -> None:
        """Not before it asked for it, and not long after; the collect waits for it."""
        rows = Rows(backend)
        await self._started(rows, chunks=3, at_once=3)
        again_at = rows.now + self.tick
        for step in await self._steps(rows):
            await backend.machine.report(step, StepOutcome(again_at=again_at) if step.chunk == 1 else DONE)
        for _ in range(3):
            assert await self._steps(rows) == []
            assert await backend.queue.next_due(_steps_of(rows)) == again_at
            await self.elapse(backend, self.tick)
            (step,) = await self._steps(rows)
            assert (step.kind, step.chunk) == (CHUNK, 1)
            again_at = rows.now + self.tick
            await backend.machine.report(step, StepOutcome(again_at=again_at))
        await self.elapse(backend, self.tick)
        assert await self._finish_map(rows, 3) == [1]
        await self._end(rows)

    @needs("pulls_steps")
    @scenario
    async def test_several_chunks_come_again_each_in_its_time(self, backend: Backend) -> None:
        rows = Rows(backend)
        await self._started(rows, chunks=3, at_once=3)
        for step in await self._steps(rows):
            wait = None if not step.chunk else rows.now + step.chunk * self.tick
            await backend.machine.report(step, StepOutcome(again_at=wait))
        assert await self._steps(rows) == []
        for chunk in (1, 2):
            await self.elapse(backend, self.tick)
            (step,) = await self._steps(rows)
            assert step.chunk == chunk
            await backend.machine.report(step, DONE)
        await self._end(rows)

    @needs("pulls_steps")
    @scenario
    async def test_a_chunk_that_waits_keeps_no_place(self, backend: Backend) -> None:
        """Others are started; but once it is due it comes before those that were never started."""
        rows = Rows(backend)
        await self._started(rows, chunks=5, at_once=1)
        (step,) = await self._steps(rows)
        await backend.machine.report(step, StepOutcome(again_at=rows.now + self.tick))
        (step,) = await self._steps(rows)
        assert step.chunk == 1
        await self.elapse(backend, self.tick)
        await backend.machine.report(step, DONE)
        (step,) = await self._steps(rows)
        assert step.chunk == 0
        await backend.machine.report(step, DONE)
        assert await self._finish_map(rows, 1) == [2, 3, 4]
        await self._end(rows)

    @needs("pulls_steps")
    @scenario
    async def test_more_may_wait_than_run_at_once(self, backend: Backend) -> None:
        """And the limit holds when they come again."""
        rows = Rows(backend)
        await self._started(rows, chunks=7, at_once=2)
        assert await self._finish_map(rows, 2, again_at=rows.now + self.tick) == list(range(7))
        await self.elapse(backend, self.tick)
        assert await self._finish_map(rows, 2) == list(range(7))
        await self._end(rows)

    @needs("pulls_steps")
    @scenario
    async def test_a_chunk_that_stops_ends_the_waiting_of_others(self, backend: Backend) -> None:
        rows = Rows(backend)
        await self._started(rows, chunks=4, at_once=2)
        first, second = await self._steps(rows)
        await backend.machine.report(first, StepOutcome(again_at=rows.now + self.tick))
        (third,) = await self._steps(rows)
        await backend.machine.report(second, StepOutcome(stop=True))
        await backend.machine.report(third, StepOutcome(stop=True))
        await self._end(rows)

    # --- duplicates and late comers ------------------------------------------------------------------------------

    @needs("pulls_steps")
    @scenario
    async def test_the_report_of_an_older_delivery_does_nothing(self, backend: Backend) -> None:
        """At every step; the delivery that holds goes on."""
        rows = Rows(backend)
        parent = await self._started(rows, chunks=2, at_once=1)
        for kind in (CHUNK, CHUNK, COLLECT, FINALIZE):
            (old,) = await self._steps(rows, for_=self.tick)
            await self.elapse(backend, self.tick)
            (new,) = await self._steps(rows)
            assert (new.kind, new.chunk, new.received) == (kind, old.chunk, 2)
            await backend.machine.report(old, DONE)
            assert await self._steps(rows) == []
            assert (await self._execution(rows, parent)).status is ExecutionStatus.RUNNING
            await backend.machine.report(new, DONE)
        assert (await self._execution(rows, parent)).status is ExecutionStatus.SUCCEEDED

    @needs("pulls_steps")
    @scenario
    async def test_a_report_counts_once(self, backend: Backend) -> None:
        """Whoever repeats one because its answer was lost moves nothing."""
        rows = Rows(backend)
        parent = await self._started(rows, chunks=5, at_once=2)
        steps = await self._steps(rows)
        for _ in range(3):
            await backend.machine.report(steps[0], DONE)
        assert len(await self._steps(rows)) == 1
        await self.elapse(backend, HOUR)
        assert await self._finish_map(rows, 2) == [1, 2, 3, 4]
        (collect,) = await self._steps(rows)
        for _ in range(2):
            await backend.machine.report(collect, StepOutcome(left=[4]))
        assert await self._finish_map(rows, 2) == [4]
        await backend.machine.report(collect, DONE)
        await self._end(rows)
        ended = await self._execution(rows, parent)
        await self.elapse(backend, self.tick)
        await backend.machine.report(collect, DONE)
        assert await self._execution(rows, parent) == ended

    @needs("pulls_steps")
    @scenario
    async def test_a_step_that_is_given_back_comes_again(self, backend: Backend) -> None:
        """A step is a message like any other."""
        rows = Rows(backend)
        await self._started(rows, chunks=1, at_once=1)
        (step,) = await self._steps(rows)
        await backend.queue.release(step.receipt, rows.now)
        (again,) = await self._steps(rows)
        assert (again.chunk, again.received) == (0, 2)
        await backend.queue.extend([again.receipt], rows.now + self.tick)
        await self.elapse(backend, self.tick)
        assert await self._finish_map(rows, 1) == [0]

    @needs("pulls_steps")
    @scenario
    async def test_steps_go_to_those_who_serve_the_fan_out(self, backend: Backend) -> None:
        rows = Rows(backend)
        await self._started(rows, chunks=1, at_once=1)
        for tasks, fan_outs in (({rows.task_type}, set()), ({rows.task_type}, {rows.task_type + "s"})):
            served = Served(tasks=frozenset(tasks), fan_outs=frozenset(fan_outs))
            assert list(await backend.queue.receive(served, 10, visible_at=rows.now + HOUR)) == []
        assert await self._finish_map(rows, 1) == [0]

    @needs("pulls_steps")
    @scenario
    async def test_executions_do_not_meet(self, backend: Backend) -> None:
        """Several fan-outs of one type, and two runs of one of them, side by side."""
        rows = Rows(backend)
        parents = [await self._started(rows, chunks=3, at_once=2) for _ in range(2)]
        second = ExecutionInput(key=parents[0].key, run=2, chunks=4, at_once=3)
        await backend.machine.start(f"{parents[0].code}-2", second)
        wanted = {(parents[0].key, 1): 3, (parents[1].key, 1): 3, (parents[0].key, 2): 4}
        chunks: list[tuple[object, int, int]] = []
        ends: list[tuple[object, int, MessageKind]] = []
        while steps := await self._steps(rows):
            for step in steps:
                if step.chunk is not None:
                    chunks.append((step.key, step.run, step.chunk))
                else:
                    ends.append((step.key, step.run, step.kind))
                await backend.machine.report(step, DONE)
        assert sorted(chunks, key=str) == sorted(
            ((key, run, chunk) for (key, run), count in wanted.items() for chunk in range(count)), key=str
        )
        assert sorted(ends, key=str) == sorted(
            ((key, run, kind) for key, run in wanted for kind in (COLLECT, FINALIZE)), key=str
        )

    @needs("pulls_steps")
    def test_many_workers_share_an_execution(self, backend: Backend) -> None:
        """Each chunk once, one collect, one finalize, whoever reports them at the same time."""
        rows = Rows(backend)
        parent = asyncio.run(self._started(rows, chunks=40, at_once=6))

        async def work(_: int) -> list[tuple[MessageKind, int | None]]:
            own: list[tuple[MessageKind, int | None]] = []
            while (await self._execution(rows, parent)).status is ExecutionStatus.RUNNING:
                steps = await backend.queue.receive(_steps_of(rows), 2, visible_at=rows.now + HOUR)
                for step in steps:
                    own.append((step.kind, step.chunk))
                    await backend.machine.report(step, DONE)
            return own

        seen = [step for own in in_threads(4, work) for step in own]
        expected = [(CHUNK, chunk) for chunk in range(40)] + [(COLLECT, None), (FINALIZE, None)]
        assert sorted(seen, key=str) == sorted(expected, key=str)

    # --- resume --------------------------------------------------------------------------------------------------

    @scenario
    async def test_nobody_waits_for_an_unknown_task_token(self, backend: Backend) -> None:
        with pytest.raises(TaskTokenNotFound):
            await backend.machine.resume(backend.ids.token(), {"any": "output"})

    # --- helpers -------------------------------------------------------------------------------------------------

    async def _parent(self, rows: Rows) -> TaskEntity:
        """A fan-out with no message of its own, so that all that comes are steps."""
        return (await rows.create(rows.fan_out(dispatch=None)))[0]

    async def _started(self, rows: Rows, *, chunks: int, at_once: int, parent: TaskEntity | None = None) -> TaskEntity:
        """A fan-out whose execution runs."""
        parent = parent or await self._parent(rows)
        asked = ExecutionInput(key=parent.key, run=1, chunks=chunks, at_once=at_once)
        await rows.backend.machine.start(parent.code, asked)
        return parent

    async def _execution(self, rows: Rows, parent: TaskEntity) -> Execution:
        execution = await rows.backend.machine.describe(rows.backend.machine.arn(parent.code))
        assert execution is not None
        return execution

    async def _steps(self, rows: Rows, *, for_: timedelta = HOUR) -> list[Delivery]:
        """All steps that are due, received for this time."""
        own: list[Delivery] = []
        for _ in range(self.polls):
            while found := await rows.backend.queue.receive(_steps_of(rows), 10, visible_at=rows.now + for_):
                own += found
        return own

    async def _finish_map(self, rows: Rows, at_once: int, *, again_at: datetime | None = None) -> list[int]:
        """Run chunks until there are none, one report at a time; which there were, sorted."""
        flying: list[Delivery] = []
        seen: list[int] = []
        while True:
            steps = await self._steps(rows)
            if not flying and (not steps or steps[0].kind is not CHUNK):
                for step in steps:
                    await rows.backend.queue.release(step.receipt, rows.now)
                return sorted(seen)
            flying += steps
            assert {step.kind for step in flying} == {CHUNK}
            assert len(flying) <= at_once
            step = flying.pop(0)
            assert step.chunk is not None
            seen.append(step.chunk)
            await rows.backend.machine.report(step, StepOutcome(again_at=again_at))

    async def _collect(self, rows: Rows, left: Sequence[int]) -> None:
        """Do the collect, which must be all there is to do."""
        (step,) = await self._steps(rows)
        assert step.kind is COLLECT
        await rows.backend.machine.report(step, StepOutcome(left=left))

    async def _end(self, rows: Rows) -> None:
        """Do the last collect and the finalize, and find nothing left to do."""
        await self._collect(rows, [])
        (step,) = await self._steps(rows)
        assert step.kind is FINALIZE
        await rows.backend.machine.report(step, DONE)
        assert await self._steps(rows) == []


def _steps_of(rows: Rows) -> Served:
    return Served(tasks=frozenset(), fan_outs=frozenset({rows.task_type}))
