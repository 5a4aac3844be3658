"""What the contract suites share.

A suite is a class whose tests take a `backend`. The test file of a backend is a fixture of that name and one empty
class per suite:

    @pytest.fixture
    def backend(tmp_path): ...

    class TestSqliteTaskStore(TaskStoreContract): ...

The suites use nothing but the ports. Each test works in a tenant and with a task type of its own, so a backend may be
shared by many tests; only `ChangeStreamContract` asks for a stream that nobody else writes to.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import wraps
from typing import Any, ClassVar, Final, TypeVar

from taskloom.capabilities import Feature, is_exact
from taskloom.model import TaskEntity
from taskloom.ports import Backend, NewTaskRow, StreamRecord, TaskMessage
from tests.support.rows import Rows

ContractT = TypeVar("ContractT", bound="Contract")
ResultT = TypeVar("ResultT")
TestT = TypeVar("TestT", bound=Callable[..., None])

HOUR: Final = timedelta(hours=1)
PATIENCE: Final = 30.0
"""Real seconds after which something that must happen has not happened."""

_NEEDS: Final[dict[Callable[..., None], str]] = {}
_EXACTLY: Final[dict[Callable[..., None], Feature]] = {}


def needs(flag: str) -> Callable[[TestT], TestT]:
    """Marks a test that only a backend with this flag of `Contract` has."""

    def mark(test: TestT) -> TestT:
        _NEEDS[test] = flag
        return test

    return mark


def exactly(feature: Feature) -> Callable[[TestT], TestT]:
    """Marks a test that only a backend has which does *feature* exactly, by the table of `capabilities` (rule 8)."""

    def mark(test: TestT) -> TestT:
        _EXACTLY[test] = feature
        return test

    return mark


def scenario(
    test: Callable[[ContractT, Backend], Coroutine[Any, Any, None]],
) -> Callable[[ContractT, Backend], None]:
    """The coroutine function *test* as an ordinary test, in an event loop of its own.

    What waits for an answer that never comes fails, and the tests behind it go on.
    """

    @wraps(test)
    def run(self: ContractT, backend: Backend) -> None:
        async def limited() -> None:
            async with asyncio.timeout(PATIENCE):
                await test(self, backend)

        asyncio.run(limited())

    return run


class Contract:
    """Root of the suites: what a backend may say of itself, and the ways through it that several suites go.

    A flag that is False takes the tests that need it out of the class; nothing is skipped. So does the table of
    `capabilities` with the tests that only an exact backend keeps.
    """

    backend_name: ClassVar[str] = "embedded"
    """`Backend.name`."""
    pulls_stream: ClassVar[bool] = True
    """A worker takes the records of the change stream itself. Without it `sent` must be overridden."""
    pulls_steps: ClassVar[bool] = True
    """A worker receives the steps of executions from the queue."""
    keeps_order: ClassVar[bool] = True
    """Of one tenant, type and priority the queue gives out first what was there first."""
    foresees: ClassVar[bool] = True
    """The queue knows when the next message is due."""
    signals_arrive: ClassVar[bool] = True
    """A signal within the process always arrives, so that a test may wait for one."""
    polls: ClassVar[int] = 1
    """How often to look into stream or queue before nothing counts as nothing."""
    many: ClassVar[int] = 300
    """More tasks than the backend looks at for one page of a list."""
    tick: ClassVar[timedelta] = timedelta(seconds=2)
    """The shortest time that queue and stream tell apart."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in dir(cls):
            if name.startswith("test_"):
                test = getattr(cls, name)
                flag, feature = _NEEDS.get(test), _EXACTLY.get(test)
                lacks = flag is not None and not getattr(cls, flag)
                if lacks or (feature is not None and not is_exact(cls.backend_name, feature)):
                    setattr(cls, name, None)

    async def elapse(self, backend: Backend, time: timedelta) -> None:
        """Let *time* pass on the backend's clock: a virtual one is moved on, a real one is waited for."""
        advance = getattr(backend.clock, "advance", None)
        if advance is not None:
            advance(time.total_seconds())
        else:
            await backend.clock.wait(asyncio.Event(), backend.clock.now() + time)

    async def records(self, rows: Rows, *, again_in: timedelta = HOUR) -> list[StreamRecord]:
        """All records of the tenants of *rows* that are on the stream now."""
        backend, own = rows.backend, list[StreamRecord]()
        for _ in range(self.polls):
            while found := await backend.stream.take(100, again_at=backend.clock.now() + again_in):
                own += [record for record in found if record.image.tenant_code.startswith(rows.tenant)]
        return own

    async def sent(self, rows: Rows, *new: NewTaskRow) -> list[TaskEntity]:
        """The entities of *new*, which are stored now and have their messages in the queue."""
        tasks = await rows.create(*new)
        records = await self.records(rows)
        await rows.backend.stream.settle([(record.sequence, message_of(record)) for record in records], [])
        return tasks


def message_of(record: StreamRecord) -> TaskMessage:
    """The message that a record asks for."""
    image = record.image
    return TaskMessage(event_id=record.event_id, key=image.key, kind=image.kind, task_type=image.task_type)


def in_threads(count: int, call: Callable[[int], Coroutine[Any, Any, ResultT]]) -> Sequence[ResultT]:
    """What *call* returns in *count* threads, each with an event loop of its own; all begin together."""
    barrier = threading.Barrier(count)

    def run(number: int) -> ResultT:
        barrier.wait(PATIENCE)
        return asyncio.run(call(number))

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


async def cut_short(call: Coroutine[Any, Any, object]) -> None:
    """Begin *call* and give it up: it gets as far as its first real wait."""
    task = asyncio.ensure_future(call)
    asyncio.get_running_loop().call_soon(task.cancel)
    await asyncio.wait([task])


def due(at: datetime | None, backend: Backend) -> bool:
    """Whether there is something to be had now."""
    return at is not None and at <= backend.clock.now()
