"""Starts MiniStack with what AWS does and it does not. Runs in the emulator's own environment: see `emulator.py`.

1. No Nagle delay on its inner servers: saves 45 ms per call of a `provided.*` function.
2. A shorter wait for a first log line after a warm call (50 ms where a handler logs nothing).
3. StartExecution with the name and the input of a running execution gives that execution.
4. Step Functions sees the throttles of Lambda as `Lambda.TooManyRequestsException`.
5. `errorType` of a Python exception is the name of its class.
6. `MaxConcurrencyPath` of a Map counts; and no Map makes more calls at a time than TASKLOOM_MAP_AT_ONCE says, if it is
   set: each of them is a process.
"""

import json
import os
import re
import socketserver
from typing import Any

socketserver.StreamRequestHandler.disable_nagle_algorithm = True

from ministack.core import lambda_runtime  # noqa: E402 - behind the switch above
from ministack.services import lambda_svc, stepfunctions  # noqa: E402

_drain: Any = lambda_runtime.Worker._drain_stderr_bounded
_drain.__defaults__ = (float(os.environ.get("MINISTACK_FIRST_LINE_WAIT", "0.003")), *_drain.__defaults__[1:])

_start_execution = stepfunctions._start_execution
_call_lambda = stepfunctions._call_lambda
_execute_warm = lambda_svc._execute_function_warm
_run_map_items = stepfunctions._run_map_items
_map_at_once = int(os.environ.get("TASKLOOM_MAP_AT_ONCE", "0"))


def start_execution(data: dict[str, Any]) -> Any:
    machine, name = stepfunctions._state_machines.get(data.get("stateMachineArn", "")), data.get("name")
    if machine and name:
        arn = machine["stateMachineArn"].replace(":stateMachine:", ":execution:") + f":{name}"
        execution = stepfunctions._executions.get(arn)
        if execution and execution["status"] == "RUNNING" and execution["input"] == data.get("input", "{}"):
            answer = {"executionArn": execution["executionArn"], "startDate": execution["startDate"]}
            return stepfunctions.json_response(answer)
    return _start_execution(data)


def call_lambda(reference: Any, event: Any) -> Any:
    try:
        return _call_lambda(reference, event)
    except stepfunctions._ExecutionError as error:
        if error.error == "Lambda.Unknown" and '"TooManyRequestsException"' in str(error.cause):
            message = json.loads(error.cause).get("message", "")
            raise stepfunctions._ExecutionError("Lambda.TooManyRequestsException", message) from None
        raise


def execute_warm(function: Any, event: Any, request_id: Any) -> Any:
    answer = _execute_warm(function, event, request_id)
    body = answer.get("body")
    if answer.get("error") and isinstance(body, dict) and body.get("errorType") == "Runtime.HandlerError":
        lines = (answer.get("log") or "").rpartition("Traceback (most recent call last):")[2].splitlines()[1:]
        names = (re.match(r"([A-Za-z_][\w.<>]*)", line) for line in lines if line and not line.startswith(" "))
        name = next((found for found in names if found), None)
        if name is not None:
            body["errorType"] = name.group(1).rsplit(".", 1)[-1]
    return answer


def run_map_items(state: dict[str, Any], raw_input: Any, execution: Any, context: Any) -> Any:
    at_once = int(state.get("MaxConcurrency") or 0)
    if "MaxConcurrencyPath" in state:
        effective = stepfunctions._apply_input_path(state, raw_input, context)
        at_once = int(stepfunctions._resolve_path_or_ctx(state["MaxConcurrencyPath"], effective, context))
    limits = [limit for limit in (at_once, _map_at_once) if limit > 0]
    return _run_map_items({**state, "MaxConcurrency": min(limits, default=0)}, raw_input, execution, context)


stepfunctions._run_map_items = run_map_items
stepfunctions._start_execution = start_execution
stepfunctions._call_lambda = call_lambda
lambda_svc._execute_function_warm = execute_warm

from ministack.app import main  # noqa: E402 - as it is now

main()
