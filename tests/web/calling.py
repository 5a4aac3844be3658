"""Calls an ASGI application: whole answers through httpx, and streams piece by piece."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

PATIENCE = 30.0
HERE = "http://127.0.0.1"


def caller(app: Any, token: str | None = None, *, base_url: str = HERE, **headers: str) -> httpx.AsyncClient:
    """A client of *app*, in this process."""
    sent = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    if token is not None:
        sent[b"authorization"] = f"Bearer {token}".encode()
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=base_url, headers=sent)


class Stream:
    """An answer that does not end by itself."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.text = ""
        self.has_ended = False
        self._news = asyncio.Condition()

    async def began(self) -> int:
        """Wait for its status."""
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(lambda: bool(self.status))
        return self.status

    async def says(self, text: str, times: int = 1) -> str:
        """Wait until *text* came so often; all that came."""
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(lambda: self.text.count(text) >= times)
        return self.text

    async def ended(self) -> str:
        """Wait for its end; all that came."""
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(lambda: self.has_ended)
        return self.text

    async def take(self, message: Mapping[str, Any]) -> None:
        async with self._news:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                self.text += message.get("body", b"").decode()
                self.has_ended = not message.get("more_body", False)
            self._news.notify_all()


@asynccontextmanager
async def streaming(app: Any, path: str, token: str | None = None, **headers: str) -> AsyncIterator[Stream]:
    """GET *path* of *app*, as long as the block runs."""
    raw_path, _, query = path.partition("?")
    sent = {"host": "127.0.0.1", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if token is not None:
        sent["authorization"] = f"Bearer {token}"
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": httpx.URL(HERE + raw_path).path,
        "raw_path": raw_path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in sent.items()],
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1234),
    }
    stream, gone, asked = Stream(), asyncio.Event(), False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    running = asyncio.create_task(app(scope, receive, stream.take))
    try:
        yield stream
    finally:
        gone.set()
        async with asyncio.timeout(PATIENCE):
            await running
