"""The database as a file: looked at without changing anything, and without the rest of Taskloom."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from taskloom.cli.diagnosis import Finding, counted, note, ok, problem
from taskloom.clock import from_milliseconds, to_milliseconds
from taskloom.embedded import schema
from taskloom.errors import StoreCorrupt
from taskloom.record import time_text

LOCK_SECONDS: Final = 5.0
"""How long a writer may keep others out before that is a finding."""
LEAST_FREE: Final = 100 * 2**20
"""Bytes. Less free space than this, or than a tenth of the database, is a finding."""
CLOCK_TOLERANCE: Final = timedelta(seconds=10)
"""How far the clocks of two machines may be apart."""
LEASE_OVER_SINCE: Final = timedelta(minutes=5)
"""A worker takes a task whose lease has ended within seconds."""

_NEWEST: Final = (
    "SELECT max(at) FROM (SELECT max(updated_at) AS at FROM "
    "(SELECT updated_at FROM tasks ORDER BY rowid DESC LIMIT 100) UNION ALL SELECT max(seen_at) FROM workers)"
)
_TASK_LEASES: Final = (
    "SELECT count(*), min(lease_until) FROM tasks WHERE status IN ('P', 'I') AND status = 'I' AND lease_until < ?"
)
_SUB_TASK_LEASES: Final = (
    "SELECT count(*), min(s.lease_until) FROM tasks AS t JOIN sub_tasks AS s "
    "ON s.parent = t.code AND s.tenant = substr(t.pk, instr(t.pk, '#') + 1) "
    "WHERE t.status IN ('P', 'I') AND t.pk LIKE 'SFN~_TASK#%' ESCAPE '~' AND s.status = 'I' AND s.lease_until < ?"
)


class FileCheckup:
    """Looks at the file *path*; `is_usable` says afterwards whether its tables can be read."""

    def __init__(self, path: Path, now: datetime) -> None:
        self._path = path
        self._now = now
        self.is_usable = False

    def findings(self) -> Iterator[Finding]:
        """What is found, in an order in which one thing needs the one before."""
        path = self._path
        if not os.path.isfile(path):  # not path.is_file(), which raises where this user may not look
            problem_ = "is no file" if os.path.exists(path) else "does not exist"
            remedy = "give --database, or set TASKLOOM_DATABASE; an application makes it when it first uses it"
            yield problem("database", f"{path} {problem_}", remedy)
            return
        yield ok("database", f"{path}, {bytes_text(_size(path))}")
        if not os.access(path, os.R_OK):
            yield problem("readable", f"this user may not read {path}", "run as the user of the workers, or chmod it")
            return
        yield self._permissions()
        yield self._disk()
        try:
            with closing(_connect(path, "ro")) as connection:
                yield from self._contents(connection)
        except StoreCorrupt as error:
            yield problem("schema", str(error), "give the database of your application, or use its Taskloom")
        except sqlite3.Error as error:
            self.is_usable = False
            yield problem("integrity", f"SQLite cannot read it: {error}", _RESTORE)
        if self.is_usable:
            yield self._lock()

    def _permissions(self) -> Finding:
        folder = self._path.absolute().parent
        for path in (self._path, folder, *_beside(self._path)):
            if not os.access(path, os.W_OK):
                remedy = "run as the user of the workers, or chmod it; SQLite writes files beside the database too"
                return problem("writable", f"this user may not write {path}", remedy)
        return ok("writable", "the file, and the folder around it")

    def _disk(self) -> Finding:
        return disk_finding(shutil.disk_usage(self._path.absolute().parent).free, _size(self._path))

    def _contents(self, connection: sqlite3.Connection) -> Iterator[Finding]:
        schema.refuse_foreign(connection)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        yield schema_finding(version)
        damage = [text for (text,) in connection.execute("PRAGMA quick_check(3)")]
        if damage != ["ok"]:
            yield problem("integrity", f"the file is damaged: {'; '.join(damage)}", _RESTORE)
            return
        yield ok("integrity", "quick_check finds no damage")
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        yield journal_finding(mode)
        if version != len(schema.MIGRATIONS):
            return
        self.is_usable = True
        (newest,) = connection.execute(_NEWEST).fetchone()
        yield clock_finding(self._now, None if newest is None else from_milliseconds(newest))
        before = to_milliseconds(self._now - LEASE_OVER_SINCE)
        leases = [connection.execute(sql, (before,)).fetchone() for sql in (_TASK_LEASES, _SUB_TASK_LEASES)]
        oldest = min((since for _, since in leases if since is not None), default=None)
        yield leases_finding(sum(count for count, _ in leases), None if oldest is None else from_milliseconds(oldest))

    def _lock(self) -> Finding:
        try:
            with closing(_connect(self._path, "rw")) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                return problem("lock", f"SQLite cannot write it: {error}", "see `writable` and `disk`")
            remedy = "end whatever holds the file in a transaction: a program, a backup, or a shell of SQLite"
            return problem("lock", f"something keeps all writers out for {LOCK_SECONDS:g} s and longer", remedy)
        return ok("lock", "a writer gets its turn")


def disk_finding(free: int, size: int) -> Finding:
    """Whether there is room for a database of *size* bytes to grow."""
    text = f"{bytes_text(free)} free"
    if free < max(LEAST_FREE, size // 10):
        return problem("disk", text, "make room, or move the database; a full disk stops all workers")
    return ok("disk", text)


def schema_finding(version: int) -> Finding:
    """Whether this Taskloom reads the tables as they are."""
    if version == len(schema.MIGRATIONS):
        return ok("schema", f"version {version}")
    remedy = (
        "stop workers of older versions, then use it once with this Taskloom, which updates it; see then what is left"
    )
    return problem("schema", f"version {version}, and this Taskloom needs {len(schema.MIGRATIONS)}", remedy)


def journal_finding(mode: str) -> Finding:
    """Whether readers and writers get along."""
    if mode == "wal":
        return ok("journal", "mode WAL")
    return note("journal", f"mode {mode}, in which readers and writers wait for each other", "the next use sets WAL")


def clock_finding(now: datetime, newest: datetime | None) -> Finding:
    """Whether the clock may be right: nothing in the file should come from the future."""
    text = f"it is {time_text(now)}"
    if newest is not None and newest > now + CLOCK_TOLERANCE:
        remedy = "set the clocks of all machines by NTP; leases and deadlines depend on them"
        return problem("clock", f"{text}, but the newest entry is of {time_text(newest)}", remedy)
    return ok("clock", text)


def leases_finding(count: int, oldest: datetime | None) -> Finding:
    """Whether workers died whose tasks nobody took over."""
    if not count or oldest is None:
        return ok("leases", "none ended long ago")
    return problem(
        "leases",
        f"{counted(count)} left by workers, the first at {time_text(oldest)}, and taken over by nobody",
        "start a worker that serves their types; see `workers` and `served`",
    )


def bytes_text(size: float) -> str:
    """A size for people: `812 B`, `4.1 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


_RESTORE: Final = "stop all workers, keep a copy of the file and those beside it, and restore a backup"


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # The path as a URI: %, ? and # in it mean nothing special then.
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=LOCK_SECONDS, isolation_level=None
    )


def _beside(path: Path) -> list[Path]:
    return [file for end in ("-wal", "-shm", "-wake") if (file := path.with_name(path.name + end)).exists()]


def _size(path: Path) -> int:
    size = 0
    for file in (path, *_beside(path)):
        with suppress(OSError):  # whoever uses the database last removes what lies beside it
            size += file.stat().st_size if file.is_file() else 0
    return size
