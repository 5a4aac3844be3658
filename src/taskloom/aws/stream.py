"""`ports.ChangeStream` where Lambda is handed the records of the table's stream: there is nothing to take."""

from collections.abc import Sequence
from datetime import datetime

from taskloom.ports import StreamFailure, StreamRecord, TaskMessage


class PushedStream:
    """A stream that pushes its records to the dispatching function; `entry` sends their messages."""

    async def take(self, limit: int, *, again_at: datetime) -> Sequence[StreamRecord]:  # noqa: ARG002
        """See `ports.ChangeStream`. Nothing."""
        return []

    async def forward(self, limit: int) -> int:  # noqa: ARG002
        """See `ports.ChangeStream`. None."""
        return 0

    async def settle(self, done: Sequence[tuple[int, TaskMessage | None]], failures: Sequence[StreamFailure]) -> None:
        """See `ports.ChangeStream`. Nothing was taken, so there is nothing to settle."""

    async def next_due(self) -> datetime | None:
        """See `ports.ChangeStream`. Never."""
        return None
