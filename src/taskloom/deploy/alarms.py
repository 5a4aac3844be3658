"""What wakes somebody: each alarm goes to the topic of alarms."""

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from constructs import Construct

from taskloom.deploy.functions import Functions
from taskloom.deploy.machine import Machine
from taskloom.deploy.messaging import Messaging

STREAM_AGE_MS = 5 * 60 * 1000
"""Dispatching that is so far behind is no mere peak."""
EVERY = cdk.Duration.minutes(5)


class Alarms(Construct):
    """Dead letters, undispatched records, the stream's age, errors and throttles of functions, failed executions."""

    def __init__(
        self, scope: Construct, id_: str, functions: Functions, messaging: Messaging, machine: Machine
    ) -> None:
        super().__init__(scope, id_)
        self._action = actions.SnsAction(messaging.alarms)
        for name, queue in (("DeadLetters", messaging.dead_letters), ("Undispatched", messaging.undispatched)):
            self._alarm(
                f"{name}Waiting",
                queue.metric_approximate_number_of_messages_visible(period=EVERY, statistic="Maximum"),
                1,
                "messages that nobody could deal with",
            )
        self._alarm(
            "StreamBehind",
            functions.dispatch.metric("IteratorAge", period=EVERY, statistic="Maximum"),
            STREAM_AGE_MS,
            "new tasks wait for being dispatched",
        )
        for function in functions.all:
            name = function.node.id
            self._alarm(f"{name}Errors", function.metric_errors(period=EVERY), 1, "a function failed")
            self._alarm(f"{name}Throttles", function.metric_throttles(period=EVERY), 100, "a function is throttled")
        self._alarm(
            "ExecutionsFailed",
            cloudwatch.Metric(
                namespace="AWS/States",
                metric_name="ExecutionsFailed",
                dimensions_map={"StateMachineArn": machine.arn},
                period=EVERY,
                statistic="Sum",
            ),
            1,
            "an execution of a fan-out failed",
        )

    def _alarm(self, id_: str, metric: cloudwatch.IMetric, threshold: float, what: str) -> None:
        cloudwatch.Alarm(
            self,
            id_,
            metric=metric,
            threshold=threshold,
            evaluation_periods=1,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            alarm_description=f"Taskloom: {what}",
        ).add_alarm_action(self._action)
