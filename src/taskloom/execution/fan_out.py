"""Starting a fan-out, running its chunks, and finishing it."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from taskloom import lifecycle, payloads
from taskloom.errors import StoreError
from taskloom.events import shapes
from taskloom.events.registry import Registry
from taskloom.events.task_events import StepFunctionTaskEvent
from taskloom.execution.attempt import Attempts
from taskloom.execution.leases import Lease
from taskloom.execution.log_writer import LogWriter
from taskloom.execution.quarantine import LOOK_AGAIN, Quarantine
from taskloom.execution.slots import Slots
from taskloom.execution.writes import again_at, patiently, write, write_many
from taskloom.lifecycle import Change, Claimant, Come, Refused, Verdict, Written
from taskloom.model import TERMINAL, CancelRequest, Failure, FanOut, Kind, TaskEntity, TaskStatus
from taskloom.policy import chunk_count, chunk_range, chunks_at_once, fan_out_plan, lost_lease_limit, retry_of
from taskloom.ports import (
    Backend,
    ChunkRow,
    Delivery,
    Execution,
    ExecutionInput,
    ExecutionStatus,
    MessageKind,
    StepOutcome,
)

log = logging.getLogger(__name__)


def execution_name(task: TaskEntity[Any]) -> str:
    """The name of the execution that runs this fan-out: its code, and the run from the second on."""
    return task.code if task.run == 1 else f"{task.code}-{task.run}"


class FanOuts:
    """Runs fan-outs for one worker."""

    def __init__(
        self,
        backend: Backend,
        registry: Registry,
        attempts: Attempts,
        lease: Lease,
        by: str,
        may_start: Callable[[], bool],
        slots: Slots,
        quarantine: Quarantine,
        logs: LogWriter,
    ) -> None:
        self._backend = backend
        self._registry = registry
        self._attempts = attempts
        self._lease = lease
        self._by = by
        self._may_start = may_start
        self._slots = slots
        self._quarantine = quarantine
        self._logs = logs

    async def start(self, delivery: Delivery) -> datetime | None:
        """Claim the fan-out of a task message and start its execution; when the message is to come again, if at all.

        Raises: StoreError; the message comes again then, and whatever was done is found done.
        """
        parent = await self._backend.store.get(delivery.key)
        while True:
            plan = self._plan(parent) if parent is not None else None
            who = self._claimant(parent, delivery.task_type)
            decision = lifecycle.claim(delivery.key, parent, delivery.task_kind, who, plan)
            match decision:
                case Come(at):
                    return at
                case Verdict.ENDED:
                    return None
                case Verdict.RUNS_BY_ITSELF:
                    break
                case _:
                    outcome = await write(self._backend, decision)
                    parent = outcome.entity if isinstance(outcome, Written) else outcome.current
                    if isinstance(outcome, Written):
                        if decision.patch["status"] in TERMINAL:  # its deadline has passed
                            return None
                        break
        if parent is not None:
            await self.begin(parent)
        return None

    def serves(self, parent: TaskEntity[Any]) -> bool:
        """Whether this module can run its sub-tasks."""
        return self._registry.lacks_fan_out(parent.task_type) is None

    def _plan(self, parent: TaskEntity[Any]) -> FanOut:
        policy = self._registry.policy(parent.kind, parent.task_type)
        return parent.fan_out or fan_out_plan(
            parent.attributes.sub_task_count or 0,
            chunk_size=policy.chunk_size,
            chunk_concurrency=policy.chunk_concurrency,
            max_concurrency=policy.max_concurrency,
            tolerated_failure_percentage=policy.tolerated_failure_percentage,
        )

    async def begin(self, parent: TaskEntity[Any]) -> None:
        """Start the execution of the claimed *parent*, or end it if its execution has ended."""
        lack = self._registry.lacks_fan_out(parent.task_type)
        if lack is not None:
            failure = Failure(type="NoHandler", message=lack, attempt=parent.attempt)
            await write(
                self._backend,
                lifecycle.rejected_fan_out(
                    parent,
                    failure,
                    now=self._backend.clock.now(),
                    by=self._by,
                    claim_id=self._backend.ids.token(),
                ),
            )
            return
        plan, count = self._plan(parent), parent.attributes.sub_task_count or 0
        started = ExecutionInput(
            key=parent.key,
            run=parent.run,
            chunks=chunk_count(count, plan.chunk_size),
            at_once=chunks_at_once(plan),
            todo=None if parent.run == 1 else await self._take_over(parent, plan),
        )
        machine = self._backend.machine
        execution = await patiently(self._backend.clock, lambda: machine.start(execution_name(parent), started))
        # rule 3: "already exists" asks the execution itself. Ended, but the parent is open: finish it.
        if execution.status is not ExecutionStatus.RUNNING:
            await self.ended(parent, execution)

    async def _take_over(self, parent: TaskEntity[Any], plan: FanOut) -> Sequence[int]:
        """The chunks that this run has to run; what an earlier one completed counts for it."""
        if plan.only_failed:
            for row in await self._backend.store.list_chunks(parent.key, parent.run - 1):
                size = len(chunk_range(row.chunk, parent.attributes.sub_task_count or 0, plan.chunk_size))
                if row.succeeded == size:
                    await self._chunk_ended(replace(row, run=parent.run))
        return _left(parent, await self._backend.store.list_chunks(parent.key, parent.run))

    async def ended(self, parent: TaskEntity[Any], execution: Execution) -> None:
        """End the open *parent* whose *execution* has ended (rule 3); what has not run by now is given up.

        Raises: StoreError.
        """
        if not (await self._finalize(parent)).left:
            return
        log.error(
            "the execution ended before its chunks did",
            extra={"task": parent.id, "execution": execution.arn, "status": str(execution.status)},
        )
        # Asked once more: nothing undoes what follows, and what was heard may be about another run, or out of date.
        now = await self._backend.machine.describe(parent.execution_arn or "")
        if now is not None and now.status in (ExecutionStatus.FAILED, ExecutionStatus.ABORTED):
            await self.give_up(parent, f"its execution ended {now.status} before its sub-tasks had")

    async def give_up(self, parent: TaskEntity[Any], why: str) -> None:
        """End the open *parent* badly: what runs is cancelled, and what has not run will not. Raises: StoreError."""
        await self._cancel_the_rest(
            parent, _left(parent, await self._backend.store.list_chunks(parent.key, parent.run))
        )
        succeeded, failed = lifecycle.totals(await self._backend.store.list_chunks(parent.key, parent.run))
        change = lifecycle.rejected_fan_out(
            parent,
            Failure(type="ExecutionFailed", message=why, attempt=parent.attempt),
            now=self._backend.clock.now(),
            by=self._by,
            claim_id=self._backend.ids.token(),
        )
        change.patch |= {"sub_task_succeed_count": succeeded, "sub_task_failed_count": failed}
        await write(self._backend, change)

    async def step(self, delivery: Delivery) -> StepOutcome | None:
        """Do one step of an execution; None when the worker stops before it is done, so that somebody else goes on.

        Raises: StoreError; the step comes again then.
        """
        parent = await self._backend.store.get(delivery.key)
        if parent is not None and parent.run == delivery.run and self._is_late(parent):
            parent = await self._noted_late(parent)
        if parent is None or parent.is_terminal or parent.run != delivery.run or parent.fan_out is None:
            return StepOutcome()
        match delivery.kind:
            case MessageKind.CHUNK:
                return await self._chunk(parent, parent.fan_out, delivery)
            case MessageKind.COLLECT:
                if parent.cancel_requested is not None:
                    return StepOutcome()
                return StepOutcome(left=_left(parent, await self._backend.store.list_chunks(parent.key, parent.run)))
            case _:
                return await self._finalize(parent)

    async def _noted_late(self, parent: TaskEntity[Any]) -> TaskEntity[Any] | None:
        """*parent*, which is to end because its deadline passed: the step at hand need not wait until others see it."""
        if parent.status is not TaskStatus.IN_PROGRESS or parent.cancel_requested is not None:
            return parent
        now = self._backend.clock.now()
        change = lifecycle.cancel_requested(parent, reason=lifecycle.too_late(parent), by=self._by, now=now)
        outcome = await write(self._backend, change)
        return outcome.entity if isinstance(outcome, Written) else outcome.current

    async def _finalize(self, parent: TaskEntity[Any]) -> StepOutcome:
        rows = await self._backend.store.list_chunks(parent.key, parent.run)
        left = _left(parent, rows)
        if left and parent.cancel_requested is None:
            return StepOutcome(left=left)
        if left:
            await self._cancel_the_rest(parent, left)
            rows = await self._backend.store.list_chunks(parent.key, parent.run)
        succeeded, failed = lifecycle.totals(rows)
        await write(
            self._backend,
            lifecycle.finalized(
                parent,
                succeeded=succeeded,
                failed=failed,
                now=self._backend.clock.now(),
                by=self._by,
                claim_id=self._backend.ids.token(),
            ),
        )
        return StepOutcome()

    async def _cancel_the_rest(self, parent: TaskEntity[Any], chunks: Sequence[int]) -> None:
        """End the open sub-tasks of the chunks that have not ended; those that nobody has claimed are not touched."""
        plan, count = self._plan(parent), parent.attributes.sub_task_count or 0
        request = parent.cancel_requested
        for chunk in chunks:
            found = await self._backend.store.list_sub_tasks(parent.key, chunk_range(chunk, count, plan.chunk_size))
            tally = _Tally()
            for task in found:
                if task.run == parent.run or task.status is TaskStatus.COMPLETED:
                    tally.ended((await self._cancelled(task, request)).status)
            if tally.succeeded or tally.failed:
                await self._chunk_ended(
                    ChunkRow(
                        parent=parent.key,
                        run=parent.run,
                        chunk=chunk,
                        succeeded=tally.succeeded,
                        failed=tally.failed,
                    )
                )

    async def _cancelled(self, task: TaskEntity[Any], request: CancelRequest | None) -> TaskEntity[Any]:
        """*task* once it has ended, by itself or because it was cancelled."""
        while not task.is_terminal:
            change = lifecycle.cancelled(
                task,
                reason=lifecycle.FAN_OUT_ENDS,
                by=request.by if request is not None else None,
                now=self._backend.clock.now(),
                claim_id=self._backend.ids.token(),
            )
            outcome = await write(self._backend, change)
            after = outcome.entity if isinstance(outcome, Written) else outcome.current
            if after is None:
                break
            task = after
        return task

    async def _chunk_ended(self, row: ChunkRow) -> None:
        if await patiently(self._backend.clock, lambda: self._backend.store.put_chunk(row)):
            now = self._backend.clock.now()
            await self._backend.store.update(
                lifecycle.counted(row.parent, row.run, succeeded=row.succeeded, failed=row.failed, now=now)
            )

    async def _chunk(self, parent: TaskEntity[Any], plan: FanOut, delivery: Delivery) -> StepOutcome | None:
        if parent.cancel_requested is not None:
            return StepOutcome(stop=True)
        chunk, count = delivery.chunk or 0, parent.attributes.sub_task_count or 0
        indexes = chunk_range(chunk, count, plan.chunk_size)
        tally = _Tally()
        run = _ChunkRun(
            parent=parent,
            inputs=await payloads.inputs(self._backend, parent, indexes),
            first=indexes.start,
            rest=iter(indexes),
            context=self._context(parent, delivery),
            tally=tally,
        )
        await self._lanes(run, plan.chunk_concurrency)
        if run.cancelled:
            return StepOutcome(stop=True)
        if (run.stopped or tally.again_at is not None) and not self._may_start():
            return None
        if tally.again_at is not None:
            return StepOutcome(again_at=tally.again_at)
        row = ChunkRow(parent=parent.key, run=parent.run, chunk=chunk, succeeded=tally.succeeded, failed=tally.failed)
        await self._chunk_ended(row)
        return StepOutcome()

    def _context(self, parent: TaskEntity[Any], delivery: Delivery) -> dict[str, Any]:
        return shapes.state_context(
            arn=parent.execution_arn or "",
            name=execution_name(parent),
            key=parent.key,
            run=parent.run,
            state=str(delivery.kind),
            retries=delivery.received - 1,
            started_at=parent.started_at or parent.created_at,
        )

    async def _lanes(self, run: "_ChunkRun", concurrency: int) -> None:
        """Run the sub-tasks: the first lane in the slot of the delivery, more as soon as the worker has room."""
        if concurrency == 1:
            await self._lane(run)
            return
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, len(run.inputs)) - 1):
                    group.create_task(self._extra_lane(run))
                try:
                    await self._lane(run)
                finally:
                    run.over = True
                    self._slots.nudge()
        except BaseExceptionGroup as failures:
            storage, others = failures.split(StoreError)
            if storage is None or others is not None:
                raise
            raise _first(storage) from failures

    async def _extra_lane(self, run: "_ChunkRun") -> None:
        if await self._slots.take_unless(lambda: run.over):
            try:
                await self._lane(run)
            finally:
                self._slots.give_back()

    async def _lane(self, run: "_ChunkRun") -> None:
        """One sub-task after the other. The end of one and the claim of the next go to the store together."""
        end: Change | None = None
        lane = object()  # runs one sub-task at a time, so it may stand for it in the quarantine
        try:
            for index in run.rest:
                if run.cancelled or self._is_late(run.parent):
                    run.cancelled = True
                    break
                if not self._may_start():
                    run.stopped = True
                    break
                value = run.inputs[index - run.first]
                claim, fresh = lifecycle.first_claim(run.parent, index, value, self._claimant(run.parent))
                if end is None:
                    outcome = await write(self._backend, claim)
                else:
                    ended, outcome = await self._logs.beside(write_many(self._backend, (end, claim)))
                    self._note(run, end, ended)
                    self._quarantine.leave(lane)
                    end = None
                    if isinstance(ended, Refused) and isinstance(outcome, Written) and await self._is_over(run.parent):
                        await self._cancelled(fresh, None)
                        run.cancelled = True
                        break
                task: TaskEntity[Any] | None = fresh
                if isinstance(outcome, Refused):
                    task = await self._claimed(run, outcome.current, value, lane)
                if task is not None:
                    event = StepFunctionTaskEvent(input=task, context=run.context)
                    end = await self._attempts.run(task, event)
                    if end is not None and end.patch["status"] is TaskStatus.CANCELLED:
                        run.cancelled = True
                    if end is None:
                        self._quarantine.leave(lane)
                        run.tally.come_again(self._backend.clock.now() + LOOK_AGAIN)
        finally:
            # Also when the lane breaks off: what has run must not run again.
            try:
                if end is not None:
                    self._note(run, end, await self._logs.beside(write(self._backend, end)))
            finally:
                self._quarantine.leave(lane)

    async def _claimed(
        self, run: "_ChunkRun", current: TaskEntity[Any] | None, value: Any, lane: object
    ) -> TaskEntity[Any] | None:
        """The sub-task that stands at *current*, if it is ours now; if not the tally knows why."""
        while current is not None:  # None: it was there a moment ago, and its parent is being deleted
            who = self._claimant(run.parent)
            decision = lifecycle.claim_in_run(current, run.parent, who)
            if isinstance(decision, Change) and not self._quarantine.admits(decision, who, lane):
                decision = Come(who.now + LOOK_AGAIN)
            match decision:
                case Come(at):
                    run.tally.come_again(at)
                    return None
                case Verdict():
                    run.tally.ended(current.status)
                    return None
                case _:
                    outcome = await self._write_claim(decision, lane)
                    if isinstance(outcome, Refused):
                        current = outcome.current
                    elif decision.patch["status"] is not TaskStatus.IN_PROGRESS:
                        run.tally.ended(decision.patch["status"])
                        return None
                    elif outcome.entity is not None:
                        return payloads.sub_task(run.parent, outcome.entity, value)
        return None

    async def _write_claim(self, claim: Change, lane: object) -> Written | Refused:
        try:
            outcome = await write(self._backend, claim)
        except StoreError:
            self._quarantine.leave(lane)
            raise
        if isinstance(outcome, Refused):
            self._quarantine.leave(lane)
        return outcome

    async def _is_over(self, parent: TaskEntity[Any]) -> bool:
        """Whether this run of the fan-out has ended, or is to end: what begins now would be counted by nobody."""
        now = await self._backend.store.get(parent.key)
        return now is None or now.is_terminal or now.run != parent.run or now.cancel_requested is not None

    def _is_late(self, parent: TaskEntity[Any]) -> bool:
        return parent.deadline_at is not None and parent.deadline_at <= self._backend.clock.now()

    def _note(self, run: "_ChunkRun", end: Change, outcome: Written | Refused) -> None:
        status = end.patch["status"]
        if isinstance(outcome, Refused):
            log.warning("the claim was lost; its result is dropped", extra={"task": end.key.id, "status": str(status)})
            run.tally.come_again(self._backend.clock.now() + LOOK_AGAIN)
        elif status is TaskStatus.PENDING:
            run.tally.come_again(again_at(end, outcome, self._backend.clock.now()))
        else:
            run.tally.ended(status)

    def _claimant(self, parent: TaskEntity[Any] | None, task_type: str = "") -> Claimant:
        policy = self._registry.policy(Kind.SFN_TASK, task_type if parent is None else parent.task_type)
        retry = policy.retry if parent is None else retry_of(policy.retry, parent.options.retry)
        return Claimant(
            by=self._by,
            claim_id=self._backend.ids.token(),
            now=self._backend.clock.now(),
            lease=self._lease(policy.timeout),
            max_lost=lost_lease_limit(retry),
        )


def _first(errors: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _left(parent: TaskEntity[Any], rows: Sequence[ChunkRow]) -> list[int]:
    """The chunks that have no row yet."""
    if parent.fan_out is None:
        return []
    done = {row.chunk for row in rows}
    chunks = chunk_count(parent.attributes.sub_task_count or 0, parent.fan_out.chunk_size)
    return [chunk for chunk in range(chunks) if chunk not in done]


@dataclass(slots=True)
class _Tally:
    """What is known of the sub-tasks of a chunk."""

    succeeded: int = 0
    failed: int = 0
    again_at: datetime | None = None

    def ended(self, status: TaskStatus) -> None:
        if status is TaskStatus.COMPLETED:
            self.succeeded += 1
        elif status is TaskStatus.FAILED:
            self.failed += 1

    def come_again(self, at: datetime) -> None:
        self.again_at = at if self.again_at is None else min(self.again_at, at)


@dataclass(slots=True, kw_only=True)
class _ChunkRun:
    """A chunk while it runs."""

    parent: TaskEntity[Any]
    inputs: Any
    first: int
    rest: Iterator[int]
    context: dict[str, Any]
    tally: _Tally
    stopped: bool = False
    cancelled: bool = False
    """The fan-out is to end."""
    over: bool = False
    """No sub-task is left to be started."""
