"""Log lines of the command line: plain text on the standard error. The library itself configures nothing."""

import logging
from enum import StrEnum
from typing import Final

from taskloom.cli.output import visible

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}  # the last: uvicorn


class LogLevel(StrEnum):
    """What is logged: this level and those above."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class PlainFormatter(logging.Formatter):
    """One line per record; behind the text stands the data that it carries: `an attempt failed task=… attempt=1`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        data = [f"{name}={visible(str(value))}" for name, value in vars(record).items() if name not in _OWN]
        return " ".join([super().formatMessage(record), *data])


def configure(level: LogLevel) -> None:
    """Log *level* and above to the standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
