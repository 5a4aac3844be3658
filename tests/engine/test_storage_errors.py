"""What SQLite and the file system may say, and what becomes of it; files that are no database of ours."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from taskloom import TaskStatus
from taskloom.embedded.database import Database, Transaction
from taskloom.errors import StoreBusy, StoreCorrupt, StoreError, StoreFull
from taskloom.ports import Backend
from tests.engine import processes
from tests.support.clock import FakeClock
from tests.support.faults import DEADLINE
from tests.support.rules import check_rules
from tests.support.scenarios import TENANT, all_tasks, module_over, open_backend, work

# --- the table -------------------------------------------------------------------------------------------------------

PRIMARY: dict[str, type[StoreError]] = {
    # Somebody else is at it: trying again helps. PROTOCOL: "only when there are many separate processes all competing
    # intensely to write to the same database" (source: SQLite, "Result and Error Codes").
    "BUSY": StoreBusy,
    "LOCKED": StoreBusy,
    "PROTOCOL": StoreBusy,
    # There is no room, or no right to write: somebody must do something, then trying again helps.
    "FULL": StoreFull,
    "IOERR": StoreFull,
    "CANTOPEN": StoreFull,
    "READONLY": StoreFull,
    "PERM": StoreFull,
    # The file is none of ours, or damaged.
    "CORRUPT": StoreCorrupt,
    "NOTADB": StoreCorrupt,
    # A mistake in the program, or something nobody can do anything about.
    "ERROR": StoreError,
    "INTERNAL": StoreError,
    "ABORT": StoreError,
    "NOMEM": StoreError,
    "INTERRUPT": StoreError,
    "NOTFOUND": StoreError,
    "EMPTY": StoreError,
    "SCHEMA": StoreError,
    "TOOBIG": StoreError,
    "CONSTRAINT": StoreError,
    "MISMATCH": StoreError,
    "MISUSE": StoreError,
    "NOLFS": StoreError,
    "AUTH": StoreError,
    "FORMAT": StoreError,
    "RANGE": StoreError,
    "NOTICE": StoreError,
    "WARNING": StoreError,
}


def test_every_primary_result_code_is_in_the_table() -> None:
    """1 to 28; 0, 100 and 101 are no errors."""
    assert sorted(getattr(sqlite3, f"SQLITE_{name}") for name in PRIMARY) == list(range(1, 29))


def codes() -> Iterator[tuple[str, int, type[StoreError]]]:
    """Every result code that the module names, extended ones with the class of their primary code."""
    by_value = {getattr(sqlite3, f"SQLITE_{name}"): kind for name, kind in PRIMARY.items()}
    for name, kind in PRIMARY.items():
        yield name, getattr(sqlite3, f"SQLITE_{name}"), kind
        for extended in sorted(vars(sqlite3)):
            if extended.startswith(f"SQLITE_{name}_"):
                value = getattr(sqlite3, extended)
                assert by_value[value & 0xFF] is kind
                yield extended, value, kind


async def answer_to(file: Database, error: Exception) -> BaseException:
    """What a caller gets for *error* in the middle of its write."""

    def work_(transaction: Transaction) -> None:
        raise error

    (answer,) = await asyncio.gather(file.write(work_), return_exceptions=True)
    assert isinstance(answer, BaseException)
    return answer


def test_every_result_code_is_translated(database: Path) -> None:
    """Always from the original error, which says more than we do."""
    file = Database(database, "NORMAL")

    async def main() -> None:
        for name, code, kind in codes():
            error = sqlite3.OperationalError(f"made for {name}")
            error.sqlite_errorcode = code
            answer = await answer_to(file, error)
            assert type(answer) is kind, name
            assert answer.__cause__ is error
            assert f"made for {name}" in str(answer)
            assert answer.retryable == (kind in (StoreBusy, StoreFull))

    asyncio.run(main())
    file.close()


ERRORS = [
    kind for kind in vars(sqlite3).values() if isinstance(kind, type) and issubclass(kind, sqlite3.Error)
]  # whatever the driver may raise


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_the_driver_is_translated(database: Path, kind: type[sqlite3.Error]) -> None:
    """Those without a result code too: nobody outside of the adapter ever sees the driver's errors."""
    file = Database(database, "NORMAL")
    error = kind("without a code")
    answer = asyncio.run(answer_to(file, error))
    assert type(answer) is StoreError
    assert answer.__cause__ is error
    file.close()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied")])
def test_errors_of_the_file_system_are_translated(database: Path, error: OSError) -> None:
    file = Database(database, "NORMAL")
    answer = asyncio.run(answer_to(file, error))
    assert type(answer) is StoreFull
    assert answer.__cause__ is error
    file.close()


# --- real ones -------------------------------------------------------------------------------------------------------


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    """The connections that the engine opens; none of them waits for others."""
    opened: list[sqlite3.Connection] = []
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect

    def remember(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **{**kwargs, "timeout": 0})
        opened.append(connection)
        return connection

    monkeypatch.setattr(sqlite3, "connect", remember)
    return opened


def test_a_full_disk(connections: list[sqlite3.Connection], backend: Backend) -> None:
    """The caller is told, nothing of its task is there, and it goes on as soon as there is room."""
    service = module_over(backend).task_service

    async def main() -> None:
        await service.create_task(tenant_code=TENANT, task_type="cat")
        writer = connections[0]
        (pages,) = writer.execute("PRAGMA page_count").fetchone()
        writer.execute(f"PRAGMA max_page_count = {pages}").fetchone()
        with pytest.raises(StoreFull, match="full") as caught:
            await service.create_task(tenant_code=TENANT, task_type="cat", input="x" * 60_000)
        assert caught.value.retryable
        assert len(await all_tasks(backend)) == 1
        writer.execute(f"PRAGMA max_page_count = {pages + 1000}").fetchone()
        task = await service.create_task(tenant_code=TENANT, task_type="cat", input="x" * 60_000)
        assert (await service.get_task(task.key)).input == "x" * 60_000

    asyncio.run(main())


def test_a_full_disk_hits_only_those_who_need_room(connections: list[sqlite3.Connection], backend: Backend) -> None:
    """Of many who are committed together."""
    service = module_over(backend).task_service

    async def main() -> None:
        await service.create_task(tenant_code=TENANT, task_type="cat")
        writer = connections[0]
        (pages,) = writer.execute("PRAGMA page_count").fetchone()
        writer.execute(f"PRAGMA max_page_count = {pages + 3}").fetchone()
        answers = await asyncio.gather(
            *(
                service.create_task(tenant_code=TENANT, task_type="cat", input="x" * (60_000 if number == 2 else 1))
                for number in range(5)
            ),
            return_exceptions=True,
        )
        assert [isinstance(answer, StoreFull) for answer in answers] == [False, False, True, False, False]
        assert len(await all_tasks(backend)) == 5

    asyncio.run(main())


def test_a_busy_file(connections: list[sqlite3.Connection], backend: Backend, database: Path) -> None:
    """Another program holds the lock longer than the engine waits."""
    service = module_over(backend).task_service

    async def main() -> None:
        await service.create_task(tenant_code=TENANT, task_type="cat")
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreBusy) as caught:
                await service.create_task(tenant_code=TENANT, task_type="cat")
            assert caught.value.retryable
            other.execute("ROLLBACK")
        await service.create_task(tenant_code=TENANT, task_type="cat")
        assert len(await all_tasks(backend)) == 2

    asyncio.run(main())


# --- files that are none of ours -------------------------------------------------------------------------------------


async def refused(path: Path, clock: FakeClock) -> list[str]:
    """What writing and reading say, which must be the same error."""
    backend = open_backend(path, clock)
    service = module_over(backend).task_service
    messages = []
    with pytest.raises(StoreCorrupt) as written:
        await service.create_task(tenant_code=TENANT, task_type="cat")
    messages.append(str(written.value))
    with pytest.raises(StoreCorrupt) as read:
        await service.list_tasks(TENANT)
    messages.append(str(read.value))
    await asyncio.to_thread(backend.close)
    return messages


def test_a_file_that_is_no_database(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "novel.txt"
    path.write_text("It was a dark and stormy night. " * 1000)
    before = path.read_bytes()
    assert all("not a database" in message for message in asyncio.run(refused(path, clock)))
    assert path.read_bytes() == before


def test_a_database_of_another_application(tmp_path: Path, clock: FakeClock) -> None:
    """It is not touched: not a byte of it is changed."""
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE tasks (mine TEXT)")
        other.execute("INSERT INTO tasks VALUES ('precious')")
        other.commit()
    before = path.read_bytes()
    assert all("another application" in message for message in asyncio.run(refused(path, clock)))
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT mine FROM tasks").fetchall() == [("precious",)]
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("tasks",)]
    assert path.read_bytes() == before


def test_a_database_of_a_newer_taskloom(database: Path, clock: FakeClock) -> None:
    """An older program must not write what the newer one does not expect."""

    async def make() -> None:
        backend = open_backend(database, clock)
        await module_over(backend).task_service.create_task(tenant_code=TENANT, task_type="cat")
        await asyncio.to_thread(backend.close)

    asyncio.run(make())
    with closing(sqlite3.connect(database)) as other:
        (version,) = other.execute("PRAGMA user_version").fetchone()
        other.execute(f"PRAGMA user_version = {version + 1}")
        other.commit()
    assert all("newer Taskloom; upgrade this one" in message for message in asyncio.run(refused(database, clock)))


def test_an_empty_file_becomes_a_database(database: Path, clock: FakeClock) -> None:
    database.touch()
    backend = open_backend(database, clock)

    async def main() -> None:
        await module_over(backend).task_service.create_task(tenant_code=TENANT, task_type="cat")
        assert len(await all_tasks(backend)) == 1

    asyncio.run(main())
    backend.close()


def test_a_missing_folder(tmp_path: Path, clock: FakeClock) -> None:
    """The error names it, and the same backend works once it is there."""
    path = tmp_path / "missing" / "tasks.db"
    backend = open_backend(path, clock)
    service = module_over(backend).task_service

    async def main() -> None:
        with pytest.raises(StoreFull, match=r"the folder of the database .* does not exist"):
            await service.create_task(tenant_code=TENANT, task_type="cat")
        with pytest.raises(StoreFull, match=r"the folder of the database .* does not exist"):
            await service.list_tasks(TENANT)
        path.parent.mkdir()
        await service.create_task(tenant_code=TENANT, task_type="cat")
        assert len((await service.list_tasks(TENANT)).items) == 1

    asyncio.run(main())
    backend.close()
    check_rules(path)


def test_a_folder_in_the_place_of_the_file(tmp_path: Path, clock: FakeClock) -> None:
    backend = open_backend(tmp_path, clock)

    async def main() -> None:
        with pytest.raises(StoreFull, match="unable to open"):
            await module_over(backend).task_service.create_task(tenant_code=TENANT, task_type="cat")

    asyncio.run(main())
    backend.close()


def test_a_damaged_file(tmp_path: Path, clock: FakeClock) -> None:
    """Whoever reads the damaged part is told, and that trying again does not help."""
    path = tmp_path / "tasks.db"

    async def fill() -> None:
        backend = open_backend(path, clock)
        service = module_over(backend).task_service
        for number in range(50):
            await service.create_task(tenant_code=TENANT, task_type="cat", input=str(number) * 2000)
        await asyncio.to_thread(backend.close)

    async def look() -> None:
        backend = open_backend(path, clock)
        with pytest.raises(StoreCorrupt) as caught:
            await all_tasks(backend)
        assert not caught.value.retryable
        await asyncio.to_thread(backend.close)

    asyncio.run(fill())
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (size,) = other.execute("PRAGMA page_size").fetchone()
        (root,) = other.execute("SELECT rootpage FROM sqlite_master WHERE name = 'tasks'").fetchone()
    with path.open("r+b") as raw:
        raw.seek((root - 1) * size)
        raw.write(b"\xff" * size)
    asyncio.run(look())


def test_many_processes_make_one_file_at_once(database: Path, clock: FakeClock) -> None:
    """All of them find no file; one of them makes it, and no task is lost."""
    running = [processes.start(processes.create, database, "TASK", False) for _ in range(4)]
    for process in running:
        process.join(DEADLINE)
        assert process.exitcode == 0
    backend = open_backend(database, clock)

    async def main() -> None:
        module = module_over(backend)
        module.task("cat")(lambda event: None)
        await work(module)
        tasks = await all_tasks(backend)
        assert [task.status for task in tasks] == [TaskStatus.COMPLETED] * 4

    asyncio.run(main())
    backend.close()


def test_another_process_makes_the_file_between_any_two_statements(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enumerated: whatever was read before is old then, and must not be taken for the file of somebody else."""
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect
    path, at, made = tmp_path, 0, 0

    class Interrupted(sqlite3.Connection):
        def execute(self, *args: Any) -> sqlite3.Cursor:
            nonlocal made
            made += 1
            # Under the lock nobody else makes anything.
            if made == at and not self.in_transaction:
                assert not processes.killed(processes.create, path, "TASK", False)
            return super().execute(*args)

    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: connect(*args, **kwargs, factory=Interrupted))

    async def create() -> None:
        backend = open_backend(path, clock)
        await module_over(backend).task_service.create_task(tenant_code=TENANT, task_type="cat")
        await asyncio.to_thread(backend.close)

    for at in range(1, 30):
        path, made = tmp_path / f"{at}.db", 0
        asyncio.run(create())
        statements = made
        check_rules(path)
        if statements < at:
            break
    assert at > 5
