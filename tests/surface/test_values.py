"""Values: any JSON value comes back equal, and what is none is refused before anything is written."""

import asyncio
import decimal
import math
from collections import OrderedDict
from collections.abc import Iterator
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom import TaskModule, TaskStatus
from taskloom.errors import InvalidInput, InvalidType
from tests.surface.running import MakeModule, fan_out, single, sub_tasks

BIGGEST = 10**38 - 1

FLOATS = st.floats(1e-130, 9.99e125) | st.floats(-9.99e125, -1e-130) | st.just(0.0) | st.just(-0.0)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))  # all but lone surrogates
SCALARS = st.none() | st.booleans() | st.integers(-BIGGEST, BIGGEST) | FLOATS | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=15
)


def exact(value: Any) -> Any:
    """*value* so that `==` also tells True from 1, which it does not by itself."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, list):
        return [exact(item) for item in value]
    if isinstance(value, dict):
        return {name: exact(item) for name, item in value.items()}
    return value


def nested(depth: int, *, mapping: bool = False) -> Any:
    """A value of *depth* levels: a scalar in that many lists or objects."""
    value: Any = 1
    for _ in range(depth):
        value = {"a": value} if mapping else [value]
    return value


def test_any_json_value_comes_back_equal(make_module: MakeModule) -> None:
    """Through a real create and get, as the input of a task."""
    tasks = make_module().sync.task_service

    @settings(max_examples=150)
    @given(VALUES)
    def holds(value: Any) -> None:
        task = tasks.create_task(tenant_code="acme", task_type="job", input=value)
        assert exact(task.input) == exact(value)
        assert exact(tasks.get_task(task.key).input) == exact(value)

    holds()


def test_any_json_value_comes_back_equal_from_a_fan_out(make_module: MakeModule) -> None:
    tasks = make_module().sync.task_service

    @settings(max_examples=75)
    @given(st.lists(VALUES, max_size=5))
    def holds(values: list[Any]) -> None:
        task = tasks.create_step_function_task(tenant_code="acme", task_type="job", input=values)
        assert exact(tasks.get_task(task.key).input) == exact(values)
        assert [exact(sub.input) for sub in tasks.iter_sub_tasks(task.key)] == exact(values)

    holds()


SPECIAL = [
    None,
    True,
    0,
    -0.0,
    1.0,
    0.1,
    1e-130,
    -1e-130,
    9.99e125,
    -9.99e125,
    BIGGEST,
    -BIGGEST,
    2**63,
    "",
    "\0",
    "a\tb\r\n\u2028",
    "\U0001f9f5 ß é",
    "'; DROP TABLE tasks; --",
    "null",
    {"": ""},
    {"a.b": 1, "$": 2, "ä": 3, "\0": 4},
    {"NULL": True, "S": "x", "M": {}},
    [[], {}, [[]], {"a": []}],
    nested(32),
    nested(32, mapping=True),
]


def test_values_that_went_wrong_elsewhere_come_back_equal(make_module: MakeModule) -> None:
    """As input, as what the handler sees, as result; for single tasks and for sub-tasks."""
    module, seen = make_module(), list[Any]()

    def echo(event: Any) -> Any:
        seen.append(event.task.input)
        return event.task.input

    module.task("job")(echo)
    module.step_function_task("job", max_concurrency=1)(echo)

    async def scenario() -> None:
        # The list itself is one level of the result, so the deepest values are a level too deep for it.
        task, parent = await single(module, SPECIAL[:-2]), await fan_out(module, SPECIAL)
        assert exact(task.input) == exact(task.result) == exact(SPECIAL[:-2])
        subs = await sub_tasks(module, parent)
        assert [sub.error for sub in subs] == [None] * len(SPECIAL)
        assert exact([sub.input for sub in subs]) == exact([sub.result for sub in subs]) == exact(SPECIAL)
        assert exact(seen) == exact([SPECIAL[:-2], *SPECIAL])

    asyncio.run(scenario())


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


@pytest.mark.parametrize(
    ("given_", "stored"),
    [
        ((1, (2, 3)), [1, [2, 3]]),
        (Colour.RED, "red"),
        (Level.LOW, 1),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    ],
)
def test_what_is_nearly_json_is_stored_as_json(make_module: MakeModule, given_: Any, stored: Any) -> None:
    tasks = make_module().sync.task_service
    task = tasks.create_task(tenant_code="acme", task_type="job", input=given_)
    assert task.input == stored
    assert type(task.input) in (int, str, list, dict)
    assert tasks.get_task(task.key) == task


def test_a_large_value_comes_back_equal(make_module: MakeModule) -> None:
    """More than 64 KB do not fit into the task's row; the handler sees it all the same."""
    large = {"text": "ä" * 40_000, "numbers": list(range(10_000))}
    module, seen = make_module(), list[Any]()
    module.task("job")(lambda event: seen.append(event.task.input))

    async def scenario() -> None:
        task = await single(module, large)
        assert task.status is TaskStatus.COMPLETED
        assert task.input_ref
        assert task.input == large
        assert seen == [large]
        (listed,) = (await module.task_service.list_tasks("acme")).items
        assert listed == task

    asyncio.run(scenario())


def test_later_changes_of_the_given_object_change_nothing(make_module: MakeModule) -> None:
    """A task holds what was given, not a live object that caller and handlers share."""
    tasks = make_module().sync.task_service
    value: dict[str, Any] = {"items": [1]}
    task = tasks.create_task(tenant_code="acme", task_type="job", input=value)
    parent = tasks.create_step_function_task(tenant_code="acme", task_type="job", input=[value])
    value["items"].append(2)
    assert task.input == {"items": [1]}
    assert parent.input == [{"items": [1]}]


class Opaque:
    pass


REFUSED = [
    pytest.param(math.nan, ValueError, id="NaN"),
    pytest.param(math.inf, ValueError, id="infinity"),
    pytest.param(-math.inf, ValueError, id="minus infinity"),
    pytest.param(1e126, ValueError, id="float too large"),
    pytest.param(-1e126, ValueError, id="negative float too large"),
    pytest.param(1e-131, ValueError, id="float too small"),
    pytest.param(5e-324, ValueError, id="smallest float"),
    pytest.param(BIGGEST + 1, ValueError, id="integer of 39 digits"),
    pytest.param(-BIGGEST - 1, ValueError, id="negative integer of 39 digits"),
    pytest.param("a\ud800b", ValueError, id="lone surrogate"),
    pytest.param("\udc00\ud800", ValueError, id="surrogates the wrong way round"),
    pytest.param(b"abc", TypeError, id="bytes"),
    pytest.param(bytearray(b"abc"), TypeError, id="bytearray"),
    pytest.param({1, 2}, TypeError, id="set"),
    pytest.param(frozenset(), TypeError, id="frozenset"),
    pytest.param({1: "a"}, TypeError, id="number as key"),
    pytest.param({None: "a"}, TypeError, id="None as key"),
    pytest.param({"a": {(1, 2): "a"}}, TypeError, id="tuple as key"),
    pytest.param({"\ud800": 1}, ValueError, id="lone surrogate in a key"),
    pytest.param(decimal.Decimal("1.5"), TypeError, id="Decimal"),
    pytest.param(datetime(2026, 5, 1), TypeError, id="datetime"),  # noqa: DTZ001 - no instant, a value to be refused
    pytest.param(1j, TypeError, id="complex"),
    pytest.param(Opaque(), TypeError, id="object"),
    pytest.param(iter([1]), TypeError, id="iterator"),
    pytest.param(nested(33), ValueError, id="33 lists"),
    pytest.param(nested(33, mapping=True), ValueError, id="33 objects"),
]


def all_tasks(module: TaskModule) -> Iterator[Any]:
    for tenant in ("acme",):
        yield from module.sync.task_service.iter_tasks(tenant)
        yield from module.sync.task_service.iter_tasks(tenant, type="SFN_TASK")


@pytest.mark.parametrize(("value", "also"), REFUSED)
def test_what_is_no_json_value_is_refused_and_nothing_written(
    make_module: MakeModule, value: Any, also: type[Exception]
) -> None:
    """The error is Taskloom's own and at the same time a ValueError or TypeError, as Python has them."""
    module = make_module()
    tasks = module.sync.task_service
    with pytest.raises(InvalidInput, match=r"^input") as refused:
        tasks.create_task(tenant_code="acme", task_type="job", input=value)
    assert isinstance(refused.value, also)
    with pytest.raises(InvalidInput, match=r"^input\[1\]"):
        tasks.create_step_function_task(tenant_code="acme", task_type="job", input=["good", value])
    assert list(all_tasks(module)) == []


@pytest.mark.parametrize(("value", "also"), REFUSED)
def test_a_refused_value_is_named_by_its_path(make_module: MakeModule, value: Any, also: type[Exception]) -> None:
    tasks = make_module().sync.task_service
    order = {"items": [{"price": 1}, {"price": 2}, {"price": 3}, {"price": value}]}
    with pytest.raises(also) as refused:
        tasks.create_task(tenant_code="acme", task_type="job", input=order)
    assert isinstance(refused.value, InvalidInput)
    assert refused.value.field.startswith("input.items[3].price")
    assert str(refused.value).startswith(refused.value.field + ": ")
    assert refused.value.problem


def test_a_refusal_says_what_to_do(make_module: MakeModule) -> None:
    with pytest.raises(InvalidType) as refused:
        make_module().sync.task_service.create_task(tenant_code="acme", task_type="job", input={"when": {1, 2}})
    assert str(refused.value) == (
        "input.when: a value of type set is no JSON value; use None, bool, int, float, str, list or dict"
    )


def test_a_value_that_holds_itself_is_refused(make_module: MakeModule) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidInput, match="nested deeper"):
        make_module().sync.task_service.create_task(tenant_code="acme", task_type="job", input=loop)


@pytest.mark.parametrize(("value", "also"), REFUSED)
def test_a_result_that_is_no_json_value_fails_its_task_with_the_path(
    make_module: MakeModule, value: Any, also: type[Exception]
) -> None:
    module = make_module()
    module.task("job")(lambda event: [value])
    task = asyncio.run(single(module))
    assert task.status is TaskStatus.FAILED
    assert task.error is not None
    assert task.error.message.startswith("result[0]")
