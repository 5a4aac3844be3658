"""A client that costs little: HTTP/1.1 over connections that stay open, without more than is measured."""

import asyncio
import json
import time
from contextlib import suppress
from typing import Any, Final, TypeAlias

PATIENCE: Final = 60.0
HOST: Final = "127.0.0.1"
Request: TypeAlias = tuple[str, str, Any, dict[str, str]]
"""Method, path, body and headers."""


class Connection:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, port: int) -> "Connection":
        return cls(*await asyncio.open_connection(HOST, port))

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """The status, headers and body of the answer."""
        self._send(method, path, body, headers)
        status, found = await self._head()
        size = int(found.get("content-length", "0"))
        return status, found, await self._reader.readexactly(size) if size else b""

    async def listen(self, path: str) -> None:
        """Open an event stream; its first bytes have come when this returns."""
        self._send("GET", path, None, {})
        status, _ = await self._head()
        assert status == 200, status
        await self._reader.readline()

    async def drain(self) -> int:
        """Read what comes, until the connection is closed; how many bytes."""
        count = 0
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while block := await self._reader.read(65536):
                count += len(block)
        return count

    def close(self) -> None:
        self._writer.close()

    def _send(self, method: str, path: str, body: Any, headers: dict[str, str]) -> None:
        text = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", f"Content-Length: {len(text)}"]
        if body is not None:
            lines.append("Content-Type: application/json")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + text)

    async def _head(self) -> tuple[int, dict[str, str]]:
        head = (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), PATIENCE)).decode()
        first, *lines = head.strip().split("\r\n")
        pairs = (line.partition(": ") for line in lines)
        return int(first.split()[1]), {name.lower(): value for name, _, value in pairs}


async def times(port: int, connections: int, requests: int, request: Request, ok: int) -> tuple[float, list[float]]:
    """How long *requests* took over so many *connections*, in seconds: all, and each."""
    method, path, body, headers = request
    turns = iter(range(requests))
    taken: list[float] = []

    async def work(connection: Connection) -> None:
        for _ in turns:
            began = time.perf_counter()
            status, _, answer = await connection.ask(method, path, body, **headers)
            taken.append(time.perf_counter() - began)
            assert status == ok, (status, answer)

    opened = [await Connection.to(port) for _ in range(connections)]
    began = time.perf_counter()
    try:
        await asyncio.gather(*map(work, opened))
        return time.perf_counter() - began, taken
    finally:
        for connection in opened:
            connection.close()


async def once(port: int, request: Request, ok: int) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one answer, over a connection of its own: idle ones the server closes."""
    method, path, body, headers = request
    connection = await Connection.to(port)
    try:
        answer = await connection.ask(method, path, body, **headers)
        assert answer[0] == ok, answer
        return answer
    finally:
        connection.close()
