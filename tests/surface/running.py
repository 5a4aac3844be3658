"""What the tests of the surface do again and again: run a module until it is idle, wait, lose a worker."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from taskloom import TaskEntity, TaskModule

MakeModule = Callable[..., TaskModule]
Entity = TaskEntity[Any]

PATIENCE = 30.0
"""Seconds after which a test gives up waiting for what should be there in no time."""


async def drained(module: TaskModule, **options: Any) -> None:
    """A worker of *module* has done all that was due."""
    async with module.worker(**options) as worker:
        await worker.drain()


async def single(module: TaskModule, input: object = None, *, task_type: str = "job") -> Entity:
    """A single task, created and worked off as far as it is due."""
    task = await module.task_service.create_task(tenant_code="acme", task_type=task_type, input=input)
    await drained(module)
    return await module.task_service.get_task(task.key)


async def fan_out(module: TaskModule, input: Any, *, task_type: str = "job", **options: Any) -> Entity:
    """A step function task, created and worked off as far as it is due."""
    task = await module.task_service.create_step_function_task(tenant_code="acme", task_type=task_type, input=input)
    await drained(module, **options)
    return await module.task_service.get_task(task.key)


async def sub_tasks(module: TaskModule, parent: Entity) -> list[Entity]:
    """All sub-tasks of *parent*, in order."""
    return [task async for task in module.task_service.iter_sub_tasks(parent.key)]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when *condition* holds; for what no event tells of."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            pass


async def within_patience(what: Awaitable[Any]) -> Any:
    """The result of *what*, which should be there in no time."""
    async with asyncio.timeout(PATIENCE):
        return await what


async def lose_worker(module: TaskModule, busy: asyncio.Event) -> None:
    """A worker takes what is due, sets *busy* by its handler, and is torn down without giving anything back.

    Run it in a loop of its own: what the worker leaves behind is cancelled with the loop, so only afterwards does
    nobody renew its leases any more.
    """

    async def work() -> None:
        async with module.worker() as worker:
            await worker.run()

    working = asyncio.create_task(work())
    await within_patience(busy.wait())
    while not working.done():  # again and again, so that it also breaks off the orderly end that the first one begins
        working.cancel()
        await asyncio.wait([working], timeout=0)
