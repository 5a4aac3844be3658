"""Each call of AWS fails once, before its effect or after it: the rules hold each time, and all goes on."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from taskloom import StepFunctionTaskEvent, TaskModule, TaskQueueEvent, TaskStatus
from taskloom.aws.backend import aws_backend
from taskloom.aws.clients import Clients
from taskloom.errors import StoreBusy, StoreError
from taskloom.events.registry import Registry, TypePolicy
from taskloom.ids import RandomIds
from taskloom.model import TaskEntity, TaskKey
from tests.aws.emulator import Emulator
from tests.aws.flow.pump import Crash, Pump, pumped_stack, wait_scale
from tests.aws.moving_clock import MovingClock
from tests.aws.stack import Stack


class Unreliable(Clients):
    """Clients whose call number *fail_at* fails; with *dies* the process dies there, and does nothing any more."""

    def __init__(self, real: Clients) -> None:
        super().__init__()
        self._real = real
        self._calls = itertools.count(1)
        self.made = 0
        self.fail_at: int | None = None
        self.effect_first = True
        self.dies = False
        self.is_dead = False

    async def run(self, work: Callable[[], Any]) -> Any:
        return await self._real.run(work)

    def send(self, service: str, operation: str, **parameters: Any) -> Any:
        if self.is_dead:
            raise Crash
        self.made = number = next(self._calls)
        if number != self.fail_at:
            return self._real.send(service, operation, **parameters)
        if self.effect_first:
            self._real.send(service, operation, **parameters)
        if self.dies:
            self.is_dead = True
            raise Crash
        raise StoreBusy("AWS did not answer")

    def close(self) -> None:
        """The real ones are everybody's."""


class Story:
    """A single task and a fan-out, through all services."""

    def __init__(self, real: Clients, clock: MovingClock) -> None:
        stack = Stack(real)
        calls, events = pumped_stack(stack)
        self.clients = Unreliable(real)
        self.clock = clock
        settings = stack.settings
        backend = aws_backend(settings, clock, RandomIds(), self.clients)
        registry = Registry(default_policy=TypePolicy())
        self.module = TaskModule(settings, backend, registry)
        self.pump = Pump(stack, self.module, clock, calls, events)
        self.pump.before = self._begin
        self.ran: list[object] = []
        self.module.task("cat")(self._cat)
        self.module.step_function_task("dogs", chunk_size=2)(self._dog)

    def _begin(self, event: object) -> None:
        """An invocation begins, if need be in a new process."""
        self.clients.is_dead = False

    async def _cat(self, event: TaskQueueEvent) -> str:
        self.ran.append("cat")
        return "x" * 5000  # too large for the row

    async def _dog(self, event: StepFunctionTaskEvent) -> object:
        self.ran.append(event.task.input)
        return event.task.input

    def tell(self) -> list[TaskKey]:
        """Create and run; the keys of what was created."""
        service = self.module.sync.task_service
        keys = []
        creations: list[Callable[[], TaskEntity[Any]]] = [
            lambda: service.create_task(tenant_code="mbc", task_type="cat", input="y" * 5000),
            lambda: service.create_step_function_task(tenant_code="mbc", task_type="dogs", input=range(3)),
        ]
        for create in creations:
            try:
                task = create()
            except (StoreError, Crash):  # somebody tries again; what there is by now is done all the same
                self._begin(None)
                task = create()
            keys.append(task.key)
        self.pump.settle()
        return keys

    def recover(self) -> None:
        """Let the time pass that mends everything."""
        for _ in range(4):
            self.clock.advance(timedelta(minutes=11).total_seconds())
            with suppress(StoreError, Crash):  # the schedule sends it again in a minute
                self.pump.schedule()
            self.pump.settle()

    def check(self, keys: list[TaskKey]) -> None:
        service = self.module.sync.task_service
        single, parent = (service.get_task(key) for key in keys)
        for task in (single, parent):
            assert task.status is TaskStatus.COMPLETED, task
            entries = [entry.status for entry in task.history]
            assert entries[0] is TaskStatus.PENDING
            assert entries.count(TaskStatus.COMPLETED) == 1  # rule 4
        assert single.result == "x" * 5000
        assert parent.attributes.sub_task_succeed_count == 3
        assert [sub.result for sub in service.iter_sub_tasks(parent.key)] == [0, 1, 2]
        tasks = [*service.iter_tasks("mbc"), *service.iter_tasks("mbc", type="SFN_TASK")]
        assert all(task.is_terminal for task in tasks)  # rule 1: also what nobody heard of


@pytest.fixture
def make_story(moved_clients: Clients, moving_clock: MovingClock, moved: Emulator) -> Iterator[Callable[[], Story]]:
    wait_scale(moved, 0)
    stories: list[Story] = []

    def make() -> Story:
        stories.append(Story(moved_clients, moving_clock))
        return stories[-1]

    yield make
    for story in stories:
        story.module.close()


def test_without_a_fault_each_handler_runs_once(make_story: Callable[[], Story]) -> None:
    story = make_story()
    story.check(story.tell())
    assert sorted(map(str, story.ran)) == ["0", "1", "2", "cat"]


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("effect_first", [False, True])
def test_each_call_may_fail(make_story: Callable[[], Story], effect_first: bool, dies: bool) -> None:
    points = 0
    for number in itertools.count(1):
        story = make_story()
        story.clients.fail_at, story.clients.effect_first, story.clients.dies = number, effect_first, dies
        keys = story.tell()
        if story.clients.made < number:
            break
        story.recover()
        story.check(keys)
        points += 1
    print(f"{points} calls {'died' if dies else 'failed'} {'after' if effect_first else 'before'} their effect")
    assert points > 20
