"""`Taskloom`: everything that tasks need on AWS, in one construct."""

from collections.abc import Mapping
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from taskloom.deploy.alarms import Alarms
from taskloom.deploy.api import Api, Jwt
from taskloom.deploy.functions import FunctionOptions, Functions
from taskloom.deploy.machine import Machine
from taskloom.deploy.messaging import Messaging
from taskloom.deploy.storage import Storage

LONGEST: Final = cdk.Duration.minutes(15)
"""How long a function may run (source: AWS Lambda developer guide, "Lambda quotas")."""


class Taskloom(Construct):
    """Table, bucket, queues, topics, functions, state machine, rules and alarms of one application.

    *code* holds the application with its dependencies, Taskloom with the extra `aws` among them; *handler* is where
    `module.lambda_handler` is found there. *work_timeout* and *chunk_timeout* (at most 15 minutes) are the longest run
    of a single task's attempt, and of a chunk's call; longer work saves checkpoints, or runs on workers.
    *max_concurrency* bounds the single tasks that run at the same time (2 to 1,000; None: what the account allows).
    *payload_days* removes large inputs and results after so many days; None keeps them. *jwt* adds an HTTP API with
    REST and dashboard. What is kept stays when the stack goes, unless *removal_policy* says otherwise.

    Attributes: `storage`, `messaging`, `functions`, `machine`, `alarms`, `api` (None without *jwt*).
    """

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        code: lambda_.Code,
        handler: str,
        runtime: lambda_.Runtime = lambda_.Runtime.PYTHON_3_13,
        architecture: lambda_.Architecture = lambda_.Architecture.ARM_64,
        memory_size: int = 512,
        work_timeout: cdk.Duration = LONGEST,
        chunk_timeout: cdk.Duration = LONGEST,
        max_concurrency: int | None = None,
        payload_days: int | None = None,
        reconcile_every: cdk.Duration | None = None,
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
        environment: Mapping[str, str] | None = None,
        jwt: Jwt | None = None,
        removal_policy: cdk.RemovalPolicy = cdk.RemovalPolicy.RETAIN,
    ) -> None:
        super().__init__(scope, id_)
        options = FunctionOptions(
            code=code,
            handler=handler,
            runtime=runtime,
            architecture=architecture,
            memory_size=memory_size,
            log_retention=log_retention,
            environment=environment or {},
        )
        self.storage = Storage(self, "Storage", removal_policy=removal_policy, payload_days=payload_days)
        self.messaging = Messaging(self, "Messaging", work_timeout=work_timeout)
        self.functions = Functions(
            self,
            "Functions",
            options,
            self.storage,
            self.messaging,
            work_timeout=work_timeout,
            chunk_timeout=chunk_timeout,
            max_concurrency=max_concurrency,
            web=jwt is not None,
        )
        self.machine = Machine(
            self, "Machine", self.functions, reconcile_every=reconcile_every or cdk.Duration.minutes(1)
        )
        self.alarms = Alarms(self, "Alarms", self.functions, self.messaging, self.machine)
        self.api = None if jwt is None or self.functions.http is None else Api(self, "Api", self.functions.http, jwt)
        self._outputs()

    def _outputs(self) -> None:
        outputs = {
            "TableName": self.storage.table.table_name,
            "PayloadBucket": self.storage.bucket.bucket_name,
            "TaskQueueUrl": self.messaging.tasks.queue_url,
            "WorkerQueueUrl": self.messaging.worker_tasks.queue_url,
            "TopicArn": self.messaging.status.topic_arn,
            "AlarmTopicArn": self.messaging.alarms.topic_arn,
            "StateMachineArn": self.machine.arn,
        }
        if self.api is not None:
            outputs["Url"] = self.api.url
        for name, value in outputs.items():
            cdk.CfnOutput(self, name, value=value).override_logical_id(name)
