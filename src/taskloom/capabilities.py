"""What each backend does, and how well: the table of the design's rule 8.

The contract suites read it, the documentation shows it, and what a backend refuses is refused by `require` before
anything runs. Nothing is done half without a line here that says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from taskloom.errors import WiringError


class Level(StrEnum):
    """How well a backend does something."""

    EXACT = "exact"
    """As documented, always."""
    BEST_EFFORT = "best effort"
    """As well as the services below allow; the line in the table says what may differ."""
    REFUSED = "refused"
    """Not at all: who asks for it gets an error before anything runs; what would tell of it says that it is unknown."""


class Feature(StrEnum):
    """What an application or an operator may ask for; the value is its name in the documentation."""

    EXPLAIN = "`explain`: where a task stands, and why"
    EXPLAIN_POSITION = "`explain`: its position in the queue, and its estimated start"
    LOGS = "logs per task"
    FOLLOW_LOGS = "following the logs of a running task"
    QUEUE_DEPTHS = "depth, in flight, delayed, age of the oldest"
    THROUGHPUT = "what ended per minute"
    WORKERS = "workers alive, and what they run"
    PAUSE = "pause and resume"
    PURGE = "purge"
    DEAD_LETTERS = "dead letters: list, show, redrive"
    PRIORITY = "`priority`"
    FAIRNESS = "tenants take turns"
    ORDER = "within a tenant and type the oldest starts first"
    FORESIGHT = "a worker knows when the next message is due"
    MAX_CONCURRENCY = "`max_concurrency` of a task type"
    MAX_CONCURRENCY_PER_TENANT = "`max_concurrency_per_tenant`"
    FAN_OUT_CONCURRENCY = "`max_concurrency` of a fan-out"
    NOTIFICATIONS = "a notification of every committed status change"
    ALARMS = "one alarm per failed task"
    SUBSCRIBE = "`module.subscribe`: a callback in a process"
    WEBHOOKS = "webhooks"
    RECONCILER = "the reconciler"
    CHECKPOINTS = "`checkpoint`, `Continue`, `resumable`"
    STEPS = "`step`: once per task"
    SLEEP = "`sleep`: holds no worker"
    CALLBACKS = "`callback` and `wait_for`"
    RETENTION = "`ttl`: what has expired counts as absent"
    RETENTION_SPACE = "`ttl`: the space is given back"
    DOCTOR = "`taskloom doctor`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """What one backend makes of one feature."""

    level: Level
    why: str
    """One line: what may differ, or how it is done; of what is refused, what to use instead."""


def _exact(why: str) -> Capability:
    return Capability(level=Level.EXACT, why=why)


def _best_effort(why: str) -> Capability:
    return Capability(level=Level.BEST_EFFORT, why=why)


def _refused(why: str) -> Capability:
    return Capability(level=Level.REFUSED, why=why)


_EMBEDDED: Final = {
    Feature.EXPLAIN: _exact("read from the file"),
    Feature.EXPLAIN_POSITION: _exact("counted up to 10,000 others, then “or more”"),
    Feature.LOGS: _exact("rows of the file"),
    Feature.FOLLOW_LOGS: _exact("lines are there within a second"),
    Feature.QUEUE_DEPTHS: _exact("counted"),
    Feature.THROUGHPUT: _exact("counted with each end"),
    Feature.WORKERS: _exact("each says every ten seconds that it lives"),
    Feature.PAUSE: _exact("from the next look into the queue on"),
    Feature.PURGE: _exact("each task in a write of its own"),
    Feature.DEAD_LETTERS: _exact("rows of the file"),
    Feature.PRIORITY: _exact("higher ones start first"),
    Feature.FAIRNESS: _exact("round after round of all tenants"),
    Feature.ORDER: _exact("by the time at which they were due"),
    Feature.FORESIGHT: _exact("so it sleeps until then"),
    Feature.MAX_CONCURRENCY: _exact("counted in the write that takes the message"),
    Feature.MAX_CONCURRENCY_PER_TENANT: _exact("counted in the write that takes the message"),
    Feature.FAN_OUT_CONCURRENCY: _exact("chunks at a time, times `chunk_concurrency`"),
    Feature.NOTIFICATIONS: _exact("at least once, with a stable id"),
    Feature.ALARMS: _exact("at least once, with a stable id"),
    Feature.SUBSCRIBE: _exact("at least once per subscription"),
    Feature.WEBHOOKS: _exact("at least once, retried, replayable"),
    Feature.RECONCILER: _exact("a worker, every minute"),
    Feature.CHECKPOINTS: _exact("under the fence of the claim"),
    Feature.STEPS: _exact("its result is recorded once"),
    Feature.SLEEP: _exact("the message comes when it is over"),
    Feature.CALLBACKS: _exact("tokens are single-use"),
    Feature.RETENTION: _exact("in every read and write"),
    Feature.RETENTION_SPACE: _exact("in small batches, by a worker"),
    Feature.DOCTOR: _exact("looks at the file, its disk and its workers"),
}
_AWS: Final = {
    Feature.EXPLAIN: _exact("read from the table; what it says of the queue is as good as the lines below"),
    Feature.EXPLAIN_POSITION: _refused("SQS tells no order of messages: `explain` says that the position is unknown"),
    Feature.LOGS: _exact("rows of the table"),
    Feature.FOLLOW_LOGS: _best_effort(
        "looks every few seconds; a Lambda function that is cut off loses its last lines"
    ),
    Feature.QUEUE_DEPTHS: _best_effort("counted among the open tasks by an index, which lags by a moment"),
    Feature.THROUGHPUT: _best_effort("counted beside the end of a task, so an end may be missed"),
    Feature.WORKERS: _best_effort("Lambda functions do not say that they live; worker processes do"),
    Feature.PAUSE: _best_effort("within seconds: each function keeps what is paused for that long"),
    Feature.PURGE: _exact("each task in a write of its own; its message is dropped when it comes"),
    Feature.DEAD_LETTERS: _exact("rows of the table, fed by the dead-letter queue"),
    Feature.PRIORITY: _refused("SQS knows none: leave it out, or give urgent work a deployment of its own"),
    Feature.FAIRNESS: _best_effort("SQS fair queues, with the tenant code as the message group"),
    Feature.ORDER: _best_effort("SQS standard queues keep about the order"),
    Feature.FORESIGHT: _best_effort("long polling instead"),
    Feature.MAX_CONCURRENCY: _refused("functions do not count what runs: limit that of the work function"),
    Feature.MAX_CONCURRENCY_PER_TENANT: _refused("functions do not count what runs; tenants share them fairly"),
    Feature.FAN_OUT_CONCURRENCY: _exact("MaxConcurrency of the Map, times `chunk_concurrency`"),
    Feature.NOTIFICATIONS: _best_effort("SNS, at least once, with a stable id: only ends that a function wrote"),
    Feature.ALARMS: _best_effort("SNS, at least once, with a stable id: only failures that a function wrote"),
    Feature.SUBSCRIBE: _refused("no process lives long enough: subscribe a queue or a function to the SNS topic"),
    Feature.WEBHOOKS: _refused("subscribe an HTTPS endpoint to the SNS topic of `topic_arn`"),
    Feature.RECONCILER: _exact("a schedule, every minute"),
    Feature.CHECKPOINTS: _exact("under the fence of the claim; `resumable` ends before the limit of Lambda"),
    Feature.STEPS: _exact("its result is recorded once"),
    Feature.SLEEP: _best_effort("up to 15 minutes by the message; longer ones and sub-tasks within a minute"),
    Feature.CALLBACKS: _best_effort("tokens are single-use; a sub-task goes on within a minute of the answer"),
    Feature.RETENTION: _exact("in every read and condition"),
    Feature.RETENTION_SPACE: _best_effort("DynamoDB removes the task within days; sub-tasks, logs and payloads stay"),
    Feature.DOCTOR: _best_effort("looks at the table, the queues and the state machine, as far as its rights go"),
}

CAPABILITIES: Final[Mapping[str, Mapping[Feature, Capability]]] = MappingProxyType(
    {"embedded": MappingProxyType(_EMBEDDED), "aws": MappingProxyType(_AWS)}
)
"""What each backend does, by its name in `Settings.backend`; every feature stands under every backend."""


def is_exact(backend: str, feature: Feature) -> bool:
    """Whether the backend does it as documented, always."""
    return CAPABILITIES[backend][feature].level is Level.EXACT


def refusal(backend: str, feature: Feature) -> Capability | None:
    """Why the backend refuses it; None when it does not."""
    capability = CAPABILITIES[backend][feature]
    return capability if capability.level is Level.REFUSED else None


def require(backend: str, feature: Feature, asked_by: str) -> None:
    """The application asks for *feature* at its wiring, by what *asked_by* names.

    Raises: WiringError where the backend refuses it.
    """
    refused = refusal(backend, feature)
    if refused is not None:
        raise WiringError(f"{asked_by}: the backend {backend!r} refuses {feature}: {refused.why}")
