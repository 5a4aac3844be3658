"""Rule 8: the same program gives the same on both backends."""

import asyncio
from typing import Any

from taskloom import Continue, GiveUp, Retry, Settings, StepFunctionTaskEvent, TaskModule, TaskQueueEvent
from taskloom.model import TaskEntity, TaskKey
from tests.aws.flow.pump import MakePump
from tests.conftest import MakeModule
from tests.support.clock import FakeClock


class Program:
    """Tasks of every kind, and what becomes of them."""

    def __init__(self, module: TaskModule) -> None:
        self.module = module
        module.task("cat")(self.cat)
        module.task("again", retry=Retry(max_attempts=3, initial=0, jitter=False))(self.again)
        module.task("slices")(self.slices)
        module.step_function_task("dogs", tolerated_failure_percentage=40)(self.dog)
        module.step_function_task("wolves", chunk_size=2)(self.dog)

    async def cat(self, event: TaskQueueEvent) -> Any:
        event.progress(1, 1, "fed")
        if event.task.input is None:
            raise GiveUp("no food")
        return event.task.input

    def again(self, event: TaskQueueEvent) -> Any:
        if event.attempt < 3:
            raise ValueError("not yet")
        return event.attempt

    async def slices(self, event: TaskQueueEvent) -> Any:
        done: Any = event.state or 0
        if done < 2:
            raise Continue(done + 1)
        return done

    def dog(self, event: StepFunctionTaskEvent) -> Any:
        if event.task.input % 3 == 0:
            raise ValueError("no")
        return {"dog": event.task.input}

    def create(self) -> list[TaskKey]:
        service = self.module.sync.task_service
        singles = [
            ("cat", {"n": 1.25, "list": [1, None, "ü"]}),
            ("cat", None),
            ("again", 1),
            ("slices", 1),
            ("none", 1),
        ]
        keys = [service.create_task(tenant_code="mbc", task_type=t, input=value).key for t, value in singles]
        lists: list[tuple[str, list[int]]] = [
            ("dogs", [*range(5)]),
            ("wolves", [*range(7)]),
            ("dogs", []),
            ("dogs", [1, 2] * 30),
            ("none", [1]),
        ]
        for task_type, values in lists:
            keys.append(service.create_step_function_task(tenant_code="mbc", task_type=task_type, input=values).key)
        return keys

    def outcome(self, keys: list[TaskKey]) -> list[Any]:
        service = self.module.sync.task_service
        found: list[Any] = []
        for key in keys:
            task = service.get_task(key)
            found.append(_facts(task))
            if task.attributes.sub_task_count is not None:
                found += [_facts(sub) for sub in service.iter_sub_tasks(key)]
        return found


def _facts(task: TaskEntity[Any]) -> dict[str, Any]:
    error = task.error
    return {
        "status": task.status,
        "results": task.attributes.results,
        "error": None if error is None else (error.type, error.message, error.attempt, error.will_retry),
        "counts": (task.attributes.sub_task_succeed_count, task.attributes.sub_task_failed_count),
        "attempt": task.attempt,
        "run": task.run,
        "fence": task.fence,
        "progress": task.progress,
        "state": task.state,
        "dispatch": task.dispatch is None,
        "history": [(entry.status, entry.run, entry.attempt, entry.reason) for entry in task.history],
    }


def test_the_same_program_gives_the_same(
    make_pump: MakePump, make_module: MakeModule, clock: FakeClock, database: Any
) -> None:
    def run_embedded(program: Program) -> None:
        async def work() -> None:
            async with program.module.worker() as worker:
                await worker.drain()

        asyncio.run(work())

    pump = make_pump()
    there, here = Program(pump.module), Program(make_module(settings=Settings(database=database), clock=clock))
    keys = there.create(), here.create()
    pump.settle()
    run_embedded(here)
    for key_there, key_here in zip(*keys, strict=True):
        task = there.module.sync.task_service.get_task(key_there)
        if task.is_terminal and task.attributes.sub_task_failed_count:
            there.module.sync.task_service.retry_task(key_there, reason="again", by="ann")
            here.module.sync.task_service.retry_task(key_here, reason="again", by="ann")
    pump.settle()
    run_embedded(here)
    assert there.outcome(keys[0]) == here.outcome(keys[1])
