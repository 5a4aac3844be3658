"""The contract of `ports.Notifier`."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from taskloom import lifecycle
from taskloom.lifecycle import Refused
from taskloom.model import TaskAttributes, TaskOptions, TaskStatus
from taskloom.ports import NOTIFY_URL, Backend, Listener, Notice, NoticeFailure
from taskloom.webhooks import ALARM_ACTION, Filter
from tests.contract.base import HOUR, Contract, cut_short, in_threads, scenario
from tests.support.rows import Rows

PENDING, IN_PROGRESS = TaskStatus.PENDING, TaskStatus.IN_PROGRESS
COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED


class NotifierContract(Contract):
    """Every sentence of `ports.Notifier`."""

    # --- what makes a notice -------------------------------------------------------------------------------------

    @scenario
    async def test_each_change_of_status_makes_a_notice(self, backend: Backend) -> None:
        """The creation too; with the task as the change left it, however it stands later."""
        rows = Rows(backend)
        name = await _follow(rows)
        task = await rows.claimed()
        ended = await rows.carry_out(rows.completed(task))
        notices = await _all(rows, name)
        assert [(notice.status, notice.attempt, notice.version) for notice in notices] == [
            (PENDING, 0, 0),
            (IN_PROGRESS, 1, task.version),
            (COMPLETED, 1, ended.version),
        ]
        assert {(notice.key, notice.task_type, notice.run, notice.listener, notice.action) for notice in notices} == {
            (task.key, rows.task_type, 1, name, "task-status")
        }
        assert [notice.attributes.results for notice in notices] == [None, None, [["done"]]]
        assert [notice.at for notice in notices] == [task.created_at, task.updated_at, ended.updated_at]
        assert {(notice.url, notice.reason, notice.given_up_at) for notice in notices} == {(None, None, None)}
        assert all(notice.failures == 0 for notice in notices)

    @scenario
    async def test_a_failure_comes_with_its_error(self, backend: Backend) -> None:
        rows = Rows(backend)
        name = await _follow(rows)
        failed = await rows.carry_out(rows.failed(await rows.claimed()))
        assert (await _all(rows, name))[-1].attributes == TaskAttributes(error=failed.attributes.error)

    @scenario
    async def test_retries_cancellations_and_new_runs_make_notices(self, backend: Backend) -> None:
        rows = Rows(backend)
        name = await _follow(rows)
        task = await rows.carry_out(rows.waits_for_retry(await rows.claimed()))
        token = backend.ids.token
        task = await rows.carry_out(lifecycle.cancelled(task, reason=None, by=None, now=rows.now, claim_id=token()))
        again = lifecycle.retried(
            task,
            only_failed=True,
            execution_arn=None,
            reason=None,
            by=None,
            now=rows.now,
            dispatch=token(),
            claim_id=token(),
        )
        await rows.carry_out(again)
        found = [(notice.status, notice.run) for notice in await _all(rows, name)]
        assert found == [(PENDING, 1), (IN_PROGRESS, 1), (PENDING, 1), (CANCELLED, 1), (PENDING, 2)]

    @scenario
    async def test_fan_outs_come_with_their_counters(self, backend: Backend) -> None:
        rows = Rows(backend)
        name = await _follow(rows)
        parent = await rows.claimed(rows.fan_out(3))
        end = lifecycle.finalized(
            parent, succeeded=2, failed=1, now=rows.now, by="worker", claim_id=backend.ids.token()
        )
        await rows.carry_out(end)
        notices = await _all(rows, name)
        counts = [
            (notice.attributes.sub_task_succeed_count, notice.attributes.sub_task_failed_count) for notice in notices
        ]
        assert [notice.status for notice in notices] == [PENDING, IN_PROGRESS, FAILED]
        assert counts == [(0, 0), (0, 0), (2, 1)]
        assert {notice.attributes.sub_task_count for notice in notices} == {3}
        assert {notice.key for notice in notices} == {parent.key}

    @scenario
    async def test_what_changes_no_status_makes_none(self, backend: Backend) -> None:
        """Progress, a renewed lease, a claim after a lost one, and a refused change."""
        rows = Rows(backend)
        task = await rows.claimed()
        name = await _follow(rows)
        await rows.carry_out(rows.progressed(task, 1))
        await rows.carry_out(lifecycle.renewed(task, until=rows.now, now=rows.now))
        late = rows.completed(task)
        task = await rows.carry_out(rows.claim(await rows.stored(task.key)))
        assert isinstance(await backend.store.update(late), Refused)
        assert isinstance(await backend.store.update(rows.completed(replace(task, fence=7))), Refused)
        assert not await _all(rows, name)

    @scenario
    async def test_no_notice_without_its_change(self, backend: Backend) -> None:
        """A caller that gives up at any moment leaves both or neither."""
        rows = Rows(backend)
        name = await _follow(rows)
        task = await rows.claimed()
        await cut_short(backend.store.update(rows.completed(task)))
        await rows.claimed()  # what was on its way is through now
        stands = await rows.stored(task.key)
        versions = [notice.version for notice in await _all(rows, name) if notice.key == task.key]
        assert versions == list(range(stands.version + 1))

    @scenario
    async def test_many_creations_make_a_notice_each(self, backend: Backend) -> None:
        rows = Rows(backend)
        name = await _follow(rows)
        tasks = await rows.create(*(rows.single() for _ in range(30)), rows.fan_out())
        assert {notice.key for notice in await _all(rows, name)} == {task.key for task in tasks}

    @scenario
    async def test_the_event_id_names_the_change(self, backend: Backend) -> None:
        """The same for every listener, another one for every change, and for the alarm beside it."""
        rows = Rows(backend)
        first, second = await _follow(rows), await _follow(rows)
        alarms = await _follow(rows, action=ALARM_ACTION)
        for _ in range(2):
            await rows.carry_out(rows.failed(await rows.claimed()))
        ids = [notice.event_id for notice in await _all(rows, first)]
        assert ids == [notice.event_id for notice in await _all(rows, second)]
        ids += [notice.event_id for notice in await _all(rows, alarms)]
        assert len(set(ids)) == len(ids) == 8

    # --- who gets one --------------------------------------------------------------------------------------------

    @scenario
    async def test_filters_pick_by_status_and_type(self, backend: Backend) -> None:
        rows, others = Rows(backend), Rows(backend)
        ends = await _follow(rows, statuses=frozenset({COMPLETED, FAILED}))
        both = await _follow(rows, task_types=frozenset({rows.task_type, others.task_type}))
        for own in (rows, others):
            await own.carry_out(own.completed(await own.claimed()))
        # A type that only begins like another one is another one.
        await rows.create(rows.single(task_type=rows.task_type + "x"), rows.single(task_type=rows.task_type[:-1]))
        assert [notice.status for notice in await _all(rows, ends)] == [COMPLETED]
        assert [notice.task_type for notice in await _all(rows, both)] == [rows.task_type] * 3 + [others.task_type] * 3

    @scenario
    async def test_an_alarm_for_each_run_that_fails_and_for_no_attempt(self, backend: Backend) -> None:
        rows = Rows(backend)
        name = await _follow(rows, action=ALARM_ACTION)
        await rows.carry_out(rows.completed(await rows.claimed()))
        await rows.carry_out(rows.waits_for_retry(await rows.claimed()))
        (task,) = await rows.create(rows.single())
        await rows.carry_out(rows.rejected(task))
        failed = await rows.carry_out(rows.failed(await rows.claimed()))
        notices = await _all(rows, name)
        assert [notice.key for notice in notices] == [task.key, failed.key]
        assert all(notice.action == ALARM_ACTION and notice.status is FAILED for notice in notices)

    @scenario
    async def test_sub_tasks_only_for_those_who_ask(self, backend: Backend) -> None:
        """From their first claim on."""
        rows = Rows(backend)
        without, name = await _follow(rows), await _follow(rows, sub_tasks=True)
        alarms = await _follow(rows, sub_tasks=True, action=ALARM_ACTION)
        parent = await rows.claimed(rows.fan_out(1002))
        first, last = [await rows.sub_task(index, parent) for index in (0, 1001)]
        await rows.carry_out(rows.completed(first))
        await rows.carry_out(rows.failed(last))
        found = [(notice.key, notice.status) for notice in await _all(rows, name)]
        assert found[2:] == [
            *((first.key, IN_PROGRESS), (last.key, IN_PROGRESS), (first.key, COMPLETED), (last.key, FAILED))
        ]
        assert [key for key, _ in found[:2]] == [parent.key] * 2
        assert [notice.key for notice in await _all(rows, without)] == [parent.key] * 2
        assert [notice.key for notice in await _all(rows, alarms)] == [last.key]

    @scenario
    async def test_a_task_with_an_address_of_its_own(self, backend: Backend) -> None:
        """It is followed by its creation, also beside others and with an idempotency key."""
        rows = Rows(backend)
        options = TaskOptions(notify_url="https://example.com/hook?a=1", deadline=5)
        task = await rows.claimed(rows.single(options=options))
        await rows.create(rows.single(), rows.single(options=TaskOptions(deadline=5)))
        await rows.carry_out(rows.failed(task))
        found = [notice for notice in await _all(rows, NOTIFY_URL) if notice.key.tenant_code == rows.tenant]
        assert [(notice.key, notice.url) for notice in found] == [(task.key, options.notify_url)] * 3
        assert [notice.status for notice in found] == [PENDING, IN_PROGRESS, FAILED]

    @scenario
    async def test_nobody_else_hears_of_it(self, backend: Backend) -> None:
        rows, others = Rows(backend), Rows(backend)
        name = await _follow(others)
        await rows.claimed()
        assert not await _all(others, name)
        assert await backend.notifier.next_due(name) is None

    # --- from when, until when -----------------------------------------------------------------------------------

    @scenario
    async def test_what_was_before_is_not_told(self, backend: Backend) -> None:
        rows = Rows(backend)
        task = await rows.claimed()
        name = await _follow(rows)
        await rows.carry_out(rows.completed(task))
        assert [notice.status for notice in await _all(rows, name)] == [COMPLETED]

    @scenario
    async def test_announced_before_a_write_counts_from_that_write_on(self, backend: Backend) -> None:
        rows = Rows(backend)
        listener = Listener(name=backend.ids.token(), filter=Filter(task_types=frozenset({rows.task_type})))
        backend.notifier.announce(listener, rows.now + HOUR)
        (task,) = await rows.create(rows.single())
        assert [notice.key for notice in await _all(rows, listener.name)] == [task.key]

    @scenario
    async def test_once_its_time_is_over_nothing_is_kept(self, backend: Backend) -> None:
        """Following again begins anew; what waits is removed in portions."""
        rows = Rows(backend)
        name = await _follow(rows, until=timedelta(seconds=4))
        await rows.create(rows.single())
        await self.elapse(backend, timedelta(seconds=4))
        (task,) = await rows.create(rows.single())
        assert len([item for item in await backend.notifier.listeners() if item.name == name]) == 1
        await backend.notifier.tidy()
        await backend.notifier.tidy()
        assert not [item for item in await backend.notifier.listeners() if item.name == name]
        assert not await _all(rows, name)
        await rows.carry_out(rows.claim(task))
        assert not await _all(rows, name)

    @scenario
    async def test_following_again_replaces_filter_and_time(self, backend: Backend) -> None:
        rows = Rows(backend)
        name = await _follow(rows, until=timedelta(seconds=1))
        chosen = Filter(task_types=frozenset({rows.task_type}), statuses=frozenset({IN_PROGRESS}))
        await backend.notifier.follow(Listener(name=name, filter=chosen), rows.now + HOUR)
        await self.elapse(backend, timedelta(seconds=2))
        await rows.claimed()
        assert [notice.status for notice in await _all(rows, name)] == [IN_PROGRESS]

    @scenario
    async def test_forget(self, backend: Backend) -> None:
        """It and all that waits for it, given up or not; others keep theirs."""
        rows = Rows(backend)
        name, other = await _follow(rows), await _follow(rows)
        await rows.create(*(rows.single() for _ in range(self.many)))
        (notice,) = await backend.notifier.take(name, 1, again_at=rows.now)
        await backend.notifier.settle([], [NoticeFailure(notice=notice, reason="no", retry_at=None)])
        assert await backend.notifier.forget(name)
        assert not await backend.notifier.forget(name)
        await rows.create(rows.single())
        assert not await backend.notifier.notices(name, given_up=False, after=0, limit=10)
        assert len(await _all(rows, other)) == self.many + 1

    # --- taking and settling -------------------------------------------------------------------------------------

    @scenario
    async def test_taken_is_nobody_elses_until_its_time(self, backend: Backend) -> None:
        rows = Rows(backend)
        name = await _follow(rows)
        await rows.create(*(rows.single() for _ in range(5)))
        notifier, again_at = backend.notifier, rows.now + self.tick
        first = await notifier.take(name, 2, again_at=again_at)
        rest = await notifier.take(name, 10, again_at=again_at)
        numbers = [notice.number for notice in (*first, *rest)]
        assert (len(first), len(rest)) == (2, 3)
        assert numbers == sorted(numbers)
        assert not await notifier.take(name, 10, again_at=again_at)
        assert await notifier.next_due(name) == again_at
        await self.elapse(backend, self.tick)
        again = await notifier.take(name, 10, again_at=rows.now + HOUR)
        assert [notice.number for notice in again] == numbers
        assert [notice.event_id for notice in again] == [notice.event_id for notice in (*first, *rest)]

    @scenario
    async def test_what_is_done_goes(self, backend: Backend) -> None:
        """Also when somebody took it again meanwhile."""
        rows = Rows(backend)
        name = await _follow(rows)
        await rows.create(*(rows.single() for _ in range(3)))
        first, second, third = await backend.notifier.take(name, 3, again_at=rows.now)
        await backend.notifier.settle([first], [])
        again = await backend.notifier.take(name, 3, again_at=rows.now)
        assert [notice.number for notice in again] == [second.number, third.number]
        await backend.notifier.settle([second, first], [])
        assert [notice.number for notice in await _all(rows, name)] == [third.number]

    @scenario
    async def test_what_failed_comes_again_at_its_time(self, backend: Backend) -> None:
        rows = Rows(backend)
        name = await _follow(rows)
        await rows.create(rows.single())
        (notice,) = await backend.notifier.take(name, 1, again_at=rows.now + HOUR)
        at = rows.now + self.tick
        await backend.notifier.settle([], [NoticeFailure(notice=notice, reason="no", retry_at=at)])
        assert await backend.notifier.next_due(name) == at
        await self.elapse(backend, self.tick)
        (again,) = await backend.notifier.take(name, 1, again_at=rows.now + HOUR)
        assert (again.failures, again.reason, again.event_id) == (1, "no", notice.event_id)
        free = NoticeFailure(notice=again, reason=None, retry_at=rows.now, counts=False)
        await backend.notifier.settle([], [free])
        (again,) = await backend.notifier.take(name, 1, again_at=rows.now + HOUR)
        assert (again.failures, again.reason) == (1, "no")

    @scenario
    async def test_a_failure_that_comes_too_late_counts_for_nothing(self, backend: Backend) -> None:
        rows = Rows(backend)
        name = await _follow(rows)
        await rows.create(rows.single())
        (late,) = await backend.notifier.take(name, 1, again_at=rows.now)
        await backend.notifier.take(name, 1, again_at=rows.now + HOUR)
        for retry_at in (rows.now, None):
            await backend.notifier.settle([], [NoticeFailure(notice=late, reason="no", retry_at=retry_at)])
        assert await backend.notifier.next_due(name) == rows.now + HOUR
        (stands,) = await backend.notifier.notices(name, given_up=False, after=0, limit=10)
        assert (stands.failures, stands.reason) == (0, None)

    @scenario
    async def test_given_up_is_listed_and_replayed(self, backend: Backend) -> None:
        rows = Rows(backend)
        name, other = await _follow(rows), await _follow(rows)
        await rows.create(*(rows.single() for _ in range(3)))
        for listener in (name, other):
            taken = await backend.notifier.take(listener, 2, again_at=rows.now + HOUR)
            failures = [NoticeFailure(notice=notice, reason="gone", retry_at=None) for notice in taken]
            await backend.notifier.settle([], failures)
        given_up = await backend.notifier.notices(name, given_up=True, after=0, limit=10)
        first, second = given_up
        assert [(item.failures, item.reason, item.given_up_at) for item in given_up] == [(1, "gone", rows.now)] * 2
        assert await backend.notifier.notices(name, given_up=True, after=first.number, limit=10) == [second]
        assert await backend.notifier.notices(name, given_up=True, after=0, limit=1) == [first]
        assert len(await backend.notifier.notices(name, given_up=False, after=0, limit=10)) == 3
        assert len(await _all(rows, name)) == 1
        assert await backend.notifier.replay(other, first.number) == 0
        assert await backend.notifier.replay(None, first.number) == 1
        assert await backend.notifier.replay(None, first.number) == 0
        (again,) = await backend.notifier.take(name, 10, again_at=rows.now + HOUR)
        assert (again.number, again.event_id, again.failures) == (first.number, first.event_id, 0)
        assert await backend.notifier.replay(name, None) == 1
        assert not await backend.notifier.notices(name, given_up=True, after=0, limit=10)
        assert len(await backend.notifier.notices(other, given_up=True, after=0, limit=10)) == 2

    @scenario
    async def test_given_up_goes_in_the_end(self, backend: Backend) -> None:
        rows = Rows(backend)
        name = await _follow(rows, until=timedelta(days=100))
        await rows.create(rows.single())
        (notice,) = await backend.notifier.take(name, 1, again_at=rows.now)
        await backend.notifier.settle([], [NoticeFailure(notice=notice, reason="no", retry_at=None)])
        await self.elapse(backend, timedelta(days=29))
        await backend.notifier.tidy()
        assert await backend.notifier.notices(name, given_up=True, after=0, limit=10)
        await self.elapse(backend, timedelta(days=2))
        await backend.notifier.tidy()
        assert not await backend.notifier.notices(name, given_up=True, after=0, limit=10)

    @scenario
    async def test_how_listeners_stand(self, backend: Backend) -> None:
        rows = Rows(backend)
        name = await _follow(rows, action=ALARM_ACTION)
        for _ in range(3):
            await rows.carry_out(rows.failed(await rows.claimed()))
        created = rows.now
        (notice,) = await backend.notifier.take(name, 1, again_at=rows.now)
        await backend.notifier.settle([], [NoticeFailure(notice=notice, reason="no", retry_at=None)])
        await self.elapse(backend, self.tick)
        (found,) = [item for item in await backend.notifier.listeners() if item.name == name]
        assert (found.action, found.waiting, found.given_up, found.oldest_at) == (ALARM_ACTION, 2, 1, created)
        assert found.until == created + HOUR

    def test_each_is_taken_once_however_many_take(self, backend: Backend) -> None:
        rows = Rows(backend)

        async def prepare(_: int) -> str:
            name = await _follow(rows)
            await rows.create(*(rows.single() for _ in range(40)))
            return name

        (name,) = in_threads(1, prepare)

        async def take(_: int) -> list[int]:
            numbers: list[int] = []
            while taken := await backend.notifier.take(name, 3, again_at=rows.now + HOUR):
                numbers += [notice.number for notice in taken]
            return numbers

        taken = [number for part in in_threads(4, take) for number in part]
        assert len(taken) == len(set(taken)) == 40


async def _follow(rows: Rows, *, until: timedelta = HOUR, **chosen: Any) -> str:
    """The name of a listener to the tasks of *rows*."""
    name = rows.backend.ids.token()
    chosen.setdefault("task_types", frozenset({rows.task_type}))
    await rows.backend.notifier.follow(Listener(name=name, filter=Filter(**chosen)), rows.now + until)
    return name


async def _all(rows: Rows, name: str) -> Sequence[Notice]:
    """What is due for a listener."""
    taken: list[Notice] = []
    while found := await rows.backend.notifier.take(name, 100, again_at=rows.now + HOUR):
        taken += found
    return taken
