"""With which code the program ends: one table, read by the program, its documentation and its tests."""

from typing import Final

from taskloom.errors import InvalidInput, MissingExtra, StoreError, TaskloomError, TaskNotFound, WiringError

OK: Final = 0
"""Done. A worker: it was asked to stop, and did."""
FAILED: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
STORAGE: Final = 4
SIGNAL: Final = 128
"""Plus the number of the signal that ended the program at once: 130 is Ctrl-C."""

EXIT_CODES: Final[tuple[tuple[type[TaskloomError], int], ...]] = (
    (InvalidInput, USAGE),
    (WiringError, USAGE),
    (MissingExtra, USAGE),
    (TaskNotFound, NOT_FOUND),
    (StoreError, STORAGE),
    (TaskloomError, FAILED),
)
"""Error class → exit code; the first that matches counts."""


def exit_code(error: TaskloomError) -> int:
    """The exit code for *error*."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
