"""The contract of `ports.Signals`."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from taskloom.lifecycle import Change, Guard
from taskloom.model import TaskEntity
from taskloom.ports import Backend, ExecutionInput, Served
from tests.contract.base import HOUR, PATIENCE, Contract, needs, scenario
from tests.support.rows import Rows


class SignalsContract(Contract):
    """Every sentence of `ports.Signals`.

    That a signal may be lost cannot be tested; where it never is within a process, `signals_arrive` says so.
    """

    @needs("signals_arrive")
    @scenario
    async def test_new_work_is_signalled(self, backend: Backend) -> None:
        """Whatever makes it: a task, its message, its message again, the step of an execution."""
        rows = Rows(backend)
        everything = Served(tasks=frozenset({rows.task_type}), fan_outs=frozenset())
        parent = (await rows.create(rows.fan_out(dispatch=None)))[0]

        async def release() -> None:
            (delivery,) = await backend.queue.receive(everything, 1, visible_at=rows.now + HOUR)
            await backend.queue.release(delivery.receipt, rows.now)

        async def start() -> None:
            asked = ExecutionInput(key=parent.key, run=1, chunks=1, at_once=1)
            await backend.machine.start(parent.code, asked)

        async def resume() -> None:
            await backend.store.update(Change(key=parent.key, guard=Guard(), patch={"dispatch": "again"}))

        async def send() -> None:
            await self.sent(rows, rows.single())

        async def create() -> None:
            await rows.create(rows.single())

        for make in (create, send, release, start, resume):
            assert await self._signalled(backend.signals.on_work, make)

    @needs("signals_arrive")
    @scenario
    async def test_the_end_of_a_task_is_signalled(self, backend: Backend) -> None:
        """However it ends, single task or fan-out, in one write or among many."""
        rows = Rows(backend)
        for row in (rows.single, rows.fan_out):
            task = await rows.claimed(row())
            assert await self._ends(backend, task, lambda task: backend.store.update(rows.completed(task)))
            task = await rows.claimed(row())
            assert await self._ends(backend, task, lambda task: backend.store.update(rows.failed(task)))
        task = await rows.claimed()
        assert await self._ends(backend, task, lambda task: backend.store.update_many([rows.completed(task)]))
        (waiting,) = await rows.create(rows.single())
        assert await self._ends(backend, waiting, lambda task: backend.store.update(rows.rejected(task)))

    @needs("signals_arrive")
    @scenario
    async def test_whoever_asks_for_anything_hears_of_work_and_of_every_end(self, backend: Backend) -> None:
        rows = Rows(backend)
        task, other = await rows.claimed(), await rows.claimed()

        async def complete() -> None:
            await backend.store.update(rows.completed(task))

        async def fail() -> None:
            await backend.store.update_many([rows.failed(other)])

        async def create() -> None:
            await rows.create(rows.single())

        for make in (complete, fail, create):
            assert await self._signalled(backend.signals.on_any, make)

    @needs("signals_arrive")
    @scenario
    async def test_who_reads_after_the_signal_sees_the_end(self, backend: Backend) -> None:
        """A signal that came before its write would wake for nothing, and then nobody."""
        rows = Rows(backend)
        for _ in range(5):
            task = await rows.claimed()
            assert await self._ends(backend, task, lambda task: backend.store.update(rows.completed(task)))
            assert (await rows.stored(task.key)).is_terminal

    @needs("signals_arrive")
    @scenario
    async def test_all_who_listen_are_called(self, backend: Backend) -> None:
        """Also after one of them has had enough."""
        rows = Rows(backend)
        task = await rows.claimed()
        heard = [threading.Event() for _ in range(4)]
        ends = [backend.signals.on_work(event.set) for event in heard[:2]]
        ends += [backend.signals.on_change(task.code, event.set) for event in heard[2:]]
        ends[0]()
        ends[2]()
        await backend.store.update(rows.completed(task))
        await rows.create(rows.single())
        for event in (heard[1], heard[3]):
            assert await _set(event)
        for end in (ends[1], ends[3]):
            end()
        assert not heard[0].is_set()
        assert not heard[2].is_set()

    @scenario
    async def test_who_has_ended_it_is_called_no_more(self, backend: Backend) -> None:
        rows = Rows(backend)
        task = await rows.claimed()
        calls: list[str] = []
        for end in (
            backend.signals.on_work(lambda: calls.append("work")),
            backend.signals.on_any(lambda: calls.append("any")),
            backend.signals.on_change(task.code, lambda: calls.append("change")),
        ):
            end()
        calls.clear()  # what came before the end is none of our business
        await rows.create(rows.single())
        await backend.store.update(rows.completed(task))
        await self.elapse(backend, self.tick)
        await rows.create(rows.single())  # a write later, so that the signals of the others had their time
        assert calls == []

    @scenario
    async def test_nobody_need_listen(self, backend: Backend) -> None:
        rows = Rows(backend)
        task = await rows.claimed()
        assert (await rows.carry_out(rows.completed(task))).is_terminal

    @needs("signals_arrive")
    @scenario
    async def test_the_same_callback_may_listen_twice(self, backend: Backend) -> None:
        """Each listening has an end of its own."""
        rows = Rows(backend)
        heard = threading.Event()
        first, second = backend.signals.on_work(heard.set), backend.signals.on_work(heard.set)
        first()
        await rows.create(rows.single())
        assert await _set(heard)
        second()

    # --- helpers -------------------------------------------------------------------------------------------------

    async def _ends(
        self, backend: Backend, task: TaskEntity, end: Callable[[TaskEntity], Coroutine[Any, Any, object]]
    ) -> bool:
        return await self._signalled(lambda callback: backend.signals.on_change(task.code, callback), lambda: end(task))

    async def _signalled(
        self,
        listen: Callable[[Callable[[], None]], Callable[[], None]],
        make: Callable[[], Coroutine[Any, Any, object]],
    ) -> bool:
        """Whether a listener is called because of *make*."""
        heard = threading.Event()
        end = listen(heard.set)
        try:
            heard.clear()
            await make()
            return await _set(heard)
        finally:
            end()


async def _set(event: threading.Event) -> bool:
    return await asyncio.to_thread(event.wait, PATIENCE)
