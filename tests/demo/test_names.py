"""Names of files survive as JSON, whatever bytes they are."""

import json
import os

from hypothesis import example, given, strategies

from taskloom.demo import names
from taskloom.values import encode

paths = strategies.binary(min_size=1, max_size=40).filter(lambda raw: b"\0" not in raw).map(os.fsdecode)


@given(path=paths)
@example(path="/plain/name.py")
@example(path="ünï/cödé €")
@example(path=os.fsdecode(b"caf\xe9"))
@example(path="caf\\xe9")
def test_a_path_comes_back_from_json(path: str) -> None:
    item = names.to_json("path", path)
    encode(item, "input")  # every backend takes it
    assert names.from_json("path", json.loads(json.dumps(item))) == path
    assert item["path"] == names.shown(path)


def test_two_different_names_never_look_alike() -> None:
    """A real backslash is not confused with a byte that could not be shown."""
    bad, literal = names.to_json("path", os.fsdecode(b"caf\xe9")), names.to_json("path", "caf\\xe9")
    assert bad == {"path": "caf\\xe9", "pathBase64": "Y2Fm6Q=="}
    assert literal == {"path": "caf\\xe9"}
