"""The contract of `ports.TaskStore` under idempotency keys: of all who create with one key, one does."""

import asyncio
import threading
from dataclasses import replace
from datetime import datetime, timedelta

from taskloom.model import Kind, TaskEntity, TenantCode
from taskloom.ports import Backend, Idempotency, Known, NewTaskRow, TaskQuery
from tests.contract.base import HOUR, PATIENCE, Contract, cut_short, in_threads, needs, scenario
from tests.support.rows import Rows

MS = timedelta(milliseconds=1)
KEY = "order-4711"
ALIKE = [
    *("a", "A", " a", "a ", "a\n", "a\0", "a\0b", "aa", "\u00e4", "a\u0308", "\u0430"),
    *("1", "01", "1.0", "1e0", "+1", "\u0661", "0", "00", "-0", "null", "None", "{}", "[]"),
    *("%", "_", "#", "a#b", "'", '"', "\\", "; --", "\u2028", "😀", "😀😀", "x" * 254, "x" * 255, "😀" * 255),
]
"""Keys that some collation, pattern, number or encoding might take for one another."""


class IdempotencyContract(Contract):
    """What `TaskStore.create` and `TaskStore.known` promise of keys."""

    # --- one creates ---------------------------------------------------------------------------------------------

    @scenario
    async def test_the_first_one_is_stored_whole_and_known(self, backend: Backend) -> None:
        rows = Rows(backend)
        first = [rows.single({"a": 1}), rows.fan_out(3), rows.single(input_ref="there/1"), rows.fan_out(0)]
        for number, row in enumerate(first):
            new = keyed(row, f"{KEY}/{number}", f"print {number}")
            assert list(await backend.store.create([new])) == [None]
            assert await backend.store.get(new.entity.key) == new.entity
            assert await _known(rows, f"{KEY}/{number}") == Known(task=new.entity.key, fingerprint=f"print {number}")

    @scenario
    async def test_a_key_that_nobody_used_is_not_known(self, backend: Backend) -> None:
        rows = Rows(backend)
        assert await _known(rows) is None
        await rows.create(keyed(rows.single()), rows.single())
        for key in (KEY + "1", KEY[:-1], KEY.upper(), "", rows.tenant):
            assert await _known(rows, key) is None

    @scenario
    async def test_the_next_one_is_told_of_the_first(self, backend: Backend) -> None:
        """Whatever it brings: to compare the contents is not the store's business."""
        rows = Rows(backend)
        (task,) = await rows.create(keyed(rows.single({"a": 1}), fingerprint="first"))
        told = Known(task=task.key, fingerprint="first")
        for row in (rows.single({"a": 1}), rows.single("other", name="other"), rows.fan_out(2)):
            for fingerprint in ("first", "other"):
                again = keyed(row, fingerprint=fingerprint)
                assert list(await backend.store.create([again])) == [told]
                assert await backend.store.get(again.entity.key) is None
                assert await _known(rows) == told
        assert await backend.store.get(task.key) == task
        assert await _listed(rows) == [task]

    @scenario
    async def test_a_key_stands_for_its_task_whatever_becomes_of_it(self, backend: Backend) -> None:
        """Running, ended: it is the same task. And being asked for does not change it."""
        rows = Rows(backend)
        for number, row in enumerate((rows.single(), rows.fan_out(1))):
            key = f"{KEY}/{number}"
            task = await rows.claimed(keyed(row, key))
            for _ in range(2):
                assert await backend.store.create([keyed(rows.single(), key)]) == [
                    Known(task=task.key, fingerprint="print")
                ]
                assert await backend.store.get(task.key) == task
                if not task.is_terminal:
                    task = await rows.carry_out(rows.completed(task))

    @needs("pulls_stream")
    @scenario
    async def test_only_the_first_one_comes_through_the_stream(self, backend: Backend) -> None:
        """Rule 1; and what was not created asks for no message."""
        rows = Rows(backend)
        first, quiet = keyed(rows.single()), keyed(rows.fan_out(dispatch=None), "quiet")
        await rows.create(first, quiet, keyed(rows.single()), rows.single(dispatch=None))
        await rows.create(keyed(rows.fan_out()), keyed(rows.single(), "quiet"))
        records = await self.records(rows)
        assert [(record.image, record.event_name) for record in records] == [(first.entity, "INSERT")]
        await rows.create(keyed(rows.single()))
        assert await self.records(rows) == []

    @needs("signals_arrive")
    @scenario
    async def test_a_creation_under_a_key_wakes_workers_as_any_does(self, backend: Backend) -> None:
        """With a new key, with an expired one, and behind one that is known."""
        rows, heard = Rows(backend), threading.Event()
        end = backend.signals.on_work(heard.set)
        for new in (
            [keyed(rows.single(), ttl=timedelta())],
            [keyed(rows.fan_out())],
            [keyed(rows.single()), keyed(rows.single(), "another")],
            [keyed(rows.single()), rows.single()],
        ):
            heard.clear()
            await rows.create(*new)
            assert await asyncio.to_thread(heard.wait, PATIENCE)
        end()

    @scenario
    async def test_a_task_without_a_key_is_always_stored(self, backend: Backend) -> None:
        rows = Rows(backend)
        tasks = await rows.create(rows.single(), rows.single(), keyed(rows.single()), rows.single())
        assert await backend.store.create([rows.single(), keyed(rows.single()), rows.single()]) == [
            None,
            Known(task=tasks[2].key, fingerprint="print"),
            None,
        ]
        assert len(await _listed(rows)) == 6

    @scenario
    async def test_keys_that_look_alike_are_told_apart(self, backend: Backend) -> None:
        rows = Rows(backend)
        new = [keyed(rows.single(), key, f"print {number}") for number, key in enumerate(ALIKE)]
        assert list(await backend.store.create(new)) == [None] * len(ALIKE)
        told = [Known(task=row.entity.key, fingerprint=f"print {number}") for number, row in enumerate(new)]
        assert [await _known(rows, key) for key in ALIKE] == told
        assert list(await backend.store.create([keyed(rows.single(), key) for key in ALIKE])) == told

    @scenario
    async def test_many_in_one_call(self, backend: Backend) -> None:
        """More than any backend takes in one request: some known from before, some the second of their key."""
        rows = Rows(backend)
        old = [keyed(rows.single(number), f"old {number}", f"old {number}") for number in range(30)]
        assert list(await backend.store.create(old)) == [None] * 30
        new, expected = list[NewTaskRow](), list[Known | None]()
        for number in range(35):
            fresh = keyed(rows.single(number), f"new {number}", f"new {number}")
            new += [rows.fan_out(2), keyed(rows.single(), f"old {number % 30}"), fresh, keyed(rows.single(), "common")]
            expected += [None, _what_stands_for(old[number % 30]), None, _what_stands_for(new[3]) if number else None]
            if number >= 10:  # the one of an earlier place in the same call
                new.append(keyed(rows.fan_out(1), f"new {number - 10}"))
                expected.append(_what_stands_for(next(row for row in new if _key_of(row) == f"new {number - 10}")))
        assert list(await backend.store.create(new)) == expected
        for row, told in zip(new, expected, strict=True):
            assert await backend.store.get(row.entity.key) == (row.entity if told is None else None)
            if row.idempotency is not None:
                assert await _known(rows, row.idempotency.key) == (told or _what_stands_for(row))

    @scenario
    async def test_what_was_answered_outlives_the_use_of_the_backend(self, backend: Backend) -> None:
        rows = Rows(backend)
        (task,) = await rows.create(keyed(rows.single()))
        backend.close()
        assert await _known(rows) == Known(task=task.key, fingerprint="print")
        backend.close()
        assert await backend.store.create([keyed(rows.single())]) == [Known(task=task.key, fingerprint="print")]
        assert await _listed(rows) == [task]

    # --- tenants -------------------------------------------------------------------------------------------------

    @scenario
    async def test_tenants_do_not_meet(self, backend: Backend) -> None:
        """Rule 7: neither by the same key, nor by one that makes the same text together with the tenant."""
        rows = Rows(backend)
        names = [(rows.tenant, KEY), (f"{rows.tenant}-2", KEY), (rows.tenant, f"-2{KEY}"), (f"{rows.tenant}-2", "x")]
        new = [keyed(rows.single(number, tenant_code=name[0]), name[1]) for number, name in enumerate(names)]
        assert list(await backend.store.create(new)) == [None] * 4
        for (tenant, key), row in zip(names, new, strict=True):
            assert await backend.store.get(row.entity.key) == row.entity
            assert await backend.store.known(TenantCode(tenant), key) == _what_stands_for(row)
        assert await _known(rows, "x") is None
        for tenant in ("t", rows.tenant[:-1], f"{rows.tenant}-", rows.tenant.upper()):
            assert await backend.store.known(TenantCode(tenant), KEY) is None

    @scenario
    async def test_the_key_of_another_tenant_is_no_hindrance_and_no_answer(self, backend: Backend) -> None:
        """Also when it expired, or comes first in the same call."""
        rows = Rows(backend)
        other = f"{rows.tenant}-2"
        await rows.create(keyed(rows.single(tenant_code=other), ttl=self.tick))
        first, theirs = keyed(rows.single(), ttl=2 * HOUR), keyed(rows.single(tenant_code=other))
        assert (await backend.store.create([theirs, first]))[1] is None
        await self.elapse(backend, self.tick)
        assert await backend.store.known(TenantCode(other), KEY) is None
        assert await backend.store.create([theirs, keyed(rows.single())]) == [None, _what_stands_for(first)]
        assert await backend.store.known(TenantCode(other), KEY) == _what_stands_for(theirs)

    @scenario
    async def test_an_expired_key_takes_no_other_tenants_with_it(self, backend: Backend) -> None:
        """Whatever removes it, however late."""
        rows = Rows(backend)
        tenants = [f"{rows.tenant}-{number}" for number in range(4)]
        living = [keyed(rows.single(tenant_code=tenant), ttl=2 * HOUR) for tenant in tenants[1:]]
        await rows.create(keyed(rows.single(tenant_code=tenants[0]), ttl=self.tick), *living)
        await self.elapse(backend, self.tick)
        for number in range(5):
            await rows.create(keyed(rows.single(tenant_code=tenants[0]), f"{number}"))
        told = [await backend.store.known(TenantCode(tenant), KEY) for tenant in tenants]
        assert told == [None, *map(_what_stands_for, living)]

    # --- time ----------------------------------------------------------------------------------------------------

    @scenario
    async def test_a_key_is_known_until_it_expires(self, backend: Backend) -> None:
        """From that millisecond on it counts as absent at once, whether or not anybody has removed it."""
        rows = Rows(backend)
        first = keyed(rows.single(), ttl=self.tick)
        await rows.create(first)
        await self.elapse(backend, self.tick - MS)
        read, told = await _known(rows), await backend.store.create([keyed(rows.single())])
        if rows.now < _end_of(first):  # always, but where time is real
            assert (read, list(told)) == (_what_stands_for(first), [_what_stands_for(first)])
            await self.elapse(backend, MS)
            assert await _known(rows) is None

    @scenario
    async def test_an_expired_key_is_free_for_another_task(self, backend: Backend) -> None:
        """Nobody looked at it meanwhile; the first task stays what it is."""
        rows = Rows(backend)
        first = keyed(rows.single(), fingerprint="first", ttl=self.tick)
        await rows.create(first)
        await self.elapse(backend, self.tick)
        second = keyed(rows.fan_out(2), fingerprint="second", ttl=2 * self.tick)
        assert list(await backend.store.create([second, keyed(rows.single())])) == [None, _what_stands_for(second)]
        assert await _known(rows) == _what_stands_for(second)
        assert await backend.store.get(first.entity.key) == first.entity
        assert await backend.store.get(second.entity.key) == second.entity
        await self.elapse(backend, 2 * self.tick)  # the second one's own time
        third = keyed(rows.single(), fingerprint="third")
        assert list(await backend.store.create([third])) == [None]
        assert await _known(rows) == _what_stands_for(third)

    @scenario
    async def test_asking_again_does_not_prolong_a_key(self, backend: Backend) -> None:
        rows = Rows(backend)
        await rows.create(keyed(rows.single(), ttl=self.tick))
        for _ in range(3):
            await rows.create(keyed(rows.single(), ttl=9 * HOUR))
        await self.elapse(backend, self.tick)
        assert await _known(rows) is None

    @scenario
    async def test_a_key_lives_on_while_others_expire(self, backend: Backend) -> None:
        """What expired may be removed at any time, and nothing else."""
        rows = Rows(backend)
        living = keyed(rows.single(), "living", ttl=2 * HOUR)
        await rows.create(living, *(keyed(rows.single(), f"{number}", ttl=self.tick) for number in range(10)))
        await self.elapse(backend, self.tick)
        for number in range(10):
            assert await backend.store.create([keyed(rows.single(), f"{number}/2", ttl=HOUR)]) == [None]
            assert await _known(rows, f"{number}") is None
        assert await backend.store.create([keyed(rows.single(), "living")]) == [_what_stands_for(living)]
        for number in range(10):
            assert await _known(rows, f"{number}/2") is not None

    @scenario
    async def test_a_key_that_is_over_already_hinders_nobody(self, backend: Backend) -> None:
        """Reading the input of a fan-out may take longer than its key lives."""
        rows = Rows(backend)
        for ttl in (timedelta(), -MS, -HOUR):
            new = [keyed(rows.fan_out(), ttl=ttl), keyed(rows.single(), ttl=ttl)]
            assert list(await backend.store.create(new)) == [None, None]
            assert await _known(rows) is None
            assert [await backend.store.get(row.entity.key) for row in new] == [row.entity for row in new]

    # --- one write -----------------------------------------------------------------------------------------------

    @scenario
    async def test_a_task_and_its_key_are_one_write(self, backend: Backend) -> None:
        """Whoever gives up during the creation leaves both or neither, and may ask again."""
        rows = Rows(backend)
        for number in range(5):
            new = [keyed(make(), f"{number}/{place}") for place, make in enumerate((rows.single, rows.fan_out))]
            await cut_short(backend.store.create(new))
            await rows.create(keyed(rows.single(), f"{number}/later"))  # so that the first one had its time
            for row in new:
                is_there = await backend.store.get(row.entity.key) is not None
                assert await _known(rows, _key_of(row)) == (_what_stands_for(row) if is_there else None)
                again = keyed(rows.single(), _key_of(row))
                assert list(await backend.store.create([again])) == [_what_stands_for(row) if is_there else None]
                assert (await backend.store.get(again.entity.key) is None) == is_there

    @needs("pulls_stream")
    @scenario
    async def test_the_stream_record_belongs_to_the_same_write(self, backend: Backend) -> None:
        rows = Rows(backend)
        for number in range(5):
            new = keyed(rows.single(), f"{number}")
            await cut_short(backend.store.create([new]))
            await rows.create(rows.single(dispatch=None))
            is_known = await _known(rows, f"{number}") is not None
            assert [record.image.key for record in await self.records(rows)] == [new.entity.key] * is_known

    def test_who_knows_a_key_finds_its_task(self, backend: Backend) -> None:
        """Whoever is told of a task by its key can read it at once."""
        rows, written = Rows(backend), threading.Event()

        async def write() -> int:
            try:
                for number in range(20):
                    await rows.create(keyed(rows.single(), f"{number}"))
            finally:
                written.set()
            return 20

        async def read() -> int:
            found = 0
            while found < 20:
                was_written = written.is_set()
                known = await _known(rows, f"{found}")
                if known is not None:
                    assert await backend.store.get(known.task) is not None
                    found += 1
                elif was_written:
                    break
            return found

        assert in_threads(2, lambda number: read() if number else write()) == [20, 20]

    # --- many at once --------------------------------------------------------------------------------------------

    @scenario
    async def test_one_of_many_creates(self, backend: Backend) -> None:
        rows = Rows(backend)
        for number in range(5):
            new = [keyed(rows.single(place), f"{number}", f"{place}") for place in range(10)]
            answers = await asyncio.gather(*(backend.store.create([row]) for row in new))
            await _one_created(rows, new, [answer for (answer,) in answers])

    @scenario
    async def test_one_of_many_creates_when_the_key_has_expired(self, backend: Backend) -> None:
        """To find the old key and to replace it is one step, too."""
        rows = Rows(backend)
        await rows.create(*(keyed(rows.single(), f"{number}", ttl=self.tick) for number in range(5)))
        await self.elapse(backend, self.tick)
        for number in range(5):
            new = [keyed(rows.single(place), f"{number}", f"{place}") for place in range(10)]
            answers = await asyncio.gather(*(backend.store.create([row]) for row in new))
            await _one_created(rows, new, [answer for (answer,) in answers])

    def test_one_of_many_creates_over_threads(self, backend: Backend) -> None:
        """Each thread creates under the same keys, each from another one on, some in one call."""
        rows, keys = Rows(backend), 10
        new = [[keyed(rows.single(thread), f"{key}", f"{thread}") for key in range(keys)] for thread in range(6)]

        async def create(thread: int) -> dict[int, Known | None]:
            order = [(thread + key) % keys for key in range(keys)]
            answers: list[Known | None] = []
            for key in order[:5]:
                answers += await backend.store.create([new[thread][key]])
            answers += await backend.store.create([new[thread][key] for key in order[5:]])
            return dict(zip(order, answers, strict=True))

        answers = in_threads(6, create)

        async def check() -> None:
            for key in range(keys):
                await _one_created(rows, [row[key] for row in new], [answer[key] for answer in answers])

        asyncio.run(check())


def keyed(row: NewTaskRow, key: str = KEY, fingerprint: str = "print", *, ttl: timedelta = HOUR) -> NewTaskRow:
    """*row* under an idempotency key that lives for *ttl* from its creation on."""
    expires_at = row.entity.created_at + ttl
    return replace(row, idempotency=Idempotency(key=key, fingerprint=fingerprint, expires_at=expires_at))


def _key_of(row: NewTaskRow) -> str:
    return "" if row.idempotency is None else row.idempotency.key


def _end_of(row: NewTaskRow) -> datetime:
    assert row.idempotency is not None
    return row.idempotency.expires_at


def _what_stands_for(row: NewTaskRow) -> Known:
    """What the key of *row* stands for once it was created."""
    assert row.idempotency is not None
    return Known(task=row.entity.key, fingerprint=row.idempotency.fingerprint)


async def _known(rows: Rows, key: str = KEY) -> Known | None:
    return await rows.backend.store.known(TenantCode(rows.tenant), key)


async def _listed(rows: Rows) -> list[TaskEntity]:
    """The tasks of both kinds that the tenant has; few."""
    found: list[TaskEntity] = []
    for kind in (Kind.TASK, Kind.SFN_TASK):
        query = TaskQuery(tenant_code=TenantCode(rows.tenant), kind=kind, limit=100)
        page, after = await rows.backend.store.list_tasks(query)
        assert after is None
        found += page
    return found


async def _one_created(rows: Rows, new: list[NewTaskRow], answers: list[Known | None]) -> None:
    """Assert that exactly one of *new*, all of one key, was stored, and that the others were told of it."""
    (winner,) = [row for row, answer in zip(new, answers, strict=True) if answer is None]
    for row, answer in zip(new, answers, strict=True):
        is_winner = row is winner
        assert answer == (None if is_winner else _what_stands_for(winner))
        assert await rows.backend.store.get(row.entity.key) == (row.entity if is_winner else None)
    assert await _known(rows, _key_of(winner)) == _what_stands_for(winner)
