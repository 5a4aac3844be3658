"""The `cat` example in the long form: events, handlers, factories.

    python examples/cat_long.py [FOLDER]

keeps its tasks in FOLDER/tasks.db (default: a new temporary folder), creates a single task and a step function task of
six items, works until nothing is due any more, and prints what came out.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# ruff: noqa: B018 - the handlers do nothing but show what an event holds

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from taskloom import (
    EventFactoryAddedTask,
    StepFunctionTaskEvent,
    TaskEvent,
    TaskModule,
    TaskQueueEvent,
    TaskService,
    event_factory,
    event_handler,
)

if __name__ == "__main__":  # whoever imports this module says by TASKLOOM_DATABASE where its tasks are
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="taskloom-"))
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["TASKLOOM_DATABASE"] = str(folder / "tasks.db")


class CatEvent(TaskQueueEvent): ...


class SfnCatEvent(StepFunctionTaskEvent): ...


@event_handler(CatEvent)
class CatHandler:
    def __init__(self, task_service: TaskService): ...  # filled in by type; see below

    async def execute(self, event: CatEvent):  # def works too: it runs in a thread
        event.task_event.task_entity.input  # also event.task.input
        return "Result after process"


@event_handler(SfnCatEvent)
class SfnCatHandler:
    async def execute(self, event: SfnCatEvent):  # one call per sub-task
        return event.input.input["key"]  # also event.task.input["key"]


class CatTaskQueueEventFactory:  # either method may be missing
    async def transform_task(self, event: TaskQueueEvent):
        return [CatEvent.from_sqs_record(event)]

    async def transform_step_function_task(self, event: StepFunctionTaskEvent):
        return [SfnCatEvent.from_event(event)]


@event_factory
class CustomEventFactory(EventFactoryAddedTask):  # raw AWS events in, domain events out
    async def transform_dynamodb_stream(self, event):
        events = await super().transform_dynamodb_stream(event)
        mine = [
            TaskEvent.from_dynamodb_record(record)
            for record in event["Records"]
            if "tasks" in record["eventSourceARN"] and record["eventName"] == "INSERT"
        ]
        return [*events, *(e for e in mine if len(e.task_entity.sk.split("#")) < 3)]


module = TaskModule.register(
    task_queue_event_factory=CatTaskQueueEventFactory,
    providers=[CatHandler, SfnCatHandler],  # classes, instances, or callables taking the module
    event_factory=CustomEventFactory,
    enable_controller=True,
)


async def main() -> None:
    service = module.task_service
    task = await service.create_task(tenant_code="mbc", task_type="cat", input={"key": "v"})
    fan_out = await service.create_step_function_task(
        tenant_code="mbc", task_type="cat", input=[{"key": f"value{i}"} for i in range(1, 7)]
    )
    print(f"created: {task.id} and {fan_out.id}, both {task.status}")
    async with module.worker(concurrency=8) as worker:
        await worker.drain()
    task, fan_out = await service.get_task(task.key), await service.get_task(fan_out.key)
    print(f"single task: {task.status}, result {task.result!r}")
    counts = fan_out.attributes
    print(f"step function task: {fan_out.status}, {counts.sub_task_succeed_count} of {counts.sub_task_count} succeeded")
    async for sub_task in service.iter_sub_tasks(fan_out.key):
        print(f"  sub-task {sub_task.index}: {sub_task.status}, result {sub_task.result!r}")
    print(f"database: {module.settings.database}")


if __name__ == "__main__":
    asyncio.run(main())
