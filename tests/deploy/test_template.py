"""What the construct makes: keys, expiry, redrive, filters and rights."""

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskloom.aws import table
from taskloom.deploy.construct import Taskloom
from taskloom.deploy.machine import definition
from taskloom.deploy.template import without_needless

pytestmark = pytest.mark.long
Template = dict[str, Any]


def resources(template: Template, type_: str) -> dict[str, Any]:
    return {name: one for name, one in template["Resources"].items() if one["Type"] == type_}


def only(template: Template, type_: str, **properties: Any) -> Any:
    """The properties of the one resource of this type that has these ones."""
    found = [
        one["Properties"]
        for one in resources(template, type_).values()
        if all(one["Properties"].get(name) == value for name, value in properties.items())
    ]
    assert len(found) == 1, (type_, properties, len(found))
    return found[0]


def queue(template: Template, name: str) -> str:
    """The logical id of the queue *name*."""
    (found,) = [id_ for id_ in resources(template, "AWS::SQS::Queue") if name in id_]
    return found


def test_the_table_is_the_one_that_the_adapters_use(plain: Template) -> None:
    made = only(plain, "AWS::DynamoDB::Table")
    assert made["KeySchema"] == table.DEFINITION["KeySchema"]
    assert made["AttributeDefinitions"] == table.DEFINITION["AttributeDefinitions"]
    assert made["GlobalSecondaryIndexes"] == table.DEFINITION["GlobalSecondaryIndexes"]
    assert made["BillingMode"] == "PAY_PER_REQUEST"
    assert made["StreamSpecification"] == {"StreamViewType": "NEW_IMAGE"}
    assert made["TimeToLiveSpecification"] == {"AttributeName": "ttl", "Enabled": True}
    assert made["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert made["SSESpecification"] == {"SSEEnabled": True}


def test_what_is_kept_outlives_the_stack(plain: Template) -> None:
    kept = {"AWS::DynamoDB::Table", "AWS::S3::Bucket"}
    for one in plain["Resources"].values():
        if one["Type"] in kept:
            assert one["DeletionPolicy"] == one["UpdateReplacePolicy"] == "Retain"


def test_unfinished_uploads_go(plain: Template) -> None:
    rules = only(plain, "AWS::S3::Bucket")["LifecycleConfiguration"]["Rules"]
    assert {"DaysAfterInitiation": 1} in [rule.get("AbortIncompleteMultipartUpload") for rule in rules]


def test_nobody_gets_a_message_while_its_function_may_run(plain: Template) -> None:
    tasks = plain["Resources"][queue(plain, "TaskActionQueue")]["Properties"]
    assert tasks["VisibilityTimeout"] == 600 + 30
    redrive = tasks["RedrivePolicy"]
    assert redrive["maxReceiveCount"] >= 100
    dead = redrive["deadLetterTargetArn"]["Fn::GetAtt"][0]
    assert plain["Resources"][dead]["Properties"]["VisibilityTimeout"] >= 600


def test_the_stream_brings_only_what_needs_a_message(plain: Template) -> None:
    (mapping,) = [
        one["Properties"]
        for one in resources(plain, "AWS::Lambda::EventSourceMapping").values()
        if "StartingPosition" in one["Properties"]
    ]
    assert [json.loads(one["Pattern"]) for one in mapping["FilterCriteria"]["Filters"]] == [table.STREAM_FILTER]
    assert mapping["BisectBatchOnFunctionError"] is True
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert 0 < mapping["MaximumRetryAttempts"] < 100
    assert 0 < mapping["MaximumRecordAgeInSeconds"] < 24 * 3600
    assert mapping["DestinationConfig"]["OnFailure"]["Destination"]["Fn::GetAtt"][0] == queue(plain, "Undispatched")


def test_work_takes_one_message_at_a_time(plain: Template) -> None:
    mappings = [
        one["Properties"]
        for one in resources(plain, "AWS::Lambda::EventSourceMapping").values()
        if "StartingPosition" not in one["Properties"]
    ]
    assert len(mappings) == 2  # tasks, and dead letters, whose tasks it ends
    assert all(one["BatchSize"] == 1 for one in mappings)
    assert {one["ScalingConfig"]["MaximumConcurrency"] for one in mappings} == {50, 2}


def test_the_loop_is_not_taken_for_an_accident(plain: Template) -> None:
    functions = [
        one["Properties"] for one in resources(plain, "AWS::Lambda::Function").values() if "Code" in one["Properties"]
    ]
    assert len(functions) == 4
    assert all(one["RecursiveLoop"] == "Allow" for one in functions)


def actions(value: Any) -> Iterator[tuple[str, Any]]:
    """Each action that is allowed somewhere in *value*, with its resource."""
    if isinstance(value, dict):
        if value.get("Effect") == "Allow" and "Action" in value:
            allowed = value["Action"]
            for action in [allowed] if isinstance(allowed, str) else allowed:
                yield action, value.get("Resource")
        for part in value.values():
            yield from actions(part)
    elif isinstance(value, list):
        for part in value:
            yield from actions(part)


def test_rights_are_those_that_are_used(plain: Template) -> None:
    policies = [one["Properties"] for one in resources(plain, "AWS::IAM::Policy").values()]
    allowed = list(actions(policies))
    assert allowed
    for action, resource in allowed:
        assert action != "*"
        assert action not in ("dynamodb:*", "dynamodb:Scan", "dynamodb:DeleteTable", "s3:*", "sqs:*", "sns:*")
        if resource == "*":  # X-Ray and the listing of streams know no resources
            assert action.startswith("xray:") or action == "dynamodb:ListStreams"


def test_executions_that_fail_are_looked_after(plain: Template) -> None:
    patterns = [
        one["Properties"]["EventPattern"]
        for one in resources(plain, "AWS::Events::Rule").values()
        if "EventPattern" in one["Properties"]
    ]
    (pattern,) = patterns
    assert pattern["detail"]["status"] == ["FAILED", "TIMED_OUT", "ABORTED"]
    only(plain, "AWS::Events::Rule", ScheduleExpression="rate(1 minute)")


def test_every_alarm_wakes_somebody(plain: Template) -> None:
    alarms = [one["Properties"] for one in resources(plain, "AWS::CloudWatch::Alarm").values()]
    assert {one["MetricName"] for one in alarms} >= {
        "ApproximateNumberOfMessagesVisible", "IteratorAge", "Errors", "Throttles", "ExecutionsFailed",
    }  # fmt: skip
    assert all(one["AlarmActions"] for one in alarms)


def test_log_groups_forget(plain: Template) -> None:
    groups = resources(plain, "AWS::Logs::LogGroup").values()
    assert len(groups) == 4
    assert all(one["Properties"]["RetentionInDays"] == 30 for one in groups)


def test_the_package_is_named_by_parameters(plain: Template) -> None:
    assert plain["Parameters"]["CodeKey"]["Default"] == "demo.zip"
    assert "BootstrapVersion" not in plain["Parameters"]


def test_cfn_lint_has_nothing_to_say(plain: Template, tmp_path: Path) -> None:
    path = tmp_path / "template.json"
    path.write_text(json.dumps(plain), "utf-8")
    done = subprocess.run(
        [Path(sys.executable).with_name("cfn-lint"), path], capture_output=True, text=True, check=False, timeout=100
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_a_needless_dependency_goes_and_a_needed_one_stays() -> None:
    made = without_needless(
        {"Resources": {"A": {"Properties": {"Role": {"Fn::GetAtt": ["R", "Arn"]}}, "DependsOn": ["P", "R"]}}}
    )
    assert made["Resources"]["A"]["DependsOn"] == ["P"]


def test_the_sample_of_the_documentation_makes_a_stack(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "deploy.md"
    (program,) = re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "shop.py").write_text("", "utf-8")
    (tmp_path / "app.py").write_text(program, "utf-8")
    done = subprocess.run(
        [sys.executable, "app.py"], cwd=tmp_path, env={**os.environ, "CDK_OUTDIR": str(tmp_path / "out")},
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "out" / "shop.template.json").read_text("utf-8"))
    assert only(made, "AWS::Lambda::Function", Timeout=300)["Handler"] == "shop.tasks.handler"


def test_the_table_of_arguments_names_each_argument() -> None:
    page = Path(__file__).parents[2] / "docs" / "deploy.md"
    rows = re.findall(
        r"^\| ((?:`\w+`(?:, )?)+) \| ", page.read_text("utf-8").partition("| argument |")[2], re.MULTILINE
    )
    documented = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    parameters = list(inspect.signature(Taskloom.__init__).parameters)[3:]
    assert documented == parameters


# --- the state machine -----------------------------------------------------------------------------------------------


def inside_maps(value: Any) -> Iterator[Any]:
    """What each Map runs."""
    if isinstance(value, dict):
        if value.get("Type") == "Map":
            yield value["ItemProcessor"]
        for part in value.values():
            yield from inside_maps(part)


def test_nothing_inside_the_map_reads_the_execution() -> None:
    """There it is the child's own."""
    machine = json.loads(definition())
    processors = list(inside_maps(machine))
    assert processors
    for processor in processors:
        assert "$$.Execution" not in json.dumps(processor)


def states(machine: Any) -> Iterator[tuple[str, Any]]:
    for name, state in machine["States"].items():
        yield name, state
        if state["Type"] == "Map":
            yield from states(state["ItemProcessor"])


@pytest.mark.parametrize("name", [name for name, state in states(json.loads(definition())) if state["Type"] == "Task"])
def test_throttles_end_nothing(name: str) -> None:
    """Work that never ran is called again, practically without end."""
    (state,) = [state for other, state in states(json.loads(definition())) if other == name]
    retry = {error: rule for rule in state["Retry"] for error in rule["ErrorEquals"]}
    throttled = retry["Lambda.TooManyRequestsException"]
    assert throttled["MaxAttempts"] >= 10_000_000
    assert throttled["JitterStrategy"] == "FULL"
    assert throttled["MaxDelaySeconds"] <= 300


def test_every_state_leads_to_another_or_ends() -> None:
    def check(machine: Any) -> None:
        names = set(machine["States"])
        reached = {machine["StartAt"]}
        for state in machine["States"].values():
            ways = {state.get("Next"), state.get("Default"), *(one["Next"] for one in state.get("Choices", ()))}
            ways |= {one["Next"] for one in state.get("Catch", ())}
            ways.discard(None)
            assert ways or state.get("End") or state["Type"] in ("Succeed", "Fail")
            reached |= ways
            if state["Type"] == "Map":
                check(state["ItemProcessor"])
        assert reached == names

    check(json.loads(definition()))
