"""The contract of `ports.TaskLogs`."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from taskloom.model import LogLine, TaskKey
from taskloom.ports import Backend, LogBatch, LogPosition
from tests.contract.base import Contract, in_threads, scenario
from tests.support.rows import Rows

AWKWARD = ["", " ", "a\nb\r\n\x0b\x1c\0", "\u2028\u0085😀ä", "'\"; -- %s {} \\", "x" * 8_000, "😀" * 8_000]


class TaskLogsContract(Contract):
    """Every sentence of `ports.TaskLogs`."""

    # --- what was appended is read -------------------------------------------------------------------------------

    @scenario
    async def test_lines_come_back_as_they_were(self, backend: Backend) -> None:
        """Each value of each field; times to the millisecond."""
        key = _key(backend)
        now = backend.clock.now()
        lines = [
            _line(now + timedelta(milliseconds=n), message=text, logger=f"a.{n}", exception=text or None)
            for n, text in enumerate(AWKWARD)
        ]
        lines += [
            _line(now, level="Level 25", fields={"a": [1, 2.5, None, {"b": True}], "": "ä😀", "k\n": -(10**37)}),
            _line(now, level="CRITICAL", fields={"text": "x" * 2_000}, exception="Traceback …\n  ValueError: x"),
        ]
        await backend.logs.append([_batch(key, lines=lines)])
        assert await _read(backend, key) == lines

    @scenario
    async def test_nothing_logged_is_nothing_read(self, backend: Backend) -> None:
        """Whether or not there is such a task."""
        rows = Rows(backend)
        task = await rows.claimed()
        for key in (task.key, _key(backend), TaskKey.sub_task("t", "cat", backend.ids.token(), 0)):
            assert not await backend.logs.read(key, None, 10)
        await backend.logs.append([])

    @scenario
    async def test_lines_are_in_the_order_of_run_fence_and_number(self, backend: Backend) -> None:
        """However they arrive; as numbers, so 10 comes behind 9."""
        key, now = _key(backend), backend.clock.now()
        places = [(1, 1), (1, 2), (1, 10), (2, 11), (10, 100)]
        batches = [_batch(key, run=run, fence=fence, lines=_lines(now, 3, f"{run}.{fence}")) for run, fence in places]
        await backend.logs.append(batches[::-1])
        found = await backend.logs.read(key, None, 100)
        assert [position for position, _ in found] == [(*place, number) for place in places for number in range(3)]
        assert [line.message for _, line in found] == [f"{r}.{f} {n}" for r, f in places for n in range(3)]
        assert [(line.run, position.run) for position, line in found] == [(p.run, p.run) for p, _ in found]

    @scenario
    async def test_an_attempt_is_appended_bit_by_bit(self, backend: Backend) -> None:
        key, lines = _key(backend), _lines(backend.clock.now(), 25)
        for first in range(0, 25, 4):
            await backend.logs.append([_batch(key, first=first, lines=lines[first : first + 4])])
            assert await _read(backend, key) == lines[: first + 4]

    @scenario
    async def test_many_batches_go_in_one_call(self, backend: Backend) -> None:
        """Of many tasks, sub-tasks and tenants; an attempt may have two of them."""
        now, keys = backend.clock.now(), [_key(backend) for _ in range(30)]
        keys += [TaskKey.sub_task("t", "cat", backend.ids.token(), index) for index in (0, 999, 1000, 9_999_999)]
        batches = [_batch(key, first=first, lines=_lines(now, 2, key.id)) for key in keys for first in (0, 2)]
        await backend.logs.append(batches)
        for key in keys:
            found = await backend.logs.read(key, None, 100)
            assert [position.number for position, _ in found] == [0, 1, 2, 3]
            assert {line.message.rpartition(" ")[0] for _, line in found} == {key.id}

    @scenario
    async def test_as_many_as_an_attempt_may_have(self, backend: Backend) -> None:
        """A thousand lines, and a quarter of a megabyte."""
        key, now = _key(backend), backend.clock.now()
        lines = [_line(now, message=f"{n:4}" + "ä" * 128) for n in range(1000)]
        await backend.logs.append([_batch(key, lines=lines)])
        assert await _read(backend, key) == lines

    # --- pages ---------------------------------------------------------------------------------------------------

    @scenario
    async def test_read_goes_on_behind_any_line(self, backend: Backend) -> None:
        key, now = _key(backend), backend.clock.now()
        await backend.logs.append([_batch(key, fence=fence, lines=_lines(now, 5, str(fence))) for fence in (1, 2, 3)])
        everything = await backend.logs.read(key, None, 100)
        for number, (position, _) in enumerate(everything):
            assert list(await _from(backend, key, position, 100)) == everything[number + 1 :]
            assert list(await backend.logs.read(key, position, 1)) == everything[number + 1 : number + 2]

    @scenario
    async def test_at_most_limit(self, backend: Backend) -> None:
        """And nothing is between two pages; only the end is empty."""
        key, lines = _key(backend), _lines(backend.clock.now(), 10)
        await backend.logs.append([_batch(key, lines=lines)])
        for limit in (1, 3, 10, 11):
            seen: list[LogLine] = []
            after = None
            while page := await backend.logs.read(key, after, limit):
                assert len(page) <= limit
                seen += [line for _, line in page]
                after = page[-1][0]
            assert seen == lines

    @scenario
    async def test_a_position_need_not_be_that_of_a_line(self, backend: Backend) -> None:
        """It may have been dropped meanwhile, or belong to another task."""
        key, lines = _key(backend), _lines(backend.clock.now(), 5)
        await backend.logs.append([_batch(key, run=2, fence=7, first=10, lines=lines, dropped=10)])
        for before in ((1, 1, 0), (1, 9, 500), (2, 6, 999), (2, 7, 0), (2, 7, 9)):
            assert await _read(backend, key, LogPosition(*before)) == lines
        for behind in ((2, 7, 14), (2, 7, 99), (2, 8, 0), (3, 1, 0)):
            assert await _read(backend, key, LogPosition(*behind)) == []

    # --- repeats, and what is dropped ----------------------------------------------------------------------------

    @scenario
    async def test_a_repeat_changes_nothing(self, backend: Backend) -> None:
        """The answer may have been lost; the repeat may hold more, or be cut in another way."""
        key, lines = _key(backend), _lines(backend.clock.now(), 6)
        for first, last in ((0, 3), (0, 3), (0, 5), (2, 4), (4, 6), (0, 6)):
            await backend.logs.append([_batch(key, first=first, lines=lines[first:last])])
        assert await _read(backend, key) == lines

    @scenario
    async def test_a_line_that_is_there_stays_as_it_is(self, backend: Backend) -> None:
        key, now = _key(backend), backend.clock.now()
        await backend.logs.append([_batch(key, lines=_lines(now, 2, "first"))])
        await backend.logs.append([_batch(key, lines=_lines(now, 3, "second"))])
        assert [line.message for line in await _read(backend, key)] == ["first 0", "first 1", "second 2"]

    @scenario
    async def test_dropped_lines_are_removed(self, backend: Backend) -> None:
        """Those of this attempt, and no others."""
        key, lines = _key(backend), _lines(backend.clock.now(), 10)
        others = [_batch(key, fence=fence, lines=lines) for fence in (1, 3)]
        others += [_batch(key, run=2, fence=2, lines=lines), _batch(_key(backend), fence=2, lines=lines)]
        await backend.logs.append([*others, _batch(key, fence=2, lines=lines[:8])])
        await backend.logs.append([_batch(key, fence=2, first=8, lines=lines[8:], dropped=4)])
        found = [position for position, _ in await backend.logs.read(key, None, 100)]
        assert [number for run, fence, number in found if (run, fence) == (1, 2)] == list(range(4, 10))
        assert len(found) == 36
        assert len(await backend.logs.read(others[-1].key, None, 100)) == 10

    @scenario
    async def test_dropped_lines_do_not_come_back(self, backend: Backend) -> None:
        """An older batch may arrive behind a newer one: wholly dropped, in part, or not at all."""
        key, lines = _key(backend), _lines(backend.clock.now(), 20)
        await backend.logs.append([_batch(key, first=15, lines=lines[15:], dropped=10)])
        for first, last in ((0, 5), (5, 12), (12, 15), (0, 15)):
            await backend.logs.append([_batch(key, first=first, lines=lines[first:last])])
        assert await _read(backend, key) == lines[10:]

    @scenario
    async def test_more_may_be_dropped_than_was_ever_there(self, backend: Backend) -> None:
        """While the storage was slow."""
        key, lines = _key(backend), _lines(backend.clock.now(), 3)
        await backend.logs.append([_batch(key, lines=lines)])
        await backend.logs.append([_batch(key, first=5_000, lines=lines, dropped=5_000)])
        found = await backend.logs.read(key, None, 100)
        assert [position.number for position, _ in found] == [5_000, 5_001, 5_002]

    # --- whose lines ---------------------------------------------------------------------------------------------

    @scenario
    async def test_every_task_has_its_own(self, backend: Backend) -> None:
        """Rule 7: the same code in another tenant, of another kind, of another sub-task, is another task."""
        code, now = backend.ids.token(), backend.clock.now()
        keys = [TaskKey.single(tenant, "cat", code) for tenant in ("a", "ab", "A")]
        keys += [TaskKey.step_function(tenant, "cat", code) for tenant in ("a", "ab")]
        keys += [TaskKey.sub_task(tenant, "cat", code, index) for tenant in ("a", "ab") for index in (0, 1, 10, 1000)]
        await backend.logs.append([_batch(key, lines=_lines(now, 1, key.id)) for key in keys])
        for key in keys:
            assert [line.message for line in await _read(backend, key)] == [f"{key.id} 0"]

    @scenario
    async def test_nothing_of_it_is_a_task(self, backend: Backend) -> None:
        """Neither listed nor streamed nor due."""
        rows = Rows(backend)
        task = await rows.claimed()
        before = await rows.stored(task.key)
        await self.records(rows)
        await backend.logs.append([_batch(task.key, lines=_lines(rows.now, 3))])
        assert await rows.stored(task.key) == before
        assert await self.records(rows) == []

    @scenario
    async def test_the_task_need_not_be_there(self, backend: Backend) -> None:
        """Nor its claim: whoever lost it still says what happened."""
        rows = Rows(backend)
        task = await rows.claimed()
        lines = _lines(rows.now, 1)
        await rows.carry_out(rows.completed(task))
        await backend.logs.append([_batch(task.key, fence=task.fence, lines=lines)])
        assert await _read(backend, task.key) == lines

    # --- at the same time ----------------------------------------------------------------------------------------

    @scenario
    async def test_read_sees_every_append_that_was_answered(self, backend: Backend) -> None:
        key, now = _key(backend), backend.clock.now()
        for number in range(20):
            await backend.logs.append([_batch(key, first=number, lines=_lines(now, 1))])
            assert len(await backend.logs.read(key, None, 100)) == number + 1

    def test_from_many_threads(self, backend: Backend) -> None:
        """Attempts of the same task, and each of them twice: heart and worker may both have the same lines."""
        key, lines = _key(backend), _lines(backend.clock.now(), 40)

        async def append(number: int) -> None:
            for first in range(0, 40, 5):
                await backend.logs.append([_batch(key, fence=number // 2, first=first, lines=lines[first : first + 5])])

        in_threads(6, append)
        found = asyncio.run(_whole(backend, key))
        assert [position for position, _ in found] == [(1, fence, number) for fence in range(3) for number in range(40)]


def _key(backend: Backend) -> TaskKey:
    return TaskKey.single("t", "cat", backend.ids.token())


def _line(at: Any, **fields: Any) -> LogLine:
    values: dict[str, Any] = {"level": "INFO", "logger": "taskloom.task", "message": "hello", "fields": {}}
    return LogLine(at=at, run=1, attempt=1, **(values | fields))


def _lines(at: Any, count: int, text: str = "line") -> list[LogLine]:
    return [_line(at, message=f"{text} {number}") for number in range(count)]


def _batch(
    key: TaskKey, *, run: int = 1, fence: int = 1, first: int = 0, lines: Sequence[LogLine], dropped: int = 0
) -> LogBatch:
    own = [replace(line, run=run) for line in lines]
    return LogBatch(key=key, run=run, fence=fence, first=first, lines=own, dropped=dropped)


async def _whole(backend: Backend, key: TaskKey) -> Sequence[tuple[LogPosition, LogLine]]:
    return await _from(backend, key, None, 1000)


async def _from(
    backend: Backend, key: TaskKey, after: LogPosition | None, limit: int
) -> Sequence[tuple[LogPosition, LogLine]]:
    """All that is behind *after*; a page may be short."""
    found: list[tuple[LogPosition, LogLine]] = []
    while page := await backend.logs.read(key, after, limit):
        found += page
        after = page[-1][0]
    return found


async def _read(backend: Backend, key: TaskKey, after: LogPosition | None = None) -> list[LogLine]:
    """All lines behind *after*, with the run that `_line` gives them."""
    return [replace(line, run=1) for _, line in await _from(backend, key, after, 1000)]
