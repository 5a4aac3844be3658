"""The web application and a worker in one process, which signals stop."""

import asyncio
import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from taskloom.cli import working
from taskloom.errors import InvalidInput, MissingExtra
from taskloom.module import TaskModule

DRAIN_SECONDS = 5
"""How long requests that run may take when the server is asked to stop."""

IDLE_SECONDS = 75
"""How long a connection may be idle: longer than clients and load balancers keep theirs (mostly 60 s at most), so that
they close it, and no request meets a connection that is just being closed."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says of the server."""

    host: str
    port: int
    concurrency: int | None
    """Of the worker; None: there is none."""
    grace: float | None


async def serve(module: TaskModule, options: Options) -> None:
    """Serve until SIGINT or SIGTERM. Raises: InvalidInput, MissingExtra, WiringError."""
    server, app = _server(module, options)
    concurrency = options.concurrency
    worker = None if concurrency is None else module.worker(concurrency=concurrency, grace=options.grace)

    def stop() -> None:
        log.info("asked to stop: requests and running handlers have some time; a second signal ends at once")
        app.state.web.hub.close()  # event streams would never end by themselves
        server.should_exit = True
        if worker is not None:
            worker.stop()

    with listening(options) as listener, working.signals(stop):
        _announce(module, listener, concurrency)
        if worker is None:
            await server.serve(sockets=[listener])
        else:
            async with worker:
                parts = [asyncio.create_task(part) for part in (server.serve(sockets=[listener]), worker.run())]
                try:
                    await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
                    stop()
                    await asyncio.gather(*parts)
                finally:
                    for part in parts:
                        part.cancel()
        print("the server has stopped", flush=True)
    working.leave_in_spite_of_threads()


def _server(module: TaskModule, options: Options) -> tuple[Any, Any]:
    app: Any = module.asgi_app()
    from taskloom.web.auth import is_loopback

    if module.settings.auth == "none" and not is_loopback(options.host):
        raise InvalidInput(
            "--host",
            f"{options.host!r} can be reached by others, but authentication is off",
            "set TASKLOOM_AUTH, or serve this machine alone: --host 127.0.0.1",
        )
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise MissingExtra("the server", "web") from error

    class Server(uvicorn.Server):
        """Leaves signals to us: they stop the worker too."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    return Server(config), app


@contextmanager
def listening(options: Options) -> Iterator[socket.socket]:
    """The socket at the address of *options*, while the block runs. Raises: InvalidInput when it cannot be had."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listener = socket.create_server((options.host, options.port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        where = f"{options.host}:{options.port}"
        raise InvalidInput("--port", f"{where} cannot be served: {error}", "give another address or port") from error
    # Accepted connections inherit it. The event loop sets it only for sockets that say they are TCP, and this one does
    # not: each answer would wait some 40 ms for the client's acknowledgement of its head (Nagle's algorithm).
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with listener:
        yield listener


def _announce(module: TaskModule, listener: socket.socket, concurrency: int | None) -> None:
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if module.settings.auth == "none":
        line = "authentication is off: every program on this machine may see and change every task"
        print(f"{'!' * 80}\n! {line.upper()}\n{'!' * 80}", file=sys.stderr, flush=True)
    if not module.enable_controller:
        log.warning("the module was registered without enable_controller=True, so there are no REST endpoints")
    runs = "no worker" if concurrency is None else f"a worker for {concurrency} at a time"
    print(f"serving {address} with {runs}; Ctrl-C or SIGTERM stops it", flush=True)
