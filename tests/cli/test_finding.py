"""Finding the application of a worker: by module and attribute, as other servers do."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskloom import TaskModule
from taskloom.cli.finding import find_module
from taskloom.errors import InvalidInput

APPLICATION = """
from taskloom import TaskModule
module = TaskModule.register()
number = 5
class Holder:
    tasks = module
def make():
    return module
def make_number():
    return 5
def make_with(setting):
    return module
async def make_later():
    return module
def fail():
    raise KeyError("the application's own error")
"""


@pytest.fixture(autouse=True)
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An application in the current folder, as a module and in a package; forgotten afterwards."""
    (tmp_path / "found_app.py").write_text(APPLICATION)
    (tmp_path / "found_package").mkdir()
    (tmp_path / "found_package" / "tasks.py").write_text(APPLICATION)
    (tmp_path / "found_broken.py").write_text("import found_nowhere.inner")
    (tmp_path / "found_wrong.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield
    for name in [name for name in sys.modules if name.startswith("found_")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "spec", ["found_app:module", "found_app:make", "found_app:Holder.tasks", "found_package.tasks:module"]
)
def test_a_module_or_what_makes_one_is_found_from_the_current_folder(spec: str) -> None:
    assert isinstance(find_module(spec), TaskModule)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("found_app", "'found_app' lacks ':attribute'"),
        ("found_app:", "'found_app:' lacks the attribute"),
        (":module", "':module' lacks the module"),
        ("", "'' lacks the module"),
        ("found_nothing:module", "there is no module 'found_nothing'"),
        ("found_package.nothing:module", "there is no module 'found_package.nothing'"),
        ("found_app.nothing:module", "there is no module 'found_app.nothing'"),
        ("found_broken:module", "the module 'found_broken' needs 'found_nowhere', which is not installed"),
        ("found_app:nothing", "'found_app' has no attribute 'nothing'"),
        ("found_app:Holder.nothing", "'found_app:Holder' has no attribute 'nothing'"),
        ("found_app:number", "'found_app:number' is of type int"),
        ("found_app:make_number", "'found_app:make_number' returns a int"),
        ("found_app:make_later", "'found_app:make_later' is an async function"),
        ("found_app:make_with", "'found_app:make_with' cannot be called without arguments: missing a required"),
    ],
)
def test_what_is_missing_is_named(spec: str, problem: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        find_module(spec)
    assert str(raised.value).startswith(f"APP: {problem}")


def test_errors_of_the_application_are_its_own() -> None:
    """Their traceback leads to the line; a message of ours in their place would hide it."""
    with pytest.raises(ZeroDivisionError):
        find_module("found_wrong:module")
    with pytest.raises(KeyError, match="own error"):
        find_module("found_app:fail")
