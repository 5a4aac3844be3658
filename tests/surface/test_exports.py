"""The public surface is frozen: growth is a decision, made here."""

import pytest

import taskloom
from taskloom import errors

SURFACE = [
    "Cause",
    "Continue",
    "DeadLetter",
    "EventFactory",
    "EventFactoryAddedTask",
    "Explanation",
    "GiveUp",
    "IEvent",
    "IEventHandler",
    "ITaskQueueEventFactory",
    "InvokeContext",
    "LogLine",
    "NewTask",
    "Page",
    "Pause",
    "PauseScope",
    "QueueFigures",
    "Retry",
    "RetryAfter",
    "Settings",
    "StepFunctionService",
    "StepFunctionTaskEvent",
    "TaskEntity",
    "TaskEvent",
    "TaskKey",
    "TaskModule",
    "TaskQueueEvent",
    "TaskService",
    "TaskStatus",
    "TaskloomError",
    "Throughput",
    "Webhook",
    "WorkerFacts",
    "current",
    "event_factory",
    "event_handler",
    "verify_webhook",
]

ERRORS = [
    "CallbackFailed",
    "CallbackTimeout",
    "ClaimLost",
    "ExecutionNotFound",
    "IdempotencyConflict",
    "InvalidInput",
    "InvalidType",
    "MissingExtra",
    "NoHandler",
    "NotRunning",
    "SignatureRefused",
    "StoreBusy",
    "StoreCorrupt",
    "StoreError",
    "StoreFull",
    "TaskEnded",
    "TaskExpired",
    "TaskNotFound",
    "TaskOpen",
    "TaskTokenNotFound",
    "TaskTokenUsed",
    "WiringError",
]


def test_the_surface_is_this_and_sorted() -> None:
    assert taskloom.__all__ == SURFACE
    assert sorted(SURFACE) == SURFACE


@pytest.mark.parametrize("name", SURFACE)
def test_each_name_is_there_and_documented(name: str) -> None:
    value = getattr(taskloom, name)
    assert value.__doc__ or name == "ITaskQueueEventFactory"  # a union says what it is in its own module


def test_star_import_brings_the_surface() -> None:
    names: dict[str, object] = {}
    exec("from taskloom import *", names)
    assert set(SURFACE) <= set(names)


def test_dir_shows_the_surface_before_anything_is_loaded() -> None:
    assert set(SURFACE) <= set(dir(taskloom))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Tusk'"):
        taskloom.Tusk  # noqa: B018


def test_the_errors_are_one_tree() -> None:
    """The root and its tree are public; beside it stand the two signals of handlers, which are not caught with it."""
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    tree = sorted(value.__name__ for value in classes if issubclass(value, taskloom.TaskloomError))
    assert tree == sorted([*ERRORS, "TaskloomError"])
    assert not issubclass(taskloom.RetryAfter, taskloom.TaskloomError)
    assert not issubclass(taskloom.GiveUp, taskloom.TaskloomError)


@pytest.mark.parametrize(
    ("name", "parent"),
    [
        ("InvalidInput", ValueError),
        ("InvalidType", TypeError),
        ("InvalidType", ValueError),
        ("WiringError", TypeError),
        ("TaskNotFound", LookupError),
        ("ExecutionNotFound", LookupError),
        ("TaskTokenNotFound", LookupError),
        ("TaskTokenUsed", errors.TaskTokenNotFound),
        ("CallbackTimeout", TimeoutError),
        ("NotRunning", RuntimeError),
        ("MissingExtra", ImportError),
        ("SignatureRefused", ValueError),
    ],
)
def test_errors_are_also_what_python_calls_them(name: str, parent: type) -> None:
    assert issubclass(getattr(errors, name), parent)
