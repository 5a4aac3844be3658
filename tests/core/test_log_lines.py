"""The lines of one attempt while it runs: bounded, in order, none twice, none forgotten."""

import threading
from collections.abc import Mapping
from types import MappingProxyType

from hypothesis import given
from hypothesis import strategies as st

from taskloom.clock import EPOCH
from taskloom.events.log_lines import MAX_BYTES, MAX_LINES, LogBuffer, size
from taskloom.model import LogLine
from taskloom.ports import LogBatch
from tests.core.strategies import plain

TASK = plain(run=2, fence=5, attempt=3)
NO_FIELDS: Mapping[str, str] = MappingProxyType({})


def line(number: int, length: int = 1) -> LogLine:
    return LogLine(
        at=EPOCH,
        level="INFO",
        logger="",
        run=2,
        attempt=3,
        message=f"{number:0{length}}",
        fields=NO_FIELDS,
    )


def taken(buffer: LogBuffer) -> LogBatch:
    batch = buffer.batch(TASK)
    assert batch is not None
    return batch


def test_an_empty_buffer_has_nothing_to_store() -> None:
    buffer = LogBuffer()
    assert not buffer.has_lines
    assert buffer.batch(TASK) is None


def test_a_batch_says_whose_lines_it_holds() -> None:
    buffer = LogBuffer()
    buffer.add(line(0))
    buffer.add(line(1))
    assert taken(buffer) == LogBatch(key=TASK.key, run=2, fence=5, first=0, lines=(line(0), line(1)), dropped=0)


def test_lines_stay_until_they_are_stored() -> None:
    """Whoever could not store them gets them again, with those that came since."""
    buffer = LogBuffer()
    buffer.add(line(0))
    first = taken(buffer)
    buffer.add(line(1))
    assert [item.message for item in taken(buffer).lines] == ["0", "1"]
    buffer.stored(first)
    rest = taken(buffer)
    assert (rest.first, rest.lines) == (1, (line(1),))
    buffer.stored(first)  # told twice
    assert taken(buffer) == rest
    buffer.stored(rest)
    assert not buffer.has_lines
    assert buffer.batch(TASK) is None


def test_what_is_stored_already_is_dropped_too() -> None:
    """The bound is that of the attempt, wherever its lines are."""
    buffer = LogBuffer()
    for number in range(MAX_LINES):
        buffer.add(line(number))
    buffer.stored(taken(buffer))
    buffer.add(line(MAX_LINES))
    batch = taken(buffer)
    assert (batch.first, batch.dropped, len(batch.lines)) == (MAX_LINES, 1, 1)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(1, 3), st.sampled_from([1, 300, 8_000, 30_000])),
            st.tuples(st.just("add"), st.integers(1, 700), st.just(1)),
            st.tuples(st.sampled_from(["take", "stored"]), st.just(0), st.just(0)),
        ),
        max_size=25,
    )
)
def test_against_a_list_that_forgets_nothing(steps: list[tuple[str, int, int]]) -> None:
    """A model that keeps all lines, and says of each moment which of them an attempt may have."""
    buffer, every, held, stored = LogBuffer(), list[LogLine](), list[LogBatch](), 0
    for what, count, length in steps:
        if what == "add":
            for _ in range(count):
                every.append(line(len(every), length))
                buffer.add(every[-1])
        elif what == "take":
            batch = buffer.batch(TASK)
            if batch is not None:
                held.append(batch)
        elif held:
            batch = held.pop(0)
            buffer.stored(batch)
            stored = max(stored, batch.first + len(batch.lines))
        dropped = max(0, len(every) - MAX_LINES)
        while size(every[dropped:]) > MAX_BYTES:
            dropped += 1
        first = max(stored, dropped)
        batch = buffer.batch(TASK)
        assert buffer.has_lines == (batch is not None) == (first < len(every))
        if batch is not None:
            assert (batch.first, batch.dropped) == (first, dropped)
            assert list(batch.lines) == every[first:]


def test_many_threads_may_log_while_one_stores() -> None:
    """Each line once, and those of one thread in their order."""
    buffer, seen = LogBuffer(), list[LogLine]()
    together = threading.Barrier(4)

    def add(thread: int) -> None:
        together.wait(30)
        for number in range(200):
            buffer.add(line(thread * 1_000 + number))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(1, 4)]
    for thread in threads:
        thread.start()
    together.wait(30)
    while any(thread.is_alive() for thread in threads) or buffer.has_lines:
        batch = buffer.batch(TASK)
        if batch is not None:
            assert batch.first == len(seen)
            seen += batch.lines
            buffer.stored(batch)
    numbers = [int(item.message) for item in seen]
    assert sorted(numbers) == [thread * 1_000 + number for thread in range(1, 4) for number in range(200)]
    for which in range(1, 4):
        own = [number for number in numbers if number // 1_000 == which]
        assert own == sorted(own)
