"""What the store costs: write and read units, counted by the sizes of items."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from bench.aws.meter import Bill, Meter
from taskloom import lifecycle
from taskloom.aws.clients import Clients
from taskloom.aws.dynamo import Dynamo
from taskloom.aws.ends import Ends
from taskloom.aws.store import DynamoTaskStore
from taskloom.lifecycle import Change
from taskloom.model import FanOut, Kind, TaskEntity, TaskStatus, TenantCode
from taskloom.ports import Backend, ChunkRow, Idempotency, NewTaskRow, TaskQuery
from tests.aws.test_stored_items import VALUE, Named, ended
from tests.support.clock import FakeClock


@pytest.fixture
def meter(clients: Clients) -> Meter:
    return Meter(clients)


@pytest.fixture
def rows(backend: Backend, dynamo: Dynamo, meter: Meter, clock: FakeClock) -> Named:
    """Tasks in a metered store."""
    own = Dynamo(meter, dynamo.table_name, clock)
    return Named(replace(backend, store=DynamoTaskStore(own, Ends(own))))


Write = Callable[[Named, TaskEntity], Change]


async def cost(rows: Named, meter: Meter, row: NewTaskRow, *writes: Write) -> tuple[Bill, TaskEntity]:
    """Of the creation of *row* and of *writes*; each asks for the task, so that nothing has to be read."""
    meter.taken()
    await rows.backend.store.create([row])
    task = row.entity
    for write in writes:
        outcome = await rows.backend.store.update(replace(write(rows, task), returning=True))
        assert isinstance(outcome, lifecycle.Written)
        assert outcome.entity is not None
        task = outcome.entity
    return meter.taken(), task


def claim(rows: Named, task: TaskEntity) -> Change:
    return rows.claim(task)


def test_a_single_task(rows: Named, meter: Meter) -> None:
    """Three table writes and at most seven units with the indexes; nothing is read on the way."""

    async def main() -> None:
        def badly(rows: Named, task: TaskEntity) -> Change:
            return rows.failed(task)

        for end, units in ((ended, 6), (badly, 7)):
            bill, _ = await cost(rows, meter, rows.single(VALUE), claim, end)
            assert (bill.table_writes, bill.write_units, bill.read_units) == (3, units, 0), str(bill)
            assert sum(bill.calls.values()) == 3

    asyncio.run(main())


def test_what_is_extra_is_paid_extra(rows: Named, meter: Meter) -> None:
    """A deadline is an entry of an index, made and removed; an idempotency key doubles the creation."""

    async def main() -> None:
        late = rows.now + timedelta(hours=1)
        bill, _ = await cost(rows, meter, rows.single(VALUE, deadline_at=late), claim, ended)
        assert (bill.table_writes, bill.write_units) == (3, 8), str(bill)
        once = Idempotency(key="key", fingerprint="f" * 32, expires_at=late)
        bill, _ = await cost(rows, meter, replace(rows.single(VALUE), idempotency=once), claim, ended)
        assert (bill.table_writes, bill.write_units, bill.read_units) == (4, 9, 0), str(bill)

    asyncio.run(main())


def test_a_sub_task(rows: Named, meter: Meter) -> None:
    """Rule 6: two writes of one unit, whatever the size of the fan-out; no index sees it."""

    async def main() -> None:
        plan = FanOut(chunk_size=10)
        new = rows.fan_out(1000, input_ref="s3://acme-payloads/acme-corp/01JTESTTESTTESTTESTTESTTEST/items/1")
        _, parent = await cost(rows, meter, new, lambda rows, task: rows.claim(task, plan=plan))
        for index in (0, 999):
            first = rows.first_claim(parent, index)
            await rows.backend.store.update_many([first])
            child = lifecycle.first_claim(parent, index, VALUE, rows.claimant())[1]
            await rows.backend.store.update(ended(rows, replace(child, claim_id=first.patch["claim_id"])))
            bill = meter.taken()
            assert (bill.table_writes, bill.write_units, bill.read_units) == (2, 2, 0), str(bill)
        await rows.backend.store.put_chunk(ChunkRow(parent=parent.key, run=1, chunk=0, succeeded=10, failed=0))
        await rows.backend.store.update(lifecycle.counted(parent.key, 1, succeeded=10, failed=0, now=rows.now))
        bill = meter.taken()
        assert (bill.table_writes, bill.write_units, bill.read_units) == (2, 2, 0), str(bill)

    asyncio.run(main())


def test_reads(rows: Named, meter: Meter) -> None:
    """By the size of what is looked at, strongly consistent where the contract demands it."""

    async def main() -> None:
        store = rows.backend.store
        tasks = await rows.create(*(rows.single({"text": "x" * 5000}) for _ in range(5)))
        parent = (await cost(rows, meter, rows.fan_out(10), claim))[1]
        await store.update_many([rows.first_claim(parent, index) for index in range(10)])
        for chunk in range(40):
            await store.put_chunk(ChunkRow(parent=parent.key, run=1, chunk=chunk, succeeded=1, failed=0))
        query = TaskQuery(tenant_code=TenantCode(rows.tenant), kind=Kind.TASK, limit=5)
        for read, units in (
            (lambda: store.get(tasks[0].key), 2),
            (lambda: store.list_sub_tasks(parent.key, range(10)), 1),
            (lambda: store.list_chunks(parent.key, 1), 1),
            (lambda: store.list_tasks(replace(query, task_type=rows.task_type)), 7),  # 5 times 5.4 KB, read in one go
            (lambda: store.list_tasks(query), 10.5),  # an index entry each, then each task by itself
            (lambda: store.list_tasks(replace(query, status=TaskStatus.FAILED)), 0.5),
            (store.next_deadline, 8),  # 16 buckets
        ):
            meter.taken()
            await read()
            bill = meter.taken()
            assert (bill.read_units, bill.write_units) == (units, 0), (str(bill), units)

    asyncio.run(main())


def test_the_emulator_counts_the_same(meter: Meter, rows: Named, clients: Clients) -> None:
    """A second opinion on the write units, for every write of a task's life."""
    told: list[float] = []

    class Asking(Clients):
        async def run(self, work: Callable[[], Any]) -> Any:
            return await clients.run(work)

        def send(self, service: str, operation: str, **parameters: Any) -> Any:
            if not operation.startswith(("put", "update", "transact")):
                return clients.send(service, operation, **parameters)
            answer = clients.send(service, operation, **parameters, ReturnConsumedCapacity="INDEXES")
            capacity = answer["ConsumedCapacity"]
            told.append(sum(part["CapacityUnits"] for part in (capacity if isinstance(capacity, list) else [capacity])))
            return answer

    meter._real = Asking()

    async def main() -> None:
        late = rows.now + timedelta(hours=1)
        once = Idempotency(key="key", fingerprint="f" * 32, expires_at=late)
        for row in (
            rows.single(VALUE),
            rows.single(VALUE, deadline_at=late),
            rows.single({"text": "x" * 3000}),
            replace(rows.single(VALUE), idempotency=once),
        ):
            for end in (ended, lambda rows, task: rows.failed(task)):
                if row.idempotency is not None:
                    row = replace(row, idempotency=replace(once, key=rows.backend.ids.token()))
                fresh = rows.single(row.entity.input, deadline_at=row.entity.deadline_at)
                told.clear()
                bill, _ = await cost(rows, meter, replace(fresh, idempotency=row.idempotency), claim, end)
                assert bill.write_units == sum(told), str(bill)

    asyncio.run(main())


@pytest.fixture(autouse=True)
def _real_again(meter: Meter, clients: Clients) -> Iterator[None]:
    yield
    meter._real = clients
