"""The contract of `ports.PayloadStore` and `ports.ItemWriter`."""

import asyncio
from collections.abc import Sequence

import pytest

from taskloom.errors import StoreCorrupt
from taskloom.ports import Backend
from taskloom.values import EncodedJson, encode
from tests.contract.base import Contract, in_threads, scenario

SMALL = [encode({"n": n}, "item") for n in range(257)]
AWKWARD = [
    encode("", "item"),
    encode(None, "item"),
    encode([{}, 1e-130, 10**37], "item"),
    encode("a\nb\r\n\x0b\x0c\x1c\0", "item"),
    encode("\u2028\u2029\u0085😀", "item"),
    encode("'\"\\n; -- %s", "item"),
]


class PayloadStoreContract(Contract):
    """Every sentence of `ports.PayloadStore` and `ports.ItemWriter`."""

    # --- whole values --------------------------------------------------------------------------------------------

    @scenario
    async def test_what_was_put_is_there(self, backend: Backend) -> None:
        payloads, name = backend.payloads, backend.ids.token()
        texts = [*AWKWARD, encode("x" * 2_000_000, "large"), encode("käse😀" * 50_000, "wide")]
        references = [await payloads.put(f"{name}/{n}", text) for n, text in enumerate(texts)]
        assert len(set(references)) == len(texts)
        assert [await payloads.get(reference) for reference in references] == texts

    @scenario
    async def test_names_may_be_those_of_tasks(self, backend: Backend) -> None:
        """Keys of tasks with what belongs to them behind a slash."""
        payloads, code = backend.payloads, backend.ids.token()
        names = [f"TASK#t#cat.one-2_3#{code}/{end}" for end in ("input", "result/1/1", "result/1/11", "result/1")]
        references = [await payloads.put(name, encode(name, "text")) for name in names]
        assert [await payloads.get(reference) for reference in references] == [encode(name, "text") for name in names]

    @scenario
    async def test_the_same_name_replaces(self, backend: Backend) -> None:
        payloads, name = backend.payloads, backend.ids.token()
        for text in (SMALL[0], SMALL[1], SMALL[1]):
            reference = await payloads.put(name, text)
            assert await payloads.get(reference) == text

    @scenario
    async def test_a_payload_that_is_gone_is_an_error(self, backend: Backend) -> None:
        """Never an empty value, which would look like an input."""
        payloads, name = backend.payloads, backend.ids.token()
        reference = await payloads.put(name, SMALL[0])
        with pytest.raises(StoreCorrupt):
            await payloads.get(reference + "0")

    @scenario
    async def test_payloads_outlive_the_use_of_the_backend(self, backend: Backend) -> None:
        payloads, name = backend.payloads, backend.ids.token()
        reference = await payloads.put(f"{name}/whole", SMALL[0])
        items = await _written(backend, f"{name}/items", [SMALL])
        backend.close()
        assert await payloads.get(reference) == SMALL[0]
        assert await payloads.read_items(items, range(257)) == SMALL

    @scenario
    async def test_a_discarded_value_is_gone(self, backend: Backend) -> None:
        """And nothing of anybody else, whose name may begin alike. What is not there can be discarded, too."""
        payloads, name = backend.payloads, backend.ids.token()
        names = (f"{name}/result/1", f"{name}/result/11", f"{name}/result", f"{name}/result/1/1", f"{name}/result/_")
        references = [await payloads.put(end, encode(end, "text")) for end in names]
        for _ in range(2):
            await payloads.discard(references[0])
            with pytest.raises(StoreCorrupt):
                await payloads.get(references[0])
        await payloads.discard(references[-1][:-1] + "%")
        assert [await payloads.get(reference) for reference in references[1:]] == [encode(n, "text") for n in names[1:]]
        assert await payloads.get(await payloads.put(names[0], SMALL[1])) == SMALL[1]

    @scenario
    async def test_the_inline_limit_is_a_number_of_bytes(self, backend: Backend) -> None:
        """What is longer can be put."""
        limit = backend.payloads.inline_limit
        assert 0 < limit < 400_000  # an item of a table holds no more on any backend
        text = encode("x" * limit, "text")
        assert await backend.payloads.get(await backend.payloads.put(backend.ids.token(), text)) == text

    # --- items ---------------------------------------------------------------------------------------------------

    @scenario
    async def test_any_range_of_items_can_be_read(self, backend: Backend) -> None:
        """However the items came: one by one, in batches of any size, all together."""
        for sizes in ([1] * 7, [257], [100, 100, 57], [99, 1, 101, 56], [0, 3, 0, 250, 4, 0], [150, 107]):
            batches, first = [], 0
            for size in sizes:
                batches.append(SMALL[first : first + size])
                first += size
            reference = await _written(backend, backend.ids.token(), batches)
            edges = [edge for edge in (0, 1, 2, 6, 7, 99, 100, 101, 149, 150, 200, 201, 256, 257) if edge <= first]
            for start in edges:
                for stop in (edge for edge in edges if edge >= start):
                    found = await backend.payloads.read_items(reference, range(start, stop))
                    assert list(found) == SMALL[start:stop]

    @scenario
    async def test_items_are_kept_exactly(self, backend: Backend) -> None:
        """Also those with every kind of line end in them, and those larger than any block."""
        texts = [*AWKWARD, encode("x" * 300_000, "large"), *AWKWARD, encode("😀" * 100_000, "wide"), SMALL[0]]
        reference = await _written(backend, backend.ids.token(), [texts])
        assert list(await backend.payloads.read_items(reference, range(len(texts)))) == texts
        for index, text in enumerate(texts):
            assert list(await backend.payloads.read_items(reference, range(index, index + 1))) == [text]

    @scenario
    async def test_a_large_list_is_read_anywhere(self, backend: Backend) -> None:
        count = 20_000
        texts = [EncodedJson(str(n)) for n in range(count)]
        batches = [texts[first : first + 1000] for first in range(0, count, 1000)]
        reference = await _written(backend, backend.ids.token(), batches)
        for start in (0, 1, 9_999, 12_345, count - 100):
            found = await backend.payloads.read_items(reference, range(start, start + 100))
            assert list(found) == texts[start : start + 100]

    @scenario
    async def test_an_empty_list_has_a_reference(self, backend: Backend) -> None:
        reference = await _written(backend, backend.ids.token(), [])
        assert list(await backend.payloads.read_items(reference, range(0))) == []

    @scenario
    async def test_lists_are_kept_apart(self, backend: Backend) -> None:
        """Written side by side under names that begin alike, and beside a whole value."""
        name = backend.ids.token()
        writers = [backend.payloads.items(name + end) for end in ("", "/1", "/11")]
        for first in range(0, 257, 40):
            for shift, writer in enumerate(writers):
                await writer.add([EncodedJson(f"[{shift},{n}]") for n in range(first, first + 40)])
        references = [await writer.close() for writer in writers]
        whole = await backend.payloads.put(name + "/whole", SMALL[0])
        for shift, reference in enumerate(references):
            found = await backend.payloads.read_items(reference, range(30, 210))
            assert list(found) == [f"[{shift},{n}]" for n in range(30, 210)]
        assert await backend.payloads.get(whole) == SMALL[0]

    @scenario
    async def test_discarded_items_are_gone(self, backend: Backend) -> None:
        """All of them, and nothing of anybody else."""
        name = backend.ids.token()
        other = await _written(backend, name + "/other", [SMALL])
        for close in (True, False):
            writer = backend.payloads.items(f"{name}/{close}")
            await writer.add(SMALL)
            reference = await writer.close() if close else other
            await writer.discard()
            if close:
                with pytest.raises(StoreCorrupt):
                    await backend.payloads.read_items(reference, range(1))
        assert list(await backend.payloads.read_items(other, range(257))) == SMALL

    @scenario
    async def test_a_closed_list_is_discarded_by_its_reference(self, backend: Backend) -> None:
        """As a value is; whoever discards does not know which of the two it was."""
        payloads, name = backend.payloads, backend.ids.token()
        references = [await _written(backend, name + end, [SMALL]) for end in ("/items", "/items2", "/items/2")]
        empty, value = await _written(backend, name + "/empty", []), await payloads.put(name + "/value", SMALL[0])
        for reference in (references[0], references[0], empty):
            await payloads.discard(reference)
        for indexes in (range(1), range(256, 257), range(257)):
            with pytest.raises(StoreCorrupt):
                await payloads.read_items(references[0], indexes)
        for reference in references[1:]:
            assert list(await payloads.read_items(reference, range(257))) == SMALL
        assert await payloads.get(value) == SMALL[0]
        again = await _written(backend, name + "/items", [SMALL[:2]])
        assert list(await payloads.read_items(again, range(2))) == SMALL[:2]

    @scenario
    async def test_a_name_can_be_used_after_a_discard(self, backend: Backend) -> None:
        """Whoever tries again begins anew."""
        name = backend.ids.token()
        writer = backend.payloads.items(name)
        await writer.add(SMALL)
        await writer.discard()
        reference = await _written(backend, name, [SMALL[100:103]])
        assert list(await backend.payloads.read_items(reference, range(3))) == SMALL[100:103]
        with pytest.raises(StoreCorrupt):
            await backend.payloads.read_items(reference, range(100, 101))

    @scenario
    async def test_items_that_were_never_closed_are_found_nowhere(self, backend: Backend) -> None:
        """Neither as a value, nor in another list, nor behind the end of one."""
        name = backend.ids.token()
        left_open = backend.payloads.items(name)
        await left_open.add(SMALL)
        reference = await _written(backend, name + "/2", [SMALL[:3]])
        assert list(await backend.payloads.read_items(reference, range(3))) == SMALL[:3]
        for gone in (backend.payloads.read_items(reference, range(2, 5)), backend.payloads.get(name)):
            with pytest.raises(StoreCorrupt):
                await gone

    @scenario
    async def test_items_that_are_not_there_are_an_error(self, backend: Backend) -> None:
        """Never a shorter list, which would shift every input behind it."""
        reference = await _written(backend, backend.ids.token(), [SMALL[:150]])
        for indexes in (range(150, 151), range(149, 151), range(90, 200), range(1000, 1001)):
            with pytest.raises(StoreCorrupt):
                await backend.payloads.read_items(reference, indexes)

    def test_many_use_the_store_at_the_same_time(self, backend: Backend) -> None:
        name = backend.ids.token()

        async def use(number: int) -> bool:
            whole = await backend.payloads.put(f"{name}/whole/{number}", SMALL[number])
            items = await _written(backend, f"{name}/items/{number}", [SMALL[number:], SMALL[:number]])
            first, last = await asyncio.gather(
                backend.payloads.read_items(items, range(5)), backend.payloads.read_items(items, range(252, 257))
            )
            return (
                await backend.payloads.get(whole) == SMALL[number]
                and list(first) == SMALL[number : number + 5]
                and list(last) == (SMALL[number:] + SMALL[:number])[252:]
            )

        assert in_threads(5, use) == [True] * 5


async def _written(backend: Backend, name: str, batches: Sequence[Sequence[EncodedJson]]) -> str:
    """The reference of a list that was written in these batches."""
    writer = backend.payloads.items(name)
    for batch in batches:
        await writer.add(batch)
    return await writer.close()
