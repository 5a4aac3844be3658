"""From the synthesized template through real functions, queues and executions: what a program outside gets.

Every program runs on the embedded engine too, and must come to the same.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from taskloom import TaskKey, TaskModule, TaskStatus
from taskloom.aws.clients import Clients
from taskloom.aws.queue import SqsSender
from taskloom.deploy import local
from taskloom.deploy.template import template
from tests.aws.emulator import Emulator, running
from tests.deploy.program import ITEM_SECONDS, POISON, SLICES, notes
from tests.deploy.stacks import (
    APPLICATION,
    PATIENCE,
    ROOT,
    Outcome,
    Outside,
    embedded,
    embedded_apart,
    facts,
    statuses,
    sub_tasks,
    told,
    until,
)

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]

TENANT: Final = "acme"
TIMEOUT: Final = 30
"""Seconds that functions have."""
SHORT_TIMEOUT: Final = 4
"""The same where handlers are to outlive it."""


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """One of this file's own, for its programs and this process."""
    with running() as emulator, pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": emulator.endpoint,
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }.items():
            patch.setenv(name, value)
        yield emulator


@pytest.fixture(scope="module")
def outside(emulator: Emulator) -> Outside:
    """The stack, warm."""
    return _deployed(emulator, "end", TIMEOUT)


@pytest.fixture(scope="module")
def hurried(emulator: Emulator) -> Outside:
    """A stack whose functions have little time."""
    return _deployed(emulator, "hurried", SHORT_TIMEOUT)


def _deployed(emulator: Emulator, name: str, timeout: int) -> Outside:
    made = template(name, code_key=f"{name}.zip", timeout=timeout)
    return Outside(local.deploy(emulator, made, APPLICATION, name=name, folder=ROOT))


def test_a_single_task_gets_its_result(outside: Outside, tmp_path: Path) -> None:
    async def scenario(module: TaskModule, folder: Path) -> Outcome:
        given = {"name": "Ada", "notes": str(folder / "notes")}
        task = await module.task_service.create_task(tenant_code=TENANT, task_type="greet", input=given)
        assert task.status is TaskStatus.PENDING
        ended = await module.task_service.wait(task.key, timeout=PATIENCE)
        assert statuses(ended) == ["PENDING", "IN_PROGRESS", "COMPLETED"]
        assert notes(folder / "notes") == [task.code]
        return Outcome((facts(ended),))

    mine = outside.run(scenario, tmp_path / "aws")
    assert mine.tasks[0]["result"] == "Hello, Ada"
    assert mine == embedded(scenario, tmp_path / "embedded")


def test_an_error_ends_a_single_task(outside: Outside, tmp_path: Path) -> None:
    async def scenario(module: TaskModule, folder: Path) -> Outcome:
        task = await module.task_service.create_task(tenant_code=TENANT, task_type="refuse", input="this")
        return Outcome((facts(await module.task_service.wait(task.key, timeout=PATIENCE)),))

    mine = outside.run(scenario, tmp_path / "aws")
    assert mine.tasks[0]["error"] == ("ValueError", "not this")
    assert mine == embedded(scenario, tmp_path / "embedded")


async def fan_out(module: TaskModule, task_type: str, given: list[Any]) -> TaskKey:
    """The key of a fan-out that was created just now."""
    task = await module.task_service.create_step_function_task(tenant_code=TENANT, task_type=task_type, input=given)
    return task.key


async def outcome(module: TaskModule, key: TaskKey) -> Outcome:
    """How the fan-out ended, and its sub-tasks."""
    ended = await module.task_service.wait(key, timeout=PATIENCE)
    return Outcome((facts(ended), *await sub_tasks(module, key)))


def test_the_list_of_the_documentation(outside: Outside, tmp_path: Path) -> None:
    async def scenario(module: TaskModule, folder: Path) -> Outcome:
        return await outcome(module, await fan_out(module, "cat", [{"key": f"value{i}"} for i in range(1, 7)]))

    mine = outside.run(scenario, tmp_path / "aws")
    parent, *children = mine.tasks
    assert (parent["status"], parent["counters"]) == ("COMPLETED", (6, 6, 0, 0))
    assert [child["result"] for child in children] == [f"value{i}" for i in range(1, 7)]
    assert mine == embedded(scenario, tmp_path / "embedded")


def test_an_empty_list_ends_at_once(outside: Outside, tmp_path: Path) -> None:
    async def scenario(module: TaskModule, folder: Path) -> Outcome:
        return await outcome(module, await fan_out(module, "cat", []))

    mine = outside.run(scenario, tmp_path / "aws")
    assert (mine.tasks[0]["status"], mine.tasks[0]["counters"]) == ("COMPLETED", (0, 0, 0, 0))
    assert mine == embedded(scenario, tmp_path / "embedded")


def test_a_thousand_of_which_three_in_a_hundred_fail_and_are_retried(outside: Outside, tmp_path: Path) -> None:
    """The tolerance is none, so the whole FAILED; the retry runs those that failed, and nothing else."""

    async def scenario(module: TaskModule, folder: Path) -> Outcome:
        key = await fan_out(module, "many", list(range(1000)))
        first = await outcome(module, key)
        await module.task_service.retry_task(key, only_failed=True)
        return Outcome(first.tasks + (await outcome(module, key)).tasks)

    mine = outside.run(scenario, tmp_path / "aws")
    first, second = mine.tasks[0], mine.tasks[1001]
    assert (first["status"], first["counters"]) == ("FAILED", (1000, 970, 30, 0))
    assert (second["status"], second["run"], second["counters"]) == ("COMPLETED", 2, (1000, 1000, 0, 0))
    assert [child["run"] for child in mine.tasks[1002:]] == [2 if n % 100 < 3 else 1 for n in range(1000)]
    assert [child["result"] for child in mine.tasks[1002:]] == [n * n for n in range(1000)]
    assert mine == embedded(scenario, tmp_path / "embedded")


def test_a_cancel_in_the_middle_keeps_what_is_done(outside: Outside, tmp_path: Path) -> None:
    async def scenario(module: TaskModule, folder: Path) -> Outcome:
        key = await fan_out(module, "hanging", list(range(8)))
        done = [task.key async for task in module.task_service.iter_sub_tasks(key)][:2]
        for one in done:
            await module.task_service.wait(one, timeout=PATIENCE)
        await module.task_service.cancel_task(key, reason="enough", by="ada")
        return await outcome(module, key)

    mine = outside.run(scenario, tmp_path / "aws")
    theirs = embedded(scenario, tmp_path / "embedded")
    for parent, *children in (mine.tasks, theirs.tasks):
        assert parent["status"] == "CANCELLED"
        assert [child["status"] for child in children] == ["COMPLETED"] * 2 + ["CANCELLED"] * 6
        assert parent["counters"][:3] == (8, 2, 0)
        assert [status for status, *_ in parent["history"]] == ["PENDING", "IN_PROGRESS", "CANCELLED"]


def test_a_sub_task_that_kills_its_function_pays_alone(hurried: Outside, tmp_path: Path) -> None:
    async def scenario(module: TaskModule, folder: Path) -> Outcome:
        return await outcome(module, await fan_out(module, "poison", list(range(12))))

    mine = hurried.run(scenario, tmp_path / "aws")
    theirs = embedded_apart(scenario, tmp_path / "embedded")
    for parent, *children in (mine.tasks, theirs.tasks):
        assert (parent["status"], parent["counters"]) == ("FAILED", (12, 11, 1, 0))
        assert [child["status"] for child in children].count("COMPLETED") == 11
        assert children[POISON]["status"] == "FAILED"
        assert children[POISON]["attempt"] == 3
        assert {child["attempt"] for child in children if child is not children[POISON]} == {1}
    assert mine.tasks[1 + POISON]["error"] == theirs.tasks[1 + POISON]["error"]


def test_what_is_delivered_twice_counts_once(outside: Outside, tmp_path: Path) -> None:
    """Records of the stream, task messages, and calls of chunks."""
    clients = Clients(outside.stack.emulator.arguments)
    sender = SqsSender(clients, outside.settings.task_queue_url or "")

    async def scenario(module: TaskModule, folder: Path) -> Outcome:
        service, path = module.task_service, folder / "notes"
        given = {"name": "Ada", "notes": str(path)}
        single = await service.create_task(tenant_code=TENANT, task_type="greet", input=given)
        key = await fan_out(module, "noted", [{"number": n, "notes": str(path)} for n in range(8)])
        records = [*outside.records(single.key), *outside.records(key)]
        assert len(records) == 2
        await sender.send([*records, *records])
        assert outside.invoke("Dispatch", {"Records": records}) == {"batchItemFailures": []}
        tasks = [await service.wait(one, timeout=PATIENCE) for one in (single.key, key)]
        await sender.send(records)  # late ones, too
        chunk = {"step": "chunk", "pk": key.pk, "sk": key.sk, "run": 1}
        assert [outside.invoke("Chunk", chunk | {"chunk": number}) for number in range(8)] == [0] * 8
        await until(outside.is_idle, "every message is gone")
        for task in tasks:
            assert await service.get_task(task.key) == task
        return Outcome((*map(facts, tasks), *await sub_tasks(module, key)), tuple(sorted(notes(path))))

    mine = outside.run(scenario, tmp_path / "aws")
    clients.close()
    greeted, parent, *children = mine.tasks
    assert statuses_of(greeted) == statuses_of(parent) == ["PENDING", "IN_PROGRESS", "COMPLETED"]
    assert parent["counters"] == (8, 8, 0, 0)
    assert len(mine.notes) == 9  # each handler was called once
    assert all(child["attempt"] == 1 for child in children)


def statuses_of(task: dict[str, Any]) -> list[str]:
    """The statuses of some task's facts, in order."""
    return [status for status, *_ in task["history"]]


@pytest.mark.parametrize("task_type", ["long", "saving", "blocking"])
def test_a_handler_goes_on_behind_the_end_of_its_function(hurried: Outside, tmp_path: Path, task_type: str) -> None:
    assert SLICES * ITEM_SECONDS > SHORT_TIMEOUT

    async def scenario(module: TaskModule, folder: Path) -> Outcome:
        given = {"notes": str(folder / "notes")}
        task = await module.task_service.create_task(tenant_code=TENANT, task_type=task_type, input=given)
        ended = await module.task_service.wait(task.key, timeout=PATIENCE)
        return Outcome((facts(ended),), tuple(notes(folder / "notes")))

    mine = hurried.run(scenario, tmp_path / "aws")
    theirs = embedded(scenario, tmp_path / "embedded")
    task = mine.tasks[0]
    assert statuses_of(task).count("IN_PROGRESS") >= 2  # it did outlive a function
    for name in ("status", "result", "attempt", "run", "error"):
        assert task[name] == theirs.tasks[0][name]
    assert sorted(set(map(int, mine.notes))) == list(range(SLICES))
    assert len(mine.notes) < 2 * SLICES  # it went on, and did not begin anew


def test_a_callback_is_answered_from_outside(hurried: Outside, tmp_path: Path) -> None:
    """On the other stack: the message that was to wake the task stays in the queue until its time is over."""

    async def scenario(module: TaskModule, folder: Path) -> Outcome:
        path = folder / "notes"
        given = {"notes": str(path)}
        task = await module.task_service.create_task(tenant_code=TENANT, task_type="approval", input=given)
        await until(lambda: bool(notes(path)), "the handler asked")
        (token,) = notes(path)
        await module.task_service.resume(token, {"approved": True})
        ended = await module.task_service.wait(task.key, timeout=PATIENCE)
        return Outcome((facts(ended),))

    mine = hurried.run(scenario, tmp_path / "aws")
    theirs = embedded(scenario, tmp_path / "embedded")
    for (task,) in (mine.tasks, theirs.tasks):
        assert (task["status"], task["result"], task["attempt"]) == ("COMPLETED", {"approved": True}, 1)


def test_whoever_listens_is_told_the_same(outside: Outside, tmp_path: Path) -> None:
    """Of each end, and one alarm for each run that FAILED."""
    keys: list[TaskKey] = []

    async def scenario(module: TaskModule, folder: Path) -> Outcome:
        service, given = module.task_service, {"name": "Ada", "notes": str(folder / "notes")}
        keys[:] = [
            (await service.create_task(tenant_code=TENANT, task_type="greet", input=given)).key,
            (await service.create_task(tenant_code=TENANT, task_type="refuse", input="this")).key,
            await fan_out(module, "cat", [{"key": "value"}]),
            await fan_out(module, "many", [0, 50]),
        ]
        for key in keys:
            await service.wait(key, timeout=PATIENCE)
        await service.retry_task(keys[-1], only_failed=True)
        return Outcome((facts(await service.wait(keys[-1], timeout=PATIENCE)),))

    async def listening(module: TaskModule, folder: Path) -> Outcome:
        module.subscribe(there.append)
        module.subscribe(there.append, action="sfn-alarm")
        done = await scenario(module, folder)
        await until(lambda: len(told(there)) == expected, "all messages came")
        return done

    there: list[dict[str, Any]] = []
    expected = 5 + 2
    mine = outside.run(scenario, tmp_path / "aws")
    here = outside.heard(keys, expected)
    assert mine == embedded(listening, tmp_path / "embedded")
    assert told(here) == told(there)
