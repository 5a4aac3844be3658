"""The `cat` example in the short form: two decorated functions.

    python examples/cat_short.py [FOLDER]

keeps its tasks in FOLDER/tasks.db (default: a new temporary folder), creates a single task and a step function task of
six items, works until nothing is due any more, and prints what came out.
"""

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from taskloom import StepFunctionTaskEvent, TaskModule, TaskQueueEvent

if __name__ == "__main__":  # whoever imports this module says by TASKLOOM_DATABASE where its tasks are
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="taskloom-"))
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["TASKLOOM_DATABASE"] = str(folder / "tasks.db")

module = TaskModule.register()


@module.task("cat")
async def cat(event: TaskQueueEvent[dict[str, str]]) -> str:
    return f"Result after process of {event.task.input['key']}"


@module.step_function_task("cat", max_concurrency=40)
def cat_item(event: StepFunctionTaskEvent[dict[str, str]]) -> str:  # def: it runs in a thread; one call per sub-task
    return event.input.input["key"]


async def main() -> None:
    task = await cat.create(tenant_code="mbc", input={"key": "v"})
    fan_out = await cat_item.create(tenant_code="mbc", input=[{"key": f"value{i}"} for i in range(1, 7)])
    print(f"created: {task.id} and {fan_out.id}, both {task.status}")
    async with module.worker(concurrency=8) as worker:
        await worker.drain()
    service = module.task_service
    task, fan_out = await service.get_task(task.key), await service.get_task(fan_out.key)
    print(f"single task: {task.status}, result {task.result!r}")
    counts = fan_out.attributes
    print(f"step function task: {fan_out.status}, {counts.sub_task_succeed_count} of {counts.sub_task_count} succeeded")
    async for sub_task in service.iter_sub_tasks(fan_out.key):
        print(f"  sub-task {sub_task.index}: {sub_task.status}, result {sub_task.result!r}")
    print(f"database: {module.settings.database}")


if __name__ == "__main__":
    asyncio.run(main())
