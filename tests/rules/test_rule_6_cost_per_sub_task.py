"""Rule 6: what a sub-task costs does not depend on how many there are."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from taskloom import StepFunctionTaskEvent
from taskloom.lifecycle import Change, Guard
from taskloom.model import Kind, Progress, TaskKey
from taskloom.ports import Backend, ChunkRow, ExecutionInput
from tests.support.clock import FakeClock
from tests.support.faults import READS, Inner, PortCall, Probe, Tap, tapped
from tests.support.scenarios import TENANT, module_over, open_backend, work

CHUNK: Final = 20
SIZES: Final = (100, 1_000, 3_000)
INPUT: Final = {"text": "x" * 100}
"""Large enough that the largest fan-outs do not fit into the row of their parent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What it cost to run a fan-out of *count* sub-tasks."""

    count: int
    writes_of_sub_tasks: int
    """Changes of rows of sub-tasks."""
    writes_of_chunks: int
    """Chunk rows, and changes of the parent for them."""
    other_writes: int
    """Of the parent and its execution, whatever the number of sub-tasks."""
    messages: int
    """Calls of queue and state machine that settle a message."""
    reads: Counter[str]
    """Calls that read, by name."""
    most_read: int
    """Rows of sub-tasks, and items of the payload store, that one call has returned at most."""
    largest_message: int
    """Characters of the largest message, and of what an execution was started with."""
    parent_row: int
    """Bytes of the row of the parent, the inline input aside."""

    @property
    def chunks(self) -> int:
        """How many chunks there were."""
        return -(-self.count // CHUNK)


async def cost_of(count: int, path: Path, wasteful: Callable[[Backend], Tap] | None = None) -> Cost:
    """Run a fan-out of *count*, each sub-task in a chunk of CHUNK, and look at every call that a worker makes."""
    backend = open_backend(path, FakeClock())
    probe = Probe()
    probed = tapped(backend, probe)
    module = module_over(probed if wasteful is None else tapped(probed, wasteful(probed)))

    @module.step_function_task("cat", chunk_size=CHUNK)
    async def cat(event: StepFunctionTaskEvent) -> int:
        return len(event.task.input["text"])

    creator = module_over(backend).task_service
    inputs = (INPUT for _ in range(count))
    parent = await creator.create_step_function_task(tenant_code=TENANT, task_type="cat", input=inputs)
    await work(module, concurrency=4)
    done = await creator.get_task(parent.key)
    assert done.attributes.sub_task_succeed_count == count
    await asyncio.to_thread(backend.close)
    return _cost(count, probe, path)


def _cost(count: int, probe: Probe, path: Path) -> Cost:
    changes = [call.args[0] for call in probe.named("store.update")]
    changes += [change for call in probe.named("store.update_many") for change in call.args[0]]
    of_sub_tasks = [change for change in changes if change.key.kind is Kind.SUB_TASK]
    counting = [change for change in changes if change.add]
    starts = [call.args[1] for call in probe.named("machine.start")]
    assert all(isinstance(start, ExecutionInput) for start in starts)
    lists = [answer for answer in probe.answers if isinstance(answer, (list, tuple))]
    deliveries = [item for answer in lists for item in answer if hasattr(item, "receipt")]
    rows = [answer for answer in lists if answer and not hasattr(answer[0], "receipt")]
    with closing(sqlite3.connect(path)) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(tasks)") if row[1] != "input"]
        size = " + ".join(f"coalesce(length({column}), 0)" for column in columns)
        ((parent_row,),) = connection.execute(f"SELECT {size} FROM tasks").fetchall()
    return Cost(
        count=count,
        writes_of_sub_tasks=len(of_sub_tasks),
        writes_of_chunks=len(counting) + len(probe.named("store.put_chunk")),
        other_writes=len(changes) - len(of_sub_tasks) - len(counting) + len(starts),
        messages=sum(len(probe.named(name)) for name in ("machine.report", "queue.release"))
        + sum(len(call.args[0]) for call in probe.named("queue.delete")),
        reads=Counter(call.name for call in probe.made if call.name in READS),
        most_read=max((len(answer) for answer in rows if not hasattr(answer[0], "chunk")), default=0),
        largest_message=max(len(repr(item)) for item in [*deliveries, *starts]),
        parent_row=parent_row,
    )


def check_costs(costs: list[Cost]) -> None:
    """Assert that each fan-out cost no more per sub-task and per chunk than rule 6 allows, whatever its size."""
    for cost in costs:
        assert cost.writes_of_sub_tasks <= 2 * cost.count, "a claim and a finish for each sub-task"
        assert cost.writes_of_chunks <= 2 * cost.chunks
        assert cost.other_writes <= 5
        assert cost.messages <= cost.chunks + 5
        assert cost.most_read <= CHUNK, "nothing reads all sub-tasks to learn about one"
        for name, calls in cost.reads.items():
            if not name.endswith(".next_due"):  # asked by a worker that found nothing, not by a sub-task
                assert calls <= cost.chunks + 5, name
        assert cost.reads["store.list_sub_tasks"] == 0
        assert cost.reads["store.list_chunks"] <= 5
    digits = 10
    assert max(cost.largest_message for cost in costs) - min(cost.largest_message for cost in costs) < digits
    assert max(cost.parent_row for cost in costs) - min(cost.parent_row for cost in costs) < 200, "no row grows"


async def costs_of(
    folder: Path, sizes: tuple[int, ...], wasteful: Callable[[Backend], Tap] | None = None
) -> list[Cost]:
    name = "sound" if wasteful is None else "wasteful"
    return [await cost_of(count, folder / f"{name}-{count}.db", wasteful) for count in sizes]


def test_the_cost_of_a_sub_task_does_not_depend_on_their_number(tmp_path: Path) -> None:
    """For fan-outs of 100, 1,000 and 3,000 sub-tasks in chunks of the same size."""
    costs = asyncio.run(costs_of(tmp_path, SIZES))
    check_costs(costs)
    per_sub_task = {cost.writes_of_sub_tasks / cost.count for cost in costs}
    assert len(per_sub_task) == 1, "the same for each size"


def test_an_unclaimed_sub_task_costs_nothing(backend: Backend) -> None:
    """Creation writes the parent and its input: the number of writes does not grow with that of the inputs."""

    async def main() -> None:
        calls = []
        for count in (20_000, 40_000):
            probe = Probe()
            service = module_over(tapped(backend, probe)).task_service
            await service.create_step_function_task(tenant_code=TENANT, task_type="cat", input=range(count))
            names = Counter(call.name for call in probe.made)
            assert names.pop("items.add", 0) <= count / 100 + 1
            calls.append(names)
        assert calls[0] == calls[1]
        assert sum(calls[0].values()) <= 3

    asyncio.run(main())


# --- the check bites -------------------------------------------------------------------------------------------------


async def _another_write(backend: Backend, row: ChunkRow) -> None:
    parts = row.parent.parts
    for index in range(row.chunk * CHUNK, (row.chunk + 1) * CHUNK):
        key = TaskKey.sub_task(parts.tenant_code, parts.task_type, parts.code, index)
        await backend.store.update(Change(key=key, guard=Guard(), patch={"updated_at": backend.clock.now()}))


async def _reads_all(backend: Backend, row: ChunkRow) -> None:
    await backend.store.list_sub_tasks(row.parent, range(10**6))


async def _reads_its_chunk(backend: Backend, row: ChunkRow) -> None:
    await backend.store.list_sub_tasks(row.parent, range(row.chunk * CHUNK, (row.chunk + 1) * CHUNK))


async def _grows_the_parent(backend: Backend, row: ChunkRow) -> None:
    progress = Progress(done=0, message="x" * 40 * (row.chunk + 1))
    await backend.store.update(Change(key=row.parent, guard=Guard(), patch={"progress": progress}))


Waste = Callable[[Backend, ChunkRow], Awaitable[None]]


@pytest.mark.parametrize("waste", [_another_write, _reads_all, _reads_its_chunk, _grows_the_parent])
def test_a_cost_that_grows_is_noticed(tmp_path: Path, waste: Waste) -> None:
    """An engine that does a little more for each chunk that ends."""

    def wasteful(backend: Backend) -> Tap:
        async def tap(call: PortCall, inner: Inner) -> Any:
            answer = await inner()
            if call.name == "store.put_chunk":
                await waste(backend, call.args[0])
            return answer

        return tap

    check_costs(asyncio.run(costs_of(tmp_path, (100, 400))))
    costs = asyncio.run(costs_of(tmp_path, (100, 400), wasteful))
    with pytest.raises(AssertionError):
        check_costs(costs)


@pytest.mark.parametrize("only_failed", [True, False])
def test_a_retry_does_not_run_the_chunks_again_that_are_done(backend: Backend, only_failed: bool) -> None:
    """Unless everything is to run again: not even a message is sent for them."""
    probe, fails = Probe(), True
    module = module_over(tapped(backend, probe))

    @module.step_function_task("cat", chunk_size=2)
    async def cat(event: StepFunctionTaskEvent) -> None:
        if fails and event.task.index in (3, 8):
            raise ValueError

    async def main() -> None:
        nonlocal fails
        tasks = module.task_service
        parent = await tasks.create_step_function_task(tenant_code=TENANT, task_type="cat", input=range(9))
        await work(module)
        fails = False
        await tasks.retry_task(parent.key, only_failed=only_failed)
        await work(module)
        done = await tasks.get_task(parent.key)
        assert (done.attributes.sub_task_succeed_count, done.attributes.sub_task_failed_count) == (9, 0)
        first, second = (call.args[1] for call in probe.named("machine.start"))
        assert isinstance(first, ExecutionInput)
        assert (first.chunks, first.todo) == (5, None)
        assert (second.chunks, list(second.todo)) == (5, [1, 4] if only_failed else [0, 1, 2, 3, 4])

    asyncio.run(main())
