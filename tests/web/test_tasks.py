"""The REST interface: what is created, shown, listed and steered, and how bad input is refused."""

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from taskloom import Settings, TaskModule, TaskQueueEvent
from tests.conftest import MakeModule
from tests.surface.running import drained
from tests.web.calling import caller
from tests.web.tokens import Issuer

NEW = {"tenantCode": "mbc", "taskType": "cat", "input": {"name": "Tama"}}
LINES = {"content-type": "application/x-ndjson"}


def with_cat(module: TaskModule) -> TaskModule:
    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> str:
        event.log.info("feeding")
        return f"fed {event.task.input['name']}"

    return module


Ask = Callable[[httpx.AsyncClient, TaskModule], Coroutine[Any, Any, Any]]


@pytest.fixture
def ask(make_module: MakeModule) -> Callable[[Ask], Any]:
    """Asks the application of a module without authentication."""

    def run(question: Ask, **settings: Any) -> Any:
        module = with_cat(make_module(enable_controller=True, **settings))

        async def asking() -> Any:
            async with caller(module.asgi_app()) as client:
                return await question(client, module)

        return asyncio.run(asking())

    return run


def test_a_task_is_accepted_and_says_where_to_look(ask: Callable[[Ask], Any]) -> None:
    async def question(client: httpx.AsyncClient, module: TaskModule) -> None:
        made = await client.post(
            "/tasks", json={**NEW, "name": "supper", "priority": 7}, headers={"x-request-id": "r-1"}
        )
        assert made.status_code == 202
        assert made.headers["retry-after"] == "1"
        assert made.headers["x-request-id"] == "r-1"
        task = made.json()
        assert (task["name"], task["priority"], task["requestId"], task["createdIp"]) == (
            "supper",
            7,
            "r-1",
            "127.0.0.1",
        )
        assert made.headers["location"] == f"/tasks/TASK%23mbc/cat%23{task['code']}"
        found = await client.get(made.headers["location"])
        assert found.json() == task
        by_code = await client.get(f"/tasks/by-code/{task['code']}", headers={"x-tenant-code": "mbc"})
        assert by_code.json() == task

    ask(question)


def test_the_same_key_creates_one_task(ask: Callable[[Ask], Any]) -> None:
    async def question(client: httpx.AsyncClient, module: TaskModule) -> None:
        for path, body in (("/tasks", NEW), ("/tasks/step-function-task", {**NEW, "input": [1, 2]})):
            key = {"Idempotency-Key": f'"{path}"'}
            first = await client.post(path, json=body, headers=key)
            again = await client.post(path, json=body, headers=key)
            bare = await client.post(path, json=body, headers={"Idempotency-Key": path})
            assert first.status_code == again.status_code == bare.status_code == 202
            assert first.json()["id"] == again.json()["id"] == bare.json()["id"]
            other = await client.post(path, json={**body, "taskType": "dog"}, headers=key)
            assert other.status_code == 422
            assert other.json()["type"] == "urn:taskloom:problem:idempotency-conflict"
            assert other.json()["key"] == path

    ask(question)


def test_polling_costs_nothing_while_nothing_changes(ask: Callable[[Ask], Any]) -> None:
    async def question(client: httpx.AsyncClient, module: TaskModule) -> None:
        made = await client.post("/tasks", json=NEW)
        path, tag = made.headers["location"], made.headers["etag"]
        for sent in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            same = await client.get(path, headers={"If-None-Match": sent})
            assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
        await drained(module)
        changed = await client.get(path, headers={"If-None-Match": tag})
        assert changed.status_code == 200
        assert changed.headers["etag"] != tag
        assert changed.json()["attributes"]["result"] == [["fed Tama"]]
        assert "retry-after" not in changed.headers

    ask(question)


def test_an_unclaimed_sub_task_is_no_longer_fresh_when_its_fan_out_ends(ask: Callable[[Ask], Any]) -> None:
    async def question(client: httpx.AsyncClient, module: TaskModule) -> None:
        made = (await client.post("/tasks/step-function-task", json={**NEW, "input": [1]})).json()
        path = f"/tasks/SFN_TASK%23mbc%23{made['code']}%230/cat%23{made['code']}%230000000"
        before = await client.get(path)
        await client.post(f"/tasks/SFN_TASK%23mbc/cat%23{made['code']}/cancel")
        after = await client.get(path, headers={"If-None-Match": before.headers["etag"]})
        assert (before.json()["status"], after.status_code, after.json()["status"]) == ("PENDING", 200, "CANCELLED")

    ask(question)


def test_json_lines_become_sub_tasks(ask: Callable[[Ask], Any]) -> None:
    async def question(client: httpx.AsyncClient, module: TaskModule) -> None:
        retry = quote(json.dumps({"maxAttempts": 5}))
        path = f"/tasks/step-function-task?tenant_code=mbc&task_type=cat&name=cats&priority=3&retry={retry}"
        content = b'{"key": "a"}\n\n  2  \n"\xe7\x8c\xab"'
        made = await client.post(path, content=content, headers=LINES)
        assert made.status_code == 202, made.text
        assert made.json()["input"] == [{"key": "a"}, 2, "猫"]
        assert (made.json()["name"], made.json()["priority"]) == ("cats", 3)
        assert made.json()["options"]["retry"]["maxAttempts"] == 5

    ask(question)


def test_a_long_stream_is_never_held_in_memory(ask: Callable[[Ask], Any]) -> None:
    lines, line = 1500, b'"' + b"x" * 20_000 + b'"\n'

    async def content() -> AsyncIterator[bytes]:
        for _ in range(lines):
            yield line

    async def question(client: httpx.AsyncClient, module: TaskModule) -> int:
        tracemalloc.start()
        made = await client.post(
            "/tasks/step-function-task?tenant_code=mbc&task_type=cat", content=content(), headers=LINES
        )
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert made.json()["attributes"]["subTaskCount"] == lines
        return peak

    assert ask(question) < len(line) * lines / 3


def test_a_stream_that_is_refused_creates_nothing(ask: Callable[[Ask], Any]) -> None:
    async def question(client: httpx.AsyncClient, module: TaskModule) -> None:
        path = "/tasks/step-function-task?tenant_code=mbc&task_type=cat"
        broken = await client.post(path, content=b"1\n{broken\n3\n", headers=LINES)
        assert (broken.status_code, broken.json()["errors"][0]["field"]) == (400, "line 2")
        large = await client.post(path, content=b'1\n"' + b"x" * 2**20 + b'"\n', headers=LINES)
        assert (large.status_code, large.headers["content-type"]) == (413, "application/problem+json")
        number = await client.post(path, content=b"1\nNaN\n", headers=LINES)
        assert (number.status_code, number.json()["errors"][0]["field"]) == (400, "input[1]")
        missing = await client.post("/tasks/step-function-task?tenant_code=mbc", content=b"1", headers=LINES)
        assert (missing.status_code, missing.json()["errors"][0]["field"]) == (400, "task_type")
        assert (await client.get("/tasks/mbc?type=SFN_TASK")).json() == {"items": [], "cursor": None}

    ask(question)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"tenantCode": "mbc"}, "taskType"),
        ({**NEW, "color": "red"}, "color"),
        ({**NEW, "task_type": "cat"}, "task_type"),
        ({**NEW, "priority": 10}, "priority"),
        ({**NEW, "retry": {"maxAttempts": 0}}, "retry.maxAttempts"),
        ({**NEW, "retry": {"often": True}}, "retry.often"),
        ({**NEW, "tenantCode": "m b c"}, "tenantCode"),
        ({"taskType": "cat"}, "tenantCode"),
        ({**NEW, "input": {"a": [1, 10**40]}}, "input.a[1]"),
        ({**NEW, "name": ""}, "name"),
        ([], "body"),
        ("text", "body"),
    ],
)
def test_bad_input_is_refused_by_name(ask: Callable[[Ask], Any], body: Any, field: str) -> None:
    async def question(client: httpx.AsyncClient, module: TaskModule) -> httpx.Response:
        refused = await client.post("/tasks", json=body)
        assert (await client.get("/tasks/mbc")).json()["items"] == []
        return refused

    refused = ask(question)
    assert refused.status_code == 400
    assert refused.headers["content-type"] == "application/problem+json"
    problem = refused.json()
    assert problem["errors"][0]["field"] == field
    assert problem["errors"][0]["problem"]
    assert set(problem) >= {"type", "title", "status", "detail"}


def test_bodies_are_json_and_bounded(ask: Callable[[Ask], Any]) -> None:
    async def question(client: httpx.AsyncClient, module: TaskModule) -> None:
        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b" " * 65536

        text = await client.post("/tasks", content=json.dumps(NEW), headers={"content-type": "text/plain"})
        assert text.status_code == 415
        form = await client.post("/tasks/step-function-task", content=b"a=b", headers={"content-type": "text/plain"})
        assert form.status_code == 415
        broken = await client.post("/tasks", content=b"{", headers={"content-type": "application/json"})
        assert broken.status_code == 400
        large = await client.post("/tasks", json={**NEW, "input": "x" * 2**20})
        assert large.status_code == 413
        chunked = await client.post("/tasks", content=endless(), headers={"content-type": "application/json"})
        assert chunked.status_code == 413
        streamed = await client.post(
            "/tasks/step-function-task", content=endless(), headers={"content-type": "application/json"}
        )
        assert streamed.status_code == 413

    ask(question)


def test_lists_are_paged_by_signed_cursors(ask: Callable[[Ask], Any]) -> None:
    async def question(client: httpx.AsyncClient, module: TaskModule) -> None:
        codes = [(await client.post("/tasks", json=NEW)).json()["code"] for _ in range(5)]
        found: list[str] = []
        cursor: str | None = None
        pages = 0
        while True:
            query = {"limit": "2", "order": "asc", **({} if cursor is None else {"cursor": cursor})}
            page = (await client.get("/tasks/mbc", params=query)).json()
            found += [task["code"] for task in page["items"]]
            pages += 1
            last, cursor = cursor, page["cursor"]
            if cursor is None:
                break
        assert (found, pages) == (codes, 3)
        assert last is not None
        for forged in (last[:-1] + ("A" if last[-1] != "A" else "B"), "x", last.partition(".")[0], f"x{last}"):
            refused = await client.get("/tasks/mbc", params={"order": "asc", "cursor": forged})
            assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "cursor")
        for path, query in (("/tasks/other", {"order": "asc"}), ("/tasks/mbc", {"order": "desc"})):
            refused = await client.get(path, params={**query, "cursor": last})  # of another list
            assert refused.status_code == 400

    ask(question)


def test_sub_tasks_history_and_logs_are_paged(ask: Callable[[Ask], Any]) -> None:
    async def pages(client: httpx.AsyncClient, path: str) -> list[Any]:
        found: list[Any] = []
        cursor = None
        while True:
            page = (
                await client.get(path, params={"limit": 2, **({} if cursor is None else {"cursor": cursor})})
            ).json()
            found += page["items"]
            if page["cursor"] is None or not page["items"]:
                return found
            cursor = page["cursor"]

    async def question(client: httpx.AsyncClient, module: TaskModule) -> None:
        fan_out = await client.post("/tasks/step-function-task", json={**NEW, "input": [1, 2, 3]})
        sub_tasks = await pages(client, fan_out.headers["location"] + "/sub-tasks")
        assert [task["input"] for task in sub_tasks] == [1, 2, 3]
        one = (await client.post("/tasks", json=NEW)).headers["location"]
        await drained(module)
        history = await pages(client, one + "/history")
        assert [entry["status"] for entry in history] == ["PENDING", "IN_PROGRESS", "COMPLETED"]
        assert [line["message"] for line in await pages(client, one + "/logs")] == ["feeding"]
        why = (await client.get(one + "/explain")).json()
        assert (why["cause"], why["status"]) == ("ended", "COMPLETED")

    ask(question)


def test_cancel_and_retry(ask: Callable[[Ask], Any]) -> None:
    async def question(client: httpx.AsyncClient, module: TaskModule) -> None:
        path = (await client.post("/tasks", json=NEW)).headers["location"]
        cancelled = await client.post(path + "/cancel", json={"reason": "no hunger"})
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "CANCELLED")
        assert cancelled.json()["history"][-1]["reason"] == "cancelled: no hunger"
        again = await client.post(path + "/cancel")
        assert (again.status_code, again.json()["taskStatus"]) == (409, "CANCELLED")
        retried = await client.post(path + "/retry")
        assert (retried.status_code, retried.json()["status"], retried.json()["run"]) == (202, "PENDING", 2)
        still = await client.post(path + "/retry")
        assert (still.status_code, still.json()["type"]) == (409, "urn:taskloom:problem:task-open")

    ask(question)


def test_what_nobody_waits_for_is_not_there(ask: Callable[[Ask], Any]) -> None:
    async def question(client: httpx.AsyncClient, module: TaskModule) -> None:
        missing = await client.get("/tasks/TASK%23mbc/cat%2301ARZ3NDEKTSV4RRFFQ69G5FAV")
        assert (missing.status_code, missing.json()["type"]) == (404, "urn:taskloom:problem:task-not-found")
        assert (await client.get("/tasks/TASK%23mbc/cat")).status_code == 400
        assert (await client.get("/tasks/nonsense/cat%231")).status_code == 400
        assert (await client.post("/callbacks/unknown", json={"output": 1})).status_code == 404
        for body in ({}, {"output": 1, "error": "no"}, {"error": None}, {"error": ""}, {"answer": 1}):
            assert (await client.post("/callbacks/unknown", json=body)).status_code == 400
        assert (await client.get("/nowhere")).status_code == 404
        assert (await client.delete("/tasks/mbc")).status_code == 405
        unknown = await client.get("/tasks/mbc?colour=red")
        assert (unknown.status_code, unknown.json()["errors"][0]["field"]) == (400, "colour")

    ask(question)


def test_without_the_controller_there_are_no_rest_endpoints(make_module: MakeModule) -> None:
    app: Any = make_module().asgi_app()

    async def statuses() -> list[int]:
        async with caller(app) as client:
            return [(await client.get(path)).status_code for path in ("/tasks/mbc", "/queues", "/healthz", "/readyz")]

    assert asyncio.run(statuses()) == [404, 404, 200, 200]


def test_queues_show_a_tenant_its_own_alone(
    make_module: MakeModule, secured: Callable[..., Settings], issuer: Issuer
) -> None:
    module = with_cat(make_module(enable_controller=True, settings=secured()))
    service = module.task_service

    async def look() -> tuple[Any, Any, Any]:
        for tenant in ("mbc", "other"):
            await service.create_task(tenant_code=tenant, task_type="cat", input={"name": tenant})
        await service.queues.pause(tenant_code="other", reason="secret")
        async with caller(module.asgi_app(), issuer.token(roles=("admin",))) as client:
            own = (await client.get("/queues")).json()
            refused = await client.get("/queues?all=true")
        async with caller(module.asgi_app(), issuer.token(roles=("admin", "support"))) as client:
            everything = (await client.get("/queues?all=true")).json()
        return own, refused, everything

    own, refused, everything = asyncio.run(look())
    assert [row["tenantCode"] for row in own["items"]] == ["mbc"]
    assert own["pauses"] == []
    assert own["items"][0]["rate"] is None  # which is that of all tenants together
    assert refused.status_code == 403
    assert [row["tenantCode"] for row in everything["items"]] == ["mbc", "other"]
    assert [pause["name"] for pause in everything["pauses"]] == ["other"]


def test_workers_show_a_tenant_what_it_owns_alone(
    make_module: MakeModule, secured: Callable[..., Settings], issuer: Issuer
) -> None:
    module = make_module(enable_controller=True, settings=secured())
    running, go_on = asyncio.Event(), asyncio.Event()

    async def look() -> Any:
        @module.task("long")
        async def long(event: TaskQueueEvent) -> None:
            running.set()
            await go_on.wait()

        other = await module.task_service.create_task(tenant_code="other", task_type="long")
        async with module.worker() as worker:
            working = asyncio.create_task(worker.run())
            await running.wait()
            async with caller(module.asgi_app(), issuer.token(roles=("admin",))) as client:
                answer = await client.get("/queues")
            go_on.set()
            worker.stop()
            await working
        return answer, other.code

    answer, code = asyncio.run(look())
    assert len(answer.json()["workers"]) == 1
    assert code not in answer.text


def test_pausing_a_type_is_for_who_may_choose_a_tenant(
    make_module: MakeModule, secured: Callable[..., Settings], issuer: Issuer
) -> None:
    module = make_module(enable_controller=True, settings=secured())

    async def pause(*roles: str) -> list[int]:
        async with caller(module.asgi_app(), issuer.token(roles=roles)) as client:
            paused = await client.post("/queues/pause", json={"taskType": "cat", "reason": "ill"})
            resumed = await client.post("/queues/resume", json={"taskType": "cat"})
        return [paused.status_code, resumed.status_code]

    assert asyncio.run(pause("admin")) == [403, 403]
    assert asyncio.run(pause("admin", "support")) == [204, 200]


def test_who_called_is_kept_with_the_task(
    make_module: MakeModule, secured: Callable[..., Settings], issuer: Issuer
) -> None:
    module = make_module(enable_controller=True, settings=secured())

    async def create() -> Any:
        async with caller(module.asgi_app(), issuer.token(roles=("operator",)), x_request_id="req-7") as client:
            path = (await client.post("/tasks", json={"taskType": "cat"})).headers["location"]
            return (await client.post(path + "/cancel")).json()

    task = asyncio.run(create())
    assert (task["tenantCode"], task["createdBy"], task["createdIp"], task["requestId"]) == (
        "mbc", "mari", "127.0.0.1", "req-7",
    )  # fmt: skip
    assert task["history"][-1]["by"] == "mari"


def test_readiness_follows_the_storage(make_module: MakeModule, tmp_path: Path) -> None:
    module = make_module(settings=Settings(database=tmp_path / "missing" / "tasks.db"))

    async def statuses() -> list[int]:
        async with caller(module.asgi_app()) as client:
            return [(await client.get(path)).status_code for path in ("/healthz", "/readyz")]

    assert asyncio.run(statuses()) == [200, 503]
