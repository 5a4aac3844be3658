"""The four functions: one package, so that a fan-out starves nothing, and each has the rights that it needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_event_sources as sources
from aws_cdk import aws_logs as logs
from constructs import Construct

from taskloom.aws import table
from taskloom.deploy.messaging import Messaging
from taskloom.deploy.storage import Storage

TABLE_ACTIONS: Final = tuple(
    f"dynamodb:{action}"
    for action in (
        "BatchGetItem",
        "BatchWriteItem",
        "ConditionCheckItem",
        "DeleteItem",
        "GetItem",
        "PutItem",
        "Query",
        "UpdateItem",
    )
)
"""What is done to the table; nothing scans it."""
STREAM_RETRIES: Final = 10
STREAM_AGE: Final = cdk.Duration.hours(6)
"""For how long a record that cannot be dispatched is tried; then its position goes to the queue of undispatched ones.
The stream keeps it for 24 hours (source: DynamoDB developer guide, "Change data capture for DynamoDB Streams")."""
STREAM_BATCH: Final = 100
WORKS_AT_LEAST: Final = 2
"""The lowest maximum concurrency of a queue (source: Lambda developer guide, "Configuring scaling behavior")."""


@dataclass(frozen=True, kw_only=True)
class FunctionOptions:
    """What all functions have in common."""

    code: lambda_.Code
    handler: str
    runtime: lambda_.Runtime
    architecture: lambda_.Architecture
    memory_size: int
    log_retention: logs.RetentionDays
    environment: Mapping[str, str]


class Functions(Construct):
    """Dispatch, work, chunk; and http, where it is wanted."""

    def __init__(
        self,
        scope: Construct,
        id_: str,
        options: FunctionOptions,
        storage: Storage,
        messaging: Messaging,
        *,
        work_timeout: cdk.Duration,
        chunk_timeout: cdk.Duration,
        max_concurrency: int | None,
        web: bool,
    ) -> None:
        super().__init__(scope, id_)
        self._options, self._storage, self._messaging = options, storage, messaging
        self.dispatch = self._function("Dispatch", cdk.Duration.minutes(1))
        """From the table's stream to the task queue."""
        self.work = self._function("Work", work_timeout)
        """Runs single tasks, starts fan-outs; the reconciler."""
        self.chunk = self._function("Chunk", chunk_timeout)
        """The steps of fan-outs: chunks, Collect, Finalize; and what ends an execution that failed."""
        self.http = self._function("Http", cdk.Duration.seconds(29)) if web else None
        """REST and dashboard. An HTTP API waits 30 s (source: API Gateway developer guide, "Quotas")."""
        self._sources(max_concurrency)

    @property
    def all(self) -> list[lambda_.Function]:
        """Those that there are."""
        return [self.dispatch, self.work, self.chunk, *([] if self.http is None else [self.http])]

    def _function(self, id_: str, timeout: cdk.Duration) -> lambda_.Function:
        options, storage, messaging = self._options, self._storage, self._messaging
        function = lambda_.Function(
            self,
            id_,
            code=options.code,
            handler=options.handler,
            runtime=options.runtime,
            architecture=options.architecture,
            memory_size=options.memory_size,
            timeout=timeout,
            environment={
                **options.environment,
                "TASKLOOM_BACKEND": "aws",
                "TASKLOOM_TABLE_NAME": storage.table.table_name,
                "TASKLOOM_PAYLOAD_BUCKET": storage.bucket.bucket_name,
                "TASKLOOM_TASK_QUEUE_URL": messaging.tasks.queue_url,
                "TASKLOOM_WORKER_QUEUE_URL": messaging.worker_tasks.queue_url,
                "TASKLOOM_TOPIC_ARN": messaging.status.topic_arn,
                "TASKLOOM_ALARM_TOPIC_ARN": messaging.alarms.topic_arn,
            },
            tracing=lambda_.Tracing.ACTIVE,
            # Stream → queue → function → table is a loop by design, which ends with its task.
            recursive_loop=lambda_.RecursiveLoop.ALLOW,
            log_group=logs.LogGroup(
                self, f"{id_}Logs", retention=options.log_retention, removal_policy=cdk.RemovalPolicy.DESTROY
            ),
        )
        storage.table.grant(function, *TABLE_ACTIONS)
        storage.bucket.grant_read_write(function)
        return function

    def _sources(self, max_concurrency: int | None) -> None:
        messaging = self._messaging
        messaging.tasks.grant_send_messages(self.dispatch)
        messaging.worker_tasks.grant_send_messages(self.dispatch)
        for function in (self.work, self.chunk):
            messaging.tasks.grant_send_messages(function)
            messaging.status.grant_publish(function)
            messaging.alarms.grant_publish(function)
        self.dispatch.add_event_source(
            sources.DynamoEventSource(
                self._storage.table,
                starting_position=lambda_.StartingPosition.TRIM_HORIZON,
                batch_size=STREAM_BATCH,
                bisect_batch_on_error=True,
                retry_attempts=STREAM_RETRIES,
                max_record_age=STREAM_AGE,
                report_batch_item_failures=True,
                on_failure=sources.SqsDlq(messaging.undispatched),
                filters=[lambda_.FilterCriteria.filter(table.STREAM_FILTER)],
            )
        )
        self.work.add_event_source(
            sources.SqsEventSource(
                messaging.tasks,
                batch_size=1,
                max_concurrency=max_concurrency,
                report_batch_item_failures=True,
            )
        )
        self.work.add_event_source(
            sources.SqsEventSource(
                messaging.dead_letters,
                batch_size=1,
                max_concurrency=WORKS_AT_LEAST,
                report_batch_item_failures=True,
            )
        )
