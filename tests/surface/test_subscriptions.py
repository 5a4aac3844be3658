"""`module.subscribe`: callbacks are told of every change, and whatever they do touches nothing else."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskloom import Retry, Settings, StepFunctionTaskEvent, TaskModule, TaskQueueEvent
from taskloom.errors import InvalidInput, InvalidType, TaskloomError
from tests.support.clock import FakeClock
from tests.support.receiver import PATIENCE, Mailbox
from tests.surface.running import MakeModule, drained, fan_out, single, until

Message = dict[str, Any]


def with_job(module: TaskModule) -> TaskModule:
    """*module* with handlers that fail when the input is negative."""

    @module.task("job")
    async def job(event: TaskQueueEvent[Any]) -> Any:
        return _positive(event.task.input)

    @module.step_function_task("job")
    async def jobs(event: StepFunctionTaskEvent[Any]) -> Any:
        return _positive(event.task.input)

    return module


def _positive(value: Any) -> Any:
    if isinstance(value, int) and value < 0:
        raise ValueError(f"{value} is negative")
    return value


@pytest.fixture
def module(make_module: MakeModule, clock: FakeClock) -> TaskModule:
    return with_job(make_module(clock=clock))


# --- what comes -------------------------------------------------------------------------------------------------------


async def _told(module: TaskModule, input: Any) -> tuple[Any, list[Message]]:
    mailbox = Mailbox()
    module.subscribe(mailbox)
    task = await single(module, input)
    return task, await asyncio.to_thread(mailbox.has, 3)


def test_every_change_of_a_task_comes_in_the_documented_shape(module: TaskModule) -> None:
    task, told = asyncio.run(_told(module, {"a": 1}))
    time = "2026-05-01T12:00:00.000Z"
    shared = {
        "action": "task-status",
        "pk": task.pk,
        "sk": task.sk,
        "table": "tasks",
        "id": task.id,
        "tenantCode": "acme",
        "type": "job",
        "run": 1,
        "at": time,
    }
    contents = [
        {"status": "PENDING", "attributes": {}},
        {"status": "IN_PROGRESS", "attributes": {}},
        {"status": "COMPLETED", "attributes": {"result": [[{"a": 1}]]}},
    ]
    assert told == [
        shared | {"content": content, "version": version, "attempt": min(version, 1), "eventId": f"{task.id}#{version}"}
        for version, content in enumerate(contents)
    ]


def test_a_failure_comes_with_its_error_but_not_with_the_traceback(module: TaskModule) -> None:
    task, told = asyncio.run(_told(module, -1))
    assert task.error.traceback
    error = {"type": "ValueError", "message": "-1 is negative", "attempt": 1}
    assert told[-1]["content"] == {"status": "FAILED", "attributes": {"error": error}}


def test_fan_outs_come_and_their_sub_tasks_only_when_asked_for(module: TaskModule) -> None:
    async def main() -> None:
        parents, everything = Mailbox(), Mailbox()
        module.subscribe(parents)
        module.subscribe(everything, sub_tasks=True)
        parent = await fan_out(module, [1, 2])
        told = await asyncio.to_thread(parents.has, 3)
        assert [message["content"]["status"] for message in told] == ["PENDING", "IN_PROGRESS", "COMPLETED"]
        assert told[-1]["content"]["attributes"]["subTaskSucceedCount"] == 2
        told = await asyncio.to_thread(everything.has, 7)
        of_sub_tasks = [message for message in told if message["pk"] != parent.pk]
        assert sorted((message["sk"][-1], message["content"]["status"]) for message in of_sub_tasks) == [
            ("0", "COMPLETED"),
            ("0", "IN_PROGRESS"),
            ("1", "COMPLETED"),
            ("1", "IN_PROGRESS"),
        ]

    asyncio.run(main())


def test_statuses_and_types_narrow(module: TaskModule) -> None:
    async def main() -> None:
        ends, others = Mailbox(), Mailbox()
        module.subscribe(ends, statuses=["COMPLETED", "FAILED"], task_types=["job"])
        module.subscribe(others, task_types=["other"])
        await single(module, 1)
        await module.task_service.create_task(tenant_code="acme", task_type="other")
        assert len(await asyncio.to_thread(others.has, 1)) == 1
        assert [message["content"]["status"] for message in await asyncio.to_thread(ends.has, 1)] == ["COMPLETED"]

    asyncio.run(main())


def test_one_alarm_per_task_that_fails_however_many_attempts_it_had(module: TaskModule, clock: FakeClock) -> None:
    """A new run that fails is a failure of its own."""

    @module.task("stubborn", retry=Retry(max_attempts=3, initial=1, jitter=False))
    def stubborn(event: TaskQueueEvent[Any]) -> None:
        raise ValueError("no")

    async def main() -> None:
        alarms, changes = Mailbox(), Mailbox()
        module.subscribe(alarms, action="sfn-alarm")
        module.subscribe(changes)
        task = await stubborn.create(tenant_code="acme")
        for _ in range(3):
            await drained(module)
            clock.advance(60)
        await asyncio.to_thread(changes.has, 7)
        assert changes.statuses == ["PENDING", "IN_PROGRESS"] * 3 + ["FAILED"]
        (alarm,) = await asyncio.to_thread(alarms.has, 1)
        assert alarm["action"] == "sfn-alarm"
        assert alarm["content"] == {"errorMessage": "no"}
        assert (alarm["id"], alarm["run"], alarm["attempt"]) == (task.id, 1, 3)
        await module.task_service.retry_task(task.key)
        for _ in range(3):
            await drained(module)
            clock.advance(60)
        again = (await asyncio.to_thread(alarms.has, 2))[1]
        assert again["run"] == 2
        assert again["eventId"] != alarm["eventId"]

    asyncio.run(main())


def test_what_another_process_changes_comes_too(module: TaskModule, make_module: MakeModule, clock: FakeClock) -> None:
    async def main() -> None:
        mailbox = Mailbox()
        module.subscribe(mailbox)
        await until(lambda: _is_listed(module))
        other = make_module(clock=clock)
        task = await other.task_service.create_task(tenant_code="acme", task_type="job")
        await other.task_service.cancel_task(task.key)
        await asyncio.to_thread(mailbox.has, 2)
        assert mailbox.statuses == ["PENDING", "CANCELLED"]

    asyncio.run(main())


async def _is_listed(module: TaskModule) -> bool:
    return bool(await module.task_service.webhooks.listeners())


# --- subscribing and ending that --------------------------------------------------------------------------------------


def test_as_a_decorator_it_leaves_the_function_as_it_is(module: TaskModule) -> None:
    mailbox = Mailbox()

    @module.subscribe(statuses=["COMPLETED"])
    async def tell(message: Message) -> str:
        mailbox(message)
        return "told"

    assert asyncio.run(tell({"content": {}})) == "told"
    asyncio.run(single(module, 1))
    assert mailbox.has(2)[1]["content"]["status"] == "COMPLETED"


def test_after_unsubscribing_nothing_comes_and_nothing_is_kept(module: TaskModule) -> None:
    mailbox = Mailbox()
    unsubscribe = module.subscribe(mailbox)

    async def main() -> None:
        await module.task_service.create_task(tenant_code="acme", task_type="job")
        await asyncio.to_thread(mailbox.has, 1)
        unsubscribe()
        unsubscribe.join()
        await single(module, 1)
        assert not await module.task_service.webhooks.listeners()

    asyncio.run(main())
    assert len(mailbox.told) == 1


def test_a_named_subscription_misses_nothing_while_no_process_is_there(
    module: TaskModule, make_module: MakeModule, clock: FakeClock
) -> None:
    first, second = Mailbox(), Mailbox()
    module.subscribe(first, name="audit")
    asyncio.run(single(module, 1))
    first.has(3)
    module.close()
    later = with_job(make_module(clock=clock))
    asyncio.run(single(later, 2))
    third = make_module(clock=clock)
    third.subscribe(second, name="audit")
    second.has(3)
    assert len(first.told) == 3
    assert {message["id"] for message in second.told}.isdisjoint({message["id"] for message in first.told})


def test_those_with_the_same_name_share_the_messages(
    module: TaskModule, make_module: MakeModule, clock: FakeClock
) -> None:
    """And those without a name get all of them."""
    shared, own = Mailbox(), [Mailbox(), Mailbox()]
    other = make_module(clock=clock)
    for part, mailbox in zip((module, other), own, strict=True):
        part.subscribe(shared, name="audit")
        part.subscribe(mailbox)

    async def main() -> None:
        await until(lambda: _has_listeners(module, 3))
        for _ in range(10):
            await module.task_service.create_task(tenant_code="acme", task_type="other")

    asyncio.run(main())
    for mailbox in own:
        assert len(mailbox.has(10)) == 10
    told = shared.has(10)
    assert len({message["eventId"] for message in told}) == len(told) == 10


async def _has_listeners(module: TaskModule, count: int) -> bool:
    return len(await module.task_service.webhooks.listeners()) == count


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"name": "a b"}, "name"),
        ({"name": 7}, "name"),
        ({"name": "notify_url"}, "name"),
        ({"statuses": ["DONE"]}, "statuses"),
        ({"statuses": "FAILED"}, "statuses"),
        ({"statuses": []}, "statuses"),
        ({"task_types": ["a b"]}, "task_types"),
        ({"action": "task-execute"}, "action"),
        ({"action": "sfn-alarm", "statuses": ["FAILED"]}, "statuses"),
        ({"sub_tasks": 1}, "sub_tasks"),
        ({"timeout": 0}, "timeout"),
        ({"retry": 5}, "retry"),
    ],
)
def test_bad_options_name_their_field(module: TaskModule, options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        module.subscribe(Mailbox(), **options)
    assert refused.value.field == field


def test_what_cannot_be_called_is_refused(module: TaskModule) -> None:
    for callback in ("tell", Mailbox):
        with pytest.raises(InvalidType) as refused:
            module.subscribe(callback)  # type: ignore[arg-type]
        assert refused.value.field == "callback"


# --- subscribers that fail or hang ------------------------------------------------------------------------------------


async def _waiting(module: TaskModule, *, failed: bool, failures: int) -> bool:
    found = await module.task_service.webhooks.deliveries(failed=failed)
    return [notice.failures for notice in found] == [failures]


@pytest.mark.parametrize("is_async", [True, False])
def test_one_that_raises_is_tried_again_given_up_and_replayed(
    module: TaskModule, clock: FakeClock, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The others get theirs at once, and the task knows nothing of it."""
    mailbox, broken, calls = Mailbox(), threading.Event(), Mailbox()
    broken.set()

    def tell(message: Message) -> None:
        calls(message)
        if broken.is_set():
            raise OSError("out of paper")

    async def tell_async(message: Message) -> None:
        tell(message)

    retry = Retry(max_attempts=3, initial=10, jitter=False)
    module.subscribe(tell_async if is_async else tell, name="printer", statuses=["COMPLETED"], retry=retry)
    module.subscribe(mailbox)

    async def main() -> None:
        task = await single(module, 1)
        assert task.status == "COMPLETED"
        await asyncio.to_thread(mailbox.has, 3)
        for failures, seconds in ((1, 10), (2, 20)):
            await until(lambda failures=failures: _waiting(module, failed=False, failures=failures))  # type: ignore[misc]
            clock.advance(seconds)
        await until(lambda: _waiting(module, failed=True, failures=3))
        (given_up,) = await module.task_service.webhooks.deliveries()
        assert (given_up.reason, given_up.listener) == ("OSError: out of paper", "printer")
        assert given_up.given_up_at == clock.now()
        broken.clear()
        assert await module.task_service.webhooks.replay(given_up.number) == 1
        told = await asyncio.to_thread(calls.has, 4)
        assert {message["eventId"] for message in told} == {given_up.event_id}
        await until(lambda: _is_empty(module))

    asyncio.run(main())
    assert len(mailbox.told) == 3
    said = [record.getMessage() for record in caplog.records if record.name == "taskloom.notifications.pump"]
    assert said == ["a notice could not be delivered; trying again"] * 2 + ["a notice is given up"]


async def _is_empty(module: TaskModule) -> bool:
    return not await module.task_service.webhooks.deliveries(failed=False)


def _hanging(entered: threading.Event, released: threading.Event) -> dict[str, Callable[[Message], object]]:
    """Subscribers that never come back by themselves."""

    def blocks_its_thread(message: Message) -> None:
        entered.set()
        released.wait(PATIENCE)

    async def blocks_its_loop(message: Message) -> None:
        blocks_its_thread(message)

    async def waits(message: Message) -> None:
        entered.set()
        await asyncio.Event().wait()

    found = (blocks_its_thread, blocks_its_loop, waits)
    return {function.__name__: function for function in found}


@pytest.mark.parametrize("kind", ["blocks_its_thread", "blocks_its_loop", "waits"])
def test_one_that_hangs_holds_up_nobody(module: TaskModule, clock: FakeClock, kind: str) -> None:
    """Neither tasks nor workers nor other subscribers; where it can be noticed it is a failed delivery."""
    entered, released = threading.Event(), threading.Event()
    mailbox = Mailbox()
    module.subscribe(_hanging(entered, released)[kind], name="hangs", statuses=["COMPLETED"], timeout=5)
    module.subscribe(mailbox)

    async def main() -> None:
        await single(module, 1)
        assert await asyncio.to_thread(entered.wait, PATIENCE)
        for number in range(3):
            assert (await single(module, number)).status == "COMPLETED"
        await asyncio.to_thread(mailbox.has, 12)
        if kind != "blocks_its_loop":
            while not await _timed_out(module):
                clock.advance(5)

    asyncio.run(main())
    released.set()


async def _timed_out(module: TaskModule) -> bool:
    found = await module.task_service.webhooks.deliveries(listener="hangs", failed=False)
    return found[0].reason == "TimeoutError: it did not end within 5 s"


def test_threads_that_never_come_back_are_bounded(module: TaskModule, clock: FakeClock) -> None:
    released, entered = threading.Event(), Mailbox()

    def hang(message: Message) -> None:
        entered(message)
        released.wait(PATIENCE)

    retry = Retry(max_attempts=50, initial=0, jitter=False)
    module.subscribe(hang, name="hangs", statuses=["PENDING"], timeout=1, retry=retry)

    async def main() -> None:
        await module.task_service.create_task(tenant_code="acme", task_type="other")
        while not await _is_refused(module):
            clock.advance(1)

    asyncio.run(main())
    assert len(entered.told) == 8
    released.set()


async def _is_refused(module: TaskModule) -> bool:
    found = await module.task_service.webhooks.deliveries(failed=False)
    return any("calls before this one" in (notice.reason or "") for notice in found)


def test_a_subscriber_may_use_the_service_and_unsubscribe(module: TaskModule) -> None:
    done = threading.Event()

    def tell(message: Message) -> None:
        assert module.sync.task_service.list_tasks("acme").items
        unsubscribe()
        done.set()

    unsubscribe = module.subscribe(tell)
    asyncio.run(single(module, 1))
    assert done.wait(PATIENCE)


def test_a_database_that_cannot_be_opened_is_tried_again(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Subscribing does not fail, and says why nothing comes."""
    folder, mailbox = tmp_path / "later", Mailbox()
    module = with_job(TaskModule.register(settings=Settings(database=folder / "tasks.db"), clock=clock))
    module.subscribe(mailbox, name="audit")

    async def main() -> None:
        with pytest.raises(TaskloomError):
            await module.task_service.create_task(tenant_code="acme", task_type="job")
        async with asyncio.timeout(PATIENCE):
            while "the storage fails; notices wait" not in [record.getMessage() for record in caplog.records]:
                await asyncio.to_thread(threading.Event().wait, 0.01)
        folder.mkdir()
        await module.task_service.create_task(tenant_code="acme", task_type="job")
        while not mailbox.told:
            clock.advance(30)
            await asyncio.to_thread(threading.Event().wait, 0)

    asyncio.run(main())
    module.close()
