"""Who is told of status changes by a server, with the methods of `TaskService.webhooks`."""

from collections.abc import AsyncIterator, Sequence

from taskloom.client.connection import Connection
from taskloom.client.parsing import understood
from taskloom.operations.items import of_item
from taskloom.operations.paging import all_behind
from taskloom.operations.webhooks import PAGE
from taskloom.ports import ListenerFigures, Notice


class RemoteWebhooks:
    """Webhooks and subscriptions; for roles that may choose a tenant, since they speak of all."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def listeners(self) -> Sequence[ListenerFigures]:
        """See `Webhooks.listeners`."""
        body = await self._connection.json("GET", "/webhooks")
        with understood():
            return [of_item(ListenerFigures, item) for item in body["items"]]

    async def deliveries(
        self, *, listener: str | None = None, failed: bool = True, after: int = 0, limit: int = 100
    ) -> Sequence[Notice]:
        """See `Webhooks.deliveries`."""
        query = {"listener": listener, "failed": failed, "after": after, "limit": limit}
        body = await self._connection.json("GET", "/webhooks/deliveries", query=query)
        with understood():
            return [of_item(Notice, item) for item in body["items"]]

    def iter_deliveries(self, *, listener: str | None = None, failed: bool = True) -> AsyncIterator[Notice]:
        """All of them."""
        return all_behind(
            lambda after: self.deliveries(listener=listener, failed=failed, after=after, limit=PAGE),
            lambda notice: notice.number,
        )

    async def replay(self, number: int | None = None, *, listener: str | None = None) -> int:
        """See `Webhooks.replay`."""
        body = {name: value for name, value in (("number", number), ("listener", listener)) if value is not None}
        return int((await self._connection.json("POST", "/webhooks/replay", body=body))["count"])

    async def forget(self, listener: str) -> bool:
        """See `Webhooks.forget`."""
        answer = await self._connection.json("POST", "/webhooks/forget", body={"listener": listener})
        return bool(answer["wasThere"])
