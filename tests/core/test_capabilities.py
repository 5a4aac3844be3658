"""Rule 8: per feature and backend there is one answer, and the documentation gives the same."""

import re
from pathlib import Path

import pytest

from taskloom.capabilities import BACKENDS, LEVELS, Feature, Level, is_exact

PAGE = Path(__file__).parents[2] / "docs" / "backends.md"


def test_the_table_is_whole() -> None:
    assert LEVELS.keys() == set(Feature)
    assert all(levels.keys() == set(BACKENDS) for levels in LEVELS.values())


def test_the_documentation_says_the_same() -> None:
    """Row by row, in its order."""
    rows = re.findall(r"^\| ([a-z]+) \| .+? \| ([a-z ]+) \| ([a-z ]+) \|$", PAGE.read_text(), re.MULTILINE)
    documented = {feature: (embedded, aws) for feature, embedded, aws in rows if feature != "feature"}
    assert documented == {
        str(feature): (str(levels["embedded"]), str(levels["aws"])) for feature, levels in LEVELS.items()
    }


@pytest.mark.parametrize("feature", Feature)
def test_exact_is_exact(feature: Feature) -> None:
    for backend in BACKENDS:
        assert is_exact(feature, backend) is (LEVELS[feature][backend] is Level.EXACT)
