"""From one page to all of them."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from taskloom.model import Page

ItemT = TypeVar("ItemT")


async def all_pages(page: Callable[[str | None], Awaitable[Page[ItemT]]]) -> AsyncIterator[ItemT]:
    """The items of every page: *page* gives the one that a cursor names, the first one for None."""
    cursor = None
    while True:
        found = await page(cursor)
        for item in found.items:
            yield item
        cursor = found.cursor
        if cursor is None:
            return


async def all_behind(
    part: Callable[[int], Awaitable[Sequence[ItemT]]], number: Callable[[ItemT], int]
) -> AsyncIterator[ItemT]:
    """The items of every part: *part* gives the next ones behind a number, none at the end; *number* is an item's."""
    after = 0
    while found := await part(after):
        for item in found:
            yield item
        after = number(found[-1])
