"""Fan-outs of a server as a whole, with the methods of `TaskService.fan_outs`."""

from collections.abc import Sequence
from typing import Any

from taskloom.client.connection import Connection, path_of
from taskloom.client.parsing import understood
from taskloom.model import TaskKey, TaskStatus
from taskloom.operations.fan_outs import Cell, FailureGroup, Failures


class RemoteFanOuts:
    """A map of the sub-tasks of a fan-out, and its failures by what they say."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def map(self, key: TaskKey, *, first: int = 0, end: int | None = None, cells: int = 1000) -> Sequence[Cell]:
        """See `FanOuts.map`."""
        body = await self._of_task(key, "/map", {"first": first, "end": end, "cells": cells})
        with understood():
            return [
                Cell(
                    first=item["first"],
                    end=item["end"],
                    counts={TaskStatus(status): count for status, count in item["counts"].items()},
                )
                for item in body["items"]
            ]

    async def failures(self, key: TaskKey) -> Failures:
        """See `FanOuts.failures`."""
        body = await self._of_task(key, "/failures", {})
        with understood():
            groups = [FailureGroup(**item | {"examples": tuple(item["examples"])}) for item in body["items"]]
            return Failures(groups=groups, seen=body["seen"], more=body["more"])

    async def _of_task(self, key: TaskKey, below: str, query: dict[str, Any]) -> Any:
        return await self._connection.json("GET", path_of(key) + below, tenant=key.tenant_code, query=query)
