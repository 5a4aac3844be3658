"""One SQLite file: a thread that writes, threads that read, and commits that many writes share."""

import asyncio
import logging
import queue
import sqlite3
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from taskloom import forks
from taskloom.embedded import schema
from taskloom.embedded.rows import shortened
from taskloom.embedded.signals import FileSignals
from taskloom.embedded.turn import Turn
from taskloom.errors import StoreBusy, StoreCorrupt, StoreError, StoreFull, TaskloomError

ResultT = TypeVar("ResultT")

MAX_SHARED: Final = 500
"""Writes that one commit holds at most: bounds how long the first of them waits."""
READERS: Final = 2
MAX_READS: Final = 16
"""Reads that a thread takes at once, and answers together."""
TIDY_EVERY: Final = 1000
"""Commits after which the writer looks for pages to give back to the file system."""
TIDY_PAGES: Final = 1024
"""How many free pages it leaves for what comes next, and how many it gives back at most at a time."""
BUSY_SECONDS: Final = 30.0
"""How long a commit waits for those of other processes."""

MINUTE: Final = 60_000
"""Milliseconds."""
KEEP_MINUTES: Final = 24 * 60
"""How far back the figures of the throughput go."""
_THROUGHPUT: Final = (
    "INSERT INTO throughput (minute, route, completed, failed) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
    "completed = completed + excluded.completed, failed = failed + excluded.failed"
)
_OLD_THROUGHPUT: Final = "DELETE FROM throughput WHERE minute < ?"

log = logging.getLogger(__name__)

_ERRORS: Final[dict[int, type[StoreError]]] = {
    sqlite3.SQLITE_BUSY: StoreBusy,
    sqlite3.SQLITE_LOCKED: StoreBusy,
    sqlite3.SQLITE_PROTOCOL: StoreBusy,
    sqlite3.SQLITE_FULL: StoreFull,
    sqlite3.SQLITE_IOERR: StoreFull,
    sqlite3.SQLITE_CANTOPEN: StoreFull,
    sqlite3.SQLITE_READONLY: StoreFull,
    sqlite3.SQLITE_PERM: StoreFull,
    sqlite3.SQLITE_CORRUPT: StoreCorrupt,
    sqlite3.SQLITE_NOTADB: StoreCorrupt,
}
"""Primary result codes; what is not listed is a plain StoreError (source: SQLite, "Result and Error Codes")."""


class Transaction:
    """What a write sees: statements, and whom to wake once they are committed."""

    __slots__ = ("ended", "execute", "executemany", "throughput", "work")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany
        self.work = False
        """There may be something to take from the stream or the queue."""
        self.ended: list[str] = []
        """Codes of tasks that may have ended."""
        self.throughput: Counter[tuple[int, str, bool]] = Counter()
        """Tasks that ended: in which minute since 1970, of which kind and type, and whether well."""


class _Job:
    __slots__ = ("durable", "error", "future", "loop", "result", "work")

    def __init__(self, work: Callable[[Any], Any], durable: bool) -> None:
        self.work = work
        self.durable = durable
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.result: Any = None
        self.error: Exception | None = None


_Jobs = queue.SimpleQueue[_Job | None]
_Prologue = list[Callable[[Transaction], object]]
"""What the next commit begins with; only the writer takes from it."""


class _Lanes:
    """The threads of one process, and what they wait for."""

    def __init__(self, path: Path, synchronous: str, signals: FileSignals, prologue: "_Prologue") -> None:
        self.forks = forks.count()
        self.writes: _Jobs = queue.SimpleQueue()
        self.reads: _Jobs = queue.SimpleQueue()
        self.glances = _Glances(path)
        self.threads = [
            threading.Thread(
                target=_write_lane,
                args=(self.writes, path, synchronous, signals, prologue),
                name="taskloom-write",
                daemon=True,
            ),
            *(
                threading.Thread(
                    target=_read_lane, args=(self.reads, path, self.glances), name="taskloom-read", daemon=True
                )
                for _ in range(READERS)
            ),
        ]
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        if self.forks == forks.count():
            self.writes.put(None)
            for _ in range(READERS):
                self.reads.put(None)


class _Glances:
    """A connection for whoever comes first; whoever finds it in use, or the file busy, goes to the readers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Have the connection opened, once the file is known to be sound."""
        with self._lock:
            if self._connection is None:
                self._connection = _open(self._path, write=False, busy_seconds=0)

    def take(self, work: Callable[[sqlite3.Connection], ResultT]) -> tuple[ResultT] | None:
        """What *work* returns; None where it cannot be had at once."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            return None if self._connection is None else (work(self._connection),)
        except sqlite3.Error:
            return None  # the readers wait where it is busy, and report what is wrong
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


class Database:
    """Runs functions against the file: writes one after the other, reads beside them.

    Opened at first use, again after a fork or `close`; usable from any event loop and thread.
    """

    def __init__(self, path: Path, synchronous: str) -> None:
        if sqlite3.sqlite_version_info < schema.MINIMUM_SQLITE:
            needed = ".".join(map(str, schema.MINIMUM_SQLITE))
            raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old; Python must be built with {needed} or newer")
        self._path = path
        self._synchronous = synchronous
        self.signals = FileSignals(path.with_name(path.name + "-wake"))
        self._lock = threading.Lock()
        self._lanes: _Lanes | None = None
        self._forks = forks.count()
        self._prologue: _Prologue = []

    def before_next_write(self, work: Callable[[Transaction], object]) -> None:
        """Have *work* run at the beginning of the next commit, or of a later one should that fail."""
        self._prologue.append(work)

    async def write(self, work: Callable[[Transaction], ResultT], *, durable: bool = True) -> ResultT:
        """What *work* returns, once the commit that holds its statements is done.

        *work* may be run more than once and must have no other effect. Writes that arrive together share a commit, in
        the order of their arrival. Without *durable* the commit may be lost when the power goes, never in part and
        never by a crash of programs. Raises: StoreError, and what *work* raises (then none of its statements counts).
        """
        job = _Job(work, durable)
        self._put(job, write=True)
        return await job.future  # type: ignore[no-any-return]

    async def read(self, work: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """What *work* returns; it sees all that was committed before the call. Raises: StoreError."""
        job = _Job(work, durable=False)
        self._put(job, write=False)
        return await job.future  # type: ignore[no-any-return]

    async def glance(self, work: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """Like `read`, for the look-up of single rows by their key: done in the caller's thread where that is free.

        A handful of pages costs less than two changes of threads. Raises: StoreError.
        """
        self._check_process()
        lanes = self._lanes
        if lanes is not None:
            seen = lanes.glances.take(work)
            if seen is not None:
                await asyncio.sleep(0)  # noqa: TID251 - no waiting: whoever looks again and again must let others run
                return seen[0]
        return await self.read(work)

    def close(self) -> None:
        """Let running work finish, close the file and end the threads."""
        self._check_process()
        with self._lock:
            lanes, self._lanes = self._lanes, None
            if lanes is not None:
                lanes.stop()
        if lanes is not None:
            for thread in lanes.threads:
                thread.join()
        self.signals.close()

    def _put(self, job: _Job, *, write: bool) -> None:
        self._check_process()
        with self._lock:  # so that no job comes behind the mark that ends a thread
            if self._lanes is None:
                self._lanes = _Lanes(self._path, self._synchronous, self.signals, self._prologue)
                # Threads hold no reference to this object: whoever forgets to close it leaks nothing.
                weakref.finalize(self, self._lanes.stop).atexit = False
            (self._lanes.writes if write else self._lanes.reads).put(job)

    def _check_process(self) -> None:
        if self._forks != forks.count():
            # After a fork: the threads are the parent's, and one of them may have held the lock.
            self._lock, self._lanes, self._forks = threading.Lock(), None, forks.count()


def _open(path: Path, *, write: bool, busy_seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
    if not path.parent.is_dir():
        raise StoreFull(f"the folder of the database {path} does not exist; make it, or give another path")
    connection = sqlite3.connect(
        path, timeout=busy_seconds, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        schema.refuse_foreign(connection)
        if connection.execute("PRAGMA page_count").fetchone()[0] == 0:
            # Counts only before the first page is written; later it would wait for the write lock, for nothing.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        _use_wal(connection)
        if write:
            connection.execute("PRAGMA journal_size_limit = 67108864")
            connection.create_function("shortened_history", 1, shortened, deterministic=True)
            schema.prepare(connection)
        else:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    # The switch of a new file ignores the busy timeout while another process does the same.
    for attempt in range(1, 100):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            threading.Event().wait(0.001 * attempt)
    connection.execute("PRAGMA journal_mode = WAL")


def _write_lane(jobs: _Jobs, path: Path, synchronous: str, signals: FileSignals, prologue: _Prologue) -> None:
    writer: _Writer | None = None
    last = False
    while not last:
        batch, last = _drain(jobs, MAX_SHARED)
        if not batch:
            continue
        if writer is None:
            try:
                writer = _Writer(_open(path, write=True), synchronous, signals, Turn(signals.folder), prologue)
            except (sqlite3.Error, OSError, TaskloomError) as error:
                for job in batch:
                    job.error = _translated(error)
        if writer is not None:
            writer.commit(batch)
        _answer(batch)
        del batch
    if writer is not None:
        writer.close()


def _read_lane(jobs: _Jobs, path: Path, glances: _Glances) -> None:
    connection: sqlite3.Connection | None = None
    last = False
    while not last:
        batch, last = _drain(jobs, MAX_READS)
        for job in batch:
            try:
                if connection is None:
                    # The tables must be there before they can be read.
                    _open(path, write=True).close()
                    connection = _open(path, write=False)
                    glances.open()
                job.result = job.work(connection)
            except Exception as error:  # noqa: BLE001 - handed to the caller
                job.error = _translated(error)
        _answer(batch)
        del batch
        job = None  # type: ignore[assignment]
    glances.close()
    if connection is not None:
        connection.close()


def _drain(jobs: _Jobs, limit: int) -> tuple[list[_Job], bool]:
    """The jobs that are there, at least one; and whether they are the last."""
    batch: list[_Job] = []
    job = jobs.get()
    while job is not None:
        batch.append(job)
        if len(batch) == limit:
            return batch, False
        try:
            job = jobs.get_nowait()
        except queue.Empty:
            return batch, False
    return batch, True


class _Writer:
    """Carries out writes and tells the signals."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        synchronous: str,
        signals: FileSignals,
        turn: Turn,
        prologue: _Prologue,
    ) -> None:
        self.connection = connection
        self._prologue = prologue
        self._turn = turn
        self._commits = 0
        self._minute = 0
        self._level = {True: synchronous, False: "NORMAL"}
        self._current: str | None = None
        self._signals = signals

    def close(self) -> None:
        """Close the file."""
        self.connection.close()
        self._turn.close()

    def commit(self, jobs: Sequence[_Job]) -> None:
        """Run *jobs* in one transaction; when one fails, each in its own, so that only that one fails."""
        with self._turn:
            transaction = self._run(jobs)
            self._commits += 1
            if self._commits % TIDY_EVERY == 0:
                self._tidy()
        if transaction is None:
            for job in jobs:
                self.commit([job])
        elif transaction.work or transaction.ended:
            self._signals.publish(work=transaction.work, ended=transaction.ended)

    def _run(self, jobs: Sequence[_Job]) -> Transaction | None:
        """The committed transaction; None when it failed and *jobs* are more than one."""
        transaction = Transaction(self.connection)
        execute = self.connection.execute
        try:
            self._set_level(any(job.durable for job in jobs))
            execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            for job in jobs:
                job.error = _translated(error)
            return transaction
        try:
            begun = len(self._prologue)
            for work in self._prologue[:begun]:
                work(transaction)
            for job in jobs:
                job.result = job.work(transaction)
            if transaction.throughput:
                self._count(transaction.throughput)
            execute("COMMIT")
            del self._prologue[:begun]
        except Exception as error:  # noqa: BLE001 - handed to the caller
            if self.connection.in_transaction:
                execute("ROLLBACK")
            if len(jobs) > 1:
                return None
            jobs[0].error = _translated(error)
            return Transaction(self.connection)
        return transaction

    def _count(self, throughput: Counter[tuple[int, str, bool]]) -> None:
        """Add to the figures of the minute, and drop those of yesterday."""
        for (minute, route, is_well), count in throughput.items():
            values = (minute, route, count if is_well else 0, 0 if is_well else count)
            self.connection.execute(_THROUGHPUT, values)
            if minute > self._minute:
                self._minute = minute
                self.connection.execute(_OLD_THROUGHPUT, (minute - KEEP_MINUTES,))

    def _tidy(self) -> None:
        """Give pages that were deleted long ago back to the file system, a portion at a time."""
        try:
            (free,) = self.connection.execute("PRAGMA freelist_count").fetchone()
            if free > 2 * TIDY_PAGES:
                self.connection.execute(f"PRAGMA incremental_vacuum({TIDY_PAGES})").fetchall()
        except sqlite3.Error as error:
            log.warning("the file could not be tidied", extra={"error": str(error)})

    def _set_level(self, durable: bool) -> None:
        level = self._level[durable]
        if level != self._current:
            self.connection.execute(f"PRAGMA synchronous = {level}")
            self._current = level


def _answer(jobs: Sequence[_Job]) -> None:
    """Wake the callers, each event loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in jobs:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, own in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, own)
        except RuntimeError:
            log.debug("the loop of a caller is closed")


def _settle(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        if job.future.done():  # its caller was cancelled
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)


def _translated(error: Exception) -> Exception:
    if isinstance(error, StopIteration):  # which a future cannot carry
        return RuntimeError(f"StopIteration: {error}")
    if not isinstance(error, (sqlite3.Error, OSError)):
        return error
    code = getattr(error, "sqlite_errorcode", None)
    kind = StoreError if code is None else _ERRORS.get(code & 0xFF, StoreError)
    if isinstance(error, OSError):
        kind = StoreFull
    translated = kind(f"{type(error).__name__}: {error}")
    translated.__cause__ = error
    return translated
