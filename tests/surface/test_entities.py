"""Entities, keys, history, and the lists of them."""

import asyncio
import dataclasses
import pickle
from collections.abc import MutableSequence, Sequence
from datetime import UTC, timedelta
from enum import StrEnum
from typing import Any

import pytest

from taskloom import (
    InvokeContext,
    NewTask,
    Retry,
    StepFunctionTaskEvent,
    TaskKey,
    TaskModule,
    TaskQueueEvent,
    TaskStatus,
)
from taskloom.errors import InvalidInput, InvalidType, TaskNotFound
from taskloom.model import HistoryEntry
from tests.support.clock import FakeClock
from tests.surface.running import MakeModule, drained, fan_out, single, sub_tasks, within_patience

CODE = "01J00000000000000000000000"

# --- values ----------------------------------------------------------------------------------------------------------


def test_task_status_is_a_str_enum() -> None:
    assert issubclass(TaskStatus, StrEnum)
    assert list(TaskStatus) == ["PENDING", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED"]
    assert f"{TaskStatus.PENDING}" == "PENDING"
    assert [status for status in TaskStatus if status.is_terminal] == ["COMPLETED", "FAILED", "CANCELLED"]


def test_task_key_is_hashable_and_knows_its_tenant() -> None:
    key = TaskKey("TASK#acme", f"job#{CODE}")
    assert {key: 1}[TaskKey(pk="TASK#acme", sk=f"job#{CODE}")] == 1
    assert key.tenant_code == "acme"
    assert (key.pk, key.sk, key.id) == ("TASK#acme", f"job#{CODE}", f"TASK#acme#job#{CODE}")
    assert pickle.loads(pickle.dumps(key)) == key


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (TaskKey.single("acme", "job", CODE), "TASK"),
        (TaskKey.step_function("acme", "job", CODE), "SFN_TASK"),
        (TaskKey.sub_task("acme", "job", CODE, 1234), "SUB_TASK"),
    ],
)
def test_a_key_is_read_from_its_id(key: TaskKey, kind: str) -> None:
    assert TaskKey.parse(key.id) == key
    assert (key.kind, key.tenant_code) == (kind, "acme")


def test_the_keys_are_those_of_the_documentation() -> None:
    assert TaskKey.single("acme", "job", CODE).id == f"TASK#acme#job#{CODE}"
    assert TaskKey.step_function("acme", "job", CODE).id == f"SFN_TASK#acme#job#{CODE}"
    assert TaskKey.sub_task("acme", "job", CODE, 1234).id == f"SFN_TASK#acme#{CODE}#1#job#{CODE}#0001234"


def test_entities_are_frozen(make_module: MakeModule) -> None:
    module = make_module()
    module.task("job")(lambda event: event.progress(1))
    module.step_function_task("job")(lambda event: None)

    async def scenario() -> Any:
        return await single(module), await fan_out(module, [1])

    task, parent = asyncio.run(scenario())
    for value in (task, task.key, task.attributes, task.progress, task.history[0], parent.fan_out, InvokeContext()):
        names = value._fields if isinstance(value, HistoryEntry) else [one.name for one in dataclasses.fields(value)]
        name = names[0]
        with pytest.raises(AttributeError):
            setattr(value, name, None)
    assert isinstance(task.history, Sequence)
    assert not isinstance(task.history, MutableSequence)


# --- single tasks ----------------------------------------------------------------------------------------------------


def test_a_new_task_is_pending_with_all_that_was_given(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)

    async def scenario() -> Any:
        return await module.task_service.create_task(
            tenant_code="acme", task_type="job", input={"key": "v"}, name="one job"
        )

    task = asyncio.run(scenario())
    assert task.key == TaskKey.single("acme", "job", task.code)
    assert (task.pk, task.sk, task.id) == (task.key.pk, task.key.sk, task.key.id)
    assert (task.kind, task.task_type, task.tenant_code, task.name) == ("TASK", "job", "acme", "one job")
    assert (task.status, task.run, task.attempt, task.is_terminal) == (TaskStatus.PENDING, 1, 0, False)
    assert (task.input, task.result, task.error, task.progress) == ({"key": "v"}, None, None, None)
    assert task.created_at == task.updated_at == clock.now()
    assert (task.started_at, task.finished_at) == (None, None)
    assert task.attributes.sub_task_count is None


def test_the_name_is_the_type_unless_given(make_module: MakeModule) -> None:
    module = make_module()

    async def scenario() -> Any:
        service = module.task_service
        return (
            await service.create_task(tenant_code="acme", task_type="job"),
            await service.create_step_function_task(tenant_code="acme", task_type="job", input=[]),
        )

    assert [task.name for task in asyncio.run(scenario())] == ["job", "job"]


def test_a_task_is_read_as_it_was_created(make_module: MakeModule) -> None:
    module = make_module()

    async def scenario() -> None:
        service = module.task_service
        task = await service.create_task(tenant_code="acme", task_type="job", input=[1, {"a": None}])
        assert await service.get_task(task.key) == task
        parent = await service.create_step_function_task(tenant_code="acme", task_type="job", input=[1, {"a": None}])
        assert await service.get_task(parent.key) == parent

    asyncio.run(scenario())


def test_times_are_utc_and_tell_the_way_of_the_task(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)
    module.task("job")(lambda event: clock.advance(5))
    created = clock.now()

    async def scenario() -> Any:
        task = await module.task_service.create_task(tenant_code="acme", task_type="job")
        clock.advance(2)
        await drained(module)
        return await module.task_service.get_task(task.key)

    task = asyncio.run(scenario())
    assert task.created_at.tzinfo is UTC
    assert task.created_at == created
    assert task.started_at == created + timedelta(seconds=2)
    assert task.finished_at == task.updated_at == created + timedelta(seconds=7)


def test_history_is_oldest_first_and_begins_with_the_creation(make_module: MakeModule, clock: FakeClock) -> None:
    module, start = make_module(clock=clock), clock.now()

    @module.task("job", retry=Retry(max_attempts=2, initial=10, jitter=False))
    def job(event: TaskQueueEvent) -> None:
        if event.attempt == 1:
            raise LookupError("not yet")

    async def scenario() -> Any:
        task = await module.task_service.create_task(
            tenant_code="acme", task_type="job", invoke_context=InvokeContext(user_id="ann")
        )
        clock.advance(1)
        await drained(module)
        clock.advance(10)
        await drained(module)
        return await module.task_service.get_task(task.key)

    history = asyncio.run(scenario()).history
    seconds = [(entry.at - start).total_seconds() for entry in history]
    assert seconds == [0, 1, 1, 11, 11]
    assert [(entry.status, entry.run, entry.attempt, entry.reason) for entry in history] == [
        ("PENDING", 1, 0, None),
        ("IN_PROGRESS", 1, 1, None),
        ("PENDING", 1, 1, "not yet"),
        ("IN_PROGRESS", 1, 2, None),
        ("COMPLETED", 1, 2, None),
    ]
    workers = [entry.by for entry in history[1:]]
    assert history[0].by == "ann"
    assert all(workers)
    assert (workers[0], workers[2]) == (workers[1], workers[3])
    assert workers[0] != workers[2]  # each worker has a name of its own


@pytest.mark.parametrize("kind", ["single", "step_function", "sub_task", "sub_task_of_nothing"])
def test_a_task_that_is_not_there_is_not_found(make_module: MakeModule, kind: str) -> None:
    module = make_module()

    async def scenario() -> None:
        parent = await module.task_service.create_step_function_task(tenant_code="acme", task_type="job", input=[1])
        key = {
            "single": TaskKey.single("acme", "job", CODE),
            "step_function": TaskKey.step_function("acme", "job", CODE),
            "sub_task": TaskKey.sub_task("acme", "job", parent.code, 1),
            "sub_task_of_nothing": TaskKey.sub_task("acme", "job", CODE, 0),
        }[kind]
        with pytest.raises(TaskNotFound, match=f"there is no task {key}"):
            await module.task_service.get_task(key)
        with pytest.raises(TaskNotFound):
            await module.task_service.wait(key, timeout=0)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "key",
    [
        TaskKey("", ""),
        TaskKey("TASK#acme", "job"),
        TaskKey("OTHER#acme", f"job#{CODE}"),
        TaskKey("TASK#acme", f"job#{CODE}#0000001"),
        TaskKey(f"SFN_TASK#acme#{CODE}#1", f"job#{CODE}#0000001"),  # shard 1 holds 1000 to 1999
        f"TASK#acme#job#{CODE}",
        None,
    ],
)
def test_what_is_no_key_is_refused(make_module: MakeModule, key: Any) -> None:
    with pytest.raises(InvalidInput, match="key"):
        asyncio.run(make_module().task_service.get_task(key))


def test_a_tenant_sees_only_its_own_tasks(make_module: MakeModule) -> None:
    """Rule 7: neither in a list nor by a key that names another tenant."""
    module = make_module()
    module.step_function_task("job")(lambda event: None)

    async def scenario() -> None:
        service, task = module.task_service, await single(module)
        parent = await fan_out(module, [1])
        forged = [
            TaskKey.single("other", "job", task.code),
            TaskKey.step_function("other", "job", parent.code),
            TaskKey.sub_task("other", "job", parent.code, 0),
        ]
        for key in forged:
            with pytest.raises(TaskNotFound):
                await service.get_task(key)
        with pytest.raises(TaskNotFound):
            await service.list_sub_tasks(forged[1])
        assert (await service.list_tasks("other")).items == []
        assert (await service.list_tasks("other", type="SFN_TASK")).items == []
        assert [found.key async for found in service.iter_tasks("acme")] == [task.key]

    asyncio.run(scenario())


# --- lists -----------------------------------------------------------------------------------------------------------


async def make_tasks(module: TaskModule, count: int) -> list[TaskKey]:
    """Single tasks of type a, b, a, b …, and others that are none of theirs; their keys, oldest first."""
    service = module.task_service
    tasks = await service.create_tasks(
        NewTask(tenant_code="acme", task_type="ab"[number % 2], input=number) for number in range(count)
    )
    await service.create_task(tenant_code="other", task_type="a")
    await service.create_step_function_task(tenant_code="acme", task_type="a", input=[1])
    return [task.key for task in tasks]


def test_tasks_are_listed_newest_first_unless_asked_otherwise(make_module: MakeModule) -> None:
    module = make_module()

    async def scenario() -> None:
        keys, service = await make_tasks(module, 5), module.task_service
        assert [task.key for task in (await service.list_tasks("acme")).items] == keys[::-1]
        assert [task.key for task in (await service.list_tasks("acme", order="desc")).items] == keys[::-1]
        assert [task.key for task in (await service.list_tasks("acme", order="asc")).items] == keys
        assert [task.key async for task in service.iter_tasks("acme", order="asc")] == keys
        parents = (await service.list_tasks("acme", type="SFN_TASK")).items
        assert [task.kind for task in parents] == ["SFN_TASK"]

    asyncio.run(scenario())


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 5, 6])
def test_pages_follow_each_other_by_their_cursors(make_module: MakeModule, order: Any, limit: int) -> None:
    module = make_module()

    async def scenario() -> None:
        keys, service = await make_tasks(module, 5), module.task_service
        found, cursor = list[TaskKey](), None
        for _ in range(20):
            page = await service.list_tasks("acme", limit=limit, order=order, cursor=cursor)
            assert len(page.items) <= limit
            found += [task.key for task in page.items]
            cursor = page.cursor
            if cursor is None:
                break
        assert found == (keys if order == "asc" else keys[::-1])

    asyncio.run(scenario())


def test_iterating_goes_through_more_than_one_page(make_module: MakeModule) -> None:
    module = make_module()

    async def scenario() -> None:
        keys = await make_tasks(module, 250)
        assert [task.key async for task in module.task_service.iter_tasks("acme")] == keys[::-1]

    asyncio.run(scenario())


def test_tasks_are_listed_by_status_and_type(make_module: MakeModule) -> None:
    module = make_module()
    module.task("a")(lambda event: None)

    async def scenario() -> None:
        keys, service = await make_tasks(module, 5), module.task_service
        await drained(module)

        async def found(**filters: Any) -> list[int]:
            tasks = [task async for task in service.iter_tasks("acme", order="asc", **filters)]
            return [keys.index(task.key) for task in tasks]

        assert await found(task_type="a") == [0, 2, 4]
        assert await found(task_type="b") == [1, 3]
        assert await found(status=TaskStatus.COMPLETED) == [0, 2, 4]
        assert await found(status="PENDING") == [1, 3]
        assert await found(status="PENDING", task_type="a") == []
        page = await service.list_tasks("acme", status="PENDING", limit=1, order="asc")
        following = await service.list_tasks("acme", status="PENDING", limit=1, order="asc", cursor=page.cursor)
        assert [task.key for task in (*page.items, *following.items)] == [keys[1], keys[3]]

    asyncio.run(scenario())


BAD_CURSORS = ["nonsense", "", "bm90IGpzb24", "ey", "ÿ", 7, "eyJhIjoxfQ"]


@pytest.mark.parametrize("cursor", BAD_CURSORS)
def test_a_cursor_of_no_list_is_refused(make_module: MakeModule, cursor: Any) -> None:
    module = make_module()

    async def scenario() -> None:
        parent = await module.task_service.create_step_function_task(tenant_code="acme", task_type="job", input=[1])
        with pytest.raises(InvalidInput, match="cursor"):
            await module.task_service.list_tasks("acme", cursor=cursor)
        with pytest.raises(InvalidInput, match="cursor"):
            await module.task_service.list_sub_tasks(parent.key, cursor=cursor)

    asyncio.run(scenario())


def test_a_cursor_of_another_kind_of_list_is_refused(make_module: MakeModule) -> None:
    module = make_module()

    async def scenario() -> None:
        await make_tasks(module, 3)
        service = module.task_service
        parent = await service.create_step_function_task(tenant_code="acme", task_type="job", input=[1, 2])
        of_tasks = (await service.list_tasks("acme", limit=1)).cursor
        of_sub_tasks = (await service.list_sub_tasks(parent.key, limit=1)).cursor
        assert of_tasks is not None
        assert of_sub_tasks is not None
        with pytest.raises(InvalidInput, match="cursor"):
            await service.list_tasks("acme", cursor=of_sub_tasks)
        with pytest.raises(InvalidInput, match="cursor"):
            await service.list_sub_tasks(parent.key, cursor=of_tasks)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"limit": "20"}, "limit"),
        ({"limit": True}, "limit"),
        ({"order": "up"}, "order"),
        ({"type": "SUB_TASK"}, "type"),
        ({"status": "DONE"}, "status"),
        ({"status": "CREATED"}, "status"),  # read tolerantly where it is stored, yet nothing to ask for
        ({"task_type": "a b"}, "task_type"),
        ({"tenant_code": "a#b"}, "tenant_code"),
    ],
)
def test_an_argument_that_no_list_can_have_is_named(make_module: MakeModule, arguments: Any, field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        asyncio.run(make_module().task_service.list_tasks(**{"tenant_code": "acme", **arguments}))


# --- sub-tasks -------------------------------------------------------------------------------------------------------


def test_sub_tasks_come_in_index_order_those_not_yet_claimed_as_pending(make_module: MakeModule) -> None:
    module = make_module()

    async def scenario() -> Any:
        last, go_on = asyncio.Event(), asyncio.Event()

        @module.step_function_task("job", max_concurrency=1)
        async def job(event: StepFunctionTaskEvent[str]) -> None:
            if event.task.index == 2:
                last.set()
                await within_patience(go_on.wait())

        service = module.task_service
        parent = await service.create_step_function_task(
            tenant_code="acme", task_type="job", input=list("abcde"), name="letters"
        )
        before = await sub_tasks(module, parent)
        async with module.worker():
            await within_patience(last.wait())
            during = await sub_tasks(module, parent)
            page = await service.list_sub_tasks(parent.key)
            one = await service.get_task(during[4].key)
            go_on.set()
        return parent, before, during, page, one

    parent, before, during, page, one = asyncio.run(scenario())
    assert [task.status for task in before] == ["PENDING"] * 5
    assert [task.status for task in during] == ["COMPLETED", "COMPLETED", "IN_PROGRESS", "PENDING", "PENDING"]
    assert [task.index for task in during] == [0, 1, 2, 3, 4]
    assert [task.input for task in during] == list("abcde")
    assert [task.key for task in during] == [TaskKey.sub_task("acme", "job", parent.code, index) for index in range(5)]
    assert {(task.kind, task.name, task.tenant_code, task.code) for task in during} == {
        ("SUB_TASK", "letters", "acme", parent.code)
    }
    assert page.items == during
    assert page.cursor is None
    assert one == during[4]


def test_sub_tasks_are_listed_by_status_and_page(make_module: MakeModule) -> None:
    module = make_module()

    @module.step_function_task("job")
    def job(event: StepFunctionTaskEvent[int]) -> None:
        if event.task.input % 3 == 0:
            raise LookupError

    async def scenario() -> None:
        parent, service = await fan_out(module, range(10)), module.task_service
        for status, expected in (("FAILED", [0, 3, 6, 9]), ("COMPLETED", [1, 2, 4, 5, 7, 8]), (None, range(10))):
            assert [sub.index async for sub in service.iter_sub_tasks(parent.key, status=status)] == list(expected)
            found, cursor = list[Any](), None
            for _ in range(20):
                page = await service.list_sub_tasks(parent.key, status=status, limit=3, cursor=cursor)
                assert len(page.items) <= 3
                found += [sub.index for sub in page.items]
                cursor = page.cursor
                if cursor is None:
                    break
            assert found == list(expected)

    asyncio.run(scenario())


def test_iterating_sub_tasks_goes_through_more_than_one_page(make_module: MakeModule) -> None:
    module = make_module()

    async def scenario() -> None:
        parent = await module.task_service.create_step_function_task(
            tenant_code="acme", task_type="job", input=range(2500)
        )
        assert [sub.input for sub in await sub_tasks(module, parent)] == list(range(2500))
        assert [sub async for sub in module.task_service.iter_sub_tasks(parent.key, status="FAILED")] == []

    asyncio.run(scenario())


def test_sub_tasks_never_stand_in_a_list_of_tasks(make_module: MakeModule) -> None:
    module = make_module()
    module.step_function_task("job")(lambda event: None)

    async def scenario() -> None:
        parent = await fan_out(module, range(3))
        assert (await module.task_service.list_tasks("acme")).items == []
        assert [task.key for task in (await module.task_service.list_tasks("acme", type="SFN_TASK")).items] == [
            parent.key
        ]

    asyncio.run(scenario())


def test_only_a_fan_out_has_sub_tasks(make_module: MakeModule) -> None:
    module = make_module()

    async def scenario() -> None:
        task = await module.task_service.create_task(tenant_code="acme", task_type="job")
        with pytest.raises(InvalidInput, match="no step function task"):
            await module.task_service.list_sub_tasks(task.key)

    asyncio.run(scenario())


def test_a_sub_task_knows_its_parents_times_and_creator(make_module: MakeModule, clock: FakeClock) -> None:
    module = make_module(clock=clock)
    module.step_function_task("job")(lambda event: None)

    async def scenario() -> Any:
        parent = await module.task_service.create_step_function_task(
            tenant_code="acme",
            task_type="job",
            input=[1, 2],
            invoke_context=InvokeContext(user_id="ann", source_ip="192.0.2.1", request_id="r1"),
        )
        (before, _) = await sub_tasks(module, parent)
        await drained(module)
        (after, _) = await sub_tasks(module, parent)
        return before, after

    for sub in asyncio.run(scenario()):
        assert (sub.created_by, sub.created_ip, sub.request_id) == ("ann", "192.0.2.1", "r1")


# --- many at once ----------------------------------------------------------------------------------------------------


def test_create_tasks_creates_many_at_once_in_order(make_module: MakeModule) -> None:
    module = make_module()
    module.task("job")(lambda event: event.task.input)

    async def scenario() -> None:
        service = module.task_service
        created = await service.create_tasks(
            NewTask(tenant_code="acme", task_type="job", input=number, name=f"number {number}") for number in range(600)
        )
        assert [task.input for task in created] == list(range(600))
        assert [task.code for task in created] == sorted(task.code for task in created)
        assert [task async for task in service.iter_tasks("acme", order="asc")] == list(created)
        assert await service.create_tasks([]) == []

    asyncio.run(scenario())


def test_tasks_created_at_once_are_run_like_others(make_module: MakeModule) -> None:
    module = make_module()
    module.task("job")(lambda event: event.task.input)

    async def scenario() -> None:
        service = module.task_service
        created = await service.create_tasks([NewTask(tenant_code="acme", task_type="job", input=n) for n in range(20)])
        await drained(module)
        assert [(await service.get_task(task.key)).result for task in created] == list(range(20))

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"tenant_code": "a b"}, r"tasks[2].tenant_code"),
        ({"task_type": ""}, r"tasks[2].task_type"),
        ({"name": "x" * 257}, r"tasks[2].name"),
        ({"input": {"items": [{"price": float("nan")}]}}, r"tasks[2].input.items[0].price"),
    ],
)
def test_a_new_task_that_is_refused_is_named_with_its_path(make_module: MakeModule, bad: Any, field: str) -> None:
    """And nothing is written, although those before it were right."""
    module = make_module()

    async def scenario() -> None:
        good: Any = {"tenant_code": "acme", "task_type": "job"}
        tasks = [NewTask(**good), NewTask(**good), NewTask(**{**good, **bad}), NewTask(**good)]
        with pytest.raises(InvalidInput) as refused:
            await module.task_service.create_tasks(tasks)
        assert refused.value.field == field
        assert (await module.task_service.list_tasks("acme")).items == []

    asyncio.run(scenario())


def test_what_is_no_new_task_is_refused(make_module: MakeModule) -> None:
    with pytest.raises(InvalidType, match=r"^tasks\[0\]: .* is no NewTask"):
        asyncio.run(make_module().task_service.create_tasks([{"tenant_code": "acme"}]))  # type: ignore[list-item]


# --- arguments of creation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"tenant_code": ""}, "tenant_code"),
        ({"tenant_code": "a" * 65}, "tenant_code"),
        ({"tenant_code": "a.b"}, "tenant_code"),
        ({"tenant_code": "a#b"}, "tenant_code"),
        ({"tenant_code": "acme\n"}, "tenant_code"),
        ({"tenant_code": 7}, "tenant_code"),
        ({"task_type": ""}, "task_type"),
        ({"task_type": "x" * 129}, "task_type"),
        ({"task_type": "a#b"}, "task_type"),
        ({"task_type": None}, "task_type"),
        ({"name": ""}, "name"),
        ({"name": "x" * 257}, "name"),
        ({"name": 7}, "name"),
        ({"name": "\ud800"}, "name"),
        ({"invoke_context": "ann"}, "invoke_context"),
    ],
)
def test_an_argument_that_no_task_can_have_is_named(make_module: MakeModule, arguments: Any, field: str) -> None:
    service = make_module().task_service
    given = {"tenant_code": "acme", "task_type": "job", "input": [], **arguments}
    for create in (service.create_task, service.create_step_function_task):
        with pytest.raises(InvalidInput) as refused:
            asyncio.run(create(**given))
        assert refused.value.field == field


@pytest.mark.parametrize("tenant_code", ["a", "A-b_9", "x" * 64])
@pytest.mark.parametrize("task_type", ["a", "A.b-c_9", "x" * 128])
def test_every_tenant_code_and_task_type_of_the_alphabet_is_taken(
    make_module: MakeModule, tenant_code: str, task_type: str
) -> None:
    module = make_module()

    async def scenario() -> None:
        task = await module.task_service.create_task(tenant_code=tenant_code, task_type=task_type)
        assert (await module.task_service.get_task(task.key)).task_type == task_type

    asyncio.run(scenario())
