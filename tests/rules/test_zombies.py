"""Rules 2 and 3 against zombies: whoever has lost its claim still writes, and nothing comes of it.

First change by change, for everything that a claim allows; then with workers that stall at the wrong moment.
"""

import asyncio
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_type_hints

import pytest

from taskloom import Retry, TaskModule, TaskQueueEvent, TaskStatus, lifecycle
from taskloom.execution.worker import Worker
from taskloom.lifecycle import Change, Refused, Written, is_mine
from taskloom.model import Kind, TaskEntity
from taskloom.ports import Backend, ChunkRow
from tests.support.clock import FakeClock
from tests.support.faults import DEADLINE, Gate, Inner, PortCall, Probe, tapped
from tests.support.rules import check_rules
from tests.support.scenarios import (
    LEASE,
    TENANT,
    check_counters,
    check_history,
    module_over,
    open_backend,
    picture,
    work,
)
from tests.support.zombies import CASES, FIRST_CLAIM, STAGES, STEPS, Case, Write, lose

PENDING, IN_PROGRESS = TaskStatus.PENDING, TaskStatus.IN_PROGRESS
COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED


# --- change by change -------------------------------------------------------------------------------------------------


async def trouble(backend: Backend, case: Case, late: Write) -> str | None:
    """What is wrong after a late write: nothing, when it is refused, told how the task stands, and all is as before."""
    scene, store = await STAGES[case.stage](backend), backend.store
    write = late(scene)
    await lose(scene, case.loss)
    before, stands = await picture(backend, scene.rows.tenant), await scene.now()
    if isinstance(write, ChunkRow):
        rows = await store.list_chunks(write.parent, write.run)
        if await store.put_chunk(write) or await store.list_chunks(write.parent, write.run) != rows:
            return "another chunk row stands there"
    else:
        refused = Refused(stands)
        answers = [await store.update(write), *await store.update_many([write, write])]
        if answers != [refused] * 3:
            return f"it was carried out: {write}"
        if is_mine(write, refused):
            return "it was taken for the change that stands there"
    return None if await picture(backend, scene.rows.tenant) == before else "something was changed"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_late_write_changes_nothing(backend: Backend, case: Case) -> None:
    """Versions included; each write on a task of its own."""

    async def main() -> dict[str, str | None]:
        return {name: await trouble(backend, case, late) for name, late in case.late.items()}

    troubles = asyncio.run(main())
    assert not {name: what for name, what in troubles.items() if what}


@pytest.mark.parametrize("stage", STAGES)
def test_in_time_it_is_carried_out(tmp_path: Path, clock: FakeClock, stage: str) -> None:
    """The counterpart: it is the loss that the writes above are refused for."""
    writes = {name: write for case in CASES if case.stage == stage for name, write in case.late.items()}

    async def carried_out(backend: Backend, late: Write) -> bool:
        write = late(await STAGES[stage](backend))
        if isinstance(write, ChunkRow):
            return await backend.store.put_chunk(write)
        return isinstance(await backend.store.update(write), Written)

    async def main(backend: Backend) -> dict[str, bool]:
        return {name: await carried_out(backend, write) for name, write in writes.items()}

    backend = open_backend(tmp_path / "tasks.db", clock)
    done = asyncio.run(main(backend))
    backend.close()
    # Nobody can be the first to claim a sub-task that is claimed.
    assert {name for name, is_done in done.items() if not is_done} == writes.keys() & FIRST_CLAIM.keys()


def test_no_write_is_forgotten() -> None:
    """Every function that makes changes has its late writes; every stage and every step is in use."""
    builders = {
        name
        for name, function in vars(lifecycle).items()
        if inspect.isfunction(function)
        and not name.startswith("_")
        and "Change" in str(get_type_hints(function).get("return"))
    }
    assert {name.split(",")[0] for case in CASES for name in case.late} == builders | {"put_chunk"}
    assert {case.stage for case in CASES} == set(STAGES)
    assert {step for case in CASES for step in case.loss.split(", ")} == set(STEPS)
    pairs = {stage: sum(len(case.late) for case in CASES if case.stage == stage) for stage in STAGES}
    print(f"{sum(pairs.values())} pairs of a late write and a loss: {pairs}")
    print(f"{len(PLOTS)} of a stalled worker and a loss")
    assert sum(pairs.values()) > 600
    assert len(PLOTS) > 250


# --- workers that stall -----------------------------------------------------------------------------------------------


def _writes(call: PortCall) -> Sequence[Change | ChunkRow]:
    match call.name:
        case "store.update" | "store.put_chunk":
            return [call.args[0]]
        case "store.update_many":
            return list(call.args[0])
    return []


class Ledger(Probe):
    """A probe that also keeps what the store said to each write."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[Change | ChunkRow, Written | Refused | bool]] = []

    async def __call__(self, call: PortCall, inner: Inner) -> Any:
        async def noted(*args: Any) -> Any:
            answer = await inner(*args)
            if writes := _writes(call):
                self.said += zip(writes, answer if call.name == "store.update_many" else [answer], strict=True)
            return answer

        return await super().__call__(call, noted)


@dataclass(frozen=True, slots=True)
class Late:
    """A write of a worker, and what its handler does that leads to it."""

    name: str
    is_it: Callable[[Change | ChunkRow], bool]
    blocks: bool = False
    """The handler does not end by itself."""
    grace: float = 30.0

    def picks(self, call: PortCall) -> bool:
        """Whether the worker is to stall at *call*: it carries the write, or the payload that must be there before."""
        return any(map(self.is_it, _writes(call))) or (self.name == LARGE and call.name == "payloads.put")


def _by_owner(asks: Callable[[Change], bool]) -> Callable[[Change | ChunkRow], bool]:
    return lambda write: isinstance(write, Change) and write.key.kind is not Kind.SFN_TASK and asks(write)


def _by_execution(asks: Callable[[Change], bool]) -> Callable[[Change | ChunkRow], bool]:
    return lambda write: isinstance(write, Change) and write.key.kind is Kind.SFN_TASK and asks(write)


def _ends_as(status: TaskStatus) -> Callable[[Change | ChunkRow], bool]:
    return _by_owner(lambda change: change.patch.get("status") is status)


def _says(field: str) -> Callable[[Change | ChunkRow], bool]:
    return _by_owner(lambda change: field in change.patch and "status" not in change.patch)


LARGE: Final = "completed with a large result"
LATE: Final = (
    Late("completed", _ends_as(COMPLETED)),
    Late(LARGE, _ends_as(COMPLETED)),
    Late("failed", _ends_as(FAILED)),
    Late("waits for retry", _ends_as(PENDING)),
    Late("given back", _ends_as(PENDING), blocks=True, grace=0),
    Late("progressed", _says("progress"), blocks=True),
    Late("renewed", _says("lease_until"), blocks=True),
)
LATE_CANCELLED: Final = Late("cancelled by its worker", _ends_as(CANCELLED), blocks=True)
LATE_OF_A_PARENT: Final = (
    Late("finalized", _by_execution(lambda change: change.patch.get("status") is COMPLETED)),
    Late("counted", _by_execution(lambda change: change.add is not None)),
    Late("chunk row", lambda write: isinstance(write, ChunkRow)),
)
LOSSES: Final = {
    "lease over, claim": COMPLETED,
    "lease over, complete": COMPLETED,
    "lease over, give up": FAILED,
    "lease over, complete, retry, claim": COMPLETED,
    "cancel": CANCELLED,
    "cancel, retry": COMPLETED,
    "cancel, retry, claim": COMPLETED,
    "cancel, retry, complete": COMPLETED,
    "expire": FAILED,
    "expire, retry, claim": COMPLETED,
}
"""What others do with the task, and how it ends then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A worker stalls, all of it, at the write *late*; others go on with the task; the worker wakes up."""

    kind: Kind
    """TASK: a single task. SUB_TASK: the only one of a fan-out. SFN_TASK: that fan-out, whose sub-task has ended."""
    late: Late
    loss: str
    end: TaskStatus
    colour: str = "async"

    def __str__(self) -> str:
        return f"{self.kind}, {self.colour}: {self.late.name} after {self.loss}"

    @property
    def is_logged_as(self) -> str | None:
        """What a human reads of the late write."""
        if self.kind is Kind.SFN_TASK:
            return None
        if (self.kind, self.late.name, self.loss) == (Kind.TASK, "renewed", "cancel"):  # it learns of it by that
            return "the task was cancelled"
        return "the claim was lost"


PLOTS: Final = (
    *(
        Plot(kind=kind, late=late, loss=loss, end=end, colour=colour)
        for kind in (Kind.TASK, Kind.SUB_TASK)
        for late in LATE
        for loss, end in LOSSES.items()
        for colour in ("async", "def")
    ),
    *(
        Plot(kind=Kind.SUB_TASK, late=LATE_CANCELLED, loss=loss, end=end)
        for loss, end in LOSSES.items()
        if loss.startswith("cancel")
    ),
    *(
        Plot(kind=Kind.SFN_TASK, late=late, loss=f"lease over, complete{more}", end=COMPLETED)
        for late in LATE_OF_A_PARENT
        for more in ("", ", retry", ", retry, claim", ", retry, complete")
    ),
)


class Story:
    """A plot on a real backend, with real workers."""

    def __init__(self, backend: Backend, clock: FakeClock, plot: Plot, *, inputs: int = 1) -> None:
        self.plot = plot
        self._backend, self._clock, self._inputs = backend, clock, inputs
        self._ledger, self._gate, self._stalled = Ledger(), Gate(self._holds), False
        self._inside, self._may_leave, self._thread_may_leave = threading.Event(), asyncio.Event(), threading.Event()
        self._other_inside, self._other_may_leave = asyncio.Event(), asyncio.Event()
        retry = Retry(max_attempts=5, jitter=False) if plot.late.name == "waits for retry" else None
        self._first = module_over(tapped(tapped(backend, self._ledger), self._gate), retry=retry)
        _define(self._first, self._coroutine if plot.colour == "async" else self._function)
        self._second = module_over(backend)
        _define(self._second, self._other)
        self.service = self._second.task_service
        self._stack = AsyncExitStack()
        self._worker: Worker | None = None

    def _holds(self, call: PortCall) -> bool:
        self._stalled = self._stalled or self.plot.late.picks(call)
        return self._stalled

    async def tell(self) -> None:
        """Up to the moment when the worker that had stalled is through with everything."""
        deadline = LEASE / 2 if "expire" in self.plot.loss else None
        if self.plot.kind is Kind.TASK:
            task = await self.service.create_task(tenant_code=TENANT, task_type="cat", deadline=deadline)
        else:
            task = await self.service.create_step_function_task(
                tenant_code=TENANT, task_type="cat", input=range(self._inputs), deadline=deadline
            )
        self.key = task.key
        born: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        life = asyncio.create_task(self._live(born))
        try:
            worker = await born
            await asyncio.to_thread(self._inside.wait, DEADLINE)
            await self._provoke(worker)
            await self._gate.held()
            for step in self.plot.loss.split(", "):
                await self._steps[step](self)
            self.before, answered = await picture(self._backend), len(self._ledger.said)
            worker.stop()  # it claims nothing more, and ends as soon as it has written
            self._gate.open()
            await self._ledger.until(lambda: any(self.plot.late.is_it(write) for write, _ in self._since(answered)))
            if self.plot.late.name != "renewed":  # whoever is refused that is interrupted
                self._let_go()
            await life
        finally:
            self._gate.open()
            self._let_go()
            life.cancel()
        self.late = self._since(answered)

    def _since(self, answered: int) -> Sequence[tuple[Change | ChunkRow, Written | Refused | bool]]:
        return self._ledger.said[answered:]

    async def check_nothing_came_of_it(self) -> None:
        """Assert that whatever the worker wrote late was refused."""
        assert not [write for write, answer in self.late if not (answer is False or isinstance(answer, Refused))]
        assert await picture(self._backend) == self.before

    # --- the one who comes too late

    async def _live(self, born: "asyncio.Future[Worker]") -> None:
        async with self._first.worker(concurrency=1, grace=self.plot.late.grace) as worker:
            born.set_result(worker)
            await worker.run()

    async def _provoke(self, worker: Worker) -> None:
        match self.plot.late.name:
            case "given back":
                worker.stop()
            case "renewed":
                self._clock.advance(LEASE / 3)
            case "cancelled by its worker":
                await self.service.cancel_task(self.key)
                self._clock.advance(1)

    async def _coroutine(self, event: Any) -> str:
        self._begin(event)
        if self.plot.late.blocks:
            await self._may_leave.wait()
        return self._end()

    def _function(self, event: Any) -> str:
        self._begin(event)
        if self.plot.late.blocks:
            assert self._thread_may_leave.wait(DEADLINE)
        return self._end()

    def _begin(self, event: Any) -> None:
        if self.plot.late.name == "progressed":
            event.progress(7)
        self._inside.set()

    def _end(self) -> str:
        if self.plot.late.name in ("failed", "waits for retry"):
            raise ValueError("the first one fails")
        return self._result("first")

    def _let_go(self) -> None:
        self._may_leave.set()
        self._thread_may_leave.set()

    def _result(self, name: str) -> str:
        return name * (20_000 if self.plot.late.name == LARGE else 1)

    # --- the others

    async def _other(self, event: Any) -> str:
        self._other_inside.set()
        await self._other_may_leave.wait()
        return self._result("second")

    async def _other_worker(self) -> Worker:
        if self._worker is None:
            self._worker = await self._stack.enter_async_context(self._second.worker(concurrency=1))
        return self._worker

    async def _lease_over(self) -> None:
        """As long as the worker stalls it renews nothing."""
        self._clock.advance(LEASE)

    async def _claim(self) -> None:
        """Another worker runs it."""
        self._other_may_leave.clear()
        self._other_inside.clear()
        await self._other_worker()
        await self._other_inside.wait()

    async def _complete(self) -> None:
        """Another worker has run it."""
        self._other_may_leave.set()
        await (await self._other_worker()).drain()
        assert (await self.task()).status is COMPLETED

    async def _give_up(self) -> None:
        """Another worker finds that one has died too often."""
        self._other_may_leave.set()
        strict = module_over(self._backend, retry=Retry(max_attempts=1))
        _define(strict, self._other)
        await work(strict)
        assert (await self.task()).status is FAILED

    async def _expire(self) -> None:
        """Another worker finds that it is overdue; a fan-out is ended by its execution."""
        self._clock.advance(LEASE / 2)
        await (await self._other_worker()).drain()
        if self.plot.kind is not Kind.TASK:
            self._clock.advance(LEASE)
            await (await self._other_worker()).drain()
        assert (await self.service.get_task(self.key)).status is FAILED

    async def _cancel(self) -> None:
        """Somebody cancels it; a fan-out is ended by its execution."""
        await self.service.cancel_task(self.key)
        if self.plot.kind is not Kind.TASK:
            self._clock.advance(LEASE)
            await (await self._other_worker()).drain()
        assert (await self.task()).status is CANCELLED

    async def _retry(self) -> None:
        """Somebody wants it once more, and no worker has seen it yet."""
        await self.dismiss()
        ended = await self.service.get_task(self.key)
        again = await self.service.retry_task(self.key, only_failed=ended.status is not COMPLETED)
        assert (again.status, again.run) == (PENDING, 2)

    _steps: Final[dict[str, Callable[["Story"], Awaitable[None]]]] = {
        "lease over": _lease_over,
        "claim": _claim,
        "complete": _complete,
        "give up": _give_up,
        "expire": _expire,
        "cancel": _cancel,
        "retry": _retry,
    }

    async def task(self) -> TaskEntity[Any]:
        """The task that the handler runs for: the single one, or the first sub-task."""
        if self.plot.kind is Kind.TASK:
            return await self.service.get_task(self.key)
        return (await self.service.list_sub_tasks(self.key)).items[0]

    async def end(self) -> TaskEntity[Any]:
        """Let the others come to their end, and go; the task by then."""
        self._other_may_leave.set()
        worker = await self._other_worker()
        while not (await self.service.get_task(self.key)).is_terminal:
            await worker.drain()
            self._clock.advance(1)
        await self.dismiss()
        top = await self.service.get_task(self.key)
        subs = [] if self.plot.kind is Kind.TASK else [sub async for sub in self.service.iter_sub_tasks(self.key)]
        for task in (top, *subs):
            if task.history or task is top:  # what nobody has ever claimed has none
                check_history(task)
        if subs:
            check_counters(top, subs)
        return top

    async def check_end(self) -> None:
        """Assert that the task ends as if the worker that had stalled had died."""
        top, task, status = await self.end(), await self.task(), self.plot.end
        assert top.status is status
        by_its_fan_out = self.plot.loss == "expire" and self.plot.kind is Kind.SUB_TASK
        assert task.status is (CANCELLED if by_its_fan_out else status)
        # What the sub-task of a parent has done before its parent was lost stays, unless everything is to run again.
        author = "first" if self.plot.kind is Kind.SFN_TASK and task.run == 1 else "second"
        assert task.result == (self._result(author) if status is COMPLETED else None)
        assert task.progress is None

    async def dismiss(self) -> None:
        """The other worker ends what it does, and goes."""
        self._other_may_leave.set()
        await self._stack.aclose()
        self._worker = None


def _define(module: TaskModule, handler: Callable[[Any], Any]) -> None:
    module.task("cat")(handler)
    module.step_function_task("cat", chunk_size=2)(handler)


@pytest.mark.parametrize("plot", PLOTS, ids=str)
def test_a_worker_that_stalls_writes_nothing_any_more(
    backend: Backend, clock: FakeClock, database: Path, caplog: pytest.LogCaptureFixture, plot: Plot
) -> None:
    """Refused, logged, nothing changed; and the task goes on as if that worker had died."""

    async def main() -> TaskEntity[Any]:
        story = Story(backend, clock, plot)
        async with asyncio.timeout(DEADLINE):
            try:
                await story.tell()
                await story.check_nothing_came_of_it()
                await asyncio.to_thread(check_rules, database)  # not only in the end
                task = await story.task()
                await story.check_end()
            finally:
                await story.dismiss()
        return task

    with caplog.at_level(logging.INFO, "taskloom"):
        task = asyncio.run(main())
    logged = [record.getMessage() for record in caplog.records if getattr(record, "task", None) == task.id]
    if plot.is_logged_as is not None:
        assert any(plot.is_logged_as in message for message in logged), logged


def test_a_lost_claim_costs_its_neighbours_nothing(
    backend: Backend, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What is written together with it is written."""

    async def main() -> list[TaskEntity[Any]]:
        gate = Gate(lambda call: any(map(_ends_as(COMPLETED), _writes(call))))
        module = module_over(tapped(backend, gate))
        everybody = asyncio.Barrier(3)

        @module.task("cat")
        async def cat(event: TaskQueueEvent) -> str:
            await everybody.wait()
            return "done"

        service = module_over(backend).task_service
        tasks = [await service.create_task(tenant_code=TENANT, task_type="cat") for _ in range(3)]
        async with asyncio.timeout(DEADLINE), module.worker(concurrency=3) as worker:
            await gate.held()
            await service.cancel_task(tasks[1].key)
            gate.open()
            await worker.drain()
        return [await service.get_task(task.key) for task in tasks]

    with caplog.at_level(logging.WARNING, "taskloom"):
        tasks = asyncio.run(main())
    assert [(task.status, task.result) for task in tasks] == [
        (COMPLETED, "done"),
        (CANCELLED, None),
        (COMPLETED, "done"),
    ]
    assert [getattr(record, "task", None) for record in caplog.records] == [tasks[1].id]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_late_end_that_brings_the_next_claim_along(
    backend: Backend, clock: FakeClock, caplog: pytest.LogCaptureFixture, loss: str
) -> None:
    """The end of a sub-task and the claim of the next one go to the store together; the claim may still be good.

    But a sub-task that begins after its fan-out has ended would be counted by nobody (rule 4).
    """
    plot = Plot(kind=Kind.SUB_TASK, late=LATE[0], loss=loss, end=LOSSES[loss])

    async def main() -> None:
        story = Story(backend, clock, plot, inputs=2)
        async with asyncio.timeout(DEADLINE):
            try:
                await story.tell()
                assert (await story.end()).status is plot.end
            finally:
                await story.dismiss()

    with caplog.at_level(logging.WARNING, "taskloom"):
        asyncio.run(main())
    assert "the claim was lost" in caplog.text
