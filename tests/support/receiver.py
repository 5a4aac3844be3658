"""A real HTTP server on the loopback, for what is posted to webhooks."""

import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

from taskloom import verify_webhook

SECRET: Final = "a secret of the tests"
PATIENCE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Posted:
    """One request, as it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    def message(self, secret: str = SECRET, **options: Any) -> dict[str, Any]:
        """What it says, once its signature was checked; the clocks of tests may stand anywhere."""
        return verify_webhook(secret, self.headers, self.body, 86400 * 366, **options)


class Receiver:
    """Answers each request as *answers* say in turn, then 204; a number, or a function that gets the handler."""

    def __init__(
        self,
        answers: Sequence[int | Callable[[BaseHTTPRequestHandler], None]] = (),
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._answers = list(answers)
        self._condition = threading.Condition()
        self._posted: list[Posted] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = receiver._next(Posted(self.path, dict(self.headers), body))
                if callable(answer):
                    answer(self)
                else:
                    self.send_response(answer)
                    self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # whoever posted went away

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def posted(self) -> list[Posted]:
        """What came until now."""
        with self._condition:
            return list(self._posted)

    def received(self, count: int) -> list[Posted]:
        """Wait for *count* requests; all that came."""
        with self._condition:
            assert self._condition.wait_for(lambda: len(self._posted) >= count, PATIENCE), self._posted
            return list(self._posted)

    def _next(self, posted: Posted) -> int | Callable[[BaseHTTPRequestHandler], None]:
        with self._condition:
            self._posted.append(posted)
            self._condition.notify_all()
            return self._answers.pop(0) if self._answers else 204


class Mailbox:
    """What a subscriber was told; it may be waited for."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._told: list[dict[str, Any]] = []

    def __call__(self, message: dict[str, Any]) -> None:
        with self._condition:
            self._told.append(message)
            self._condition.notify_all()

    @property
    def told(self) -> list[dict[str, Any]]:
        """All until now."""
        with self._condition:
            return list(self._told)

    @property
    def statuses(self) -> list[str]:
        """The statuses of all until now."""
        return [message["content"]["status"] for message in self.told]

    def has(self, count: int) -> list[dict[str, Any]]:
        """Wait for *count* messages; all that came."""
        with self._condition:
            assert self._condition.wait_for(lambda: len(self._told) >= count, PATIENCE), self._told
            return list(self._told)


def closed_port() -> int:
    """A port of the loopback on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
