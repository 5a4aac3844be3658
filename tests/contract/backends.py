"""The contract of `ports.Backend`: what holds of all its ports together."""

import asyncio

from taskloom.capabilities import CAPABILITIES
from taskloom.ports import Backend
from tests.contract.base import Contract, in_threads, scenario
from tests.support.rows import Rows


class BackendContract(Contract):
    """Every sentence of `ports.Backend`."""

    def test_it_has_the_name_under_which_its_capabilities_stand(self, backend: Backend) -> None:
        assert backend.name == self.backend_name
        assert backend.name in CAPABILITIES

    def test_stream_and_queue_have_arns(self, backend: Backend) -> None:
        """As AWS writes them: applications pick their events by the table's name in it."""
        for arn in (backend.stream_arn, backend.queue_arn):
            assert len(arn.split(":")) >= 6
            assert arn.startswith("arn:")
        assert "table/" in backend.stream_arn
        assert "/stream/" in backend.stream_arn

    def test_close_may_be_the_first_call(self, backend: Backend) -> None:
        backend.close()
        backend.close()

    @scenario
    async def test_the_next_use_opens_again(self, backend: Backend) -> None:
        rows = Rows(backend)
        for _ in range(3):
            (task,) = await rows.create(rows.single())
            assert await backend.store.get(task.key) == task
            backend.close()

    def test_every_loop_and_thread_may_call(self, backend: Backend) -> None:
        """One after the other, and several at once; no port keeps to the loop of its first use."""
        rows = Rows(backend)

        async def use(_: int) -> bool:
            task = await rows.claimed()
            ended = await rows.carry_out(rows.completed(task))
            return ended.is_terminal

        assert asyncio.run(use(0))
        assert all(in_threads(3, use))
        assert asyncio.run(use(0))
