"""The client: the methods of `TaskService`, carried out by a server, with the same answers and errors."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from taskloom import NewTask, Retry, Settings, TaskKey, TaskModule, TaskQueueEvent, TaskService, TaskStatus
from taskloom.client import SyncTaskloomClient, TaskloomClient
from taskloom.client.blocking import SyncRemoteFanOuts, SyncRemoteQueues, SyncRemoteWebhooks
from taskloom.client.fan_outs import RemoteFanOuts
from taskloom.client.queues import RemoteQueues
from taskloom.client.webhooks import RemoteWebhooks
from taskloom.errors import (
    CallbackFailed,
    IdempotencyConflict,
    InvalidInput,
    InvalidType,
    NotAuthenticated,
    NotPermitted,
    ServerUnreachable,
    StoreBusy,
    TaskEnded,
    TaskExpired,
    TaskloomError,
    TaskNotFound,
    TaskOpen,
    TaskTokenNotFound,
    TaskTokenUsed,
)
from taskloom.operations.fan_outs import FanOuts
from taskloom.operations.queues import Queues
from taskloom.operations.webhooks import Webhooks
from taskloom.sync import SyncFanOuts, SyncQueues, SyncTaskService, SyncWebhooks
from tests.cli.test_steering import bury
from tests.conftest import MakeModule
from tests.support.clock import FakeClock
from tests.support.receiver import SECRET, closed_port
from tests.surface.running import drained, within_patience
from tests.web.calling import HERE
from tests.web.serving import served
from tests.web.tokens import Issuer

MISSING = TaskKey.single("mbc", "cat", "01ARZ3NDEKTSV4RRFFQ69G5FAV")


TOKENS: dict[str, str] = {}
"""What tasks wait for, by their codes."""


def methods(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(value) for name, value in inspect.getmembers(kind, callable) if not name.startswith("_")
    }


@pytest.mark.parametrize(
    ("remote", "local"),
    [(TaskloomClient, TaskService), (RemoteQueues, Queues), (RemoteWebhooks, Webhooks), (RemoteFanOuts, FanOuts)],
)
def test_the_client_has_the_methods_of_the_service(remote: type, local: type) -> None:
    """With the same parameters, so that one can stand for the other."""
    found = {name: list(signature.parameters.values()) for name, signature in methods(remote).items()}
    for name, signature in methods(local).items():
        assert [(item.name, item.kind, item.default) for item in found[name]] == [
            (item.name, item.kind, item.default) for item in signature.parameters.values()
        ]


@pytest.mark.parametrize(
    ("remote", "local"),
    [
        (SyncTaskloomClient, SyncTaskService),
        (SyncRemoteQueues, SyncQueues),
        (SyncRemoteWebhooks, SyncWebhooks),
        (SyncRemoteFanOuts, SyncFanOuts),
    ],
)
def test_the_blocking_client_has_them_too(remote: type, local: type) -> None:
    assert set(methods(local)) <= set(methods(remote))


def with_cat(module: TaskModule) -> TaskModule:
    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> str:
        event.log.info("feeding", extra={"bowl": 1})
        if event.task.input is None:
            raise ValueError("no name")
        return f"fed {event.task.input['name']}"

    @module.task("ask")
    async def ask(event: TaskQueueEvent) -> Any:
        token = await event.callback("answer")
        TOKENS[event.task.code] = token
        try:
            return await event.wait_for(token)
        except CallbackFailed as error:
            return f"failed: {error.error}"

    @module.step_function_task("cats")
    async def cats(event: Any) -> Any:
        return event.task.input

    return module


Ask = Callable[[TaskloomClient, TaskModule], Coroutine[Any, Any, Any]]


@pytest.fixture
def ask(make_module: MakeModule) -> Callable[[Ask], Any]:
    def run(question: Ask) -> Any:
        module = with_cat(make_module(enable_controller=True))

        async def asking() -> Any:
            transport = httpx.ASGITransport(module.asgi_app())
            async with TaskloomClient(HERE, transport=transport) as client:
                return await question(client, module)

        return asyncio.run(asking())

    return run


def test_tasks_come_back_as_the_service_would_give_them(ask: Callable[[Ask], Any]) -> None:
    async def question(client: TaskloomClient, module: TaskModule) -> None:
        service = module.task_service
        one = await client.create_task(
            tenant_code="mbc", task_type="cat", input={"name": "Tama"}, name="supper", retry=Retry(max_attempts=2),
            deadline=60, idempotency_key="k 猫", priority=8,
        )  # fmt: skip
        assert one == await service.get_task(one.key)
        again = await client.create_task(
            tenant_code="mbc", task_type="cat", input={"name": "Tama"}, name="supper", idempotency_key="k 猫"
        )
        assert again.key == one.key
        many = await client.create_step_function_task(
            tenant_code="mbc", task_type="cats", input=({"n": n} for n in range(3)), retry=Retry(max_attempts=2)
        )
        assert many == await service.get_task(many.key)
        await drained(module)
        for key in (one.key, many.key):
            assert await client.get_task(key) == await service.get_task(key)
            assert await client.wait(key, timeout=5) == await service.get_task(key)
            assert await client.explain(key) == await service.explain(key)
        assert await client.find_task("mbc", one.code) == await service.get_task(one.key)
        mine = [task async for task in client.iter_sub_tasks(many.key)]
        assert mine == [task async for task in service.iter_sub_tasks(many.key)]
        assert [task async for task in client.iter_tasks("mbc")] == [task async for task in service.iter_tasks("mbc")]
        listed = await client.list_tasks("mbc", type="SFN_TASK", status="COMPLETED", limit=1)
        assert [task.key for task in listed.items] == [many.key]
        lines = [line async for line in client.follow_logs(one.key)]
        assert lines == list((await service.logs(one.key)).items)
        page = await client.logs(one.key)
        assert (await client.logs(one.key, after=page.cursor)).items == []

    ask(question)


def test_many_tasks_are_created_in_order(ask: Callable[[Ask], Any]) -> None:
    async def question(client: TaskloomClient, module: TaskModule) -> None:
        news = [NewTask(tenant_code="mbc", task_type="cat", input=number) for number in range(20)]
        made = await client.create_tasks(news)
        assert [task.input for task in made] == list(range(20))
        with pytest.raises(InvalidInput, match=r"tasks\[1\]\.input\.a"):
            await client.create_tasks([news[0], NewTask(tenant_code="mbc", task_type="x", input={"a": float("nan")})])
        with pytest.raises(InvalidInput, match=r"tasks\[0\]\.taskType"):
            await client.create_tasks([NewTask(tenant_code="mbc", task_type="no type")])
        assert len([task async for task in module.task_service.iter_tasks("mbc")]) == 20

    ask(question)


def test_cancel_and_retry(ask: Callable[[Ask], Any]) -> None:
    async def question(client: TaskloomClient, module: TaskModule) -> None:
        one = await client.create_task(tenant_code="mbc", task_type="cat")
        with pytest.raises(TaskOpen, match=one.id):
            await client.retry_task(one.key)
        cancelled = await client.cancel_task(one.key, reason="no hunger")
        assert cancelled.status is TaskStatus.CANCELLED
        with pytest.raises(TaskEnded) as ended:
            await client.cancel_task(one.key)
        assert (ended.value.task, ended.value.status) == (one.id, "CANCELLED")
        assert (await client.retry_task(one.key)).run == 2

    ask(question)


def test_errors_are_those_of_the_service(ask: Callable[[Ask], Any]) -> None:
    async def question(client: TaskloomClient, module: TaskModule) -> None:
        for key in (MISSING, TaskKey.sub_task("mbc", "cats", "01ARZ3NDEKTSV4RRFFQ69G5FAV", 0)):
            with pytest.raises(TaskNotFound) as missing:
                await client.get_task(key)
            assert str(missing.value) == f"there is no task {key}"
        with pytest.raises(TaskNotFound):
            await client.find_task("mbc", "01ARZ3NDEKTSV4RRFFQ69G5FAV")
        with pytest.raises(InvalidInput) as refused:
            await client.list_tasks("mbc", limit=0)
        assert refused.value.field == "limit"
        with pytest.raises(InvalidType, match="key"):
            await client.get_task("TASK#mbc#cat#1")  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="key"):
            await client.get_task(TaskKey("x", "y"))
        with pytest.raises(InvalidInput, match=r"input\.price"):
            await client.create_task(tenant_code="mbc", task_type="cat", input={"price": float("inf")})
        await client.create_task(tenant_code="mbc", task_type="cat", idempotency_key="k")
        with pytest.raises(IdempotencyConflict) as conflict:
            await client.create_task(tenant_code="mbc", task_type="dog", idempotency_key="k")
        assert conflict.value.key == "k"
        assert conflict.value.first != conflict.value.second
        with pytest.raises(TimeoutError, match="is still PENDING after 0 s"):
            await client.wait((await client.create_task(tenant_code="mbc", task_type="cat")).key, timeout=0)
        with pytest.raises(InvalidInput, match="idempotency_key"):
            await client.create_task(tenant_code="mbc", task_type="cat", idempotency_key="a\nb")
        with pytest.raises(InvalidInput, match="is too large"):
            await client.create_task(tenant_code="mbc", task_type="cat", input="x" * 2**20)

    ask(question)


def test_the_queues(ask: Callable[[Ask], Any]) -> None:
    async def question(client: TaskloomClient, module: TaskModule) -> None:
        queues = module.task_service.queues
        await client.create_task(tenant_code="mbc", task_type="cat")
        await client.queues.pause(task_type="cat", reason="ill")
        assert await client.queues.pauses() == await queues.pauses()
        (row,) = await client.queues.figures(tenant_code="mbc")
        assert (row.tenant_code, row.task_type, row.waiting, row.is_paused) == ("mbc", "cat", 1, True)
        assert await client.queues.resume(task_type="cat") is True
        assert await client.queues.resume(task_type="cat") is False
        assert await client.queues.purge(task_type="cat") == 1
        assert await client.queues.workers() == []
        assert await client.queues.repairs() is None
        assert await client.queues.throughput(5) == await queues.throughput(5)
        assert await client.queues.dead_letters() == []
        assert [letter async for letter in client.queues.iter_dead_letters()] == []
        assert await client.queues.redrive() == 0
        assert await client.queues.expired() == 0
        with pytest.raises(InvalidInput, match="there is no dead letter 7"):
            await client.queues.redrive(7)
        with pytest.raises(InvalidInput):
            await client.queues.pause(task_type="cat", tenant_code="mbc")

    ask(question)


def test_callbacks_are_answered_once(ask: Callable[[Ask], Any]) -> None:
    async def question(client: TaskloomClient, module: TaskModule) -> None:
        async def waiting() -> tuple[TaskKey, str]:
            task = await client.create_task(tenant_code="mbc", task_type="ask")
            await drained(module)
            return task.key, TOKENS[task.code]

        key, token = await waiting()
        with pytest.raises(TaskTokenNotFound):
            await client.resume(token, 1, tenant_code="other")
        await client.resume(token, {"approved": True}, tenant_code="mbc")
        with pytest.raises(TaskTokenUsed):
            await client.resume(token, 2)
        other, token = await waiting()
        await client.fail(token, "not today")
        await drained(module)
        assert (await client.get_task(key)).result == {"approved": True}
        assert (await client.get_task(other)).result == "failed: not today"
        for unknown in ("", "nobody/knows it"):
            with pytest.raises(TaskTokenNotFound):
                await client.resume(unknown)
        with pytest.raises(InvalidInput, match="output"):
            await client.resume(token, float("nan"))
        with pytest.raises(InvalidType, match="task_token"):
            await client.fail(7, "no")  # type: ignore[arg-type]

    ask(question)


def test_what_has_expired_is_said_so(make_module: MakeModule, clock: FakeClock) -> None:
    module = with_cat(make_module(enable_controller=True, clock=clock))

    async def asking() -> None:
        async with TaskloomClient(HERE, transport=httpx.ASGITransport(module.asgi_app())) as client:
            one = await client.create_task(tenant_code="mbc", task_type="cat", ttl=60)
            many = await client.create_step_function_task(
                tenant_code="mbc", task_type="cats", input=[1], ttl=timedelta(minutes=1)
            )
            (three,) = await client.create_tasks([NewTask(tenant_code="mbc", task_type="cat", ttl=60.5)])
            assert [task.options.ttl for task in (one, many, three)] == [60, 60, 60.5]
            await drained(module)
            clock.advance(61)
            with pytest.raises(TaskExpired) as here:
                await module.task_service.get_task(one.key)
            with pytest.raises(TaskExpired) as there:
                await client.get_task(one.key)
            assert (str(there.value), there.value.at) == (str(here.value), here.value.at)
            assert await client.queues.expired() == await module.task_service.queues.expired() == 3

    asyncio.run(asking())


def test_addresses_to_be_told_and_what_they_did_not_get(
    make_module: MakeModule, clock: FakeClock, database: Path
) -> None:
    """Nobody listens there, so what is posted comes back as given up."""
    settings = Settings(database=database, webhook_secret=SECRET, webhook_private_addresses=True)
    module = with_cat(make_module(enable_controller=True, settings=settings, clock=clock))
    url = f"http://127.0.0.1:{closed_port()}/hook"
    new: dict[str, Any] = {"tenant_code": "mbc", "notify_url": url}

    async def asking() -> None:
        webhooks = module.task_service.webhooks
        async with TaskloomClient(HERE, transport=httpx.ASGITransport(module.asgi_app())) as client:
            one = await client.create_task(task_type="cat", **new)
            many = await client.create_step_function_task(task_type="cats", input=[1], **new)
            assert [task.options.notify_url for task in (one, many)] == [url, url]
            for create, field in ((client.create_task, "notifyUrl"), (client.create_step_function_task, "notify_url")):
                with pytest.raises(InvalidInput) as refused:
                    await create(tenant_code="mbc", task_type="cat", input=[1], notify_url="ftp://x")
                assert refused.value.field == field  # as it is called where it was sent
            assert await client.webhooks.listeners() == await webhooks.listeners() != []
            waiting = await webhooks.deliveries(failed=False)
            assert [notice.status for notice in waiting] == ["PENDING", "PENDING"]
            assert await client.webhooks.deliveries(failed=False) == waiting
            assert [notice async for notice in client.webhooks.iter_deliveries(failed=False)] == waiting
            assert await client.webhooks.deliveries(listener="notify_url", failed=False, limit=1) == waiting[:1]
            assert await client.webhooks.deliveries() == []
            assert await client.webhooks.replay() == 0
            with pytest.raises(InvalidInput, match="no delivery 7"):
                await client.webhooks.replay(7)
            assert await client.webhooks.forget("notify_url") is True
            assert await client.webhooks.forget("notify_url") is False

    asyncio.run(asking())


def test_fan_outs_as_a_whole(ask: Callable[[Ask], Any]) -> None:
    async def question(client: TaskloomClient, module: TaskModule) -> None:
        @module.step_function_task("odd", chunk_size=2)
        async def odd(event: Any) -> None:
            if event.input.input % 2:
                raise ValueError(f"{event.input.input} is odd")

        many = await client.create_step_function_task(tenant_code="mbc", task_type="odd", input=range(20))
        await drained(module)
        service = module.task_service.fan_outs
        for options in ({}, {"cells": 3}, {"first": 4, "end": 9}):
            assert await client.fan_outs.map(many.key, **options) == await service.map(many.key, **options)
        found = await client.fan_outs.failures(many.key)
        assert found == await service.failures(many.key)
        assert [(group.count, group.examples) for group in found.groups] == [(10, (1, 3, 5, 7, 9))]
        one = await client.create_task(tenant_code="mbc", task_type="cat")
        with pytest.raises(InvalidInput, match="no step function task"):
            await client.fan_outs.map(one.key)

    ask(question)


@pytest.mark.parametrize("options", [{}, {"per_second": 1000.0}, {"progress": True}])
def test_dead_letters_are_redriven(ask: Callable[[Ask], Any], database: Path, options: dict[str, Any]) -> None:
    async def question(client: TaskloomClient, module: TaskModule) -> None:
        keys = [(await client.create_task(tenant_code="mbc", task_type="cat")).key for _ in range(3)]
        await drained(module)
        bury(database, *keys)
        assert {letter.key for letter in await client.queues.dead_letters()} == set(keys)
        told: list[int] = []
        given = {"progress": told.append} if "progress" in options else options
        assert await client.queues.redrive(**given) == 3
        assert told == ([1, 2, 3] if "progress" in options else [])
        assert await client.queues.dead_letters() == []
        assert {(await client.get_task(key)).run for key in keys} == {2}

    ask(question)


def test_an_input_that_breaks_off_creates_nothing(make_module: MakeModule) -> None:
    """Over a real connection: the server sees the request end in the middle."""
    module = with_cat(make_module(enable_controller=True))

    def broken() -> Iterator[int]:
        yield from range(100_000)
        raise RuntimeError("the file ended")

    async def bad() -> AsyncIterator[Any]:
        yield 1
        yield float("nan")

    async def create(address: str) -> list[Any]:
        async with TaskloomClient(address) as client:
            with pytest.raises(RuntimeError, match="the file ended"):
                await client.create_step_function_task(tenant_code="mbc", task_type="cats", input=broken())
            with pytest.raises(InvalidInput, match=r"input\[1\]"):
                await client.create_step_function_task(tenant_code="mbc", task_type="cats", input=bad())
            with pytest.raises(InvalidType, match="input"):
                await client.create_step_function_task(tenant_code="mbc", task_type="cats", input="text")
            return [task async for task in client.iter_tasks("mbc", type="SFN_TASK")]

    with served(module) as address:
        assert asyncio.run(create(address)) == []


def test_waiting_over_a_real_connection(make_module: MakeModule) -> None:
    module = with_cat(make_module(enable_controller=True))
    with served(module, worker=True) as address, SyncTaskloomClient(address) as client:
        task = client.create_task(tenant_code="mbc", task_type="cat", input={"name": "Tama"})
        assert client.wait(task.key, timeout=30).result == "fed Tama"
        failed = client.create_task(tenant_code="mbc", task_type="cat")
        error = client.wait(failed.key, timeout=30).error
        assert error is not None
        assert error.message == "no name"
        assert [line.message for line in client.follow_logs(task.key)] == ["feeding"]
        assert len(client.queues.workers()) == 1


def test_a_token_is_shown_and_refusals_are_errors(
    make_module: MakeModule, secured: Callable[..., Settings], issuer: Issuer
) -> None:
    module = make_module(enable_controller=True, settings=secured())

    async def ask(token: Any) -> Any:
        transport = httpx.ASGITransport(module.asgi_app())
        async with TaskloomClient(HERE, token, transport=transport) as client:
            return await client.create_task(tenant_code="mbc", task_type="cat")

    with pytest.raises(NotAuthenticated):
        asyncio.run(ask(None))
    with pytest.raises(NotPermitted, match="role operator"):
        asyncio.run(ask(issuer.token()))
    with pytest.raises(NotPermitted):
        asyncio.run(ask(issuer.token(tenant="other", roles=("admin",))))
    assert asyncio.run(ask(lambda: issuer.token(roles=("operator",)))).created_by == "mari"
    # For roles that may choose a tenant, the client chooses that of the task.
    assert asyncio.run(ask(issuer.token(tenant="other", roles=("operator", "support")))).tenant_code == "mbc"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(200, text="<html>"), ServerUnreachable),
        (httpx.Response(200, json={"hello": 1}), ServerUnreachable),
        (httpx.Response(502, text="Bad Gateway"), ServerUnreachable),
        (httpx.Response(302, headers={"location": "https://login.example"}), ServerUnreachable),
        (httpx.Response(503, json={"type": "urn:taskloom:problem:store-busy", "detail": "busy"}), StoreBusy),
        (httpx.Response(404, json={"type": "about:blank", "detail": "Not Found"}), ServerUnreachable),
    ],
)
def test_what_is_no_answer_of_ours_is_said_so(answer: httpx.Response, error: type[TaskloomError]) -> None:
    async def ask() -> None:
        transport = httpx.MockTransport(lambda request: answer)
        async with TaskloomClient("https://tasks.example", transport=transport) as client:
            await client.get_task(MISSING)

    with pytest.raises(error):
        asyncio.run(ask())


def test_waiting_bears_a_server_that_is_away_for_a_moment(ask: Callable[[Ask], Any], make_module: MakeModule) -> None:
    module = with_cat(make_module(enable_controller=True))
    app: Any = module.asgi_app()
    inner = httpx.ASGITransport(app)
    asked = 0

    class Flaky(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal asked
            asked += 1
            if asked <= 2:
                raise httpx.ConnectError("starting", request=request)
            return await inner.handle_async_request(request)

    async def wait() -> TaskStatus:
        task = await module.task_service.create_task(tenant_code="mbc", task_type="cat", input={"name": "Tama"})
        await drained(module)
        async with TaskloomClient(HERE, transport=Flaky()) as client:
            return (await within_patience(client.wait(task.key, timeout=20))).status  # type: ignore[no-any-return]

    assert asyncio.run(wait()) is TaskStatus.COMPLETED
    assert asked == 3


@pytest.mark.parametrize("url", ["", "tasks.example", "ftp://tasks.example", 7])
def test_an_address_that_is_none_is_refused(url: Any) -> None:
    with pytest.raises(InvalidInput, match="base_url"):
        TaskloomClient(url)


def test_nobody_there_is_said_so() -> None:
    with (
        SyncTaskloomClient("http://127.0.0.1:1") as client,
        pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:1 cannot be reached"),
    ):
        client.get_task(MISSING)
