"""StepFunctionService: the state machine, for application code."""

from taskloom.errors import ExecutionNotFound, InvalidInput, TaskTokenNotFound, TaskTokenUsed
from taskloom.operations.callbacks import Callbacks
from taskloom.ports import Backend, Execution, ExecutionInput
from taskloom.values import Json, check


class StepFunctionService:
    """Starts and describes executions of the state machine that runs fan-outs. The same on every backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._callbacks = Callbacks(backend)

    async def start_execution(self, *, name: str, input: ExecutionInput) -> Execution:
        """The execution *name*; when there is one of that name already, that one, unchanged.

        Workers call it for every step function task. Raises: InvalidInput.
        """
        if not isinstance(name, str) or not 0 < len(name) <= 80:
            # Source: AWS Step Functions API reference, StartExecution, "name".
            raise InvalidInput("name", f"{name!r} is no name of an execution", "give 1 to 80 characters")
        return await self._backend.machine.start(name, input)

    async def describe_execution(self, execution_arn: str) -> Execution:
        """Where the execution stands; PENDING while its step function task waits for a worker.

        Raises: ExecutionNotFound.
        """
        execution = await self._backend.machine.describe(execution_arn)
        if execution is not None:
            return execution
        raise ExecutionNotFound(f"there is no execution {execution_arn}")

    async def resume_execution(self, task_token: str, output: Json = None) -> None:
        """Hand *output* to whoever waits for *task_token*: a task (see `TaskService.resume`), or a step.

        Raises: TaskTokenNotFound, TaskTokenUsed, InvalidInput.
        """
        check(output, "output")
        try:
            await self._callbacks.resume(task_token, output)
        except TaskTokenUsed:
            raise
        except TaskTokenNotFound:
            await self._backend.machine.resume(task_token, output)
