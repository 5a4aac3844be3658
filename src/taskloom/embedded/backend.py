"""All ports over one file."""

from pathlib import Path
from typing import Final

from taskloom.embedded.admin import SqliteQueueAdmin
from taskloom.embedded.database import Database
from taskloom.embedded.notifier import SqliteNotifier
from taskloom.embedded.payload_store import SqlitePayloadStore
from taskloom.embedded.queues import SqliteChangeStream, SqliteQueue
from taskloom.embedded.retention import SqliteRetention
from taskloom.embedded.state_machine import SqliteStateMachine
from taskloom.embedded.steps import SqliteSteps
from taskloom.embedded.store import SqliteTaskStore
from taskloom.embedded.task_logs import SqliteTaskLogs
from taskloom.ports import Backend, Clock, Ids

STREAM_ARN: Final = "arn:taskloom:dynamodb:local:000000000000:table/tasks/stream/1"
QUEUE_ARN: Final = "arn:taskloom:sqs:local:000000000000:task-action-queue"


def embedded_backend(database: Path, synchronous: str, clock: Clock, ids: Ids) -> Backend:
    """The ports over the file *database*, which is made at first use."""
    file = Database(database, synchronous)
    return Backend(
        name="embedded",
        clock=clock,
        ids=ids,
        store=SqliteTaskStore(file, clock),
        stream=SqliteChangeStream(file, clock),
        queue=SqliteQueue(file, clock),
        machine=SqliteStateMachine(file, clock),
        payloads=SqlitePayloadStore(file, clock),
        logs=SqliteTaskLogs(file),
        steps=SqliteSteps(file, clock),
        retention=SqliteRetention(file, clock),
        signals=file.signals,
        admin=SqliteQueueAdmin(file, clock),
        notifier=SqliteNotifier(file, clock),
        stream_arn=STREAM_ARN,
        queue_arn=QUEUE_ARN,
        close=file.close,
    )
