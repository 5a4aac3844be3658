"""Where a task stands, and why: every answer of `explain`, each reached by a real story."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from taskloom import (
    EventFactoryAddedTask,
    NewTask,
    Retry,
    StepFunctionTaskEvent,
    TaskKey,
    TaskModule,
    TaskQueueEvent,
    TaskStatus,
)
from taskloom.clock import to_milliseconds
from taskloom.embedded.database import BUSY_SECONDS
from taskloom.errors import InvalidInput, TaskNotFound
from taskloom.execution.reconciler import DUTY
from taskloom.execution.worker import Worker
from taskloom.operations.explaining import Cause, Explanation
from taskloom.ports import Cap, Served
from taskloom.record import time_text
from tests.engine import processes
from tests.support.clock import FakeClock
from tests.support.faults import Inner, PortCall, tapped
from tests.support.scenarios import module_over, open_backend
from tests.surface.running import Entity, MakeModule, drained, until, within_patience

STEADY = Retry(max_attempts=3, initial=30, jitter=False)


class Gate:
    """A handler that stops at it tells that it is there, and goes on when the test says so."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def wait(self) -> None:
        self.reached.set()
        await self.open.wait()


async def told(module: TaskModule, key: TaskKey, cause: Cause, *words: str) -> Mapping[str, Any]:
    """The facts of the explanation of *key*, which has this cause and these words."""
    explanation = await module.task_service.explain(key)
    check(explanation, key, cause, *words)
    task = await module.task_service.get_task(key)
    assert explanation.status is task.status
    return explanation.facts


def check(explanation: Explanation, key: TaskKey, cause: Cause, *words: str) -> None:
    assert (explanation.key, explanation.cause) == (key, cause), explanation
    for word in words:
        assert word in explanation.text, explanation
    assert "None" not in explanation.text
    assert "{" not in explanation.text
    facts = dict(explanation.facts)
    assert json.loads(json.dumps(facts)) == facts


@asynccontextmanager
async def living(module: TaskModule, **options: Any) -> AsyncIterator[Worker]:
    """A worker of *module* that has said that it lives.

    Without a grace time, which on a clock that stands still would never be over: a test that fails shall end.
    """
    async with module.worker(grace=0, **options) as worker:
        await listed(module, worker)
        yield worker


async def listed(module: TaskModule, worker: Worker) -> None:
    """Return when *worker* has said that it lives, lately."""

    async def is_listed() -> bool:
        return worker.name in [facts.name for facts in await module.task_service.queues.workers()]

    await until(is_listed)


async def create(module: TaskModule, tenant_code: str = "acme", task_type: str = "job", **options: Any) -> Entity:
    return await module.task_service.create_task(tenant_code=tenant_code, task_type=task_type, **options)


async def ended(module: TaskModule, count: int) -> None:
    """So many tasks of type "job" have ended just now: in few commits, each of which waits for a busy disk."""
    await module.task_service.create_tasks(NewTask(tenant_code="acme", task_type="job") for _ in range(count))
    await drained(module, concurrency=count)


def busy(module: TaskModule, gate: Gate, **options: Any) -> None:
    """Tasks of type "job" with "stop" as their input stop at *gate*."""

    @module.task("job", **options)
    async def job(event: TaskQueueEvent) -> None:
        if event.task.input == "stop":
            await gate.wait()


async def in_queue(module: TaskModule, *tasks: Entity) -> None:
    """Return when the messages of *tasks* are in the queue, by whoever puts them there."""
    await module._backend.stream.forward(500)

    async def are_there() -> bool:
        places = [await module._backend.admin.place(task.key, 1) for task in tasks]
        return None not in places

    await until(are_there)


async def running(module: TaskModule, *tasks: Entity) -> None:
    """Return when *tasks* run."""

    async def they_run() -> bool:
        states = {(await module.task_service.get_task(task.key)).status for task in tasks}
        return states == {TaskStatus.IN_PROGRESS}

    await until(they_run)


def by_hand(database: Path, sql: str, *values: object) -> None:
    """What no call does."""
    connection = sqlite3.connect(database, timeout=BUSY_SECONDS)
    with connection:
        assert connection.execute(sql, values).rowcount == 1
    connection.close()


# --- waiting for its turn --------------------------------------------------------------------------------------------


def test_others_are_before_it(make_module: MakeModule, clock: FakeClock) -> None:
    """How many, how long the oldest has waited, and when its turn will be at the measured rate."""
    module = make_module(clock=clock)

    async def scenario() -> None:
        gate = Gate()
        busy(module, gate)
        await ended(module, 30)
        async with living(module, concurrency=1) as worker:
            await create(module, input="stop")
            await gate.reached.wait()
            tasks = [await create(module) for _ in range(4)]
            await in_queue(module, *tasks)
            clock.advance(12)
            facts = await told(
                module, tasks[3].key, Cause.TURN,
                "3 of its tenant and type are before it", "has waited for 12 s", "2.5 per second", "in about 2 s",
            )  # fmt: skip
            starts_at = clock.now() + timedelta(seconds=1.6)
            assert facts == {
                "ahead": 3, "is_exact": True, "tenants": 1, "oldest_age": 12.0, "rate": 2.5,
                "starts_at": time_text(starts_at),
            }  # fmt: skip
            assert (await told(module, tasks[0].key, Cause.TURN, "0 of its tenant", "in about 0 s"))["ahead"] == 0
            gate.open.set()
            await worker.drain()

    asyncio.run(within_patience(scenario()))


def test_a_rate_that_nobody_knows_tells_no_start(make_module: MakeModule, clock: FakeClock) -> None:
    """And what ended long ago says nothing about now."""
    module = make_module(clock=clock)

    async def scenario() -> None:
        gate = Gate()
        busy(module, gate)
        async with living(module, concurrency=1) as worker:
            await create(module)
            await worker.drain()
            clock.advance(6 * 60)
            await listed(module, worker)
            await create(module, input="stop")
            await gate.reached.wait()
            task = await create(module)
            await in_queue(module, task)
            facts = await told(module, task.key, Cause.TURN, "0 of its tenant and type are before it")
            assert (facts["rate"], facts["starts_at"]) == (0, None)
            assert "about" not in (await module.task_service.explain(task.key)).text
            gate.open.set()
            await worker.drain()

    asyncio.run(within_patience(scenario()))


def test_other_tenants_take_turns_with_it(make_module: MakeModule, clock: FakeClock) -> None:
    """They are counted, and nothing of them is told (rule 7)."""
    module = make_module(clock=clock)

    async def scenario() -> None:
        gate = Gate()
        busy(module, gate)
        await ended(module, 30)
        async with living(module, concurrency=1) as worker:
            await create(module, input="stop")
            await gate.reached.wait()
            others = [await create(module, tenant_code=f"secret-{number}", input="hush") for number in (1, 1, 2)]
            task = await create(module)
            await in_queue(module, *others, task)
            clock.advance(10)
            facts = await told(
                module, task.key, Cause.TURN,
                "0 of its tenant and type are before it", "2 other tenants take turns with it", "in about 1 s",
            )  # fmt: skip
            assert facts["tenants"] == 3
            explanation = await module.task_service.explain(task.key)
            for word in ("secret", "hush", *(other.code for other in others)):
                assert word not in repr(explanation)
            gate.open.set()
            await worker.drain()

    asyncio.run(within_patience(scenario()))


def test_a_fan_out_waits_for_its_turn_with_its_sub_tasks(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)

    async def scenario() -> None:
        gate = Gate()
        busy(module, gate)
        module.step_function_task("job")(lambda event: None)
        async with living(module, concurrency=1) as worker:
            await create(module, input="stop")
            await gate.reached.wait()
            create_fan_out = module.task_service.create_step_function_task
            first, second = [
                await create_fan_out(tenant_code="acme", task_type="job", input=[1, 2]) for _ in range(2)
            ]  # fmt: skip
            await in_queue(module, first, second)
            assert (await told(module, second.key, Cause.TURN, "1 of its tenant and type"))["ahead"] == 1
            assert (await told(module, sub_key(second, 1), Cause.TURN, "1 of its tenant and type"))["ahead"] == 1
            gate.open.set()
            await worker.drain()

    asyncio.run(within_patience(scenario()))


def sub_key(parent: Entity, index: int) -> TaskKey:
    return TaskKey.sub_task(parent.tenant_code, parent.task_type, parent.code, index)


# --- waiting for another attempt -------------------------------------------------------------------------------------


def test_it_waits_for_its_backoff(make_module: MakeModule, clock: FakeClock) -> None:
    """Until when, and after which error; whether a worker lives or not is not the reason."""
    module = make_module(clock=clock)

    @module.task("job", retry=STEADY)
    def job(event: TaskQueueEvent) -> None:
        raise ValueError("no such book")

    async def scenario() -> None:
        task = await create(module)
        await drained(module)
        ends = time_text(clock.now() + timedelta(seconds=30))
        clock.advance(10)
        facts = await told(
            module, task.key, Cause.BACKOFF, "attempt 2 follows", ends, "in 20 s", "after ValueError: no such book"
        )
        assert facts == {"until": ends, "attempt": 1, "error": "no such book"}
        clock.advance(20)
        await told(module, task.key, Cause.NO_WORKER)

    asyncio.run(within_patience(scenario()))


def test_a_sub_task_waits_for_its_backoff(make_module: MakeModule, clock: FakeClock) -> None:
    """Its fan-out only runs meanwhile."""
    module = make_module(clock=clock)

    @module.step_function_task("job", retry=STEADY)
    def job(event: StepFunctionTaskEvent) -> None:
        if event.input.input == 1:
            raise ValueError("no such book")

    async def scenario() -> None:
        made = await module.task_service.create_step_function_task(tenant_code="acme", task_type="job", input=[0, 1])
        async with living(module) as worker:
            await worker.drain()
            ends = time_text(clock.now() + timedelta(seconds=30))
            facts = await told(
                module, sub_key(made, 1), Cause.BACKOFF, "attempt 2 follows", ends, "ValueError: no such book"
            )
            assert (facts["until"], facts["attempt"]) == (ends, 1)
            assert (await told(module, made.key, Cause.FAN_OUT_RUNS, "1 of 2 sub-tasks have ended"))["ended"] == 1

    asyncio.run(within_patience(scenario()))


def test_it_sleeps(make_module: MakeModule, clock: FakeClock) -> None:
    """Until when; whether a worker lives or not, or its type is paused, is not the reason."""
    module = make_module(clock=clock)

    @module.task("job")
    async def job(event: TaskQueueEvent) -> None:
        await event.sleep(3600)

    async def scenario() -> None:
        task = await create(module)
        await drained(module)
        ends = time_text(clock.now() + timedelta(hours=1))
        clock.advance(600)
        await module.task_service.queues.pause(task_type="job")
        facts = await told(module, task.key, Cause.SUSPENDED, f"it sleeps until {ends} (in 3000 s)")
        assert facts == {"until": ends, "callback": None}
        await module.task_service.queues.resume(task_type="job")
        clock.advance(3000)
        await told(module, task.key, Cause.NO_WORKER)

    asyncio.run(within_patience(scenario()))


@pytest.mark.parametrize("timeout", [None, 3600])
def test_it_waits_for_a_callback(make_module: MakeModule, clock: FakeClock, timeout: float | None) -> None:
    """Which one, and until when. Single tasks and sub-tasks; the answer changes what is said."""
    module, tokens = make_module(clock=clock), list[str]()

    async def ask(event: Any) -> None:
        tokens.append(await event.callback('the boss\'s "yes"'))
        await event.wait_for(tokens[-1], timeout=timeout)

    module.task("job")(ask)
    module.step_function_task("job")(ask)

    async def scenario() -> None:
        made = await module.task_service.create_step_function_task(tenant_code="acme", task_type="job", input=[0])
        task = await create(module)
        await drained(module)
        ends = None if timeout is None else time_text(clock.now() + timedelta(hours=1))
        words = f"until {ends} (in 3600 s)" if ends else "however long that takes"
        for key in (task.key, sub_key(made, 0)):
            facts = await told(module, key, Cause.SUSPENDED, 'it waits for callback "the boss\'s \\"yes\\""', words)
            assert facts == {"until": ends, "callback": 'the boss\'s "yes"'}
        async with living(module):
            await told(module, made.key, Cause.FAN_OUT_RUNS)
        for token in tokens:
            await module.task_service.resume(token)
        assert (await module.task_service.explain(task.key)).cause is not Cause.SUSPENDED
        assert (await module.task_service.explain(sub_key(made, 0))).cause is not Cause.SUSPENDED

    asyncio.run(within_patience(scenario()))


def test_its_message_comes_later(make_module: MakeModule, clock: FakeClock) -> None:
    """The worker that had it gave it back for a while: its storage failed."""
    module = make_module(clock=clock)

    async def scenario() -> None:
        gate = Gate()
        busy(module, gate)
        async with living(module, concurrency=1) as worker:
            await create(module, input="stop")
            await gate.reached.wait()
            task = await create(module)
            await in_queue(module, task)
            (delivery,) = await received(module)
            ends = clock.now() + timedelta(seconds=7)
            await module._backend.queue.release(delivery.receipt, ends)
            facts = await told(module, task.key, Cause.BACKOFF, "its message comes again at", time_text(ends))
            assert facts == {"until": time_text(ends)}
            gate.open.set()
            await worker.drain()
            clock.advance(7)
            await worker.drain()

    asyncio.run(within_patience(scenario()))


async def received(module: TaskModule) -> Sequence[Any]:
    """A message, in the hands of somebody else than the worker of the test."""
    served = Served(tasks=frozenset({"job"}), fan_outs=frozenset())
    visible_at = module._backend.clock.now() + timedelta(seconds=60)
    return await module._backend.queue.receive(served, 1, visible_at=visible_at)


# --- waiting for a worker --------------------------------------------------------------------------------------------


def test_no_worker_lives(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)
    module.task("job")(lambda event: None)

    async def scenario() -> None:
        task = await create(module)
        for _ in range(2):
            facts = await told(module, task.key, Cause.NO_WORKER, "no worker is alive", "taskloom worker")
            assert facts == {"workers": []}
            await drained(module, task_types=["other"])

    asyncio.run(within_patience(scenario()))


def test_no_living_worker_serves_it(make_module: MakeModule, clock: FakeClock) -> None:
    """Which ones live, and what they serve; single tasks and fan-outs of one type are two things."""
    module = make_module(clock=clock)
    module.task("tea")(lambda event: None)
    module.task("cake")(lambda event: None)
    module.step_function_task("job")(lambda event: None)
    module.task("lone")(lambda event: None)

    async def scenario() -> None:
        task = await create(module, "acme", "job")
        lone = await module.task_service.create_step_function_task(tenant_code="acme", task_type="lone", input=[1])
        async with living(module, task_types=["tea", "cake", "job"]) as first, living(module) as second:
            facts = await told(
                module, task.key, Cause.NO_WORKER,
                "no live worker serves single tasks of type 'job'",
                f"{first.name} (serves single tasks: cake, tea; fan-outs: job)",
                f"{second.name} (serves single tasks: cake, lone, tea; fan-outs: job)",
            )  # fmt: skip
            assert facts == {"workers": sorted([first.name, second.name])}
            for key in (lone.key, sub_key(lone, 0)):
                await told(module, key, Cause.NO_WORKER, "no live worker serves fan-outs of type 'lone'", first.name)

    asyncio.run(within_patience(scenario()))


def test_a_running_fan_out_whose_workers_are_gone(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)

    @module.step_function_task("job", retry=STEADY)
    def job(event: StepFunctionTaskEvent) -> None:
        raise ValueError("no")

    async def scenario() -> None:
        made = await module.task_service.create_step_function_task(tenant_code="acme", task_type="job", input=[0])
        await drained(module)
        await told(module, made.key, Cause.NO_WORKER, "no worker is alive")

    asyncio.run(within_patience(scenario()))


# --- paused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "what"),
    [({"task_type": "job"}, "the task type 'job' is paused"), ({"tenant_code": "acme"}, "the tenant 'acme' is paused")],
    ids=["type", "tenant"],
)
def test_it_is_paused(make_module: MakeModule, clock: FakeClock, scope: dict[str, str], what: str) -> None:
    """What is paused, since when, by whom and why; single tasks, fan-outs and sub-tasks alike."""
    module = make_module(clock=clock)
    module.task("job")(lambda event: None)
    module.step_function_task("job")(lambda event: None)

    async def scenario() -> None:
        task = await create(module)
        other = await create(module, "other" if "tenant_code" in scope else "acme", "job" if len(what) > 31 else "tea")
        parent = await module.task_service.create_step_function_task(tenant_code="acme", task_type="job", input=[1])
        await module.task_service.queues.pause(**scope, reason="the printer burns", by="ann")
        since = time_text(clock.now())
        clock.advance(100)
        for key in (task.key, parent.key, sub_key(parent, 0)):
            facts = await told(module, key, Cause.PAUSED, what, since, "by ann", "the printer burns")
            ((name, value),) = scope.items()
            assert facts == {
                "scope": name.removeprefix("task_").removesuffix("_code"), "name": value, "since": since,
                "by": "ann", "reason": "the printer burns",
            }  # fmt: skip
        assert (await module.task_service.explain(other.key)).cause is not Cause.PAUSED
        await module.task_service.queues.pause(**scope)
        assert (await told(module, task.key, Cause.PAUSED, what))["reason"] is None
        assert await module.task_service.queues.resume(**scope)
        await told(module, task.key, Cause.NO_WORKER)

    asyncio.run(within_patience(scenario()))


def test_a_running_fan_out_is_paused(make_module: MakeModule, clock: FakeClock) -> None:
    """What of it runs already goes on, and is told so."""
    module = make_module(clock=clock)

    async def scenario() -> None:
        gate = Gate()

        @module.step_function_task("job", max_concurrency=1)
        async def job(event: StepFunctionTaskEvent) -> None:
            await gate.wait()

        made = await module.task_service.create_step_function_task(tenant_code="acme", task_type="job", input=[0, 1])
        async with living(module) as worker:
            await gate.reached.wait()
            await module.task_service.queues.pause(task_type="job")
            await told(module, made.key, Cause.PAUSED, "'job' is paused")
            await told(module, sub_key(made, 1), Cause.PAUSED, "'job' is paused")
            await told(module, sub_key(made, 0), Cause.RUNNING)
            gate.open.set()
            await module.task_service.queues.resume(task_type="job")
            await module.task_service.wait(made.key)
            await worker.drain()

    asyncio.run(within_patience(scenario()))


# --- capped ----------------------------------------------------------------------------------------------------------


def test_as_many_of_its_type_run_as_may(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)

    async def scenario() -> None:
        gate = Gate()
        busy(module, gate, max_concurrency=2)
        async with living(module, concurrency=8) as worker:
            await running(module, *[await create(module, f"other-{number}", input="stop") for number in range(2)])
            task = await create(module, input="stop")
            await in_queue(module, task)

            async def is_capped() -> bool:
                return (await module.task_service.explain(task.key)).cause is Cause.CAPPED

            await until(is_capped)
            facts = await told(module, task.key, Cause.CAPPED, "2 of its type run", "no more may", "max_concurrency=2")
            assert facts == {"running": 2, "max_concurrency": 2}
            gate.open.set()
            await worker.drain()

    asyncio.run(within_patience(scenario()))


def test_as_many_of_its_tenant_run_as_may(make_module: MakeModule, clock: FakeClock) -> None:
    """Another tenant's is not held up by that."""
    module = make_module(clock=clock)

    async def scenario() -> None:
        gate = Gate()
        busy(module, gate, max_concurrency=8, max_concurrency_per_tenant=1)
        async with living(module, concurrency=2) as worker:
            await running(module, *[await create(module, tenant, input="stop") for tenant in ("acme", "other")])
            task = await create(module)
            await in_queue(module, task)

            async def is_capped() -> bool:
                return (await module.task_service.explain(task.key)).cause is Cause.CAPPED

            await until(is_capped)
            facts = await told(
                module, task.key, Cause.CAPPED, "1 of its tenant run", "no more may", "max_concurrency_per_tenant=1"
            )
            assert facts == {"running": 1, "max_concurrency_per_tenant": 1}
            third = await create(module, "third")
            await in_queue(module, third)
            assert (await module.task_service.explain(third.key)).cause is Cause.TURN
            gate.open.set()
            await worker.drain()

    asyncio.run(within_patience(scenario()))


def test_whoever_asks_learns_the_limits_of_the_workers(make_module: MakeModule, clock: FakeClock) -> None:
    """A web process knows no handler: what the workers say counts, not what the one that asks knows."""
    module, stranger, generous = make_module(clock=clock), make_module(clock=clock), make_module(clock=clock)

    async def scenario() -> None:
        gate = Gate()
        busy(module, gate, max_concurrency=2)
        busy(generous, gate, max_concurrency=3)
        async with living(module, concurrency=8) as worker:
            await running(module, *[await create(module, input="stop") for _ in range(2)])
            task = await create(module)
            await in_queue(module, task)
            await told(stranger, task.key, Cause.CAPPED, "2 of its type run", "max_concurrency=2")
            await told(generous, task.key, Cause.CAPPED, "max_concurrency=2")
            caps = [facts.caps for facts in await stranger.task_service.queues.workers()]
            assert caps == [{"job": Cap(total=2)}]
            # One more worker, which would take it: then it only waits for its turn.
            facts = replace((await stranger.task_service.queues.workers())[0], name="another", caps={})
            await module._backend.admin.beat(facts)
            await told(stranger, task.key, Cause.TURN)
            await module._backend.admin.leave("another")
            gate.open.set()
            await worker.drain()

    asyncio.run(within_patience(scenario()))


def test_limits_of_types_that_a_worker_does_not_serve_are_not_its_own(
    make_module: MakeModule, clock: FakeClock
) -> None:
    module = make_module(clock=clock)

    async def scenario() -> None:
        busy(module, Gate(), max_concurrency=2)
        module.task("other", max_concurrency_per_tenant=3)(lambda event: None)
        async with living(module, task_types=["other"]):
            (facts,) = await module.task_service.queues.workers()
            assert facts.caps == {"other": Cap(per_tenant=3)}

    asyncio.run(within_patience(scenario()))


# --- on its way ------------------------------------------------------------------------------------------------------


def test_it_has_no_message_yet(make_module: MakeModule, clock: FakeClock) -> None:
    """The event factory of the application is looking at it."""
    gates: list[Gate] = []

    class Slow(EventFactoryAddedTask):
        async def transform_dynamodb_stream(self, event: Any) -> Sequence[Any]:
            await gates[0].wait()
            return await super().transform_dynamodb_stream(event)

    module = make_module(clock=clock, event_factory=Slow)
    module.task("job")(lambda event: None)

    async def scenario() -> None:
        gates.append(Gate())
        task = await create(module)
        async with living(module) as worker:
            await gates[0].reached.wait()
            await told(module, task.key, Cause.DISPATCH, "is saved", "into the queue")
            gates[0].open.set()
            await worker.drain()
        await told(module, task.key, Cause.ENDED)

    asyncio.run(within_patience(scenario()))


def test_a_worker_has_its_message(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)

    async def scenario() -> None:
        gate = Gate()
        busy(module, gate)
        async with living(module, concurrency=1) as worker:
            await create(module, input="stop")
            await gate.reached.wait()
            task = await create(module)
            await in_queue(module, task)
            (delivery,) = await received(module)
            await told(module, task.key, Cause.TAKEN, "a worker has taken its message", "about to start")
            await module._backend.queue.release(delivery.receipt, clock.now())
            await told(module, task.key, Cause.TURN)
            gate.open.set()
            await worker.drain()

    asyncio.run(within_patience(scenario()))


@pytest.mark.parametrize("is_fresh", [True, False], ids=["fresh", "waits for another attempt"])
def test_it_has_lost_its_message(make_module: MakeModule, clock: FakeClock, database: Path, is_fresh: bool) -> None:
    """Whether anybody ever claimed it or not."""
    module = make_module(clock=clock)

    async def scenario() -> None:
        gate = Gate()

        @module.task("job", retry=STEADY)
        async def job(event: TaskQueueEvent) -> None:
            if event.task.input == "stop":
                await gate.wait()
            raise ValueError("no")

        async with living(module, concurrency=1) as worker:
            task = await create(module, input=None if not is_fresh else "stop")
            if is_fresh:
                await gate.reached.wait()
                task = await create(module)
                await in_queue(module, task)
            else:
                await worker.drain()
            by_hand(database, "DELETE FROM queue WHERE code = ?", task.code)
            if not is_fresh:
                await told(module, task.key, Cause.BACKOFF)
                clock.advance(30)
                await listed(module, worker)
            facts = await told(
                module, task.key, Cause.REPAIR, "has no message in the queue", "reconciler", "within a minute"
            )
            assert facts["repair_at"] is None
            now = clock.now()
            await module._backend.admin.take_duty(DUTY, now, now)  # as the reconciler says that it has looked
            await module._backend.admin.report_duty(DUTY, {"at": time_text(now - timedelta(seconds=20))})
            facts = await told(module, task.key, Cause.REPAIR, "(in 40 s)")
            assert facts["repair_at"] == time_text(now + timedelta(seconds=40))
            await module.task_service.cancel_task(task.key)
            gate.open.set()
            await worker.drain()

    asyncio.run(within_patience(scenario()))


# --- running ---------------------------------------------------------------------------------------------------------


def test_it_runs(make_module: MakeModule, clock: FakeClock) -> None:
    """Where, since when, until when its lease holds, how far it is, how long it still takes, until when it may."""
    module = make_module(clock=clock)

    async def scenario() -> None:
        gate = Gate()

        @module.task("job")
        async def job(event: TaskQueueEvent) -> None:
            clock.advance(15)
            event.progress(3, total=9, message="books")
            await gate.wait()

        since = clock.now()
        task = await create(module, deadline=3600)
        async with living(module) as worker:
            await gate.reached.wait()

            async def has_progress() -> bool:
                return (await module.task_service.get_task(task.key)).progress is not None

            await until(has_progress)
            entity = await module.task_service.get_task(task.key)
            assert entity.lease_until is not None
            facts = await told(
                module, task.key, Cause.RUNNING,
                f"attempt 1 runs since {time_text(since)} (15 s) in the worker {worker.name}",
                f"its lease holds until {time_text(entity.lease_until)}", "it has done 3 of 9 (books)",
                "about 30 s are left", f"it must end by {time_text(since + timedelta(seconds=3600))}",
            )  # fmt: skip
            assert facts == {
                "by": worker.name,
                "since": time_text(since),
                "attempt": 1,
                "lease_until": time_text(entity.lease_until),
                "done": 3,
                "total": 9,
                "seconds_left": 30,
                "deadline_at": time_text(since + timedelta(seconds=3600)),
            }
            gate.open.set()
            await worker.drain()

    asyncio.run(within_patience(scenario()))


def test_it_runs_and_says_nothing(make_module: MakeModule, clock: FakeClock) -> None:
    """Without progress and deadline nothing of them is told."""
    module = make_module(clock=clock)

    async def scenario() -> None:
        gate = Gate()
        busy(module, gate)
        task = await create(module, input="stop")
        async with living(module) as worker:
            await gate.reached.wait()
            facts = await told(module, task.key, Cause.RUNNING, "attempt 1 runs since", worker.name)
            assert set(facts) == {"by", "since", "attempt", "lease_until"}
            text = (await module.task_service.explain(task.key)).text
            assert "done" not in text
            assert "left" not in text
            assert "must end" not in text
            gate.open.set()
            await worker.drain()

    asyncio.run(within_patience(scenario()))


def test_its_worker_died(make_module: MakeModule, clock: FakeClock, database: Path, tmp_path: Path) -> None:
    """Its lease is over, and it is claimed again; before that nobody can know."""
    module = make_module(clock=clock)

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        pass

    async def scenario() -> None:
        task = await create(module, "acme", "cat", input={"die": "at its start"})
        now = to_milliseconds(clock.now())
        assert await asyncio.to_thread(processes.killed, processes.run, database, tmp_path / "effects", now)
        await told(module, task.key, Cause.RUNNING, "attempt 1 runs since")
        clock.advance(60)
        ended = time_text(clock.now())
        facts = await told(
            module, task.key, Cause.LEASE_OVER, f"its lease ended at {ended}", "not renewed", "claimed again"
        )
        assert (facts["lease_until"], facts["attempt"]) == (ended, 1)
        await drained(module)
        await told(module, task.key, Cause.ENDED, "COMPLETED", "attempt 2")

    asyncio.run(within_patience(scenario()))


# --- fan-outs --------------------------------------------------------------------------------------------------------


def test_a_fan_out_runs(make_module: MakeModule, clock: FakeClock) -> None:
    """Its counts and its limits; and what its sub-tasks wait for."""
    module = make_module(clock=clock)

    async def scenario() -> None:
        gate = Gate()

        @module.step_function_task("job", chunk_size=2, max_concurrency=1)
        async def job(event: StepFunctionTaskEvent) -> None:
            if event.input.input == 0:
                clock.advance(10)
                raise ValueError("no such book")
            if event.input.input == 2:
                await gate.wait()

        create_fan_out = module.task_service.create_step_function_task
        made = await create_fan_out(tenant_code="acme", task_type="job", input=range(7))
        async with living(module, concurrency=1) as worker:
            await gate.reached.wait()
            numbers = {
                "ended": 2, "count": 7, "failed": 1, "max_concurrency": 1, "chunks": 4, "chunk_size": 2,
                "seconds_left": 25,
            }  # fmt: skip
            words = (
                "2 of 7 sub-tasks have ended, 1 of them badly",
                "at most 1 run at the same time, in 4 chunks of 2",
                "about 25 s are left",
            )
            assert await told(module, made.key, Cause.FAN_OUT_RUNS, *words) == numbers
            for index, chunk in ((3, 1), (4, 2), (6, 3)):
                facts = await told(module, sub_key(made, index), Cause.TURN, f"until chunk {chunk} is its turn", *words)
                assert facts == numbers | {"chunk": chunk}
            await told(module, sub_key(made, 0), Cause.ENDED, "FAILED", "ValueError: no such book")
            await told(module, sub_key(made, 1), Cause.ENDED, "COMPLETED")
            await told(module, sub_key(made, 2), Cause.RUNNING, worker.name)
            gate.open.set()
            await worker.drain()
        await told(module, made.key, Cause.ENDED, "FAILED", "1 of 7 sub-tasks failed")

    asyncio.run(within_patience(scenario()))


@pytest.mark.parametrize("why", ["cancelled", "deadline"])
def test_a_fan_out_ends(make_module: MakeModule, clock: FakeClock, why: str) -> None:
    """It was cancelled, or is behind its deadline; but something of it still runs."""
    module = make_module(clock=clock)

    async def scenario() -> None:
        gate, told_to_end = Gate(), asyncio.Event()

        @module.step_function_task("job", max_concurrency=1)
        async def job(event: StepFunctionTaskEvent) -> None:
            try:
                await gate.wait()
            except asyncio.CancelledError:
                told_to_end.set()
                await gate.wait()  # it takes its time
                raise

        deadline = 20.0 if why == "deadline" else None
        made = await module.task_service.create_step_function_task(
            tenant_code="acme", task_type="job", input=[0, 1], deadline=deadline
        )
        async with living(module) as worker:
            await gate.reached.wait()
            if why == "cancelled":
                await module.task_service.cancel_task(made.key, reason="enough", by="ann")
            else:
                clock.advance(20)

                async def is_asked() -> bool:
                    return (await module.task_service.get_task(made.key)).cancel_requested is not None

                await until(is_asked)
            for key in (made.key, sub_key(made, 1)):
                await told(module, key, Cause.ENDING, "starts nothing more", "ends as soon as what runs has")
            await told(module, sub_key(made, 0), Cause.RUNNING)
            clock.advance(1)
            await told_to_end.wait()
            await told(module, made.key, Cause.ENDING)
            gate.open.set()
            await module.task_service.wait(made.key)
            await worker.drain()
        words = ["CANCELLED", "enough", "ann"] if why == "cancelled" else ["FAILED", "within 20 s"]
        await told(module, made.key, Cause.ENDED, *words)
        await told(module, sub_key(made, 1), Cause.ENDED, "CANCELLED", "never started")

    asyncio.run(within_patience(scenario()))


# --- ended -----------------------------------------------------------------------------------------------------------


def test_it_ended(make_module: MakeModule, clock: FakeClock) -> None:
    """Well or badly, when, in which run and attempt, and why."""
    module = make_module(clock=clock)

    @module.task("job", retry=Retry(max_attempts=2, initial=10, jitter=False))
    def job(event: TaskQueueEvent) -> None:
        if event.task.run == 1:
            raise ValueError("no such book")

    async def scenario() -> None:
        task = await create(module)
        await drained(module)
        clock.advance(10)
        await drained(module)
        ended = time_text(clock.now())
        facts = await told(
            module, task.key, Cause.ENDED, f"FAILED since {ended}", "run 1, attempt 2", "ValueError: no such book"
        )
        assert (facts["finished_at"], facts["reason"]) == (ended, "no such book")
        await module.task_service.retry_task(task.key)
        clock.advance(5)
        await drained(module)
        facts = await told(module, task.key, Cause.ENDED, "COMPLETED since", "run 2, attempt 1")
        assert (facts["finished_at"], facts["reason"]) == (time_text(clock.now()), None)
        assert "book" not in (await module.task_service.explain(task.key)).text

    asyncio.run(within_patience(scenario()))


def test_it_was_cancelled(make_module: MakeModule, clock: FakeClock) -> None:
    """By whom, and why."""
    module = make_module(clock=clock)

    async def scenario() -> None:
        task, silent = await create(module), await create(module)
        await module.task_service.cancel_task(task.key, reason="a mistake", by="ann")
        facts = await told(module, task.key, Cause.ENDED, "CANCELLED since", "a mistake", "(by ann)")
        assert (facts["by"], facts["reason"]) == ("ann", "cancelled: a mistake")
        assert "attempt" not in (await module.task_service.explain(task.key)).text
        await module.task_service.cancel_task(silent.key)
        assert (await told(module, silent.key, Cause.ENDED, "CANCELLED since"))["by"] is None

    asyncio.run(within_patience(scenario()))


# --- the door itself -------------------------------------------------------------------------------------------------


def test_there_is_no_such_task(make_module: MakeModule) -> None:
    module = make_module()

    async def scenario() -> None:
        task = await create(module)
        parent = await module.task_service.create_step_function_task(tenant_code="acme", task_type="job", input=[1])
        for key in (
            TaskKey.single("other", "job", task.code),
            TaskKey.single("acme", "tea", task.code),
            TaskKey.step_function("acme", "job", task.code),
            sub_key(parent, 1),
            sub_key(task, 0),
        ):
            with pytest.raises(TaskNotFound):
                await module.task_service.explain(key)
        with pytest.raises(InvalidInput, match="key"):
            await module.task_service.explain(task.id)  # type: ignore[arg-type]

    asyncio.run(within_patience(scenario()))


def test_the_same_without_an_event_loop(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)
    service = module.sync.task_service
    task = service.create_task(tenant_code="acme", task_type="job")
    check(service.explain(task.key), task.key, Cause.NO_WORKER, "no worker is alive")
    service.cancel_task(task.key)
    check(service.explain(task.key), task.key, Cause.ENDED, "CANCELLED")
    with pytest.raises(TaskNotFound):
        service.explain(TaskKey.single("acme", "tea", task.code))


def test_whoever_knows_the_key_may_ask(make_module: MakeModule, clock: FakeClock) -> None:
    """It is for operators, so a key of any tenant will do; it tells of that tenant's task only (rule 7)."""
    module = make_module(clock=clock)

    async def scenario() -> None:
        await module.task_service.queues.pause(tenant_code="secret", reason="hush")
        secret = await create(module, "secret", input="hush")
        task = await create(module)
        await told(module, secret.key, Cause.PAUSED, "the tenant 'secret'")
        explanation = await module.task_service.explain(task.key)
        assert "secret" not in repr(explanation)
        assert "hush" not in repr(explanation)

    asyncio.run(within_patience(scenario()))


def test_what_ends_while_it_is_asked_about_has_ended(database: Path, clock: FakeClock) -> None:
    """It has no message any more, but nobody lost it."""
    backend = open_backend(database, clock)
    plain = module_over(backend, grace=0)

    async def scenario() -> None:
        gate = Gate()
        busy(plain, gate)
        async with living(plain, concurrency=1) as worker:
            await create(plain, input="stop")
            await gate.reached.wait()
            task = await create(plain)
            await in_queue(plain, task)

            async def tap(call: PortCall, inner: Inner) -> Any:
                answer = await inner()
                if call.name == "store.get" and not gate.open.is_set():
                    gate.open.set()
                    await plain.task_service.wait(task.key)
                    await worker.drain()
                return answer

            await told(module_over(tapped(backend, tap)), task.key, Cause.ENDED, "COMPLETED")

    asyncio.run(within_patience(scenario()))
    backend.close()
