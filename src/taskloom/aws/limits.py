"""What DynamoDB allows; checked before a call. Source, unless it says otherwise: Amazon DynamoDB developer guide,
"Quotas in Amazon DynamoDB", 2026."""

from typing import Final

from taskloom.errors import InvalidInput

ITEM_BYTES: Final = 400 * 1024
"""One item, with the names of its attributes."""
PARTITION_KEY_BYTES: Final = 2048
SORT_KEY_BYTES: Final = 1024
BATCH_GET_ITEMS: Final = 100
"""Items of one BatchGetItem (source: API reference, BatchGetItem)."""
BATCH_WRITE_ITEMS: Final = 25
"""Items of one BatchWriteItem (source: API reference, BatchWriteItem)."""
PAGE_BYTES: Final = 1024 * 1024
"""What one Query looks at, at most."""
READ_UNIT_BYTES: Final = 4096
"""One strongly consistent read; an eventually consistent one costs half (source: "Read/write capacity")."""
WRITE_UNIT_BYTES: Final = 1024
"""One write of an item or of an index entry (source: "Read/write capacity")."""


def check_item(size: int, field: str) -> None:
    """Raise InvalidInput unless an item of *size* bytes can be kept."""
    if size > ITEM_BYTES:
        raise InvalidInput(
            field, f"makes an item of {size} bytes", f"DynamoDB keeps {ITEM_BYTES}; put the rest elsewhere"
        )
