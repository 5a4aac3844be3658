"""Taskloom: long-running tasks for Python, embedded on one SQLite file or on AWS.

Importing this package imports next to nothing; each name loads what it needs when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskloom.errors import Continue, GiveUp, RetryAfter, TaskloomError
    from taskloom.events.context import current
    from taskloom.events.factory import EventFactory, EventFactoryAddedTask, ITaskQueueEventFactory
    from taskloom.events.marks import IEvent, IEventHandler, event_factory, event_handler
    from taskloom.events.task_events import StepFunctionTaskEvent, TaskEvent, TaskQueueEvent
    from taskloom.model import InvokeContext, LogLine, Page, TaskEntity, TaskKey, TaskStatus
    from taskloom.module import TaskModule
    from taskloom.operations.creation import NewTask
    from taskloom.operations.explaining import Cause, Explanation
    from taskloom.operations.queues import QueueFigures
    from taskloom.policy import Retry
    from taskloom.ports import DeadLetter, Pause, PauseScope, Throughput, WorkerFacts
    from taskloom.service import TaskService
    from taskloom.settings import Settings
    from taskloom.state_service import StepFunctionService
    from taskloom.webhooks import Webhook, verify_webhook

_HOMES = {
    "Cause": "operations.explaining",
    "Continue": "errors",
    "DeadLetter": "ports",
    "EventFactory": "events.factory",
    "EventFactoryAddedTask": "events.factory",
    "Explanation": "operations.explaining",
    "GiveUp": "errors",
    "IEvent": "events.marks",
    "IEventHandler": "events.marks",
    "ITaskQueueEventFactory": "events.factory",
    "InvokeContext": "model",
    "LogLine": "model",
    "NewTask": "operations.creation",
    "Page": "model",
    "Pause": "ports",
    "PauseScope": "ports",
    "QueueFigures": "operations.queues",
    "Retry": "policy",
    "RetryAfter": "errors",
    "Settings": "settings",
    "StepFunctionService": "state_service",
    "StepFunctionTaskEvent": "events.task_events",
    "TaskEntity": "model",
    "TaskEvent": "events.task_events",
    "TaskKey": "model",
    "TaskModule": "module",
    "TaskQueueEvent": "events.task_events",
    "TaskService": "service",
    "TaskStatus": "model",
    "TaskloomError": "errors",
    "Throughput": "ports",
    "Webhook": "webhooks",
    "WorkerFacts": "ports",
    "current": "events.context",
    "event_factory": "events.marks",
    "event_handler": "events.marks",
    "verify_webhook": "webhooks",
}

__all__ = [
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


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'taskloom' has no attribute {name!r}")
    value = getattr(import_module(f"taskloom.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
