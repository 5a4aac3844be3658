"""Everything that Taskloom raises, in one tree.

TaskloomError
├── InvalidInput (ValueError)       a value from outside is not acceptable; nothing was written
│   └── InvalidType (TypeError)     ... because it is of the wrong kind altogether
├── WiringError (TypeError)         handlers, factories or providers do not fit together
├── TaskNotFound (LookupError)      no such task in this tenant
│   └── TaskExpired                 ... any more: it had ended, and was kept as long as it was to be
├── TaskEnded                       the task has ended, so there is nothing to cancel
├── TaskOpen                        the task has not ended, so there is nothing to retry
├── IdempotencyConflict             the idempotency key was used for something else
├── ExecutionNotFound (LookupError) no such execution of the state machine
├── TaskTokenNotFound (LookupError) nobody waits for this task token
│   └── TaskTokenUsed               ... any more: it was answered, or its time was over
├── CallbackFailed                  what a handler waited for was answered with an error
├── CallbackTimeout (TimeoutError)  ... or not in time
├── NotRunning (RuntimeError)       asked for the context of a run outside of one
├── NoHandler                       nothing takes the events of a task
├── ClaimLost                       a write came too late: another claim holds the task
├── SignatureRefused (ValueError)   a webhook was not sent by who knows the secret, or long ago
├── MissingExtra (ImportError)      an optional dependency is not installed
└── StoreError                      the storage could not do its work
    ├── StoreBusy                   ... now; trying again helps (retryable)
    ├── StoreFull                   ... until there is room (retryable)
    └── StoreCorrupt                ... and will not, without repair

Beside the tree stand the signals that a handler raises on purpose: `RetryAfter`, `GiveUp` and `Continue`; and
`Suspend`, which `event.sleep` and `event.wait_for` raise for it.
"""

from datetime import datetime
from typing import ClassVar, Final


class TaskloomError(Exception):
    """Root of all errors of this package."""

    retryable: ClassVar[bool] = False
    """Whether the same call may succeed a little later."""


class InvalidInput(TaskloomError, ValueError):
    """A value given by the caller is refused before anything is written.

    *field* is the path of the value (`input.items[3].price`), *problem* what is wrong with it, *remedy* what to do.
    """

    def __init__(self, field: str, problem: str, remedy: str = "") -> None:
        self.field = field
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{field}: {problem}" + (f"; {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[type["InvalidInput"], tuple[str, str, str]]:
        return type(self), (self.field, self.problem, self.remedy)


class InvalidType(InvalidInput, TypeError):
    """Like `InvalidInput`, for a value whose type can never be right here."""


class WiringError(TaskloomError, TypeError):
    """Handlers, factories or providers of a module do not fit together."""


class TaskNotFound(TaskloomError, LookupError):
    """No task has this key; a task of another tenant is not found either."""

    def __init__(self, task: object) -> None:
        self.task = task
        super().__init__(f"there is no task {task}")

    def __reduce__(self) -> tuple[type["TaskNotFound"], tuple[object]]:
        return type(self), (self.task,)


class TaskExpired(TaskNotFound):
    """The task was there: it had ended, and was kept for its `ttl`, which passed at *at*. It is gone for good."""

    def __init__(self, task: object, at: str) -> None:
        super().__init__(task)
        self.at = at
        """When it expired, ISO 8601."""
        self.args = (f"{task} expired at {at} and is gone; create it anew",)

    def __reduce__(self) -> tuple[type["TaskExpired"], tuple[object, str]]:  # type: ignore[override]
        return type(self), (self.task, self.at)


class TaskEnded(TaskloomError):
    """There is nothing to cancel: the task has ended, as its *status* says. Nothing was changed."""

    def __init__(self, task: object, status: str) -> None:
        self.task = task
        self.status = status
        super().__init__(f"{task} has ended, it is {status}; nothing was changed")

    def __reduce__(self) -> tuple[type["TaskEnded"], tuple[object, str]]:
        return type(self), (self.task, self.status)


class TaskOpen(TaskloomError):
    """There is nothing to retry: the task has not ended, as its *status* says. Nothing was changed."""

    def __init__(self, task: object, status: str) -> None:
        self.task = task
        self.status = status
        super().__init__(f"{task} has not ended, it is {status}; cancel it first, or wait for its end")

    def __reduce__(self) -> tuple[type["TaskOpen"], tuple[object, str]]:
        return type(self), (self.task, self.status)


class IdempotencyConflict(TaskloomError):
    """The idempotency *key* was used before with other content; the task of that time was not changed."""

    def __init__(self, key: str, first: str, second: str) -> None:
        self.key = key
        self.first = first
        """The fingerprint of the content with which the key was used first."""
        self.second = second
        super().__init__(
            f"idempotency key {key!r} was used with other content: its fingerprint was {first}, now it is {second}; "
            "send the same task type, name and input, or use another key"
        )

    def __reduce__(self) -> tuple[type["IdempotencyConflict"], tuple[str, str, str]]:
        return type(self), (self.key, self.first, self.second)


class ExecutionNotFound(TaskloomError, LookupError):
    """No execution of the state machine has this ARN, and no step function task will start it."""


class TaskTokenNotFound(TaskloomError, LookupError):
    """Nobody waits for this task token (any more)."""


class TaskTokenUsed(TaskTokenNotFound):
    """Nobody waits for this task token any more: it was answered before, or the time for that was over."""


class CallbackFailed(TaskloomError):
    """The callback *name*, for which a handler waits, was answered with an *error*. Left alone it ends the task."""

    def __init__(self, name: str, error: str) -> None:
        self.name = name
        self.error = error
        super().__init__(f"callback {name!r} failed: {error}")

    def __reduce__(self) -> tuple[type["CallbackFailed"], tuple[str, str]]:
        return type(self), (self.name, self.error)


class CallbackTimeout(TaskloomError, TimeoutError):
    """The callback *name*, for which a handler waits, was not answered in time. Left alone it ends the task."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"callback {name!r} was not answered in time")

    def __reduce__(self) -> tuple[type["CallbackTimeout"], tuple[str]]:
        return type(self), (self.name,)


class NotRunning(TaskloomError, RuntimeError):
    """`taskloom.current()` was called outside of a running handler."""


class NoHandler(TaskloomError):
    """Nothing takes the events of a task; becomes the reason for which it fails."""


class ClaimLost(TaskloomError):
    """The task was claimed again, retried or ended since; the late write changed nothing."""


class SignatureRefused(TaskloomError, ValueError):
    """What claims to be a webhook of Taskloom is not to be trusted: answer with an error, and do nothing else."""


class MissingExtra(TaskloomError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        self.feature = feature
        self.extra = extra
        super().__init__(f"{feature} needs the extra {extra!r}: pip install 'taskloom[{extra}]'")


class StoreError(TaskloomError):
    """The storage could not do its work."""


class StoreBusy(StoreError):
    """The storage is busy with other writers; trying again helps."""

    retryable = True


class StoreFull(StoreError):
    """There is no room left, or the file cannot be written; make room and it goes on."""

    retryable = True


class StoreCorrupt(StoreError):
    """The file is no Taskloom database, or is damaged."""


KEEP: Final = object()
"""Stands for no state at all, since None is one."""


class RetryAfter(Exception):
    """Raised by a handler: try again in *seconds*, whatever the backoff says; counts as an attempt."""

    def __init__(self, seconds: float, reason: str = "") -> None:
        if not 0 <= seconds <= 366 * 86400:
            raise InvalidInput("seconds", f"{seconds!r} is not between 0 and a year", "give a delay in seconds")
        self.seconds = float(seconds)
        super().__init__(reason or f"the handler asked to be tried again in {seconds:g} s")


class Continue(BaseException):
    """Raised by a handler: end this slice, and go on at once in a new one, which finds *state* in `event.state`.

    Not a failure, and no attempt is counted. Without *state* what was saved by `checkpoint` stays. It is no Exception,
    so that an `except Exception` of the handler does not swallow it.
    """

    def __init__(self, state: object = KEEP, *, reason: str = "goes on in another slice") -> None:
        self.state = state
        self.reason = reason
        """Stands in the history."""
        super().__init__(f"the handler {reason}")


class Suspend(BaseException):
    """Raised by `event.sleep` and `event.wait_for`: the task holds no worker until *until*, or until it is woken.

    Let it pass: it is no Exception, so that an `except Exception` of the handler does not swallow it.
    """

    def __init__(self, until: datetime, *, reason: str, callback: str | None = None) -> None:
        self.until = until
        self.reason = reason
        """Stands in the history."""
        self.callback = callback
        """The callback whose answer wakes the task; None: it only sleeps."""
        super().__init__(f"the handler {reason}")


class GiveUp(Exception):
    """Raised by a handler: this task failed for good, no further attempt helps."""
