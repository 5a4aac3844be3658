"""The contract of `ports.ChangeStream`, for backends in which a worker pulls it."""

import asyncio
from collections.abc import Sequence
from datetime import datetime

from taskloom.lifecycle import Change, Guard
from taskloom.model import TaskEntity
from taskloom.ports import Backend, Delivery, Served, StreamFailure, StreamRecord, TaskMessage
from tests.contract.base import HOUR, Contract, due, in_threads, message_of, scenario
from tests.support.rows import Rows

ALL = Served(tasks=None, fan_outs=None)


class ChangeStreamContract(Contract):
    """Every sentence of `ports.ChangeStream`. The stream of `backend` is empty at first, and nobody else's."""

    # --- take ----------------------------------------------------------------------------------------------------

    @scenario
    async def test_an_empty_stream_has_nothing(self, backend: Backend) -> None:
        assert list(await self._take(backend)) == []
        assert await backend.stream.next_due() is None

    @scenario
    async def test_records_come_in_the_order_of_their_writes(self, backend: Backend) -> None:
        rows = Rows(backend)
        tasks = [(await rows.create(kind()))[0] for kind in (rows.single, rows.fan_out) * 4]
        resumed = await rows.carry_out(_resume(tasks[2], "again"))
        records = await self._take(backend)
        assert [record.image.key for record in records] == [*(task.key for task in tasks), resumed.key]
        assert [record.event_name for record in records] == ["INSERT"] * 8 + ["MODIFY"]
        assert [record.failures for record in records] == [0] * 9
        sequences = [record.sequence for record in records]
        assert sequences == sorted(set(sequences))
        assert len({record.event_id for record in records}) == 9

    @scenario
    async def test_take_gives_at_most_limit(self, backend: Backend) -> None:
        rows = Rows(backend)
        tasks = [(await rows.create(rows.single()))[0] for _ in range(5)]
        taken = [await self._take(backend, limit) for limit in (2, 1, 100)]
        assert [[record.image for record in records] for records in taken] == [tasks[:2], tasks[2:3], tasks[3:]]

    @scenario
    async def test_nobody_else_gets_a_taken_record(self, backend: Backend) -> None:
        """Before `again_at`; then it comes again, the same as before."""
        rows = Rows(backend)
        await rows.create(rows.single(), rows.single())
        again_at = rows.now + self.tick
        first = await backend.stream.take(100, again_at=again_at)
        assert list(await self._take(backend)) == []
        await self.elapse(backend, self.tick)
        assert await self._take(backend) == first
        assert list(await self._take(backend)) == []

    def test_each_record_is_taken_by_one_of_many(self, backend: Backend) -> None:
        rows = Rows(backend)
        asyncio.run(backend.store.create([rows.single() for _ in range(60)]))

        async def take(_: int) -> list[int]:
            own: list[int] = []
            while found := await self._take(backend, 3):
                own += [record.sequence for record in found]
            return own

        sequences = [sequence for own in in_threads(4, take) for sequence in own]
        assert len(sequences) == 60
        assert len(set(sequences)) == 60

    @scenario
    async def test_the_image_is_no_older_than_the_write(self, backend: Backend) -> None:
        rows = Rows(backend)
        (task,) = await rows.create(rows.single())
        resumed = await rows.carry_out(_resume(task, "again"))
        first, second = await self._take(backend)
        assert first.image.version >= task.version
        assert second.image == resumed

    @scenario
    async def test_a_task_that_needs_no_message_any_more_is_dropped(self, backend: Backend) -> None:
        """It was claimed meanwhile: its record is gone for good, and holds up no other."""
        rows = Rows(backend)
        claimed, waiting = await rows.create(rows.single(), rows.single())
        await rows.carry_out(rows.claim(claimed))
        (record,) = await self._take(backend)
        assert record.image == waiting
        await backend.stream.settle([(record.sequence, None)], [])
        await self.elapse(backend, HOUR)
        assert list(await self._take(backend)) == []
        assert await backend.stream.next_due() is None

    @scenario
    async def test_a_record_that_was_taken_before_the_claim_is_dropped_after_it(self, backend: Backend) -> None:
        rows = Rows(backend)
        (task,) = await rows.create(rows.single())
        await backend.stream.take(100, again_at=rows.now + self.tick)
        await rows.carry_out(rows.claim(task))
        await self.elapse(backend, self.tick)
        assert list(await self._take(backend)) == []
        assert await backend.stream.next_due() is None

    @scenario
    async def test_records_outlive_the_use_of_the_backend(self, backend: Backend) -> None:
        """Rule 1: nothing is lost when everything is opened again."""
        rows = Rows(backend)
        (task,) = await rows.create(rows.single())
        backend.close()
        assert [record.image for record in await self._take(backend)] == [task]

    # --- settle --------------------------------------------------------------------------------------------------

    @scenario
    async def test_a_settled_record_becomes_its_message(self, backend: Backend) -> None:
        rows = Rows(backend)
        tasks = await rows.create(rows.single(), rows.fan_out())
        records = await self._take(backend)
        await backend.stream.settle([(record.sequence, message_of(record)) for record in records], [])
        deliveries = {delivery.key: delivery for delivery in await self._received(backend)}
        assert deliveries.keys() == {task.key for task in tasks}
        for record in records:
            delivery = deliveries[record.image.key]
            sent = TaskMessage(
                event_id=delivery.event_id,
                key=delivery.key,
                kind=delivery.task_kind,
                task_type=delivery.task_type,
            )
            assert sent == message_of(record)

    @scenario
    async def test_a_settled_record_never_comes_again(self, backend: Backend) -> None:
        rows = Rows(backend)
        await rows.create(rows.single(), rows.single())
        first, second = await self._take(backend)
        await backend.stream.settle([(first.sequence, message_of(first)), (second.sequence, None)], [])
        await self.elapse(backend, HOUR)
        assert list(await self._take(backend)) == []
        assert await backend.stream.next_due() is None

    @scenario
    async def test_a_record_may_be_settled_without_a_message(self, backend: Backend) -> None:
        rows = Rows(backend)
        await rows.create(rows.single())
        (record,) = await self._take(backend)
        await backend.stream.settle([(record.sequence, None)], [])
        assert await self._received(backend) == []

    @scenario
    async def test_a_record_becomes_at_most_one_message(self, backend: Backend) -> None:
        """However often it is settled (rule 4)."""
        rows = Rows(backend)
        await rows.create(rows.single(), rows.single())
        records = await self._take(backend)
        done = [(record.sequence, message_of(record)) for record in records]
        await backend.stream.settle(done, [])
        await backend.stream.settle(done, [])
        await backend.stream.settle(done + done, [])
        assert len(await self._received(backend)) == 2

    @scenario
    async def test_whoever_settles_first_sends_the_message(self, backend: Backend) -> None:
        """A taker that was too slow meets the one that took the record after it."""
        rows = Rows(backend)
        await rows.create(rows.single())
        (slow,) = await backend.stream.take(100, again_at=rows.now + self.tick)
        await self.elapse(backend, self.tick)
        (fast,) = await self._take(backend)
        await backend.stream.settle([(fast.sequence, message_of(fast))], [])
        await backend.stream.settle([(slow.sequence, message_of(slow))], [])
        assert len(await self._received(backend)) == 1

    def test_many_settle_the_same_record(self, backend: Backend) -> None:
        rows = Rows(backend)

        async def prepare() -> Sequence[StreamRecord]:
            await rows.create(*(rows.single() for _ in range(5)))
            return await self._take(backend)

        records = asyncio.run(prepare())

        async def settle(_: int) -> None:
            for record in records:
                await backend.stream.settle([(record.sequence, message_of(record))], [])

        in_threads(4, settle)
        assert len(asyncio.run(self._received(backend))) == 5

    @scenario
    async def test_two_writes_of_one_task_are_two_records(self, backend: Backend) -> None:
        """Each becomes a message: the second write needs its own."""
        rows = Rows(backend)
        (task,) = await rows.create(rows.single())
        (first,) = await self._take(backend)
        await rows.carry_out(_resume(task, "again"))
        (second,) = await self._take(backend)
        await backend.stream.settle([(first.sequence, message_of(first)), (second.sequence, message_of(second))], [])
        deliveries = await self._received(backend)
        assert {delivery.key for delivery in deliveries} == {task.key}
        assert {delivery.event_id for delivery in deliveries} == {first.event_id, second.event_id}

    @scenario
    async def test_settling_nothing_does_nothing(self, backend: Backend) -> None:
        rows = Rows(backend)
        await rows.create(rows.single())
        await backend.stream.settle([], [])
        assert len(await self._take(backend)) == 1

    @scenario
    async def test_settled_and_failed_records_go_in_one_write(self, backend: Backend) -> None:
        rows = Rows(backend)
        await rows.create(*(rows.single() for _ in range(3)))
        good, bad, hopeless = await self._take(backend)
        failures = [_failure(bad, rows.now + self.tick), _failure(hopeless, None)]
        await backend.stream.settle([(good.sequence, message_of(good))], failures)
        assert [delivery.key for delivery in await self._received(backend)] == [good.image.key]
        await self.elapse(backend, HOUR)
        assert [record.image for record in await self._take(backend)] == [bad.image]

    # --- forward -------------------------------------------------------------------------------------------------

    @scenario
    async def test_forward_sends_the_message_of_each_record(self, backend: Backend) -> None:
        """The same that `take` and `settle` send."""
        rows = Rows(backend)
        (task,) = await rows.create(rows.single())
        await rows.create(rows.fan_out())
        await rows.carry_out(_resume(task, "again"))
        records = await backend.stream.take(100, again_at=rows.now)
        assert await backend.stream.forward(100) == 3
        sent = [
            TaskMessage(
                event_id=delivery.event_id, key=delivery.key, kind=delivery.task_kind, task_type=delivery.task_type
            )
            for delivery in await self._received(backend)
        ]
        wanted = [message_of(record) for record in records]
        assert sorted(sent, key=lambda message: message.event_id) == wanted
        assert [message for message in sent if message.key == task.key] == [wanted[0], wanted[2]]

    @scenario
    async def test_forward_removes_the_records(self, backend: Backend) -> None:
        rows = Rows(backend)
        assert await backend.stream.forward(100) == 0
        await rows.create(rows.single(), rows.single())
        (record, _) = await backend.stream.take(100, again_at=rows.now)
        assert await backend.stream.forward(100) == 2
        assert await backend.stream.next_due() is None
        assert list(await self._take(backend)) == []
        await backend.stream.settle([(record.sequence, message_of(record))], [])
        assert await backend.stream.forward(100) == 0
        assert len(await self._received(backend)) == 2

    @scenario
    async def test_forward_takes_the_next_records_up_to_limit(self, backend: Backend) -> None:
        rows = Rows(backend)
        tasks = [(await rows.create(rows.single()))[0] for _ in range(5)]
        for limit, count in ((2, 2), (1, 1), (100, 2), (100, 0)):
            assert await backend.stream.forward(limit) == count
            assert {delivery.key for delivery in await self._received(backend)} == {task.key for task in tasks[:count]}
            tasks = tasks[count:]

    @scenario
    async def test_forward_leaves_what_is_not_due(self, backend: Backend) -> None:
        """Records in the hands of others, and those that failed and wait."""
        rows = Rows(backend)
        await rows.create(rows.single(), rows.single())
        taken, failed = await backend.stream.take(100, again_at=rows.now + self.tick)
        await backend.stream.settle([], [_failure(failed, rows.now + self.tick)])
        assert await backend.stream.forward(100) == 0
        await self.elapse(backend, self.tick)
        assert await backend.stream.forward(100) == 2
        keys = {delivery.key for delivery in await self._received(backend)}
        assert keys == {taken.image.key, failed.image.key}

    @scenario
    async def test_forward_sends_nothing_that_is_not_needed(self, backend: Backend) -> None:
        """As `take` it drops the record of a task that has lost its dispatch."""
        rows = Rows(backend)
        claimed, waiting = await rows.create(rows.single(), rows.single())
        await rows.carry_out(rows.claim(claimed))
        await backend.stream.forward(100)
        assert [delivery.key for delivery in await self._received(backend)] == [waiting.key]
        assert await backend.stream.next_due() is None

    def test_each_record_is_forwarded_by_one_of_many(self, backend: Backend) -> None:
        rows = Rows(backend)
        asyncio.run(backend.store.create([rows.single() for _ in range(60)]))

        async def forward(_: int) -> int:
            own = 0
            while own <= 60 and (count := await backend.stream.forward(7)):
                own += count
            return own

        assert sum(in_threads(4, forward)) == 60
        assert len({delivery.key for delivery in asyncio.run(self._received(backend))}) == 60

    # --- failures ------------------------------------------------------------------------------------------------

    @scenario
    async def test_a_failed_record_comes_again_in_time(self, backend: Backend) -> None:
        """Not before `retry_at`, though it was taken for a shorter time or a longer one; its failures are counted."""
        rows = Rows(backend)
        await rows.create(rows.single())
        (record,) = await self._take(backend)
        for failures in (1, 2, 3):
            retry_at = rows.now + self.tick
            for _ in range(2):  # as if the first answer had been lost
                await backend.stream.settle([], [_failure(record, retry_at)])
            assert list(await self._take(backend)) == []
            await self.elapse(backend, self.tick)
            (again,) = await self._take(backend)
            assert (again.sequence, again.event_id, again.image) == (record.sequence, record.event_id, record.image)
            assert again.failures == failures
            record = again
        await backend.stream.settle([(record.sequence, message_of(record))], [])
        assert len(await self._received(backend)) == 1

    @scenario
    async def test_a_record_with_the_dead_letters_never_comes_again(self, backend: Backend) -> None:
        rows = Rows(backend)
        await rows.create(rows.single())
        (record,) = await self._take(backend)
        await backend.stream.settle([], [_failure(record, None)])
        await self.elapse(backend, HOUR)
        assert list(await self._take(backend)) == []
        assert await backend.stream.next_due() is None
        await backend.stream.settle([(record.sequence, message_of(record))], [])
        assert await self._received(backend) == []

    @scenario
    async def test_a_failure_brings_no_settled_record_back(self, backend: Backend) -> None:
        rows = Rows(backend)
        await rows.create(rows.single())
        (record,) = await self._take(backend)
        await backend.stream.settle([(record.sequence, message_of(record))], [])
        for retry_at in (rows.now, None):
            await backend.stream.settle([], [_failure(record, retry_at)])
        assert list(await self._take(backend)) == []
        assert len(await self._received(backend)) == 1

    # --- next_due ------------------------------------------------------------------------------------------------

    @scenario
    async def test_next_due_says_when_there_is_something_to_take(self, backend: Backend) -> None:
        rows = Rows(backend)
        await rows.create(rows.single())
        assert due(await backend.stream.next_due(), backend)
        again_at = rows.now + HOUR
        (record,) = await backend.stream.take(100, again_at=again_at)
        assert await backend.stream.next_due() == again_at
        retry_at = rows.now + 2 * HOUR
        await backend.stream.settle([], [_failure(record, retry_at)])
        assert await backend.stream.next_due() == retry_at
        await rows.create(rows.single())
        assert due(await backend.stream.next_due(), backend)
        (other,) = await backend.stream.take(100, again_at=again_at)
        assert await backend.stream.next_due() == again_at
        await backend.stream.settle([(other.sequence, None)], [])
        assert await backend.stream.next_due() == retry_at
        await backend.stream.settle([(record.sequence, None)], [])
        assert await backend.stream.next_due() is None

    # --- helpers -------------------------------------------------------------------------------------------------

    async def _take(self, backend: Backend, limit: int = 100) -> Sequence[StreamRecord]:
        return await backend.stream.take(limit, again_at=backend.clock.now() + HOUR)

    async def _received(self, backend: Backend) -> list[Delivery]:
        """All messages that are in the queue, each for an hour."""
        own: list[Delivery] = []
        while found := await backend.queue.receive(ALL, 10, visible_at=backend.clock.now() + HOUR):
            own += found
        return own


def _resume(task: TaskEntity, dispatch: str) -> Change:
    return Change(key=task.key, guard=Guard(), patch={"dispatch": dispatch})


def _failure(record: StreamRecord, retry_at: datetime | None) -> StreamFailure:
    return StreamFailure(sequence=record.sequence, failures=record.failures, reason="ValueError: no", retry_at=retry_at)
