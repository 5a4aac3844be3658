"""What operators see of those who are told of status changes, and do about what could not be delivered."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

from taskloom.errors import InvalidInput, InvalidType
from taskloom.operations.paging import all_behind
from taskloom.policy import whole_number
from taskloom.ports import Backend, ListenerFigures, Notice
from taskloom.webhooks import MAX_NAME

PAGE: Final = 200
MAX_PAGE: Final = 1000
MAX_ID: Final = 2**63 - 1


class Webhooks:
    """Webhooks and subscriptions: `TaskService.webhooks`.

    It speaks of all tenants, so it is for operators, not for tenants.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def listeners(self) -> Sequence[ListenerFigures]:
        """Who is told of status changes, by name, how many wait for each, and how many were given up.

        "notify_url" stands for all tasks with an address of their own, a name that begins with "~" for a subscription
        without a name.
        """
        return await self._backend.notifier.listeners()

    async def deliveries(
        self, *, listener: str | None = None, failed: bool = True, after: int = 0, limit: int = 100
    ) -> Sequence[Notice]:
        """What could not be delivered, with the reason, behind the number *after*; at most *limit* (up to 1,000).

        With *failed* false what waits, too. Raises: InvalidInput, InvalidType.
        """
        whole_number(after, "after", low=0, high=MAX_ID)
        whole_number(limit, "limit", low=1, high=MAX_PAGE)
        name = None if listener is None else _name(listener)
        return await self._backend.notifier.notices(name, given_up=failed, after=after, limit=limit)

    def iter_deliveries(self, *, listener: str | None = None, failed: bool = True) -> AsyncIterator[Notice]:
        """All of them."""
        return all_behind(
            lambda after: self.deliveries(listener=listener, failed=failed, after=after, limit=PAGE),
            lambda notice: notice.number,
        )

    async def replay(self, number: int | None = None, *, listener: str | None = None) -> int:
        """Deliver again what was given up: one, what a listener did not get, or all; how many.

        It is as if it had not been tried yet, and has the same event id. Raises: InvalidInput when *number* was not
        given up.
        """
        name = None if listener is None else _name(listener)
        if number is not None:
            whole_number(number, "number", low=1, high=MAX_ID)
        replayed = await self._backend.notifier.replay(name, number)
        if number is not None and not replayed:
            raise InvalidInput("number", f"no delivery {number} was given up", "list those that were")
        return replayed

    async def forget(self, listener: str) -> bool:
        """Keep nothing for a listener any more, and drop what waits for it; whether it was there.

        A process that still has the webhook or the subscription brings it back. Raises: InvalidInput, InvalidType.
        """
        return await self._backend.notifier.forget(_name(listener))


def _name(listener: object) -> str:
    if not isinstance(listener, str):
        raise InvalidType("listener", f"{listener!r} is no string", "give a name, as they are listed")
    if not 0 < len(listener) <= MAX_NAME:
        raise InvalidInput("listener", f"has {len(listener)} characters", "give a name, as they are listed")
    return listener
