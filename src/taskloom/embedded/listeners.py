"""Who listens to status changes, and the triggers that keep a notice for them.

A notice is made by a trigger on the table of the task, so it is part of the write that changes the status, whichever
process makes that write. The triggers are in the file only while somebody listens: nobody else pays for them.
"""

from datetime import datetime, timedelta
from typing import Final

from taskloom.clock import MILLISECOND, to_milliseconds
from taskloom.embedded.database import Transaction
from taskloom.embedded.rows import STATUS_LETTER
from taskloom.model import TaskStatus
from taskloom.ports import NOTIFY_URL, Listener
from taskloom.webhooks import STATUS_ACTION

KEEP_TASK_NOTICES: Final = timedelta(days=400)
"""How long after the creation of the last one tasks with an address of their own are looked after."""
RENEW_EVERY: Final = timedelta(days=1)
KEEP_GIVEN_UP: Final = timedelta(days=30)
PORTION: Final = 500
"""Notices that are removed at once."""

_FOLLOW: Final = "INSERT OR REPLACE INTO listeners (name, action, statuses, types, sub_tasks, until) VALUES " + (
    "(?, ?, ?, ?, ?, ?)"
)
_FORGET: Final = "DELETE FROM listeners WHERE name = ?"
_DROP: Final = "DELETE FROM notices WHERE number IN (SELECT number FROM notices WHERE {} LIMIT ?)"
_DROP_OF: Final = (
    _DROP.format("listener = ? AND given_up_at IS NULL"),
    _DROP.format("listener = ? AND given_up_at IS NOT NULL"),
)
_DROP_OLD: Final = _DROP.format("given_up_at IS NOT NULL AND given_up_at < ?")
_UNTIL: Final = "SELECT until FROM listeners WHERE name = ?"
_OVER: Final = "SELECT name FROM listeners WHERE until <= ?"
_ANY: Final = "SELECT count(*), coalesce(sum(sub_tasks), 0) FROM listeners"

_OF_TASKS: Final = ("task_created_notice", "task_changed_notice")
_OF_SUB_TASKS: Final = ("sub_task_created_notice", "sub_task_changed_notice")

_ASKS: Final = (
    "l.until > new.updated_at AND (l.types IS NULL OR instr(l.types, ' ' || new.type || ' ')) "
    "AND (l.statuses IS NULL OR instr(l.statuses, new.status)) "
    f"AND (l.action = '{STATUS_ACTION}' OR new.status = '{STATUS_LETTER[TaskStatus.FAILED]}')"
)
_NOTICE: Final = (
    "INSERT INTO notices (listener, action, pk, code, idx, type, version, status, at, run, attempt, options, results, "
    "result_ref, error, sub_task_count, sub_task_succeed_count, sub_task_failed_count) SELECT l.name, l.action, "
)
_TASK_NOTICE: Final = (
    f"{_NOTICE} new.pk, new.code, NULL, new.type, new.version, new.status, new.updated_at, new.run, new.attempt, "
    "new.options, new.results, new.result_ref, new.error, new.sub_task_count, new.sub_task_succeed_count, "
    f"new.sub_task_failed_count FROM listeners AS l WHERE {_ASKS} "
    # Within a JSON text this is a name: in a value the quotes would be escaped.
    f"""AND (l.name != '{NOTIFY_URL}' OR instr(coalesce(new.options, ''), '"notifyUrl":'))"""
)
_SUB_TASK_NOTICE: Final = (
    f"{_NOTICE} 'SFN_TASK#' || new.tenant, new.parent, new.idx, new.type, new.version, new.status, new.updated_at, "
    "new.run, new.attempt, NULL, new.results, new.result_ref, new.error, NULL, 0, 0 "
    f"FROM listeners AS l WHERE l.sub_tasks AND {_ASKS}"
)
_MOVED: Final = "AFTER UPDATE OF status ON {} WHEN new.status != old.status OR new.run != old.run"
_TRIGGERS: Final = {
    "task_created_notice": f"AFTER INSERT ON tasks BEGIN {_TASK_NOTICE}; END",
    "task_changed_notice": f"{_MOVED.format('tasks')} BEGIN {_TASK_NOTICE}; END",
    "sub_task_created_notice": f"AFTER INSERT ON sub_tasks BEGIN {_SUB_TASK_NOTICE}; END",
    "sub_task_changed_notice": f"{_MOVED.format('sub_tasks')} BEGIN {_SUB_TASK_NOTICE}; END",
}


def follow(transaction: Transaction, listener: Listener, until: datetime) -> None:
    """Keep notices for *listener* until *until*."""
    chosen = listener.filter
    statuses = None if chosen.statuses is None else "".join(STATUS_LETTER[status] for status in chosen.statuses)
    types = None if chosen.task_types is None else f" {' '.join(sorted(chosen.task_types))} "
    values = (listener.name, chosen.action, statuses, types, chosen.sub_tasks, to_milliseconds(until))
    transaction.execute(_FOLLOW, values)
    _fit_triggers(transaction)


def follow_tasks(transaction: Transaction, now: datetime) -> None:
    """Keep the notices of tasks that have an address of their own; to be called before the first of them is stored."""
    row = transaction.execute(_UNTIL, (NOTIFY_URL,)).fetchone()
    if row is None or row[0] < to_milliseconds(now + KEEP_TASK_NOTICES - RENEW_EVERY):
        follow(transaction, Listener(name=NOTIFY_URL), now + KEEP_TASK_NOTICES)


def forget(transaction: Transaction, name: str) -> bool:
    """Keep nothing for *name* any more; whether it was there."""
    was = transaction.execute(_FORGET, (name,)).rowcount == 1
    _fit_triggers(transaction)
    return was


def drop_notices(transaction: Transaction, name: str) -> bool:
    """Remove a portion of what waits for *name*, or was given up; whether nothing is left."""
    dropped = [transaction.execute(sql, (name, PORTION)).rowcount for sql in _DROP_OF]
    return max(dropped) < PORTION


def tidy(transaction: Transaction, now: int) -> None:
    """Remove a portion of what is of no use: of listeners whose time is over, and what was given up long ago."""
    transaction.execute(_DROP_OLD, (now - KEEP_GIVEN_UP // MILLISECOND, PORTION))
    for (over,) in transaction.execute(_OVER, (now,)).fetchall():
        if drop_notices(transaction, over):
            forget(transaction, over)


def _fit_triggers(transaction: Transaction) -> None:
    """Have the triggers that the listeners need, and no others."""
    any_, with_sub_tasks = transaction.execute(_ANY).fetchone()
    for names, wanted in ((_OF_TASKS, any_), (_OF_SUB_TASKS, with_sub_tasks)):
        for name in names:
            if wanted:
                transaction.execute(f"CREATE TRIGGER IF NOT EXISTS {name} {_TRIGGERS[name]}")
            else:
                transaction.execute(f"DROP TRIGGER IF EXISTS {name}")
