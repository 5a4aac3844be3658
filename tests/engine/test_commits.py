"""Writes that arrive together share a commit, and each caller is answered after the commit that holds its write."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from taskloom import StepFunctionTaskEvent, TaskQueueEvent, TaskStatus
from taskloom.embedded.database import Database, Transaction
from taskloom.errors import StoreError
from taskloom.model import HistoryEntry, Kind, TaskEntity, TaskKey
from taskloom.ports import Backend, NewTaskRow
from tests.support.clock import FakeClock
from tests.support.faults import Probe, tapped
from tests.support.scenarios import TENANT, module_over, open_backend, work

Connect = Callable[..., sqlite3.Connection]


class Statements:
    """What SQLite was told, by all connections."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._committed: list[list[str]] = []

    def of_a_connection(self) -> Callable[[str], None]:
        """What listens to one connection."""
        current: list[str] = []

        def add(statement: str) -> None:
            if statement.startswith("BEGIN") or statement == "ROLLBACK":
                current.clear()
            elif statement == "COMMIT":
                with self._lock:
                    self._committed.append(current[:])
            else:
                current.append(statement)

        return add

    @property
    def transactions(self) -> list[list[str]]:
        """The statements of each committed transaction."""
        with self._lock:
            return self._committed[:]


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Statements:
    """What the connections that are opened from now on are told."""
    seen = Statements()
    connect: Connect = sqlite3.connect

    def traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.set_trace_callback(seen.of_a_connection())
        return connection

    monkeypatch.setattr(sqlite3, "connect", traced)
    return seen


@contextmanager
def locked(database: Path) -> Iterator[sqlite3.Connection]:
    """The write lock of the file in the hands of the test: whatever arrives meanwhile waits."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        finally:
            connection.execute("ROLLBACK")


async def together(database: Path, probe: Probe, calls: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    """What *calls* come to when all are made before the first one can be carried out."""
    before = len(probe.made)
    with locked(database):
        tasks = [asyncio.create_task(call) for call in calls]
        await probe.until(lambda: len(probe.made) >= before + len(calls))
        # The probe knows a call just before it is made: one more round, and all are.
        await asyncio.wait([asyncio.create_task(asyncio.to_thread(lambda: None))])
        assert not any(task.done() for task in tasks), "answered before it was committed"
    return await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
def open_and_probed(statements: Statements, probe: Probe, database: Path, clock: FakeClock) -> Iterator[Backend]:
    """A backend whose file is open already, so that the first commits are those of the test."""
    backend = open_backend(database, clock)

    async def warm() -> None:
        await backend.store.create([new_row(backend)])

    asyncio.run(warm())
    yield tapped(backend, probe)
    backend.close()


def new_row(backend: Backend, task_type: str = "cat") -> NewTaskRow:
    now = backend.clock.now()
    code = backend.ids.code(now)
    entity: TaskEntity[Any] = TaskEntity(
        key=TaskKey.single(TENANT, task_type, code),
        kind=Kind.TASK,
        code=code,
        task_type=task_type,
        name=task_type,
        tenant_code=TENANT,
        status=TaskStatus.PENDING,
        input=None,
        created_at=now,
        updated_at=now,
        dispatch="d",
        history=(HistoryEntry(at=now, status=TaskStatus.PENDING, run=1, attempt=0),),
    )
    return NewTaskRow(entity=entity, input=None)


def holding(transactions: list[list[str]], text: str) -> list[list[str]]:
    """The transactions with a statement that holds *text*."""
    return [statements for statements in transactions if any(text in statement for statement in statements)]


def test_creates_that_arrive_together_share_a_commit(
    open_and_probed: Backend, probe: Probe, statements: Statements, database: Path
) -> None:
    """Two hundred callers, at most a few commits: whoever came while the file was busy went together."""
    module = module_over(open_and_probed)

    async def main() -> None:
        before = len(holding(statements.transactions, "INSERT INTO tasks"))
        calls = [
            module.task_service.create_task(tenant_code=TENANT, task_type="cat", input=number) for number in range(200)
        ]
        made = await together(database, probe, calls)
        commits = holding(statements.transactions, "INSERT INTO tasks")[before:]
        assert sum(sum("INSERT INTO tasks" in one for one in commit) for commit in commits) == 200
        assert len(commits) <= 4
        assert len({task.code for task in made}) == 200

    asyncio.run(main())


def test_whoever_is_answered_finds_its_write_in_the_file(
    open_and_probed: Backend, probe: Probe, database: Path
) -> None:
    """At the very moment of the answer, seen by another connection: rule 1 begins there."""
    module = module_over(open_and_probed)

    async def create_and_look(number: int) -> int:
        task = await module.task_service.create_task(tenant_code=TENANT, task_type="cat", input=number)
        with closing(sqlite3.connect(database)) as other:
            (rows,) = other.execute("SELECT count(*) FROM tasks WHERE code = ?", (task.code,)).fetchone()
            (records,) = other.execute("SELECT count(*) FROM stream WHERE code = ?", (task.code,)).fetchone()
        return int(rows + records)

    async def main() -> None:
        found = await together(database, probe, [create_and_look(number) for number in range(50)])
        assert found == [2] * 50

    asyncio.run(main())


def test_claims_and_finishes_share_commits(
    open_and_probed: Backend, probe: Probe, statements: Statements, clock: FakeClock
) -> None:
    """Eight handlers that end together cost far fewer commits than eight claims and eight finishes."""
    module = module_over(open_and_probed)
    together = asyncio.Barrier(8)

    @module.step_function_task("cat", chunk_size=1)
    async def cat(event: StepFunctionTaskEvent) -> None:
        await together.wait()

    async def main() -> None:
        for _ in range(3):
            await module.task_service.create_step_function_task(tenant_code=TENANT, task_type="cat", input=range(8))
            await work(module, concurrency=8)
        claims = holding(statements.transactions, "INSERT INTO sub_tasks")
        ends = holding(statements.transactions, "UPDATE sub_tasks")
        assert len(claims) < 24
        assert len(ends) < 24

    asyncio.run(main())


def test_a_write_that_fails_fails_alone(open_and_probed: Backend, probe: Probe, database: Path) -> None:
    """The others of the shared commit are stored, once each."""
    rows = [new_row(open_and_probed) for _ in range(50)]
    twice = [*rows[:25], rows[7], *rows[25:]]

    async def main() -> None:
        answers = await together(database, probe, [open_and_probed.store.create([row]) for row in twice])
        assert [index for index, answer in enumerate(answers) if isinstance(answer, Exception)] == [25]
        assert isinstance(answers[25], StoreError)
        for row in rows:
            stored = await open_and_probed.store.get(row.entity.key)
            assert stored is not None
            assert stored.version == 0

    asyncio.run(main())


@pytest.mark.parametrize("error", [ValueError("mine"), StoreError("mine"), LookupError()])
def test_what_a_write_raises_goes_to_its_caller(database: Path, error: Exception) -> None:
    """And none of its statements counts, nor is any of the others' lost."""
    file = Database(database, "NORMAL")

    def good(transaction: Transaction) -> int:
        transaction.execute("INSERT INTO payloads (reference, text) VALUES (hex(randomblob(8)), 'good')")
        return 1

    def bad(transaction: Transaction) -> None:
        transaction.execute("INSERT INTO payloads (reference, text) VALUES ('bad', 'bad')")
        raise error

    async def main() -> None:
        await file.write(good)
        calls = [file.write(good), file.write(bad), file.write(good), file.write(bad)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert answers == [1, error, 1, error]
        texts = await file.read(lambda connection: connection.execute("SELECT text FROM payloads").fetchall())
        assert texts == [("good",)] * 3

    asyncio.run(main())
    file.close()


def test_a_caller_that_gives_up_does_not_disturb_the_others(
    open_and_probed: Backend, probe: Probe, database: Path
) -> None:
    """Its write may be in the commit or not; the rest is answered."""
    rows = [new_row(open_and_probed) for _ in range(20)]

    async def main() -> None:
        with locked(database):
            tasks = [asyncio.create_task(open_and_probed.store.create([row])) for row in rows]
            await probe.until(lambda: len(probe.made) >= len(rows))
            tasks[3].cancel()
            tasks[9].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        cancelled = [index for index, answer in enumerate(answers) if isinstance(answer, asyncio.CancelledError)]
        assert cancelled == [3, 9]
        for index, row in enumerate(rows):
            assert index in cancelled or await open_and_probed.store.get(row.entity.key) is not None

    asyncio.run(main())


def test_reads_do_not_wait_for_writes(open_and_probed: Backend, database: Path) -> None:
    """A long transaction of another program stops nobody from looking."""
    row = new_row(open_and_probed)

    async def main() -> None:
        await open_and_probed.store.create([row])
        with locked(database) as other:
            other.execute("DELETE FROM tasks")
            async with asyncio.timeout(10):
                assert await open_and_probed.store.get(row.entity.key) is not None

    asyncio.run(main())


def test_callers_in_many_event_loops_share_a_file(database: Path, clock: FakeClock) -> None:
    """Each is answered in its own loop."""
    backend = open_backend(database, clock)
    module = module_over(backend)
    done: list[int] = []

    def run(number: int) -> None:
        async def main() -> None:
            tasks = await asyncio.gather(
                *(module.task_service.create_task(tenant_code=TENANT, task_type="cat", input=n) for n in range(20))
            )
            for task in tasks:
                assert (await module.task_service.get_task(task.key)).input == task.input
            done.append(number)

        asyncio.run(main())

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(done) == [0, 1, 2, 3]
    backend.close()


def test_a_worker_and_its_callers_use_one_file_at_once(backend: Backend) -> None:
    """Creates while tasks run: nothing waits for anything but the disk."""
    module = module_over(backend)

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> int:
        return event.task.input * 2  # type: ignore[no-any-return]

    async def main() -> None:
        async with module.worker(concurrency=4) as worker:
            tasks = await asyncio.gather(
                *(module.task_service.create_task(tenant_code=TENANT, task_type="cat", input=n) for n in range(50))
            )
            await worker.drain()
        for task in tasks:
            assert (await module.task_service.get_task(task.key)).result == task.input * 2

    asyncio.run(main())
