"""`ports.Retention` on AWS, where the services remove what is over."""

from datetime import datetime


class ExpiryOfServices:
    """Removes nothing itself: DynamoDB does so with items whose `ttl` has come, lifecycle rules do with objects."""

    async def remove_expired(self, limit: int) -> int:  # noqa: ARG002
        """Nothing is left for us to remove."""
        return 0

    async def expired(self, limit: int) -> int:  # noqa: ARG002
        """Nothing that waits for us."""
        return 0

    async def remove_orphans(self, before: datetime, after: str, limit: int) -> str | None:  # noqa: ARG002
        """At the end at once."""
        return None
