"""The queues of a server, with the methods of `TaskService.queues`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from taskloom.client.connection import Connection
from taskloom.client.parsing import understood
from taskloom.clock import SystemClock
from taskloom.errors import InvalidInput
from taskloom.model import TaskKey
from taskloom.operations.items import of_item
from taskloom.operations.paging import all_behind
from taskloom.operations.queues import QueueFigures
from taskloom.policy import number
from taskloom.ports import DeadLetter, Pause, Throughput, WorkerFacts
from taskloom.values import Json


class RemoteQueues:
    """Depths, workers, pauses, purging and dead letters, as far as the caller may see them.

    Who does something the server knows from the token: *by* is not sent.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def figures(self, *, tenant_code: str | None = None) -> Sequence[QueueFigures]:
        """See `Queues.figures`; without *tenant_code* of the caller's tenant, or of all for who has none."""
        rows: list[QueueFigures] = []
        cursor = None
        while True:
            body = await self._look(tenant_code, cursor)
            with understood():
                rows += [of_item(QueueFigures, item | {"rate": item["rate"] or 0.0}) for item in body["items"]]
                cursor = body["cursor"]
            if cursor is None:
                return rows

    async def workers(self) -> Sequence[WorkerFacts]:
        """See `Queues.workers`."""
        body = await self._look(None, None)
        with understood():
            return [of_item(WorkerFacts, item) for item in body["workers"]]

    async def pauses(self) -> Sequence[Pause]:
        """See `Queues.pauses`."""
        body = await self._look(None, None)
        with understood():
            return [of_item(Pause, {"reason": None, "by": None} | item) for item in body["pauses"]]

    async def throughput(self, minutes: int = 60) -> Sequence[Throughput]:
        """See `Queues.throughput`; for roles that may choose a tenant."""
        body = await self._connection.json("GET", "/queues/throughput", query={"minutes": minutes})
        with understood():
            return [of_item(Throughput, item) for item in body["items"]]

    async def expired(self) -> int:
        """See `Queues.expired`; for roles that may choose a tenant."""
        return int((await self._connection.json("GET", "/queues/expired"))["count"])

    async def repairs(self) -> Mapping[str, Json] | None:
        """See `Queues.repairs`; for roles that may choose a tenant."""
        body = await self._connection.json("GET", "/queues/repairs")
        with understood():
            report: Mapping[str, Json] | None = body["repairs"]
            return report

    async def pause(
        self,
        *,
        task_type: str | None = None,
        tenant_code: str | None = None,
        reason: str | None = None,
        by: str | None = None,  # noqa: ARG002 - the server knows
    ) -> None:
        """See `Queues.pause`."""
        body = _given(taskType=task_type, tenantCode=tenant_code, reason=reason)
        await self._connection.request("POST", "/queues/pause", tenant=tenant_code, body=body)

    async def resume(self, *, task_type: str | None = None, tenant_code: str | None = None) -> bool:
        """See `Queues.resume`."""
        body = _given(taskType=task_type, tenantCode=tenant_code)
        answer = await self._connection.json("POST", "/queues/resume", tenant=tenant_code, body=body)
        return bool(answer["wasPaused"])

    async def purge(
        self,
        *,
        task_type: str | None = None,
        tenant_code: str | None = None,
        reason: str | None = None,
        by: str | None = None,  # noqa: ARG002
    ) -> int:
        """See `Queues.purge`."""
        body = _given(taskType=task_type, tenantCode=tenant_code, reason=reason)
        answer = await self._connection.json("POST", "/queues/purge", tenant=tenant_code, body=body)
        return int(answer["count"])

    async def dead_letters(
        self, *, tenant_code: str | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[DeadLetter]:
        """See `Queues.dead_letters`."""
        query = {"after": after, "limit": limit}
        body = await self._connection.json("GET", "/queues/dead-letters", tenant=tenant_code, query=query)
        with understood():
            return [of_item(DeadLetter, item) for item in body["items"]]

    def iter_dead_letters(self, *, tenant_code: str | None = None) -> AsyncIterator[DeadLetter]:
        """All of them."""
        return all_behind(
            lambda after: self.dead_letters(tenant_code=tenant_code, after=after, limit=200), lambda letter: letter.id
        )

    async def redrive(
        self,
        id: int | None = None,
        *,
        tenant_code: str | None = None,
        per_second: float | None = None,
        by: str | None = None,  # noqa: ARG002
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """See `Queues.redrive`. With *per_second* or *progress* by a request for each letter, so that none lasts."""
        if id is not None or (per_second is None and progress is None):
            return await self._redrive(id, tenant_code)
        pause = None if per_second is None else 1 / number(per_second, "per_second", low=0.001, high=1e6)
        redriven, done, clock = 0, set[TaskKey](), SystemClock()
        async for letter in self.iter_dead_letters(tenant_code=tenant_code):
            if letter.key in done:  # it has died again
                continue
            done.add(letter.key)
            if redriven and pause is not None:
                await clock.wait(asyncio.Event(), clock.now() + timedelta(seconds=pause))
            with suppress(InvalidInput):  # somebody else was faster
                redriven += await self._redrive(letter.id, tenant_code)
            if progress is not None:
                progress(redriven)
        return redriven

    async def _redrive(self, id: int | None, tenant_code: str | None) -> int:
        body = _given(id=id, tenantCode=tenant_code)
        answer = await self._connection.json("POST", "/queues/redrive", tenant=tenant_code, body=body)
        return int(answer["count"])

    async def _look(self, tenant: str | None, cursor: str | None) -> Any:
        query = {"limit": 1000, "cursor": cursor}
        return await self._connection.json("GET", "/queues", tenant=tenant, query=query)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
