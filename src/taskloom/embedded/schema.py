"""The tables of the file, and how an older file becomes a newer one."""

import sqlite3
from collections.abc import Iterator
from typing import Final

from taskloom.errors import StoreCorrupt

APPLICATION_ID: Final = 0x7A5C1003
"""`PRAGMA application_id`: says that a SQLite file is a Taskloom database."""

MINIMUM_SQLITE: Final = (3, 35, 0)
"""RETURNING (source: SQLite release log, 3.35.0)."""

_VERSION_1: Final = """
CREATE TABLE tasks (              -- single tasks and the parents of fan-outs
    pk TEXT NOT NULL,             -- TASK#<tenant> | SFN_TASK#<tenant>
    code TEXT NOT NULL,           -- the ULID: orders by creation, newest last
    type TEXT NOT NULL,
    name TEXT,                    -- NULL: as the type
    status TEXT NOT NULL,         -- P | I | C | F | X, see rows.py
    version INTEGER NOT NULL DEFAULT 0,
    input TEXT,                   -- JSON; NULL with input_ref
    input_ref TEXT,
    results TEXT,                 -- JSON, a list per event of a list per handler
    result_ref TEXT,
    error TEXT,
    sub_task_count INTEGER,
    sub_task_succeed_count INTEGER NOT NULL DEFAULT 0,
    sub_task_failed_count INTEGER NOT NULL DEFAULT 0,
    fan_out TEXT,
    request_id TEXT,
    created_at INTEGER NOT NULL,  -- all times: milliseconds since 1970 UTC
    updated_at INTEGER NOT NULL,
    created_by TEXT,
    updated_by TEXT,
    created_ip TEXT,
    updated_ip TEXT,
    run INTEGER NOT NULL DEFAULT 1,
    attempt INTEGER NOT NULL DEFAULT 0,
    fence INTEGER NOT NULL DEFAULT 0,
    claim_id TEXT,
    lease_until INTEGER,
    dispatch TEXT,
    next_attempt_at INTEGER,
    started_at INTEGER,
    finished_at INTEGER,
    progress TEXT,
    execution_arn TEXT,
    history TEXT NOT NULL,        -- JSON arrays, joined by commas: a status change appends without reading
    PRIMARY KEY (pk, code)
);
CREATE INDEX failed_tasks ON tasks (pk, code) WHERE status = 'F';
CREATE INDEX fan_outs_by_arn ON tasks (execution_arn) WHERE execution_arn IS NOT NULL;
CREATE TABLE sub_tasks (          -- written when claimed; what the parent knows is not repeated
    parent TEXT NOT NULL,         -- the parent's code
    idx INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    type TEXT NOT NULL,
    status TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 0,
    results TEXT,
    result_ref TEXT,
    error TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    run INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    claim_id TEXT,
    lease_until INTEGER,
    next_attempt_at INTEGER,
    started_at INTEGER,
    finished_at INTEGER,
    progress TEXT,
    history TEXT NOT NULL,
    PRIMARY KEY (parent, tenant, idx)
) WITHOUT ROWID;
CREATE TABLE chunks (             -- one row per chunk and run, when all its sub-tasks have ended
    parent TEXT NOT NULL,
    tenant TEXT NOT NULL,
    run INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    succeeded INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    PRIMARY KEY (parent, tenant, run, chunk)
) WITHOUT ROWID;
CREATE TABLE stream (             -- writes after which a task needs a message
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    pk TEXT NOT NULL,
    code TEXT NOT NULL,
    event_name TEXT NOT NULL,
    take_at INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE queue (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,           -- task | chunk | collect | finalize
    route TEXT NOT NULL,          -- <TASK or SFN_TASK>#<task type>
    visible_at INTEGER NOT NULL,
    received INTEGER NOT NULL DEFAULT 0,
    held INTEGER NOT NULL DEFAULT 0,  -- 1 from the delivery until the release: a late renewal must not undo a release
    event_id TEXT NOT NULL,
    pk TEXT NOT NULL,
    code TEXT NOT NULL,
    run INTEGER NOT NULL DEFAULT 1,
    chunk INTEGER
);
CREATE INDEX queue_due ON queue (route, visible_at, id);
CREATE TABLE executions (
    name TEXT PRIMARY KEY,
    pk TEXT NOT NULL,
    sk TEXT NOT NULL,
    run INTEGER NOT NULL,
    status TEXT NOT NULL,
    chunks INTEGER NOT NULL,
    at_once INTEGER NOT NULL,
    pass INTEGER NOT NULL DEFAULT 1,
    next INTEGER NOT NULL,        -- the next chunk of this pass, as a position in todo (or a number, when todo is NULL)
    todo TEXT,                    -- JSON: the chunks of a later pass
    flying INTEGER NOT NULL,      -- messages of this execution that are on their way
    again_at INTEGER,             -- the earliest time at which a chunk of this pass wants to be looked at again
    started_at INTEGER NOT NULL,
    stopped_at INTEGER
);
CREATE TABLE payloads (
    reference TEXT PRIMARY KEY,
    text TEXT NOT NULL
);
CREATE TABLE payload_items (      -- inputs of large fan-outs, in blocks; the key is the index of offsets
    reference TEXT NOT NULL,
    first INTEGER NOT NULL,       -- index of the first item of the block
    lines TEXT NOT NULL,          -- one JSON value per line
    PRIMARY KEY (reference, first)
);
CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    pk TEXT NOT NULL,
    code TEXT NOT NULL,
    event_name TEXT NOT NULL,
    failures INTEGER NOT NULL,
    reason TEXT NOT NULL
);
"""

_VERSION_2: Final = """
-- JSON: at, reason, by; of a running fan-out that is to end
ALTER TABLE tasks ADD COLUMN cancel_requested TEXT
"""

_VERSION_3: Final = """
-- JSON: what the creator set beside the policy of the type; see model.TaskOptions
ALTER TABLE tasks ADD COLUMN options TEXT;
ALTER TABLE tasks ADD COLUMN deadline_at INTEGER;
-- attempts of the run whose worker died
ALTER TABLE tasks ADD COLUMN lost INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sub_tasks ADD COLUMN lost INTEGER NOT NULL DEFAULT 0;
CREATE INDEX open_deadlines ON tasks (deadline_at)
    WHERE deadline_at IS NOT NULL AND cancel_requested IS NULL AND status IN ('P', 'I');
CREATE TABLE idempotency (
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint TEXT NOT NULL,    -- of the content with which the task was created
    pk TEXT NOT NULL,
    sk TEXT NOT NULL,
    expires_at INTEGER NOT NULL,  -- from then on it counts as absent
    PRIMARY KEY (tenant, key)
) WITHOUT ROWID;
CREATE INDEX expired_idempotency ON idempotency (expires_at);
CREATE TABLE chunk_waits (        -- chunks with something left, until they are queued again
    execution TEXT NOT NULL,      -- its name
    at INTEGER NOT NULL,          -- when the first of their sub-tasks is due
    chunk INTEGER NOT NULL,
    PRIMARY KEY (execution, at, chunk)
) WITHOUT ROWID;
ALTER TABLE executions DROP COLUMN again_at
"""

_VERSION_4: Final = """
ALTER TABLE tasks ADD COLUMN priority INTEGER NOT NULL DEFAULT 5;
-- JSON: what the handler saved for its next attempt or slice
ALTER TABLE tasks ADD COLUMN state TEXT;
ALTER TABLE sub_tasks ADD COLUMN state TEXT;
CREATE INDEX open_tasks ON tasks (pk, code) WHERE status IN ('P', 'I');
DROP INDEX queue_due;
ALTER TABLE queue ADD COLUMN priority INTEGER NOT NULL DEFAULT 5;
ALTER TABLE queue ADD COLUMN tenant TEXT NOT NULL DEFAULT '';
UPDATE queue SET tenant = substr(pk, instr(pk, '#') + 1);
CREATE INDEX queue_lanes ON queue (route, priority, tenant, visible_at, id);
CREATE TABLE lanes (              -- the messages of one type, priority and tenant
    route TEXT NOT NULL,
    priority INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    turn INTEGER NOT NULL,        -- when a message of it was taken last, by the count of `turns`
    due_at INTEGER NOT NULL,      -- none of its messages is due before this
    PRIMARY KEY (route, priority, tenant)
) WITHOUT ROWID;
CREATE INDEX lane_turns ON lanes (route, priority DESC, turn);
CREATE TABLE turns (
    turn INTEGER NOT NULL         -- one row: how many messages were taken; a new lane begins behind all others
);
INSERT INTO turns VALUES (0);
INSERT INTO lanes (route, priority, tenant, turn, due_at)
    SELECT route, priority, tenant, 0, min(visible_at) FROM queue GROUP BY route, priority, tenant;
CREATE TRIGGER message_sent AFTER INSERT ON queue BEGIN
    INSERT INTO lanes (route, priority, tenant, turn, due_at)
        VALUES (new.route, new.priority, new.tenant, (SELECT turn FROM turns), new.visible_at)
        ON CONFLICT DO UPDATE SET due_at = excluded.due_at WHERE excluded.due_at < due_at; END;
CREATE TRIGGER message_sooner AFTER UPDATE OF visible_at ON queue WHEN new.visible_at < old.visible_at BEGIN
    UPDATE lanes SET due_at = new.visible_at
        WHERE route = new.route AND priority = new.priority AND tenant = new.tenant AND due_at > new.visible_at; END;
CREATE TRIGGER last_message AFTER DELETE ON queue WHEN NOT EXISTS
    (SELECT 1 FROM queue WHERE route = old.route AND priority = old.priority AND tenant = old.tenant) BEGIN
    DELETE FROM lanes WHERE route = old.route AND priority = old.priority AND tenant = old.tenant; END;
CREATE TRIGGER message_moved AFTER UPDATE OF priority ON queue WHEN new.priority != old.priority BEGIN
    INSERT INTO lanes (route, priority, tenant, turn, due_at)
        VALUES (new.route, new.priority, new.tenant, (SELECT turn FROM turns), new.visible_at)
        ON CONFLICT DO UPDATE SET due_at = excluded.due_at WHERE excluded.due_at < due_at; END;
CREATE TABLE pauses (             -- task types and tenants of which nothing is taken from the queue
    scope TEXT NOT NULL,          -- type | tenant
    name TEXT NOT NULL,
    at INTEGER NOT NULL,
    reason TEXT,
    by TEXT,
    PRIMARY KEY (scope, name)
) WITHOUT ROWID;
CREATE TABLE workers (            -- those that live; each says so now and then
    name TEXT PRIMARY KEY,
    seen_at INTEGER NOT NULL,
    facts TEXT NOT NULL           -- JSON: host, pid, version, what it serves, what it runs
) WITHOUT ROWID;
CREATE TABLE duties (             -- what one worker does for all now and then
    name TEXT PRIMARY KEY,
    until INTEGER NOT NULL,       -- nobody else does it before
    facts TEXT                    -- JSON: what came of it last
) WITHOUT ROWID;
CREATE TABLE throughput (         -- attempts that ended, per minute
    minute INTEGER NOT NULL,      -- since 1970
    route TEXT NOT NULL,
    completed INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (minute, route)
) WITHOUT ROWID
"""

_VERSION_5: Final = """
CREATE TABLE task_logs (          -- what handlers logged, a row per line
    pk TEXT NOT NULL,             -- of a sub-task: its parent's
    code TEXT NOT NULL,
    idx INTEGER NOT NULL,         -- of a sub-task: its number; else -1
    run INTEGER NOT NULL,
    fence INTEGER NOT NULL,       -- of the claim under which the attempt ran
    number INTEGER NOT NULL,      -- within the attempt, from 0
    dropped INTEGER NOT NULL,     -- lines of the attempt below this number were dropped by then
    attempt INTEGER NOT NULL,
    at INTEGER NOT NULL,
    level TEXT NOT NULL,
    logger TEXT NOT NULL,
    message TEXT NOT NULL,
    fields TEXT,                  -- JSON; NULL: none
    exception TEXT,
    PRIMARY KEY (pk, code, idx, run, fence, number)
) WITHOUT ROWID
"""

_VERSION_6: Final = """
-- when a message of the lane was taken last; `turn` is when one of any lane of its tenant and priority was
ALTER TABLE lanes ADD COLUMN served INTEGER NOT NULL DEFAULT 0;
CREATE INDEX tenant_lanes ON lanes (tenant, priority)
"""

_VERSION_7: Final = """
-- seconds since 1970: from then on the ended task counts as absent; below 0 once its removal has begun
ALTER TABLE tasks ADD COLUMN ttl INTEGER;
CREATE INDEX expiring_tasks ON tasks (ttl) WHERE ttl IS NOT NULL;
-- when it was written; 0: long ago
ALTER TABLE payloads ADD COLUMN at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE payload_items ADD COLUMN at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE dead_letters ADD COLUMN type TEXT NOT NULL DEFAULT 'unknown';
UPDATE dead_letters SET type = coalesce(
    (SELECT type FROM tasks WHERE tasks.pk = dead_letters.pk AND tasks.code = dead_letters.code), 'unknown');
CREATE INDEX letters_of_task ON dead_letters (pk, code)
"""

_VERSION_8: Final = """
CREATE TABLE listeners (          -- who is told of status changes; see listeners.py for the triggers that serve them
    name TEXT PRIMARY KEY,
    action TEXT NOT NULL,         -- task-status | sfn-alarm
    statuses TEXT,                -- their letters; NULL: all
    types TEXT,                   -- each between spaces; NULL: all
    sub_tasks INTEGER NOT NULL,   -- 1: those too
    until INTEGER NOT NULL        -- from then on nothing is kept for it
) WITHOUT ROWID;
CREATE TABLE notices (            -- status changes that a listener was not told of yet
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    listener TEXT NOT NULL,
    action TEXT NOT NULL,
    take_at INTEGER NOT NULL DEFAULT 0,
    taken INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    reason TEXT,                  -- of the last failure
    given_up_at INTEGER,
    pk TEXT NOT NULL,             -- of a sub-task: its parent's
    code TEXT NOT NULL,
    idx INTEGER,                  -- of a sub-task: its number
    type TEXT NOT NULL,
    version INTEGER NOT NULL,     -- this and what follows: as the change left it
    status TEXT NOT NULL,
    at INTEGER NOT NULL,
    run INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    options TEXT,
    results TEXT,
    result_ref TEXT,
    error TEXT,
    sub_task_count INTEGER,
    sub_task_succeed_count INTEGER NOT NULL,
    sub_task_failed_count INTEGER NOT NULL
);
CREATE INDEX waiting_notices ON notices (listener, take_at, number) WHERE given_up_at IS NULL;
CREATE INDEX given_up_notices ON notices (listener, number) WHERE given_up_at IS NOT NULL
"""

_VERSION_9: Final = """
CREATE TABLE steps (              -- what handlers did once and for all: steps, sleeps, callbacks
    pk TEXT NOT NULL,             -- of a sub-task: its parent's
    code TEXT NOT NULL,
    idx INTEGER NOT NULL,         -- of a sub-task: its number; else -1
    kind TEXT NOT NULL,           -- step | sleep | callback
    name TEXT NOT NULL,
    type TEXT NOT NULL,           -- of the task
    version INTEGER NOT NULL,
    write_id TEXT NOT NULL,
    run INTEGER NOT NULL,
    at INTEGER NOT NULL,
    until INTEGER,                -- when a sleep is over; from when on an answer is too late
    token TEXT,                   -- by which a callback is answered
    answer TEXT,                  -- resumed | failed | timed out; NULL: not yet
    result TEXT,                  -- JSON
    result_ref TEXT,
    PRIMARY KEY (pk, code, idx, kind, name)
) WITHOUT ROWID;
CREATE UNIQUE INDEX step_tokens ON steps (token) WHERE token IS NOT NULL;
-- 1: the chunk got something to do while it was in the hands of a worker
ALTER TABLE queue ADD COLUMN woken INTEGER NOT NULL DEFAULT 0
"""

MIGRATIONS: Final = (
    _VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4, _VERSION_5, _VERSION_6, _VERSION_7, _VERSION_8, _VERSION_9,
)  # fmt: skip
"""Script n leads from version n to version n + 1; the version of a file is its `PRAGMA user_version`."""


def prepare(connection: sqlite3.Connection) -> None:
    """Create or update the tables. Raises: StoreCorrupt for a file of somebody else, or from a newer Taskloom."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == len(MIGRATIONS) and connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID:
        return
    refuse_foreign(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        _migrate(connection)
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def refuse_foreign(connection: sqlite3.Connection) -> None:
    """Raise StoreCorrupt for a file of somebody else, or from a newer Taskloom; changes nothing."""
    # In this order: another process may make the file between two of these, and marks it together with its tables.
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if tables and application != APPLICATION_ID:
        raise StoreCorrupt("the file is a SQLite database of another application; give another path as `database`")
    if version > len(MIGRATIONS):
        raise StoreCorrupt(f"the file has schema version {version}, made by a newer Taskloom; upgrade this one")


def _migrate(connection: sqlite3.Connection) -> None:
    refuse_foreign(connection)  # again, under the lock: another process may have been faster
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for script in MIGRATIONS[version:]:
        for statement in statements(script):
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def statements(script: str) -> Iterator[str]:
    """The statements of *script* one by one: `executescript` would commit in between."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement
