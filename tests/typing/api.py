"""The public surface as type checkers see it. Never run: `mypy --strict` reads it, and every ignore must be needed."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime
from email.message import Message
from pathlib import Path
from typing import Any, assert_type

from taskloom import (
    EventFactoryAddedTask,
    GiveUp,
    IEvent,
    IEventHandler,
    InvokeContext,
    NewTask,
    Retry,
    RetryAfter,
    Settings,
    StepFunctionService,
    StepFunctionTaskEvent,
    TaskEntity,
    TaskEvent,
    TaskKey,
    TaskloomError,
    TaskModule,
    TaskQueueEvent,
    TaskService,
    TaskStatus,
    Webhook,
    current,
    event_factory,
    event_handler,
    verify_webhook,
)
from taskloom.events.task_log import TaskLog
from taskloom.model import Failure, LogLine, Page, Progress
from taskloom.notifications.subscriptions import Subscription
from taskloom.ports import Execution, ListenerFigures, Notice
from taskloom.values import Json

# --- events and their handlers ---------------------------------------------------------------------------------------


async def fetch(count: int) -> bytes:
    return bytes(count)


class Bare(TaskQueueEvent): ...  # the input has a default


class Order(TaskQueueEvent[dict[str, int]]): ...


class Part(StepFunctionTaskEvent[str]): ...


class Own(IEvent): ...


@event_handler(Order)
class OrderHandler:
    def __init__(self, service: TaskService) -> None:
        self.service = service

    async def execute(self, event: Order) -> int:
        assert_type(event.task.input, dict[str, int])
        assert_type(event.task, TaskEntity[dict[str, int]])
        assert_type(event.task_event, TaskEvent)
        assert_type(event.message_id, str)
        assert_type(event.attempt, int)
        assert_type(event.cancelled, bool)
        assert_type(await event.step("look", len, "abc"), int)
        assert_type(await event.step("fetch", fetch, count=3), bytes)
        await event.step("fetch", fetch, name="x")  # type: ignore[call-overload]
        await event.step("fetch")  # type: ignore[call-overload]
        await event.step(fetch, 3)  # type: ignore[call-overload]
        await event.sleep(3600, name="an hour")
        await event.sleep()  # type: ignore[call-arg]
        assert_type(await event.callback("approval"), str)
        assert_type(await event.wait_for("token"), Json)
        await self.service.resume("token", {"ok": True}, tenant_code="mbc")
        await self.service.fail("token", "no")
        await self.service.fail("token", ValueError())  # type: ignore[arg-type]
        return event.task.input["price"] + event.task.input["postage"]


@event_handler(Part)
class PartHandler:
    def execute(self, event: Part) -> str:
        assert_type(event.input, TaskEntity[str])
        assert_type(event.input.input, str)
        assert_type(event.task_key, TaskKey)
        assert_type(event.context, Mapping[str, Any])
        event.progress(1)
        event.progress(1.5, 2, "almost")
        event.progress("half")  # type: ignore[arg-type]
        event.progress()  # type: ignore[call-arg]
        assert_type(event.sync.step("look", len, "abc"), int)
        assert_type(event.sync.step("fetch", fetch, 3), bytes)
        event.sync.step("look", len, 3)  # type: ignore[call-overload]
        event.sync.sleep(3600)
        assert_type(event.sync.callback("approval"), str)
        assert_type(event.sync.wait_for("token", timeout=60), Json)
        assert_type(event.log, TaskLog)
        event.log.info("copied %d", 3, extra={"files": ["a"]}, exc_info=True)
        event.log.info()  # type: ignore[call-arg]
        event.log.shout("hello")  # type: ignore[attr-defined]
        event.log = event.log  # type: ignore[misc]
        return event.input.input.upper()


@event_handler(Own)
class OwnHandler:
    async def execute(self, event: Own) -> None: ...


event_handler("Order")  # type: ignore[arg-type]
event_handler()  # type: ignore[call-arg]


@event_factory
class Watching(EventFactoryAddedTask):
    async def transform_dynamodb_stream(self, event: Mapping[str, Any]) -> Sequence[Any]:
        events = await super().transform_dynamodb_stream(event)
        return [*events, *(TaskEvent.from_dynamodb_record(record) for record in event["Records"])]


@event_factory()
class WatchingToo(EventFactoryAddedTask): ...


class Factory:
    async def transform_task(self, event: TaskQueueEvent) -> list[Order]:
        return [Order.from_sqs_record(event)]

    async def transform_step_function_task(self, event: StepFunctionTaskEvent) -> list[Part]:
        return [Part.from_event(event)]


class OnlyTasks:
    def transform_task(self, event: TaskQueueEvent) -> Sequence[TaskQueueEvent]:
        return [Bare.from_sqs_record(event)]


class OnlyFanOuts:
    async def transform_step_function_task(self, event: StepFunctionTaskEvent) -> tuple[Part]:
        return (Part.from_event(event),)


class Neither:
    def transform(self, event: TaskQueueEvent) -> list[Order]:
        return []


def classes_stay_what_they_are(service: TaskService) -> None:
    """A mark hides neither the constructor nor the methods of a class."""
    assert_type(OrderHandler(service), OrderHandler)
    assert_type(Order.from_sqs_record(Bare()), Order)
    assert_type(Part.from_event(StepFunctionTaskEvent()), Part)
    assert_type(Watching(), Watching)
    handler: IEventHandler[Order] = OrderHandler(service)
    other: IEventHandler[Part] = PartHandler()
    wrong: IEventHandler[Part] = OrderHandler(service)  # type: ignore[assignment]
    OrderHandler()  # type: ignore[call-arg]
    Part.from_event(Bare())  # type: ignore[arg-type]
    print(handler, other, wrong)


# --- the module ------------------------------------------------------------------------------------------------------

module = TaskModule.register(
    task_queue_event_factory=Factory,
    providers=[OrderHandler, PartHandler(), lambda module: OwnHandler()],
    event_factory=Watching,
    enable_controller=True,
)
assert_type(module, TaskModule)

TaskModule.register()
TaskModule.register(task_queue_event_factory=OnlyTasks(), event_factory=Watching())
TaskModule.register(task_queue_event_factory=OnlyFanOuts, settings=Settings(database=Path("tasks.db")))
TaskModule.register(task_queue_event_factory=Neither)  # type: ignore[arg-type]
TaskModule.register(event_factory=Factory)  # type: ignore[arg-type]
TaskModule.register(settings={"database": "tasks.db"})  # type: ignore[arg-type]
TaskModule.register(Factory)  # type: ignore[call-arg]

assert_type(module.task_service, TaskService)
assert_type(module.step_function_service, StepFunctionService)
assert_type(module.settings, Settings)


# --- the short form --------------------------------------------------------------------------------------------------


@module.task("report", retry=Retry(max_attempts=5), timeout=60)
async def report(event: TaskQueueEvent[dict[str, str]]) -> int:
    return len(event.task.input["title"])


@module.step_function_task(
    "cat",
    retry=None,
    timeout=None,
    max_concurrency=40,
    chunk_size=None,
    chunk_concurrency=1,
    tolerated_failure_percentage=0,
)
def cat(event: StepFunctionTaskEvent[str]) -> str:
    return event.input.input


module.task("report", retry=5)  # type: ignore[arg-type]
module.task("report", timeout="soon")  # type: ignore[arg-type]
module.task()  # type: ignore[call-arg]
module.task("report", max_concurrency="3")  # type: ignore[arg-type]
module.step_function_task("cat", max_concurrency=None)  # type: ignore[arg-type]
module.step_function_task("cat", None)  # type: ignore[call-arg]
module.task("report")("no function")  # type: ignore[arg-type]


async def decorated_functions(order: TaskQueueEvent[dict[str, str]], part: StepFunctionTaskEvent[str]) -> None:
    assert_type(await report(order), int)
    assert_type(cat(part), str)
    assert_type(report.task_type, str)
    assert_type(await report.create(tenant_code="mbc", input={"title": "t"}), TaskEntity[Any])
    assert_type(await report.create(tenant_code="mbc"), TaskEntity[Any])
    assert_type(await cat.create(tenant_code="mbc", input=["a", "b"], name="cats"), TaskEntity[Any])
    await report()  # type: ignore[call-arg]
    await report(part)  # type: ignore[arg-type]
    cat(order)  # type: ignore[arg-type]
    await report.create()  # type: ignore[call-arg]
    await report.create("mbc")  # type: ignore[call-arg]
    await report.create(tenant_code=7)  # type: ignore[arg-type]
    await report.create(tenant_code="mbc", task_type="other")  # type: ignore[call-arg]
    await cat.create(tenant_code="mbc")  # type: ignore[call-arg]


# --- the service -----------------------------------------------------------------------------------------------------


async def numbers() -> AsyncIterator[int]:
    yield 1


async def the_service(service: TaskService, key: TaskKey) -> None:
    context = InvokeContext(user_id="ann", source_ip="192.0.2.1", request_id="r", tenant_code="mbc", roles=["clerk"])
    task = await service.create_task(tenant_code="mbc", task_type="cat", input={"key": "v"}, name=None)
    assert_type(task, TaskEntity[Any])
    await service.create_task(tenant_code="mbc", task_type="cat", invoke_context=context)
    await service.create_step_function_task(tenant_code="mbc", task_type="cat", input=[{"key": 1}])
    await service.create_step_function_task(tenant_code="mbc", task_type="cat", input=range(3))
    await service.create_step_function_task(tenant_code="mbc", task_type="cat", input=numbers())
    many = await service.create_tasks(NewTask(tenant_code="mbc", task_type="cat", input=n) for n in range(3))
    assert_type(many, Sequence[TaskEntity[Any]])

    assert_type(await service.get_task(key), TaskEntity[Any])
    page = await service.list_tasks("mbc", type="SFN_TASK", limit=20, order="desc", cursor=None)
    assert_type(page, Page[TaskEntity[Any]])
    assert_type(page.items, Sequence[TaskEntity[Any]])
    assert_type(page.cursor, str | None)
    assert_type(service.iter_tasks("mbc", status=TaskStatus.FAILED), AsyncIterator[TaskEntity[Any]])
    await service.list_sub_tasks(key, status=None, limit=100, cursor=page.cursor)
    assert_type(service.iter_sub_tasks(key, status="FAILED"), AsyncIterator[TaskEntity[Any]])
    assert_type(await service.wait(key, timeout=30), TaskEntity[Any])
    logs = await service.logs(key, after=page.cursor, limit=10)
    assert_type(logs, Page[LogLine])
    assert_type(logs.items[0].fields, Mapping[str, Json])
    assert_type(logs.items[0].exception, str | None)
    assert_type(service.follow_logs(key), AsyncIterator[LogLine])

    await service.create_task("mbc", "cat")  # type: ignore[call-arg]
    await service.create_task(tenant_code="mbc")  # type: ignore[call-arg]
    await service.create_task(tenant_code=b"mbc", task_type="cat")  # type: ignore[arg-type]
    await service.create_task(tenant_code="mbc", task_type="cat", invoke_context="ann")  # type: ignore[arg-type]
    await service.create_step_function_task(tenant_code="mbc", task_type="cat")  # type: ignore[call-arg]
    await service.create_step_function_task(tenant_code="mbc", task_type="cat", input=3)  # type: ignore[arg-type]
    await service.create_tasks([{"tenant_code": "mbc"}])  # type: ignore[list-item]
    await service.get_task("TASK#mbc#cat#1")  # type: ignore[arg-type]
    await service.get_task(task)  # type: ignore[arg-type]
    await service.list_tasks("mbc", "SFN_TASK")  # type: ignore[call-arg]
    await service.list_tasks("mbc", type="SUB_TASK")  # type: ignore[arg-type]
    await service.list_tasks("mbc", order="up")  # type: ignore[arg-type]
    await service.list_tasks("mbc", limit="20")  # type: ignore[arg-type]
    await service.wait(key, timeout="soon")  # type: ignore[arg-type]
    await service.logs(key, after=7)  # type: ignore[arg-type]
    await service.follow_logs(key)  # type: ignore[misc]
    for _ in service.iter_tasks("mbc"):  # type: ignore[attr-defined]
        pass


async def the_machine(machine: StepFunctionService) -> None:
    assert_type(await machine.describe_execution("arn"), Execution)
    await machine.resume_execution("token", {"key": [1, None]})
    await machine.resume_execution("token")
    await machine.resume_execution("token", {1, 2})  # type: ignore[arg-type]
    await machine.start_execution("name")  # type: ignore[call-arg]


def without_a_loop(key: TaskKey) -> None:
    tasks = module.sync.task_service
    assert_type(tasks.create_task(tenant_code="mbc", task_type="cat"), TaskEntity[Any])
    assert_type(tasks.get_task(key), TaskEntity[Any])
    assert_type(tasks.list_tasks("mbc"), Page[TaskEntity[Any]])
    assert_type(tasks.iter_tasks("mbc", order="asc"), Iterator[TaskEntity[Any]])
    assert_type(tasks.iter_sub_tasks(key), Iterator[TaskEntity[Any]])
    assert_type(tasks.wait(key, timeout=1), TaskEntity[Any])
    assert_type(tasks.logs(key), Page[LogLine])
    assert_type(tasks.follow_logs(key), Iterator[LogLine])
    assert_type(module.sync.step_function_service.describe_execution("arn"), Execution)
    tasks.create_task(tenant_code="mbc")  # type: ignore[call-arg]
    tasks.get_task("key")  # type: ignore[arg-type]
    tasks.list_tasks("mbc", order="up")  # type: ignore[arg-type]


async def a_worker() -> None:
    async with module.worker(concurrency=8, task_types=["cat"], grace=30) as worker:
        assert_type(worker.name, str)
        await worker.drain()
        await worker.run()
        worker.stop()
    with module.worker():  # type: ignore[attr-defined]
        pass
    module.worker(8)  # type: ignore[call-arg]
    module.worker(concurrency="8")  # type: ignore[arg-type]
    await module.aclose()
    module.close()


# --- values ----------------------------------------------------------------------------------------------------------


def an_entity(task: TaskEntity[int], bare: TaskEntity) -> None:
    assert_type(task.input, int)
    assert_type(bare.input, Any)
    assert_type(task.key, TaskKey)
    assert_type(task.status, TaskStatus)
    assert_type(task.created_at, datetime)
    assert_type(task.started_at, datetime | None)
    assert_type(task.result, Json)
    assert_type(task.error, Failure | None)
    assert_type(task.progress, Progress | None)
    assert_type(task.rate, float | None)
    assert_type(task.seconds_left, float | None)
    assert_type(task.history[0].reason, str | None)
    assert_type(task.attributes.sub_task_count, int | None)
    tenant: str = task.key.tenant_code
    print(tenant)
    task.status = TaskStatus.FAILED  # type: ignore[misc]
    task.key.pk = "TASK#other"  # type: ignore[misc]
    task.progress.done  # type: ignore[union-attr]  # noqa: B018
    task.input.upper()  # type: ignore[attr-defined]
    TaskStatus.DONE  # type: ignore[attr-defined]  # noqa: B018
    TaskKey("TASK#mbc")  # type: ignore[call-arg]
    {task.key: 1}[task.key]


def the_run() -> None:
    assert_type(current().attempt, int)
    assert_type(current().cancelled, bool)
    current().progress(1, 2)
    assert_type(current().log, TaskLog)
    current().progress(message="no number")  # type: ignore[call-arg]


def retries() -> None:
    Retry(max_attempts=3, initial=1, multiplier=2, maximum=60, jitter=False)
    Retry(retry_on=[ConnectionError], give_up_on=(KeyError, ValueError))
    Retry(3)  # type: ignore[call-arg]
    Retry(max_attempts="3")  # type: ignore[arg-type]
    Retry(retry_on=[ConnectionError("an instance")])  # type: ignore[list-item]
    raise RetryAfter(5, "the shop is closed")


def errors(error: Exception) -> None:
    RetryAfter("later")  # type: ignore[arg-type]
    GiveUp("the book is out of print")
    if isinstance(error, TaskloomError):
        assert_type(error.retryable, bool)


def settings() -> None:
    Settings(backend="embedded", database="tasks.db", synchronous="NORMAL", lease_seconds=60, retry=Retry())
    Settings(backend="redis")  # type: ignore[arg-type]
    Settings(log_level="DEBUG")
    Settings(log_level="loud")  # type: ignore[arg-type]
    Settings(synchronous="OFF")  # type: ignore[arg-type]
    Settings(lease_seconds="60")  # type: ignore[arg-type]
    Settings("embedded")  # type: ignore[call-arg]
    Settings().database = "other.db"  # type: ignore[misc]
    NewTask("mbc", "cat")  # type: ignore[call-arg]
    NewTask(tenant_code="mbc")  # type: ignore[call-arg]
    InvokeContext("ann")  # type: ignore[call-arg]


# --- notifications ----------------------------------------------------------------------------------------------------


async def notifications(module: TaskModule, service: TaskService) -> None:
    @module.subscribe(name="audit", statuses=["COMPLETED", TaskStatus.FAILED], task_types=["cat"], sub_tasks=True)
    async def audit(message: dict[str, Any]) -> int:
        return len(message)

    assert_type(await audit({}), int)

    def tell(message: dict[str, Any]) -> None: ...

    unsubscribe = module.subscribe(tell, action="sfn-alarm", timeout=5, retry=Retry(max_attempts=3))
    assert_type(unsubscribe, Subscription)
    assert_type(unsubscribe(), None)
    module.subscribe(lambda: None)  # type: ignore[arg-type, misc]
    module.subscribe(tell, status="COMPLETED")  # type: ignore[call-overload]

    hook = Webhook("https://example.com/", "secret", name="shop", statuses=["FAILED"], retry=Retry())
    TaskModule.register(webhooks=[hook])
    TaskModule.register(webhooks=["https://example.com/"])  # type: ignore[list-item]
    await service.create_task(tenant_code="a", task_type="b", notify_url="https://example.com/")
    await service.create_step_function_task(tenant_code="a", task_type="b", input=[], notify_url="https://example.com/")
    NewTask(tenant_code="a", task_type="b", notify_url="https://example.com/")

    assert_type(await service.webhooks.listeners(), Sequence[ListenerFigures])
    assert_type(await service.webhooks.deliveries(listener="shop", failed=False), Sequence[Notice])
    assert_type(await service.webhooks.replay(7), int)
    assert_type(await service.webhooks.forget("shop"), bool)
    assert_type(module.sync.task_service.webhooks.replay(listener="shop"), int)

    assert_type(verify_webhook("secret", {}, b"", tolerance=60), dict[str, Any])
    verify_webhook(["new", "old"], Message(), b"")
    verify_webhook("secret", {}, "text")  # type: ignore[arg-type]
