"""What a task is: keys, status, progress, history, the entity. Pure values."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, NewType

from taskloom.errors import InvalidInput, InvalidType
from taskloom.values import Json

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    InputT = TypeVar("InputT", default=Any)
    ItemT = TypeVar("ItemT", default=Any)
else:
    from typing import TypeVar

    InputT = TypeVar("InputT")
    ItemT = TypeVar("ItemT")

TenantCode = NewType("TenantCode", str)
"""Who a task belongs to: 1–64 of A–Z a–z 0–9 _ -"""
TaskType = NewType("TaskType", str)
"""What a task does: 1–128 of A–Z a–z 0–9 . _ -"""
TaskCode = NewType("TaskCode", str)
"""A task's ULID."""

SHARD_SIZE: Final = 1000
"""Sub-tasks per partition: no partition gets hot."""
MAX_SUB_TASKS: Final = 10**7
"""Indexes have seven digits."""

_TENANT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TYPE: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_CODE: Final = re.compile(r"[A-Za-z0-9-]{1,64}")


def tenant_code(value: object, field: str = "tenant_code") -> TenantCode:
    """*value* as a tenant code. Raises: InvalidInput or InvalidType naming *field*."""
    return TenantCode(_matching(_TENANT, value, field, "1 to 64 letters, digits, '_' or '-'"))


def task_type(value: object, field: str = "task_type") -> TaskType:
    """*value* as a task type. Raises: InvalidInput or InvalidType naming *field*."""
    return TaskType(_matching(_TYPE, value, field, "1 to 128 letters, digits, '.', '_' or '-'"))


def _matching(pattern: re.Pattern[str], value: object, field: str, allowed: str) -> str:
    if not isinstance(value, str):
        raise InvalidType(field, f"{value!r} is no string", f"give {allowed}")
    if not pattern.fullmatch(value):
        raise InvalidInput(field, f"{value[:140]!r} is not allowed", f"give {allowed}")
    return str(value)


class TaskStatus(StrEnum):
    """Where a task stands."""

    PENDING = "PENDING"
    """Saved; queued, or waiting for its next attempt."""
    IN_PROGRESS = "IN_PROGRESS"
    """Somebody holds a claim on it, or its execution runs."""
    COMPLETED = "COMPLETED"
    """Ended well; final until an explicit retry."""
    FAILED = "FAILED"
    """Ended badly, with an error; final until an explicit retry."""
    CANCELLED = "CANCELLED"
    """Ended on request; final until an explicit retry."""

    @property
    def is_terminal(self) -> bool:
        """Whether nothing changes it but an explicit retry."""
        return self in TERMINAL

    @classmethod
    def _missing_(cls, value: object) -> "TaskStatus | None":
        # What the TypeScript original stored, read tolerantly; never written.
        return _FOREIGN.get(value) if isinstance(value, str) else None


TERMINAL: Final = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED})
OPEN: Final = frozenset({TaskStatus.PENDING, TaskStatus.IN_PROGRESS})
_FOREIGN: Final[Mapping[str, TaskStatus]] = {
    "CREATED": TaskStatus.PENDING,
    "QUEUED": TaskStatus.PENDING,
    "PROCESSING": TaskStatus.IN_PROGRESS,
    "STARTED": TaskStatus.IN_PROGRESS,
    "FINISHED": TaskStatus.COMPLETED,
    "ERRORED": TaskStatus.FAILED,
}


class Kind(StrEnum):
    """The three shapes of a task."""

    TASK = "TASK"
    """One handler call."""
    SFN_TASK = "SFN_TASK"
    """The parent of a fan-out."""
    SUB_TASK = "SUB_TASK"
    """One input of a fan-out."""


@dataclass(frozen=True, slots=True)
class TaskKey:
    """The name of a task: its partition key and its sort key.

    single task: `TASK#<tenant>`, `<type>#<ULID>`; step function task: `SFN_TASK#<tenant>`, `<type>#<ULID>`; sub-task:
    `SFN_TASK#<tenant>#<ULID>#<shard>`, `<type>#<ULID>#<index, 7 digits>`.
    The properties raise InvalidInput when the key has none of these shapes.
    """

    pk: str
    sk: str
    _parts: "KeyParts | None" = field(default=None, repr=False, compare=False)

    @classmethod
    def single(cls, tenant: str, type_: str, code: str) -> "TaskKey":
        """The key of a single task."""
        parts = KeyParts(Kind.TASK, TenantCode(tenant), TaskType(type_), TaskCode(code))
        return cls(f"TASK#{tenant}", f"{type_}#{code}", parts)

    @classmethod
    def step_function(cls, tenant: str, type_: str, code: str) -> "TaskKey":
        """The key of a step function task."""
        parts = KeyParts(Kind.SFN_TASK, TenantCode(tenant), TaskType(type_), TaskCode(code))
        return cls(f"SFN_TASK#{tenant}", f"{type_}#{code}", parts)

    @classmethod
    def sub_task(cls, tenant: str, type_: str, code: str, index: int) -> "TaskKey":
        """The key of sub-task *index*, counted from 0, of the step function task *code*."""
        parts = KeyParts(Kind.SUB_TASK, TenantCode(tenant), TaskType(type_), TaskCode(code), index)
        return cls(f"SFN_TASK#{tenant}#{code}#{index // SHARD_SIZE}", f"{type_}#{code}#{index:07d}", parts)

    @classmethod
    def parse(cls, text: str) -> "TaskKey":
        """The key whose `id` is *text*. Raises: InvalidInput."""
        parts = text.split("#")
        pk_parts = 4 if len(parts) == 7 else 2
        key = cls("#".join(parts[:pk_parts]), "#".join(parts[pk_parts:]))
        key.parts  # noqa: B018 - raises when the shape is wrong
        return key

    @property
    def id(self) -> str:
        """pk and sk in one string."""
        return f"{self.pk}#{self.sk}"

    @property
    def parts(self) -> "KeyParts":
        """What the key says of its task."""
        if self._parts is not None:
            return self._parts
        pk, sk = str(self.pk).split("#"), str(self.sk).split("#")
        try:
            match (pk, sk):
                case (["TASK", tenant], [type_, code]):
                    parts = KeyParts(Kind.TASK, tenant_code(tenant), task_type(type_), TaskCode(code))
                case (["SFN_TASK", tenant], [type_, code]):
                    parts = KeyParts(Kind.SFN_TASK, tenant_code(tenant), task_type(type_), TaskCode(code))
                case (["SFN_TASK", tenant, parent, shard], [type_, code, index]) if (
                    parent == code and re.fullmatch(r"[0-9]{7}", index) and shard == str(int(index) // SHARD_SIZE)
                ):
                    parts = KeyParts(Kind.SUB_TASK, tenant_code(tenant), task_type(type_), TaskCode(code), int(index))
                case _:
                    raise ValueError
            if not _CODE.fullmatch(parts.code):
                raise ValueError
        except ValueError:
            raise InvalidInput(
                "key", f"{self.id[:400]!r} names no task", "give pk and sk as a task entity has them"
            ) from None
        return parts

    @property
    def kind(self) -> Kind:
        """Which shape of task the key names."""
        return self.parts.kind

    @property
    def tenant_code(self) -> TenantCode:
        """The tenant of the task."""
        return self.parts.tenant_code

    @property
    def parent(self) -> "TaskKey":
        """The step function task of a sub-task; a top-level task is its own."""
        parts = self.parts
        return self if parts.index is None else TaskKey.step_function(parts.tenant_code, parts.task_type, parts.code)

    def __str__(self) -> str:
        return self.id


@dataclass(slots=True)  # not frozen, which would make it three times as expensive
class KeyParts:
    """A key taken apart."""

    kind: Kind
    tenant_code: TenantCode
    task_type: TaskType
    code: TaskCode
    """The ULID; of a sub-task its parent's."""
    index: int | None = None
    """The number of a sub-task, from 0."""


class HistoryEntry(NamedTuple):
    """One status change, written together with it."""

    at: datetime
    status: TaskStatus
    run: int
    attempt: int
    reason: str | None = None
    """Why, in words; None where the status says all."""
    by: str | None = None
    """Who: the worker, or the user that created the task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a handler says it is."""

    done: float
    total: float | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """What a handler logged."""

    at: datetime
    level: str
    """The name of the level: INFO, WARNING, …"""
    logger: str
    run: int
    attempt: int
    message: str
    """Bounded; a longer one was cut."""
    fields: Mapping[str, Json]
    """What was given as `extra`; a value that is no JSON is shown by its `repr`."""
    exception: str | None = None
    """The traceback that was logged with it, bounded."""
    dropped: int = 0
    """How many lines of the same attempt came between this one and the one before it, and were dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error as data."""

    type: str
    """The class of the exception, or the kind of the engine's own reason."""
    message: str
    traceback: str | None = None
    """Bounded; None for the engine's own reasons."""
    attempt: int = 0
    will_retry: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequest:
    """Somebody wants the running fan-out to end."""

    at: datetime
    reason: str | None = None
    by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryNumbers:
    """How often a task is tried and how long it waits in between, as its creator wanted it; see `Retry`."""

    max_attempts: int
    initial: float
    multiplier: float
    maximum: float
    jitter: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """What the creator of a task set beside the policy of its type; for all of its runs."""

    retry: RetryNumbers | None = None
    deadline: float | None = None
    """Seconds from the creation, or from a retry, in which the task must end."""
    notify_url: str | None = None
    """Where changes of its status are posted to."""
    ttl: float | None = None
    """Seconds from its end for which the task is kept; None: for ever."""


NO_OPTIONS: Final = TaskOptions()
DEFAULT_PRIORITY: Final = 5
HIGHEST_PRIORITY: Final = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOut:
    """How a step function task is run; fixed when its first attempt starts."""

    chunk_size: int
    """Sub-tasks per chunk, except the last one."""
    chunk_concurrency: int = 1
    """Sub-tasks of one chunk that run at the same time."""
    max_concurrency: int = 40
    """Sub-tasks that run at the same time, over all chunks."""
    tolerated_failure_percentage: float = 0.0
    only_failed: bool = True
    """From the second run on: whether what was COMPLETED in an earlier run stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAttributes:
    """What came out of a task."""

    results: Sequence[Sequence[Json]] | None = None
    """A list per event of a list per handler; None until COMPLETED."""
    result_ref: str | None = None
    """Where the results lie when they are too large for the task's own row."""
    error: Failure | None = None
    """The last error, also while the task waits for its next attempt."""
    sub_task_count: int | None = None
    """Inputs of a fan-out; None for other tasks."""
    sub_task_succeed_count: int = 0
    sub_task_failed_count: int = 0

    @property
    def result(self) -> Json:
        """The bare value where exactly one handler ran for exactly one event, else None."""
        if self.results is not None and len(self.results) == 1 and len(self.results[0]) == 1:
            return self.results[0][0]
        return None

    @property
    def sub_task_running_count(self) -> int:
        """Sub-tasks that have not ended: running, or waiting for their turn; of a cancelled fan-out those cancelled."""
        return (self.sub_task_count or 0) - self.sub_task_succeed_count - self.sub_task_failed_count


@dataclass(frozen=True, slots=True, kw_only=True)
class InvokeContext:
    """Who calls, for the record: kept as `created_by`, `created_ip` and `request_id`."""

    user_id: str | None = None
    source_ip: str | None = None
    request_id: str | None = None
    tenant_code: str | None = None
    """The caller's tenant; when given, tasks of no other tenant can be created."""
    roles: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class TaskEntity(Generic[InputT]):
    """A task as it was stored at one moment. Times are aware UTC."""

    key: TaskKey
    kind: Kind
    code: str
    """The ULID; sub-tasks carry their parent's."""
    task_type: str
    name: str
    tenant_code: str
    status: TaskStatus
    version: int = 0
    """Grows with every write, so equal versions mean equal tasks."""
    input: InputT
    """What the task was created with; None where a fan-out has too much for its row: see `iter_sub_tasks`."""
    input_ref: str | None = None
    """Where the input lies when it is too large for the task's own row."""
    index: int | None = None
    """The number of a sub-task, from 0."""
    attributes: TaskAttributes = field(default_factory=TaskAttributes)
    request_id: str | None = None
    created_at: datetime
    updated_at: datetime
    created_by: str | None = None
    updated_by: str | None = None
    created_ip: str | None = None
    updated_ip: str | None = None
    run: int = 1
    """1 at creation, one more with each explicit retry of the ended task."""
    attempt: int = 0
    """The current or last try within the run, from 1; 0 before the first."""
    fence: int = 0
    """Raised by every claim: whoever writes for the task must show it."""
    claim_id: str | None = None
    lease_until: datetime | None = None
    dispatch: str | None = None
    """Set while the task needs a message and has none."""
    next_attempt_at: datetime | None = None
    started_at: datetime | None = None
    """When the first attempt of the run began."""
    finished_at: datetime | None = None
    deadline_at: datetime | None = None
    """From when on the task is FAILED if it has not ended."""
    ttl: datetime | None = None
    """From when on the ended task counts as absent, a whole second; None: never. A retry clears it."""
    lost: int = 0
    """Attempts of the run whose worker died."""
    priority: int = DEFAULT_PRIORITY
    """0 to 9; those with a higher one go first."""
    options: TaskOptions = NO_OPTIONS
    state: Json = None
    """What the handler saved for its next attempt or slice; None when nothing, or when the task ended well."""
    progress: Progress | None = None
    execution_arn: str | None = None
    fan_out: FanOut | None = None
    cancel_requested: CancelRequest | None = None
    """Of a running fan-out that is to end; it starts no more sub-tasks."""
    history: Sequence[HistoryEntry] = ()
    """Status changes, oldest first, beginning with the creation. It is bounded: see `history_dropped`."""
    history_dropped: int = 0
    """Entries behind the creation that were dropped for newer ones."""

    @property
    def pk(self) -> str:
        """The partition key."""
        return self.key.pk

    @property
    def sk(self) -> str:
        """The sort key."""
        return self.key.sk

    @property
    def id(self) -> str:
        """pk and sk in one string."""
        return self.key.id

    @property
    def is_terminal(self) -> bool:
        """Whether the task has ended."""
        return self.status in TERMINAL

    @property
    def result(self) -> Json:
        """Short for `attributes.result`."""
        return self.attributes.result

    @property
    def error(self) -> Failure | None:
        """Short for `attributes.error`."""
        return self.attributes.error

    @property
    def rate(self) -> float | None:
        """What is done per second since the start: sub-tasks of a fan-out, else units of `progress`.

        Measured up to the last write; None while nothing is done.
        """
        done, until = self._done, self.finished_at or self.updated_at
        if not done or self.started_at is None or until <= self.started_at:
            return None
        return done / (until - self.started_at).total_seconds()

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at the measured rate, in seconds; None where nobody can tell, 0 at the end."""
        if self.is_terminal:
            return 0.0
        total = self.attributes.sub_task_count if self.kind is Kind.SFN_TASK else self.progress and self.progress.total
        if not total or not self.rate:
            return None
        return max(0.0, total - self._done) / self.rate

    @property
    def _done(self) -> float:
        if self.kind is Kind.SFN_TASK:
            return self.attributes.sub_task_succeed_count + self.attributes.sub_task_failed_count
        return self.progress.done if self.progress else 0


def task_entity(**fields: Any) -> TaskEntity[Any]:
    """A TaskEntity of *all* its fields, for whoever makes many: the constructor of a frozen dataclass sets each of the
    thirty by a call, which takes three times as long."""
    entity: TaskEntity[Any] = object.__new__(TaskEntity)
    entity.__dict__.update(fields)
    return entity


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[ItemT]):
    """A part of a list. A page may be short, or empty, though more follows."""

    items: Sequence[ItemT]
    cursor: str | None
    """Where the next page begins; None at the end."""
