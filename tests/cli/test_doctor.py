"""`doctor`: each finding, what to do about it, and that looking changes nothing."""

import asyncio
import json
import os
import platform
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from taskloom import Settings, TaskKey, TaskModule
from taskloom.cli import checkup, file_checkup
from taskloom.cli.diagnosis import Finding, State
from taskloom.embedded import schema
from taskloom.events.task_events import TaskQueueEvent
from taskloom.model import Kind
from taskloom.operations.queues import QueueFigures
from taskloom.ports import Served, WorkerFacts
from tests.cli.program import Ended, call, run
from tests.cli.test_steering import bury
from tests.conftest import MakeModule
from tests.support.clock import FakeClock

Capture = pytest.CaptureFixture[str]
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
APPLICATION = """
from taskloom import Settings, TaskModule
module = TaskModule.register(settings=Settings(database={database!r}))
nothing = TaskModule.register(settings=Settings(database={database!r}))
module.task("cat")(lambda event: None)
module.step_function_task("cats")(lambda event: None)
"""


@pytest.fixture
def module(make_module: MakeModule) -> TaskModule:
    """A module over a database that is there already, and of which nobody has anything open."""
    module = make_module()
    module.sync.task_service.list_tasks("mbc")
    module.close()
    return module


@pytest.fixture
def application(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An application in the current folder; forgotten afterwards."""
    (tmp_path / "doctor_app.py").write_text(APPLICATION.format(database=str(database)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield
    sys.modules.pop("doctor_app", None)


def create(module: TaskModule, type_: str = "cat") -> TaskKey:
    key = module.sync.task_service.create_task(tenant_code="mbc", task_type=type_).key
    module.close()
    return key


def doctor(capsys: Capture, database: Path, *args: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and the findings by what they are about; a later one counts."""
    code, out, err = call(capsys, "doctor", *args, "--json", "--database", database)
    assert err == ""
    shown = json.loads(out)
    assert shown["problems"] == sum(finding["state"] == "problem" for finding in shown["findings"])
    assert (code == 1) == bool(shown["problems"])
    for finding in shown["findings"]:
        assert (finding["remedy"] is None) == (finding["state"] == "ok")
    return code, {finding["subject"]: finding for finding in shown["findings"]}


def test_a_database_at_rest_is_well(module: TaskModule, database: Path, capsys: Capture) -> None:
    code, found = doctor(capsys, database)
    assert code == 0
    assert list(found) == [
        "taskloom", "python", "sqlite", "extras", "database", "writable", "disk", "schema", "integrity", "journal",
        "clock", "leases", "lock", "workers", "served", "pauses", "dead letters", "expired",
        "webhooks",
    ]  # fmt: skip
    assert {finding["state"] for name, finding in found.items() if name != "workers"} == {"ok"}
    assert found["taskloom"]["text"] == version("taskloom")
    assert platform.python_version() in found["python"]["text"]
    assert found["sqlite"]["text"] == sqlite3.sqlite_version
    assert found["extras"]["text"].startswith("cli")
    assert found["database"]["text"].startswith(f"{database}, ")
    assert found["schema"]["text"] == f"version {len(schema.MIGRATIONS)}"
    assert found["workers"] == {
        "subject": "workers", "state": "note", "text": "none is alive", "remedy": "start one: taskloom worker APP",
    }  # fmt: skip


def test_for_people_there_is_a_line_per_finding(module: TaskModule, database: Path, tmp_path: Path) -> None:
    """And below it what to do."""
    code, out, err = run(tmp_path, "doctor", "--database", database)
    assert (code, err) == (0, "")
    assert "ok    integrity     quick_check finds no damage\n" in out
    assert "note  workers       none is alive\n                    → start one: taskloom worker APP\n" in out
    assert out.endswith("\n\nnothing is wrong\n")
    assert "\x1b" not in out
    create(module)
    code, out, _ = run(tmp_path, "doctor", "--database", database)
    assert code == 1
    assert out.endswith("\n\n1 problem\n")


def test_looking_changes_nothing(module: TaskModule, database: Path, capsys: Capture) -> None:
    create(module)
    before = database.read_bytes()
    doctor(capsys, database)
    assert database.read_bytes() == before


def test_a_database_that_is_not_there(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    code, found = doctor(capsys, tmp_path / "missing.db")
    assert code == 1
    assert list(found)[-1] == "database"
    assert found["database"]["text"].endswith("missing.db does not exist")
    assert doctor(capsys, tmp_path)[1]["database"]["text"].endswith("is no file")
    monkeypatch.setenv("TASKLOOM_DATABASE", str(tmp_path / "elsewhere.db"))
    assert "elsewhere.db does not exist" in call(capsys, "doctor").out
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_database(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes " * 1000)
    code, found = doctor(capsys, path)
    assert code == 1
    assert found["integrity"]["text"] == "SQLite cannot read it: file is not a database"
    assert path.read_text() == "my notes " * 1000


def test_a_database_of_another_application(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "theirs.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE precious (x)")
    before = path.read_bytes()
    code, found = doctor(capsys, path)
    assert code == 1
    assert "another application" in found["schema"]["text"]
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["theirs.db"]


def test_a_database_of_an_older_version_is_left_as_it_is(tmp_path: Path, capsys: Capture) -> None:
    """Its workers may still run."""
    path = tmp_path / "older.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in schema.statements(schema.MIGRATIONS[0]):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 1")
    before = path.read_bytes()
    code, found = doctor(capsys, path)
    assert code == 1
    assert found["schema"]["text"] == f"version 1, and this Taskloom needs {len(schema.MIGRATIONS)}"
    assert found["journal"]["state"] == "note"
    assert "workers" not in found
    assert path.read_bytes() == before


def test_a_damaged_database(tmp_path: Path, capsys: Capture) -> None:
    """Pages in the middle were overwritten."""
    path = tmp_path / "damaged.db"
    module = TaskModule.register(settings=Settings(database=path))
    for _ in range(20):
        module.sync.task_service.create_task(tenant_code="mbc", task_type="cat", input="x" * 5000)
    module.close()
    content = bytearray(path.read_bytes())
    content[8192:] = bytes(len(content) - 8192)
    path.write_bytes(content)
    code, found = doctor(capsys, path)
    assert code == 1
    assert found["integrity"]["state"] == "problem"
    assert "restore a backup" in found["integrity"]["remedy"]
    assert "workers" not in found


def test_whoever_keeps_writers_out_is_a_finding(
    module: TaskModule, database: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_checkup, "LOCK_SECONDS", 0.01)
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        file = file_checkup.FileCheckup(database, NOW)
        (lock,) = [finding for finding in file.findings() if finding.subject == "lock"]
        connection.execute("ROLLBACK")
    assert lock.state is State.PROBLEM
    assert lock.text == "something keeps all writers out for 0.01 s and longer"


def test_rights_are_looked_at(module: TaskModule, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer of the system is made up: whoever is root may do everything."""
    refused = {database.parent: os.W_OK}
    monkeypatch.setattr(os, "access", lambda path, mode: refused.get(path) != mode)
    found = {finding.subject: finding for finding in file_checkup.FileCheckup(database, NOW).findings()}
    assert found["writable"].text == f"this user may not write {database.parent}"
    assert found["integrity"].state is State.OK
    refused = {database: os.R_OK}
    found = {finding.subject: finding for finding in file_checkup.FileCheckup(database, NOW).findings()}
    assert found["readable"].text == f"this user may not read {database}"
    assert "integrity" not in found


def test_entries_from_the_future(database: Path, make_module: MakeModule, capsys: Capture) -> None:
    """Then this clock is slow, or that of another machine was fast."""
    module = make_module(clock=FakeClock(datetime(2126, 1, 1, tzinfo=UTC)))
    create(module)
    code, found = doctor(capsys, database)
    assert code == 1
    assert found["clock"]["state"] == "problem"
    assert "the newest entry is of 2126-01-01T00:00:00.000Z" in found["clock"]["text"]


def test_tasks_that_were_left_by_their_workers(database: Path, make_module: MakeModule, capsys: Capture) -> None:
    """A single task, and a sub-task: their workers were killed an hour ago."""
    module = make_module()
    create(module)
    module.sync.task_service.create_step_function_task(tenant_code="mbc", task_type="cats", input=[1, 2])
    module.close()
    with closing(sqlite3.connect(database)) as connection, connection:
        ago = int((datetime.now(UTC) - timedelta(hours=1)).timestamp() * 1000)  # noqa: TID251 - beside the real clock
        connection.execute("UPDATE tasks SET status = 'I', lease_until = ? WHERE pk LIKE 'TASK#%'", (ago,))
        connection.execute(
            "INSERT INTO sub_tasks (parent, idx, tenant, type, status, created_at, updated_at, run, attempt, fence, "
            "lease_until, history) SELECT code, 0, 'mbc', 'cats', 'I', 0, 0, 1, 1, 1, ?, '' FROM tasks "
            "WHERE pk LIKE 'SFN_TASK#%'",
            (ago,),
        )
    code, found = doctor(capsys, database)
    assert code == 1
    assert found["leases"]["text"].startswith("2 tasks left by workers, the first at 20")
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM sub_tasks")
        connection.execute("UPDATE tasks SET status = 'P', lease_until = NULL")


def test_workers_and_what_they_serve(module: TaskModule, database: Path, capsys: Capture) -> None:
    """While one lives: of another type something waits."""
    seen: list[Ended] = []

    @module.task("busy")
    def busy(event: TaskQueueEvent[Any]) -> None:
        seen.append(call(capsys, "doctor", "--json", "--database", database))

    create(module, "busy")
    create(module, "cat")

    async def work() -> None:
        async with module.worker() as worker:
            await worker.drain()

    asyncio.run(work())
    (ended,) = seen
    found = {finding["subject"]: finding for finding in json.loads(ended.out)["findings"]}
    assert ended.code == 1
    assert found["workers"]["text"].startswith("1 alive: ")
    assert found["workers"]["text"].endswith("(busy)")
    assert found["served"]["state"] == "problem"
    assert found["served"]["text"] == "no live worker serves cat (TASK, 1 wait)"


def test_dead_letters_and_pauses(module: TaskModule, database: Path, capsys: Capture) -> None:
    bury(database, create(module))
    module.sync.task_service.queues.pause(tenant_code="mbc")
    code, found = doctor(capsys, database)
    assert code == 1
    assert found["dead letters"]["text"] == "1 task could not be handed to a worker"
    assert "taskloom redrive --all" in found["dead letters"]["remedy"]
    assert (found["pauses"]["state"], found["pauses"]["text"]) == ("note", "tenant mbc")


@pytest.mark.usefixtures("application")
def test_an_application_names_the_database_and_what_it_handles(
    module: TaskModule, capsys: Capture, tmp_path: Path
) -> None:
    create(module, "dog")
    code, out, err = call(capsys, "doctor", "doctor_app:module", "--json")
    found = [(row["subject"], row["state"], row["text"]) for row in json.loads(out)["findings"]]
    assert (code, err) == (1, "")
    assert ("application", "ok", "doctor_app:module: handles cat, cats") in found
    assert ("application", "note", "the application does not handle dog (TASK, 1 wait)") in found
    assert any(subject == "database" and str(tmp_path) in text for subject, _, text in found)


@pytest.mark.usefixtures("application")
def test_an_application_that_handles_nothing(module: TaskModule, capsys: Capture, database: Path) -> None:
    code, found = doctor(capsys, database, "doctor_app:nothing")
    assert code == 1
    assert found["application"]["state"] == "problem"
    assert "this module runs no task" in found["application"]["text"]


@pytest.mark.usefixtures("application")
def test_an_application_that_cannot_be_found_is_a_wrong_call(capsys: Capture) -> None:
    code, out, err = call(capsys, "doctor", "doctor_app:missing")
    assert (code, out) == (2, "")
    assert "has no attribute 'missing'" in err


@pytest.mark.parametrize(
    ("finding", "state"),
    [
        (file_checkup.disk_finding(2**40, 2**30), State.OK),
        (file_checkup.disk_finding(99 * 2**20, 0), State.PROBLEM),
        (file_checkup.disk_finding(2**30, 2**34), State.PROBLEM),
        (file_checkup.journal_finding("delete"), State.NOTE),
        (file_checkup.clock_finding(NOW, None), State.OK),
        (file_checkup.clock_finding(NOW, NOW + timedelta(seconds=10)), State.OK),
        (file_checkup.clock_finding(NOW, NOW + timedelta(seconds=11)), State.PROBLEM),
        (file_checkup.leases_finding(0, None), State.OK),
        (file_checkup.leases_finding(1, NOW), State.PROBLEM),
        (checkup.sqlite_finding((3, 34, 1)), State.PROBLEM),
        (checkup.sqlite_finding(schema.MINIMUM_SQLITE), State.OK),
    ],
)
def test_what_counts_as_a_problem(finding: Finding, state: State) -> None:
    assert finding.state is state
    assert bool(finding.remedy) == (state is not State.OK)


def worker(name: str, number: str, tasks: list[str] | None) -> WorkerFacts:
    return WorkerFacts(
        name=name, host="h", pid=1, version=number, started_at=NOW, seen_at=NOW, concurrency=1, tasks=tasks,
        fan_outs=None if tasks is None else [], running=[],
    )  # fmt: skip


def waiting(type_: str, *, delayed: int = 0) -> QueueFigures:
    return QueueFigures(
        tenant_code="mbc", kind=Kind.TASK, task_type=type_, waiting=1 - delayed, delayed=delayed, in_flight=0,
        oldest_age=1, rate=0, dead_letters=0, is_paused=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("count", "is_served", "state", "text"),
    [
        (0, False, State.OK, "none"),
        (7, True, State.OK, "7 tasks have expired and wait to be removed; a worker does so, a few at a time"),
        (7, False, State.NOTE, "7 tasks have expired and wait to be removed"),
        (100_000, False, State.NOTE, "100,000 tasks or more have expired and wait to be removed"),
    ],
)
def test_what_has_expired_is_told(count: int, is_served: bool, state: State, text: str) -> None:
    finding = checkup.expired_finding(count, is_served=is_served)
    assert (finding.state, finding.text) == (state, text)


def test_workers_of_another_version_are_named() -> None:
    workers = [worker("a", "1.0", ["cat"]), worker("b", "0.9", ["cat"])]
    alive, others = checkup.worker_findings(workers, "1.0")
    assert (alive.state, alive.text) == (State.OK, "2 alive: a (cat), b (cat)")
    assert (others.state, others.text) == (State.NOTE, "not all are of version 1.0: b has 0.9")


def test_what_waits_needs_somebody_who_serves_it() -> None:
    """A worker with a factory takes all types; what is delayed waits too."""
    (served,) = checkup.served_findings([waiting("cat"), waiting("dog", delayed=1)], [worker("a", "1", None)], None)
    assert (served.state, served.text) == (State.OK, "2 tasks wait for workers, and each type has one that lives")
    figures = [waiting(f"type{number:02}", delayed=number % 2) for number in range(12)]
    (unserved,) = checkup.served_findings(figures, [worker("a", "1", ["cat"])], Served(tasks=None, fan_outs=None))
    assert unserved.state is State.PROBLEM
    assert unserved.text.startswith("no live worker serves type00 (TASK, 1 wait), type01 (TASK, 1 wait)")
    assert unserved.text.endswith("type09 (TASK, 1 wait), and 2 more")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 * 2**29, "2.5 GiB"), (2**51, "2048.0 TiB")]
)
def test_sizes_read_well(size: int, text: str) -> None:
    assert file_checkup.bytes_text(size) == text
