"""`cancel`, `retry`, `pause`, `resume`, `purge` and `redrive`."""

import asyncio
import getpass
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from taskloom import TaskEntity, TaskKey, TaskModule, TaskStatus
from taskloom.cli import output
from taskloom.events.task_events import StepFunctionTaskEvent, TaskQueueEvent
from tests.cli.program import Ended, Terminal, call, run
from tests.conftest import MakeModule

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def module(make_module: MakeModule) -> TaskModule:
    """A module with a handler that succeeds, one that fails, and a fan-out in which some fail."""
    module = make_module()

    @module.task("good")
    async def good(event: TaskQueueEvent[Any]) -> Any:
        return 42

    @module.task("bad")
    async def bad(event: TaskQueueEvent[Any]) -> Any:
        raise ValueError("no such cat")

    @module.step_function_task("cats")
    async def cats(event: StepFunctionTaskEvent[Any]) -> Any:
        return 1 / event.input.input

    return module


class Taskloom:
    """The command line, over the database of the test, which is there already."""

    def __init__(self, capsys: Capture, database: Path) -> None:
        self._capsys = capsys
        self._database = database

    def __call__(self, *args: str) -> Ended:
        return call(self._capsys, *args, "--database", self._database)


@pytest.fixture
def taskloom(module: TaskModule, capsys: Capture, database: Path) -> Taskloom:
    module.sync.task_service.list_tasks("mbc")
    return Taskloom(capsys, database)


def create(module: TaskModule, type_: str, tenant: str = "mbc") -> TaskKey:
    return module.sync.task_service.create_task(tenant_code=tenant, task_type=type_).key


def get(module: TaskModule, key: TaskKey) -> TaskEntity[Any]:
    return module.sync.task_service.get_task(key)


def drain(module: TaskModule) -> None:
    async def work() -> None:
        async with module.worker() as worker:
            await worker.drain()

    asyncio.run(work())


def bury(database: Path, *keys: TaskKey) -> None:
    """Make dead letters of these tasks, as a dispatcher does that cannot hand them on."""
    connection = sqlite3.connect(database)
    with connection:
        for key in keys:
            connection.execute(
                "INSERT INTO dead_letters (at, pk, code, type, event_name, failures, reason) "
                "VALUES (1777636800000, ?, ?, ?, 'INSERT', 5, ?)",
                (key.pk, key.parts.code, key.parts.task_type, "NoHandler: nothing takes\x1b it"),
            )
    connection.close()


def letters(module: TaskModule) -> list[int]:
    return [letter.id for letter in module.sync.task_service.queues.dead_letters()]


# --- cancel and retry ------------------------------------------------------------------------------------------------


def test_cancel_tasks(module: TaskModule, taskloom: Taskloom) -> None:
    keys = [create(module, "good"), create(module, "good")]
    code, out, err = taskloom("cancel", *(key.id for key in keys), "--reason", "too late", "--by", "ann")
    assert (code, err) == (0, "")
    assert out == "".join(f"CANCELLED {key.id}\n" for key in keys)
    for key in keys:
        last = get(module, key).history[-1]
        assert (last.status, last.reason, last.by) == ("CANCELLED", "cancelled: too late", "ann")


def test_who_does_it_is_the_login_name_unless_said(
    module: TaskModule, taskloom: Taskloom, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [create(module, "good") for _ in range(3)]
    assert taskloom("cancel", keys[0].id).code == 0
    assert get(module, keys[0]).history[-1].by == getpass.getuser()
    assert taskloom("cancel", keys[1].id, "--by", "").code == 0
    assert get(module, keys[1]).history[-1].by is None

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert taskloom("cancel", keys[2].id).code == 0
    assert get(module, keys[2]).history[-1].by is None


def test_one_refusal_keeps_nobody_else_from_it(module: TaskModule, taskloom: Taskloom) -> None:
    """The exit code is that of the first one."""
    ended, waits = create(module, "good"), create(module, "bad")
    module.sync.task_service.cancel_task(ended)
    missing = TaskKey.single("mbc", "good", "01JTZ3")
    sub_task = TaskKey.sub_task("mbc", "cats", "01JTZ3", 0)
    code, out, err = taskloom("cancel", missing.id, ended.id, sub_task.id, waits.id, waits.id)
    assert (code, out) == (3, f"CANCELLED {waits.id}\n")
    assert err.splitlines() == [
        f"Error: there is no task {missing.id}",
        f"Error: {ended.id} has ended, it is CANCELLED; nothing was changed",
        f"Error: there is no task {sub_task.id}",
    ]
    assert taskloom("cancel", ended.id).code == 1


def test_nothing_is_done_when_one_key_is_none(module: TaskModule, taskloom: Taskloom) -> None:
    key = create(module, "good")
    code, out, err = taskloom("cancel", key.id, "nonsense")
    assert (code, out) == (2, "")
    assert err == "Error: KEY: 'nonsense' names no task; give the id of a task, as `taskloom list` prints it\n"
    assert get(module, key).status is TaskStatus.PENDING


def test_retry_tasks(module: TaskModule, taskloom: Taskloom) -> None:
    failed, well = create(module, "bad"), create(module, "good")
    fan_out = module.sync.task_service.create_step_function_task(tenant_code="mbc", task_type="cats", input=[1, 0]).key
    drain(module)
    waits = create(module, "good")
    code, out, err = taskloom("retry", failed.id, fan_out.id, well.id, waits.id, "--reason", "mended", "--by", "ann")
    assert (code, out) == (2, f"PENDING {failed.id}\nPENDING {fan_out.id}\n")
    assert f"{well.id} is COMPLETED, nothing of it failed" in err
    assert f"{waits.id} has not ended, it is PENDING" in err
    last = get(module, failed).history[-1]
    assert (last.status, last.reason, last.by, get(module, failed).run) == ("PENDING", "retried: mended", "ann", 2)
    assert taskloom("retry", well.id, "--all") == (0, f"PENDING {well.id}\n", "")
    assert taskloom("retry", waits.id).code == 1


# --- pause, resume, purge --------------------------------------------------------------------------------------------


def test_pause_and_resume(module: TaskModule, taskloom: Taskloom) -> None:
    queues = module.sync.task_service.queues
    assert taskloom("pause", "--type", "good", "--reason", "lunch", "--by", "ann") == (
        0,
        "paused: task type 'good'\n",
        "",
    )
    assert taskloom("pause", "--tenant", "mbc").out == "paused: tenant 'mbc'\n"
    assert [(pause.scope, pause.name, pause.reason, pause.by) for pause in queues.pauses()] == [
        ("type", "good", "lunch", "ann"),
        ("tenant", "mbc", None, getpass.getuser()),
    ]
    assert taskloom("resume", "--task-type", "good") == (0, "resumed: task type 'good'\n", "")
    assert taskloom("resume", "--type", "good") == (0, "was not paused: task type 'good'\n", "")
    assert taskloom("resume", "--tenant", "mbc").out == "resumed: tenant 'mbc'\n"
    assert queues.pauses() == []


@pytest.mark.parametrize("name", ["pause", "resume"])
@pytest.mark.parametrize("arguments", [[], ["--type", "good", "--tenant", "mbc"]])
def test_a_pause_is_of_a_type_or_of_a_tenant(
    module: TaskModule, taskloom: Taskloom, name: str, arguments: list[str]
) -> None:
    create(module, "good")
    code, out, err = taskloom(name, *arguments)
    assert (code, out) == (2, "")
    assert err == "Error: --type: or --tenant must be given, and only one of them; say what is meant\n"
    assert module.sync.task_service.queues.pauses() == []


def test_purge(module: TaskModule, taskloom: Taskloom) -> None:
    """Of a type, of a tenant, or of both; what has ended stays as it is."""
    well = create(module, "good")
    drain(module)
    keys = [create(module, type_, tenant) for type_ in ("good", "bad") for tenant in ("mbc", "other")]
    arguments = ["--type", "good", "--tenant", "mbc", "--yes", "--reason", "wrong input", "--by", "ann"]
    assert taskloom("purge", *arguments) == (0, "cancelled: 1\n", "")
    last = get(module, keys[0]).history[-1]
    assert (last.status, last.reason, last.by) == ("CANCELLED", "cancelled: purged: wrong input", "ann")
    assert taskloom("purge", "--tenant", "other", "--yes").out == "cancelled: 2\n"
    assert taskloom("purge", "--type", "bad", "--yes").out == "cancelled: 1\n"
    assert taskloom("purge", "--type", "bad", "--yes").out == "cancelled: 0\n"
    assert {get(module, key).status for key in keys} == {TaskStatus.CANCELLED}
    assert get(module, well).status is TaskStatus.COMPLETED


def test_purge_needs_to_know_what(module: TaskModule, taskloom: Taskloom) -> None:
    key = create(module, "good")
    code, out, err = taskloom("purge", "--yes")
    assert (code, out) == (2, "")
    assert err == "Error: --type: is not given, and neither is --tenant; say what is to be purged\n"
    assert get(module, key).status is TaskStatus.PENDING


def test_where_nobody_can_be_asked_purge_needs_a_yes(module: TaskModule, database: Path, tmp_path: Path) -> None:
    key = create(module, "good")
    code, out, err = run(tmp_path, "purge", "--type", "good", "--database", database)
    assert (code, out) == (2, "")
    assert err == ("Error: --yes: is missing, and nobody can be asked; give it to cancel all of task type 'good'\n")
    assert get(module, key).status is TaskStatus.PENDING
    assert run(tmp_path, "purge", "--type", "good", "--yes", "--database", database) == (0, "cancelled: 1\n", "")


@pytest.mark.parametrize(
    ("keys", "code", "out"),
    [
        ("y\n", 0, "cancelled: 2\n"),
        ("Yes\n", 0, "cancelled: 2\n"),
        ("n\n", 1, "nothing was changed\n"),
        ("\n", 1, "nothing was changed\n"),
        ("\x04", 1, "nothing was changed\n"),
        ("\x03", 130, ""),
    ],
    ids=["y", "yes", "n", "enter", "end", "ctrl-c"],
)
def test_on_a_terminal_purge_asks(
    module: TaskModule, database: Path, tmp_path: Path, keys: str, code: int, out: str
) -> None:
    tasks = [create(module, "good"), create(module, "good")]
    create(module, "good", "other")
    with Terminal(tmp_path, "purge", "--type", "good", "--tenant", "mbc", "--database", database) as terminal:
        terminal.says("Cancel all tasks that wait of task type 'good' and tenant 'mbc' (2 in the queue)? [y/N] ")
        terminal.type(keys)
        ended = terminal.ended()
    assert (ended.code, ended.out) == (code, out)
    assert {get(module, key).status for key in tasks} == {TaskStatus.PENDING if code else TaskStatus.CANCELLED}


# --- redrive ---------------------------------------------------------------------------------------------------------


def test_redrive_one(module: TaskModule, taskloom: Taskloom, database: Path) -> None:
    keys = [create(module, "bad"), create(module, "bad")]
    drain(module)
    bury(database, *keys)
    assert taskloom("redrive", "2", "--by", "ann") == (0, "redriven: 1\n", "")
    task = get(module, keys[1])
    assert (task.status, task.run, task.history[-1].by) == (TaskStatus.PENDING, 2, "ann")
    assert get(module, keys[0]).status is TaskStatus.FAILED
    assert letters(module) == [1]
    code, out, err = taskloom("redrive", "2")
    assert (code, out) == (2, "")
    assert "there is no dead letter 2" in err


def test_redrive_shows_how_far_it_is(
    module: TaskModule, taskloom: Taskloom, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "LINE_EVERY", 0.0)
    keys = [create(module, "bad") for _ in range(3)]
    drain(module)
    bury(database, *keys)
    shown = "redriven: 1\nredriven: 2\nredriven: 3\n"
    assert taskloom("redrive", "--all") == (0, "redriven: 3\n", shown)


def test_redrive_all(module: TaskModule, taskloom: Taskloom, database: Path) -> None:
    """Those of a tenant, or all there are; the letter of a task that runs again already goes."""
    keys = [create(module, "bad"), create(module, "bad", "other"), create(module, "bad")]
    drain(module)
    bury(database, *keys)
    module.sync.task_service.retry_task(keys[2])
    assert taskloom("redrive", "--all", "--tenant", "other").out == "redriven: 1\n"
    assert letters(module) == [1, 3]
    assert taskloom("redrive", "--all", "--per-second", "1000") == (0, "redriven: 1\n", "")
    assert letters(module) == []
    assert {get(module, key).run for key in keys} == {2}
    assert taskloom("redrive", "--all").out == "redriven: 0\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "ID: or --all must be given, and only one of them"),
        (["1", "--all"], "ID: or --all must be given, and only one of them"),
        (["x"], "Invalid value for 'ID'"),
        (["0"], "ID: 0 is out of range"),
        ([str(10**30)], f"ID: {10**30} is out of range"),
        (["--all", "--per-second", "0"], "per_second: 0.0 is out of range"),
        (["--all", "--tenant", "no/slash"], "tenant_code: 'no/slash' is not allowed"),
    ],
)
def test_what_is_wrong_with_a_redrive_is_said(
    module: TaskModule, taskloom: Taskloom, arguments: list[str], said: str
) -> None:
    create(module, "bad")
    code, out, err = taskloom("redrive", *arguments)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())


def test_no_database_is_made(tmp_path: Path, capsys: Capture) -> None:
    for arguments in (
        ["cancel", "TASK#mbc#good#01JTZ3"],
        ["retry", "TASK#mbc#good#01JTZ3"],
        ["pause", "--type", "good"],
        ["resume", "--type", "good"],
        ["purge", "--type", "good", "--yes"],
        ["redrive", "--all"],
    ):
        code, out, err = call(capsys, *arguments, "--database", tmp_path / "missing.db")
        assert (code, out) == (2, "")
        assert "missing.db does not exist" in err
    assert list(tmp_path.iterdir()) == []
