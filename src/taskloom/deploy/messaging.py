"""What carries messages: the task queue, its dead letters, and the topics that tell of changes and failures."""

from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from constructs import Construct

MAX_RECEIVES: Final = 1000
"""Deliveries before a message becomes a dead letter. High: a message also comes again while another worker holds the
lease of its task, while its type is paused, and for each retry; attempts are counted by the task, not by the queue."""
KEPT: Final = cdk.Duration.days(14)
"""How long queues keep a message: the longest that SQS allows (source: SQS developer guide, message quotas)."""
MARGIN: Final = cdk.Duration.seconds(30)
"""By how much a delivery outlives the longest run of its function: nobody gets the message meanwhile."""


class Messaging(Construct):
    """Queues and topics."""

    def __init__(self, scope: Construct, id_: str, *, work_timeout: cdk.Duration) -> None:
        super().__init__(scope, id_)
        visible_again = cdk.Duration.seconds(work_timeout.to_seconds() + MARGIN.to_seconds())
        self.dead_letters = self._queue("DeadLetters", visible_again)
        """Messages that nobody could deal with; a function ends their tasks, with the reason."""
        self.tasks = self._queue("TaskActionQueue", visible_again, self.dead_letters)
        """A message per task that waits. Each has its tenant as message group, so tenants share it fairly."""
        self.undispatched = self._queue("Undispatched", MARGIN)
        """Where Lambda puts the positions of stream records that could not be dispatched."""
        self.worker_tasks = self._queue("WorkerQueue", cdk.Duration.minutes(2), self.dead_letters)
        """Tasks whose type runs on workers of your own (`runs_on="worker"`), which keep their deliveries alive."""
        self.status = sns.Topic(self, "TaskStatus", enforce_ssl=True)
        """Tells of each change of status."""
        self.alarms = sns.Topic(self, "Alarms", enforce_ssl=True)
        """One message per failed task, and the alarms of the stack."""

    def _queue(self, id_: str, visible_again: cdk.Duration, dead_letters: sqs.IQueue | None = None) -> sqs.Queue:
        return sqs.Queue(
            self,
            id_,
            visibility_timeout=visible_again,
            retention_period=KEPT,
            enforce_ssl=True,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            dead_letter_queue=None
            if dead_letters is None
            else sqs.DeadLetterQueue(max_receive_count=MAX_RECEIVES, queue=dead_letters),
        )
