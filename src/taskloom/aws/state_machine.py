"""`ports.StateMachine` over Step Functions.

The machine's definition is `state_machine.asl.json`. Its steps are pushed to a Lambda function: `entry` does them.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final

from taskloom.aws.clients import Clients
from taskloom.aws.refusals import refusal
from taskloom.clock import from_milliseconds, to_milliseconds
from taskloom.errors import InvalidInput, StoreError, TaskTokenNotFound
from taskloom.model import TaskKey
from taskloom.ports import Delivery, Execution, ExecutionInput, ExecutionStatus, StepOutcome
from taskloom.values import Json, encode

SERVICE: Final = "stepfunctions"
FUNCTION: Final = "${ChunkFunctionArn}"
"""What stands in the definition for the function that does the steps; CloudFormation fills it in, too."""
STATE_BYTES: Final = 256 * 1024
"""Input and output of a state, of an execution, and of a task token's answer (source: AWS Step Functions developer
guide, "Service quotas")."""
MAX_TOKEN: Final = 2048
"""Characters of a task token (source: AWS Step Functions API reference, SendTaskSuccess)."""

_STATUS: Final[Mapping[str, ExecutionStatus]] = {
    "RUNNING": ExecutionStatus.RUNNING,
    "PENDING_REDRIVE": ExecutionStatus.FAILED,
    "SUCCEEDED": ExecutionStatus.SUCCEEDED,
    "FAILED": ExecutionStatus.FAILED,
    "TIMED_OUT": ExecutionStatus.FAILED,
    "ABORTED": ExecutionStatus.ABORTED,
}
_NO_EXECUTION: Final = frozenset({"ExecutionDoesNotExist", "InvalidArn"})
_NO_TOKEN: Final = frozenset({"TaskDoesNotExist", "InvalidToken", "TaskTimedOut"})

Promised = Callable[[str, str], Awaitable[bool]]
"""Whether a step function task that has not ended has this code and names this ARN."""


def definition(function_arn: str) -> str:
    """The definition of the state machine whose steps the function *function_arn* does, as JSON."""
    return files("taskloom.aws").joinpath("state_machine.asl.json").read_text("utf-8").replace(FUNCTION, function_arn)


class StepFunctionsStateMachine:
    """Executions of one state machine."""

    def __init__(self, clients: Clients, state_machine_arn: str, promised: Promised) -> None:
        self._clients = clients
        self._machine_arn = state_machine_arn
        self._prefix = state_machine_arn.replace(":stateMachine:", ":execution:") + ":"
        self._promised = promised

    def arn(self, name: str) -> str:
        """See `ports.StateMachine`."""
        return self._prefix + name

    async def start(self, name: str, input: ExecutionInput) -> Execution:
        """See `ports.StateMachine`.

        The name of a running execution with the same input gives that one; any other name that was used is refused,
        and the execution is looked at (source: API reference, StartExecution, "idempotent").
        """
        text = input_text(input)
        try:
            answer = await self._clients.call(
                SERVICE, "start_execution", stateMachineArn=self._machine_arn, name=name, input=text
            )
        except StoreError as error:
            if refusal(error) != "ExecutionAlreadyExists":
                raise
            found = await self._find(self.arn(name))
            if found is None:
                raise
            return found
        return Execution(
            arn=answer["executionArn"],
            name=name,
            status=ExecutionStatus.RUNNING,
            input=_input(text),
            started_at=_time(answer["startDate"]),
            stopped_at=None,
        )

    async def describe(self, arn: str) -> Execution | None:
        """See `ports.StateMachine`."""
        if not arn.startswith(self._prefix):
            return None
        found = await self._find(arn)
        if found is not None:
            return found
        name = arn.removeprefix(self._prefix)
        if not await self._promised(name.partition("-")[0], arn):
            return None
        return Execution(
            arn=arn, name=name, status=ExecutionStatus.PENDING, input=None, started_at=None, stopped_at=None
        )

    async def report(self, delivery: Delivery, outcome: StepOutcome) -> None:
        """See `ports.StateMachine`. Nothing to do: the outcome is what the function returns."""

    async def revive(self, key: TaskKey, run: int) -> bool:  # noqa: ARG002 - Step Functions looks after it
        """See `ports.StateMachine`. A running execution never loses what is on its way."""
        return False

    async def hurry(self, key: TaskKey, run: int) -> None:
        """See `ports.StateMachine`. Chunks that run notice by themselves; an execution that waits for what is left is
        stopped, and what its end sets off finishes the fan-out."""
        code = key.parts.code
        arn = self.arn(code if run == 1 else f"{code}-{run}")
        try:
            history = await self._clients.call(
                SERVICE,
                "get_execution_history",
                executionArn=arn,
                reverseOrder=True,
                maxResults=1,
                includeExecutionData=False,
            )
            if history["events"] and history["events"][0]["type"] == "WaitStateEntered":
                await self._clients.call(
                    SERVICE, "stop_execution", executionArn=arn, cause="the fan-out is to end, and only waits"
                )
        except StoreError as error:
            if refusal(error) not in _NO_EXECUTION:
                raise

    async def resume(self, task_token: str, output: Json) -> None:
        """See `ports.StateMachine`."""
        text = encode(output, "output")
        if len(text.encode()) > STATE_BYTES:
            raise InvalidInput("output", f"has over {STATE_BYTES} bytes", "put it elsewhere, and hand over where")
        if not 0 < len(task_token) <= MAX_TOKEN:
            raise TaskTokenNotFound("nobody waits for this task token (any more)")
        try:
            await self._clients.call(SERVICE, "send_task_success", taskToken=task_token, output=text)
        except StoreError as error:
            if refusal(error) in _NO_TOKEN:
                raise TaskTokenNotFound("nobody waits for this task token (any more)") from error
            raise

    async def _find(self, arn: str) -> Execution | None:
        try:
            answer = await self._clients.call(SERVICE, "describe_execution", executionArn=arn)
        except StoreError as error:
            if refusal(error) in _NO_EXECUTION:
                return None
            raise
        stopped = answer.get("stopDate")
        return Execution(
            arn=answer["executionArn"],
            name=answer["name"],
            status=_STATUS[answer["status"]],
            input=_input(answer["input"]),
            started_at=_time(answer["startDate"]),
            stopped_at=None if stopped is None else _time(stopped),
        )


def input_text(input: ExecutionInput) -> str:
    """What an execution is started with. Raises: InvalidInput when it is more than Step Functions takes."""
    todo: Sequence[int] = range(input.chunks) if input.todo is None else input.todo
    state = {
        "pk": input.key.pk,
        "sk": input.key.sk,
        "run": input.run,
        "count": input.chunks,
        "atOnce": input.at_once,
        "todo": list(todo),
    }
    text = json.dumps(state, separators=(",", ":"))
    if len(text) > STATE_BYTES:
        raise InvalidInput("input", f"makes a state of {len(text)} bytes", f"Step Functions takes {STATE_BYTES}")
    return text


def input_of(state: Mapping[str, Any]) -> ExecutionInput:
    """What an execution with this state runs. Raises: InvalidInput when it is none of ours."""
    try:
        return ExecutionInput(
            key=TaskKey(state["pk"], state["sk"]), run=state["run"], chunks=state["count"], at_once=state["atOnce"]
        )
    except (KeyError, TypeError) as error:
        raise InvalidInput("state", f"is not that of a fan-out: {error!r}", "start executions through tasks") from error


def _input(text: str) -> ExecutionInput | None:
    try:
        return input_of(json.loads(text))
    except ValueError:  # started by hand, with something else; InvalidInput is one
        return None


def _time(instant: datetime) -> datetime:
    return from_milliseconds(to_milliseconds(instant.astimezone(UTC)))
