"""`ports.Notifier` on AWS: nothing is kept for listeners; ends are published to SNS, whose subscribers are told."""

from collections.abc import Sequence
from datetime import datetime

from taskloom.errors import WiringError
from taskloom.ports import Listener, ListenerFigures, Notice, NoticeFailure


class NoNotices:
    """Refuses listeners, when the module is wired or when one comes."""

    def announce(self, listener: Listener, until: datetime) -> None:  # noqa: ARG002
        """See `ports.Notifier`. Raises: WiringError."""
        raise _refused(listener.name)

    async def follow(self, listener: Listener, until: datetime) -> None:  # noqa: ARG002
        """See `ports.Notifier`. Raises: WiringError."""
        raise _refused(listener.name)

    async def tidy(self) -> None:
        """See `ports.Notifier`. There is nothing."""

    async def forget(self, name: str) -> bool:  # noqa: ARG002
        """See `ports.Notifier`. There was none."""
        return False

    async def take(self, name: str, limit: int, *, again_at: datetime) -> Sequence[Notice]:  # noqa: ARG002
        """See `ports.Notifier`. Nothing."""
        return []

    async def settle(self, done: Sequence[Notice], failures: Sequence[NoticeFailure]) -> None:
        """See `ports.Notifier`. Nothing was taken."""

    async def next_due(self, name: str) -> datetime | None:  # noqa: ARG002
        """See `ports.Notifier`. Never."""
        return None

    async def listeners(self) -> Sequence[ListenerFigures]:
        """See `ports.Notifier`. None."""
        return []

    async def notices(self, name: str | None, *, given_up: bool, after: int, limit: int) -> Sequence[Notice]:  # noqa: ARG002
        """See `ports.Notifier`. None."""
        return []

    async def replay(self, name: str | None, number: int | None) -> int:  # noqa: ARG002
        """See `ports.Notifier`. None."""
        return 0


def _refused(name: str) -> WiringError:
    return WiringError(
        f"listener {name!r}: the backend 'aws' keeps no notices; set topic_arn, and subscribe a queue, a function or "
        "an HTTPS endpoint to that topic"
    )
