"""Tasks that may be poison run one at a time, so that they do not take each other along."""

from datetime import timedelta
from typing import Final

from taskloom.lifecycle import Change, Claimant, is_last_chance

LOOK_AGAIN: Final = timedelta(seconds=1)
"""How soon to look again at a task that somebody else was just faster to claim, or for which there is no room yet."""


class Quarantine:
    """Who is given up should the worker die once more: of those a worker runs one at a time.

    Whatever ran in a worker that died is suspected, and most of it is innocent. Together again they would die together
    again, until all are given up for the one that is to blame.
    """

    def __init__(self) -> None:
        self._inside: object = None

    def admits(self, claim: Change, who: Claimant, holder: object) -> bool:
        """Whether the task may be claimed now. If so, and it has to be alone, *holder* is inside until it leaves.

        Not the task itself is the holder: its message may come twice, and the second one must not open the door.
        """
        if not is_last_chance(claim, who.max_lost):
            return True
        if self._inside is not None and self._inside != holder:
            return False
        self._inside = holder
        return True

    def leave(self, holder: object) -> None:
        """The end of what *holder* ran is written, or it was not claimed."""
        if holder is not None and self._inside == holder:
            self._inside = None
