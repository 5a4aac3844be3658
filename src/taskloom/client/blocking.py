"""The client for programs without an event loop: the same methods, blocking."""

from typing import Any, Self

from taskloom.client.connection import Token
from taskloom.client.fan_outs import RemoteFanOuts
from taskloom.client.queues import RemoteQueues
from taskloom.client.service import TaskloomClient
from taskloom.client.webhooks import RemoteWebhooks
from taskloom.execution.loop_thread import LoopThread
from taskloom.sync import Blocking, blocking, blocking_iterator


class SyncTaskloomClient(Blocking[TaskloomClient]):
    """`TaskloomClient`, blocking. Usable from any thread; close it at the end."""

    create_task = blocking(TaskloomClient.create_task)
    create_tasks = blocking(TaskloomClient.create_tasks)
    create_step_function_task = blocking(TaskloomClient.create_step_function_task)
    get_task = blocking(TaskloomClient.get_task)
    find_task = blocking(TaskloomClient.find_task)
    list_tasks = blocking(TaskloomClient.list_tasks)
    iter_tasks = blocking_iterator(TaskloomClient.iter_tasks)
    list_sub_tasks = blocking(TaskloomClient.list_sub_tasks)
    iter_sub_tasks = blocking_iterator(TaskloomClient.iter_sub_tasks)
    wait = blocking(TaskloomClient.wait)
    logs = blocking(TaskloomClient.logs)
    follow_logs = blocking_iterator(TaskloomClient.follow_logs)
    cancel_task = blocking(TaskloomClient.cancel_task)
    retry_task = blocking(TaskloomClient.retry_task)
    explain = blocking(TaskloomClient.explain)
    resume = blocking(TaskloomClient.resume)
    fail = blocking(TaskloomClient.fail)

    def __init__(self, base_url: str, token: Token = None, *, timeout: float = 30.0, transport: Any = None) -> None:
        client = TaskloomClient(base_url, token, timeout=timeout, transport=transport)
        super().__init__(client, LoopThread("taskloom-client"))
        self.queues = SyncRemoteQueues(client.queues, self._thread)
        self.webhooks = SyncRemoteWebhooks(client.webhooks, self._thread)
        self.fan_outs = SyncRemoteFanOuts(client.fan_outs, self._thread)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, and end the thread."""
        self._thread.submit(self._service.aclose()).result()
        self._thread.close()


class SyncRemoteQueues(Blocking[RemoteQueues]):
    """`RemoteQueues`, blocking."""

    figures = blocking(RemoteQueues.figures)
    workers = blocking(RemoteQueues.workers)
    throughput = blocking(RemoteQueues.throughput)
    pause = blocking(RemoteQueues.pause)
    resume = blocking(RemoteQueues.resume)
    pauses = blocking(RemoteQueues.pauses)
    expired = blocking(RemoteQueues.expired)
    repairs = blocking(RemoteQueues.repairs)
    purge = blocking(RemoteQueues.purge)
    dead_letters = blocking(RemoteQueues.dead_letters)
    iter_dead_letters = blocking_iterator(RemoteQueues.iter_dead_letters)
    redrive = blocking(RemoteQueues.redrive)


class SyncRemoteWebhooks(Blocking[RemoteWebhooks]):
    """`RemoteWebhooks`, blocking."""

    listeners = blocking(RemoteWebhooks.listeners)
    deliveries = blocking(RemoteWebhooks.deliveries)
    iter_deliveries = blocking_iterator(RemoteWebhooks.iter_deliveries)
    replay = blocking(RemoteWebhooks.replay)
    forget = blocking(RemoteWebhooks.forget)


class SyncRemoteFanOuts(Blocking[RemoteFanOuts]):
    """`RemoteFanOuts`, blocking."""

    map = blocking(RemoteFanOuts.map)
    failures = blocking(RemoteFanOuts.failures)
