"""`ports.Retention` where the services remove what nobody needs: DynamoDB by `ttl`, S3 by the bucket's rules."""

from datetime import datetime


class RetentionByServices:
    """Leaves everything to them. What has expired counts as absent from that moment on, whenever it is removed."""

    async def remove_expired(self, limit: int) -> int:  # noqa: ARG002
        """See `ports.Retention`. Nothing is left to do."""
        return 0

    async def expired(self, limit: int) -> int:  # noqa: ARG002
        """See `ports.Retention`. DynamoDB does not say."""
        return 0

    async def remove_orphans(self, before: datetime, after: str, limit: int) -> str | None:  # noqa: ARG002
        """See `ports.Retention`. The lifecycle rules do it."""
        return None
