"""Log records as data, and the lines of one attempt while it runs."""

import logging
import reprlib
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any, Final

from taskloom.execution.failures import clean, traceback_text
from taskloom.model import LogLine, TaskEntity
from taskloom.ports import Clock, LogBatch
from taskloom.values import Json, check, decode, encode_checked

MAX_LINES: Final = 1_000
"""Lines that are kept of one attempt."""
MAX_BYTES: Final = 256 * 1024
"""Bytes of UTF-8 that are kept of one attempt: messages, names of loggers, fields, exceptions."""
MAX_MESSAGE: Final = 8_000
"""Characters of one message, and of one exception."""
MAX_FIELDS: Final = 50
MAX_FIELD: Final = 2_000
"""Characters of one field; of its name a tenth of that."""
MAX_ALL_FIELDS: Final = 16_000
"""Characters of all fields of a line. With this no single line is over `MAX_BYTES`."""

STANDARD: Final = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}
"""What every record has; all else came as `extra`."""
_NO_FIELDS: Final[Mapping[str, Json]] = MappingProxyType({})

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = MAX_FIELD
_repr.maxlist = _repr.maxtuple = _repr.maxset = _repr.maxfrozenset = _repr.maxdict = _repr.maxdeque = 100


class LogKeeping:
    """What the attempts of one worker share: which lines are kept, and what time it is."""

    __slots__ = ("clock", "level", "lock")

    def __init__(self, clock: Clock, level: int) -> None:
        self.clock = clock
        self.level = level
        """Lines below it are not kept."""
        self.lock = threading.RLock()


class LogBuffer:
    """The lines of one attempt that are not known to be stored; usable from any thread.

    It is never larger than what is kept of an attempt, however slow the storage is: the oldest lines make room.
    """

    __slots__ = ("_dropped", "_lines", "_lock", "_size", "_sizes")

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: a signal handler of Python may log in the middle of it
        self._lines: deque[LogLine] = deque()
        self._sizes: deque[int] = deque()
        """Of all lines that are kept, stored or not."""
        self._size = 0
        self._dropped = 0

    @property
    def has_lines(self) -> bool:
        """Whether there is something to be stored."""
        return bool(self._lines)

    def add(self, line: LogLine) -> None:
        """Take one more line."""
        size = _size(line)
        with self._lock:
            self._sizes.append(size)
            self._lines.append(line)
            self._size += size
            while len(self._sizes) > MAX_LINES or self._size > MAX_BYTES:
                self._size -= self._sizes.popleft()
                self._dropped += 1
            while len(self._lines) > len(self._sizes):
                self._lines.popleft()

    def batch(self, task: TaskEntity[Any]) -> LogBatch | None:
        """What is to be stored, of the attempt of *task*; it stays here until `stored` is told."""
        with self._lock:
            if not self._lines:
                return None
            return LogBatch(
                key=task.key,
                run=task.run,
                fence=task.fence,
                first=self._dropped + len(self._sizes) - len(self._lines),
                lines=tuple(self._lines),
                dropped=self._dropped,
            )

    def stored(self, batch: LogBatch) -> None:
        """The lines of *batch* are stored."""
        with self._lock:
            first = self._dropped + len(self._sizes) - len(self._lines)
            for _ in range(batch.first + len(batch.lines) - first):
                self._lines.popleft()


def size(lines: Sequence[LogLine]) -> int:
    """How many bytes *lines* count."""
    return sum(map(_size, lines))


def line_of(record: logging.LogRecord, extra: Mapping[Any, Any], keeping: LogKeeping, task: TaskEntity[Any]) -> LogLine:
    """*record* with its fields *extra*, as it is kept with the running *task*. Never raises."""
    return LogLine(
        at=keeping.clock.now(),
        level=clean(str(record.levelname), 100),
        logger=clean(str(record.name), 200),
        run=task.run,
        attempt=task.attempt,
        message=clean(_message(record), MAX_MESSAGE),
        fields=_fields(extra) if extra else _NO_FIELDS,
        exception=_exception(record),
    )


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 - arguments that do not fit, or the user's __str__
        return f"{_shown(record.msg)} {_shown(record.args)} (could not be formatted: {type(error).__name__})"


def _fields(extra: Mapping[Any, Any]) -> Mapping[str, Json]:
    fields: dict[str, Json] = {}
    room = MAX_ALL_FIELDS
    for name, value in islice(extra.items(), MAX_FIELDS):
        text, kept = _field(value)
        room -= len(text)
        fields[clean(name if isinstance(name, str) else _shown(name), MAX_FIELD // 10)] = kept if room >= 0 else "…"
    return fields


def _field(value: object) -> tuple[str, Json]:
    """*value* as text, and as what it is if that can be kept."""
    if type(value) is str:
        text = clean(value, MAX_FIELD)
        return text, text
    try:
        check(value, "extra")
        text = encode_checked(value)
        if len(text) <= MAX_FIELD:
            return text, decode(text)  # a copy: what the handler does to the object later is not what it logged
    except Exception:  # noqa: BLE001 - no JSON, or whatever the user's objects do
        text = _shown(value)
    text = clean(text, MAX_FIELD)
    return text, text


def _exception(record: logging.LogRecord) -> str | None:
    texts = []
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        texts.append(traceback_text(error))
    elif record.exc_text:
        texts.append(record.exc_text)
    if record.stack_info:
        texts.append(record.stack_info)
    return clean("\n".join(texts).rstrip("\n"), MAX_MESSAGE, keep_end=True) if texts else None


def _shown(value: object) -> str:
    try:
        return clean(_repr.repr(value), MAX_FIELD)
    except Exception as error:  # noqa: BLE001 - the user's __repr__ may raise anything
        return f"({type(value).__name__}, whose __repr__ raised {type(error).__name__})"


def _size(line: LogLine) -> int:
    fields = encode_checked(dict(line.fields)) if line.fields else ""
    return sum(map(_bytes, (line.message, line.logger, fields, line.exception or "")))


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
