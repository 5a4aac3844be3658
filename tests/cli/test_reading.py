"""`show` and `list`: for people a sheet and a table, for programs the stored form."""

import asyncio
import json
import re
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from taskloom import InvokeContext, TaskKey, TaskModule
from taskloom.cli.output import console, print_columns, visible
from taskloom.cli.views import seconds_text
from taskloom.embedded import schema
from taskloom.events.task_events import StepFunctionTaskEvent, TaskQueueEvent
from taskloom.record import from_item, to_item
from tests.cli.program import call
from tests.conftest import MakeModule

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def module(make_module: MakeModule) -> TaskModule:
    """A module with a handler that succeeds, one that fails, and a fan-out in which one of three fails."""
    module = make_module()

    @module.task("good")
    async def good(event: TaskQueueEvent[Any]) -> Any:
        event.progress(3, 4, "nearly")
        return {"answer": 42}

    @module.task("bad")
    async def bad(event: TaskQueueEvent[Any]) -> Any:
        raise ValueError("no such\ncat")

    @module.step_function_task("cats", tolerated_failure_percentage=50)
    async def cats(event: StepFunctionTaskEvent[Any]) -> Any:
        return 1 / event.input.input

    return module


def drain(module: TaskModule) -> None:
    async def work() -> None:
        async with module.worker() as worker:
            await worker.drain()

    asyncio.run(work())


def test_show_a_task_that_ended_well(module: TaskModule, database: Path, capsys: Capture) -> None:
    context = InvokeContext(user_id="ann")
    key = module.sync.task_service.create_task(
        tenant_code="mbc", task_type="good", input={"key": "ü"}, name="Tama", invoke_context=context
    ).key
    drain(module)
    code, out, err = call(capsys, "show", key.id, "--database", database)
    assert (code, err) == (0, "")
    for line in (
        rf"id +{re.escape(key.id)}",
        r"kind +single task",
        r"name +Tama",
        r"status +COMPLETED",
        r"progress +3 of 4, nearly",
        r"created +2\S+Z by ann",
        r"run, attempt +1, 1",
        r'input +\{"key": "ü"\}',
        r'result +\{"answer": 42\}',
        r"AT +STATUS +RUN +ATTEMPT +BY +REASON",
        r"\S+Z +PENDING +1 +0 +ann",
        r"\S+Z +IN_PROGRESS +1 +1 +\S+",
        r"\S+Z +COMPLETED +1 +1 +\S+",
    ):
        assert re.search(f"^{line}$", out, re.MULTILINE), line
    assert "error" not in out


def test_show_a_task_that_failed(module: TaskModule, database: Path, capsys: Capture) -> None:
    """The error as one line, its traceback as it is."""
    key = module.sync.task_service.create_task(tenant_code="mbc", task_type="bad").key
    drain(module)
    code, out, _ = call(capsys, "show", key.id, "--database", database)
    assert code == 0
    assert re.search(r"^error +ValueError: no such\\ncat$", out, re.MULTILINE)
    assert 'raise ValueError("no such\\ncat")' in out
    assert "\nTraceback (most recent call last):\n" in out


def test_show_a_fan_out_and_its_sub_tasks(module: TaskModule, database: Path, capsys: Capture) -> None:
    parent = module.sync.task_service.create_step_function_task(tenant_code="mbc", task_type="cats", input=[1, 0, 2])
    drain(module)
    code, out, _ = call(capsys, "show", parent.id, "--database", database)
    assert code == 0
    for line in (
        r"kind +step function task",
        r"progress +3 of 3, 1 failed",
        r"input +\[1, 0, 2\]",
        r"execution +arn:.*",
    ):
        assert re.search(f"^{line}$", out, re.MULTILINE), line
    for index, status in enumerate(("COMPLETED", "FAILED", "COMPLETED")):
        key = TaskKey.sub_task("mbc", "cats", parent.code, index)
        code, out, _ = call(capsys, "show", key.id, "--database", database)
        assert code == 0
        assert re.search(r"^kind +sub-task$", out, re.MULTILINE)
        assert re.search(rf"^status +{status}$", out, re.MULTILINE)


def test_show_a_sub_task_that_waits(module: TaskModule, database: Path, capsys: Capture) -> None:
    """Nothing of it is stored yet."""
    parent = module.sync.task_service.create_step_function_task(tenant_code="mbc", task_type="cats", input=[7])
    key = TaskKey.sub_task("mbc", "cats", parent.code, 0)
    code, out, _ = call(capsys, "show", key.id, "--database", database)
    assert code == 0
    assert re.search(r"^status +PENDING$", out, re.MULTILINE)
    assert re.search(r"^input +7$", out, re.MULTILINE)


@pytest.mark.parametrize("count", [1, 20_000], ids=["small", "large"])
def test_json_of_a_task_is_its_stored_form(module: TaskModule, database: Path, capsys: Capture, count: int) -> None:
    parent = module.sync.task_service.create_step_function_task(
        tenant_code="mbc", task_type="cats", input=list(range(1, count + 1)), name="Käthe\x1b[31m"
    )
    code, out, err = call(capsys, "show", parent.id, "--database", database, "--json")
    assert (code, err) == (0, "")
    assert out.isascii()
    assert json.loads(out) == to_item(module.sync.task_service.get_task(parent.key))
    assert from_item(json.loads(out)).key == parent.key


def test_list_pages_through_the_tasks_of_a_tenant(module: TaskModule, database: Path, capsys: Capture) -> None:
    service = module.sync.task_service
    ids = [service.create_task(tenant_code="mbc", task_type="good", name=f"n{n}").id for n in range(5)]
    service.create_task(tenant_code="other", task_type="good")
    arguments = ["list", "--tenant", "mbc", "--database", str(database), "--limit", "2"]
    seen, more = [], list[str]()
    for _ in range(3):
        code, out, err = call(capsys, *arguments, *more)
        assert (code, err) == (0, "")
        head, *lines = out.splitlines()
        assert head.split() == ["CREATED", "STATUS", "PROGRESS", "NAME", "ID"]
        more = lines.pop().split()[1:] if lines[-1].startswith("more: ") else []
        seen += [line.split()[-1] for line in lines]
    assert seen == ids[::-1]
    assert more == []
    code, out, _ = call(capsys, *arguments, "--order", "asc", "--json")
    page = json.loads(out)
    assert [item["id"] for item in page["items"]] == ids[:2]
    assert page["items"][0] == to_item(service.get_task(TaskKey.parse(ids[0])))
    code, out, _ = call(capsys, *arguments, "--order", "asc", "--json", "--cursor", page["cursor"])
    assert [item["id"] for item in json.loads(out)["items"]] == ids[2:4]


def test_list_narrows(module: TaskModule, database: Path, capsys: Capture) -> None:
    service = module.sync.task_service
    good = service.create_task(tenant_code="mbc", task_type="good").id
    bad = service.create_task(tenant_code="mbc", task_type="bad").id
    drain(module)
    later = service.create_task(tenant_code="mbc", task_type="good").id
    fan_out = service.create_step_function_task(tenant_code="mbc", task_type="cats", input=[1, 2]).id

    def listed(*options: str) -> list[str]:
        code, out, _ = call(capsys, "list", "--tenant", "mbc", "--database", database, "--json", *options)
        assert code == 0
        return [item["id"] for item in json.loads(out)["items"]]

    assert listed() == [later, bad, good]
    assert listed("--type", "SFN_TASK") == [fan_out]
    assert listed("--status", "FAILED") == [bad]
    assert listed("--task-type", "good") == [later, good]
    assert listed("--task-type", "good", "--status", "COMPLETED") == [good]
    out = call(capsys, "list", "--tenant", "mbc", "--database", database, "--type", "SFN_TASK").out
    assert re.search(r"PENDING +0 of 2 +cats +SFN_TASK#mbc#cats#", out)


def test_an_empty_list_says_so(module: TaskModule, database: Path, capsys: Capture) -> None:
    module.sync.task_service.create_task(tenant_code="other", task_type="good")
    assert call(capsys, "list", "--tenant", "mbc", "--database", database) == (0, "no tasks\n", "")
    code, out, _ = call(capsys, "list", "--tenant", "mbc", "--database", database, "--json")
    assert (code, json.loads(out)) == (0, {"items": [], "cursor": None})


def test_what_a_name_holds_cannot_reach_the_terminal(module: TaskModule, database: Path, capsys: Capture) -> None:
    """A name may come from anybody; an escape sequence in it could move the cursor or hide the line."""
    key = module.sync.task_service.create_task(tenant_code="mbc", task_type="good", name="a\x1b[2J\nb\x07").key
    for arguments in (["list", "--tenant", "mbc"], ["show", key.id]):
        code, out, _ = call(capsys, *arguments, "--database", database)
        assert code == 0
        assert "a\\x1b[2J\\nb\\x07" in out
        assert not set(out) & {"\x1b", "\x07"}


def test_long_values_are_cut_for_people_only(module: TaskModule, database: Path, capsys: Capture) -> None:
    key = module.sync.task_service.create_task(tenant_code="mbc", task_type="good", input="x" * 5000).key
    code, out, _ = call(capsys, "show", key.id, "--database", database)
    assert code == 0
    assert "x … (all of it: --json)" in out
    assert "x" * 2001 not in out
    code, out, _ = call(capsys, "show", key.id, "--database", database, "--json")
    assert json.loads(out)["input"] == "x" * 5000


def test_the_database_may_come_from_the_environment(
    module: TaskModule, database: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = module.sync.task_service.create_task(tenant_code="mbc", task_type="good").key
    monkeypatch.setenv("TASKLOOM_DATABASE", str(database))
    assert call(capsys, "show", key.id).code == 0
    monkeypatch.delenv("TASKLOOM_DATABASE")
    monkeypatch.chdir(database.parent)
    code, out, err = call(capsys, "list", "--tenant", "mbc")
    assert (code, out) == (2, "")
    assert err == "Error: --database: taskloom.db does not exist; give the database of your application\n"


def test_a_database_that_does_not_exist_is_not_made(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "missing.db"
    for arguments in (["list", "--tenant", "mbc"], ["show", "TASK#mbc#good#01JTZ3"]):
        code, out, err = call(capsys, *arguments, "--database", path)
        assert (code, out) == (2, "")
        assert err == f"Error: --database: {path} does not exist; give the database of your application\n"
    assert call(capsys, "list", "--tenant", "mbc", "--database", tmp_path).code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path, capsys: Capture) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("my notes " * 1000)
    code, out, err = call(capsys, "list", "--tenant", "mbc", "--database", text)
    assert (code, out) == (4, "")
    assert err.startswith("Error: ")
    assert text.read_text() == "my notes " * 1000


def test_a_database_of_another_application_is_not_touched(tmp_path: Path, capsys: Capture) -> None:
    """Not even its journal mode, which would stay behind in the file."""
    theirs = tmp_path / "theirs.db"
    with sqlite3.connect(theirs) as connection:
        connection.execute("CREATE TABLE precious (x)")
    connection.close()
    before = theirs.read_bytes()
    code, out, err = call(capsys, "list", "--tenant", "mbc", "--database", theirs)
    assert (code, out) == (4, "")
    assert "another application" in err
    assert theirs.read_bytes() == before


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path, capsys: Capture) -> None:
    newer = tmp_path / "newer.db"
    with sqlite3.connect(newer) as connection:
        connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 99")
        connection.execute("CREATE TABLE tasks (x)")
    connection.close()
    code, out, err = call(capsys, "list", "--tenant", "mbc", "--database", newer)
    assert (code, out) == (4, "")
    assert "newer Taskloom" in err


def test_reading_changes_nothing(module: TaskModule, database: Path, capsys: Capture) -> None:
    key = module.sync.task_service.create_task(tenant_code="mbc", task_type="good").key
    before = module.sync.task_service.get_task(key)
    call(capsys, "show", key.id, "--database", database)
    call(capsys, "list", "--tenant", "mbc", "--database", database)
    assert module.sync.task_service.get_task(key) == before


def test_a_task_that_is_not_there(module: TaskModule, database: Path, capsys: Capture) -> None:
    parent = module.sync.task_service.create_step_function_task(tenant_code="mbc", task_type="cats", input=[1])
    for key in (
        TaskKey.single("mbc", "good", "01JTZ3"),
        TaskKey.step_function("mbc", "cats", "01JTZ3"),
        TaskKey.step_function("other", "cats", parent.code),
        TaskKey.sub_task("mbc", "cats", parent.code, 1),
        TaskKey.sub_task("other", "cats", parent.code, 0),
    ):
        for more in ([], ["--json"]):
            code, out, err = call(capsys, "show", key.id, "--database", database, *more)
            assert (code, out, err) == (3, "", f"Error: there is no task {key.id}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list"], "Missing option '--tenant'"),
        (["show"], "Missing argument"),
        (["show", "nonsense"], "names no task"),
        (["list", "--tenant", "no/slash"], "tenant_code: 'no/slash' is not allowed"),
        (["list", "--tenant", "a", "--status", "LOST"], "status: 'LOST' is not known; give one of PENDING"),
        (["list", "--tenant", "a", "--type", "SUB_TASK"], "type: 'SUB_TASK' is not known; give one of TASK, SFN_TASK"),
        (["list", "--tenant", "a", "--order", "up"], "order: 'up' is not known; give one of asc, desc"),
        (["list", "--tenant", "a", "--limit", "0"], "limit: 0 is out of range"),
        (["list", "--tenant", "a", "--limit", "x"], "Invalid value for '--limit'"),
        (["list", "--tenant", "a", "--cursor", "?"], "cursor: '?' is none of this list"),
        (["list", "--tenant", "a", "--nope"], "No such option"),
    ],
)
def test_what_is_wrong_with_a_call_is_said(
    module: TaskModule, database: Path, capsys: Capture, arguments: list[str], said: str
) -> None:
    module.sync.task_service.create_task(tenant_code="a", task_type="good")
    code, out, err = call(capsys, *arguments, "--database", database)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())


def test_columns_are_as_wide_as_they_must_and_lines_end_with_text(capsys: Capture) -> None:
    """Wide characters take two places; nothing is padded at the end of a line."""
    rows = [["A", "B"], ["猫", "x" * 300], ["long", ""]]
    print_columns(console(), [[Text(text) for text in row] for row in rows])
    assert capsys.readouterr().out == f"A     B\n猫    {'x' * 300}\nlong\n"


def test_text_that_prints_is_shown_as_it_is() -> None:
    assert visible("Käthe 🐈 [bold]") == "Käthe 🐈 [bold]"
    assert visible("a\tb\u202ec\ud800") == "a\\tb\\u202ec\\ud800"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"),
        (0, "0 s"),
        (0.0412, "0.041 s"),
        (4.12, "4.1 s"),
        (41.2, "41 s"),
        (59.4, "59 s"),
        (60, "1:00"),
        (3600, "1:00:00"),
        (timedelta(days=2, seconds=61).total_seconds(), "48:01:01"),
    ],
)
def test_durations_read_well(seconds: float | None, text: str) -> None:
    assert seconds_text(seconds) == text
