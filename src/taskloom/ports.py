"""What the core asks of the outside. The docstrings are the contracts; `tests/contract` holds every backend to them.

All methods may be called from any event loop and any thread. Every method may raise StoreError; with `retryable` the
same call may be made again. A call that raises StoreError may nevertheless have been carried out: its answer was lost.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from taskloom.lifecycle import Change, Refused, Standing, Written
from taskloom.model import Kind, LogLine, TaskAttributes, TaskCode, TaskEntity, TaskKey, TaskStatus, TenantCode
from taskloom.values import EncodedJson, Json
from taskloom.webhooks import ALARM_ACTION, ALL_CHANGES, Filter


class Clock(Protocol):
    """Time: the only source of it for the core."""

    def now(self) -> datetime:
        """The instant, aware UTC, whole milliseconds."""

    async def wait(self, event: asyncio.Event, until: datetime | None) -> bool:
        """Wait until *event* is set or the time is *until* (None: never); whether the event is set."""


class Ids(Protocol):
    """Identifiers: the only source of randomness for the core's names."""

    def code(self, now: datetime) -> str:
        """A new ULID of the instant *now*; greater than every one given before by this object."""

    def token(self) -> str:
        """A new random value: at least 80 bits, 1 to 64 letters and digits."""


@dataclass(slots=True, kw_only=True)  # not frozen, which would make it three times as expensive
class NewTaskRow:
    """A top-level task to be stored: the entity, and its input as text (or the reference to it)."""

    entity: TaskEntity
    input: EncodedJson | None
    idempotency: "Idempotency | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """Under which key, for how long, a creation is known by what it created."""

    key: str
    fingerprint: str
    """Of the content."""
    expires_at: datetime
    """From then on the key counts as absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What an idempotency key stands for."""

    task: TaskKey
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuery:
    """Which top-level tasks of one tenant to list."""

    tenant_code: TenantCode
    kind: Kind
    status: TaskStatus | None = None
    task_type: str | None = None
    newest_first: bool = True
    after: TaskCode | None = None
    """Go on behind this code."""
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRow:
    """The end of one chunk in one run: written when every sub-task of its range is terminal."""

    parent: TaskKey
    run: int
    chunk: int
    succeeded: int
    failed: int


class StatusRange(NamedTuple):
    """Neighbouring sub-tasks of one fan-out that are stored and stand alike."""

    first: int
    end: int
    """The index behind the last one."""
    status: TaskStatus


class TaskStore(Protocol):
    """Where tasks, sub-tasks and chunk rows are kept.

    An ended task whose `ttl` has come counts as absent at once, for every method, guards and idempotency keys included,
    whether it is removed already or not. Its sub-tasks and chunk rows have no `ttl`: whoever asks for them asks for
    their parent first.

    Sub-tasks come back without what only their parent knows: `input`, `name`, `request_id`, `created_by`, `created_ip`.
    """

    async def create(self, rows: Sequence[NewTaskRow]) -> Sequence[Known | None]:
        """Store new top-level tasks durably; each that has `dispatch` will come through the change stream (rule 1).

        Atomic per task: task, stream record and idempotency key are one write. Where the tenant has such a key already,
        and it has not expired, nothing is stored: the answer for this row is what the key stands for, else None. Keys
        of tasks must be new. When it raises, some may be stored.
        """

    async def known(self, tenant: TenantCode, key: str) -> Known | None:
        """What this idempotency key of the tenant stands for; None when there is none, or it has expired."""

    async def update(self, change: Change) -> Written | Refused:
        """Carry out *change* if its guard holds; one durable, atomic write, history included (rules 2 and 5).

        `version` grows by one. A change that sets `dispatch` on a top-level task also puts it on the change stream, in
        the same write. A guard `absent` creates the sub-task. Refused says how the task stands, read no earlier than
        the refusal.
        """

    async def update_many(self, changes: Sequence[Change]) -> Sequence[Written | Refused]:
        """Like `update` for each of *changes*, in their order: one is durable before, or together with, its successor.

        Not atomic together.
        """

    async def get(self, key: TaskKey) -> TaskEntity | None:
        """The task or stored sub-task *key*; sees every write that was answered before the call."""

    async def expired_at(self, key: TaskKey) -> datetime | None:
        """The `ttl` of the top-level task *key*, if it has come; None also when nobody can tell any more."""

    async def list_tasks(self, query: TaskQuery) -> tuple[Sequence[TaskEntity], TaskCode | None]:
        """At most `limit` matching tasks in the order of their codes, and where to go on (None: there are no more).

        May be fewer, or none, though more follow.
        """

    async def list_overdue(self, limit: int) -> Sequence[TaskEntity]:
        """At most *limit* open top-level tasks whose `deadline_at` has come, earliest first.

        Without those that have `cancel_requested`: their execution will end them.
        """

    async def list_stranded(self, limit: int) -> Sequence[TaskEntity]:
        """At most *limit* open top-level tasks that nothing will bring back: due, without a live claim, and without a
        record on the change stream or a message in the queue (of fan-outs also those of their executions). Exact, or
        as well as the backend can tell.
        """

    async def next_deadline(self) -> datetime | None:
        """From when on `list_overdue` would return something; None while there is nothing."""

    async def list_sub_tasks(self, parent: TaskKey, indexes: range) -> Sequence[TaskEntity]:
        """The stored sub-tasks of *parent* with these indexes (consecutive), in index order."""

    async def list_sub_task_statuses(self, parent: TaskKey, indexes: range) -> Sequence[StatusRange]:
        """How the stored sub-tasks of *parent* with these indexes (consecutive) stand: as few ranges as tell it, in
        index order. What is not stored is in no range.

        Costs as much as are stored there, but holds none of them in memory. Two that change meanwhile may be seen one
        before and one behind its change.
        """

    async def put_chunk(self, row: ChunkRow) -> bool:
        """Store the end of a chunk; whether it was the first time (a repeat changes nothing). Durable."""

    async def list_chunks(self, parent: TaskKey, run: int) -> Sequence[ChunkRow]:
        """All chunk rows of this run of the fan-out, in chunk order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRecord:
    """A committed write after which a task needs a message."""

    sequence: int
    event_id: str
    event_name: str
    """INSERT or MODIFY."""
    image: TaskEntity
    """The task, no older than that write."""
    failures: int
    """How often the record was returned with `StreamFailure`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMessage:
    """Tells a worker that a task needs it."""

    event_id: str
    key: TaskKey
    kind: Kind
    task_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFailure:
    """A record that could not be dispatched."""

    sequence: int
    failures: int
    """How often it had failed before, as `StreamRecord` said: so that a repeat does not count twice."""
    reason: str
    retry_at: datetime | None
    """When to take it again; None puts it with the dead letters."""


class ChangeStream(Protocol):
    """The change stream of the task table, for backends in which a worker pulls it (on AWS Lambda is pushed).

    Only records of top-level tasks that carry `dispatch` come through.
    """

    async def take(self, limit: int, *, again_at: datetime) -> Sequence[StreamRecord]:
        """At most *limit* records in the order of their writes; nobody else gets them before *again_at*.

        A record whose task has lost its `dispatch` meanwhile needs no message any more: it is dropped here.
        """

    async def forward(self, limit: int) -> int:
        """Send the message of each of the next *limit* records, and remove them: one write; how many they were.

        For applications that have no say on the records: the same as `take` and `settle` with a message for each.
        """

    async def settle(self, done: Sequence[tuple[int, TaskMessage | None]], failures: Sequence[StreamFailure]) -> None:
        """Remove the records *done*, send the message beside each, keep *failures* for later: one write (rule 1).

        A record that somebody else has settled since sends nothing, so each record becomes at most one message. A
        repeat of the call changes nothing: each failure counts once.
        """

    async def next_due(self) -> datetime | None:
        """From when on `take` would return something; None while there is nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Proves a delivery; worth nothing once the message was delivered again."""

    id: int | str
    count: int


class MessageKind(StrEnum):
    """What a message asks for."""

    TASK = "task"
    """Run a task, or start a fan-out."""
    CHUNK = "chunk"
    """A step of an execution: run a chunk."""
    COLLECT = "collect"
    """A step of an execution: which chunks have something left?"""
    FINALIZE = "finalize"
    """A step of an execution: end the fan-out."""


@dataclass(slots=True, kw_only=True)  # not frozen, which would make it three times as expensive
class Delivery:
    """A message in the hands of one worker until its visibility ends."""

    receipt: Receipt
    kind: MessageKind
    message_id: str
    event_id: str
    key: TaskKey
    """The task; of a step the step function task."""
    task_kind: Kind
    task_type: str
    run: int = 1
    chunk: int | None = None
    standing: Standing | None = None
    """How the task stood when the message was received; None where the backend does not know, or it is gone."""
    received: int = 1
    """Which delivery of this message it is, from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Which messages a worker takes."""

    tasks: frozenset[str] | None
    """Task types of single tasks; None: all."""
    fan_outs: frozenset[str] | None
    """Task types of step function tasks; None: all."""
    caps: Mapping[str, "Cap"] = field(default_factory=dict)
    """Of single tasks, by their type: how many of them may be in the hands of workers at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """How many tasks of a type may run at the same time, over all workers; None: as many as there are workers for."""

    total: int | None = None
    per_tenant: int | None = None


class Queue(Protocol):
    """The task queue: a message is a hint that may come twice, late or out of order (rule 4)."""

    async def receive(self, served: Served, limit: int, *, visible_at: datetime) -> Sequence[Delivery]:
        """At most *limit* due messages; nobody else gets them before *visible_at*.

        Those of tasks with a higher priority go first. Within one priority tenants and types take turns; those of one
        tenant and type come oldest first. Nothing that is paused comes, and of a type with a cap no more than it leaves
        (exactly, or as well as the backend can).
        """

    async def delete(self, receipts: Sequence[Receipt]) -> None:
        """These messages are done with. Does nothing to those that were delivered again."""

    async def release(self, receipt: Receipt, at: datetime) -> None:
        """Deliver the message again, not before *at*. Does nothing when it was delivered again."""

    async def extend(self, receipts: Sequence[Receipt], visible_at: datetime) -> None:
        """Keep these deliveries until *visible_at*. Does nothing to those that were released or delivered again."""

    async def next_due(self, served: Served) -> datetime | None:
        """From when on `receive` would return something; None while there is nothing."""


class PauseScope(StrEnum):
    """What a pause holds up."""

    TASK_TYPE = "type"
    TENANT = "tenant"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Nothing of this type or tenant is taken from the queue; what runs already goes on."""

    scope: PauseScope
    name: str
    at: datetime
    reason: str | None = None
    by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneFigures:
    """Messages of one tenant and task type in the queue."""

    tenant_code: str
    kind: Kind
    task_type: str
    waiting: int
    """Due, in nobody's hands."""
    delayed: int
    """Not due yet."""
    in_flight: int
    """In the hands of workers."""
    oldest_at: datetime | None
    """Since when the oldest of those that wait has been due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """What ended within one minute."""

    minute: datetime
    """Its beginning."""
    kind: Kind
    task_type: str
    completed: int
    failed: int
    """With those that were cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the message of a task stands in the queue."""

    visible_at: datetime
    """When it is due; in the hands of a worker: when it would come again."""
    is_held: bool
    ahead: int
    """Due messages of the same tenant, type and priority that come before it, as far as they were counted."""
    is_exact: bool
    """Whether all of them were counted."""
    lanes: int
    """How many lanes (tenants, types) of its priority or a higher one have something due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    """A worker, as it describes itself."""

    name: str
    host: str
    pid: int
    version: str
    """Of Taskloom."""
    started_at: datetime
    seen_at: datetime
    """When it last said that it lives."""
    concurrency: int
    tasks: Sequence[str] | None
    """Task types of single tasks that it takes; None: all."""
    fan_outs: Sequence[str] | None
    running: Sequence[str]
    """Ids of what it ran when it was last seen; at most 100."""
    caps: Mapping[str, Cap] = field(default_factory=dict)
    """Of single tasks, by their type: how many it lets run at the same time, over all workers."""

    def serves(self, kind: Kind, task_type: str) -> bool:
        """Whether it takes tasks of this kind and type."""
        types = self.tasks if kind is Kind.TASK else self.fan_outs
        return types is None or task_type in types


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A stream record that could not be dispatched, with the reason."""

    id: int
    at: datetime
    key: TaskKey
    failures: int
    reason: str


class QueueAdmin(Protocol):
    """What operators see of the queue, and do with it."""

    async def pause(self, pause: Pause) -> None:
        """Hold up a type or a tenant, until `resume`; durable. A pause that is there already is replaced."""

    async def resume(self, scope: PauseScope, name: str) -> bool:
        """End the pause; whether there was one."""

    async def pauses(self) -> Sequence[Pause]:
        """All pauses, oldest first."""

    async def lanes(self) -> Sequence[LaneFigures]:
        """What is in the queue or has to come there, by tenant, kind and task type; costs as much as there is.

        The messages of tasks that have ended meanwhile do not count, though a worker has still to drop them.
        """

    async def throughput(self, since: datetime) -> Sequence[Throughput]:
        """What ended in the minutes since then, oldest first: sub-tasks, single tasks and fan-outs, each by type."""

    async def place(self, key: TaskKey, limit: int) -> Place | None:
        """Where the message of the top-level task *key* stands; None when it has none. Counts to *limit* at most."""

    async def waiting(
        self, tenant_code: str | None, task_type: str | None, after: TaskKey | None, limit: int
    ) -> Sequence[TaskKey]:
        """PENDING top-level tasks of a tenant, a type, or both, in some order, behind *after*; there may be more unless
        there are none."""

    async def dead_letters(self, tenant_code: str | None, after: int, limit: int) -> Sequence[DeadLetter]:
        """Dead letters in the order of their ids, behind *after*."""

    async def remove_dead_letters(self, ids: Sequence[int]) -> None:
        """Forget these dead letters."""

    async def take_duty(self, name: str, now: datetime, until: datetime) -> bool:
        """Whether the caller is the one to do what all workers need done; nobody else is before *until*."""

    async def report_duty(self, name: str, facts: Mapping[str, Json]) -> None:
        """What came of it; by whoever took it."""

    async def duty(self, name: str) -> Mapping[str, Json] | None:
        """What was reported last; None when nothing was."""

    async def beat(self, worker: WorkerFacts) -> None:
        """The worker lives. Best effort."""

    async def leave(self, name: str) -> None:
        """The worker ends."""

    async def workers(self, seen_since: datetime) -> Sequence[WorkerFacts]:
        """Those that said since then that they live."""


class ExecutionStatus(StrEnum):
    """Where an execution stands, in the words of Step Functions."""

    PENDING = "PENDING"
    """Not started yet: the step function task waits for a worker."""
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    ABORTED = "ABORTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionInput:
    """What an execution is started with: names and numbers only, however large the fan-out (rule 6)."""

    key: TaskKey
    run: int
    chunks: int
    """Chunk numbers go from 0 to this, exclusive; at most 10,000."""
    at_once: int
    """Chunks that may run at the same time."""
    todo: Sequence[int] | None = None
    """The chunks to run, in order; None: all. What `describe` gives back need not tell it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One execution of the state machine."""

    arn: str
    name: str
    status: ExecutionStatus
    input: ExecutionInput | None
    """None while PENDING."""
    started_at: datetime | None
    stopped_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """What a step of an execution came to."""

    again_at: datetime | None = None
    """Of a chunk with something left: when to look at it again; None: it is done."""
    left: Sequence[int] = ()
    """Of a collect: the chunks with something left."""
    stop: bool = False
    """Of a chunk: the fan-out is to end, so no other chunk is to be started."""


class StateMachine(Protocol):
    """The state machine that runs fan-outs: Map over chunks → Collect → Wait → Map again … → Finalize."""

    def arn(self, name: str) -> str:
        """The ARN that an execution of this name has, or will have."""

    async def start(self, name: str, input: ExecutionInput) -> Execution:
        """Start the execution *name*, durably; if there is one of that name already, it comes back unchanged."""

    async def describe(self, arn: str) -> Execution | None:
        """The execution; PENDING when a step function task names this ARN but has not started it; else None."""

    async def report(self, delivery: Delivery, outcome: StepOutcome) -> None:
        """The step *delivery* is done: settle its message and go on to the next step, in one durable write.

        For backends whose steps a worker pulls (on AWS it is what the Lambda function returns). Does nothing when the
        message was delivered again.
        """

    async def revive(self, key: TaskKey, run: int) -> bool:
        """Have the execution of the fan-out *key* go on with a collect, if it runs but nothing of it is on its way.

        Whether that was so.
        """

    async def hurry(self, key: TaskKey, run: int) -> None:
        """The fan-out *key* is to end: what its execution of this run waits for is done now. Best effort."""

    async def resume(self, task_token: str, output: Json) -> None:
        """Hand *output* to the step that waits for *task_token*. Raises: TaskTokenNotFound."""


class ItemWriter(Protocol):
    """Takes the items of one fan-out, in order, while they are produced."""

    async def add(self, items: Sequence[EncodedJson]) -> None:
        """Store the next items."""

    async def close(self) -> str:
        """All were given: the payload reference under which they are found."""

    async def discard(self) -> None:
        """Remove what was stored: nothing will ever refer to it."""


class PayloadStore(Protocol):
    """Where inputs and results lie that are too large for the row of their task."""

    @property
    def inline_limit(self) -> int:
        """Up to how many bytes of UTF-8 a value belongs into the row itself."""

    async def put(self, name: str, text: EncodedJson) -> str:
        """Store *text*; the reference to it. The same name replaces: put the fence into it."""

    async def get(self, reference: str) -> EncodedJson:
        """What was stored. Raises: StoreCorrupt when it is gone."""

    async def discard(self, reference: str) -> None:
        """Remove what lies under *reference*, if anything does: nothing will ever refer to it."""

    def items(self, name: str) -> ItemWriter:
        """A writer for the items of a fan-out."""

    async def read_items(self, reference: str, indexes: range) -> Sequence[EncodedJson]:
        """The items with these indexes (consecutive); costs no more for a large list than for a small one."""


class LogPosition(NamedTuple):
    """Where a log line stands among those of its task; they are in this order."""

    run: int
    fence: int
    """Of the claim, so that lines of two attempts never mix."""
    number: int
    """Within the attempt, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogBatch:
    """Neighbouring log lines of one attempt."""

    key: TaskKey
    run: int
    fence: int
    first: int
    """The number of the first of *lines*."""
    lines: Sequence[LogLine]
    """At least one, at most 1,000 and 256 KB; each with the same run and attempt."""
    dropped: int
    """Of the attempt all lines with a lower number are dropped; at most `first`."""


class TaskLogs(Protocol):
    """Where the log lines of tasks and sub-tasks are kept. Nothing of it is ever listed or streamed as a task."""

    async def append(self, batches: Sequence[LogBatch]) -> None:
        """Keep the lines of *batches*, and remove those that are dropped.

        Idempotent: a line that is there already stays as it is; one that was dropped does not come back, in whatever
        order the batches of an attempt arrive. Whether the task is still there, and who holds it, does not matter.
        Not atomic: when it raises, some may be kept. A power cut may take what was written last.
        """

    async def read(self, key: TaskKey, after: LogPosition | None, limit: int) -> Sequence[tuple[LogPosition, LogLine]]:
        """At most *limit* lines of the task or sub-task *key* behind *after* (None: from the first one), in order.

        May be fewer though more follow; nothing comes back only where there are no more. Sees every `append` that was
        answered before the call. Lines of a sub-task are not those of its parent.
        """


class StepKind(StrEnum):
    """What a handler did once and for all."""

    STEP = "step"
    """It called a function."""
    SLEEP = "sleep"
    CALLBACK = "callback"
    """It asked for a token, and may wait for the answer."""


class Answer(StrEnum):
    """What came of a callback."""

    RESUMED = "resumed"
    FAILED = "failed"
    TIMED_OUT = "timed out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is kept of a step, a sleep or a callback of a task or sub-task."""

    key: TaskKey
    kind: StepKind
    name: str
    """Of the kind's own; at most 128 characters."""
    version: int = 1
    """1 when it is kept first, one more with each change."""
    write_id: str
    """Random, new with each write: finding one's own means that it happened although its answer was lost."""
    run: int
    """Of the task, when it was written by its handler."""
    at: datetime
    """When it was written."""
    until: datetime | None = None
    """Of a sleep: when it is over; of a callback: from when on an answer is too late, once that is known."""
    token: str | None = None
    """Of a callback: by which it is answered."""
    answer: Answer | None = None
    """Of a callback: what came of it; None: nothing yet."""
    result: EncodedJson | None = None
    """Of a step or an answer; also the text of its error."""
    result_ref: str | None = None
    """Where that lies when it is too large for the row."""


class Steps(Protocol):
    """Where is kept what handlers did once and for all. Nothing of it is ever listed or streamed as a task."""

    async def get(self, key: TaskKey, kind: StepKind, name: str) -> Step | None:
        """The step *name* of the task or sub-task *key*; sees every write that was answered before the call."""

    async def find(self, token: str) -> Step | None:
        """The callback with this token, whoever's it is; sees every write that was answered before the call."""

    async def put(self, step: Step, change: Change, *, chunk: int | None = None) -> Written | Refused | Step:
        """Keep *step* and carry out *change* on its task: one durable, atomic write, both or neither.

        Only over the version before: none for version 1; what stands there otherwise comes back, and nothing was
        changed (None of it was there: a Step cannot be changed before it is kept). Refused: the guard of *change* did
        not hold, for instance because the claim was lost (rule 2); a task that is gone refuses, too.
        A new token replaces the one before. *chunk*: of the fan-out of a sub-task, this chunk has something to do now:
        its execution looks at it at once, or as soon as the backend can; if it runs at present, again afterwards.
        """


class Retention(Protocol):
    """Removes what nobody needs any more. Every call does a bounded amount of work; all of them may be repeated, by
    several workers at the same time, and one that was cut short is gone on with by the next one.
    """

    async def remove_expired(self, limit: int) -> int:
        """Remove about *limit* rows of tasks whose `ttl` has come, those that expired first; how many rows; 0 when
        nothing is left.

        With a task everything goes that was kept for it: sub-tasks, chunk rows, payloads, log lines, steps, executions,
        dead letters. The row of the task goes last, so that what is left of a removal that was cut short is found
        again; a task that has lost something stays absent even if the clock goes back.
        """

    async def expired(self, limit: int) -> int:
        """How many tasks have expired and are not removed yet; counts to *limit* at most."""

    async def remove_orphans(self, before: datetime, after: str, limit: int) -> str | None:
        """Of the *limit* payloads behind the reference *after*, in some order, remove those that were written before
        *before* and that no task, sub-task or step names; the reference to go on behind, None at the end.
        """


class Signals(Protocol):
    """Wake-ups. A signal may be lost, late or needless: whoever waits for one also looks by itself now and then."""

    def on_work(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback*, from any thread, whenever there may be new work; returns what ends it."""

    def on_any(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback*, from any thread, whenever there may be work, or any task may have ended; returns what ends
        it."""

    def on_change(self, code: str, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback*, from any thread, whenever the task *code* may have ended; returns what ends it."""


NOTIFY_URL: Final = "notify_url"
"""The listener of tasks that were created with an address of their own. It is followed when the first one is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Somebody who is told of status changes, under a name of its own: 1 to 128 of A–Z a–z 0–9 . _ - ~"""

    name: str
    filter: Filter = ALL_CHANGES


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One committed status change, or one alarm, as it is kept for one listener until that was told."""

    number: int
    """Of this notice; grows."""
    taken: int
    """How often it was taken, so that whoever took it before cannot say what became of it since."""
    listener: str
    action: str
    key: TaskKey
    task_type: str
    at: datetime
    status: TaskStatus
    run: int
    attempt: int
    version: int
    """Of the task after the change; with the key it names the change."""
    attributes: TaskAttributes
    """As they were after the change; a result that lies in the payload store is its reference."""
    url: str | None
    """The task's own address."""
    failures: int
    """How often delivering it failed."""
    reason: str | None
    """Of the last failure."""
    given_up_at: datetime | None

    @property
    def event_id(self) -> str:
        """The same for each delivery of this change to whomever, and for no other change."""
        return f"{self.key.id}#{self.version}" + ("#alarm" if self.action == ALARM_ACTION else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeFailure:
    """What could not be delivered."""

    notice: Notice
    reason: str | None
    retry_at: datetime | None
    """When to try again; None: never, unless somebody replays it."""
    counts: bool = True
    """Whether it was tried at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerFigures:
    """How a listener stands."""

    name: str
    action: str
    until: datetime
    """From then on nothing is kept for it, and what waits is removed, unless it is followed again."""
    waiting: int
    given_up: int
    oldest_at: datetime | None
    """When the oldest change that waits was made."""


class Notifier(Protocol):
    """Keeps status changes for whoever listens, until they were told.

    Every change of a top-level task's status that a `TaskStore` of this backend writes while a listener is followed and
    asks for it makes one notice for that listener, in the same write: neither without the other. The creation is such a
    change, and so is a new run. What writes a status that the task has already makes none. Sub-tasks make notices for
    those that ask for them: from their first claim on, for before it they are not stored. The action "sfn-alarm" makes
    one notice for each run that ends FAILED.
    While nobody listens nothing more is written than without a notifier.
    """

    def announce(self, listener: Listener, until: datetime) -> None:
        """`follow`, without waiting: it holds from this backend's next write on, that one included."""

    async def follow(self, listener: Listener, until: datetime) -> None:
        """Keep notices for *listener*, until *until*; durable. The same name again replaces filter and time."""

    async def tidy(self) -> None:
        """Remove a portion of what nobody will ever take: of listeners whose time is over, and what was given up
        30 days ago or longer."""

    async def forget(self, name: str) -> bool:
        """Keep nothing for this listener any more, and remove what waits for it; whether there was one."""

    async def take(self, name: str, limit: int, *, again_at: datetime) -> Sequence[Notice]:
        """At most *limit* due notices of a listener, the oldest first; nobody else gets them before *again_at*."""

    async def settle(self, done: Sequence[Notice], failures: Sequence[NoticeFailure]) -> None:
        """Remove what was delivered, keep *failures* for later, or as given up. Does nothing to what was taken again,
        but what was delivered goes all the same."""

    async def next_due(self, name: str) -> datetime | None:
        """From when on `take` would return something; None while there is nothing."""

    async def listeners(self) -> Sequence[ListenerFigures]:
        """All of them, by name, with those whose time is over while something of theirs is left."""

    async def notices(self, name: str | None, *, given_up: bool, after: int, limit: int) -> Sequence[Notice]:
        """Notices of a listener (None: of all) behind the number *after*, in order; those given up, or all."""

    async def replay(self, name: str | None, number: int | None) -> int:
        """Have what was given up delivered again: one, those of a listener, or all; how many.

        Their tries begin anew.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """All ports of one place where tasks live."""

    name: str
    """As in `Settings.backend`; what it does, and how well, stands in `capabilities`."""
    clock: Clock
    ids: Ids
    store: TaskStore
    stream: ChangeStream
    queue: Queue
    machine: StateMachine
    payloads: PayloadStore
    logs: TaskLogs
    steps: Steps
    retention: Retention
    signals: Signals
    admin: QueueAdmin
    notifier: Notifier
    stream_arn: str
    """ARN of the change stream, as it stands in the records."""
    queue_arn: str
    """ARN of the task queue, as it stands in the records."""
    close: Callable[[], None]
    """Give back files, threads and connections; the next use opens them again."""
