"""The state machine of fan-outs, and what looks after its executions."""

from importlib.resources import files
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from taskloom.deploy.functions import Functions

NAME: Final = "sfn-task"
"""Stands in the machine's name: the original picks handlers by it."""
CHUNK_FUNCTION: Final = "ChunkFunctionArn"
"""What stands in the definition for the function that does the steps."""


def definition() -> str:
    """The definition of the state machine, with `${ChunkFunctionArn}` in it."""
    # Not by the adapter beside it, which needs boto3.
    return files("taskloom.aws").joinpath("state_machine.asl.json").read_text("utf-8")


class Machine(Construct):
    """State machine, its role, the rule for executions that did not end well, and the reconciler's schedule."""

    def __init__(self, scope: Construct, id_: str, functions: Functions, *, reconcile_every: cdk.Duration) -> None:
        super().__init__(scope, id_)
        name = f"{cdk.Stack.of(self).stack_name}-{NAME}"
        self.arn = cdk.Stack.of(self).format_arn(
            service="states",
            resource="stateMachine",
            resource_name=name,
            arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME,
        )
        """Put together from its name: the functions know it, and it knows one of them."""
        role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("states.amazonaws.com"))
        functions.chunk.grant_invoke(role)
        executions = cdk.Stack.of(self).format_arn(
            service="states",
            resource="execution",
            resource_name=f"{name}*",
            arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME,
        )
        # A Distributed Map starts its children as executions (source: Step Functions developer guide, "IAM policies
        # for Distributed Map").
        role.add_to_policy(iam.PolicyStatement(actions=["states:StartExecution"], resources=[self.arn]))
        role.add_to_policy(
            iam.PolicyStatement(actions=["states:DescribeExecution", "states:StopExecution"], resources=[executions])
        )
        self.machine = sfn.CfnStateMachine(
            self,
            "StateMachine",
            state_machine_name=name,
            state_machine_type="STANDARD",
            role_arn=role.role_arn,
            definition_string=definition(),
            definition_substitutions={CHUNK_FUNCTION: functions.chunk.function_arn},
            tracing_configuration=sfn.CfnStateMachine.TracingConfigurationProperty(enabled=True),
        )
        self.machine.node.add_dependency(role)
        for function in functions.all:
            function.add_environment("TASKLOOM_STATE_MACHINE_ARN", self.arn)
            self._grant(function, executions)
        events.Rule(
            self,
            "Failed",
            description="Executions of fan-outs that did not end well: their tasks are finished all the same",
            event_pattern=events.EventPattern(
                source=["aws.states"],
                detail_type=["Step Functions Execution Status Change"],
                detail={"stateMachineArn": [self.arn], "status": ["FAILED", "TIMED_OUT", "ABORTED"]},
            ),
            targets=[targets.LambdaFunction(functions.chunk)],
        )
        events.Rule(
            self,
            "Reconcile",
            description="Looks for tasks that nothing would bring back",
            schedule=events.Schedule.rate(reconcile_every),
            targets=[targets.LambdaFunction(functions.work)],
        )

    def _grant(self, function: lambda_.Function, executions: str) -> None:
        function.add_to_role_policy(iam.PolicyStatement(actions=["states:StartExecution"], resources=[self.arn]))
        function.add_to_role_policy(
            iam.PolicyStatement(actions=["states:DescribeExecution", "states:StopExecution"], resources=[executions])
        )
        function.add_to_role_policy(
            iam.PolicyStatement(actions=["states:SendTaskSuccess", "states:SendTaskFailure"], resources=[self.arn])
        )
