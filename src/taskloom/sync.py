"""The services for programs without an event loop: the same methods, blocking."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from taskloom.execution.loop_thread import LoopThread
from taskloom.operations.queues import Queues
from taskloom.operations.webhooks import Webhooks
from taskloom.service import TaskService
from taskloom.state_service import StepFunctionService

ServiceT = TypeVar("ServiceT")
ResultT = TypeVar("ResultT")
P = ParamSpec("P")


class _Blocking(Generic[ServiceT]):
    """One service behind blocking methods."""

    def __init__(self, service: ServiceT, thread: LoopThread) -> None:
        self._service = service
        self._thread = thread


def _call(
    method: Callable[Concatenate[ServiceT, P], Coroutine[Any, Any, ResultT]],
) -> Callable[Concatenate[_Blocking[ServiceT], P], ResultT]:
    """*method* as a blocking one, so that there is no second half that drifts apart from the first."""

    def call(self: _Blocking[ServiceT], /, *args: P.args, **kwargs: P.kwargs) -> ResultT:
        future = self._thread.submit(method(self._service, *args, **kwargs))
        try:
            return future.result()
        except BaseException:
            future.cancel()  # a KeyboardInterrupt ends the waiting, and with it the call
            raise

    call.__name__, call.__doc__ = method.__name__, method.__doc__
    return call


def _iterate(
    method: Callable[Concatenate[ServiceT, P], AsyncIterator[ResultT]],
) -> Callable[Concatenate[_Blocking[ServiceT], P], Iterator[ResultT]]:
    def iterate(self: _Blocking[ServiceT], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[ResultT]:
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


class SyncTaskService(_Blocking[TaskService]):
    """`TaskService`, blocking. Usable from any thread."""

    create_task = _call(TaskService.create_task)
    create_tasks = _call(TaskService.create_tasks)
    create_step_function_task = _call(TaskService.create_step_function_task)
    get_task = _call(TaskService.get_task)
    list_tasks = _call(TaskService.list_tasks)
    iter_tasks = _iterate(TaskService.iter_tasks)
    list_sub_tasks = _call(TaskService.list_sub_tasks)
    iter_sub_tasks = _iterate(TaskService.iter_sub_tasks)
    wait = _call(TaskService.wait)
    logs = _call(TaskService.logs)
    follow_logs = _iterate(TaskService.follow_logs)
    cancel_task = _call(TaskService.cancel_task)
    retry_task = _call(TaskService.retry_task)
    explain = _call(TaskService.explain)
    resume = _call(TaskService.resume)
    fail = _call(TaskService.fail)

    def __init__(self, service: TaskService, thread: LoopThread) -> None:
        super().__init__(service, thread)
        self.queues = SyncQueues(service.queues, thread)
        self.webhooks = SyncWebhooks(service.webhooks, thread)


class SyncQueues(_Blocking[Queues]):
    """`TaskService.queues`, blocking. Usable from any thread."""

    figures = _call(Queues.figures)
    workers = _call(Queues.workers)
    throughput = _call(Queues.throughput)
    pause = _call(Queues.pause)
    resume = _call(Queues.resume)
    pauses = _call(Queues.pauses)
    expired = _call(Queues.expired)
    repairs = _call(Queues.repairs)
    purge = _call(Queues.purge)
    dead_letters = _call(Queues.dead_letters)
    iter_dead_letters = _iterate(Queues.iter_dead_letters)
    redrive = _call(Queues.redrive)


class SyncWebhooks(_Blocking[Webhooks]):
    """`TaskService.webhooks`, blocking. Usable from any thread."""

    listeners = _call(Webhooks.listeners)
    deliveries = _call(Webhooks.deliveries)
    iter_deliveries = _iterate(Webhooks.iter_deliveries)
    replay = _call(Webhooks.replay)
    forget = _call(Webhooks.forget)


class SyncStepFunctionService(_Blocking[StepFunctionService]):
    """`StepFunctionService`, blocking. Usable from any thread."""

    start_execution = _call(StepFunctionService.start_execution)
    describe_execution = _call(StepFunctionService.describe_execution)
    resume_execution = _call(StepFunctionService.resume_execution)


class SyncModule:
    """The services of a module for Django, Flask and scripts."""

    def __init__(self, task_service: TaskService, step_function_service: StepFunctionService) -> None:
        self._thread = LoopThread("taskloom-sync")
        self.task_service = SyncTaskService(task_service, self._thread)
        self.step_function_service = SyncStepFunctionService(step_function_service, self._thread)

    def close(self) -> None:
        """End the thread; the next call starts it again."""
        self._thread.close()
