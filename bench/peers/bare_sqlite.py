"""Bare SQLite: the rows that Taskloom writes for the same work, in its own tables, by plain batched SQL.

One thread, one connection, WAL, `synchronous=FULL`, no JSON library, nobody to wake: the bound that the disk and SQLite
set. What Taskloom commits with less durability (messages that a power cut may repeat) is committed in full here.

"As a queue" is the same with what no queue can do without: a batch holds the tasks in hand, not the next 500, and every
claim returns its row, every finish tells whether its guard held.
"""

import os
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

from bench.figures import file_figures, log_size, timed
from bench.job import Figures, Job, Measurement
from taskloom import Settings, TaskModule

Step: TypeAlias = Callable[[sqlite3.Connection, range], None]

BATCH: Final = 500
"""Tasks that one commit holds; as many as Taskloom's."""
BLOCK: Final = 100
"""Inputs of a fan-out that one row holds."""
PK: Final = "TASK#bench"
TYPE: Final = "noop"
CLAIM_ID: Final = "0123456789abcdef0123"
WORKER: Final = f"{socket.gethostname()}/{os.getpid()}/0abcde"
NOW: Final = 1_800_000_000_000
LEASE: Final = NOW + 60_000

_CREATE: Final = (
    "INSERT INTO tasks (pk, code, type, status, input, created_at, updated_at, dispatch, history) "
    "VALUES (?, ?, ?, 'P', ?, ?, ?, ?, ?)"
)
_STREAM: Final = "INSERT INTO stream (pk, code, event_name) VALUES (?, ?, 'INSERT')"
_SETTLE: Final = "DELETE FROM stream WHERE pk = ? AND sequence BETWEEN ? AND ?"
_SEND: Final = (
    "INSERT INTO queue (kind, route, visible_at, event_id, pk, code) VALUES ('task', 'TASK#noop', ?, ?, ?, ?)"
)
_RECEIVE: Final = "UPDATE queue SET visible_at = ?, received = received + 1 WHERE id = ?"
_DELETE: Final = "DELETE FROM queue WHERE id = ?"
_CLAIM: Final = (
    "UPDATE tasks SET status = 'I', attempt = 1, fence = 1, claim_id = ?, lease_until = ?, dispatch = NULL, "
    "started_at = ?, updated_at = ?, version = version + 1, history = history || ',' || ? "
    "WHERE pk = ? AND code = ? AND status = 'P'"
)
_FINISH: Final = (
    "UPDATE tasks SET status = 'C', results = ?, claim_id = ?, lease_until = NULL, finished_at = ?, updated_at = ?, "
    "version = version + 1, history = history || ',' || ? WHERE pk = ? AND code = ? AND status = 'I' AND fence = 1"
)
_RESULT: Final = "SELECT results FROM tasks WHERE pk = ? AND code = ? AND status = 'C'"
_CLAIM_SUB_TASK: Final = (
    "INSERT INTO sub_tasks (parent, idx, tenant, type, status, created_at, updated_at, run, attempt, fence, claim_id, "
    "lease_until, started_at, history) VALUES (?, ?, 'bench', 'each', 'I', ?, ?, 1, 1, 1, ?, ?, ?, ?)"
)
_FINISH_SUB_TASK: Final = (
    "UPDATE sub_tasks SET status = 'C', results = ?, claim_id = ?, lease_until = NULL, finished_at = ?, "
    "updated_at = ?, version = version + 1, history = history || ',' || ? "
    "WHERE parent = ? AND tenant = 'bench' AND idx = ? AND status = 'I' AND fence = 1"
)
_CHUNK: Final = "INSERT INTO chunks (parent, tenant, run, chunk, succeeded, failed) VALUES (?, 'bench', 1, ?, ?, 0)"
_ITEMS: Final = "INSERT INTO payload_items (reference, first, lines) VALUES (?, ?, ?)"
_COUNT: Final = "UPDATE tasks SET sub_task_succeed_count = sub_task_succeed_count + ? WHERE pk = ? AND code = ?"
_SUB_TASK_RESULTS: Final = (
    "SELECT results FROM sub_tasks WHERE parent = ? AND tenant = 'bench' AND status = 'C' ORDER BY idx"
)

_CREATED: Final = f'[{NOW},"P",1,0,null,null]'
_CLAIMED: Final = f'[{NOW},"I",1,1,null,"{WORKER}"]'
_FINISHED: Final = f'[{NOW},"C",1,1,null,"{WORKER}"]'


def _path(job: Job) -> Path:
    return Path(job.folder, "tasks.db")


def _open(job: Job) -> sqlite3.Connection:
    # Taskloom makes the tables, so that columns and indexes are the same for both.
    module = TaskModule.register(settings=Settings(database=_path(job)))
    module.sync.task_service.list_tasks("bench")
    module.close()
    connection = sqlite3.connect(_path(job), isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _code(number: int) -> str:
    return f"01J{number:023d}"


PARENT: Final = _code(0)


def _batches(count: int, size: int) -> Iterator[range]:
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def _create(connection: sqlite3.Connection, numbers: range) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(
        _CREATE,
        [(PK, _code(n), TYPE, f'{{"n":{n}}}', NOW, NOW, CLAIM_ID, _CREATED) for n in numbers],
    )
    connection.executemany(_STREAM, [(PK, _code(n)) for n in numbers])
    connection.execute("COMMIT")


def _dispatch(connection: sqlite3.Connection, numbers: range) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(_SETTLE, (PK, numbers.start + 1, numbers.stop))
    connection.executemany(_SEND, [(NOW, f"{n:032x}", PK, _code(n)) for n in numbers])
    connection.execute("COMMIT")


def _claim(connection: sqlite3.Connection, numbers: range) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(_RECEIVE, [(LEASE, n + 1) for n in numbers])
    changed = connection.executemany(_CLAIM, [(CLAIM_ID, LEASE, NOW, NOW, _CLAIMED, PK, _code(n)) for n in numbers])
    assert changed.rowcount == len(numbers), changed.rowcount
    connection.execute("COMMIT")


def _claim_each(connection: sqlite3.Connection, numbers: range) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for n in numbers:
        connection.execute(_RECEIVE, (LEASE, n + 1))
        values = (CLAIM_ID, LEASE, NOW, NOW, _CLAIMED, PK, _code(n))
        assert connection.execute(f"{_CLAIM} RETURNING *", values).fetchone() is not None
    connection.execute("COMMIT")


def _finish_each(connection: sqlite3.Connection, numbers: range) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for n in numbers:
        values = (f"[[{n}]]", CLAIM_ID, NOW, NOW, _FINISHED, PK, _code(n))
        assert connection.execute(_FINISH, values).rowcount == 1
        connection.execute(_DELETE, (n + 1,))
    connection.execute("COMMIT")


def _finish(connection: sqlite3.Connection, numbers: range) -> None:
    connection.execute("BEGIN IMMEDIATE")
    changed = connection.executemany(
        _FINISH, [(f"[[{n}]]", CLAIM_ID, NOW, NOW, _FINISHED, PK, _code(n)) for n in numbers]
    )
    assert changed.rowcount == len(numbers), changed.rowcount
    connection.executemany(_DELETE, [(n + 1,) for n in numbers])
    connection.execute("COMMIT")


def _create_one(job: Job) -> Figures:
    return _create_figures(job, size=1)


def _create_bulk(job: Job) -> Figures:
    return _create_figures(job, size=BATCH)


def _create_figures(job: Job, size: int) -> Figures:
    connection = _open(job)

    def work() -> None:
        for numbers in _batches(job.count, size):
            _create(connection, numbers)

    seconds = timed(work)
    connection.close()
    return {"rate": job.count / seconds}


def _end_to_end(job: Job) -> Figures:
    return _through(job, BATCH, _claim, _finish)


def _end_to_end_as_queue(job: Job) -> Figures:
    return _through(job, job.concurrency, _claim_each, _finish_each)


def _through(job: Job, size: int, claim: Step, finish: Step) -> Figures:
    connection = _open(job)

    def work() -> None:
        for numbers in _batches(job.count, size):
            _create(connection, numbers)
            _dispatch(connection, numbers)
            claim(connection, numbers)
            finish(connection, numbers)
        for number in range(job.count):
            assert connection.execute(_RESULT, (PK, _code(number))).fetchone() == (f"[[{number}]]",)

    seconds = timed(work)
    log_mb = log_size(_path(job))
    connection.close()
    return {"rate": job.count / seconds, **file_figures(_path(job), job.count, log_mb)}


def _sub_tasks(connection: sqlite3.Connection, count: int) -> None:
    for numbers in _batches(count, BATCH):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            _CLAIM_SUB_TASK, [(PARENT, n, NOW, NOW, CLAIM_ID, LEASE, NOW, _CLAIMED) for n in numbers]
        )
        connection.execute("COMMIT")
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            _FINISH_SUB_TASK, [(f"[[{n}]]", CLAIM_ID, NOW, NOW, _FINISHED, PARENT, n) for n in numbers]
        )
        chunks = _chunks(numbers, count)
        connection.executemany(_CHUNK, [(PARENT, chunk, size) for chunk, size in chunks])
        connection.executemany(_COUNT, [(size, PK, PARENT) for _, size in chunks])
        connection.execute("COMMIT")


def _chunks(numbers: range, count: int) -> list[tuple[int, int]]:
    """Numbers and sizes of the chunks that end with one of *numbers*: a hundred chunks, or chunks of a hundred."""
    size = min(100, -(-count // 100))
    ends = {chunk: min(count, (chunk + 1) * size) for chunk in range(numbers.start // size, -(-numbers.stop // size))}
    return [(chunk, end - chunk * size) for chunk, end in ends.items() if numbers.start < end <= numbers.stop]


def _create_fan_out(connection: sqlite3.Connection, count: int) -> None:
    for portion in _batches(count, 100 * BLOCK):
        blocks = [range(first, min(first + BLOCK, portion.stop)) for first in range(portion.start, portion.stop, BLOCK)]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            _ITEMS, [(PARENT, block.start, "\n".join(f'{{"n":{n}}}' for n in block)) for block in blocks]
        )
        connection.execute("COMMIT")
    _create(connection, range(1))


def _fan_out(job: Job) -> Figures:
    connection = _open(job)
    created = timed(lambda: _create_fan_out(connection, job.count))
    run = timed(lambda: _sub_tasks(connection, job.count))
    log_mb = log_size(_path(job))
    connection.close()
    return {
        "rate": job.count / (created + run),
        "create_rate": job.count / created,
        **file_figures(_path(job), job.count, log_mb),
    }


def _join(job: Job) -> Figures:
    connection = _open(job)
    _create(connection, range(1))
    joined = timed(lambda: _sub_tasks(connection, job.count))
    read = timed(lambda: connection.execute(_SUB_TASK_RESULTS, (PARENT,)).fetchall())
    connection.close()
    return {"joined": joined, "read": joined + read}


MEASUREMENTS: Final[dict[str, Measurement]] = {
    "create-one": _create_one,
    "create-bulk": _create_bulk,
    "end-to-end": _end_to_end,
    "end-to-end-as-queue": _end_to_end_as_queue,
    "fan-out": _fan_out,
    "join": _join,
}
