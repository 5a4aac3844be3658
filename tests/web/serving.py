"""A real server on this machine, in a thread of its own."""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from taskloom import TaskModule

PATIENCE = 30.0


class Server(uvicorn.Server):
    """Leaves signals alone."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def served(
    module: TaskModule, *, worker: bool = False, wrap: Callable[[Any], Any] | None = None, **options: Any
) -> Iterator[str]:
    """The address under which *module* is served (and, if wanted, worked for) as long as the block runs.

    *wrap* puts something around the application; *options* are those of `asgi_app`.
    """
    app: Any = module.asgi_app(**options)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app if wrap is None else wrap(app),
        log_config=None,
        lifespan="off",
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    server = Server(config)

    async def run() -> None:
        serving: Awaitable[None] = server.serve(sockets=[listener])
        if not worker:
            await serving
            return
        async with module.worker() as works:
            working = asyncio.create_task(works.run())
            await serving
            works.stop()
            await working

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="web-tests")
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        app.state.web.hub.close()
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()
