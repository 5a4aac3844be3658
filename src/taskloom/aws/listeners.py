"""`ports.Notifier` on AWS, where nobody listens: subscribers of the SNS topics are told, by what runs a task."""

from collections.abc import Sequence
from datetime import datetime

from taskloom.capabilities import Feature, require
from taskloom.ports import Listener, ListenerFigures, Notice, NoticeFailure


class NoListeners:
    """Keeps no notices. Subscriptions and webhooks are refused where an application asks for them (rule 8)."""

    def announce(self, listener: Listener, until: datetime) -> None:  # noqa: ARG002
        """Raises: WiringError."""
        require("aws", Feature.SUBSCRIBE, f"the listener {listener.name!r}")

    async def follow(self, listener: Listener, until: datetime) -> None:
        """Raises: WiringError."""
        self.announce(listener, until)

    async def tidy(self) -> None:
        """There is nothing to remove."""

    async def forget(self, name: str) -> bool:  # noqa: ARG002
        """There was none."""
        return False

    async def take(self, name: str, limit: int, *, again_at: datetime) -> Sequence[Notice]:  # noqa: ARG002
        """There is none."""
        return ()

    async def settle(self, done: Sequence[Notice], failures: Sequence[NoticeFailure]) -> None:
        """Nothing was taken."""

    async def next_due(self, name: str) -> datetime | None:  # noqa: ARG002
        """Never."""
        return None

    async def listeners(self) -> Sequence[ListenerFigures]:
        """There are none."""
        return ()

    async def notices(self, name: str | None, *, given_up: bool, after: int, limit: int) -> Sequence[Notice]:  # noqa: ARG002
        """There are none."""
        return ()

    async def replay(self, name: str | None, number: int | None) -> int:  # noqa: ARG002
        """Nothing was given up."""
        return 0
