"""What the server answers, as the values that `TaskService` returns."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from taskloom.errors import InvalidInput, ServerUnreachable
from taskloom.model import LogLine, Page, TaskEntity
from taskloom.record import from_item, parse_time

ItemT = TypeVar("ItemT")


@contextmanager
def understood() -> Iterator[None]:
    """What cannot be read within is the server's fault. Raises: ServerUnreachable."""
    try:
        yield
    except (InvalidInput, KeyError, TypeError, ValueError) as error:
        raise ServerUnreachable(f"the server's answer is not understood: {error!r}") from error


def task_of(item: Mapping[str, Any]) -> TaskEntity[Any]:
    """The task of its JSON."""
    with understood():
        return from_item(item)


def page_of(body: Mapping[str, Any], parse: Callable[[Mapping[str, Any]], ItemT]) -> Page[ItemT]:
    """The page of its JSON."""
    with understood():
        return Page(items=[parse(item) for item in body["items"]], cursor=body["cursor"])


def line_of(item: Mapping[str, Any]) -> LogLine:
    """The log line of its JSON."""
    return LogLine(
        at=parse_time(item["at"]),
        level=item["level"],
        logger=item["logger"],
        run=item["run"],
        attempt=item["attempt"],
        message=item["message"],
        fields=item.get("fields", {}),
        exception=item.get("exception"),
        dropped=item.get("dropped", 0),
    )
