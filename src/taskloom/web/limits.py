"""How long bodies may be, before anybody keeps them in memory."""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskloom.web.problems import TITLES, TooLarge, problem

JSON_LINES: Final = "application/x-ndjson"


class BodyLimit:
    """Refuses bodies that are longer than *limit*; JSON lines, which are read piece by piece, may have *stream_limit*
    bytes."""

    def __init__(self, app: ASGIApp, *, limit: int, stream_limit: int) -> None:
        self._app = app
        self._limit = limit
        self._stream_limit = stream_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        limit = self._stream_limit if media_type == JSON_LINES.encode() else self._limit
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > limit:
            response = problem(413, f"{TITLES[413]}: it has {int(length)} bytes, and may have {limit}")
            await response(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise TooLarge(limit)
            return message

        await self._app(scope, counted, send)
