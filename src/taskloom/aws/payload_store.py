"""`ports.PayloadStore` over S3.

A value is an object. The items of a fan-out are one object: a line of JSON for each, and behind them a table with a
number of fixed width for each, where its line begins. So any run of neighbours is read with two ranges, however many
items there are; where the table begins stands in the reference.
"""

import struct
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final
from urllib.parse import quote, unquote

from taskloom.aws.clients import Clients
from taskloom.aws.refusals import refusal
from taskloom.errors import InvalidInput, StoreCorrupt, StoreError
from taskloom.values import EncodedJson

SERVICE: Final = "s3"
INLINE_LIMIT: Final = 4 * 1024
"""Bytes of a value that its item may hold: each further kilobyte would be paid for with every write of the task."""
PREFIX: Final = "payloads/"
"""How the keys of all objects begin; the bucket's lifecycle rules go by it."""
PART_BYTES: Final = 8 * 1024 * 1024
"""From which size on a list is uploaded in parts while it is produced; at least 5 MiB, but for the last part."""
MAX_PARTS: Final = 10_000
"""Parts of one object (source, also of the size of a part: Amazon S3 user guide, "Multipart upload limits")."""
WIDTH: Final = 8
"""Bytes of an entry of the table: a big-endian number."""

_GONE: Final = frozenset({"NoSuchKey", "InvalidRange", "404", "416"})


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an object lies, and of a list what is in it."""

    bucket: str
    key: str
    count: int | None = None
    table: int = 0
    """Where the table of a list begins: the size of all its lines."""

    def __str__(self) -> str:
        whole = f"s3://{self.bucket}/{quote(self.key)}"
        return whole if self.count is None else f"{whole}?items={self.count}&table={self.table}"

    @classmethod
    def of(cls, reference: str) -> "_Place":
        """The place of *reference*. Raises: StoreCorrupt."""
        address, _, facts = reference.partition("?")
        bucket, _, key = address.removeprefix("s3://").partition("/")
        if not address.startswith("s3://") or not key:
            raise StoreCorrupt(f"{reference!r} is no reference to a payload in S3")
        if not facts:
            return cls(bucket, unquote(key))
        try:
            values = dict(fact.split("=") for fact in facts.split("&"))
            return cls(bucket, unquote(key), int(values["items"]), int(values["table"]))
        except (KeyError, ValueError):
            raise StoreCorrupt(f"{reference!r} is no reference to items in S3") from None


class S3PayloadStore:
    """Payloads in one bucket."""

    inline_limit = INLINE_LIMIT

    def __init__(self, clients: Clients, bucket: str) -> None:
        self._clients = clients
        self._bucket = bucket

    async def put(self, name: str, text: EncodedJson) -> str:
        """See `ports.PayloadStore`."""
        place = _Place(self._bucket, key_of(name))
        await self._clients.call(
            SERVICE,
            "put_object",
            Bucket=place.bucket,
            Key=place.key,
            Body=text.encode(),
            ContentType="application/json",
        )
        return str(place)

    async def get(self, reference: str) -> EncodedJson:
        """See `ports.PayloadStore`."""
        return EncodedJson((await self._read(_Place.of(reference), None)).decode())

    async def discard(self, reference: str) -> None:
        """See `ports.PayloadStore`."""
        place = _Place.of(reference)
        await self._clients.call(SERVICE, "delete_object", Bucket=place.bucket, Key=place.key)

    def items(self, name: str) -> "S3ItemWriter":
        """See `ports.PayloadStore`."""
        return S3ItemWriter(self._clients, self._bucket, key_of(name))

    async def read_items(self, reference: str, indexes: range) -> Sequence[EncodedJson]:
        """See `ports.PayloadStore`."""
        place = _Place.of(reference)
        if not indexes:
            return []
        if place.count is None or indexes.start < 0 or indexes.stop > place.count:
            raise StoreCorrupt(f"items {indexes.start} to {indexes.stop - 1} of the payload {reference} are gone")
        first = place.table + indexes.start * WIDTH
        # One entry more than there are items says where the next line would begin: it ends the last one.
        entries = await self._read(place, range(first, first + (len(indexes) + 1) * WIDTH))
        starts = struct.unpack(f">{len(indexes) + 1}Q", entries)
        lines = await self._read(place, range(starts[0], starts[-1]))
        return [EncodedJson(lines[a - starts[0] : b - starts[0] - 1].decode()) for a, b in pairwise(starts)]

    async def _read(self, place: _Place, bytes_: range | None) -> bytes:
        asked: dict[str, Any] = {"Bucket": place.bucket, "Key": place.key}
        if bytes_ is not None:
            asked["Range"] = f"bytes={bytes_.start}-{bytes_.stop - 1}"

        def work() -> bytes:
            body: bytes = self._clients.send(SERVICE, "get_object", **asked)["Body"].read()
            return body

        try:
            found = await self._clients.run(work)
        except StoreError as error:
            if refusal(error) in _GONE:
                raise StoreCorrupt(f"the payload {place} is gone") from error
            raise
        if bytes_ is not None and len(found) != len(bytes_):
            raise StoreCorrupt(f"the payload {place} is not what was stored")
        return found


class S3ItemWriter:
    """`ports.ItemWriter` of one fan-out: holds one part in memory, and eight bytes per item."""

    def __init__(self, clients: Clients, bucket: str, key: str) -> None:
        self._clients = clients
        self._bucket = bucket
        self._key = key
        self._starts = array("Q", [0])
        self._size = 0
        self._part = bytearray()
        self._upload: str | None = None
        self._parts: list[dict[str, Any]] = []

    async def add(self, items: Sequence[EncodedJson]) -> None:
        """See `ports.ItemWriter`."""
        for item in items:
            line = item.encode() + b"\n"
            self._part += line
            self._size += len(line)
            self._starts.append(self._size)
        while len(self._part) >= PART_BYTES:
            await self._send(PART_BYTES)

    async def close(self) -> str:
        """See `ports.ItemWriter`."""
        place = _Place(self._bucket, self._key, len(self._starts) - 1, self._size)
        table = self._starts
        if sys.byteorder == "little":
            table.byteswap()
        self._part += table.tobytes()
        if self._upload is None and len(self._part) < PART_BYTES:
            await self._call("put_object", Body=bytes(self._part), ContentType="application/jsonlines")
            return str(place)
        while self._part:
            await self._send(PART_BYTES)
        await self._call("complete_multipart_upload", UploadId=self._upload, MultipartUpload={"Parts": self._parts})
        return str(place)

    async def discard(self) -> None:
        """See `ports.ItemWriter`."""
        if self._upload is not None:
            try:
                await self._call("abort_multipart_upload", UploadId=self._upload)
            except StoreError as error:
                if refusal(error) != "NoSuchUpload":  # it was closed, or discarded before
                    raise
        await self._call("delete_object")

    async def _send(self, size: int) -> None:
        if len(self._parts) == MAX_PARTS:
            raise InvalidInput("input", f"is over {MAX_PARTS * PART_BYTES} bytes", "make several tasks of it")
        if self._upload is None:
            started = await self._call("create_multipart_upload", ContentType="application/jsonlines")
            self._upload = started["UploadId"]
        body, number = bytes(self._part[:size]), len(self._parts) + 1
        answer = await self._call("upload_part", UploadId=self._upload, PartNumber=number, Body=body)
        self._parts.append({"ETag": answer["ETag"], "PartNumber": number})
        del self._part[:size]

    async def _call(self, operation: str, **parameters: Any) -> Any:
        return await self._clients.call(SERVICE, operation, Bucket=self._bucket, Key=self._key, **parameters)


def key_of(name: str) -> str:
    """The key of the object *name*: the parts of a task's key become folders, so that rights can be given by tenant."""
    return PREFIX + name.replace("#", "/")
