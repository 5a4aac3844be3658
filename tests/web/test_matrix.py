"""Who may do what: every route times every kind of caller, from one table."""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from taskloom import Settings, TaskKey, TaskModule, TaskQueueEvent
from tests.web.calling import caller, streaming
from tests.web.tokens import (
    AUDIENCE,
    ISSUER,
    Issuer,
    signed_with_public_key,
    unsigned,
    with_broken_signature,
)

SECRET = "geheim"
"""Stands in everything that the tenant mbc has; nobody else may ever see it."""


@dataclass(frozen=True, kw_only=True)
class Route:
    """A row: what is called, who may, and what others get."""

    method: str
    path: str
    """Of the OpenAPI document."""
    role: str
    ok: int
    foreign: int
    """For the right role in another tenant: 403 where the address or the body names mbc, 404 where a code is looked
    for in the caller's own tenant, and the usual where only what the caller owns is meant."""
    body: Any = None
    task: str = "open"
    """Which task the address names: open, ended or fan-out."""
    stream: bool = False
    """Whether the answer does not end by itself."""


def _of_one(below: str, *, foreign_by_code: int = 404, **fields: Any) -> list[Route]:
    return [
        Route(path=f"/tasks/{{pk}}/{{sk}}{below}", foreign=403, **fields),
        Route(path=f"/tasks/by-code/{{code}}{below}", foreign=foreign_by_code, **fields),
    ]


TASK = {"tenantCode": "mbc", "taskType": "job", "input": SECRET}
ROUTES = [
    Route(method="POST", path="/tasks", role="operator", ok=202, foreign=403, body=TASK),
    Route(
        method="POST",
        path="/tasks/step-function-task",
        role="operator",
        ok=202,
        foreign=403,
        body={**TASK, "input": [SECRET]},
    ),
    Route(method="GET", path="/tasks/{tenant}", role="viewer", ok=200, foreign=403),
    Route(method="GET", path="/tasks/{tenant}/events", role="viewer", ok=200, foreign=403, stream=True),
    *_of_one("", method="GET", role="viewer", ok=200),
    *_of_one("/sub-tasks", method="GET", role="viewer", ok=200, task="fan-out"),
    *_of_one("/map", method="GET", role="viewer", ok=200, task="fan-out"),
    *_of_one("/failures", method="GET", role="viewer", ok=200, task="fan-out"),
    *_of_one("/history", method="GET", role="viewer", ok=200),
    *_of_one("/logs", method="GET", role="viewer", ok=200),
    *_of_one("/explain", method="GET", role="viewer", ok=200),
    *_of_one("/events", method="GET", role="viewer", ok=200, task="ended"),
    *_of_one("/cancel", method="POST", role="operator", ok=200),
    *_of_one("/retry", method="POST", role="operator", ok=202, task="ended"),
    Route(method="GET", path="/queues", role="admin", ok=200, foreign=200),
    Route(method="GET", path="/queues/dead-letters", role="admin", ok=200, foreign=200),
    # Over all tenants: for roles that may choose one alone.
    Route(method="GET", path="/queues/throughput", role="cross-tenant admin", ok=200, foreign=403),
    Route(method="GET", path="/queues/repairs", role="cross-tenant admin", ok=200, foreign=403),
    Route(method="GET", path="/queues/expired", role="cross-tenant admin", ok=200, foreign=403),
    Route(method="GET", path="/webhooks", role="cross-tenant admin", ok=200, foreign=403),
    Route(method="GET", path="/webhooks/deliveries", role="cross-tenant admin", ok=200, foreign=403),
    Route(method="POST", path="/webhooks/replay", role="cross-tenant admin", ok=200, foreign=403, body={}),
    Route(
        method="POST",
        path="/webhooks/forget",
        role="cross-tenant admin",
        ok=200,
        foreign=403,
        body={"listener": "notify_url"},
    ),
    Route(method="POST", path="/queues/pause", role="admin", ok=204, foreign=403, body={"tenantCode": "mbc"}),
    Route(method="POST", path="/queues/resume", role="admin", ok=200, foreign=403, body={"tenantCode": "mbc"}),
    Route(method="POST", path="/queues/purge", role="admin", ok=200, foreign=403, body={"tenantCode": "mbc"}),
    Route(method="POST", path="/queues/redrive", role="admin", ok=200, foreign=403, body={"tenantCode": "mbc"}),
    Route(method="POST", path="/callbacks/{token}", role="operator", ok=204, foreign=404, body={"output": SECRET}),
]
OPEN_TO_ALL = {("GET", "/healthz"), ("GET", "/readyz")}
LEVELS = ["viewer", "operator", "admin", "cross-tenant admin"]

CALLERS = [
    "no token",
    "expired",
    "wrong audience",
    "wrong issuer",
    "wrong signature",
    "alg none",
    "public key as secret",
    "no role",
    "other tenant",
    "viewer",
    "operator",
    "admin",
    "cross-tenant",
]


def expected(route: Route, who: str) -> int:
    """The status that a cell of the matrix must have."""
    match who:
        case "no role":
            return 403
        case "other tenant":
            return route.foreign
        case "viewer" | "operator" | "admin":
            return route.ok if LEVELS.index(who) >= LEVELS.index(route.role) else 403
        case "cross-tenant":
            return route.ok
        case _:
            return 401


def token_of(issuer: Issuer, who: str) -> str | None:
    """The token that a caller shows."""
    admin = issuer.token(roles=("admin",))
    match who:
        case "no token":
            return None
        case "expired":
            return issuer.token(roles=("admin",), expires_in=-3600)
        case "wrong audience":
            return issuer.token(roles=("admin",), aud="somebody-else")
        case "wrong issuer":
            return issuer.token(roles=("admin",), iss="https://issuer.example/other")
        case "wrong signature":
            return with_broken_signature(admin)
        case "alg none":
            return unsigned(admin)
        case "public key as secret":
            return signed_with_public_key(issuer, admin)
        case "no role":
            return issuer.token(roles=("gardener",))
        case "other tenant":
            return issuer.token(tenant="other", roles=("admin",))
        case "cross-tenant":
            return issuer.token(tenant="other", roles=("admin", "support"))
        case role:
            return issuer.token(roles=(role,))


class World:
    """An application with something of the tenant mbc in it."""

    def __init__(self, folder: Path, issuer: Issuer) -> None:
        settings = Settings(
            database=folder / "tasks.db",
            synchronous="NORMAL",
            auth="jwt",
            auth_issuer=ISSUER,
            auth_audience=AUDIENCE,
            auth_jwks=issuer.write(folder),
            cross_tenant_roles=("support",),
        )
        self.module = TaskModule.register(settings=settings, enable_controller=True)
        self.app: Any = self.module.asgi_app()
        self._tokens: dict[str, str] = {}

        @self.module.task("ask")
        async def ask(event: TaskQueueEvent) -> None:
            token = await event.callback("answer")
            self._tokens[event.task.code] = token
            await event.wait_for(token)

    async def address(self, route: Route) -> str:
        """The address of *route*, with a new task where it names one."""
        service = self.module.task_service
        if "{pk}" not in route.path and "{code}" not in route.path:
            token = quote(await self._token(), safe="") if "{token}" in route.path else ""
            return route.path.replace("{tenant}", "mbc").replace("{token}", token)
        options: Any = {"tenant_code": "mbc", "task_type": "job", "name": SECRET}
        if route.task == "fan-out":
            task = await service.create_step_function_task(**options, input=[SECRET])
        else:
            task = await service.create_task(**options, input=SECRET)
        if route.task == "ended":
            await service.cancel_task(task.key, reason=SECRET)
        return path_of(route.path, task.key)

    async def _token(self) -> str:
        """What a new task of mbc waits for."""
        task = await self.module.task_service.create_task(tenant_code="mbc", task_type="ask", name=SECRET)
        await self.module.task_service.queues.resume(tenant_code="mbc")  # another cell may have paused it
        async with self.module.worker(task_types=["ask"]) as worker:
            await worker.drain()
        return self._tokens[task.code]


def path_of(template: str, key: TaskKey) -> str:
    pk, sk = key.pk.replace("#", "%23"), key.sk.replace("#", "%23")
    return template.replace("{pk}", pk).replace("{sk}", sk).replace("{code}", key.parts.code)


async def answer(world: World, route: Route, path: str, token: str | None, **headers: str) -> httpx.Response:
    """What is answered; of a stream what comes first."""
    if route.stream:
        async with streaming(world.app, path, token, **headers) as stream:
            if await stream.began() == 200:
                await stream.says("event: page")
            else:
                await stream.ended()
            return httpx.Response(stream.status, text=stream.text)
    async with caller(world.app, token, **headers) as client:
        return await client.request(route.method, path, json=route.body)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Any:
    world = World(tmp_path_factory.mktemp("matrix"), issuer)
    yield world
    world.module.close()


def test_the_table_has_every_route(world: World) -> None:
    document = world.app.openapi()
    served = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert served == {(route.method, route.path) for route in ROUTES} | OPEN_TO_ALL


def test_the_document_names_the_role_of_every_route(world: World) -> None:
    document = world.app.openapi()
    for route in ROUTES:
        shown = document["paths"][route.path][route.method.lower()]["x-taskloom-role"]
        assert shown == route.role.removeprefix("cross-tenant ")


@pytest.mark.parametrize("who", CALLERS)
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_cell(world: World, issuer: Issuer, route: Route, who: str) -> None:
    async def cell() -> httpx.Response:
        path = await world.address(route)
        headers = {"x_tenant_code": "mbc"} if who == "cross-tenant" else {}
        return await answer(world, route, path, token_of(issuer, who), **headers)

    response = asyncio.run(cell())
    assert response.status_code == expected(route, who), response.text
    if who not in ("viewer", "operator", "admin", "cross-tenant"):
        assert SECRET not in response.text
    if response.status_code in (401, 403):
        assert response.headers["content-type"] == "application/problem+json" if not route.stream else True
        assert response.json()["status"] == response.status_code


@pytest.mark.parametrize("who", ["other tenant", "viewer", "no token"])
def test_a_refusal_says_nothing_about_what_there_is(world: World, issuer: Issuer, who: str) -> None:
    """The answer is the same, byte for byte, whether the task exists or not."""

    async def refusals() -> list[tuple[int, str]]:
        found = []
        task = await world.module.task_service.create_task(tenant_code="mbc", task_type="job")
        missing = TaskKey.single("mbc", "job", "01ARZ3NDEKTSV4RRFFQ69G5FAV")
        for key in (task.key, missing):
            async with caller(world.app, token_of(issuer, who)) as client:
                response = await client.post(path_of("/tasks/{pk}/{sk}/cancel", key))
                found.append((response.status_code, response.text))
        return found

    there, missing = asyncio.run(refusals())
    assert there == missing
    assert there[0] in (401, 403)


def test_a_code_of_another_tenant_is_not_there(world: World, issuer: Issuer) -> None:
    async def answers() -> list[str]:
        task = await world.module.task_service.create_task(tenant_code="mbc", task_type="job", input=SECRET)
        found = []
        async with caller(world.app, token_of(issuer, "other tenant")) as client:
            for code in (task.code, "01ARZ3NDEKTSV4RRFFQ69G5FAV"):
                response = await client.get(f"/tasks/by-code/{code}")
                assert response.status_code == 404
                found.append(response.text.replace(code, "CODE"))
        return found

    there, missing = asyncio.run(answers())
    assert there == missing


def test_refusals_are_logged(world: World, issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    async def refuse() -> None:
        async with caller(world.app, token_of(issuer, "other tenant"), x_request_id="abc-123") as client:
            await client.get("/tasks/mbc")

    with caplog.at_level(logging.WARNING, "taskloom.web"):
        asyncio.run(refuse())
    (record,) = [record for record in caplog.records if record.message == "a request was refused"]
    said = vars(record)
    assert (said["status"], said["user"], said["tenant"], said["path"]) == (403, "mari", "other", "/tasks/mbc")
    assert said["request_id"] == "abc-123"


def test_the_tenant_header_is_for_certain_roles(world: World, issuer: Issuer) -> None:
    async def statuses(roles: tuple[str, ...], tenant: str) -> int:
        async with caller(world.app, issuer.token(roles=roles), x_tenant_code=tenant) as client:
            return (await client.get(f"/tasks/{tenant}")).status_code

    assert asyncio.run(statuses(("viewer",), "mbc")) == 200  # it is the caller's own
    assert asyncio.run(statuses(("admin",), "other")) == 403
    assert asyncio.run(statuses(("viewer", "support"), "other")) == 200
    assert asyncio.run(statuses(("support",), "other")) == 403  # a role that chooses a tenant lets do nothing there


def test_another_tenant_must_be_chosen_even_by_who_may(world: World, issuer: Issuer) -> None:
    """A path alone does not choose it: what a link or a form says must not reach into another tenant."""

    async def status() -> int:
        async with caller(world.app, issuer.token(roles=("admin", "support"))) as client:
            return (await client.get("/tasks/other")).status_code

    assert asyncio.run(status()) == 403
