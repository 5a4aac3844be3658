"""The services for programs without an event loop: the same methods, blocking."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from taskloom.execution.loop_thread import LoopThread
from taskloom.operations.fan_outs import FanOuts
from taskloom.operations.queues import Queues
from taskloom.operations.webhooks import Webhooks
from taskloom.service import TaskService
from taskloom.state_service import StepFunctionService

ServiceT = TypeVar("ServiceT")
ResultT = TypeVar("ResultT")
P = ParamSpec("P")


class Blocking(Generic[ServiceT]):
    """One service behind blocking methods."""

    def __init__(self, service: ServiceT, thread: LoopThread) -> None:
        self._service = service
        self._thread = thread


def blocking(
    method: Callable[Concatenate[ServiceT, P], Coroutine[Any, Any, ResultT]],
) -> Callable[Concatenate[Blocking[ServiceT], P], ResultT]:
    """*method* as a blocking one, so that there is no second half that drifts apart from the first."""

    def call(self: Blocking[ServiceT], /, *args: P.args, **kwargs: P.kwargs) -> ResultT:
        future = self._thread.submit(method(self._service, *args, **kwargs))
        try:
            return future.result()
        except BaseException:
            future.cancel()  # a KeyboardInterrupt ends the waiting, and with it the call
            raise

    call.__name__, call.__doc__ = method.__name__, method.__doc__
    return call


def blocking_iterator(
    method: Callable[Concatenate[ServiceT, P], AsyncIterator[ResultT]],
) -> Callable[Concatenate[Blocking[ServiceT], P], Iterator[ResultT]]:
    def iterate(self: Blocking[ServiceT], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[ResultT]:
        items = method(self._service, *args, **kwargs)

        async def following() -> tuple[ResultT] | None:
            try:
                return (await anext(items),)
            except StopAsyncIteration:
                return None

        while True:
            future = self._thread.submit(following())
            try:
                item = future.result()
            except BaseException:
                future.cancel()
                raise
            if item is None:
                return
            yield item[0]

    iterate.__name__, iterate.__doc__ = method.__name__, method.__doc__
    return iterate


class SyncTaskService(Blocking[TaskService]):
    """`TaskService`, blocking. Usable from any thread."""

    create_task = blocking(TaskService.create_task)
    create_tasks = blocking(TaskService.create_tasks)
    create_step_function_task = blocking(TaskService.create_step_function_task)
    get_task = blocking(TaskService.get_task)
    find_task = blocking(TaskService.find_task)
    list_tasks = blocking(TaskService.list_tasks)
    iter_tasks = blocking_iterator(TaskService.iter_tasks)
    list_sub_tasks = blocking(TaskService.list_sub_tasks)
    iter_sub_tasks = blocking_iterator(TaskService.iter_sub_tasks)
    wait = blocking(TaskService.wait)
    logs = blocking(TaskService.logs)
    follow_logs = blocking_iterator(TaskService.follow_logs)
    cancel_task = blocking(TaskService.cancel_task)
    retry_task = blocking(TaskService.retry_task)
    explain = blocking(TaskService.explain)
    resume = blocking(TaskService.resume)
    fail = blocking(TaskService.fail)

    def __init__(self, service: TaskService, thread: LoopThread) -> None:
        super().__init__(service, thread)
        self.queues = SyncQueues(service.queues, thread)
        self.webhooks = SyncWebhooks(service.webhooks, thread)
        self.fan_outs = SyncFanOuts(service.fan_outs, thread)


class SyncQueues(Blocking[Queues]):
    """`TaskService.queues`, blocking. Usable from any thread."""

    figures = blocking(Queues.figures)
    workers = blocking(Queues.workers)
    throughput = blocking(Queues.throughput)
    pause = blocking(Queues.pause)
    resume = blocking(Queues.resume)
    pauses = blocking(Queues.pauses)
    expired = blocking(Queues.expired)
    repairs = blocking(Queues.repairs)
    purge = blocking(Queues.purge)
    dead_letters = blocking(Queues.dead_letters)
    iter_dead_letters = blocking_iterator(Queues.iter_dead_letters)
    redrive = blocking(Queues.redrive)


class SyncWebhooks(Blocking[Webhooks]):
    """`TaskService.webhooks`, blocking. Usable from any thread."""

    listeners = blocking(Webhooks.listeners)
    deliveries = blocking(Webhooks.deliveries)
    iter_deliveries = blocking_iterator(Webhooks.iter_deliveries)
    replay = blocking(Webhooks.replay)
    forget = blocking(Webhooks.forget)


class SyncFanOuts(Blocking[FanOuts]):
    """`TaskService.fan_outs`, blocking. Usable from any thread."""

    map = blocking(FanOuts.map)
    failures = blocking(FanOuts.failures)


class SyncStepFunctionService(Blocking[StepFunctionService]):
    """`StepFunctionService`, blocking. Usable from any thread."""

    start_execution = blocking(StepFunctionService.start_execution)
    describe_execution = blocking(StepFunctionService.describe_execution)
    resume_execution = blocking(StepFunctionService.resume_execution)


class SyncModule:
    """The services of a module for Django, Flask and scripts."""

    def __init__(self, task_service: TaskService, step_function_service: StepFunctionService) -> None:
        self._thread = LoopThread("taskloom-sync")
        self.task_service = SyncTaskService(task_service, self._thread)
        self.step_function_service = SyncStepFunctionService(step_function_service, self._thread)

    def close(self) -> None:
        """End the thread; the next call starts it again."""
        self._thread.close()
