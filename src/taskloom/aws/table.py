"""The table: its keys, indexes, stream and expiry as data, which the adapters, the stack and the tests read."""

import zlib
from typing import Any, Final

from taskloom.ids import CODE_LENGTH, encode_ulid
from taskloom.model import Kind, TaskKey
from taskloom.record import PK, SK

CODE: Final = "code"
"""Sort key of the index of all tasks. Only top-level tasks carry it."""
OPEN: Final = "open"
"""Of an open top-level task: its bucket, one of 16."""
OPEN_AT: Final = "openAt"
"""... and a ULID of when to look after it; its code, unless it waits for so long that it has no message."""
MARK: Final = "mark"
"""Of a top-level task that FAILED, `FAILED#<pk>`; of an open one with a deadline, `DUE#<bucket>`."""
MARK_AT: Final = "markAt"
"""... its code, or the deadline."""
TTL: Final = "ttl"
"""Seconds since 1970 from which on an item counts as absent, whether or not DynamoDB has removed it."""

ALL_INDEX: Final = "tasks"
OPEN_INDEX: Final = "open"
MARK_INDEX: Final = "marks"
INDEXES: Final = {ALL_INDEX: (PK, CODE), OPEN_INDEX: (OPEN, OPEN_AT), MARK_INDEX: (MARK, MARK_AT)}
"""Partition key and sort key of each index. All of them hold keys only, and only of top-level tasks."""

BUCKETS: Final = 16
"""Over which open tasks are spread, so that no partition of an index gets hot."""

PREFIXES: Final = {
    "TASK": "single tasks",
    "SFN_TASK": "step function tasks; with a code and a shard: their sub-tasks",
    "CHUNK": "chunks that have ended",
    "IDEMPOTENCY": "idempotency keys",
    "LOG": "lines that handlers logged",
    "STEP": "steps, sleeps and callbacks of a task",
    "TOKEN": "tokens of callbacks, by their SHA-256",
    "PAUSE": "task types and tenants of which nothing is started",
    "WORKER": "workers that live",
    "DUTY": "what one worker does for all now and then",
    "THROUGHPUT": "how many tasks ended in each minute",
    "DEAD": "stream records that could not be dispatched",
}
"""What lies under which beginning of `pk`; everything but tasks has one of its own."""

DEFINITION: Final[dict[str, Any]] = {
    "KeySchema": [{"AttributeName": PK, "KeyType": "HASH"}, {"AttributeName": SK, "KeyType": "RANGE"}],
    "AttributeDefinitions": [
        {"AttributeName": name, "AttributeType": "S"} for name in (PK, SK, CODE, OPEN, OPEN_AT, MARK, MARK_AT)
    ],
    "GlobalSecondaryIndexes": [
        {
            "IndexName": name,
            "KeySchema": [{"AttributeName": hash_, "KeyType": "HASH"}, {"AttributeName": range_, "KeyType": "RANGE"}],
            "Projection": {"ProjectionType": "KEYS_ONLY"},
        }
        for name, (hash_, range_) in INDEXES.items()
    ],
    "BillingMode": "PAY_PER_REQUEST",
    "StreamSpecification": {"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"},
    "SSESpecification": {"Enabled": True},
}
"""The parameters of CreateTable, without the name."""
TIME_TO_LIVE: Final[dict[str, Any]] = {"Enabled": True, "AttributeName": TTL}
"""The parameter of UpdateTimeToLive."""
POINT_IN_TIME_RECOVERY: Final = {"PointInTimeRecoveryEnabled": True}
"""The parameter of UpdateContinuousBackups."""
STREAM_FILTER: Final[dict[str, Any]] = {"dynamodb": {"NewImage": {"dispatch": {"S": [{"exists": True}]}}}}
"""Which records of the stream reach the dispatching function: those of tasks that need a message."""


def keys_of(index: str) -> tuple[str, ...]:
    """The attributes that an entry of *index* holds."""
    return tuple(dict.fromkeys((*INDEXES[index], PK, SK)))


def bucket(code: str) -> str:
    """The bucket of the task *code*: a hexadecimal digit."""
    return f"{zlib.crc32(code.encode()) % BUCKETS:x}"


def buckets() -> list[str]:
    """All of them."""
    return [f"{number:x}" for number in range(BUCKETS)]


def next_bucket(bucket_: str) -> str:
    """The one behind it; behind the last one comes the first."""
    return f"{(int(bucket_, 16) + 1) % BUCKETS:x}"


def due_mark(bucket_: str) -> str:
    """The mark of open tasks with a deadline."""
    return f"DUE#{bucket_}"


def failed_mark(pk: str) -> str:
    """The mark of tasks under *pk* that FAILED."""
    return f"FAILED#{pk}"


def looked_after_from(code: str, milliseconds: int) -> str:
    """The `openAt` of the task *code* that is to be looked after from this instant on."""
    return time_prefix(milliseconds) + code.rjust(CODE_LENGTH, "0")[10:]


def time_prefix(milliseconds: int) -> str:
    """The first 10 characters of every ULID of this instant."""
    return encode_ulid(milliseconds << 80)[:10]


def chunk_pk(parent: TaskKey, run: int) -> str:
    """Under which the chunks of one run of a fan-out lie."""
    parts = parent.parts
    return f"CHUNK#{parts.tenant_code}#{parts.code}#{run}"


def idempotency_pk(tenant: str, key: str) -> str:
    """Under which an idempotency key lies; a partition of its own, since a tenant may use very many."""
    return f"IDEMPOTENCY#{tenant}#{key}"


def step_pk(key: TaskKey) -> str:
    """Under which steps, sleeps and callbacks of a task or sub-task lie."""
    return f"STEP#{key.id}"


def log_pk(key: TaskKey) -> str:
    """Under which the log lines of a task or sub-task lie."""
    return f"LOG#{key.id}"


def list_pk(kind: Kind, tenant: str) -> str:
    """Under which top-level tasks of a tenant lie."""
    return f"{kind}#{tenant}"


def is_ulid(code: str) -> bool:
    """Whether *code* begins with a time, as ours do; the original's do too."""
    return len(code) == CODE_LENGTH and code[0] <= "7"
