"""A Redis server of one's own: a free port of the loopback interface, a temporary folder, gone at the end."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

COMMAND: Final = "redis-server"
START_SECONDS: Final = 20.0


def is_there() -> bool:
    """Whether the server can be started here."""
    return shutil.which(COMMAND) is not None


@contextmanager
def redis_server(folder: str) -> Iterator[str]:
    """The URL of a server that keeps its data in *folder*, append-only file synced each second."""
    port = _free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
    durability = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    server = subprocess.Popen([COMMAND, *options, *durability], stdout=subprocess.DEVNULL)
    try:
        _wait_for(port, server)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, server: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if server.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.01)
