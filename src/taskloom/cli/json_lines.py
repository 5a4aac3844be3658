"""JSON that a user hands over: one value, or one per line."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from taskloom.errors import InvalidInput


def parse(text: str | bytes, field: str, remedy: str = "") -> Any:
    """The value of a JSON *text*. Raises: InvalidInput that names *field*."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"at column {error.colno}" if error.lineno == 1 else f"at line {error.lineno}, column {error.colno}"
        raise InvalidInput(field, f"is no JSON: {error.msg} {where}", remedy) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(field, f"is no UTF-8: {error.reason} at byte {error.start}", remedy) from error
    except ValueError as error:  # an integer with more digits than Python reads
        raise InvalidInput(field, f"cannot be read: {error}", remedy) from error
    except RecursionError as error:
        raise InvalidInput(field, "is nested too deep", remedy) from error


class JsonLines:
    """The values of a stream with one JSON value per line, read one by one; empty lines count for nothing."""

    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = stream
        self.number = 0
        """Of the line that was read last, from 1."""

    def __iter__(self) -> Iterator[Any]:
        for line in self._stream:
            self.number += 1
            if line.strip():
                yield parse(line.rstrip(), f"line {self.number}")


def open_file(path: Path) -> BinaryIO:
    """The file *path*. Raises: InvalidInput."""
    try:
        return path.open("rb")
    except OSError as error:
        raise InvalidInput("--file", f"{path}: {error.strerror}", "give a file that can be read") from error
