"""Webhooks, by a real HTTP server on the loopback."""

import asyncio
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from taskloom import NewTask, Retry, Settings, StepFunctionTaskEvent, TaskModule, TaskQueueEvent, TaskStatus, Webhook
from taskloom.errors import InvalidInput, WiringError
from tests.support.clock import FakeClock
from tests.support.receiver import PATIENCE, SECRET, Receiver, closed_port
from tests.surface.running import MakeModule, until, within_patience


def make(make_module: MakeModule, clock: FakeClock, database: Path, *webhooks: Webhook, **options: Any) -> TaskModule:
    """A module with a handler, which may post to the loopback."""
    options = {"database": database, "webhook_secret": SECRET, "webhook_private_addresses": True, **options}
    module = make_module(clock=clock, settings=Settings(**options), webhooks=webhooks)

    @module.task("job")
    async def job(event: TaskQueueEvent[Any]) -> Any:
        if event.task.input == "fail":
            raise ValueError("no")
        return event.task.input

    @module.step_function_task("job")
    async def jobs(event: StepFunctionTaskEvent[Any]) -> Any:
        return event.task.input

    return module


async def posted(module: TaskModule, receiver: Receiver, count: int, **task: Any) -> list[dict[str, Any]]:
    """What the receiver gets of one task while a worker runs."""
    async with module.worker() as worker:
        await module.task_service.create_task(tenant_code="acme", task_type="job", **task)
        await worker.drain()
        found = await asyncio.to_thread(receiver.received, count)
        await until(lambda: _is_delivered(module))
    return [item.message() for item in found]


async def _is_delivered(module: TaskModule) -> bool:
    return not await module.task_service.webhooks.deliveries(failed=False)


def statuses(messages: list[dict[str, Any]]) -> list[str]:
    return sorted(message["content"]["status"] for message in messages)


# --- what is posted ---------------------------------------------------------------------------------------------------


def test_a_webhook_of_the_module_gets_every_change(make_module: MakeModule, clock: FakeClock, database: Path) -> None:
    with Receiver() as receiver:
        module = make(make_module, clock, database, Webhook(receiver.url, SECRET))
        told = asyncio.run(posted(module, receiver, 3, input={"ä": 1}))
        assert statuses(told) == ["COMPLETED", "IN_PROGRESS", "PENDING"]
        (end,) = [message for message in told if message["content"]["status"] == "COMPLETED"]
        assert end["content"]["attributes"] == {"result": [[{"ä": 1}]]}
        assert end["action"] == "task-status"
        for item in receiver.posted:
            assert item.path == "/hook"
            assert item.headers["Content-Type"] == "application/json"
            assert item.headers["Host"] == f"127.0.0.1:{receiver.port}"
            assert item.headers["Taskloom-Event-Id"] == item.message()["eventId"]
            assert item.headers["Taskloom-Attempt"] == "1"
            assert item.headers["User-Agent"].startswith("taskloom/")


def test_filters_and_alarms(make_module: MakeModule, clock: FakeClock, database: Path) -> None:
    with Receiver() as ends, Receiver() as alarms, Receiver() as others:
        module = make(
            make_module,
            clock,
            database,
            Webhook(ends.url, statuses=[TaskStatus.FAILED, "COMPLETED"], task_types=["job"]),
            Webhook(alarms.url, action="sfn-alarm"),
            Webhook(others.url, task_types=["other"]),
        )
        told = asyncio.run(posted(module, ends, 1, input="fail"))
        assert statuses(told) == ["FAILED"]
        (alarm,) = [item.message() for item in alarms.received(1)]
        assert (alarm["action"], alarm["content"]) == ("sfn-alarm", {"errorMessage": "no"})
        assert not others.posted


def test_the_address_of_a_task_gets_what_happens_to_it_alone(
    make_module: MakeModule, clock: FakeClock, database: Path
) -> None:
    """Of single tasks, of fan-outs without their sub-tasks, of many at once, and with an idempotency key."""
    with Receiver() as receiver:
        module = make(make_module, clock, database)
        service = module.task_service
        url = f"{receiver.url}?who=me"

        async def main() -> None:
            await service.create_task(tenant_code="acme", task_type="job")
            made = [
                await service.create_task(tenant_code="acme", task_type="job", notify_url=url, idempotency_key="k"),
                await service.create_step_function_task(
                    tenant_code="acme", task_type="job", input=[1, 2], notify_url=url
                ),
                *await service.create_tasks([NewTask(tenant_code="acme", task_type="job", notify_url=url)]),
            ]
            assert made[0].options.notify_url == url
            async with module.worker() as worker:
                await worker.drain()
                found = await asyncio.to_thread(receiver.received, 9)
                await until(lambda: _is_delivered(module))
            told = [item.message() for item in found]
            assert {item.path for item in found} == {"/hook?who=me"}
            for task in made:
                own = [message for message in told if message["id"] == task.id]
                assert statuses(own) == ["COMPLETED", "IN_PROGRESS", "PENDING"]

        asyncio.run(main())


def test_decorated_functions_take_an_address_too(make_module: MakeModule, clock: FakeClock, database: Path) -> None:
    with Receiver() as receiver:
        module = make(make_module, clock, database)

        @module.task("mine")
        def mine(event: TaskQueueEvent[Any]) -> None:
            pass

        @module.step_function_task("mine")
        def ours(event: StepFunctionTaskEvent[Any]) -> None:
            pass

        async def main() -> None:
            first = await mine.create(tenant_code="acme", notify_url=receiver.url)
            second = await ours.create(tenant_code="acme", input=[], notify_url=receiver.url)
            async with module.worker():
                found = await asyncio.to_thread(receiver.received, 6)
            assert {item.message()["id"] for item in found} == {first.id, second.id}

        asyncio.run(main())


def test_what_happened_while_no_worker_ran_is_posted_by_the_next(
    make_module: MakeModule, clock: FakeClock, database: Path
) -> None:
    """Also what a process did that does not know the webhook."""
    with Receiver() as receiver:
        module = make(make_module, clock, database, Webhook(receiver.url, SECRET))

        async def main() -> None:
            task = await module.task_service.create_task(tenant_code="acme", task_type="job")
            stranger = make_module(clock=clock)
            await stranger.task_service.cancel_task(task.key)
            async with module.worker():
                told = [item.message() for item in await asyncio.to_thread(receiver.received, 2)]
                assert statuses(told) == ["CANCELLED", "PENDING"]
                await until(lambda: _is_delivered(module))

        asyncio.run(main())


# --- what is refused --------------------------------------------------------------------------------------------------


def test_an_address_without_a_secret_is_refused(make_module: MakeModule, clock: FakeClock, database: Path) -> None:
    module = make(make_module, clock, database, webhook_secret=None)

    async def main() -> None:
        with pytest.raises(InvalidInput, match="webhook_secret") as refused:
            await module.task_service.create_task(tenant_code="a", task_type="job", notify_url="https://example.com/")
        assert refused.value.field == "notify_url"
        new = NewTask(tenant_code="a", task_type="job", notify_url="https://example.com/")
        with pytest.raises(InvalidInput) as refused:
            await module.task_service.create_tasks([new])
        assert refused.value.field == "tasks[0].notify_url"
        assert not (await module.task_service.list_tasks("a")).items

    asyncio.run(main())
    with pytest.raises(InvalidInput, match="secret"):
        make(make_module, clock, database, Webhook("https://example.com/"), webhook_secret=None)


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "http://user:pw@example.com/", "ftp://example.com/", "x", 7])
def test_bad_addresses_are_refused_before_anything_is_created(
    make_module: MakeModule, clock: FakeClock, database: Path, url: Any
) -> None:
    module = make(make_module, clock, database, webhook_private_addresses=False)

    async def main() -> None:
        with pytest.raises(InvalidInput) as refused:
            await module.task_service.create_task(tenant_code="acme", task_type="job", notify_url=url)
        assert refused.value.field == "notify_url"
        with pytest.raises(InvalidInput):
            await module.task_service.create_step_function_task(
                tenant_code="acme", task_type="job", input=[1], notify_url=url
            )
        assert not (await module.task_service.list_tasks("acme")).items

    asyncio.run(main())


def test_webhooks_of_a_module_are_checked_when_it_is_registered(
    make_module: MakeModule, clock: FakeClock, database: Path
) -> None:
    hook = Webhook("https://example.com/", SECRET)
    with pytest.raises(InvalidInput, match="two of them"):
        make(make_module, clock, database, hook, hook)
    with pytest.raises(InvalidInput, match="private"):
        make(make_module, clock, database, Webhook("http://10.0.0.1/", SECRET), webhook_private_addresses=False)
    with pytest.raises(InvalidInput, match="addresses of tasks"):
        make(make_module, clock, database, Webhook("https://example.com/", SECRET, name="notify_url"))
    with pytest.raises(WiringError, match="no Webhook"):
        make(make_module, clock, database, "https://example.com/")  # type: ignore[arg-type]
    with pytest.raises(WiringError, match="no list"):
        TaskModule.register(webhooks="https://example.com/")  # type: ignore[arg-type]


def test_a_private_address_behind_a_name_is_given_up_at_once(
    make_module: MakeModule, clock: FakeClock, database: Path
) -> None:
    """`localhost` is a name, so it shows only when it is resolved; nothing is ever sent."""
    with Receiver() as receiver:
        url = f"http://localhost:{receiver.port}/"
        module = make(make_module, clock, database, webhook_private_addresses=False)
        asyncio.run(_given_up(module, url, 3))
        found = asyncio.run(module.task_service.webhooks.deliveries())
        assert {notice.failures for notice in found} == {1}
        assert all("no public address" in (notice.reason or "") for notice in found)
        assert not receiver.posted


async def _given_up(module: TaskModule, url: str, count: int) -> None:
    async def all_given_up() -> bool:
        return len(await module.task_service.webhooks.deliveries()) == count

    await module.task_service.create_task(tenant_code="acme", task_type="job", notify_url=url)
    async with module.worker():
        await until(all_given_up)


# --- receivers that fail ----------------------------------------------------------------------------------------------


def redirect(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(307)
    handler.send_header("Location", "/elsewhere")
    handler.end_headers()


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.close()


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(500)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"x" * 65536)
    except OSError:
        return


def no_http(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"SMTP? " * 10 + b"\r\n")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (500, "the receiver answered 500"),
        (404, "the receiver answered 404"),
        (redirect, "redirects are not followed"),
        (hang_up, "RemoteDisconnected"),
        (endless, "the receiver answered 500: xxx"),
        (no_http, "BadStatusLine"),
    ],
)
def test_a_failed_delivery_is_tried_again_given_up_and_replayed(
    make_module: MakeModule, clock: FakeClock, database: Path, answer: Any, reason: str
) -> None:
    """With the same event id each time, and signed anew; nothing else is asked for."""
    retry = Retry(max_attempts=2, initial=60, jitter=False)
    with Receiver([answer, answer]) as receiver:
        hook = Webhook(receiver.url, SECRET, name="shop", statuses=["COMPLETED"], retry=retry)
        module = make(make_module, clock, database, hook)
        webhooks = module.task_service.webhooks

        async def has(failures: int, *, failed: bool) -> bool:
            return [item.failures for item in await webhooks.deliveries(failed=failed)] == [failures]

        async def main() -> None:
            async with module.worker() as worker:
                await module.task_service.create_task(tenant_code="acme", task_type="job")
                await worker.drain()
                await until(lambda: has(1, failed=False))
                clock.advance(60)
                await until(lambda: has(2, failed=True))
                (notice,) = await webhooks.deliveries(listener="shop")
                assert reason in (notice.reason or "")
                assert await webhooks.replay() == 1
                await asyncio.to_thread(receiver.received, 3)
                await until(lambda: _is_delivered(module))

        asyncio.run(main())
        assert [item.headers["Taskloom-Attempt"] for item in receiver.posted] == ["1", "2", "1"]
        assert len({item.message()["eventId"] for item in receiver.posted}) == 1
        assert len({item.headers["Taskloom-Signature"] for item in receiver.posted}) == 2
        assert {item.path for item in receiver.posted} == {"/hook"}


def test_nobody_listens(make_module: MakeModule, clock: FakeClock, database: Path) -> None:
    hook = Webhook(f"http://127.0.0.1:{closed_port()}/", SECRET, retry=Retry(max_attempts=1))
    module = make(make_module, clock, database, hook)

    async def main() -> None:
        async with module.worker() as worker:
            await module.task_service.create_task(tenant_code="acme", task_type="job")
            await worker.drain()
            await until(lambda: _all_given_up(module, 3))
        for notice in await module.task_service.webhooks.deliveries():
            assert "ConnectionRefusedError" in (notice.reason or "")

    asyncio.run(main())


async def _all_given_up(module: TaskModule, count: int) -> bool:
    return len(await module.task_service.webhooks.deliveries()) == count


def test_a_receiver_that_hangs_holds_up_nobody(make_module: MakeModule, clock: FakeClock, database: Path) -> None:
    """Neither tasks nor other receivers; its delivery fails when the time is over, and its thread comes back."""
    released, entered = threading.Event(), threading.Event()

    def hang(handler: BaseHTTPRequestHandler) -> None:
        entered.set()
        released.wait(PATIENCE)

    with Receiver([hang]) as slow, Receiver() as receiver:
        retry = Retry(max_attempts=1)
        hanging = Webhook(slow.url, SECRET, name="slow", statuses=["COMPLETED"], retry=retry)
        module = make(make_module, clock, database, hanging, Webhook(receiver.url, SECRET))

        async def main() -> None:
            async with module.worker() as worker:
                service = module.task_service
                await service.create_task(tenant_code="acme", task_type="job")
                assert await asyncio.to_thread(entered.wait, PATIENCE)
                task = await service.create_task(tenant_code="acme", task_type="job")
                assert (await within_patience(service.wait(task.key))).status == "COMPLETED"
                await worker.drain()
                await asyncio.to_thread(receiver.received, 6)
                await asyncio.to_thread(slow.received, 2)
                while not await _all_given_up(module, 1):
                    clock.advance(15)
                (notice,) = await service.webhooks.deliveries()
                assert notice.reason == "TimeoutError: it did not end within 15 s"

        asyncio.run(main())
        released.set()


def test_the_hanging_receiver_of_one_task_holds_up_no_other(
    make_module: MakeModule, clock: FakeClock, database: Path
) -> None:
    """More of its notices than are posted at a time: once the first ones fail the others do at once, for a while."""
    released = threading.Event()

    def hang(handler: BaseHTTPRequestHandler) -> None:
        released.wait(PATIENCE)

    with Receiver([hang] * 8) as slow, Receiver() as receiver:
        module = make(make_module, clock, database)

        async def main() -> None:
            create = module.task_service.create_task
            for _ in range(20):
                await create(tenant_code="acme", task_type="other", notify_url=slow.url)
            await create(tenant_code="acme", task_type="other", notify_url=receiver.url)
            async with module.worker():
                await asyncio.to_thread(slow.received, 8)
                assert not receiver.posted
                clock.advance(15)
                await asyncio.to_thread(receiver.received, 1)
                await until(lambda: _were_not_tried(module, 12))
                assert len(slow.posted) == 8
                released.set()

        asyncio.run(main())


async def _were_not_tried(module: TaskModule, count: int) -> bool:
    waiting = await module.task_service.webhooks.deliveries(failed=False)
    return Counter("it was not tried" in (notice.reason or "") for notice in waiting)[True] == count


def test_forgetting_a_listener(make_module: MakeModule, clock: FakeClock, database: Path) -> None:
    hook = Webhook(f"http://127.0.0.1:{closed_port()}/", SECRET, name="shop")
    module = make(make_module, clock, database, hook)

    async def main() -> None:
        webhooks = module.task_service.webhooks
        await module.task_service.create_task(tenant_code="acme", task_type="job")
        (listener,) = await webhooks.listeners()
        assert (listener.name, listener.waiting, listener.given_up) == ("shop", 1, 0)
        assert await webhooks.forget("shop")
        assert not await webhooks.forget("shop")
        assert not await webhooks.listeners()
        with pytest.raises(InvalidInput):
            await webhooks.replay(7)

    asyncio.run(main())


def test_the_blocking_twin(make_module: MakeModule, clock: FakeClock, database: Path) -> None:
    hook = Webhook(f"http://127.0.0.1:{closed_port()}/", SECRET, name="shop")
    module = make(make_module, clock, database, hook)
    webhooks = module.sync.task_service.webhooks
    module.sync.task_service.create_task(tenant_code="acme", task_type="job", notify_url="https://example.com/")
    assert [item.name for item in webhooks.listeners()] == ["notify_url", "shop"]
    assert [item.listener for item in webhooks.iter_deliveries(failed=False)] == ["notify_url", "shop"]
    assert len(webhooks.deliveries(listener="shop", failed=False)) == 1
    assert webhooks.replay() == 0
    assert webhooks.forget("shop")
