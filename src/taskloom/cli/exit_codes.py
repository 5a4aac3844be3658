"""With which code the program ends: one table, read by the program, its documentation and its tests."""

from collections.abc import Mapping
from typing import Final

from taskloom.errors import (
    InvalidInput,
    MissingExtra,
    ServerUnreachable,
    StoreError,
    TaskloomError,
    TaskNotFound,
    WiringError,
)
from taskloom.model import TaskStatus

OK: Final = 0
"""Done. A worker: it was asked to stop, and did."""
FAILED: Final = 1
"""Something failed; `doctor` found something; somebody said no."""
USAGE: Final = 2
NOT_FOUND: Final = 3
STORAGE: Final = 4
TASK_FAILED: Final = 5
TASK_CANCELLED: Final = 6
TASK_OPEN: Final = 7
"""The time is over, and the task that is watched has not ended."""
SIGNAL: Final = 128
"""Plus the number of the signal that ended the program at once: 130 is Ctrl-C."""

EXIT_CODES: Final[tuple[tuple[type[TaskloomError], int], ...]] = (
    (InvalidInput, USAGE),
    (WiringError, USAGE),
    (MissingExtra, USAGE),
    (TaskNotFound, NOT_FOUND),
    (StoreError, STORAGE),
    (ServerUnreachable, STORAGE),
    (TaskloomError, FAILED),
)
"""Error class → exit code; the first that matches counts."""

OUTCOMES: Final[Mapping[TaskStatus, int]] = {
    TaskStatus.COMPLETED: OK,
    TaskStatus.FAILED: TASK_FAILED,
    TaskStatus.CANCELLED: TASK_CANCELLED,
    TaskStatus.PENDING: TASK_OPEN,
    TaskStatus.IN_PROGRESS: TASK_OPEN,
}
"""What `watch` says of a task that stands like this."""


def exit_code(error: TaskloomError) -> int:
    """The exit code for *error*."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
