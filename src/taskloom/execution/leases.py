"""How long a claim holds."""

from collections.abc import Callable
from datetime import timedelta
from typing import TypeAlias

Lease: TypeAlias = Callable[[float | None], timedelta]
"""For how long a task is claimed whose attempts may take so many seconds (None: as long as they like)."""


def fixed(lease: timedelta) -> Lease:
    """The lease of a worker, which renews it: the same for every task."""
    return lambda _: lease
