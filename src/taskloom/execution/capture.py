"""What handlers log through the standard library finds its way to their tasks."""

import logging
import threading

from taskloom.events.context import CURRENT
from taskloom.events.task_log import NAME, keep, passed

_lock = threading.Lock()
_workers = 0


class _Capture(logging.Handler):
    """Keeps the records that reach the root logger from within a run, and marks them for the handlers behind it.

    It takes no lock: what a record holds is formatted here, and that is the user's code.
    """

    def handle(self, record: logging.LogRecord) -> bool:
        run = CURRENT.get(None)
        if run is not None and record is not passed() and not _is_own(record.name):
            keep(run, record)
        _last_resort(record)
        return True


_capture = _Capture()


def begin() -> None:
    """A worker starts: from the first one on records are captured."""
    global _workers
    with _lock:
        _workers += 1
        if _workers == 1:
            # The first in line, so that the others find on the record whose it is.
            logging.root.handlers.insert(0, _capture)


def end() -> None:
    """A worker has ended: with the last one the root logger is again as it was."""
    global _workers
    with _lock:
        _workers -= 1
        if _workers == 0:
            logging.root.removeHandler(_capture)


def _is_own(name: str) -> bool:
    """Whether the engine speaks of itself."""
    return name.partition(".")[0] == "taskloom" and name != NAME


def _last_resort(record: logging.LogRecord) -> None:
    """What the library does with a warning that nobody handles; to it our handler looks like somebody.

    Source: Python documentation, "logging.lastResort".
    """
    last = logging.lastResort
    if last is None or record.levelno < last.level or len(logging.root.handlers) > 1:
        return
    logger = logging.getLogger(record.name)
    while logger is not logging.root and logger.parent is not None:
        if logger.handlers:
            return
        logger = logger.parent
    last.handle(record)
