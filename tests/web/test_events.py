"""Live updates: what a stream says, that nothing is left out, and that nobody hears too much."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import httpx
import pytest

from taskloom import TaskKey, TaskModule, TaskQueueEvent
from taskloom.clock import SystemClock
from taskloom.web import events, watching
from taskloom.web.events import Position
from tests.conftest import MakeModule
from tests.support.clock import FakeClock
from tests.surface.running import drained
from tests.web.calling import Stream, caller, streaming
from tests.web.serving import served

PATIENCE = 30.0


def address(key: TaskKey, below: str = "/events") -> str:
    return f"/tasks/{key.pk}/{key.sk}{below}".replace("#", "%23")


def said(text: str) -> list[tuple[str, str, Any]]:
    """The events of a stream: name, id, data."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.partition(": ")[::2] for line in block.splitlines() if not line.startswith(":"))
        if "event" in fields:
            found.append((fields["event"], fields["id"], json.loads(fields["data"])))
    return found


def names(text: str) -> list[str]:
    return [name for name, _, _ in said(text)]


async def tick(clock: FakeClock, stream: Stream, text: str, times: int = 1) -> str:
    """Let time go on until the stream says *text*."""
    async with asyncio.timeout(PATIENCE):
        while stream.text.count(text) < times:
            clock.advance(0.25)
            await others()
    return stream.text


async def others() -> None:
    """Let the server do something."""
    clock = SystemClock()
    await clock.wait(asyncio.Event(), clock.now() + timedelta(milliseconds=10))


def with_cat(module: TaskModule) -> TaskModule:
    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> str:
        for number in range(3):
            event.log.info("bowl %d", number)
        return "fed"

    return module


def test_an_ended_task_is_told_whole(make_module: MakeModule) -> None:
    module = with_cat(make_module(enable_controller=True))

    async def listen() -> tuple[str, TaskKey]:
        task = await module.task_service.create_task(tenant_code="mbc", task_type="cat")
        await drained(module)
        async with caller(module.asgi_app()) as client:
            response = await client.get(address(task.key))
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        return response.text, task.key

    text, key = asyncio.run(listen())
    told = said(text)
    assert [name for name, _, _ in told] == ["status"] * 3 + ["log"] * 3 + ["task", "end"]
    assert [data["status"] for name, _, data in told if name == "status"] == ["PENDING", "IN_PROGRESS", "COMPLETED"]
    assert [data["message"] for name, _, data in told if name == "log"] == ["bowl 0", "bowl 1", "bowl 2"]
    (snapshot,) = [data for name, _, data in told if name == "task"]
    assert snapshot["id"] == key.id
    assert "input" not in snapshot
    assert "history" not in snapshot


def test_resuming_anywhere_leaves_no_gap_and_repeats_nothing(make_module: MakeModule) -> None:
    """Broken off behind any event, the stream goes on with the next one."""
    module = with_cat(make_module(enable_controller=True))

    async def listen() -> None:
        task = await module.task_service.create_task(tenant_code="mbc", task_type="cat")
        await drained(module)
        async with caller(module.asgi_app()) as client:
            whole = said((await client.get(address(task.key))).text)
            for number, (name, id, _) in enumerate(whole):
                rest = await client.get(address(task.key), headers={"Last-Event-ID": id})
                if name in ("task", "end"):
                    assert rest.status_code == 204  # do not come again
                else:
                    assert said(rest.text) == whole[number + 1 :]

    asyncio.run(listen())


def test_a_running_task_is_told_live_over_a_real_connection(make_module: MakeModule) -> None:
    """Status, progress and log lines reach a browser while the handler runs; broken off, it goes on where it was."""
    module = make_module(enable_controller=True)
    go_on = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> str:
        loops.append(asyncio.get_running_loop())
        event.progress(1, 2, "half of it")
        event.log.info("first")
        await go_on.wait()
        event.log.info("second")
        return "fed"

    async def listen(base_url: str) -> list[tuple[str, str, Any]]:
        async with httpx.AsyncClient(base_url=base_url, timeout=PATIENCE) as client:
            created = await client.post("/tasks", json={"tenantCode": "mbc", "taskType": "cat"})
            path = created.headers["location"] + "/events"
            text, last = "", ""
            async with client.stream("GET", path) as response:
                async for line in response.aiter_lines():
                    text += line + "\n"
                    if '"message":"first"' in text and '"message":"half of it"' in text and not line:
                        break
            last = said(text)[-1][1]
            loops[0].call_soon_threadsafe(go_on.set)
            rest = await client.get(path, headers={"Last-Event-ID": last})
            return said(text) + said(rest.text)

    with served(module, worker=True) as base_url:
        told = asyncio.run(listen(base_url))
    assert [data["status"] for name, _, data in told if name == "status"] == ["PENDING", "IN_PROGRESS", "COMPLETED"]
    assert [data["message"] for name, _, data in told if name == "log"] == ["first", "second"]
    progress = [data["progress"]["message"] for name, _, data in told if name == "task" and "progress" in data]
    assert progress[0] == "half of it"
    assert told[-1][0] == "end"
    assert told[-1][2] == {"status": "COMPLETED"}


def test_a_silent_stream_beats(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(enable_controller=True, clock=clock)

    async def listen() -> str:
        task = await module.task_service.create_task(tenant_code="mbc", task_type="cat")
        async with streaming(module.asgi_app(), address(task.key)) as stream:
            await stream.says("event: task")
            began = clock.now()
            text = await tick(clock, stream, ": heartbeat")
            assert (clock.now() - began).total_seconds() <= 16
            return text

    assert names(asyncio.run(listen())) == ["status", "task"]


def test_no_more_than_four_updates_a_second_reach_anybody(make_module: MakeModule, clock: FakeClock) -> None:
    """However often the task changes. The last state always comes."""
    module = make_module(enable_controller=True, clock=clock)
    service = module.task_service

    async def listen() -> tuple[str, int]:
        task = await service.create_task(tenant_code="mbc", task_type="cat")
        async with streaming(module.asgi_app(), address(task.key)) as stream:
            await stream.says("event: task")
            for _ in range(20):  # within one second it changes forty times
                await service.cancel_task(task.key)
                await service.retry_task(task.key, only_failed=False)
                clock.advance(0.05)
                await others()
            during = stream.text.count("event: task")
            version = (await service.get_task(task.key)).version
            text = await tick(clock, stream, f'"version":{version},')
            return text, during

    text, during = asyncio.run(listen())
    assert during <= 1 + 4
    assert names(text).count("status") == 41


def test_a_tenants_list_is_told_live(make_module: MakeModule, clock: FakeClock) -> None:
    module = with_cat(make_module(enable_controller=True, clock=clock))
    service = module.task_service

    async def listen() -> tuple[list[tuple[str, str, Any]], list[str]]:
        first = await service.create_task(tenant_code="mbc", task_type="cat")
        await service.create_task(tenant_code="other", task_type="cat")
        async with streaming(module.asgi_app(), "/tasks/mbc/events?limit=2") as stream:
            await stream.says("event: task")
            second = await service.create_task(tenant_code="mbc", task_type="cat")
            await tick(clock, stream, "event: page", 2)
            await service.cancel_task(first.key)
            await tick(clock, stream, "CANCELLED")
            third = await service.create_task(tenant_code="mbc", task_type="cat")
            await tick(clock, stream, "event: page", 3)
            await tick(clock, stream, third.id, 2)
            return said(stream.text), [first.id, second.id, third.id]

    told, (first, second, third) = asyncio.run(listen())
    assert [data["tasks"] for name, _, data in told if name == "page"] == [[first], [second, first], [third, second]]
    changes = [(data["id"], data["status"]) for name, _, data in told if name == "task"]
    assert changes == [(first, "PENDING"), (second, "PENDING"), (first, "CANCELLED"), (third, "PENDING")]
    assert "other" not in json.dumps(told)


def test_a_list_goes_on_behind_the_last_event(make_module: MakeModule, clock: FakeClock) -> None:
    """What changed since comes; what did not change for long does not come again."""
    module = make_module(enable_controller=True, clock=clock)
    service = module.task_service

    async def listen() -> tuple[list[tuple[str, str, Any]], str]:
        app = module.asgi_app()
        old = await service.create_task(tenant_code="mbc", task_type="cat")
        clock.advance(60)
        await service.create_task(tenant_code="mbc", task_type="cat")
        async with streaming(app, "/tasks/mbc/events") as stream:
            await stream.says("event: task", 2)
            last = said(stream.text)[-1][1]
        clock.advance(60)
        await service.cancel_task(old.key)
        async with streaming(app, "/tasks/mbc/events", last_event_id=last) as stream:
            await stream.says(old.id, 2)
            return said(stream.text), old.id

    told, old = asyncio.run(listen())
    assert [(data["id"], data["status"]) for name, _, data in told if name == "task" and data["id"] == old] == [
        (old, "CANCELLED")
    ]


def test_streams_end_after_a_while(make_module: MakeModule, clock: FakeClock) -> None:
    """So that a token is looked at again."""
    module = make_module(enable_controller=True, clock=clock)

    async def listen() -> None:
        task = await module.task_service.create_task(tenant_code="mbc", task_type="cat")
        async with streaming(module.asgi_app(), address(task.key)) as stream:
            await stream.says("event: task")
            clock.advance(events.LONGEST.total_seconds())
            await stream.ended()

    asyncio.run(listen())


def test_the_server_ends_streams_when_it_is_asked_to_stop(make_module: MakeModule) -> None:
    module = make_module(enable_controller=True)

    async def listen() -> int:
        app: Any = module.asgi_app()
        task = await module.task_service.create_task(tenant_code="mbc", task_type="cat")
        async with streaming(app, address(task.key)) as stream:
            await stream.says("event: task")
            app.state.web.hub.close()
            await stream.ended()
        async with caller(app) as client:
            return (await client.get(address(task.key))).status_code

    assert asyncio.run(listen()) == 503


def test_there_is_a_limit_of_streams(make_module: MakeModule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_STREAMS", 1)
    module = make_module(enable_controller=True)

    async def listen() -> httpx.Response:
        app = module.asgi_app()
        task = await module.task_service.create_task(tenant_code="mbc", task_type="cat")
        async with streaming(app, address(task.key)) as stream:
            await stream.says("event: task")
            async with caller(app) as client:
                refused = await client.get(address(task.key))
        async with streaming(app, address(task.key)) as stream:  # the first one has ended
            await stream.says("event: task")
        return refused

    refused = asyncio.run(listen())
    assert refused.status_code == 503
    assert "retry-after" in refused.headers


def test_many_streams_of_a_task_read_it_once(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(enable_controller=True, clock=clock)

    async def listen() -> int:
        app: Any = module.asgi_app()
        task = await module.task_service.create_task(tenant_code="mbc", task_type="cat")
        async with streaming(app, address(task.key)) as one, streaming(app, address(task.key)) as other:
            await one.says("event: task")
            await other.says("event: task")
            count: int = app.state.web.hub.count
        assert app.state.web.hub.count == 0
        assert app.state.web.hub.streams == 0
        return count

    assert asyncio.run(listen()) == 1


def test_more_lines_than_are_shared_still_all_come(make_module: MakeModule) -> None:
    module = make_module(enable_controller=True)
    count = watching.LINES_KEPT * 3

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        for number in range(count):
            event.log.info("line %d", number)

    async def listen() -> str:
        task = await module.task_service.create_task(tenant_code="mbc", task_type="cat")
        await drained(module)
        async with caller(module.asgi_app()) as client:
            return (await client.get(address(task.key))).text

    lines = [data["message"] for name, _, data in said(asyncio.run(listen())) if name == "log"]
    assert lines == [f"line {number}" for number in range(count)]


@pytest.mark.parametrize("text", ["", "x", "1", "1.2.3", "-1.0", "9.3.1.1.0", "٣.1", "1.2.3.4.5.6", "1" * 40])
def test_a_position_is_read_or_is_the_beginning(text: str) -> None:
    position = Position.parse(text)
    assert position == Position() or str(position) == text


def test_an_unknown_task_is_not_streamed(make_module: MakeModule) -> None:
    module = make_module(enable_controller=True)

    async def status() -> int:
        async with caller(module.asgi_app()) as client:
            return (await client.get(address(TaskKey.single("mbc", "cat", "01ARZ3NDEKTSV4RRFFQ69G5FAV")))).status_code

    assert asyncio.run(status()) == 404


def test_all_streams_together_hear_so_much_that_a_worker_beside_them_has_time(make_module: MakeModule) -> None:
    app: Any = make_module(enable_controller=True).asgi_app()
    hub = app.state.web.hub
    assert hub.soonest == timedelta(milliseconds=250)
    hub.streams = 500
    assert hub.soonest == timedelta(seconds=1)


def test_how_a_task_stands_is_put_into_words_once_for_all_streams(make_module: MakeModule) -> None:
    module = with_cat(make_module(enable_controller=True))
    app: Any = module.asgi_app()
    service = module.sync.task_service
    task = service.create_task(tenant_code="mbc", task_type="cat")
    watch = watching.TaskWatch(app.state.web.hub, task.key)
    text = watch.text_of(task)
    assert watch.text_of(service.get_task(task.key)) is text
    assert json.loads(watch.text_of(service.cancel_task(task.key)))["status"] == "CANCELLED"
