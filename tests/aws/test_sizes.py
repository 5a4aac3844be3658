"""Sizes as DynamoDB counts them (source: developer guide, "DynamoDB item sizes and formats")."""

from typing import Any

import pytest

from taskloom.aws.sizes import item_bytes, value_bytes


@pytest.mark.parametrize(
    ("value", "size"),
    [
        *(({"S": ""}, 0), ({"S": "abc"}, 3), ({"S": "é"}, 2), ({"S": "😀"}, 4), ({"B": b"\0\1"}, 2)),
        *(({"N": "0"}, 1), ({"N": "1"}, 2), ({"N": "27"}, 2), ({"N": "-27"}, 3), ({"N": "461"}, 3)),
        *(({"N": "1000000"}, 2), ({"N": "0.0001"}, 2), ({"N": "1e30"}, 2), ({"N": "1" * 38}, 20)),
        *(({"BOOL": True}, 1), ({"NULL": True}, 1), ({"L": []}, 3), ({"M": {}}, 3)),
        *(({"L": [{"S": "abc"}, {"N": "1"}]}, 10), ({"M": {"ab": {"S": "c"}}}, 7)),
        *(({"SS": ["a", "bc"]}, 3), ({"NS": ["1", "27"]}, 4), ({"BS": [b"ab"]}, 2)),
    ],
)
def test_values(value: Any, size: int) -> None:
    assert value_bytes(value) == size


def test_names_count_too() -> None:
    assert item_bytes({"pk": {"S": "abc"}, "é": {"N": "1"}}) == 2 + 3 + 2 + 2
