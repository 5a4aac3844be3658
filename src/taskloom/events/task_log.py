"""The log of a running task, in the shape of the standard library's."""

import logging
import threading
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, Protocol

from taskloom.events.log_lines import STANDARD
from taskloom.model import TaskEntity

NAME: Final = "taskloom.task"
"""The logger through which the lines go on."""

_doing = threading.local()
"""What this thread is about, so that it is not done again further down."""
_net: Final = logging.NullHandler()


class Run(Protocol):
    """The run that lines belong to."""

    @property
    def task(self) -> TaskEntity[Any]:
        """The task that runs."""

    def keeps(self, level: int) -> bool:
        """Whether lines of this level are kept."""

    def keep(self, record: logging.LogRecord, extra: Mapping[Any, Any]) -> None:
        """Keep a line."""


class TaskLog(logging.LoggerAdapter[logging.Logger]):
    """A logger whose lines are kept with the task that runs, from `Settings.log_level` on.

    They go on to the logger "taskloom.task", for which the standard logging configuration counts. Outside of a run that
    is all. The names of `extra` may be any.
    """

    def __init__(self, find: Callable[[], Run | None]) -> None:
        super().__init__(_RunLogger(find), None)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """See `logging.LoggerAdapter`; the `extra` of the call stays as it is."""
        return msg, kwargs


class _RunLogger(logging.Logger):
    """Keeps records, and hands them on to the logger that everybody knows."""

    def __init__(self, find: Callable[[], Run | None]) -> None:
        super().__init__(NAME)
        self._target = logging.getLogger(NAME)
        self.parent = self._target
        self._find = find

    def isEnabledFor(self, level: int) -> bool:
        run = self._find()
        return (run is not None and run.keeps(level)) or self._target.isEnabledFor(level)

    def setLevel(self, level: int | str) -> None:
        self._target.setLevel(level)

    def makeRecord(
        self,
        name: str,
        level: int,
        fn: str,
        lno: int,
        msg: object,
        args: Any,
        exc_info: Any,
        func: str | None = None,
        extra: Mapping[str, object] | None = None,
        sinfo: str | None = None,
    ) -> logging.LogRecord:
        record = super().makeRecord(name, level, fn, lno, msg, args, exc_info, func, None, sinfo)
        if extra:
            # A record raises KeyError for its own names; a field may well be called "filename".
            vars(record).update((f"{name}_" if name in STANDARD else name, value) for name, value in extra.items())
        return record

    def handle(self, record: logging.LogRecord) -> None:
        accepted: bool | logging.LogRecord = self._target.filter(record)
        if not accepted:
            return
        if isinstance(accepted, logging.LogRecord):  # from Python 3.12 on a filter may replace it
            record = accepted
        run = self._find()
        if run is not None:
            keep(run, record)
        if self._target.isEnabledFor(record.levelno):
            before, _doing.passed = passed(), record
            try:
                self._target.callHandlers(record)
            finally:
                _doing.passed = before


def passed() -> logging.LogRecord | None:
    """The record that a `TaskLog` hands on at the moment, in this thread: it is kept already."""
    return getattr(_doing, "passed", None)


def keep(run: Run, record: logging.LogRecord) -> None:
    """Keep *record* with *run*, if its level is one that is kept, and write on it which run that is. Never raises."""
    if getattr(_doing, "keeps", False):
        return  # what is logged by the __repr__ of something that is logged
    _doing.keeps = True
    try:
        if run.keeps(record.levelno):
            run.keep(record, _extra(record))
        _mark(record, run.task)
    except Exception:  # noqa: BLE001 - whatever is wrong with a line, the handler goes on
        _net.handleError(record)
    finally:
        _doing.keeps = False


def _extra(record: logging.LogRecord) -> dict[Any, Any]:
    return {
        name[:-1] if str(name).endswith("_") and name[:-1] in STANDARD else name: value
        for name, value in vars(record).items()
        if name not in STANDARD
    }


def _mark(record: logging.LogRecord, task: TaskEntity[Any]) -> None:
    own = vars(record)
    for name, value in (
        ("tenant_code", task.tenant_code),
        ("task_type", task.task_type),
        ("task_key", task.id),
        ("attempt", task.attempt),
    ):
        own.setdefault(name, value)  # what was given as `extra` stays
