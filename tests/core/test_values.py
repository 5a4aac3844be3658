"""JSON values at the border: what is accepted comes back equal, everything else is refused with its path."""

import enum
import json
import math
from collections import OrderedDict
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.errors import InvalidInput, InvalidType
from taskloom.values import MAX_DEPTH, MAX_FLOAT, MAX_INTEGER, MIN_FLOAT, Json, check, copy, decode, encode
from tests.core.strategies import json_values


@given(json_values)
def test_a_value_comes_back_equal(value: Json) -> None:
    text = encode(value, "input")
    assert decode(text) == value
    assert copy(value) == value


@given(json_values)
def test_the_text_is_json_for_everybody(value: Json) -> None:
    """Compact, on one line, encodable: the payload store keeps one value per line."""
    text = encode(value, "input")
    assert json.loads(text) == value
    assert "\n" not in text
    assert text.encode().decode() == text


@given(json_values)
def test_nobody_shares_a_live_object(value: Json) -> None:
    value = [value, {"inner": value}]
    copied = copy(value)
    assert copied == value
    assert copied is not value
    assert copied[1] is not value[1]


def test_a_tuple_counts_as_a_list() -> None:
    assert decode(encode((1, (2,)), "input")) == [1, [2]]


def test_subclasses_come_back_as_what_they_are_made_of() -> None:
    class Colour(enum.StrEnum):
        RED = "red"

    class Level(enum.IntEnum):
        HIGH = 3

    class Metres(float):
        pass

    given_ = {"colour": Colour.RED, "level": Level.HIGH, "length": Metres(1.5), "map": OrderedDict(a=1)}
    text = encode(given_, "input")
    assert json.loads(text) == {"colour": "red", "level": 3, "length": 1.5, "map": {"a": 1}}


def nested(depth: int, make: Any = lambda inner: [inner]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = make(value)
    return value


@pytest.mark.parametrize("make", [lambda inner: [inner], lambda inner: {"a": inner}, lambda inner: (inner,)])
def test_the_limit_of_nesting(make: Any) -> None:
    assert encode(nested(MAX_DEPTH, make), "input")
    with pytest.raises(InvalidInput, match="nested deeper than 32 levels"):
        encode(nested(MAX_DEPTH + 1, make), "input")


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidInput, match="nested deeper"):
        encode(loop, "input")


@pytest.mark.parametrize("value", [MAX_INTEGER, -MAX_INTEGER, MAX_FLOAT, -MAX_FLOAT, MIN_FLOAT, -MIN_FLOAT, 0.0, -0.0])
def test_numbers_at_the_limit(value: float) -> None:
    assert decode(encode(value, "input")) == value


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (MAX_INTEGER + 1, "more than 38 digits"),
        (-MAX_INTEGER - 1, "more than 38 digits"),
        pytest.param(10**5000, "more than 38 digits", id="too long even to be printed"),
        (math.nan, "no JSON number"),
        (math.inf, "no JSON number"),
        (-math.inf, "no JSON number"),
        (1e126, "outside"),
        (-1e126, "outside"),
        (9e-131, "outside"),
        (5e-324, "outside"),
        ("\ud800", "lone surrogate at position 0"),
        ("fine so far \udfff", "lone surrogate at position 12"),
    ],
)
def test_values_that_no_backend_keeps(value: object, problem: str) -> None:
    """Each anywhere, with the path to it."""
    for field, whole in (("input", value), ("input.items[3].price", {"items": [0, 0, 0, {"price": value}]})):
        with pytest.raises(InvalidInput, match=problem) as caught:
            check(whole, "input")
        assert caught.value.field == field
        assert not isinstance(caught.value, InvalidType)


@pytest.mark.parametrize(
    "value",
    [b"x", bytearray(b"x"), {1, 2}, frozenset(), object(), Decimal(1), 1j, date(2026, 5, 1), range(3), iter([])],
)
def test_what_is_no_json_value_at_all(value: object) -> None:
    for field, whole in (("input", value), ("input.a[1]", {"a": [0, value]})):
        with pytest.raises(InvalidType, match=f"a value of type {type(value).__name__} is no JSON value") as caught:
            check(whole, "input")
        assert caught.value.field == field


@pytest.mark.parametrize("key", [1, None, 1.5, True, (1,), b"a"])
def test_keys_are_strings(key: object) -> None:
    """`json` would make strings of some of them, and they would come back as something else."""
    with pytest.raises(InvalidType, match=r"^input\.a: has the key .*, which is no string"):
        check({"a": {key: 1}}, "input")


def test_a_key_with_a_lone_surrogate() -> None:
    with pytest.raises(InvalidInput, match="lone surrogate"):
        check({"\ud800": 1}, "input")


@given(st.text())
def test_texts_pass_exactly_if_they_can_be_encoded(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        with pytest.raises(InvalidInput):
            check([text], "input")
    else:
        check([text], "input")
