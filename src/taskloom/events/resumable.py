"""Loops that stop before their time is up, and go on where they stopped."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from taskloom.errors import Continue, InvalidInput, InvalidType
from taskloom.values import Json

if TYPE_CHECKING:
    from taskloom.events.context import RunContext

ItemT = TypeVar("ItemT")
Page: TypeAlias = "tuple[Sequence[ItemT], Json]"
"""The items of a page, and the cursor of the next one; None: this is the last."""
Items: TypeAlias = "Sequence[ItemT] | Callable[[Json], Page[ItemT] | Awaitable[Page[ItemT]]]"

SAVE_EVERY: Final = 1.0
"""Seconds between two saves of the position while there is time."""
MARGIN: Final = 0.1
"""Of the time that an attempt has: when so little is left, the loop goes on in another slice."""
LONGEST_MARGIN: Final = 10.0
"""Seconds."""
STOPS: Final = "stops before its limit, and goes on in another slice"


class Position:
    """How far one loop is; kept with what its handler saves."""

    def __init__(self, run: "RunContext", name: str) -> None:
        if name in run.loops:
            raise InvalidInput("name", f"{name!r} is the name of another loop of this handler", "give each its own")
        run.loops.add(name)
        self._run = run
        self._name = name
        self._saved_at = self._moved_at = run.now()
        saved: Any = run.positions.get(name) or {}
        self.cursor: Json = saved.get("cursor")
        self.index: int = saved.get("index", 0)
        """The next item, counted from the beginning of the page."""
        self.is_over: bool = saved.get("over", False)

    def move(self, cursor: Json, index: int, *, over: bool = False) -> None:
        """Everything before this is done."""
        now = self._run.now()
        took, self._moved_at = (now - self._moved_at).total_seconds(), now
        self._run.longest_item = max(self._run.longest_item, took)
        self.cursor, self.index, self.is_over = cursor, index, over
        self._run.positions[self._name] = {"cursor": cursor, "index": index} | ({"over": True} if over else {})

    def check(self) -> None:
        """Stop when there is little time left, or less than an item took. Raises: Continue."""
        if self._run.remaining() <= max(self._run.margin, self._run.longest_item):
            raise Continue(reason=STOPS)

    @property
    def is_due(self) -> bool:
        """Whether the position should be saved now."""
        now = self._run.now()
        due = (now - self._saved_at).total_seconds() >= SAVE_EVERY
        if due:
            self._saved_at = now
        return due


async def resumable(run: "RunContext", items: "Items[ItemT]", name: str) -> AsyncIterator[ItemT]:
    """See `RunContext.resumable`."""
    position = Position(run, name)
    while not position.is_over:
        position.check()
        page, following = _page(items, position.cursor)
        if inspect.isawaitable(page):
            page, following = _checked(await page)
        for index in range(position.index, len(page)):
            yield page[index]
            position.move(position.cursor, index + 1)
            position.check()
            if position.is_due:
                await run.save()
        position.move(following, 0, over=following is None)
    await run.save()


def resumable_sync(run: "RunContext", items: "Items[ItemT]", name: str) -> Iterator[ItemT]:
    """The same for `def` handlers."""
    position = Position(run, name)
    while not position.is_over:
        position.check()
        page, following = _page(items, position.cursor)
        for index in range(position.index, len(page)):
            yield page[index]
            position.move(position.cursor, index + 1)
            position.check()
            if position.is_due:
                run.sync.save()
        position.move(following, 0, over=following is None)
    run.sync.save()


def _page(items: Any, cursor: Json) -> tuple[Any, Json]:
    if not callable(items):
        if not isinstance(items, Sequence) or isinstance(items, (str, bytes)):
            what = f"{type(items).__name__} is no sequence of items"
            raise InvalidType("items", what, "give a list, or a function from a cursor to a page")
        return items, None
    page = items(cursor)
    return (page, None) if inspect.isawaitable(page) else _checked(page)


def _checked(page: Any) -> tuple[Any, Json]:
    if not (isinstance(page, tuple) and len(page) == 2 and isinstance(page[0], Sequence)):
        raise InvalidType("items", f"the function returned {page!r}", "return the items and the next cursor, or None")
    return page
