"""What each backend can do exactly, what as well as it can, and what it refuses (rule 8).

The contract suites read this table: a test that demands exactness of a feature runs where the backend has it exactly.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Level(StrEnum):
    """How well a backend does a thing."""

    EXACT = "exact"
    BEST_EFFORT = "best effort"
    REFUSED = "refused"
    """Asking for it is an error at start-up."""


class Feature(StrEnum):
    """What backends differ in."""

    LISTS = "lists"
    """A list shows every write that was answered before."""
    REPAIRS = "repairs"
    """What has lost its message is found, and nothing else."""
    FAIRNESS = "fairness"
    """Tenants and task types take turns."""
    PRIORITIES = "priorities"
    CAPS = "caps"
    """No more tasks of a type run at a time than its cap says."""
    PAUSES = "pauses"
    """Nothing that is paused is given out."""
    LANES = "lanes"
    """What waits, is delayed and is in somebody's hands, by tenant, kind and type."""
    PLACES = "places"
    """Where the message of a task stands in the queue."""
    THROUGHPUT = "throughput"
    """What ended, minute by minute."""


BACKENDS: Final = ("embedded", "aws")

_EMBEDDED_ALONE: Final[Mapping[str, Level]] = {"embedded": Level.EXACT, "aws": Level.BEST_EFFORT}

LEVELS: Final[Mapping[Feature, Mapping[str, Level]]] = {
    Feature.LISTS: _EMBEDDED_ALONE,
    Feature.REPAIRS: _EMBEDDED_ALONE,
    Feature.FAIRNESS: _EMBEDDED_ALONE,
    Feature.PRIORITIES: _EMBEDDED_ALONE,
    Feature.CAPS: _EMBEDDED_ALONE,
    Feature.PAUSES: _EMBEDDED_ALONE,
    Feature.LANES: _EMBEDDED_ALONE,
    Feature.PLACES: _EMBEDDED_ALONE,
    Feature.THROUGHPUT: _EMBEDDED_ALONE,
}
"""What is not in the table is exact everywhere."""


def is_exact(feature: Feature, backend: str) -> bool:
    """Whether *backend* does *feature* exactly."""
    return LEVELS[feature][backend] is Level.EXACT
