"""`ports.Steps` on AWS: refused, before a step is run, so that nothing is done that would not be recorded."""

from taskloom.errors import InvalidInput
from taskloom.lifecycle import Change, Refused, Written
from taskloom.model import TaskKey
from taskloom.ports import Step, StepKind


class RefusedSteps:
    """Keeps none."""

    async def get(self, key: TaskKey, kind: StepKind, name: str) -> Step | None:  # noqa: ARG002
        """See `ports.Steps`. Raises: InvalidInput."""
        raise _refused(kind)

    async def find(self, token: str) -> Step | None:  # noqa: ARG002
        """See `ports.Steps`. There is none."""
        return None

    async def put(self, step: Step, change: Change, *, chunk: int | None = None) -> Written | Refused | Step:  # noqa: ARG002
        """See `ports.Steps`. Raises: InvalidInput."""
        raise _refused(step.kind)


def _refused(kind: StepKind) -> InvalidInput:
    return InvalidInput(str(kind), "is refused by the backend 'aws'", "save with checkpoint, and go on with Continue")
