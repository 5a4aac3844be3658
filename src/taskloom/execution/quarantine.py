"""Tasks that may be poison run one at a time, so that they do not take each other along."""

from datetime import timedelta
from typing import Final

from taskloom.lifecycle import Change, Claimant, is_last_chance
from taskloom.model import TaskKey

LOOK_AGAIN: Final = timedelta(seconds=1)
"""How soon to look again at a task that somebody else was just faster to claim, or for which there is no room yet."""


class Quarantine:
    """Who is given up should the worker die once more: of those a worker runs one at a time.

    Whatever ran in a worker that died is suspected, and most of it is innocent. Together again they would die together
    again, until all are given up for the one that is to blame.
    """

    def __init__(self) -> None:
        self._inside: TaskKey | None = None

    def admits(self, claim: Change, who: Claimant) -> bool:
        """Whether the task may be claimed now. If so, and it has to be alone, it is inside until it leaves."""
        if not is_last_chance(claim, who.max_lost):
            return True
        if self._inside is not None and self._inside != claim.key:
            return False
        self._inside = claim.key
        return True

    def leave(self, key: TaskKey) -> None:
        """The task *key* is over, or was not claimed."""
        if self._inside == key:
            self._inside = None
