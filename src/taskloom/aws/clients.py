"""boto3's clients, one per service and process, and the threads that wait for their answers."""

import asyncio
import random
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from taskloom import forks
from taskloom.aws.failures import is_conflict, translated

ResultT = TypeVar("ResultT")

THREADS: Final = 32
"""Calls of one process that may wait for their answers at the same time; each has a connection."""
TRIES: Final = 4
"""How often botocore makes a call before its error comes through; the core repeats what may be repeated."""
CONNECT_TIMEOUT: Final = 5.0
READ_TIMEOUT: Final = 20.0
"""Seconds. A long poll of SQS takes up to 20 s (source: SQS ReceiveMessage, WaitTimeSeconds), and asks for more."""
CONFLICTS: Final = 8
"""How often a transaction that met another one is made again."""
FIRST_PAUSE: Final = 0.02
"""Seconds before the first time; at most twice as long before each further one."""

CONFIG: Final = Config(
    retries={"mode": "adaptive", "total_max_attempts": TRIES},
    connect_timeout=CONNECT_TIMEOUT,
    read_timeout=READ_TIMEOUT,
    max_pool_connections=THREADS,
    tcp_keepalive=True,
)


def pause(first: float, attempt: int) -> None:
    """Wait in this thread, as botocore does before its own repeats: *first* seconds, doubled with each attempt."""
    threading.Event().wait(first * 2**attempt * random.uniform(0.5, 1))  # noqa: S311 - no secret


class Clients:
    """Makes clients and threads at their first use, after a fork again; safe from any thread and event loop.

    *arguments* go to each `boto3` client, for tests: endpoints, region and credentials are boto3's own business.
    """

    def __init__(self, arguments: Mapping[str, Any] | None = None) -> None:
        self._arguments = dict(arguments or {})
        self._lock = threading.Lock()
        self._forks = forks.count()
        self._clients: dict[str, Any] = {}
        self._threads: ThreadPoolExecutor | None = None

    async def call(self, service: str, operation: str, **parameters: Any) -> Any:
        """The answer of one operation. Raises: see `send`."""
        return await self.run(lambda: self.send(service, operation, **parameters))

    async def run(self, work: Callable[[], ResultT]) -> ResultT:
        """What *work* returns in a thread. Once begun it is carried out, even if nobody waits for it any more."""
        return await asyncio.get_running_loop().run_in_executor(self._pool(), work)

    def send(self, service: str, operation: str, **parameters: Any) -> Any:
        """The answer of one operation, for whoever is in a thread already.

        Raises: StoreError; InvalidInput; `ConditionFailed` and `Cancelled`, which are the adapters' own.
        """
        call = getattr(self.client(service), operation)
        for attempt in range(CONFLICTS + 1):
            try:
                return call(**parameters)
            except (ClientError, BotoCoreError) as error:
                if attempt == CONFLICTS or not is_conflict(error):
                    raise translated(error) from error
            pause(FIRST_PAUSE, attempt)
        raise AssertionError("unreachable")

    def client(self, service: str) -> Any:
        """The boto3 client of *service*."""
        self._check_process()
        client = self._clients.get(service)
        if client is None:
            with self._lock:
                client = self._clients.get(service)
                if client is None:
                    # A session of our own: boto3's default one may be somebody else's, and making clients of one
                    # session is not safe in several threads (source: boto3 developer guide, "Multithreading").
                    client = boto3.session.Session().client(service, **({"config": CONFIG} | self._arguments))
                    self._clients[service] = client
        return client

    def close(self) -> None:
        """Give back threads and connections; the next use makes new ones."""
        self._check_process()
        with self._lock:
            threads, clients = self._threads, list(self._clients.values())
            self._threads = None
            self._clients = {}
        if threads is not None:
            threads.shutdown(wait=True)
        for client in clients:
            client.close()

    def _pool(self) -> ThreadPoolExecutor:
        self._check_process()
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="taskloom-aws")
            return self._threads

    def _check_process(self) -> None:
        if self._forks != forks.count():
            # After a fork: threads and sockets are the parent's, and one of its threads may have held the lock.
            self._forks, self._lock = forks.count(), threading.Lock()
            self._clients, self._threads = {}, None
