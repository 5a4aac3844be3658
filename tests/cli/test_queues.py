"""`explain`, `queues` and `dead-letters`: for people lines and tables, for programs JSON."""

import asyncio
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from taskloom import TaskKey, TaskModule
from taskloom.cli.queue_views import item
from taskloom.events.task_events import TaskQueueEvent
from taskloom.ports import Cap, WorkerFacts
from taskloom.record import time_text
from tests.cli.program import Ended, call, run
from tests.cli.test_steering import bury
from tests.conftest import MakeModule

Capture = pytest.CaptureFixture[str]
TIME = r"2\d{3}-\S+Z"


@pytest.fixture
def module(make_module: MakeModule) -> TaskModule:
    return make_module()


def create(module: TaskModule, type_: str = "cat", tenant: str = "mbc") -> TaskKey:
    return module.sync.task_service.create_task(tenant_code=tenant, task_type=type_).key


def at_work(module: TaskModule, *commands: list[str], capsys: Capture, database: Path) -> list[Ended]:
    """What the commands say while a worker has a task in its hands."""
    ended: list[Ended] = []

    @module.task("busy")
    def busy(event: TaskQueueEvent[Any]) -> None:
        ended.extend(call(capsys, *command, "--database", database) for command in commands)

    create(module, "busy")

    async def work() -> None:
        async with module.worker(concurrency=3) as worker:
            await worker.drain()

    asyncio.run(work())
    assert len(ended) == len(commands)
    return ended


def test_explain_a_task_that_waits(module: TaskModule, database: Path, capsys: Capture) -> None:
    key = create(module)
    said = "no worker is alive; start one with: taskloom worker APP"
    assert call(capsys, "explain", key.id, "--database", database) == (0, f"PENDING (no worker): {said}\n", "")
    code, out, err = call(capsys, "explain", key.id, "--database", database, "--json")
    assert (code, err) == (0, "")
    facts: dict[str, object] = {"workers": []}
    assert json.loads(out) == {
        "task": key.id, "status": "PENDING", "cause": "no worker", "text": said, "facts": facts,
    }  # fmt: skip


def test_explain_a_task_of_a_paused_type(module: TaskModule, database: Path, capsys: Capture) -> None:
    """What somebody gave as the reason cannot reach the terminal."""
    key = create(module)
    module.sync.task_service.queues.pause(task_type="cat", reason="lunch\x1b[2J", by="ann")
    code, out, _ = call(capsys, "explain", key.id, "--database", database)
    assert code == 0
    assert re.fullmatch(rf"PENDING \(paused\): .* since {TIME} by ann: lunch\\x1b\[2J\n", out)


def test_explain_what_has_ended(module: TaskModule, database: Path, capsys: Capture) -> None:
    key = create(module)
    module.sync.task_service.cancel_task(key, reason="enough")
    code, out, _ = call(capsys, "explain", key.id, "--database", database, "--json")
    assert (code, json.loads(out)["cause"]) == (0, "ended")
    finished = module.sync.task_service.get_task(key).finished_at
    assert finished is not None
    assert json.loads(out)["facts"]["finishedAt"] == time_text(finished)


def test_queues_show_depths_workers_and_pauses(module: TaskModule, database: Path, capsys: Capture) -> None:
    create(module)
    create(module)
    create(module, tenant="other")
    module.sync.task_service.create_step_function_task(tenant_code="mbc", task_type="cats", input=[1])
    module.sync.task_service.queues.pause(tenant_code="other", reason="did not pay", by="ann")
    (ended,) = at_work(module, ["queues"], capsys=capsys, database=database)
    assert (ended.code, ended.err) == (0, "")
    depths, workers, pauses = ended.out.split("\n\n")
    head, *rows = depths.splitlines()
    names = ["TENANT", "KIND", "TYPE", "WAITING", "DELAYED", "IN FLIGHT", "OLDEST", "RATE", "DEAD LETTERS"]
    assert re.split("  +", head) == names
    cells = [re.split("  +", row) for row in rows]
    assert [row[:6] for row in cells] == [
        ["mbc", "SFN_TASK", "cats", "1", "0", "0"],
        ["mbc", "TASK", "busy", "0", "0", "1"],
        ["mbc", "TASK", "cat", "2", "0", "0"],
        ["other", "TASK", "cat", "1", "0", "0"],
    ]
    assert [row[-1] == "paused" for row in cells] == [False, False, False, True]
    assert re.fullmatch(rf"WORKER +VERSION +STARTED +RUNS +SERVES\n\S+ +\S+ +{TIME} +\d of 3 +busy", workers)
    assert re.fullmatch(rf"PAUSED +NAME +SINCE +BY +REASON\ntenant +other +{TIME} +ann +did not pay\n", pauses)


def test_queues_of_one_tenant(module: TaskModule, database: Path, capsys: Capture) -> None:
    create(module)
    create(module, tenant="other")
    queues = module.sync.task_service.queues
    queues.pause(tenant_code="mbc")
    queues.pause(tenant_code="other")
    queues.pause(task_type="dog")
    code, out, _ = call(capsys, "queues", "--tenant", "mbc", "--database", database, "--json")
    shown = json.loads(out)
    assert code == 0
    assert [row["tenantCode"] for row in shown["queues"]] == ["mbc"]
    assert [pause["name"] for pause in shown["pauses"]] == ["mbc", "dog"]


def test_json_of_the_queues(module: TaskModule, database: Path, capsys: Capture) -> None:
    module.sync.task_service.queues.pause(task_type="cat")
    create(module)
    (ended,) = at_work(module, ["queues", "--json"], capsys=capsys, database=database)
    shown = json.loads(ended.out)
    assert set(shown) == {"queues", "workers", "pauses"}
    row = next(row for row in shown["queues"] if row["type"] == "cat")
    assert {name: value for name, value in row.items() if name != "oldestAge"} == {
        "tenantCode": "mbc",
        "kind": "TASK",
        "type": "cat",
        "waiting": 1,
        "delayed": 0,
        "inFlight": 0,
        "rate": 0.0,
        "deadLetters": 0,
        "isPaused": True,
    }
    (worker,) = shown["workers"]
    assert worker["concurrency"] == 3
    assert worker["tasks"] == ["busy"]
    assert set(worker) >= {"name", "host", "pid", "version", "startedAt", "seenAt", "fanOuts", "running"}
    (pause,) = shown["pauses"]
    assert set(pause) == {"scope", "name", "at", "reason", "by"}


def test_limits_stand_under_their_types_in_json() -> None:
    """Types are spelt as they are; only names of ours become camelCase."""
    now = datetime(2026, 5, 1, tzinfo=UTC)
    worker = WorkerFacts(
        name="host/1", host="host", pid=1, version="1.0.0", started_at=now, seen_at=now, concurrency=8,
        tasks=["my_type"], fan_outs=[], running=[], caps={"my_type": Cap(total=3)},
    )  # fmt: skip
    assert item(worker)["caps"] == {"my_type": {"total": 3, "perTenant": None}}


def test_when_there_is_nothing_it_says_so(module: TaskModule, database: Path, capsys: Capture) -> None:
    assert module.sync.task_service.queues.figures() == []
    said = "nothing is in the queues\n\nno worker is alive\n"
    assert call(capsys, "queues", "--database", database) == (0, said, "")
    code, out, _ = call(capsys, "queues", "--database", database, "--json")
    assert (code, json.loads(out)) == (0, {"queues": [], "workers": [], "pauses": []})
    assert call(capsys, "dead-letters", "--database", database) == (0, "no dead letters\n", "")
    code, out, _ = call(capsys, "dead-letters", "--database", database, "--json")
    assert (code, json.loads(out)) == (0, {"items": [], "cursor": None})


def test_dead_letters_page_by_page(module: TaskModule, database: Path, capsys: Capture) -> None:
    keys = [create(module) for _ in range(3)]
    bury(database, *keys)
    code, out, err = call(capsys, "dead-letters", "--limit", "1000", "--database", database)
    assert (code, err, len(out.splitlines())) == (0, "", 4)
    code, out, err = call(capsys, "dead-letters", "--limit", "2", "--database", database)
    assert (code, err) == (0, "")
    reason = re.escape("NoHandler: nothing takes\\x1b it")
    rows = [rf"{number + 1} +{TIME} +5 +{re.escape(keys[number].id)} +{reason}" for number in range(2)]
    assert re.fullmatch("\n".join(["ID +AT +FAILURES +TASK +REASON", *rows, "more: --cursor 2\n"]), out)
    code, out, _ = call(capsys, "dead-letters", "--cursor", "2", "--limit", "1", "--json", "--database", database)
    page = json.loads(out)
    assert (code, page["cursor"]) == (0, None)
    assert page["items"] == [
        {
            "id": 3,
            "at": "2026-05-01T12:00:00.000Z",
            "task": keys[2].id,
            "failures": 5,
            "reason": "NoHandler: nothing takes\x1b it",
        }
    ]
    assert json.loads(call(capsys, "dead-letters", "--limit", "2", "--json", "--database", database).out)["cursor"] == 2


def test_one_dead_letter(module: TaskModule, database: Path, capsys: Capture) -> None:
    keys = [create(module), create(module, tenant="other")]
    bury(database, *keys)
    code, out, err = call(capsys, "dead-letters", "2", "--database", database)
    assert (code, err) == (0, "")
    assert re.search(rf"^task +{re.escape(keys[1].id)}$", out, re.MULTILINE)
    assert re.search(r"^reason +NoHandler: nothing takes\\x1b it$", out, re.MULTILINE)
    code, out, _ = call(capsys, "dead-letters", "2", "--json", "--database", database)
    assert (code, json.loads(out)["task"]) == (0, keys[1].id)
    for arguments in (["3"], ["2", "--tenant", "mbc"]):
        code, out, err = call(capsys, "dead-letters", *arguments, "--database", database)
        assert (code, out) == (2, "")
        assert f"there is no dead letter {arguments[0]}" in err
    listed = json.loads(call(capsys, "dead-letters", "--tenant", "mbc", "--json", "--database", database).out)
    assert [item["id"] for item in listed["items"]] == [1]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["explain"], 2, "Missing argument"),
        (["explain", "nonsense"], 2, "names no task"),
        (["explain", "TASK#mbc#cat#01JTZ3"], 3, "there is no task TASK#mbc#cat#01JTZ3"),
        (["queues", "--tenant", "no/slash"], 2, "tenant_code: 'no/slash' is not allowed"),
        (["dead-letters", "--tenant", "no/slash"], 2, "tenant_code: 'no/slash' is not allowed"),
        (["dead-letters", "--limit", "0"], 2, "limit: 0 is out of range"),
        (["dead-letters", "--cursor", "-1"], 2, "cursor: -1 is out of range"),
        (["dead-letters", str(2**63)], 2, f"ID: {2**63} is out of range"),
        (["dead-letters", "x"], 2, "Invalid value for"),
    ],
)
def test_what_is_wrong_with_a_call_is_said(
    module: TaskModule, database: Path, capsys: Capture, arguments: list[str], code: int, said: str
) -> None:
    create(module)
    ended = call(capsys, *arguments, "--database", database)
    assert (ended.code, ended.out) == (code, "")
    assert said in " ".join(ended.err.split())


def test_off_a_terminal_there_is_plain_text(module: TaskModule, database: Path, tmp_path: Path) -> None:
    """Nothing is wrapped, and there are no colours, whatever the environment says."""
    bury(database, create(module))
    module.sync.task_service.queues.pause(task_type="cat", reason="x" * 200)
    colours = {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1", "COLUMNS": "40"}
    for name in ("queues", "dead-letters"):
        ended = run(tmp_path, name, "--database", database, environment=colours)
        assert ended.code == 0
        assert "\x1b" not in ended.out
        assert any(len(line) > 80 for line in ended.out.splitlines())
