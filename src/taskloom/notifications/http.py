"""One POST to an address that was checked: the name is resolved once, and what it stands for is connected to."""

import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from typing import Final, TypeAlias
from urllib.parse import SplitResult

from taskloom.notifications.pump import Undeliverable
from taskloom.webhooks import is_public

Resolver: TypeAlias = Callable[[str, int], Sequence[str]]
"""The IP addresses of a host."""

MAX_ADDRESSES: Final = 4
"""Of one host that are tried."""
MAX_ANSWER: Final = 1024
"""Bytes of the answer's body that are read."""

_PORTS: Final = {"http": 80, "https": 443}


class AddressRefused(Undeliverable):
    """The host leads to an address that webhooks must not be sent to."""


class DeliveryFailed(Exception):
    """The receiver did not say that it has the message."""


class NoAnswer(DeliveryFailed):
    """It did not say anything."""


def system_resolver(host: str, port: int) -> Sequence[str]:
    """What the system says. Raises: OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Post:
    """One request. `send` blocks; `abort`, from another thread, ends it."""

    def __init__(
        self,
        url: SplitResult,
        headers: Mapping[str, str],
        body: bytes,
        *,
        timeout: float,
        allow_private: bool,
        resolve: Resolver = system_resolver,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._url = url
        self._headers = headers
        self._body = body
        self._timeout = timeout
        self._allow_private = allow_private
        self._resolve = resolve
        self._tls = tls
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._aborted = False

    def send(self) -> None:
        """Returns when the receiver has the message. Raises: DeliveryFailed, NoAnswer, AddressRefused."""
        host = self._url.hostname or ""
        connection = http.client.HTTPConnection(host, timeout=self._timeout)
        try:
            connection.sock = self._connected(host, self._url.port or _PORTS[self._url.scheme])
            # `http.client` would connect anew, to wherever the name leads then, when the socket is gone.
            connection.auto_open = 0
            target = (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")
            connection.putrequest("POST", target, skip_host=True, skip_accept_encoding=True)
            for name, value in {"Host": self._url.netloc, **self._headers}.items():
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(self._body)))
            connection.putheader("Connection", "close")
            connection.endheaders(self._body)
            with closing(connection.getresponse()) as answer:
                text = answer.read(MAX_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer("it took too long" if self._aborted else f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()
            self._close()
        if not 200 <= answer.status < 300:
            raise DeliveryFailed(_refusal(answer.status, text))

    def abort(self) -> None:
        """Have `send` fail soon."""
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _connected(self, host: str, port: int) -> socket.socket:
        addresses = list(self._resolve(host, port))
        allowed = [address for address in addresses if self._allow_private or is_public(address)]
        if addresses and not allowed:
            raise AddressRefused(
                f"{host} leads to {addresses[0]}, which is no public address; "
                "Settings.webhook_private_addresses allows it"
            )
        error: OSError = OSError(f"{host} has no address")
        for address in allowed[:MAX_ADDRESSES]:
            try:
                return self._secured(self._plain(address, port), host)
            except OSError as failed:
                error = failed
        raise error

    def _plain(self, address: str, port: int) -> socket.socket:
        plain = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        with self._lock:
            if self._aborted:
                plain.close()
                raise TimeoutError
            self._socket = plain
        try:
            plain.settimeout(self._timeout)
            plain.connect((address, port))
        except OSError:
            self._close()
            raise
        return plain

    def _secured(self, plain: socket.socket, host: str) -> socket.socket:
        if self._url.scheme != "https":
            return plain
        context = ssl.create_default_context() if self._tls is None else self._tls
        try:
            secured = context.wrap_socket(plain, server_hostname=host)
        except (OSError, ValueError):
            self._close()
            raise
        with self._lock:
            self._socket = secured
        return secured

    def _close(self) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None


def _refusal(status: int, text: bytes) -> str:
    if 300 <= status < 400:
        return f"the receiver answered {status}; redirects are not followed"
    said = " ".join(text.decode("utf-8", "replace").split())[:200]
    return f"the receiver answered {status}" + (f": {said}" if said else "")
