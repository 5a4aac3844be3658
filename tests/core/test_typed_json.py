"""DynamoDB's typed JSON: every value that is accepted comes back equal, in whatever way DynamoDB spells its numbers."""

import json
from collections.abc import Iterator
from decimal import Context, Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.errors import InvalidInput
from taskloom.typed_json import MAX_NATIVE_DEPTH, from_typed, is_native, number, number_text, to_typed
from taskloom.values import MAX_FLOAT, MAX_INTEGER, MIN_FLOAT, Json
from tests.core.strategies import json_values

DYNAMODB = Context(prec=38, Emin=-999, Emax=999)
"""The numbers that DynamoDB keeps: 38 digits (source: Amazon DynamoDB developer guide, "Supported data types")."""
numbers = st.one_of(
    st.integers(-MAX_INTEGER, MAX_INTEGER),
    st.floats(MIN_FLOAT, MAX_FLOAT),
    st.floats(-MAX_FLOAT, -MIN_FLOAT),
    st.integers(-(10**6), 10**6).map(float),
    st.integers(0, 125).map(lambda exponent: 10.0**exponent),
    st.integers(0, 37).map(lambda exponent: 10**exponent),
)


def spellings(text: str) -> Iterator[str]:
    """The ways in which a number may come back."""
    exact = DYNAMODB.create_decimal(text)
    assert exact == Decimal(text), "DynamoDB would round it"
    yield from (text, str(exact), str(exact.normalize(DYNAMODB)), format(exact, "f"), format(exact, "E"))


@given(numbers)
def test_numbers_come_back_equal(value: float) -> None:
    for text in spellings(number_text(value)):
        assert number(text) == value
        assert isinstance(number(text), int) or isinstance(value, float)


@given(json_values)
def test_dynamodb_json_is_read_back(value: Json) -> None:
    typed = to_typed(value)
    assert from_typed(typed) == value
    assert from_typed(json.loads(json.dumps(typed))) == value


@given(json_values)
def test_dynamodb_json_is_typed_as_dynamodb_types_it(value: Json) -> None:
    """One letter per value, numbers as text, all the way down (source: DynamoDB API reference, "AttributeValue")."""

    def check(typed: dict[str, Any]) -> None:
        ((kind, content),) = typed.items()
        match kind:
            case "S" | "N":
                assert isinstance(content, str)
            case "BOOL":
                assert isinstance(content, bool)
            case "NULL":
                assert content is True
            case "L":
                for item in content:
                    check(item)
            case "M":
                for item in content.values():
                    check(item)
            case _:
                pytest.fail(f"{kind} is none of DynamoDB's types that JSON needs")

    check(to_typed(value))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("1", 1), ("1.0", 1), ("1e2", 100), ("1E+2", 100), ("-0", 0), ("0.5", 0.5), ("9" * 38, 10**38 - 1)),
        *(("1E+37", 10**37), ("1.5E+37", 15 * 10**36), ("1E+38", 1e38), ("1" + "0" * 125, 1e125), ("1E-130", 1e-130)),
    ],
)
def test_numbers_as_dynamodb_writes_them(text: str, expected: float) -> None:
    """DynamoDB writes numbers in its own way: 1.0 may come back as 1."""
    assert from_typed({"N": text}) == expected


@pytest.mark.parametrize("value", [{"B": "eA=="}, {"SS": ["a"]}, {"NS": ["1"]}, {"BS": []}, {"X": 1}])
def test_types_that_are_never_written(value: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="has a value of type"):
        from_typed({"L": [value]})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((None, True), (1, True), ("", True), ({}, True), ([], True), ({"a": [{"b": {}}]}, True)),
        *(({"": 1}, False), ([[{"a": {"": None}}]], False)),
    ],
)
def test_an_item_holds_what_is_native(value: Json, expected: bool) -> None:
    assert is_native(value) is expected


def test_depth_is_bounded() -> None:
    """In lists and objects alike."""
    for outer in (lambda inner: [inner], lambda inner: {"a": inner}):
        value: Json = 1
        for depth in range(40):
            assert is_native(value) is (depth <= MAX_NATIVE_DEPTH)
            value = outer(value)
