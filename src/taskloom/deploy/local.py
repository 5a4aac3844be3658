"""The stack on the emulator: the same template, and the application as it lies on this machine."""

import io
import json
import os
import shlex
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from taskloom.aws import table
from taskloom.deploy.emulator import REGION, Emulator, packages_of
from taskloom.deploy.package import ENTRY, HANDLER, entry

AT_ONCE: Final = 2
"""Functions of one kind at a time: each is a process of its own here."""


class LocalStack:
    """A stack that was deployed on an emulator."""

    def __init__(self, emulator: Emulator, name: str, outputs: Mapping[str, str]) -> None:
        self.emulator = emulator
        self.name = name
        self.outputs = outputs

    @property
    def settings(self) -> dict[str, Any]:
        """Fields of `taskloom.Settings` with which a program outside creates and watches tasks here."""
        outputs = self.outputs
        return {
            "backend": "aws",
            "table_name": outputs["TableName"],
            "payload_bucket": outputs["PayloadBucket"],
            "task_queue_url": outputs["TaskQueueUrl"],
            "worker_queue_url": outputs["WorkerQueueUrl"],
            "topic_arn": outputs["TopicArn"],
            "alarm_topic_arn": outputs["AlarmTopicArn"],
            "state_machine_arn": outputs["StateMachineArn"],
        }

    @property
    def environment(self) -> dict[str, str]:
        """The same as environment variables, with those of boto3."""
        return {
            **{f"TASKLOOM_{name.upper()}": value for name, value in self.settings.items()},
            "AWS_ENDPOINT_URL": self.emulator.endpoint,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }

    def logged(self, position: dict[str, int]) -> Iterator[str]:
        """Lines that the functions logged since *position*, which is moved on; at first give an empty one."""
        logs, functions = self.emulator.client("logs"), self.emulator.client("lambda")
        for function, physical in self.resources("AWS::Lambda::Function").items():
            group = functions.get_function_configuration(FunctionName=physical)["LoggingConfig"]["LogGroup"]
            for page in _pages(logs, group, position.get(group, 0)):
                for event in page:
                    position[group] = max(position.get(group, 0), event["timestamp"] + 1)
                    yield f"{function}: {event['message'].rstrip()}"

    def resources(self, type_: str) -> dict[str, str]:
        """Of this type the physical ids by the logical ones."""
        found = self.emulator.client("cloudformation").describe_stack_resources(StackName=self.name)
        return {
            one["LogicalResourceId"]: one["PhysicalResourceId"]
            for one in found["StackResources"]
            if one["ResourceType"] == type_
        }


def deploy(
    emulator: Emulator,
    template: dict[str, Any],
    application: str,
    *,
    name: str = "taskloom",
    folder: Path | None = None,
) -> LocalStack:
    """Create the stack *name* for *application* (`package.module:attribute`), found from *folder* (default: here).

    Its functions run in this program's interpreter, so what the application imports is what is installed here.
    """
    s3, bucket = emulator.client("s3"), f"{name}-code"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    key = f"{name}.zip"
    s3.put_object(Bucket=bucket, Key=key, Body=_package(application, folder or Path.cwd(), emulator))
    cloudformation = emulator.client("cloudformation")
    cloudformation.create_stack(
        StackName=name,
        TemplateBody=json.dumps(adapted(template)),
        Parameters=[
            {"ParameterKey": "CodeBucket", "ParameterValue": bucket},
            {"ParameterKey": "CodeKey", "ParameterValue": key},
        ],
        Capabilities=["CAPABILITY_IAM"],
    )
    cloudformation.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig={"Delay": 1})
    (stack,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
    outputs = {one["OutputKey"]: one["OutputValue"] for one in stack.get("Outputs", ())}
    # The emulator ignores the table's expiry in a template.
    emulator.client("dynamodb").update_time_to_live(
        TableName=outputs["TableName"], TimeToLiveSpecification=table.TIME_TO_LIVE
    )
    return LocalStack(emulator, name, outputs)


def adapted(template: dict[str, Any]) -> dict[str, Any]:
    """A copy of *template* for one small machine: our own runtime, and few functions at a time."""
    resources = {name: dict(one) for name, one in template["Resources"].items()}
    for one in resources.values():
        properties = one["Properties"] = dict(one.get("Properties", {}))
        if one["Type"] == "AWS::Lambda::Function":
            properties |= {"Runtime": "provided.al2023", "Handler": HANDLER}
            properties.pop("Architectures", None)
        elif one["Type"] == "AWS::Lambda::EventSourceMapping" and "StartingPosition" not in properties:
            properties["ScalingConfig"] = {"MaximumConcurrency": AT_ONCE}
    return {**template, "Resources": resources}


def _pages(logs: Any, group: str, since: int) -> Iterator[list[dict[str, Any]]]:
    try:
        answer = logs.filter_log_events(logGroupName=group, startTime=since)
    except logs.exceptions.ResourceNotFoundException:  # the function has not logged yet
        return
    yield answer["events"]


def _package(application: str, folder: Path, emulator: Emulator) -> bytes:
    """What Lambda starts: this interpreter, with the application's folder and the runtime of Lambda on its path."""
    paths = [str(folder), *(path for path in sys.path if path), str(packages_of(emulator.home))]
    bootstrap = (
        "#!/bin/sh\n"
        f"export AWS_ENDPOINT_URL={shlex.quote(emulator.endpoint)}\n"  # the emulator tells its own runtimes only
        f'export PYTHONPATH="$LAMBDA_TASK_ROOT":{shlex.quote(os.pathsep.join(paths))}\n'
        f'exec {shlex.quote(sys.executable)} -m awslambdaric "$_HANDLER"\n'
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in (("bootstrap", bootstrap), (ENTRY, entry(application))):
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o755 << 16
            archive.writestr(info, content)
    return buffer.getvalue()
