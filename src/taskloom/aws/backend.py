"""All ports over AWS."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from taskloom.aws import table
from taskloom.aws.admin import DynamoQueueAdmin
from taskloom.aws.clients import Clients
from taskloom.aws.durable_steps import DynamoSteps
from taskloom.aws.dynamo import Dynamo, Query
from taskloom.aws.ends import Ends
from taskloom.aws.items import key_item, task_of
from taskloom.aws.notices import NoNotices
from taskloom.aws.payload_store import S3PayloadStore
from taskloom.aws.queue import LONG_POLL, SqsQueue, has_backlog
from taskloom.aws.retention import RetentionByServices
from taskloom.aws.state_machine import Promised, StepFunctionsStateMachine
from taskloom.aws.store import DynamoTaskStore
from taskloom.aws.stream import PushedStream
from taskloom.aws.task_logs import DynamoTaskLogs
from taskloom.errors import InvalidInput
from taskloom.model import TaskKey
from taskloom.ports import Backend, Clock, Ids
from taskloom.record import PK, SK
from taskloom.settings import Settings

NEEDED: Final = ("table_name", "task_queue_url", "state_machine_arn", "payload_bucket")
"""Settings without which nothing works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsBackend(Backend):
    """The ports over AWS, and what the functions need beside them."""

    clients: Clients
    bury: Callable[[TaskKey, int, str], Awaitable[None]]
    """Keeps a dead letter: of which task, after how many failures, why."""


class NoSignals:
    """`ports.Signals` where nobody sends any: whoever waits looks by itself."""

    def on_work(self, callback: Callable[[], None]) -> Callable[[], None]:  # noqa: ARG002
        """See `ports.Signals`. Never."""
        return _nothing

    def on_any(self, callback: Callable[[], None]) -> Callable[[], None]:  # noqa: ARG002
        """See `ports.Signals`. Never."""
        return _nothing

    def on_change(self, code: str, callback: Callable[[], None]) -> Callable[[], None]:  # noqa: ARG002
        """See `ports.Signals`. Never."""
        return _nothing


def aws_backend(
    settings: Settings, clock: Clock, ids: Ids, clients: Clients | None = None, *, poll: int = LONG_POLL
) -> AwsBackend:
    """The ports over the table, queues, bucket and state machine of *settings*; nothing is called yet.

    *poll*: seconds for which a worker's call waits for a message. Raises: InvalidInput when a setting is missing.
    """
    for name in NEEDED:
        if not getattr(settings, name):
            raise InvalidInput(
                name, "is missing, which the AWS backend needs", f"give Settings({name}=…) or TASKLOOM_{name.upper()}"
            )
    clients = clients or Clients()
    dynamo = Dynamo(clients, settings.table_name or "", clock)
    ends = Ends(dynamo)
    admin = DynamoQueueAdmin(dynamo, ends)
    task_queue_url, machine_arn = settings.task_queue_url or "", settings.state_machine_arn or ""
    return AwsBackend(
        name="aws",
        clock=clock,
        ids=ids,
        store=DynamoTaskStore(dynamo, ends, lambda: has_backlog(clients, task_queue_url)),
        stream=PushedStream(),
        queue=SqsQueue(clients, settings.worker_queue_url, clock, admin.pauses, wait=poll),
        machine=StepFunctionsStateMachine(clients, machine_arn, _promised(dynamo)),
        payloads=S3PayloadStore(clients, settings.payload_bucket or ""),
        logs=DynamoTaskLogs(dynamo),
        steps=DynamoSteps(dynamo),
        retention=RetentionByServices(),
        signals=NoSignals(),
        admin=admin,
        notifier=NoNotices(),
        stream_arn=_stream_arn(machine_arn, settings.table_name or ""),
        queue_arn=_queue_arn(machine_arn, task_queue_url),
        close=clients.close,
        clients=clients,
        bury=admin.bury,
    )


def _promised(dynamo: Dynamo) -> Promised:
    """Looks among the open tasks, whose index tells them by their codes."""

    async def promised(code: str, arn: str) -> bool:
        def work() -> bool:
            query = Query((table.OPEN, table.bucket(code)), index=table.OPEN_INDEX, limit=10)
            for entry in dynamo.first(query.between(table.OPEN_AT, code, code), 10):
                item = dynamo.get(key_item(TaskKey(entry[PK]["S"], entry[SK]["S"])))
                if item is not None and task_of(item).execution_arn == arn:
                    return True
            return False

        return await dynamo.clients.run(work)

    return promised


def _stream_arn(machine_arn: str, table_name: str) -> str:
    """For records that are made of tasks, as AWS writes it; the real one has the stream's date at its end."""
    partition, region, account = _place(machine_arn)
    return f"arn:{partition}:dynamodb:{region}:{account}:table/{table_name}/stream/1"


def _queue_arn(machine_arn: str, queue_url: str) -> str:
    partition, region, account = _place(machine_arn)
    return f"arn:{partition}:sqs:{region}:{account}:{queue_url.rpartition('/')[2]}"


def _place(arn: str) -> tuple[str, str, str]:
    parts = arn.split(":")
    if len(parts) < 7:
        raise InvalidInput(
            "state_machine_arn", f"{arn!r} is no ARN", "give arn:aws:states:REGION:ACCOUNT:stateMachine:NAME"
        )
    return parts[1], parts[3], parts[4]


def _nothing() -> None:
    pass
