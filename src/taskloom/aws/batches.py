"""What goes into one call together."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

ItemT = TypeVar("ItemT")


def batches(items: Sequence[ItemT], size: Callable[[ItemT], int], count: int, total: int) -> Iterator[list[ItemT]]:
    """*items* in their order, at most *count* together and *total* by *size*; one that is larger goes alone."""
    batch: list[ItemT] = []
    filled = 0
    for item in items:
        own = size(item)
        if batch and (len(batch) == count or filled + own > total):
            yield batch
            batch, filled = [], 0
        batch.append(item)
        filled += own
    if batch:
        yield batch
