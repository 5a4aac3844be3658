"""Files that were in use for long: one real task, copied a million times by SQL."""

import os
import sqlite3
from pathlib import Path
from typing import Final

from bench.loom.app import TENANT, application
from taskloom import TaskKey

PORTION: Final = 50_000
SUFFIX: Final = 10
"""Digits at the end of a copy's code that make it another one."""


async def prefill_finished(path: Path, count: int) -> list[TaskKey]:
    """Put *count* tasks that have ended into the file; the keys of some of them."""
    module, _ = application(path)
    made = await module.task_service.create_task(tenant_code=TENANT, task_type="noop", input={"n": 0})
    async with module.worker() as worker:
        await worker.drain()
    await module.aclose()
    return _copy(path, made.key, count)


async def prefill_expired(path: Path, count: int) -> None:
    """Put *count* tasks into the file that have expired and are not removed yet."""
    await prefill_finished(path, count)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE tasks SET ttl = 1")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    os.sync()


async def prefill_waiting(path: Path, count: int) -> list[TaskKey]:
    """Put *count* tasks into the file that have their message and wait for a worker; the keys of some of them."""
    module, _ = application(path)
    made = await module.task_service.create_task(tenant_code=TENANT, task_type="noop", input={"n": 0})
    async with module.worker(task_types=["another"]) as worker:  # dispatches everything, runs nothing of it
        await worker.drain()
    await module.aclose()
    return _copy(path, made.key, count)


def _copy(path: Path, key: TaskKey, count: int) -> list[TaskKey]:
    """Copy every row that belongs to the task *key*, whatever table it lies in, until there are *count* tasks."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = OFF")
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            _copy_rows(connection, table, key.parts.code, count)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
    # What is still on its way to the disk would be paid for by the first commit that is measured.
    os.sync()
    step = max(1, count // 1000)
    return [TaskKey(key.pk, f"{key.parts.task_type}#{_code(key.parts.code, i)}") for i in range(1, count, step)]


def _copy_rows(connection: sqlite3.Connection, table: str, code: str, count: int) -> None:
    about = connection.execute(f"PRAGMA table_info({table})").fetchall()
    # A single integer key numbers itself.
    columns = [name for _, name, kind, _, _, pk in about if not (pk == 1 and kind == "INTEGER")]
    if "code" not in columns:
        return
    values = [
        f"substr(code, 1, {-SUFFIX + len(code)}) || printf('%0{SUFFIX}d', i)" if c == "code" else c for c in columns
    ]
    sql = (
        f"WITH RECURSIVE series(i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM series WHERE i + 1 < ?2) "
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)} FROM series, {table} WHERE code = ?3"
    )
    for start in range(1, count, PORTION):
        connection.execute(sql, (start, min(start + PORTION, count), code))


def _code(code: str, number: int) -> str:
    return f"{code[:-SUFFIX]}{number:0{SUFFIX}d}"
