"""Small stories with a known end, told on any backend, and what must hold of them whatever went wrong on the way."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from taskloom import (
    Continue,
    EventFactory,
    EventFactoryAddedTask,
    Retry,
    Settings,
    StepFunctionTaskEvent,
    TaskModule,
    TaskQueueEvent,
)
from taskloom.embedded.backend import embedded_backend
from taskloom.errors import TaskEnded, TaskTokenNotFound
from taskloom.events.registry import Registry, TypePolicy
from taskloom.ids import RandomIds
from taskloom.lifecycle import NEXT, Trigger
from taskloom.model import Kind, TaskEntity, TaskStatus, TenantCode
from taskloom.ports import Backend, Clock, ExecutionStatus, TaskQuery
from taskloom.service import TaskService
from taskloom.values import Json
from tests.support.clock import FakeClock

TENANT: Final = "acme"
LEASE: Final = 60.0

IN_PROGRESS = TaskStatus.IN_PROGRESS
COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED
_NEW_RUN: Final = {Trigger.RETRY_RUN, Trigger.CLAIM_IN_NEW_RUN}
_STEPS: Final = {(before, after) for (before, trigger), after in NEXT.items() if trigger not in _NEW_RUN}
_STEPS_TO_A_NEW_RUN: Final = {(before, after) for (before, trigger), after in NEXT.items() if trigger in _NEW_RUN}


def open_backend(database: Path, clock: Clock) -> Backend:
    """The embedded engine over *database*; NORMAL, since no test takes the power away."""
    return embedded_backend(database, "NORMAL", clock, RandomIds())


def module_over(
    backend: Backend,
    *,
    retry: Retry | None = None,
    event_factory: EventFactory | None = None,
    grace: float = 30.0,
) -> TaskModule:
    """A module over a backend that `TaskModule.register` would not make: a wrapped one."""
    registry = Registry(default_policy=TypePolicy(retry=retry))
    if event_factory is not None:
        registry.event_factory = event_factory
    settings = Settings(database="unused", retry=retry, lease_seconds=LEASE, grace_seconds=grace)
    return TaskModule(settings, backend, registry)


class HastyClock(FakeClock):
    """A clock on which a short wait is over at once, and has moved the time on: pauses cost nothing."""

    SHORT: Final = 0.9
    """Seconds; below the pauses of a second and more in which something else is waited for."""

    async def wait(self, event: asyncio.Event, until: datetime | None) -> bool:
        if until is not None and not event.is_set():
            seconds = (until - self.now()).total_seconds()
            if 0 < seconds <= self.SHORT:
                self.advance(seconds)
        return await super().wait(event, until)


@dataclass(slots=True)
class Effects:
    """What handlers did, from any thread."""

    _done: list[Any] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, effect: Any) -> None:
        with self._lock:
            self._done.append(effect)

    @property
    def all(self) -> list[Any]:
        with self._lock:
            return list(self._done)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """How one task must stand at the end."""

    status: TaskStatus
    result: Json = None
    error: str | None = None
    """What the message of its error contains."""
    sub_tasks: Sequence["Expected"] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One story."""

    name: str
    define: Callable[[TaskModule, Effects], None]
    """Give a module the handlers."""
    event_factory: type[EventFactory] | None = None
    create: Callable[[TaskService], Awaitable[TaskEntity[Any]]]
    """Create the one task of the story."""
    steer: Callable[[TaskService, TaskEntity[Any]], Awaitable[Any]] | None = None
    """What an operator does once the worker has nothing to do; repeated by whoever got no answer."""
    end: Expected
    patience: Sequence[float] = ()
    """Seconds to let pass, after each of which the worker has something to do again."""
    is_repeated: bool = False
    """Whoever creates the task and gets no answer asks again, so it is there in any case."""
    workers: int = 1

    def __str__(self) -> str:
        return self.name

    def watched(self) -> "Scenario":
        """The same story with `Watching`."""
        return replace(self, name=f"{self.name}, watched", event_factory=Watching)


def _define_single(module: TaskModule, effects: Effects) -> None:
    @module.task("single")
    async def single(event: TaskQueueEvent) -> Json:
        effects.add(event.task.id)
        return ["done", event.task.input]


def _define_retry(module: TaskModule, effects: Effects) -> None:
    @module.task("retry", retry=Retry(max_attempts=3, initial=10, jitter=False))
    def retry(event: TaskQueueEvent) -> Json:
        effects.add(event.task.id)
        if event.attempt == 1:
            raise ValueError("the first attempt fails")
        return "done"


def _define_fan_out(module: TaskModule, effects: Effects) -> None:
    @module.step_function_task("fan-out", chunk_size=2, max_concurrency=4)
    async def fan_out(event: StepFunctionTaskEvent) -> Json:
        effects.add(event.task.id)
        number = event.task.input
        if number in (1, 4):
            raise ValueError(f"number {number} fails")
        return number * 10  # type: ignore[no-any-return]


class Watching(EventFactoryAddedTask):
    """An event factory of the application's own that changes nothing: records take the long way through it."""

    async def transform_dynamodb_stream(self, event: Any) -> Sequence[Any]:
        return await super().transform_dynamodb_stream(event)

    async def transform_sqs(self, event: Any) -> Sequence[Any]:
        return await super().transform_sqs(event)


class _Dropping(EventFactoryAddedTask):
    async def transform_dynamodb_stream(self, event: Any) -> Sequence[Any]:
        return []


class _RaisingOnce(EventFactoryAddedTask):
    """Broken until somebody has seen it, and runs its tasks again."""

    async def transform_dynamodb_stream(self, event: Any) -> Sequence[Any]:
        events = await super().transform_dynamodb_stream(event)
        if any(one.task_entity.run == 1 for one in events):
            raise ValueError("the factory is broken")
        return events


class _Raising(EventFactoryAddedTask):
    async def transform_dynamodb_stream(self, event: Any) -> Sequence[Any]:
        raise ValueError("the factory is broken")


def _create_single(service: TaskService) -> Awaitable[TaskEntity[Any]]:
    return service.create_task(tenant_code=TENANT, task_type="single", input={"key": "v"})


SINGLE: Final = Scenario(
    name="single task",
    define=_define_single,
    create=_create_single,
    end=Expected(status=COMPLETED, result=["done", {"key": "v"}]),
)
RETRY: Final = Scenario(
    name="retry",
    define=_define_retry,
    create=lambda service: service.create_task(tenant_code=TENANT, task_type="retry"),
    end=Expected(status=COMPLETED, result="done"),
    patience=(10,),
)
FAN_OUT: Final = Scenario(
    name="fan-out of 6 with two failures",
    define=_define_fan_out,
    create=lambda service: service.create_step_function_task(tenant_code=TENANT, task_type="fan-out", input=range(6)),
    end=Expected(
        status=FAILED,
        error="2 of 6 sub-tasks failed; tolerated are 0 %",
        sub_tasks=[
            Expected(status=FAILED, error=f"number {number} fails")
            if number in (1, 4)
            else Expected(status=COMPLETED, result=number * 10)
            for number in range(6)
        ],
    ),
)


def _define_stubborn(module: TaskModule, effects: Effects) -> None:
    forever = Retry(max_attempts=99, initial=10, multiplier=1, jitter=False)

    @module.task("stubborn", retry=forever)
    async def stubborn(event: TaskQueueEvent) -> Json:
        effects.add(event.task.id)
        raise ValueError("it never works")

    @module.step_function_task("stubborn", retry=forever, chunk_size=2, max_concurrency=4)
    async def one_of_them(event: StepFunctionTaskEvent) -> Json:
        effects.add(event.task.id)
        if event.task.input == 1:
            raise ValueError("it never works")
        return "done"


def _define_better(module: TaskModule, effects: Effects) -> None:
    @module.step_function_task("better", chunk_size=2, max_concurrency=4)
    async def better(event: StepFunctionTaskEvent) -> Json:
        effects.add(event.task.id)
        if event.task.run == 1 and event.task.input in (1, 4):
            raise ValueError("the first run fails")
        return event.task.run


async def _cancel(service: TaskService, task: TaskEntity[Any]) -> None:
    with suppress(TaskEnded):
        await service.cancel_task(task.key, reason="enough", by="operator")


async def _retry(service: TaskService, task: TaskEntity[Any]) -> None:
    if (await service.get_task(task.key)).run == 1:
        await service.retry_task(task.key, by="operator")


def _define_talkative(module: TaskModule, effects: Effects) -> None:
    @module.task("talkative", retry=Retry(max_attempts=3, initial=10, jitter=False))
    def talkative(event: TaskQueueEvent) -> Json:
        effects.add(event.task.id)
        for number in range(3):
            event.log.info("%d of attempt %d", number, event.attempt, extra={"number": number})
        if event.attempt == 1:
            raise ValueError("the first attempt fails")
        return "done"

    @module.step_function_task("talkative", chunk_size=2)
    async def one_of_them(event: StepFunctionTaskEvent) -> Json:
        effects.add(event.task.id)
        event.log.info("number %d", event.task.input)
        return "done"


def _define_long(module: TaskModule, effects: Effects) -> None:
    """All that work does which outlives its limit; the token stands in the progress, for whoever answers."""

    def charge(task: str) -> str:
        effects.add(task)
        return "paid"

    async def long(event: Any) -> Json:
        paid = await event.step("charge", charge, event.task.id)
        if event.state != {"page": 1}:
            await event.checkpoint("saved")
            raise Continue({"page": 1})
        token = await event.callback("approval")
        event.progress(1, message=token)
        answer = await event.wait_for(token, timeout=100_000)
        await event.sleep(10)
        return [paid, event.state, answer]

    def long_in_a_thread(event: Any) -> Json:
        paid = event.sync.step("charge", charge, event.task.id)
        token = event.sync.callback("approval")
        event.progress(1, message=token)
        answer = event.sync.wait_for(token, timeout=100_000)
        event.sync.sleep(10)
        return [paid, answer]

    retry = Retry(max_attempts=9, initial=0)
    module.task("long", retry=retry)(long)
    module.step_function_task("long", retry=retry, chunk_size=2, max_concurrency=2)(long_in_a_thread)


async def _answer(service: TaskService, task: TaskEntity[Any]) -> None:
    """Whoever waits gets its answer; who does already hears that it has."""
    tasks = [await service.get_task(task.key)]
    if task.kind is Kind.SFN_TASK:
        tasks = [sub async for sub in service.iter_sub_tasks(task.key)]
    for one in tasks:
        if one.progress is not None:
            with suppress(TaskTokenNotFound):
                await service.resume(one.progress.message or "", "yes")


LONG: Final = Scenario(
    name="task that does a step, goes on, waits, and sleeps",
    define=_define_long,
    create=lambda service: service.create_task(tenant_code=TENANT, task_type="long"),
    steer=_answer,
    end=Expected(status=COMPLETED, result=["paid", {"page": 1}, "yes"]),
    patience=(10,),
)
LONG_FAN_OUT: Final = Scenario(
    name="fan-out of 3 that do a step, wait, and sleep",
    define=_define_long,
    create=lambda service: service.create_step_function_task(tenant_code=TENANT, task_type="long", input=range(3)),
    steer=_answer,
    end=Expected(status=COMPLETED, sub_tasks=[Expected(status=COMPLETED, result=["paid", "yes"])] * 3),
    patience=(10,),
)
TALKATIVE: Final = Scenario(
    name="task that logs",
    define=_define_talkative,
    create=lambda service: service.create_task(tenant_code=TENANT, task_type="talkative"),
    end=Expected(status=COMPLETED, result="done"),
    patience=(10,),
)
TALKATIVE_FAN_OUT: Final = Scenario(
    name="fan-out of 3 that log",
    define=_define_talkative,
    create=lambda service: service.create_step_function_task(tenant_code=TENANT, task_type="talkative", input=range(3)),
    end=Expected(status=COMPLETED, sub_tasks=[Expected(status=COMPLETED, result="done")] * 3),
)
CANCEL: Final = Scenario(
    name="cancel a task that waits for its next attempt",
    define=_define_stubborn,
    create=lambda service: service.create_task(tenant_code=TENANT, task_type="stubborn"),
    steer=_cancel,
    end=Expected(status=CANCELLED, error="it never works"),
)
CANCEL_FAN_OUT: Final = Scenario(
    name="cancel a fan-out of 4 that waits for one of them",
    define=_define_stubborn,
    create=lambda service: service.create_step_function_task(tenant_code=TENANT, task_type="stubborn", input=range(4)),
    steer=_cancel,
    end=Expected(
        status=CANCELLED,
        sub_tasks=[
            Expected(status=CANCELLED, error="it never works")
            if number == 1
            else Expected(status=COMPLETED, result="done")
            for number in range(4)
        ],
    ),
)
RETRY_FAILED: Final = Scenario(
    name="retry of the two that failed of 6",
    define=_define_better,
    create=lambda service: service.create_step_function_task(tenant_code=TENANT, task_type="better", input=range(6)),
    steer=_retry,
    end=Expected(
        status=COMPLETED,
        sub_tasks=[Expected(status=COMPLETED, result=2 if number in (1, 4) else 1) for number in range(6)],
    ),
)


async def _create_twice(service: TaskService) -> TaskEntity[Any]:
    for _ in range(2):
        task = await service.create_task(
            tenant_code=TENANT, task_type="single", input={"key": "v"}, idempotency_key="once"
        )
    return task


IDEMPOTENT: Final = Scenario(
    name="idempotent create, twice",
    define=_define_single,
    create=_create_twice,
    end=Expected(status=COMPLETED, result=["done", {"key": "v"}]),
    is_repeated=True,
)
TWO_WORKERS: Final = replace(FAN_OUT, name="fan-out of 6 with two failures, two workers", workers=2)
DROPPED: Final = Scenario(
    name="event factory that drops the task",
    define=_define_single,
    event_factory=_Dropping,
    create=_create_single,
    end=Expected(status=FAILED, error="the event factory returned no event for this task"),
)
DEAD_LETTER: Final = Scenario(
    name="event factory that always raises",
    define=_define_single,
    event_factory=_Raising,
    create=_create_single,
    end=Expected(status=FAILED, error="the factory is broken"),
    patience=(1, 2, 4, 8),
)


async def _create_paused(service: TaskService) -> TaskEntity[Any]:
    await service.queues.pause(task_type="single", reason="maintenance", by="operator")
    return await service.create_task(
        tenant_code=TENANT, task_type="single", input={"key": "v"}, idempotency_key="paused"
    )


async def _resume(service: TaskService, task: TaskEntity[Any]) -> None:
    for pause in await service.queues.pauses():
        claims = [entry for entry in (await service.get_task(task.key)).history if entry.status is IN_PROGRESS]
        assert all(entry.at <= pause.at for entry in claims), "it was started while its type was paused"
    await service.queues.resume(task_type="single")


async def _purge(service: TaskService, task: TaskEntity[Any]) -> None:
    await service.queues.purge(task_type=task.task_type, reason="enough", by="operator")


async def _redrive(service: TaskService, task: TaskEntity[Any]) -> None:
    """By its letter. Whoever dies between the end of a task and its letter leaves none: then by its key."""
    redriven = await service.queues.redrive(by="operator")
    task = await service.get_task(task.key)
    if not redriven and task.status is FAILED:
        await service.retry_task(task.key, by="operator")
    assert not await service.queues.dead_letters(), "what was redriven has no letter any more"


PAUSE: Final = Scenario(
    name="task of a type that is paused, and resumed",
    define=_define_single,
    create=_create_paused,
    steer=_resume,
    end=Expected(status=COMPLETED, result=["done", {"key": "v"}]),
    is_repeated=True,
)
PURGE: Final = Scenario(
    name="purge a task that waits for its next attempt",
    define=_define_stubborn,
    create=lambda service: service.create_task(tenant_code=TENANT, task_type="stubborn"),
    steer=_purge,
    end=Expected(status=CANCELLED, error="it never works"),
)
REDRIVE: Final = Scenario(
    name="redrive a task that died in a broken event factory",
    define=_define_single,
    event_factory=_RaisingOnce,
    create=_create_single,
    steer=_redrive,
    end=Expected(status=COMPLETED, result=["done", {"key": "v"}]),
    patience=(1, 2, 4, 8),
)
SCENARIOS: Final = (
    SINGLE,
    RETRY,
    FAN_OUT,
    TALKATIVE,
    TALKATIVE_FAN_OUT,
    CANCEL,
    CANCEL_FAN_OUT,
    RETRY_FAILED,
    LONG,
    LONG_FAN_OUT,
    IDEMPOTENT,
    TWO_WORKERS,
    DROPPED,
    DEAD_LETTER,
    PAUSE,
    PURGE,
    REDRIVE,
)


def module_for(scenario: Scenario, backend: Backend, effects: Effects) -> TaskModule:
    """A module with the handlers of the story."""
    module = module_over(backend, event_factory=None if scenario.event_factory is None else scenario.event_factory())
    scenario.define(module, effects)
    return module


async def work(module: TaskModule, concurrency: int = 2) -> None:
    """A worker comes, does what is due, and goes."""
    async with module.worker(concurrency=concurrency) as worker:
        await worker.drain()


async def tell(scenario: Scenario, backend: Backend, clock: FakeClock, effects: Effects | None = None) -> None:
    """The whole story, without accidents: create the task, and let a worker run it to its end."""
    module = module_for(scenario, backend, Effects() if effects is None else effects)
    task = await scenario.create(module.task_service)
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(module.worker(concurrency=2)) for _ in range(scenario.workers)]

        async def drain() -> None:
            # One of several does not wait for what another one has taken, which may be the last step but one.
            for _ in range(1 if len(workers) == 1 else 8):
                await asyncio.gather(*(worker.drain() for worker in workers))

        for seconds in (0.0, *scenario.patience):
            clock.advance(seconds)
            await drain()
            if scenario.steer is not None:
                await scenario.steer(module.task_service, task)
                await drain()


async def recover(scenario: Scenario, backend: Backend, clock: FakeClock, effects: Effects | None = None) -> None:
    """After an accident a fresh worker comes, again and again, each time when every lease has run out."""
    module = module_for(scenario, backend, Effects() if effects is None else effects)
    if scenario.is_repeated:
        await scenario.create(module.task_service)
    for _ in range(6):
        clock.advance(LEASE + 1)
        await work(module)
        if scenario.steer is not None:
            for task in await all_tasks(backend):
                await scenario.steer(module.task_service, task)
            await work(module)
        if all(task.is_terminal for task in await all_tasks(backend)) and not await _runs(backend):
            return


async def _runs(backend: Backend) -> bool:
    for task in await all_tasks(backend):
        execution = None if task.execution_arn is None else await backend.machine.describe(task.execution_arn)
        if execution is not None and execution.status is not ExecutionStatus.SUCCEEDED:
            return True
    return False


async def all_tasks(backend: Backend, tenant: str = TENANT) -> list[TaskEntity[Any]]:
    """Every top-level task of the tenant, oldest first."""
    tasks: list[TaskEntity[Any]] = []
    for kind in (Kind.TASK, Kind.SFN_TASK):
        query = TaskQuery(tenant_code=TenantCode(tenant), kind=kind, newest_first=False, limit=1000)
        found, after = await backend.store.list_tasks(query)
        assert after is None, "more tasks than a test should have"
        tasks += found
    return tasks


async def picture(backend: Backend, tenant: str = TENANT) -> dict[str, Any]:
    """All that is kept of the tenant's tasks, versions included: equal pictures mean that nothing was written."""
    seen: dict[str, Any] = {}
    for task in await all_tasks(backend, tenant):
        seen[task.id] = task
        if task.execution_arn is not None:
            count = task.attributes.sub_task_count or 0
            for row in await backend.store.list_sub_tasks(task.key, range(count)):
                seen[row.id] = row
            seen[f"{task.id} chunks"] = list(await backend.store.list_chunks(task.key, task.run))
            seen[f"{task.id} execution"] = await backend.machine.describe(task.execution_arn)
    return seen


async def check_end(scenario: Scenario, backend: Backend, *, created: bool = True) -> None:
    """Assert that the story ended as it must; when it is not sure that *created* the task, none may be there."""
    module = module_over(backend)
    tasks = await all_tasks(backend)
    assert len(tasks) == 1 or (not tasks and not created), f"{len(tasks)} tasks"
    for stored in tasks:
        task = await module.task_service.get_task(stored.key)
        check_task(task, scenario.end)
        if task.kind is Kind.SFN_TASK:
            subs = [sub async for sub in module.task_service.iter_sub_tasks(task.key)]
            assert len(subs) == len(scenario.end.sub_tasks)
            for sub, expected in zip(subs, scenario.end.sub_tasks, strict=True):
                check_task(sub, expected)
            check_counters(task, subs)
            assert task.execution_arn is not None
            execution = await backend.machine.describe(task.execution_arn)
            assert execution is not None
            assert execution.status is ExecutionStatus.SUCCEEDED


def check_task(task: TaskEntity[Any], expected: Expected) -> None:
    """Assert that *task* stands as *expected*, and that its history is one that can be."""
    assert task.status is expected.status, f"{task.id}: {task.status}, {task.error}"
    assert task.result == expected.result
    assert (task.error is None) == (expected.error is None)
    if task.error is not None and expected.error is not None:
        assert expected.error in task.error.message
    check_history(task)


def check_history(task: TaskEntity[Any]) -> None:
    """Assert rule 5 on one task: the history tells of every status change, each one allowed, up to the present one."""
    history = task.history
    if not history:  # a sub-task that nobody has claimed yet is not stored
        assert task.kind is Kind.SUB_TASK
        assert task.status is TaskStatus.PENDING
        return
    first = TaskStatus.IN_PROGRESS if task.kind is Kind.SUB_TASK else TaskStatus.PENDING
    assert history[0].status is first, task.id
    assert history[-1].status is task.status, task.id
    assert history[-1].run == task.run
    for before, after in pairwise(history):
        steps = _STEPS if before.run == after.run else _STEPS_TO_A_NEW_RUN
        assert (before.status, after.status) in steps, f"{task.id}: {before} → {after}"
        assert before.at <= after.at
        assert before.run <= after.run
        is_claim = after.status is TaskStatus.IN_PROGRESS and not (after.reason or "").startswith("repaired: ")
        if is_claim and before.run == after.run:
            assert after.attempt >= before.attempt + (before.status is TaskStatus.IN_PROGRESS)


def check_counters(parent: TaskEntity[Any], subs: Sequence[TaskEntity[Any]]) -> None:
    """Assert rule 4 on an ended fan-out: its counters are the recount of its sub-tasks."""
    statuses = [sub.status for sub in subs]
    attributes = parent.attributes
    assert attributes.sub_task_count == len(subs)
    assert attributes.sub_task_succeed_count == statuses.count(COMPLETED)
    assert attributes.sub_task_failed_count == statuses.count(FAILED)
    assert attributes.sub_task_running_count == statuses.count(CANCELLED)
