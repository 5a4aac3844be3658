"""Idempotency keys: however often, from wherever and whatever breaks meanwhile, one key and content is one task."""

import asyncio
import pickle
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from taskloom import (
    InvokeContext,
    NewTask,
    Retry,
    Settings,
    StepFunctionTaskEvent,
    TaskModule,
    TaskQueueEvent,
    TaskService,
    TaskStatus,
)
from taskloom.errors import IdempotencyConflict, InvalidInput, InvalidType, StoreBusy
from tests.contract.base import cut_short, in_threads
from tests.support.clock import FakeClock
from tests.support.faults import FailAt, Gate, tapped
from tests.support.scenarios import HastyClock, module_over, open_backend
from tests.surface.running import PATIENCE, Entity, MakeModule, drained

KEY = "order-4711"
LARGE = "ä" * 60_000
"""More bytes than fit into the row of a task."""
MANY = [{"number": number, "text": "x" * 500} for number in range(250)]
"""So are these together; they come in more than one batch."""
DAY = 24 * 60 * 60


async def _single(service: TaskService, **fields: Any) -> Entity:
    return await service.create_task(**fields)


async def _one_of_many(service: TaskService, **fields: Any) -> Entity:
    context = fields.pop("invoke_context", None)
    (task,) = await service.create_tasks([NewTask(**fields)], invoke_context=context)
    return task


async def _fan_out(service: TaskService, **fields: Any) -> Entity:
    return await service.create_step_function_task(**fields)


def _generated(values: Sequence[Any]) -> Iterator[Any]:
    yield from values


async def _awaited(values: Sequence[Any]) -> AsyncIterator[Any]:
    for value in values:
        yield value


@dataclass(frozen=True)
class Way:
    """A way to create a task."""

    name: str
    create: Callable[..., Awaitable[Entity]]
    input: Callable[[], Any]
    """The input, made anew each time: what was read once cannot be read again."""

    async def ask(self, service: TaskService, **fields: Any) -> Entity:
        """The task of the key `KEY`, unless *fields* say otherwise."""
        values = {"tenant_code": "acme", "task_type": "job", "input": self.input(), "idempotency_key": KEY}
        return await self.create(service, **(values | fields))


SINGLE = Way("single", _single, lambda: {"b": [1, 2.5], "a": None})
LARGE_SINGLE = Way("large single", _single, lambda: LARGE)
FAN_OUT = Way("fan-out", _fan_out, lambda: [1, "a", {"key": "v"}])
LARGE_FAN_OUT = Way("large fan-out", _fan_out, lambda: MANY)
WAYS = [
    SINGLE,
    LARGE_SINGLE,
    Way("one of many", _one_of_many, lambda: {"b": [1, 2.5], "a": None}),
    Way("large one of many", _one_of_many, lambda: LARGE),
    FAN_OUT,
    LARGE_FAN_OUT,
    Way("empty fan-out", _fan_out, list),
    Way("fan-out of one that is large", _fan_out, lambda: ["small", LARGE]),
    Way("generator", _fan_out, lambda: _generated([1, 2, 3])),
    Way("large generator", _fan_out, lambda: _generated(MANY)),
    Way("async generator", _fan_out, lambda: _awaited([1, 2, 3])),
    Way("large async generator", _fan_out, lambda: _awaited(MANY)),
]
every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
each_size = pytest.mark.parametrize("way", [SINGLE, LARGE_SINGLE, FAN_OUT, LARGE_FAN_OUT], ids=lambda way: way.name)
both_kinds = pytest.mark.parametrize("way", [SINGLE, FAN_OUT], ids=lambda way: way.name)


def content(database: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All that is in the file, by table."""
    with closing(sqlite3.connect(database)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: sorted(connection.execute(f"SELECT * FROM {table}"), key=repr) for table in tables}


def rows(database: Path) -> dict[str, int]:
    """How much there is in the tables that a creation writes."""
    stored = content(database)
    return {table: len(stored[table]) for table in ("tasks", "stream", "idempotency")}


def nothing_lies_about(database: Path) -> bool:
    """Whether the payload tables hold what tasks refer to, and nothing else."""
    with closing(sqlite3.connect(database)) as connection:
        payloads = set(connection.execute("SELECT reference FROM payloads UNION SELECT reference FROM payload_items"))
        references = set(
            connection.execute(
                "SELECT input_ref FROM tasks WHERE input_ref IS NOT NULL UNION "
                "SELECT result_ref FROM tasks WHERE result_ref IS NOT NULL UNION "
                "SELECT result_ref FROM sub_tasks WHERE result_ref IS NOT NULL"
            )
        )
    return payloads == references


def with_job(module: TaskModule) -> list[Any]:
    """Handlers for tasks of the type "job"; the list of their inputs."""
    handled: list[Any] = []

    @module.task("job")
    async def job(event: TaskQueueEvent) -> Any:
        handled.append(event.task.input)
        return event.task.input

    @module.step_function_task("job")
    async def part(event: StepFunctionTaskEvent) -> Any:
        handled.append(event.task.input)
        return event.task.input

    return handled


# --- the first task comes back ---------------------------------------------------------------------------------------


@every_way
def test_the_same_key_and_content_is_the_same_task(make_module: MakeModule, database: Path, way: Way) -> None:
    """And nothing else: no task, no message, no payload."""
    service = make_module().task_service

    async def main() -> None:
        first = await way.ask(service)
        before = content(database)
        for _ in range(3):
            assert await way.ask(service) == await service.get_task(first.key)
            assert content(database) == before
        assert nothing_lies_about(database)

    asyncio.run(main())
    assert rows(database) == {"tasks": 1, "stream": 1, "idempotency": 1}


@every_way
def test_the_first_creation_under_a_key_is_like_any(make_module: MakeModule, database: Path, way: Way) -> None:
    """It runs, with the input it was given."""
    module = make_module()
    handled = with_job(module)
    plain = asyncio.run(way.ask(module.task_service, idempotency_key=None))
    task = asyncio.run(way.ask(module.task_service))
    assert task.key != plain.key
    assert (
        replace(
            task,
            key=plain.key,
            code=plain.code,
            created_at=plain.created_at,
            updated_at=plain.updated_at,
            dispatch=plain.dispatch,
            execution_arn=plain.execution_arn,
            input_ref=plain.input_ref,
            history=plain.history,
        )
        == plain
    )
    asyncio.run(drained(module))
    ended = asyncio.run(module.task_service.get_task(task.key))
    assert ended.status is TaskStatus.COMPLETED
    assert len(handled) == 2 * (1 if task.attributes.sub_task_count is None else task.attributes.sub_task_count)


@every_way
def test_a_task_that_has_ended_comes_back_with_its_result(make_module: MakeModule, database: Path, way: Way) -> None:
    module = make_module()
    handled = with_job(module)

    async def main() -> None:
        first = await way.ask(module.task_service)
        await drained(module)
        runs, before = len(handled), content(database)
        again = await way.ask(module.task_service)
        assert again.key == first.key
        assert again.status is TaskStatus.COMPLETED
        assert again == await module.task_service.get_task(first.key)
        if again.kind == "TASK":
            assert again.result == again.input == way.input()
        else:
            assert again.attributes.sub_task_succeed_count == again.attributes.sub_task_count
        assert content(database) == before
        await drained(module)
        assert len(handled) == runs, "it does not run again"
        assert nothing_lies_about(database)

    asyncio.run(main())


@both_kinds
def test_a_task_comes_back_however_it_stands(make_module: MakeModule, database: Path, way: Way) -> None:
    """Running, failed, waiting in a new run, cancelled: a key is no wish to try again."""
    module = make_module()
    service, seen = module.task_service, list[Entity]()

    async def ask_and_fail(event: TaskQueueEvent | StepFunctionTaskEvent) -> None:
        seen.append(await way.ask(service))
        raise LookupError("no")

    module.task("job")(ask_and_fail)
    module.step_function_task("job")(ask_and_fail)

    async def main() -> None:
        first = await way.ask(service)
        await drained(module)
        assert {(task.key, task.status) for task in seen} == {(first.key, "IN_PROGRESS")}
        failed = await way.ask(service)
        assert (failed.key, failed.status) == (first.key, "FAILED")
        assert failed.error is not None
        await service.retry_task(first.key)
        waiting = await way.ask(service)
        assert (waiting.key, waiting.status, waiting.run) == (first.key, "PENDING", 2)
        await service.cancel_task(first.key, reason="enough")
        cancelled = await way.ask(service)
        assert (cancelled.key, cancelled.status) == (first.key, "CANCELLED")
        assert cancelled == await service.get_task(first.key)

    asyncio.run(main())
    assert rows(database)["tasks"] == 1


@both_kinds
def test_only_kind_type_name_and_input_are_content(make_module: MakeModule, database: Path, way: Way) -> None:
    """Who asks, and how the task is to be run, is not; the first task keeps what it has."""
    service = make_module().task_service

    async def main() -> None:
        ann = InvokeContext(tenant_code="acme", user_id="ann", source_ip="192.0.2.1", request_id="r-1")
        bob = InvokeContext(tenant_code="acme", user_id="bob", source_ip="192.0.2.2", request_id="r-2")
        first = await way.ask(service, invoke_context=ann, retry=Retry(max_attempts=2), deadline=60)
        before = content(database)
        for fields in (
            {"invoke_context": bob},
            {"retry": Retry(max_attempts=5)},
            {"retry": None, "deadline": None},
            {"deadline": 120.5},
            {"name": "job"},  # which is what a task without a name is called
        ):
            again = await way.ask(service, **fields)
            assert again == first
            assert again.created_by == "ann"
        assert content(database) == before

    asyncio.run(main())


def test_without_a_key_every_call_creates(make_module: MakeModule, database: Path) -> None:
    service = make_module().task_service

    async def main() -> None:
        tasks = [await way.ask(service, idempotency_key=None) for way in WAYS for _ in range(2)]
        assert len({task.key for task in tasks}) == len(tasks)

    asyncio.run(main())
    assert rows(database) == {"tasks": 24, "stream": 24, "idempotency": 0}


# --- other content ---------------------------------------------------------------------------------------------------


async def conflict(way: Way, service: TaskService, **fields: Any) -> IdempotencyConflict:
    """The error that *way* raises."""
    with pytest.raises(IdempotencyConflict) as refused:
        await way.ask(service, **fields)
    return refused.value


@pytest.mark.parametrize(
    ("way", "others"),
    [
        (
            SINGLE,
            [
                (SINGLE, {"input": {"b": [2.5, 1], "a": None}}),
                (SINGLE, {"input": None}),
                (SINGLE, {"input": LARGE}),
                (SINGLE, {"name": "other"}),
                (SINGLE, {"task_type": "jobs"}),
                (SINGLE, {"task_type": "other", "name": "job"}),
                (FAN_OUT, {}),
                (FAN_OUT, {"input": [{"b": [1, 2.5], "a": None}]}),
                (LARGE_FAN_OUT, {}),
            ],
        ),
        (LARGE_SINGLE, [(LARGE_SINGLE, {"input": LARGE + "!"}), (LARGE_SINGLE, {"name": "other"}), (FAN_OUT, {})]),
        (
            FAN_OUT,
            [
                (FAN_OUT, {"input": [{"key": "v"}, "a", 1]}),
                (FAN_OUT, {"input": [1, "a", {"key": "v"}, None]}),
                (FAN_OUT, {"input": [1, "a"]}),
                (FAN_OUT, {"input": [[1, "a", {"key": "v"}]]}),
                (FAN_OUT, {"input": []}),
                (FAN_OUT, {"name": "other"}),
                (FAN_OUT, {"task_type": "jobs"}),
                (FAN_OUT, {"task_type": "other", "name": "job"}),
                (SINGLE, {"input": [1, "a", {"key": "v"}]}),
                (LARGE_SINGLE, {}),
            ],
        ),
        (
            LARGE_FAN_OUT,
            [
                (LARGE_FAN_OUT, {"input": [*MANY, 1]}),
                (LARGE_FAN_OUT, {"input": _generated(MANY[1:])}),
                (LARGE_FAN_OUT, {"input": _awaited(MANY[::-1])}),
                (LARGE_FAN_OUT, {"name": "other"}),
                (SINGLE, {"input": MANY}),
            ],
        ),
    ],
    ids=["single", "large single", "fan-out", "large fan-out"],
)
def test_other_content_is_a_conflict(
    make_module: MakeModule, database: Path, way: Way, others: list[tuple[Way, dict[str, Any]]]
) -> None:
    """It names both fingerprints; nothing is created, and the first task is what it was."""
    service = make_module().task_service

    async def main() -> None:
        first = await way.ask(service)
        before, firsts, seconds = content(database), set[str](), set[str]()
        for other, fields in others:
            error = await conflict(other, service, **fields)
            assert str(error).startswith(f"idempotency key '{KEY}' ")
            assert error.first in str(error)
            assert error.second in str(error)
            assert error.key == KEY
            assert content(database) == before
            firsts.add(error.first)
            seconds.add(error.second)
        assert len(firsts) == 1, "the first content is always the same"
        assert len(seconds) == len(others), "and every other one is another"
        assert not firsts & seconds
        assert await way.ask(service) == await service.get_task(first.key)

    asyncio.run(main())
    assert nothing_lies_about(database)


@both_kinds
def test_other_content_is_a_conflict_also_when_the_task_has_ended(
    make_module: MakeModule, database: Path, way: Way
) -> None:
    module = make_module()
    with_job(module)

    async def main() -> None:
        await way.ask(module.task_service)
        await drained(module)
        before = content(database)
        await conflict(way, module.task_service, name="other")
        assert content(database) == before

    asyncio.run(main())


def test_a_conflict_can_be_sent_to_another_process() -> None:
    error = IdempotencyConflict(KEY, "a1", "b2")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.key, copy.first, copy.second, str(copy)) == (
        IdempotencyConflict,
        KEY,
        "a1",
        "b2",
        str(error),
    )


SAME: list[tuple[Any, Any]] = [
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({"a": {"x": [], "y": None}, "b": 0}, {"b": 0, "a": {"y": None, "x": []}}),
    ([{"a": 1, "b": [{"c": 1, "d": 2}]}], [{"b": [{"d": 2, "c": 1}], "a": 1}]),
    (1, 1.0),
    (0, -0.0),
    (10**22, 1e22),
    ({"a": [1, 2.0]}, {"a": [1.0, 2]}),
    ([1, [2]], (1, (2,))),
]
DIFFERENT: list[tuple[Any, Any]] = [
    (True, 1),
    (False, 0),
    (True, 1.0),
    ({"a": [True]}, {"a": [1]}),
    ("1", 1),
    ("true", True),
    ("null", None),
    ("", None),
    (0, None),
    ([], None),
    ([], {}),
    ({"a": None}, {}),
    ([1, 2], [2, 1]),
    ({"a": [1, 2]}, {"a": [2, 1]}),
    ([1, 2], [[1, 2]]),
    ({"a": 1}, {"A": 1}),
    ("ä", "a\u0308"),
    (1.5, 1.25),
    (10**23, 1e23),
]


@pytest.mark.parametrize(("one", "other"), SAME, ids=repr)
def test_equal_inputs_are_the_same_content(make_module: MakeModule, one: Any, other: Any) -> None:
    """The order of names in an object does not count, nor how a number was written."""
    service = make_module().task_service

    async def main() -> None:
        for number, (first, second) in enumerate(((one, other), (other, one))):
            for way, wrap in ((SINGLE, lambda value: value), (FAN_OUT, lambda value: [value, 7])):
                key = f"{way.name} {number}"
                task = await way.ask(service, input=wrap(first), idempotency_key=key)
                assert await way.ask(service, input=wrap(second), idempotency_key=key) == task

    asyncio.run(main())


@pytest.mark.parametrize(("one", "other"), DIFFERENT, ids=repr)
def test_inputs_that_look_alike_are_different_content(make_module: MakeModule, one: Any, other: Any) -> None:
    service = make_module().task_service

    async def main() -> None:
        for number, (first, second) in enumerate(((one, other), (other, one))):
            for way, wrap in ((SINGLE, lambda value: value), (FAN_OUT, lambda value: [value, 7])):
                key = f"{way.name} {number}"
                task = await way.ask(service, input=wrap(first), idempotency_key=key)
                await conflict(way, service, input=wrap(second), idempotency_key=key)
                assert await way.ask(service, input=wrap(first), idempotency_key=key) == task

    asyncio.run(main())


# --- many at once ----------------------------------------------------------------------------------------------------


@each_size
def test_of_fifty_concurrent_callers_one_creates_and_all_get_the_task(
    make_module: MakeModule, database: Path, way: Way
) -> None:
    module = make_module()
    handled = with_job(module)

    async def main() -> None:
        tasks = await asyncio.gather(*(way.ask(module.task_service) for _ in range(50)))
        (key,) = {task.key for task in tasks}
        assert {task.status for task in tasks} == {"PENDING"}
        assert rows(database) == {"tasks": 1, "stream": 1, "idempotency": 1}
        assert nothing_lies_about(database)
        await drained(module)
        assert (await module.task_service.get_task(key)).status is TaskStatus.COMPLETED
        assert len(handled) == (tasks[0].attributes.sub_task_count or 1)

    asyncio.run(main())


@each_size
def test_of_callers_with_two_contents_one_half_gets_the_task_and_the_other_a_conflict(
    make_module: MakeModule, database: Path, way: Way
) -> None:
    service = make_module().task_service

    async def main() -> None:
        answers = await asyncio.gather(
            *(way.ask(service, name=f"content {number % 2}") for number in range(30)), return_exceptions=True
        )
        tasks = [answer for answer in answers if isinstance(answer, IdempotencyConflict) is False]
        assert tasks in (answers[::2], answers[1::2])
        assert len({task.key for task in tasks if not isinstance(task, BaseException)}) == 1
        assert rows(database) == {"tasks": 1, "stream": 1, "idempotency": 1}
        assert nothing_lies_about(database)

    asyncio.run(main())


@both_kinds
def test_of_many_event_loops_one_creates(make_module: MakeModule, database: Path, way: Way) -> None:
    service = make_module().task_service

    async def ask(thread: int) -> list[str]:
        return [(await way.ask(service, idempotency_key=f"{number}")).id for number in range(10)]

    answers = in_threads(6, ask)
    assert [len(set(ids)) for ids in zip(*answers, strict=True)] == [1] * 10
    assert rows(database) == {"tasks": 10, "stream": 10, "idempotency": 10}


def test_of_many_threads_without_a_loop_one_creates(make_module: MakeModule, database: Path) -> None:
    tasks, together = make_module().sync.task_service, threading.Barrier(6)

    def ask(thread: int) -> list[str]:
        together.wait(PATIENCE)
        ids = []
        for number in range(10):
            common: dict[str, Any] = {"tenant_code": "acme", "task_type": "job", "idempotency_key": f"{number}"}
            if number % 2:
                ids.append(tasks.create_task(input=number, **common).id)
            else:
                ids.append(tasks.create_step_function_task(input=iter([number]), **common).id)
        return ids

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(6)))
    assert [len(set(ids)) for ids in zip(*answers, strict=True)] == [1] * 10
    assert rows(database) == {"tasks": 10, "stream": 10, "idempotency": 10}


SCRIPT = """
import sys
from taskloom import Settings, TaskModule

tasks = TaskModule.register(settings=Settings(database=sys.argv[1])).sync.task_service
tasks.list_tasks("acme")  # so that everything is open
print("ready", flush=True)
sys.stdin.readline()
for number in range(10):
    common = {"tenant_code": "acme", "task_type": "job", "idempotency_key": str(number)}
    print(tasks.create_task(input={"number": number}, **common).id)
    try:
        tasks.create_task(input={"number": number, "process": sys.argv[2]}, **common)
    except Exception as error:
        print(type(error).__name__)
"""


def test_of_many_processes_one_creates(make_module: MakeModule, database: Path, tmp_path: Path) -> None:
    """They know nothing of each other, and share the file only."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(database), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [process.communicate(timeout=60)[0].split() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert [process.returncode for process in processes] == [0] * 4
    ids = [task.id for task in make_module().sync.task_service.iter_tasks("acme", order="asc")]
    assert len(ids) == 10
    expected = [line for id_ in ids for line in (id_, "IdempotencyConflict")]
    assert answers == [expected] * 4


# --- time ------------------------------------------------------------------------------------------------------------


@both_kinds
def test_a_key_is_remembered_for_a_day(make_module: MakeModule, clock: FakeClock, way: Way) -> None:
    """To the millisecond, counted from the creation; asking again does not prolong it."""
    service = make_module(clock=clock).task_service

    async def main() -> None:
        first = await way.ask(service)
        for seconds in (60, DAY / 2 - 60, DAY / 2 - 0.001):
            clock.advance(seconds)
            assert (await way.ask(service)).key == first.key
        clock.advance(0.001)
        second = await way.ask(service)
        assert second.key != first.key
        assert second.created_at == clock.now()
        assert await service.get_task(first.key) == first
        assert (await way.ask(service)).key == second.key

    asyncio.run(main())


@each_size
def test_an_expired_key_can_be_used_with_other_content(
    make_module: MakeModule, database: Path, clock: FakeClock, way: Way
) -> None:
    """The first task stays, and can be found by its own key as ever."""
    service = make_module(clock=clock, settings=Settings(database=database, idempotency_ttl=90)).task_service

    async def main() -> None:
        first = await way.ask(service)
        clock.advance(89.999)
        await conflict(way, service, name="other")
        clock.advance(0.001)
        second = await way.ask(service, name="other")
        assert second.key != first.key
        error = await conflict(way, service)
        assert await way.ask(service, name="other") == await service.get_task(second.key)
        assert (await service.get_task(first.key)).name == "job"
        clock.advance(90)
        third = await way.ask(service)
        assert third.key not in (first.key, second.key)
        assert (await conflict(way, service, name="other")).first == error.second, "of the same content as the first"

    asyncio.run(main())
    assert rows(database) == {"tasks": 3, "stream": 3, "idempotency": 1}
    assert nothing_lies_about(database)


def test_the_time_of_a_key_is_that_of_the_module_that_created(
    make_module: MakeModule, database: Path, clock: FakeClock
) -> None:
    """Not of the one that asks."""
    short, long = (
        make_module(clock=clock, settings=Settings(database=database, idempotency_ttl=ttl)).task_service
        for ttl in (60, 600)
    )

    async def main() -> None:
        first = [await SINGLE.ask(short, idempotency_key="a"), await SINGLE.ask(long, idempotency_key="b")]
        assert [await SINGLE.ask(long, idempotency_key="a"), await SINGLE.ask(short, idempotency_key="b")] == first
        clock.advance(60)
        assert (await SINGLE.ask(long, idempotency_key="a")).key != first[0].key
        assert (await SINGLE.ask(short, idempotency_key="b")).key == first[1].key

    asyncio.run(main())


def test_the_keys_of_create_tasks_expire_too(make_module: MakeModule, database: Path, clock: FakeClock) -> None:
    service = make_module(clock=clock, settings=Settings(database=database, idempotency_ttl=60)).task_service

    async def main() -> None:
        first = await service.create_tasks([new("a", 1), new("b", 2)])
        clock.advance(59.999)
        with pytest.raises(IdempotencyConflict):
            await service.create_tasks([new("a", "other")])
        clock.advance(0.001)
        second = await service.create_tasks([new("a", "other"), new("b", 2), new("a", "other")])
        assert not {task.key for task in first} & {task.key for task in second}
        assert second[0] == second[2]

    asyncio.run(main())
    assert rows(database)["tasks"] == 4


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), True, "60", None])
def test_settings_refuse_a_time_that_is_none(ttl: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        Settings(idempotency_ttl=ttl)
    assert refused.value.field == "idempotency_ttl"


# --- tenants ---------------------------------------------------------------------------------------------------------


@each_size
def test_keys_belong_to_the_tenant(make_module: MakeModule, database: Path, way: Way) -> None:
    """Rule 7: the same key of another tenant creates, with whatever content, and tells nothing."""
    service = make_module().task_service

    async def main() -> None:
        ours = await way.ask(service)
        theirs = await way.ask(service, tenant_code="acme-2")
        others = await way.ask(service, tenant_code="acm", name="other")
        assert {ours.tenant_code, theirs.tenant_code, others.tenant_code} == {"acme", "acme-2", "acm"}
        assert await way.ask(service) == await service.get_task(ours.key)
        assert await way.ask(service, tenant_code="acme-2") == await service.get_task(theirs.key)
        await conflict(way, service, tenant_code="acm")

    asyncio.run(main())
    assert rows(database) == {"tasks": 3, "stream": 3, "idempotency": 3}


def test_tenants_do_not_meet_in_one_call(make_module: MakeModule, database: Path) -> None:
    service = make_module().task_service

    async def main() -> None:
        tasks = [new(KEY, 1), new(KEY, 2, tenant_code="acme-2"), new(KEY, 1), new(KEY, 2, tenant_code="acme-2")]
        first = await service.create_tasks(tasks)
        assert [task.input for task in first] == [1, 2, 1, 2]
        assert [task.tenant_code for task in first] == ["acme", "acme-2"] * 2
        assert await service.create_tasks(tasks) == first

    asyncio.run(main())
    assert rows(database)["tasks"] == 2


@both_kinds
def test_a_caller_gets_no_task_of_another_tenant_by_its_key(make_module: MakeModule, database: Path, way: Way) -> None:
    service = make_module().task_service

    async def main() -> None:
        await way.ask(service)
        before = content(database)
        with pytest.raises(InvalidInput, match="is not the tenant of the caller"):
            await way.ask(service, invoke_context=InvokeContext(tenant_code="other"))
        assert content(database) == before

    asyncio.run(main())


# --- many in one call ------------------------------------------------------------------------------------------------


def new(key: str | None, input: object = None, **fields: Any) -> NewTask:
    """A task of `create_tasks`."""
    values: dict[str, Any] = {"tenant_code": "acme", "task_type": "job"}
    return NewTask(input=input, idempotency_key=key, **(values | fields))


def test_create_tasks_with_keys(make_module: MakeModule, database: Path) -> None:
    """Some known, some not, some without a key: each in its place."""
    service = make_module().task_service

    async def main() -> None:
        first = await service.create_tasks([new("a", 1), new(None, 2), new("b", 3)])
        second = await service.create_tasks([new("c", 4), new("b", 3), new(None, 2), new("a", 1), new("d", 5)])
        assert [task.input for task in second] == [4, 3, 2, 1, 5]
        assert [second[1], second[3]] == [first[2], first[0]]
        assert len({task.key for task in [*first, *second]}) == 6
        assert await SINGLE.ask(service, idempotency_key="d", input=5) == second[4]
        assert [task async for task in service.iter_tasks("acme", order="asc")] == [
            *first,
            *(second[place] for place in (0, 2, 4)),
        ]

    asyncio.run(main())
    assert rows(database) == {"tasks": 6, "stream": 6, "idempotency": 4}


@pytest.mark.parametrize("input", [7, LARGE], ids=["small", "large"])
def test_the_same_key_and_content_twice_in_one_call_is_one_task(
    make_module: MakeModule, database: Path, input: Any
) -> None:
    service = make_module().task_service

    async def main() -> None:
        tasks = await service.create_tasks([new("a", input), new("b", input), new("a", input), new("a", input)])
        assert tasks[0] == tasks[2] == tasks[3] != tasks[1]
        assert [task.input for task in tasks] == [input] * 4
        before = content(database)
        assert await service.create_tasks([new("a", input), new("a", input)]) == [tasks[0]] * 2
        assert content(database) == before

    asyncio.run(main())
    assert rows(database) == {"tasks": 2, "stream": 2, "idempotency": 2}
    assert nothing_lies_about(database)


def test_the_same_key_far_apart_in_one_call_is_one_task(make_module: MakeModule, database: Path) -> None:
    """In another portion than the first one, which is stored by then."""
    service = make_module().task_service

    async def main() -> None:
        tasks = await service.create_tasks([new(f"{number % 600}", number % 600) for number in range(1100)])
        assert [task.input for task in tasks] == [number % 600 for number in range(1100)]
        assert tasks[600:] == tasks[:500]

    asyncio.run(main())
    assert rows(database) == {"tasks": 600, "stream": 600, "idempotency": 600}


@pytest.mark.parametrize("place", [0, 1, 7, 520], ids="place {}".format)
def test_a_conflict_with_a_known_key_is_found_before_anything_is_stored(
    make_module: MakeModule, database: Path, place: int
) -> None:
    service = make_module().task_service

    async def main() -> None:
        first = await service.create_tasks([new("known", 1), new("fine", 2)])
        before = content(database)
        tasks = [new("fine", 2), *(new(f"{number}" if number % 2 else None, number) for number in range(530))]
        tasks.insert(place, new("known", "other"))
        with pytest.raises(IdempotencyConflict) as refused:
            await service.create_tasks(tasks)
        assert refused.value.key == "known"
        assert content(database) == before
        assert await service.create_tasks([new("known", 1), new("fine", 2)]) == first

    asyncio.run(main())


@pytest.mark.parametrize(
    "fields", [{"input": 2}, {"input": True}, {"name": "other"}, {"task_type": "other"}], ids=lambda fields: str(fields)
)
@pytest.mark.parametrize("place", [1, 3, 520], ids="place {}".format)
def test_the_same_key_with_other_content_in_one_call_is_a_conflict_before_anything_is_stored(
    make_module: MakeModule, database: Path, place: int, fields: dict[str, Any]
) -> None:
    service = make_module().task_service

    async def main() -> None:
        await service.list_tasks("acme")  # so that the file is there
        before = content(database)
        tasks = [new("a", 1), *(new(f"{number}" if number % 2 else None, number) for number in range(530))]
        tasks.insert(place, replace(new("a", 1), **fields))
        with pytest.raises(IdempotencyConflict, match=r"^idempotency key 'a' "):
            await service.create_tasks(tasks)
        assert content(database) == before

    asyncio.run(main())


@pytest.mark.parametrize("known", [True, False], ids=["known", "in the call"])
def test_a_conflict_of_create_tasks_leaves_no_large_input_behind(
    make_module: MakeModule, database: Path, known: bool
) -> None:
    """Those before it, its own, and those behind it: nothing will ever refer to them."""
    service = make_module().task_service

    async def main() -> None:
        await service.create_tasks([new("a" if known else "b", LARGE)])
        before = content(database)
        larges = [f"{number}{LARGE}" for number in range(4)]
        tasks = [new("c", larges[0]), new(None, larges[1]), new("d", larges[2]), new("a", larges[3])]
        with pytest.raises(IdempotencyConflict):
            await service.create_tasks([*tasks, new("a", "other"), new("e", LARGE)])
        assert content(database) == before

    asyncio.run(main())
    assert nothing_lies_about(database)


def test_a_task_that_is_refused_leaves_no_large_input_of_others_behind(make_module: MakeModule, database: Path) -> None:
    """All are checked before the first one is stored, in part or in whole."""
    service = make_module().task_service

    async def main() -> None:
        await service.list_tasks("acme")
        before = content(database)
        for refused in (new(""), new("b", {1}), new("b", name="")):
            with pytest.raises(InvalidInput, match=r"^tasks\[2\]\."):
                await service.create_tasks([new("a", LARGE), new(None, LARGE), refused])
            assert content(database) == before

    asyncio.run(main())


def test_a_conflict_that_comes_in_the_same_moment(database: Path, clock: FakeClock) -> None:
    """Found by the store alone. What was not created leaves no input behind, and what was created stays."""
    backend = open_backend(database, clock)
    gate = Gate(lambda call: call.name == "store.create")
    fast, slow = module_over(backend).task_service, module_over(tapped(backend, gate)).task_service
    larges = [f"{number}{LARGE}" for number in range(3)]

    async def main() -> None:
        later = asyncio.create_task(
            slow.create_tasks([new("a", larges[0]), new("b", "other"), new("c", larges[1]), new("d", larges[2])])
        )
        await gate.held()
        first = await fast.create_tasks([new("a", larges[0]), new("b", 2), new("c", larges[1])])
        gate.open()
        with pytest.raises(IdempotencyConflict, match=r"^idempotency key 'b' "):
            await later
        assert await fast.create_tasks([new("a", larges[0]), new("b", 2), new("c", larges[1])]) == first

    asyncio.run(main())
    backend.close()
    assert nothing_lies_about(database)


def test_a_known_task_of_create_tasks_comes_back_with_its_result(make_module: MakeModule) -> None:
    module = make_module()
    handled = with_job(module)

    async def main() -> None:
        tasks = [new("a", LARGE), new("b", 2)]
        await module.task_service.create_tasks(tasks)
        await drained(module)
        again = await module.task_service.create_tasks([*tasks, new("c", 3)])
        assert [(task.status, task.result) for task in again] == [
            ("COMPLETED", LARGE),
            ("COMPLETED", 2),
            ("PENDING", None),
        ]
        await drained(module)
        assert handled.count(2) == handled.count(3) == handled.count(LARGE) == 1

    asyncio.run(main())


# --- bad keys --------------------------------------------------------------------------------------------------------

BAD: list[tuple[Any, type[InvalidInput], str]] = [
    ("", InvalidInput, "has 0 characters"),
    ("x" * 256, InvalidInput, "has 256 characters"),
    ("x" * 100_000, InvalidInput, "has 100000 characters"),
    ("a\ud800", InvalidInput, "lone surrogate at position 1"),
    (7, InvalidType, "7 is no string"),
    (0, InvalidType, "0 is no string"),
    (b"a", InvalidType, "b'a' is no string"),
    (("a", "b"), InvalidType, "is no string"),
    (True, InvalidType, "True is no string"),
    (False, InvalidType, "False is no string"),
]
bad_keys = pytest.mark.parametrize(("key", "kind", "problem"), BAD, ids=lambda value: ascii(value)[:30])


@bad_keys
def test_a_bad_key_is_refused_before_anything_is_stored(
    make_module: MakeModule, database: Path, key: Any, kind: type[InvalidInput], problem: str
) -> None:
    service, read = make_module().task_service, list[int]()

    def numbers() -> Iterator[Any]:
        for value in MANY:
            read.append(1)
            yield value

    async def main() -> None:
        await service.list_tasks("acme")
        before = content(database)
        for way, input in ((SINGLE, 1), (LARGE_SINGLE, LARGE), (FAN_OUT, [1]), (LARGE_FAN_OUT, numbers())):
            with pytest.raises(InvalidInput, match=problem) as refused:
                await way.ask(service, input=input, idempotency_key=key)
            assert refused.value.field == "idempotency_key"
            assert type(refused.value) is kind
        for place in (0, 2):
            tasks = [new("a"), new(None), new("b")]
            tasks[place] = replace(tasks[place], idempotency_key=key, input=LARGE)
            with pytest.raises(InvalidInput, match=problem) as refused:
                await service.create_tasks(tasks)
            assert refused.value.field == f"tasks[{place}].idempotency_key"
            assert type(refused.value) is kind
        assert content(database) == before
        assert not read, "the input is not even looked at"

    asyncio.run(main())


@pytest.mark.parametrize("key", ["x", " ", "\0", "\n", "0", "x" * 255, "😀" * 255, "a/b#c%_'\";--", "käse"], ids=ascii)
def test_every_other_text_is_a_key(make_module: MakeModule, database: Path, key: str) -> None:
    service = make_module().task_service

    async def main() -> None:
        first = await SINGLE.ask(service, idempotency_key=key)
        assert await SINGLE.ask(service, idempotency_key=key) == first
        error = await conflict(FAN_OUT, service, idempotency_key=key)
        assert (error.key, repr(key) in str(error)) == (key, True)

    asyncio.run(main())
    assert rows(database)["tasks"] == 1


# --- decorated functions ---------------------------------------------------------------------------------------------


def test_decorated_functions_take_a_key(make_module: MakeModule, database: Path) -> None:
    """The same keys as those of the service: the task type is that of the function."""
    module = make_module()

    @module.task("job")
    async def job(event: TaskQueueEvent) -> Any:
        return event.task.input

    @module.step_function_task("job")
    async def part(event: StepFunctionTaskEvent) -> Any:
        return event.task.input

    async def main() -> None:
        one = await job.create(tenant_code="acme", input={"a": 1}, idempotency_key="one")
        many = await part.create(tenant_code="acme", input=iter([1, 2]), idempotency_key="many")
        assert await job.create(tenant_code="acme", input={"a": 1}, idempotency_key="one") == one
        assert await part.create(tenant_code="acme", input=_awaited([1, 2]), idempotency_key="many") == many
        assert await SINGLE.ask(module.task_service, input={"a": 1}, idempotency_key="one") == one
        for error in (
            job.create(tenant_code="acme", input={"a": 2}, idempotency_key="one"),
            job.create(tenant_code="acme", input=[1, 2], idempotency_key="many"),
            part.create(tenant_code="acme", input=[2, 1], idempotency_key="many"),
        ):
            with pytest.raises(IdempotencyConflict):
                await error

    asyncio.run(main())
    assert rows(database) == {"tasks": 2, "stream": 2, "idempotency": 2}


# --- what breaks on the way ------------------------------------------------------------------------------------------


async def until_answered(way: Way, service: TaskService) -> Entity:
    """What a caller gets that asks again when the storage was busy."""
    for _ in range(3):
        with suppress(StoreBusy):
            return await way.ask(service)
    raise AssertionError("the storage fails once only")


@pytest.mark.parametrize("reply_lost", [True, False], ids=["the reply is lost", "nothing happened"])
@every_way
def test_whoever_asks_again_after_an_error_gets_one_task(tmp_path: Path, way: Way, reply_lost: bool) -> None:
    """Two callers one after the other; each call of the storage in turn fails, and its caller asks again."""
    failed: list[str] = []
    for number in count(1):
        database, tap = tmp_path / f"{number}.db", FailAt(number, reply_lost=reply_lost)
        backend = open_backend(database, HastyClock())
        service, sound = module_over(tapped(backend, tap)).task_service, module_over(backend).task_service

        async def main(service: TaskService = service, sound: TaskService = sound) -> Entity:
            first, second = await until_answered(way, service), await until_answered(way, service)
            assert first.key == second.key
            assert second == await sound.get_task(first.key)
            return first

        task = asyncio.run(main())
        backend.close()
        assert rows(database) == {"tasks": 1, "stream": 1, "idempotency": 1}
        if tap.at is None:
            assert nothing_lies_about(database)
            break
        failed.append(tap.at.name)
        # What became of a creation without an answer nobody can tell, so its input stays. What else was lost was done.
        is_first_creation = tap.at.name == "store.create" and failed.count("store.create") == 1
        if reply_lost and (is_first_creation or tap.at.name.startswith(("payloads.", "items."))):
            assert nothing_lies_about(database)
    assert failed.count("store.create") == 2
    assert ("payloads.discard" in failed) == (task.input_ref is not None)


@every_way
def test_whoever_gives_up_and_asks_again_gets_one_task(make_module: MakeModule, database: Path, way: Way) -> None:
    """A request that broke off may have created the task, or not."""
    service = make_module().task_service

    async def main() -> None:
        for number in range(4):
            await cut_short(way.ask(service, idempotency_key=f"{number}"))
        tasks = [await way.ask(service, idempotency_key=f"{number}") for number in range(4)]
        again = [await way.ask(service, idempotency_key=f"{number}") for number in range(4)]
        assert [task.key for task in again] == [task.key for task in tasks]
        assert len({task.key for task in tasks}) == 4

    asyncio.run(main())
    assert rows(database) == {"tasks": 4, "stream": 4, "idempotency": 4}


@each_size
def test_a_key_outlives_the_module(make_module: MakeModule, database: Path, way: Way) -> None:
    """Another process, days of uptime later: what counts is in the file."""
    first = asyncio.run(way.ask((module := make_module()).task_service))
    module.close()
    second = make_module()
    assert asyncio.run(way.ask(second.task_service)).key == first.key
    with pytest.raises(IdempotencyConflict):
        asyncio.run(way.ask(second.task_service, name="other"))
    assert rows(database) == {"tasks": 1, "stream": 1, "idempotency": 1}


def test_a_source_that_breaks_off_uses_up_no_key(make_module: MakeModule, database: Path) -> None:
    """Nothing was created, so the next call does; known or not, an input that cannot be read is an error."""
    service = make_module().task_service

    def broken_off(values: Sequence[Any]) -> Iterator[Any]:
        yield from values
        raise LookupError("the source broke off")

    async def main() -> None:
        for values in ([1], MANY):
            with pytest.raises(LookupError):
                await FAN_OUT.ask(service, input=broken_off(values))
        assert nothing_lies_about(database)
        first = await LARGE_FAN_OUT.ask(service)
        before = content(database)
        with pytest.raises(LookupError):
            await FAN_OUT.ask(service, input=broken_off(MANY))
        with pytest.raises(InvalidType, match=r"^input\[0\]: "):
            await FAN_OUT.ask(service, input=[{1}])
        assert content(database) == before
        assert await LARGE_FAN_OUT.ask(service) == await service.get_task(first.key)

    asyncio.run(main())
    assert nothing_lies_about(database)
