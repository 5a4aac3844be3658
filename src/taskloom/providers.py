"""Handlers and factories made from classes: their constructor parameters are filled in by type."""

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from taskloom.errors import WiringError


def build(provider: object, known: Mapping[type, object], module: object) -> object:
    """The instance that *provider* stands for: a class, an instance, or a callable that takes the module.

    A class is called with what *known* has for the annotated types of its parameters.
    Raises: WiringError naming the parameter that cannot be filled in.
    """
    if isinstance(provider, type):
        return provider(**_arguments(provider, known))
    if inspect.isroutine(provider) or _is_factory(provider):
        made = typing.cast("Callable[[object], object]", provider)(module)
        if made is None:
            raise WiringError(f"the provider {provider!r} returned None; return the handler")
        return made
    return provider


def _is_factory(provider: object) -> bool:
    # functools.partial and objects with __call__, unless they are handlers themselves.
    return callable(provider) and not hasattr(provider, "execute")


def _arguments(cls: type, known: Mapping[type, object]) -> dict[str, object]:
    constructor = inspect.getattr_static(cls, "__init__")
    if constructor is object.__init__:
        return {}
    try:
        hints = typing.get_type_hints(constructor)
    except NameError as error:
        raise WiringError(
            f"{cls.__qualname__}.__init__: {error}; import the annotated type at run time, not only for type checkers"
        ) from error
    arguments: dict[str, object] = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        hint = hints.get(name)
        if isinstance(hint, type) and hint in known:
            arguments[name] = known[hint]
        elif parameter.default is parameter.empty:
            raise WiringError(_unfillable(cls, name, hint, known))
    return arguments


def _unfillable(cls: type, name: str, hint: Any, known: Mapping[type, object]) -> str:
    said = "has no annotation" if hint is None else f"is annotated {getattr(hint, '__name__', hint)}"
    names = ", ".join(sorted(type_.__name__ for type_ in known))
    return (
        f"{cls.__qualname__}: the constructor parameter {name!r} {said} and cannot be filled in; annotate it with one "
        f"of {names}, give it a default, or pass an instance"
    )
