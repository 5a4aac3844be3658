"""A plain CloudFormation template of the stack, for those without CDK."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_lambda as lambda_

from taskloom.deploy.api import Jwt
from taskloom.deploy.construct import Taskloom
from taskloom.deploy.package import HANDLER


def template(
    stack: str,
    *,
    code_key: str,
    memory_size: int = 512,
    timeout: int = 900,
    max_concurrency: int | None = None,
    python: str = "3.13",
    arm: bool = True,
    jwt: Jwt | None = None,
) -> dict[str, Any]:
    """The template, with the parameters `CodeBucket` and `CodeKey` (default: *code_key*): where the package lies in S3.

    *timeout* is the longest run of the functions in seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        app = cdk.App(outdir=folder, analytics_reporting=False)
        # Without assets there is nothing to bootstrap.
        root = cdk.Stack(app, stack, synthesizer=cdk.LegacyStackSynthesizer())
        bucket = cdk.CfnParameter(root, "CodeBucket", description="S3 bucket that holds the package")
        key = cdk.CfnParameter(root, "CodeKey", description="Its key there", default=code_key)
        limit = cdk.Duration.seconds(timeout)
        Taskloom(
            root,
            "Taskloom",
            code=lambda_.Code.from_cfn_parameters(bucket_name_param=bucket, object_key_param=key),
            handler=HANDLER,
            runtime=lambda_.Runtime(f"python{python}", lambda_.RuntimeFamily.PYTHON),
            architecture=lambda_.Architecture.ARM_64 if arm else lambda_.Architecture.X86_64,
            memory_size=memory_size,
            work_timeout=limit,
            chunk_timeout=limit,
            max_concurrency=max_concurrency,
            jwt=jwt,
        )
        made = Path(app.synth().get_stack_by_name(stack).template_full_path)
        return without_needless(json.loads(made.read_text("utf-8")))


def without_needless(template: dict[str, Any]) -> dict[str, Any]:
    """The *template* without dependencies that its references say already."""
    for resource in template["Resources"].values():
        named = set(_references(resource.get("Properties", {})))
        after = resource.get("DependsOn", [])
        left = [name for name in ([after] if isinstance(after, str) else after) if name not in named]
        if left:
            resource["DependsOn"] = left
        else:
            resource.pop("DependsOn", None)
        resource.pop("Metadata", None)
    return template


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, part in value.items():
            if name == "Ref":
                yield part
            elif name == "Fn::GetAtt":
                yield part[0]
            else:
                yield from _references(part)
    elif isinstance(value, list):
        for part in value:
            yield from _references(part)
