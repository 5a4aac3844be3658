"""Finding things that a user names: the task module of an application, a database."""

import importlib
import inspect
import sys
from pathlib import Path

from taskloom.errors import InvalidInput
from taskloom.model import TaskKey
from taskloom.module import TaskModule
from taskloom.settings import Settings

APP = "APP"
KEY = "KEY"


def find_module(spec: str) -> TaskModule:
    """The task module that *spec*, as `package.module:attribute`, names; modules are found from the current folder too.

    The attribute, which may have dots, is a `TaskModule` or something to be called without arguments that returns one.
    Raises: InvalidInput that names what is missing; whatever the application's own code raises.
    """
    name, colon, attribute = spec.partition(":")
    if not name or not attribute:
        missing = "the attribute" if name and colon else "':attribute'" if name else "the module"
        raise InvalidInput(APP, f"{spec!r} lacks {missing}", "give package.module:attribute")
    if "" not in sys.path:
        sys.path.insert(0, "")
    found = _attribute(_imported(name), name, attribute)
    if isinstance(found, TaskModule):
        return found
    if not callable(found):
        raise InvalidInput(
            APP, f"{spec!r} is of type {type(found).__name__}", "give a TaskModule, or a function that returns one"
        )
    return _made(found, spec)


def _imported(name: str) -> object:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise InvalidInput(
                APP, f"there is no module {missing!r}", "start in the folder that holds it, or set PYTHONPATH"
            ) from error
        raise InvalidInput(
            APP, f"the module {name!r} needs {missing!r}, which is not installed", "install it"
        ) from error


def _attribute(found: object, name: str, attribute: str) -> object:
    path = name
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise InvalidInput(
                APP, f"{path!r} has no attribute {part!r}", "see how the module is called there"
            ) from None
        path = f"{path}:{part}" if path == name else f"{path}.{part}"
    return found


def _made(factory: object, spec: str) -> TaskModule:
    assert callable(factory)  # noqa: S101 - checked by the caller
    try:
        inspect.signature(factory).bind()
    except (TypeError, ValueError) as error:
        raise InvalidInput(APP, f"{spec!r} cannot be called without arguments: {error}", "wrap it") from error
    made = factory()
    if inspect.iscoroutine(made):
        made.close()
        raise InvalidInput(APP, f"{spec!r} is an async function", "give a plain one")
    if not isinstance(made, TaskModule):
        raise InvalidInput(APP, f"{spec!r} returns a {type(made).__name__}", "return a TaskModule")
    return made


def find_key(text: str) -> TaskKey:
    """The key whose id is *text*. Raises: InvalidInput."""
    try:
        return TaskKey.parse(text)
    except InvalidInput as error:
        raise InvalidInput(
            KEY, f"{text[:400]!r} names no task", "give the id of a task, as `taskloom list` prints it"
        ) from error


def open_database(path: Path | None) -> TaskModule:
    """A module to read the database *path*, which must exist (default: as the settings say, also on AWS).

    Raises: InvalidInput when there is none; StoreCorrupt for a file of another kind.
    """
    settings = Settings() if path is None else Settings(backend="embedded", database=path)
    if settings.backend == "aws":
        return TaskModule.register(settings=settings)
    database = Path(settings.database)
    if not database.is_file():
        problem = "is no file" if database.exists() else "does not exist"
        raise InvalidInput("--database", f"{database} {problem}", "give the database of your application")
    return TaskModule.register(settings=settings)
