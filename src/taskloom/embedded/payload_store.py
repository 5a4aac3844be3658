"""`ports.PayloadStore` over SQLite."""

import sqlite3
from collections.abc import Sequence
from typing import Final

from taskloom.clock import to_milliseconds
from taskloom.embedded.database import Database, Transaction
from taskloom.errors import StoreCorrupt
from taskloom.ports import Clock
from taskloom.values import EncodedJson

INLINE_LIMIT: Final = 64 * 1024
BLOCK_ITEMS: Final = 100
BLOCK_BYTES: Final = 256 * 1024

_PUT: Final = (
    "INSERT INTO payloads (reference, text, at) VALUES (?, ?, ?) "
    "ON CONFLICT (reference) DO UPDATE SET text = excluded.text, at = excluded.at"
)
_GET: Final = "SELECT text FROM payloads WHERE reference = ?"
_PUT_BLOCK: Final = "INSERT INTO payload_items (reference, first, lines, at) VALUES (?, ?, ?, ?)"
_BLOCKS: Final = (
    "SELECT first, lines FROM payload_items WHERE reference = ?1 AND first < ?3 AND first >= "
    "(SELECT max(first) FROM payload_items WHERE reference = ?1 AND first <= ?2) ORDER BY first"
)
_DISCARD: Final = ("DELETE FROM payload_items WHERE reference = ?", "DELETE FROM payloads WHERE reference = ?")


class SqlitePayloadStore:
    """Texts in the table `payloads`, inputs of fan-outs in blocks of `payload_items`."""

    inline_limit = INLINE_LIMIT

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def put(self, name: str, text: EncodedJson) -> str:
        """See `ports.PayloadStore`."""
        values = (name, text, to_milliseconds(self._clock.now()))

        def work(transaction: Transaction) -> str:
            transaction.execute(_PUT, values)
            return name

        return await self._database.write(work)

    async def get(self, reference: str) -> EncodedJson:
        """See `ports.PayloadStore`."""
        row = await self._database.read(lambda connection: connection.execute(_GET, (reference,)).fetchone())
        if row is None:
            raise StoreCorrupt(f"the payload {reference} is gone")
        return EncodedJson(row[0])

    async def discard(self, reference: str) -> None:
        """See `ports.PayloadStore`."""
        await self._database.write(lambda transaction: _discard(transaction, reference), durable=False)

    def items(self, name: str) -> "SqliteItemWriter":
        """See `ports.PayloadStore`."""
        return SqliteItemWriter(self._database, self._clock, name)

    async def read_items(self, reference: str, indexes: range) -> Sequence[EncodedJson]:
        """See `ports.PayloadStore`."""

        def work(connection: sqlite3.Connection) -> list[tuple[int, str]]:
            return connection.execute(_BLOCKS, (reference, indexes.start, indexes.stop)).fetchall()

        found: list[EncodedJson] = []
        for first, lines in await self._database.read(work) if indexes else ():
            texts = lines.split("\n")
            found += map(EncodedJson, texts[max(0, indexes.start - first) : max(0, indexes.stop - first)])
        if len(found) != len(indexes):
            raise StoreCorrupt(f"items {indexes.start} to {indexes.stop - 1} of the payload {reference} are gone")
        return found


class SqliteItemWriter:
    """`ports.ItemWriter` of one fan-out.

    Its commits are not durable one by one: that of the task's own row, which comes after them, makes them all durable.
    """

    def __init__(self, database: Database, clock: Clock, reference: str) -> None:
        self._database = database
        self._clock = clock
        self._reference = reference
        self._first = 0
        self._lines: list[EncodedJson] = []

    async def add(self, items: Sequence[EncodedJson]) -> None:
        """See `ports.ItemWriter`."""
        self._lines += items
        if len(self._lines) >= BLOCK_ITEMS:
            await self._write()

    async def close(self) -> str:
        """See `ports.ItemWriter`."""
        await self._write()
        return self._reference

    async def discard(self) -> None:
        """See `ports.ItemWriter`."""
        await self._database.write(lambda transaction: _discard(transaction, self._reference), durable=False)

    async def _write(self) -> None:
        blocks, self._lines = _blocks(self._lines), []
        values, now = [], to_milliseconds(self._clock.now())
        for block in blocks:
            values.append((self._reference, self._first, "\n".join(block), now))
            self._first += len(block)

        def work(transaction: Transaction) -> None:
            transaction.executemany(_PUT_BLOCK, values)

        if values:
            await self._database.write(work, durable=False)


def _blocks(lines: Sequence[EncodedJson]) -> list[list[EncodedJson]]:
    """*lines* in blocks small enough to be read for one item's sake."""
    blocks: list[list[EncodedJson]] = []
    size = BLOCK_BYTES
    for line in lines:
        if size + len(line) > BLOCK_BYTES or len(blocks[-1]) == BLOCK_ITEMS:
            blocks.append([])
            size = 0
        blocks[-1].append(line)
        size += len(line)
    return blocks


def _discard(transaction: Transaction, reference: str) -> None:
    for statement in _DISCARD:
        transaction.execute(statement, (reference,))
