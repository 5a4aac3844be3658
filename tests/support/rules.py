"""Rules that hold of every database file at rest, checked by reading the file itself."""

import sqlite3
from pathlib import Path


def check_rules(database: Path) -> None:
    """Assert what must hold of the file whatever a test did with it; no program has it open, or none writes."""
    if not database.exists():
        return
    connection = sqlite3.connect(database, timeout=5)
    try:
        connection.execute("BEGIN IMMEDIATE")  # fails when somebody left a transaction open
        _check(connection)
    finally:
        connection.rollback()
        connection.close()


def _check(connection: sqlite3.Connection) -> None:
    def all_of(sql: str) -> list[tuple[object, ...]]:
        return connection.execute(sql).fetchall()

    # Rule 2: a claim has a lease (rule 3: but a running fan-out has none), and nothing else has one.
    assert not all_of("SELECT * FROM tasks WHERE status = 'I' AND pk LIKE 'TASK#%' AND lease_until IS NULL")
    assert not all_of("SELECT * FROM tasks WHERE (status != 'I' OR pk LIKE 'SFN%') AND lease_until IS NOT NULL")
    assert not all_of("SELECT * FROM sub_tasks WHERE (status = 'I') != (lease_until IS NOT NULL)")
    # Rule 1: whoever needs a message and has none is on the stream.
    assert not all_of(
        "SELECT * FROM tasks WHERE status = 'P' AND NOT EXISTS "
        "(SELECT 1 FROM stream WHERE stream.pk = tasks.pk AND stream.code = tasks.code) AND NOT EXISTS "
        "(SELECT 1 FROM queue WHERE queue.pk = tasks.pk AND queue.code = tasks.code)"
    )
    # Rule 1: and whoever runs has a message that brings it back should its worker die.
    assert not all_of(
        "SELECT * FROM tasks WHERE status = 'I' AND NOT EXISTS "
        "(SELECT 1 FROM queue WHERE queue.pk = tasks.pk AND queue.code = tasks.code)"
    )
    # Rule 2: the claim removes dispatch.
    assert not all_of("SELECT * FROM tasks WHERE status = 'I' AND dispatch IS NOT NULL")
    # Of an attempt a bounded number of log lines is kept, without a gap; and the last one knows what was dropped.
    assert not all_of(
        "SELECT * FROM (SELECT count(*) AS lines, min(number) AS low, max(number) AS high, max(dropped) AS dropped "
        "FROM task_logs GROUP BY pk, code, idx, run, fence) WHERE lines > 1000 OR high - low >= lines OR low < dropped"
    )
    # Rule 4: final counters are the recount of the sub-tasks; chunk rows say the same.
    for code, run, count, succeeded, failed in all_of(
        "SELECT code, run, sub_task_count, sub_task_succeed_count, sub_task_failed_count FROM tasks "
        "WHERE sub_task_count IS NOT NULL AND status IN ('C', 'F') AND coalesce(ttl, 0) >= 0 "
        "AND fan_out IS NOT NULL AND started_at IS NOT NULL "
        "AND coalesce(json_extract(error, '$.type'), '') NOT IN ('NoHandler', 'DeadlineExceeded')"
    ):
        recount = connection.execute(
            "SELECT count(*), coalesce(sum(status = 'C'), 0), coalesce(sum(status = 'F'), 0) FROM sub_tasks "
            "WHERE parent = ?",
            (code,),
        ).fetchone()
        assert (count, succeeded, failed) == recount
        chunks = connection.execute(
            "SELECT coalesce(sum(succeeded), 0), coalesce(sum(failed), 0) FROM chunks WHERE parent = ? AND run = ?",
            (code, run),
        ).fetchone()
        assert (succeeded, failed) == chunks
    # Rule 5: the last entry of the history is the status.
    for table in ("tasks", "sub_tasks"):
        assert not all_of(f"SELECT * FROM {table} WHERE status != json_extract('[' || history || ']', '$[#-1][1]')")
    # Nobody who does not listen pays: there are triggers for notices while there are listeners, and only then.
    assert not all_of(
        "SELECT * FROM (SELECT (SELECT count(*) FROM listeners) AS everything, "
        "(SELECT count(*) FROM listeners WHERE sub_tasks) AS with_sub_tasks, "
        "(SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'task%notice') AS of_tasks, "
        "(SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'sub_task%notice') AS of_sub_tasks) "
        "WHERE of_tasks != 2 * (everything > 0) OR of_sub_tasks != 2 * (with_sub_tasks > 0)"
    )
    # An execution that runs has a message on its way.
    assert not all_of(
        "SELECT * FROM executions WHERE status = 'RUNNING' AND NOT EXISTS (SELECT 1 FROM queue WHERE "
        "queue.pk = executions.pk AND queue.run = executions.run AND instr(executions.name, queue.code) = 1)"
    )
