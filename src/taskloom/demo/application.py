"""The demonstration's task module: a single task for the inventory, a fan-out for the fingerprints."""

import json
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from taskloom.demo import names
from taskloom.demo.fingerprint import Fingerprint
from taskloom.demo.inventory import read_list, write_list
from taskloom.errors import TaskloomError
from taskloom.events.task_events import StepFunctionTaskEvent, TaskQueueEvent
from taskloom.module import FanOutFunction, SingleTaskFunction, TaskModule
from taskloom.settings import Settings

TENANT: Final = "demo"
INVENTORY: Final = "inventory"
FINGERPRINT: Final = "fingerprint"
SECONDS_PER_FILE: Final = 120.0
"""After that long a file counts as one that cannot be read: it may lie on a server that is gone."""


class NotFingerprinted(TaskloomError):
    """Fails the sub-task of a file; what is known of the file nevertheless travels in the message."""

    def __init__(self, known: Fingerprint) -> None:
        self.known = known
        fields = {name: value for name, value in known.to_json().items() if name != "error" and value is not None}
        super().__init__(f"{known.error} {json.dumps(fields)}")

    def __reduce__(self) -> tuple[type["NotFingerprinted"], tuple[Fingerprint]]:
        return type(self), (self.known,)

    @staticmethod
    def read(message: str) -> Fingerprint:
        """What a message of this class knows of the file; of any other message only that it is the reason."""
        reason, brace, fields = message.rpartition(" {")
        try:
            return Fingerprint(error=reason, **json.loads(brace.strip() + fields))
        except (ValueError, TypeError):
            return Fingerprint(error=message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """The module and its two tasks."""

    module: TaskModule
    inventory: SingleTaskFunction[[TaskQueueEvent[Any]], dict[str, Any]]
    fingerprint: FanOutFunction[[StepFunctionTaskEvent[Any]], Coroutine[Any, Any, dict[str, Any]]]


def application(out: Path, database: Path, read: Callable[[str], Awaitable[Fingerprint]]) -> Application:
    """The demonstration over *database*; *read* takes the fingerprint of a file."""
    # NORMAL: each run begins with an empty database, so there is nothing that a power cut could take.
    module = TaskModule.register(settings=Settings(database=database, synchronous="NORMAL", retry=None))

    @module.task(INVENTORY)
    def inventory(event: TaskQueueEvent[Any]) -> dict[str, Any]:
        root = names.from_json("root", event.task.input)
        target = out / f"{INVENTORY}.jsonl"
        return write_list(root, str(out), target, on_file=lambda count: event.progress(count, message="files so far"))

    @module.step_function_task(FINGERPRINT, timeout=SECONDS_PER_FILE, tolerated_failure_percentage=100)
    async def fingerprint(event: StepFunctionTaskEvent[Any]) -> dict[str, Any]:
        file = event.input.input
        if "problem" in file:
            raise NotFingerprinted(Fingerprint(error=file["problem"]))
        found = await read(os.path.join(names.from_json("root", file), names.from_json("path", file)))
        if found.error is not None:
            raise NotFingerprinted(found)
        return found.to_json()

    return Application(module=module, inventory=inventory, fingerprint=fingerprint)


def sub_task_inputs(root: str, listed: Path) -> Iterator[dict[str, str]]:
    """One input per line of the inventory *listed*: the file's path, and the folder that it is relative to."""
    where = names.to_json("root", root)
    for file in read_list(listed):
        yield where | file
