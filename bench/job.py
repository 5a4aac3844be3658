"""What one measurement is asked to do, and what it answers."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TypeAlias

Figures: TypeAlias = dict[str, float]
"""The figures of one measurement by the name of their metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One measurement. It runs in a process and a folder of its own."""

    folder: str
    """An empty folder for the database; removed afterwards."""
    count: int
    """Tasks, sub-tasks, or samples of a latency."""
    concurrency: int
    """Handlers at a time in each worker process of Taskloom."""
    processes: int = 1
    """Worker processes."""
    old: int = 0
    """Finished tasks that lie in the database before."""
    waiting: int = 0
    """Tasks that wait in the queue before."""

    def text(self) -> str:
        """The job as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> "Job":
        """The job of its JSON."""
        return cls(**json.loads(text))


Measurement: TypeAlias = Callable[[Job], Figures]
