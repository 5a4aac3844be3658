"""What requests and answers look like: the JSON border, camelCase as in the stored form of a task."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from taskloom.model import DEFAULT_PRIORITY, HIGHEST_PRIORITY
from taskloom.operations.callbacks import MAX_ERROR
from taskloom.operations.checks import MAX_NAME
from taskloom.operations.webhooks import MAX_ID
from taskloom.policy import MAX_SECONDS, MAX_TTL
from taskloom.webhooks import MAX_NAME as LONGEST_LISTENER
from taskloom.webhooks import MAX_URL

Status = Literal["PENDING", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED"]
TopKind = Literal["TASK", "SFN_TASK"]
KEY_EXAMPLE = "TASK#mbc#cat#01JTZ3Q8XW6V5T4S3R2P1N0M9K"


class Given(BaseModel):
    """A body that callers send: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=False)


class Shown(BaseModel):
    """A body that callers get."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)


class RetryPolicy(Given):
    """How often a task is tried, and how long it waits in between."""

    max_attempts: Annotated[int, Field(ge=1, le=1_000_000)] = 3
    initial: Annotated[float, Field(ge=0, le=MAX_SECONDS, description="Seconds before the second attempt.")] = 1.0
    multiplier: Annotated[float, Field(ge=1, le=MAX_SECONDS)] = 2.0
    maximum: Annotated[float, Field(ge=0, le=MAX_SECONDS, description="The longest delay, in seconds.")] = 300.0
    jitter: bool = True


TaskTypeText = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$", examples=["cat"])]
TenantText = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", examples=["mbc"])]


class NewTaskBody(Given):
    """A single task to be created."""

    tenant_code: Annotated[TenantText | None, Field(description="Default: the caller's tenant.")] = None
    task_type: Annotated[TaskTypeText, Field(description="Which handler it is for.")]
    input: Annotated[Any, Field(description="Any JSON value.", examples=[{"name": "Tama"}])] = None
    name: Annotated[
        str | None, Field(min_length=1, max_length=MAX_NAME, description="For people. Default: the task type.")
    ] = None
    retry: RetryPolicy | None = None
    deadline: Annotated[
        float | None, Field(ge=0.001, le=MAX_SECONDS, description="Seconds from now in which it must end.")
    ] = None
    ttl: Annotated[
        float | None,
        Field(ge=1, le=MAX_TTL, description="Seconds from its end for which it is kept. Default: as its type says."),
    ] = None
    priority: Annotated[int, Field(ge=0, le=HIGHEST_PRIORITY, description="Higher ones go first.")] = DEFAULT_PRIORITY
    notify_url: Annotated[
        str | None,
        Field(
            max_length=MAX_URL,
            description="An http or https address to which each change of its status is posted, signed.",
            json_schema_extra={"format": "uri"},
        ),
    ] = None


class NewFanOutBody(NewTaskBody):
    """A step function task to be created: one sub-task per element of `input`."""

    input: Annotated[list[Any], Field(description="One JSON value per sub-task.", examples=[[{"key": "value1"}]])]


class CancelBody(Given):
    """Why a task is cancelled."""

    reason: Annotated[str | None, Field(max_length=MAX_NAME, examples=["no longer needed"])] = None


class RetryBody(Given):
    """How an ended task is run again."""

    only_failed: Annotated[bool, Field(description="Of a fan-out run only again what did not succeed.")] = True
    reason: Annotated[str | None, Field(max_length=MAX_NAME)] = None


class FailureShown(Shown):
    """An error of an attempt."""

    type: str
    message: str
    attempt: int
    traceback: str | None = None
    will_retry: bool = False


class AttributesShown(Shown):
    """What came out of a task."""

    result: Annotated[Sequence[Sequence[Any]] | None, Field(description="A list per event of a list per handler.")] = (
        None
    )
    result_ref: str | None = None
    error: FailureShown | None = None
    sub_task_count: int | None = None
    sub_task_succeed_count: int = 0
    sub_task_failed_count: int = 0
    sub_task_running_count: int = 0


class ProgressShown(Shown):
    """How far a handler says it is."""

    done: float
    total: float | None = None
    message: str | None = None


class HistoryEntryShown(Shown):
    """One change of status."""

    at: str
    status: Status
    run: int
    attempt: int
    reason: str | None = None
    by: str | None = None


class CancelShown(Shown):
    """Somebody wants a running fan-out to end."""

    at: str
    reason: str | None = None
    by: str | None = None


class TaskShown(Shown):
    """A task as it is stored; what has no value is absent. Times are UTC, ISO 8601."""

    model_config = ConfigDict(extra="allow", alias_generator=to_camel)

    id: Annotated[str, Field(examples=[KEY_EXAMPLE])]
    pk: Annotated[str, Field(examples=["TASK#mbc"])]
    sk: Annotated[str, Field(examples=["cat#01JTZ3Q8XW6V5T4S3R2P1N0M9K"])]
    version: Annotated[int, Field(description="Grows with every change.")]
    code: Annotated[str, Field(examples=["01JTZ3Q8XW6V5T4S3R2P1N0M9K"])]
    type: Annotated[str, Field(description="The task type.", examples=["cat"])]
    name: str
    tenant_code: Annotated[str, Field(examples=["mbc"])]
    status: Status
    input: Any = None
    attributes: AttributesShown | None = None
    progress: ProgressShown | None = None
    created_at: str
    updated_at: str
    started_at: str | None = None
    finished_at: str | None = None
    deadline_at: str | None = None
    ttl: Annotated[int | None, Field(description="When it counts as absent, in seconds since 1970.")] = None
    next_attempt_at: str | None = None
    run: int
    attempt: int
    fence: int
    priority: int = DEFAULT_PRIORITY
    created_by: str | None = None
    created_ip: str | None = None
    request_id: str | None = None
    execution_arn: str | None = None
    cancel_requested: CancelShown | None = None
    history: Sequence[HistoryEntryShown] = ()


class Paged(Shown):
    """A part of a list. A page may be short, or empty, though more follows."""

    cursor: Annotated[str | None, Field(description="Where the next page begins; null at the end.")]


class TaskPage(Paged):
    """A page of tasks."""

    items: Sequence[TaskShown]


class HistoryPage(Paged):
    """A page of a history, oldest entry first."""

    items: Sequence[HistoryEntryShown]
    dropped: Annotated[int, Field(description="Entries behind the creation that were dropped for newer ones.")]


class LogLineShown(Shown):
    """What a handler logged."""

    at: str
    level: str
    logger: str
    run: int
    attempt: int
    message: str
    fields: Mapping[str, Any] | None = None
    exception: str | None = None
    dropped: int = 0


class LogPage(Paged):
    """A page of log lines, oldest first. Its cursor leads on even at the end: to the lines written from then on."""

    items: Sequence[LogLineShown]


class ExplanationShown(Shown):
    """Where a task stands, and why."""

    task: str
    status: Status
    cause: Annotated[str, Field(examples=["turn"])]
    text: Annotated[str, Field(examples=["3 of its tenant and type are before it"])]
    facts: Mapping[str, Any]


class QueueShown(Shown):
    """One tenant's tasks of one type in the queue."""

    tenant_code: str
    kind: Literal["TASK", "SFN_TASK", "SUB_TASK"]
    type: str
    waiting: int
    delayed: int
    in_flight: int
    oldest_age: Annotated[float, Field(description="Seconds.")]
    rate: Annotated[float | None, Field(description="Ended per second, over all tenants; null for one tenant's view.")]
    dead_letters: int
    is_paused: bool


class CapShown(Shown):
    """How many tasks of a type may run at the same time, over all workers; null: no limit."""

    total: int | None
    per_tenant: int | None


class WorkerShown(Shown):
    """A worker that is alive."""

    name: str
    host: str
    pid: int
    version: str
    started_at: str
    seen_at: str
    concurrency: int
    tasks: Sequence[str] | None
    fan_outs: Sequence[str] | None
    running: Annotated[Sequence[str], Field(description="Ids of what it runs, as far as the caller may see them.")]
    caps: Annotated[Mapping[str, CapShown], Field(description="By task type: how many may run at the same time.")]


class PauseShown(Shown):
    """What is held up."""

    scope: Literal["type", "tenant"]
    name: str
    at: str
    reason: str | None = None
    by: str | None = None


class QueuesShown(Paged):
    """The queues, and who works on them."""

    items: Sequence[QueueShown]
    workers: Sequence[WorkerShown]
    pauses: Sequence[PauseShown]


class DeadLetterShown(Shown):
    """A task that could not be handed to a worker."""

    id: int
    at: str
    task: str
    failures: int
    reason: str


class DeadLetterPage(Paged):
    """A page of dead letters."""

    items: Sequence[DeadLetterShown]


class MinuteShown(Shown):
    """What ended within one minute."""

    minute: Annotated[str, Field(description="Its beginning.")]
    kind: Literal["TASK", "SFN_TASK", "SUB_TASK"]
    type: str
    completed: int
    failed: Annotated[int, Field(description="With those that were cancelled.")]


class ThroughputShown(Paged):
    """What ended per minute, oldest first."""

    items: Sequence[MinuteShown]


class ExpiredShown(Shown):
    """How many tasks have expired, and wait to be removed; 100,000 stands for that many or more."""

    count: int


class RepairsShown(Shown):
    """What the reconciler did when it looked last; null when it never did."""

    repairs: Mapping[str, Any] | None


class HoldBody(Given):
    """A task type or a tenant to pause or to resume; exactly one of both."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["taskType"]}, {"required": ["tenantCode"]}]})

    task_type: TaskTypeText | None = None
    tenant_code: TenantText | None = None
    reason: Annotated[str | None, Field(max_length=MAX_NAME)] = None


class PurgeBody(Given):
    """Which waiting tasks are to be cancelled: of a type, of a tenant, or a tenant's of a type."""

    task_type: TaskTypeText | None = None
    tenant_code: TenantText | None = None
    reason: Annotated[str | None, Field(max_length=MAX_NAME)] = None


class RedriveBody(Given):
    """Which dead letters are to be run again: one, or all that the caller may see."""

    id: Annotated[int | None, Field(ge=1, le=2**63 - 1)] = None
    tenant_code: TenantText | None = None
    per_second: Annotated[float | None, Field(ge=0.001, le=1e6)] = None


class Counted(Shown):
    """How many."""

    count: int


class Resumed(Shown):
    """Whether there was a pause."""

    was_paused: bool


class CallbackBody(Given):
    """The answer to a waiting task: an output, or the error with which its waiting fails; exactly one of both."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["output"]}, {"required": ["error"]}]})

    output: Annotated[Any, Field(description="Any JSON value.", examples=[{"approved": True}])] = None
    error: Annotated[str | None, Field(min_length=1, max_length=MAX_ERROR, description="Why the waiting fails.")] = None


class CellShown(Shown):
    """Neighbouring sub-tasks, and how many of them stand how."""

    first: int
    end: Annotated[int, Field(description="The index behind the last one.")]
    counts: Annotated[Mapping[Status, int], Field(description="By status; without those that none has.")]


class MapShown(Paged):
    """How the sub-tasks of a fan-out stand, in cells."""

    items: Sequence[CellShown]


class FailureGroupShown(Shown):
    """Failed sub-tasks whose errors say the same, but for the numbers in them."""

    type: str
    message: Annotated[str, Field(description="Of the first one.")]
    count: int
    examples: Annotated[Sequence[int], Field(description="The first indexes.")]


class FailuresShown(Paged):
    """What went wrong in a fan-out, the largest group first."""

    items: Sequence[FailureGroupShown]
    seen: Annotated[int, Field(description="How many failed sub-tasks were looked at.")]
    more: Annotated[bool, Field(description="Whether there are others.")]


class ListenerShown(Shown):
    """Who is told of status changes."""

    name: str
    action: str
    until: Annotated[str, Field(description="From then on nothing is kept for it, unless it is followed again.")]
    waiting: int
    given_up: int
    oldest_at: str | None


class ListenersShown(Paged):
    """Webhooks and subscriptions."""

    items: Sequence[ListenerShown]


class DeliveryShown(Shown):
    """A status change as it is kept for one listener."""

    model_config = ConfigDict(extra="allow", alias_generator=to_camel)

    number: int
    listener: str
    action: str
    task: str
    type: str
    at: str
    status: Status
    run: int
    attempt: int
    version: int
    url: str | None
    failures: int
    reason: str | None
    given_up_at: str | None


class DeliveryPage(Paged):
    """A page of deliveries, oldest first."""

    items: Sequence[DeliveryShown]


ListenerName = Annotated[str, Field(min_length=1, max_length=LONGEST_LISTENER)]


class ReplayBody(Given):
    """Which deliveries are to be tried again: one, those of a listener, or all that were given up."""

    number: Annotated[int | None, Field(ge=1, le=MAX_ID)] = None
    listener: ListenerName | None = None


class ForgetBody(Given):
    """Which listener is to be dropped."""

    listener: ListenerName


class Forgotten(Shown):
    """Whether it was there."""

    was_there: bool


class HealthShown(Shown):
    """Whether the server works."""

    status: Literal["ok", "unavailable"]


class FieldProblem(Shown):
    """What is wrong with one value."""

    field: Annotated[str, Field(examples=["input.items[3].price"])]
    problem: str
    remedy: str | None = None


class Problem(Shown):
    """Problem details (RFC 9457)."""

    type: Annotated[str, Field(examples=["urn:taskloom:problem:invalid-input"])]
    title: str
    status: int
    detail: str
    errors: Sequence[FieldProblem] | None = None
    task_status: Annotated[Status | None, Field(description="Of a task that does not stand so.")] = None
    expired_at: Annotated[str | None, Field(description="Of a task that is gone for good: since when.")] = None
    key: Annotated[str | None, Field(description="The idempotency key.")] = None
    first: Annotated[str | None, Field(description="The fingerprint of what it was used with first.")] = None
    second: str | None = None
