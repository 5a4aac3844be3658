"""Fingerprints: equal content has equal ones, and other content has not."""

import enum
from collections import OrderedDict
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.model import Kind
from taskloom.operations.fingerprint import LENGTH, Fingerprint
from taskloom.values import MAX_FLOAT, MAX_INTEGER, MIN_FLOAT, Json, decode, encode
from tests.core.strategies import json_values, numbers, texts

_LETTERS = st.sampled_from(
    ["", "a", "b", "0", "1", "true", "null", "[]", "\n", "\\n", '"', '","', "ä", "a\u0308", "\0"]
)
_SCALARS = _LETTERS | st.sampled_from(
    [None, True, False, 0, 1, -1, 0.0, 1.0, -0.0, -1.0, 1.5, 10**22, 1e22, 10**23, 1e23, 2**53, 2.0**53, 2**53 + 1]
)
close: st.SearchStrategy[Json] = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_LETTERS, inner, max_size=2),
    max_leaves=4,
)
"""Values out of so few that two of them are often equal, or nearly so."""


def exact(value: Any) -> Any:
    """*value* so that `==` is what the fingerprint goes by: bool is told apart from numbers, a tuple is a list."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, dict):
        return {name: exact(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [exact(item) for item in value]
    return value


def of(*values: object, kind: str = "TASK", task_type: str = "cat", name: str = "cat") -> str:
    fingerprint = Fingerprint(kind, task_type, name)
    for value in values:
        fingerprint.add(value)
    return fingerprint.text()


# --- values ----------------------------------------------------------------------------------------------------------


@given(close, close)
def test_fingerprints_are_equal_exactly_if_the_values_are(one: Json, other: Json) -> None:
    assert (of(one) == of(other)) == (exact(one) == exact(other))


@given(json_values, json_values)
def test_so_it_is_with_any_values(one: Json, other: Json) -> None:
    assert (of(one) == of(other)) == (exact(one) == exact(other))


@given(numbers, numbers)
def test_so_it_is_with_numbers(one: float, other: float) -> None:
    """Up to 38 digits, where a float stands for one integer and not for its neighbours."""
    assert (of(one) == of(other)) == (one == other)
    if isinstance(one, int):
        for near in (one + 1, float(one)):
            assert (of(one) == of(near)) == (one == near)


def test_numbers_at_their_limits() -> None:
    values = [MAX_INTEGER, -MAX_INTEGER, MAX_FLOAT, -MAX_FLOAT, MIN_FLOAT, -MIN_FLOAT, 0, 1e37, 1e38]
    assert len({of(value) for value in values}) == len(values)
    assert of(-0.0) == of(0.0) == of(0)
    assert of(10**22) == of(1e22)
    assert of(10**23) != of(1e23)  # which stands for 99999999999999991611392


@st.composite
def in_another_guise(draw: st.DrawFn, value: Any) -> Any:
    """An equal value that looks different: other order of names, 1.0 for 1, a tuple for a list."""
    if isinstance(value, dict):
        names = draw(st.permutations(list(value)))
        return {name: draw(in_another_guise(value[name])) for name in names}
    if isinstance(value, list):
        return draw(st.sampled_from([list, tuple]))(draw(in_another_guise(item)) for item in value)
    if isinstance(value, int) and not isinstance(value, bool) and float(value) == value and draw(st.booleans()):
        return float(value)
    if isinstance(value, float) and value.is_integer() and draw(st.booleans()):
        return int(value)
    return value


@given(st.data(), json_values)
def test_the_guise_does_not_matter(data: st.DataObject, value: Json) -> None:
    assert of(data.draw(in_another_guise(value))) == of(value)


@given(st.dictionaries(texts, json_values, min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_names_does_not_matter(value: dict[str, Json], random: Any) -> None:
    names = list(value)
    random.shuffle(names)
    shuffled = {name: value[name] for name in names}
    assert of(shuffled) == of(value)
    assert of([{"inner": shuffled}]) == of([{"inner": value}])


@given(json_values)
def test_what_comes_back_from_storage_has_the_fingerprint_of_what_was_given(value: Json) -> None:
    """Single tasks are compared by the one, fan-outs by the other."""
    assert of(decode(encode(value, "input"))) == of(value)


def test_so_it_is_with_subclasses_of_json_types() -> None:
    class Colour(enum.StrEnum):
        RED = "red"

    class Level(enum.IntEnum):
        HIGH = 3

    class Metres(float):
        pass

    given_ = {Colour.RED: Colour.RED, "level": Level.HIGH, "length": (Metres(2), Metres(1.5)), "map": OrderedDict(a=1)}
    plain = {"red": "red", "level": 3, "length": [2, 1.5], "map": {"a": 1}}
    assert of(given_) == of(decode(encode(given_, "input"))) == of(plain)


def test_values_that_look_alike_are_told_apart() -> None:
    values: list[Any] = [
        *(None, True, False, 0, 1, "", "0", "1", "1.0", "null", "None", "true", "True", "[]", "{}", '"1"'),
        *([], {}, [[]], [{}], [None], [True], [0], [1], ["1"], [1, 2], [2, 1], [[1], 2], [[1, 2]], [12], ["1,2"]),
        *({"a": 1}, {"a": True}, {"a": "1"}, {"a": None}, {"a": [1]}, {"b": 1}, {"": 1}, {"a": {"a": 1}}, {"A": 1}),
        *({"a": 1, "b": 2}, {"a": 2, "b": 1}, [["a", 1], ["b", 2]], {"a": 1, "b": {}}, "\n", "\\n", "ä", "a\u0308"),
    ]
    for one, other in combinations(values, 2):
        assert of(one) != of(other), (one, other)


# --- inputs of fan-outs ----------------------------------------------------------------------------------------------


@given(st.lists(close, max_size=4), st.lists(close, max_size=4))
def test_lists_of_inputs_are_told_apart_by_their_elements_and_the_order(one: list[Json], other: list[Json]) -> None:
    assert (of(*one) == of(*other)) == (exact(one) == exact(other))


@given(st.lists(json_values, min_size=1, max_size=4), st.data())
def test_every_input_counts(inputs: list[Json], data: st.DataObject) -> None:
    """One more, one less, one that is another."""
    index = data.draw(st.integers(0, len(inputs) - 1))
    changed = data.draw(json_values)
    assert of(*inputs, changed) != of(*inputs)
    assert of(*inputs[:index], *inputs[index + 1 :]) != of(*inputs)
    replaced = [*inputs[:index], changed, *inputs[index + 1 :]]
    assert (of(*replaced) == of(*inputs)) == (exact(changed) == exact(inputs[index]))


@given(st.lists(json_values, max_size=3))
def test_many_inputs_are_not_one_list(inputs: list[Json]) -> None:
    assert of(inputs) != of(*inputs)
    assert of(inputs, inputs) != of([*inputs, *inputs])


@given(st.lists(json_values, min_size=1, max_size=5))
def test_a_fingerprint_can_be_read_in_between(inputs: list[Json]) -> None:
    fingerprint, seen = Fingerprint("SFN_TASK", "cat", "cat"), []
    for value in inputs:
        seen += [fingerprint.text(), fingerprint.text()]
        fingerprint.add(value)
    expected = [of(*inputs[:count], kind="SFN_TASK") for count in range(len(inputs) + 1)]
    assert [*seen[::2], fingerprint.text()] == expected
    assert seen[1::2] == expected[:-1]


# --- kind, type and name ---------------------------------------------------------------------------------------------

_words = st.sampled_from(["", "a", "b", "ab", "TASK", "SFN_TASK", "cat", ",", '","', '"', "\n", "\\", "ä"])
_heads: st.SearchStrategy[tuple[str, ...]] = st.tuples(_words, _words, _words)


@given(_heads, _heads, close)
def test_kind_type_and_name_all_count(one: Sequence[str], other: Sequence[str], value: Json) -> None:
    """Each in its place: neither can be mistaken for a part of the next."""

    def whole(head: Sequence[str]) -> str:
        kind, task_type, name = head
        return of(value, kind=kind, task_type=task_type, name=name)

    assert (whole(one) == whole(other)) == (one == other)


@given(texts, texts, texts, texts)
def test_so_it_is_with_any_texts(task_type: str, name: str, other_type: str, other_name: str) -> None:
    same = (task_type, name) == (other_type, other_name)
    assert (of(1, task_type=task_type, name=name) == of(1, task_type=other_type, name=other_name)) == same


def test_the_kind_counts_as_what_it_is_stored_as() -> None:
    assert of(1, kind=Kind.TASK) == of(1, kind="TASK") != of(1, kind=Kind.SFN_TASK)


# --- what it looks like ----------------------------------------------------------------------------------------------


@given(json_values)
def test_it_is_short_and_fit_for_a_message(value: Json) -> None:
    text = of(value)
    assert len(text) == LENGTH
    assert set(text) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    ("head", "inputs", "expected"),
    [
        (("TASK", "cat", "cat"), [None], "84c037f23c99a1b529adec1450ab3e43"),
        (("TASK", "cat", "Käse"), [{"b": [1.0, 2.5, "ä"], "a": True}], "dfb8637e2c38d32a0102429cb8253f72"),
        (("SFN_TASK", "cat", "cat"), [], "374b70b7339dd3d0faefbacb89f95a46"),
        (("SFN_TASK", "dog", "cat"), [1, 2.0, {"key": "v"}], "5f53ddc1940b208e22e4e0c890e0c8e0"),
    ],
)
def test_it_stays_what_it_was(head: tuple[str, str, str], inputs: list[Json], expected: str) -> None:
    """Keys outlive the program: after an upgrade the same request must still be the same."""
    kind, task_type, name = head
    assert of(*inputs, kind=kind, task_type=task_type, name=name) == expected
