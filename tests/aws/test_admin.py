"""What operators see of the queue where nobody can look into it: told by the tasks, as well as they can tell."""

import asyncio
from datetime import timedelta
from typing import Any

from taskloom import lifecycle
from taskloom.aws.admin import DynamoQueueAdmin
from taskloom.aws.clients import Clients
from taskloom.aws.dynamo import Dynamo
from taskloom.aws.ends import Ends
from taskloom.aws.store import DynamoTaskStore
from taskloom.errors import StoreBusy
from taskloom.model import Kind
from taskloom.ports import Backend, LaneFigures
from tests.support.clock import FakeClock
from tests.support.rows import Rows


def test_lanes_are_told_by_the_open_tasks(backend: Backend, clock: FakeClock) -> None:
    async def main() -> None:
        rows, other = Rows(backend), Rows(backend)
        since = rows.now
        await rows.create(*(rows.single() for _ in range(3)), rows.fan_out(1))
        await other.create(other.single())
        clock.advance(1)
        await rows.claimed()
        await rows.carry_out(rows.waits_for_retry(await rows.claimed()))
        await rows.carry_out(rows.completed(await rows.claimed()))
        await rows.claimed(rows.fan_out(1))  # its execution has messages, not it

        def lane(kind: Kind, waiting: int, delayed: int = 0, in_flight: int = 0) -> LaneFigures:
            return LaneFigures(
                tenant_code=rows.tenant,
                kind=kind,
                task_type=rows.task_type,
                waiting=waiting,
                delayed=delayed,
                in_flight=in_flight,
                oldest_at=since,
            )

        found = [lane for lane in await backend.admin.lanes() if lane.tenant_code == rows.tenant]
        assert sorted(found, key=lambda lane: lane.kind) == [
            lane(Kind.SFN_TASK, 1),
            lane(Kind.TASK, 3, delayed=1, in_flight=1),
        ]

    asyncio.run(main())


def test_nobody_can_tell_a_place(backend: Backend) -> None:
    """SQS shows no order, so nothing is made up."""

    async def main() -> None:
        rows = Rows(backend)
        (task,) = await rows.create(rows.single())
        assert await backend.admin.place(task.key, 10) is None

    asyncio.run(main())


def test_throughput_is_added_up_over_processes(dynamo: Dynamo, backend: Backend, clock: FakeClock) -> None:
    """Each writes what it counted when its minute is over, or when somebody asks it."""

    async def main() -> None:
        rows = Rows(backend)
        minute = rows.now
        processes = [Ends(dynamo), Ends(dynamo)]
        stores = [DynamoTaskStore(dynamo, ends) for ends in processes]
        for store in (*stores, stores[0]):
            await store.update(rows.completed(await rows.claimed()))
        first = DynamoQueueAdmin(dynamo, processes[0])
        assert [found.completed for found in await first.throughput(minute)] == [2]
        clock.advance(60)
        await stores[1].update(rows.failed(await rows.claimed()))
        found = await first.throughput(minute)
        assert [(entry.minute, entry.completed, entry.failed) for entry in found] == [(minute, 3, 0)]
        second = DynamoQueueAdmin(dynamo, processes[1])
        found = await second.throughput(minute)
        assert [(entry.completed, entry.failed) for entry in found] == [(3, 0), (0, 1)]

    asyncio.run(main())


def test_counting_disturbs_nobody(backend: Backend, dynamo: Dynamo, clients: Clients, clock: FakeClock) -> None:
    """When the figures cannot be written, the end of the task can be all the same; they are kept for the next try."""

    class Broken(Clients):
        is_broken = True

        def send(self, service: str, operation: str, **parameters: Any) -> Any:
            if self.is_broken:
                raise StoreBusy("no")
            return clients.send(service, operation, **parameters)

    async def main() -> None:
        rows = Rows(backend)
        broken = Broken()
        ends = Ends(Dynamo(broken, dynamo.table_name, clock))
        store = DynamoTaskStore(dynamo, ends)
        minute = rows.now
        for _ in range(2):
            outcome = await store.update(rows.completed(await rows.claimed()))
            assert isinstance(outcome, lifecycle.Written)
            clock.advance(60)
        broken.is_broken = False
        assert [found.completed for found in ends.since(minute)] == [1, 1]

    asyncio.run(main())


def test_old_figures_and_dead_workers_are_forgotten(backend: Backend, dynamo: Dynamo, clock: FakeClock) -> None:
    async def main() -> None:
        rows = Rows(backend)
        minute = rows.now
        await rows.carry_out(rows.completed(await rows.claimed()))
        assert await backend.admin.throughput(minute)
        clock.advance(timedelta(days=1).total_seconds())
        assert await backend.admin.throughput(minute) == []

    asyncio.run(main())
