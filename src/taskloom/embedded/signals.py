"""Wake-ups within the process, and by datagrams between the processes that share a file."""

import errno
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from taskloom import forks
from taskloom.embedded import turn

MAX_CODES: Final = 500
"""Codes that one datagram names (27 bytes each, well below what a socket takes); more become a signal to all."""
MAX_PATH: Final = 100
"""Bytes of a socket's path (source: unix(7): 108 with the final zero; 104 on other systems)."""
FRESH_NANOSECONDS: Final = 50_000_000
_STOP: Final = b"stop"

log = logging.getLogger(__name__)


class FileSignals:
    """`ports.Signals` for processes that share a database.

    Each process with listeners binds a datagram socket in the folder `<database>-wake`; who commits sends a datagram to
    every socket there. Where the system has no such sockets, or (not on Linux) the path is too long, processes do not
    wake each other, and each finds new work when it looks by itself.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._forks = forks.count()
        self._work: list[Callable[[], None]] = []
        self._any: list[Callable[[], None]] = []
        self._changes: dict[str, list[Callable[[], None]]] = {}
        self._receiver: socket.socket | None = None
        self._sender: socket.socket | None = None
        self._own: str | None = None
        self._folder_fd: int | None = None
        self._peers: Sequence[str] = ()
        self._seen: int | None = None

    def on_work(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See `ports.Signals`."""
        self._check_process()
        return self._on(self._work, callback)

    def on_any(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See `ports.Signals`."""
        self._check_process()
        return self._on(self._any, callback)

    def _on(self, callbacks: list[Callable[[], None]], callback: Callable[[], None]) -> Callable[[], None]:
        self._listen()
        with self._lock:
            callbacks.append(callback)

        def end() -> None:
            with self._lock:
                callbacks.remove(callback)

        return end

    def on_change(self, code: str, callback: Callable[[], None]) -> Callable[[], None]:
        """See `ports.Signals`."""
        self._listen()
        with self._lock:
            self._changes.setdefault(code, []).append(callback)

        def end() -> None:
            with self._lock:
                self._changes[code].remove(callback)
                if not self._changes[code]:
                    del self._changes[code]

        return end

    def publish(self, *, work: bool, ended: Sequence[str]) -> None:
        """Tell every listener, here and in other processes; called after each commit, by one thread at a time."""
        self._check_process()
        self._tell(work=work, ended=ended)
        peers = self._find_peers()
        if not peers:
            return
        codes = list(ended) if len(ended) <= MAX_CODES else None
        datagram = json.dumps([work, codes], separators=(",", ":")).encode()
        for peer in peers:
            self._send(peer, datagram)

    def close(self) -> None:
        """Stop listening to other processes."""
        self._check_process()
        with self._lock:
            receiver, own = self._receiver, self._own
            self._receiver = self._own = None
        if receiver is not None and own is not None:
            self._send(own, _STOP)
        if self._sender is not None:
            self._sender.close()
            self._sender = None
        if self._folder_fd is not None:
            os.close(self._folder_fd)
            self._folder_fd = None

    def _check_process(self) -> None:
        if self._forks != forks.count():
            self._reset()  # after a fork: sockets and listeners belong to the parent, whose thread may hold the lock

    def _tell(self, *, work: bool, ended: Sequence[str] | None) -> None:
        with self._lock:
            callbacks = [*self._any, *self._work] if work else list(self._any)
            if self._changes:
                for code in self._changes if ended is None else ended:
                    callbacks += self._changes.get(code, ())
        for callback in callbacks:
            callback()

    def _listen(self) -> None:
        self._check_process()
        with self._lock:
            if self._receiver is not None:
                return
            try:
                self.folder.mkdir(exist_ok=True)
                name = f"{os.getpid()}-{secrets.token_hex(4)}"
                receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                receiver.bind(self._path(name))
            except (OSError, AttributeError) as error:
                log.info("processes that share this database do not wake each other", extra={"error": str(error)})
                return
            self._receiver, self._own = receiver, name
        threading.Thread(
            target=self._receive, args=(receiver, self.folder / name), name="taskloom-signals", daemon=True
        ).start()

    def _receive(self, receiver: socket.socket, path: Path) -> None:
        with receiver:
            while True:
                datagram = receiver.recv(65536)
                if datagram == _STOP:
                    break
                work, ended = json.loads(datagram)
                self._tell(work=work, ended=ended)
        with suppress(OSError):
            path.unlink()

    def _find_peers(self) -> Sequence[str]:
        """The sockets of other processes; the folder is read only when it changed."""
        try:
            changed = os.stat(self.folder).st_mtime_ns
            if changed != self._seen:
                self._peers = [name for name in os.listdir(self.folder) if name not in (self._own, turn.NAME)]
                # A second socket may come within the file system's tick: a fresh stamp proves nothing.
                self._seen = changed if time.time_ns() - changed > FRESH_NANOSECONDS else None
        except OSError:
            return ()
        return [name for name in self._peers if name != self._own]

    def _send(self, peer: str, datagram: bytes) -> None:
        if self._sender is None:
            self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._sender.setblocking(False)
        try:
            self._sender.sendto(datagram, self._path(peer))
        except OSError as error:
            if error.errno in (errno.ECONNREFUSED, errno.ENOENT):  # its process is gone
                self._peers = [name for name in self._peers if name != peer]
                with suppress(OSError):
                    os.unlink(self.folder / peer)
            else:
                log.debug("a signal was not sent", extra={"peer": peer, "error": str(error)})

    def _path(self, name: str) -> str:
        """A path of the socket that is short enough."""
        path = str(self.folder / name)
        if len(os.fsencode(path)) <= MAX_PATH:
            return path
        if self._folder_fd is None:
            self._folder_fd = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        # Source: proc(5): the folder under a name that is never long. Elsewhere binding fails, and is logged.
        return f"/proc/self/fd/{self._folder_fd}/{name}"
