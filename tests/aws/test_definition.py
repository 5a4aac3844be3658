"""The state machine's definition: what Step Functions would refuse, and what must never stand in it."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest

from taskloom.aws import steps
from taskloom.aws.state_machine import FUNCTION, definition

MACHINE: Final[dict[str, Any]] = json.loads(definition("arn:function"))
MAX_ATTEMPTS: Final = 99_999_999
"""Source: AWS Step Functions developer guide, "Retrying after an error"."""
SERVICE_ERRORS: Final = {
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.ClientExecutionTimeoutException",
}


def machines(machine: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """*machine*, and those within its Maps."""
    yield machine
    for state in machine["States"].values():
        if state["Type"] == "Map":
            yield from machines(state["ItemProcessor"])


def tasks() -> list[tuple[str, Mapping[str, Any]]]:
    return [
        (name, state)
        for machine in machines(MACHINE)
        for name, state in machine["States"].items()
        if state["Type"] == "Task"
    ]


def test_the_function_is_filled_in() -> None:
    assert FUNCTION not in definition("arn:function")
    assert {state["Parameters"]["FunctionName"] for _, state in tasks()} == {"arn:function"}


def test_every_state_is_reached_and_leads_on() -> None:
    for machine in machines(MACHINE):
        states, reached = machine["States"], {machine["StartAt"]}
        for state in states.values():
            following = [state.get("Next"), state.get("Default"), *(rule["Next"] for rule in state.get("Choices", ()))]
            reached |= {name for name in following if name is not None}
            ways = sum((bool(state.get("End")), "Next" in state, state["Type"] in ("Choice", "Succeed")))
            assert ways == 1, state
        assert reached == set(states)


def test_inside_the_map_nothing_reads_the_execution() -> None:
    """There it is the child's own."""
    text = json.dumps(MACHINE["States"]["Map"]["ItemProcessor"])
    assert "$$.Execution" not in text
    assert "$$." not in text


def test_the_map_is_distributed_and_lets_all_chunks_run() -> None:
    found = MACHINE["States"]["Map"]
    assert found["ItemProcessor"]["ProcessorConfig"] == {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}
    assert found["MaxConcurrencyPath"] == "$.atOnce"
    assert found["ToleratedFailurePercentage"] == 100
    assert set(found["ItemSelector"]) == {"step", "pk.$", "sk.$", "run.$", "chunk.$"}


@pytest.mark.parametrize(("name", "state"), tasks())
def test_throttles_are_retried_without_a_limit_that_matters(name: str, state: Mapping[str, Any]) -> None:
    """And other errors of the service with one: with jitter and a longest pause, both."""
    throttles, others = state["Retry"]
    assert throttles["ErrorEquals"] == ["Lambda.TooManyRequestsException"]
    assert throttles["MaxAttempts"] == MAX_ATTEMPTS
    assert set(others["ErrorEquals"]) in (SERVICE_ERRORS, {"States.ALL"})
    assert 1 < others["MaxAttempts"] < 50
    for rule in (throttles, others):
        assert rule["JitterStrategy"] == "FULL"
        assert 0 < rule["MaxDelaySeconds"] <= 300


def test_a_crashed_chunk_is_not_retried_at_once() -> None:
    """Its suspect still has a lease: Collect finds it left, and the next pass calls it again."""
    (chunk,) = MACHINE["States"]["Map"]["ItemProcessor"]["States"].values()
    errors = {error for rule in chunk["Retry"] for error in rule["ErrorEquals"]}
    assert not errors & {"States.ALL", "States.TaskFailed", "Lambda.Unknown"}


def test_the_steps_are_those_of_the_function() -> None:
    asked = {state["Parameters"]["Payload"]["step"] for _, state in tasks() if "Payload" in state["Parameters"]}
    assert asked | {MACHINE["States"]["Map"]["ItemSelector"]["step"]} == {steps.CHUNK, steps.COLLECT, steps.FINALIZE}
