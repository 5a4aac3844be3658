"""Workers are killed, for real, while many tasks run: see `checker.check` for what holds at the end."""

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.checker import check
from tests.chaos.story import SHORT, Outcome, tell

pytestmark = pytest.mark.timeout(600)  # a slow machine is no failure; the story itself notices when nothing happens


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The short story, told once."""
    return tell(SHORT, tmp_path_factory.mktemp("chaos"))


def test_all_ends_well_although_workers_are_killed(outcome: Outcome) -> None:
    """`make chaos` tells the same at length, and prints the figures."""
    figures = check(outcome)
    print(figures)
    assert figures.kills >= 8
    assert figures.suicides >= 1
    assert figures.attempts_lost >= 1
    assert figures.worker_died >= 2, "the poisonous task and the poisonous sub-task"
    assert figures.ran_more_than_once >= 1


TASK = "WHERE code = (SELECT min(code) FROM tasks WHERE status = 'C' AND pk LIKE 'TASK#%')"
SUB_TASK = "WHERE idx = (SELECT min(idx) FROM sub_tasks WHERE status = 'C')"
END = "json_extract('[' || history || ']', '$[#-1]')"
LATE = "json_set('[' || history || ']', '$[#-1][0]', finished_at + 600000)"

BROKEN = {
    "a task that did not end": f"UPDATE tasks SET status = 'I' {TASK}",
    "a sub-task that did not end": f"UPDATE sub_tasks SET status = 'P' {SUB_TASK}",
    "a counter that is off by one": (
        "UPDATE tasks SET sub_task_succeed_count = sub_task_succeed_count - 1 WHERE sub_task_count IS NOT NULL"
    ),
    "a parent that ended the other way": (
        "UPDATE tasks SET status = 'F', history = replace(history, '\"C\"', '\"F\"') WHERE sub_task_count IS NOT NULL"
    ),
    "a sub-task that is lost": f"DELETE FROM sub_tasks {SUB_TASK}",
    "a chunk that counts double": "UPDATE chunks SET succeeded = succeeded * 2 WHERE chunk = 3",
    "a task that completed twice": f"UPDATE tasks SET history = history || ',' || {END} {TASK}",
    "a task that completed unclaimed": (
        f"UPDATE tasks SET history = json_extract('[' || history || ']', '$[0]') || ',' || {END} {TASK}"
    ),
    "a result of another attempt": f"UPDATE tasks SET results = json_set(results, '$[0][0].attempt', 99) {TASK}",
    "a result of another process": f"UPDATE sub_tasks SET results = json_set(results, '$[0][0].pid', 1) {SUB_TASK}",
    "a result of another task": f"UPDATE sub_tasks SET results = json_set(results, '$[0][0].number', -1) {SUB_TASK}",
    "a task that was given up early": "UPDATE tasks SET attempt = 2 WHERE input = '25'",
    "a task that failed for no reason": "UPDATE sub_tasks SET error = NULL WHERE idx = 25",
    "a task that waited long": f"UPDATE tasks SET history = substr({LATE}, 2, length({LATE}) - 2) {TASK}",
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN.keys())
def test_the_checker_refuses(outcome: Outcome, change: str, tmp_path: Path) -> None:
    """A check that nothing can fail says nothing."""
    database = tmp_path / "tasks.db"
    shutil.copy(outcome.database, database)
    connection = sqlite3.connect(database)
    assert connection.execute(change).rowcount == 1
    connection.commit()
    connection.close()
    with pytest.raises(AssertionError):
        check(replace(outcome, database=database))


def test_the_checker_refuses_a_result_of_an_attempt_that_nobody_ran(outcome: Outcome) -> None:
    """The handlers' own ledger says which attempts came to their end."""
    with pytest.raises(AssertionError, match="#"):
        check(replace(outcome, ledger=[line for line in outcome.ledger if line.startswith("began")]))
