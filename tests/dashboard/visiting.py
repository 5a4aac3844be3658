"""A browser's view of the dashboard without a browser: pages, cookies, forms."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from html import unescape
from typing import Any
from urllib.parse import urlencode

import httpx
from starlette.requests import Request

from taskloom import TaskModule
from taskloom.model import TaskKey
from taskloom.web import Caller

HERE = "http://127.0.0.1"


def by_header(request: Request) -> Caller | None:
    """Who calls stands in the header `x-test-caller`: user, tenant, roles."""
    said = request.headers.get("x-test-caller")
    if said is None:
        return None
    user, tenant, *roles = said.split()
    return Caller(user_id=user, tenant_code=None if tenant == "-" else tenant, roles=frozenset(roles))


class Visitor:
    """Opens pages and sends forms; keeps cookies."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def get(self, path: str, status: int = 200, **headers: str) -> httpx.Response:
        """The page at *path*, which must have this status."""
        response = await self.client.get(f"/dashboard{path}", headers=headers)
        assert response.status_code == status, (response.status_code, response.text[-600:])
        return response

    async def send(
        self, path: str, fields: Mapping[str, str | Sequence[str]], status: int = 303, **headers: str
    ) -> httpx.Response:
        """What comes of the form with *fields*, sent as our own page would send it."""
        page = await self.client.get("/dashboard/tasks")
        found = re.search(r'name="form" value="([^"]+)"', page.text) or re.search(r'name="form" value="([^"]+)"', "")
        fields = {"form": found.group(1) if found else await self._form(), **fields}
        return await self.post(path, fields, status, **headers)

    async def post(
        self, path: str, fields: Mapping[str, str | Sequence[str]], status: int = 303, **headers: str
    ) -> httpx.Response:
        """What comes of the form with exactly these *fields*."""
        sent = {"content-type": "application/x-www-form-urlencoded", "origin": HERE, **headers}
        response = await self.client.post(f"/dashboard{path}", content=urlencode(fields, doseq=True), headers=sent)
        assert response.status_code == status, (response.status_code, response.text[-600:])
        return response

    async def _form(self) -> str:
        page = await self.client.get("/dashboard/queues")
        found = re.search(r'name="form" value="([^"]+)"', page.text)
        return found.group(1) if found else ""


@asynccontextmanager
async def visiting(
    module: TaskModule, caller: str | None = None, *, authenticate: Any = None, **headers: str
) -> AsyncIterator[Visitor]:
    """A visitor of the dashboard of *module*: *caller* as `by_header` reads it, or whoever the settings let in."""
    if caller is not None:
        authenticate, headers["x-test-caller"] = by_header, caller
    app: Any = module.asgi_app(authenticate=authenticate)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=HERE, headers=headers) as client:
        yield Visitor(client)


def path_of(key: TaskKey) -> str:
    """Where the page of a task is."""
    return f"/tasks/{key.pk}/{key.sk}".replace("#", "%23")


def text_of(html: str) -> str:
    """What people read."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html)))
