"""`webhooks`: who is told of status changes, what was given up, and delivering it again."""

import asyncio
import json
import re
from datetime import timedelta
from pathlib import Path

import pytest

from taskloom import Settings, TaskModule, Webhook
from taskloom.model import TaskEntity
from taskloom.ports import Backend, NoticeFailure
from tests.cli.program import call
from tests.conftest import MakeModule

Capture = pytest.CaptureFixture[str]
SECRET = "a secret of the tests"
TIME = r"2\d{3}-\S+Z"


@pytest.fixture
def module(make_module: MakeModule, database: Path) -> TaskModule:
    hooks = [Webhook("https://example.com/", SECRET, name="shop"), Webhook("https://example.org/", SECRET, name="log")]
    return make_module(settings=Settings(database=database, webhook_secret=SECRET), webhooks=hooks)


def given_up(module: TaskModule, count: int) -> list[TaskEntity]:
    """So many tasks, of which "shop" will never hear."""
    backend: Backend = module._backend

    async def give_up() -> None:
        again_at = backend.clock.now() + timedelta(hours=1)
        taken = await backend.notifier.take("shop", count, again_at=again_at)
        failures = [NoticeFailure(notice=notice, reason="OSError: no\nanswer", retry_at=None) for notice in taken]
        await backend.notifier.settle([], failures)

    create = module.sync.task_service.create_task
    tasks = [create(tenant_code="mbc", task_type="cat") for _ in range(count)]
    asyncio.run(give_up())
    return tasks


def test_nobody_listens(make_module: MakeModule, database: Path, capsys: Capture) -> None:
    make_module().sync.task_service.create_task(tenant_code="mbc", task_type="cat")
    assert call(capsys, "webhooks", "--database", database) == (0, "nobody is told of anything\n", "")
    assert call(capsys, "webhooks", "--failed", "--database", database) == (0, "no delivery was given up\n", "")
    code, out, _ = call(capsys, "webhooks", "--database", database, "--json")
    assert (code, json.loads(out)) == (0, {"listeners": []})


def test_listeners(module: TaskModule, database: Path, capsys: Capture) -> None:
    given_up(module, 2)
    code, out, err = call(capsys, "webhooks", "--database", database)
    assert (code, err) == (0, "")
    head, log, shop = out.splitlines()
    assert head.split() == ["LISTENER", "ACTION", "WAITING", "OLDEST", "GIVEN", "UP", "KEPT", "UNTIL"]
    assert re.fullmatch(rf"log +task-status +2 +{TIME} +0 +{TIME}", log)
    assert re.fullmatch(rf"shop +task-status +0 +2 +{TIME}", shop)
    _, out, _ = call(capsys, "webhooks", "--listener", "shop", "--database", database, "--json")
    (found,) = json.loads(out)["listeners"]
    assert (found["name"], found["waiting"], found["givenUp"], found["oldestAt"]) == ("shop", 0, 2, None)


def test_what_was_given_up(module: TaskModule, database: Path, capsys: Capture) -> None:
    """A line each, also where the reason has several; with the message for programs."""
    first, second = given_up(module, 2)
    code, out, err = call(capsys, "webhooks", "--failed", "--limit", "1", "--database", database)
    assert (code, err) == (0, "")
    head, line, more = out.splitlines()
    assert head.split() == ["ID", "GIVEN", "UP", "LISTENER", "TRIES", "STATUS", "TASK", "REASON"]
    number = line.split()[0]
    assert re.fullmatch(rf"{number} +{TIME} +shop +1 +PENDING +{re.escape(first.id)} +OSError: no\\nanswer", line)
    assert more == f"more: --cursor {number}"
    _, out, _ = call(capsys, "webhooks", "--failed", "--cursor", number, "--database", database, "--json")
    page = json.loads(out)
    (item,) = page["items"]
    assert page["cursor"] is None
    assert (item["listener"], item["failures"], item["url"]) == ("shop", 1, None)
    assert item["message"]["id"] == second.id
    code, out, _ = call(capsys, "webhooks", number, "--database", database)
    assert code == 0
    assert f"event     {first.id}#0" in out
    _, out, _ = call(capsys, "webhooks", number, "--database", database, "--json")
    assert json.loads(out)["message"]["eventId"] == f"{first.id}#0"
    assert not json.loads(
        call(capsys, "webhooks", "--failed", "--listener", "log", "--json", "--database", database)[1]
    )["items"]


def test_replay(module: TaskModule, database: Path, capsys: Capture) -> None:
    given_up(module, 3)
    number = module.sync.task_service.webhooks.deliveries()[0].number
    for args, said in (
        (["--replay", str(number)], "to be delivered again: 1\n"),
        (["--all", "--listener", "log"], "to be delivered again: 0\n"),
        (["--all"], "to be delivered again: 2\n"),
    ):
        assert call(capsys, "webhooks", *args, "--database", database) == (0, said, "")
    code, _, err = call(capsys, "webhooks", "--replay", str(number), "--database", database)
    assert (code, "no delivery" in err) == (2, True)


def test_forget(module: TaskModule, database: Path, capsys: Capture) -> None:
    given_up(module, 1)
    forget = ("webhooks", "--forget", "shop", "--database", database)
    assert call(capsys, *forget) == (0, "forgotten: shop\n", "")
    assert call(capsys, *forget) == (1, "was not there: shop\n", "")
    assert [item.name for item in module.sync.task_service.webhooks.listeners()] == ["log"]


def test_the_doctor_finds_what_was_given_up(module: TaskModule, database: Path, capsys: Capture) -> None:
    given_up(module, 2)
    code, out, _ = call(capsys, "doctor", "--database", database, "--json")
    (found,) = [finding for finding in json.loads(out)["findings"] if finding["subject"] == "webhooks"]
    assert (code, found["state"]) == (1, "problem")
    assert found["text"] == "deliveries were given up: shop (2)"
    assert "taskloom webhooks --all" in found["remedy"]


@pytest.mark.parametrize(
    "args",
    [
        ["--failed", "--all"],
        ["7", "--failed"],
        ["--replay", "1", "--all"],
        ["7"],
        ["0"],
        ["--replay", "0"],
        ["--failed", "--limit", "0"],
        ["--failed", "--cursor", "-1"],
    ],
)
def test_what_makes_no_sense_is_refused(module: TaskModule, database: Path, capsys: Capture, args: list[str]) -> None:
    given_up(module, 1)
    module.sync.task_service.webhooks.replay()
    code, out, err = call(capsys, "webhooks", *args, "--database", database)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
