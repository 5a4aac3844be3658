"""The chaos story: workers share one file, are killed and replaced, and the last ones run to the end."""

import random
import signal
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

from taskloom import NewTask, TaskKey, TaskModule
from taskloom.clock import SystemClock
from tests.chaos import worker
from tests.engine.processes import start

TENANT: Final = "mbc"
LOOK_EVERY: Final = 0.01
"""Seconds between two looks at the ledger: how finely kills are placed."""
LONGEST_PAUSE: Final = 0.3
"""Seconds from the progress that calls for a kill to the kill, at most: it may hit any moment."""
PORTIONS: Final = 10
PATIENCE: Final = 60.0
"""Seconds in which something must change; far more than any machine needs, and less than for ever."""

_OPEN: Final = (
    "SELECT (SELECT count(*) FROM tasks WHERE status IN ('P', 'I')) + (SELECT count(*) FROM stream) "
    "+ (SELECT count(*) FROM queue) + (SELECT count(*) FROM executions WHERE status = 'RUNNING')"
)
_WHO: Final = "SELECT pk, code, status FROM tasks WHERE status IN ('P', 'I') LIMIT 5"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much happens."""

    tasks: int
    sub_tasks: int
    kills: int
    workers: int = 3
    seed: int = 0
    """Of the choice of victims and moments."""

    @property
    def most_suicides(self) -> int:
        """Workers that poison may kill before all of it is given up."""
        numbers = [*range(self.tasks), *range(self.sub_tasks)]
        return worker.LIMIT * sum(worker.nature_of(number) is worker.Nature.POISON for number in numbers)


SHORT: Final = Plan(tasks=200, sub_tasks=500, kills=8)
LONG: Final = Plan(tasks=2000, sub_tasks=5000, kills=40, workers=4)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What is left of the story, beside the file."""

    plan: Plan
    database: Path
    keys: Sequence[TaskKey]
    """Of the single tasks, by their number."""
    fan_out: TaskKey
    ledger: Sequence[str]
    """What the handlers wrote, see `worker.define`."""
    began: datetime
    ended: datetime
    kills: int
    """By the killer; the poisonous tasks kill, too."""
    deaths: dict[int, datetime]
    """When each worker that did not live to the end was dead, by its process id."""
    ledger_at_last_death: int
    """Lines."""
    lag: float
    """Seconds that the machine kept this process waiting for nothing: how overloaded it was."""


def tell(plan: Plan, folder: Path) -> Outcome:
    """Tell the story in *folder*, which is empty."""
    story = _Story(plan, folder)
    try:
        return story.tell()
    finally:
        story.clean_up()


@dataclass(slots=True)
class _Ledger:
    """The lines of a file that grows."""

    path: Path
    lines: list[str] = field(default_factory=list)
    _offset: int = 0

    def read(self) -> int:
        """How many lines there are by now; each was written at once."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._offset)
                text = file.read()
            self._offset += len(text)
            self.lines += text.decode().splitlines()
        return len(self.lines)


class _Story:
    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan = plan
        self._database = folder / "tasks.db"
        self._ledger = _Ledger(folder / "ledger")
        self._module = TaskModule.register(settings=worker.settings(self._database))
        self._clock = SystemClock()
        self._random = random.Random(plan.seed)
        self._processes: list[BaseProcess] = []
        self._keys: list[TaskKey] = []
        self._kills = 0
        self._suicides = 0
        self._most_suicides = plan.most_suicides
        self._deaths: dict[int, datetime] = {}
        self._ledger_at_last_death = 0
        self._lag = 0.0

    def tell(self) -> Outcome:
        plan, began = self._plan, self._clock.now()
        fan_out = self._module.sync.task_service.create_step_function_task(
            tenant_code=TENANT, task_type=worker.FAN_OUT, input=range(plan.sub_tasks)
        )
        self._live_through(self._events())
        ended = self._clock.now()
        self._stop()
        self._ledger.read()
        return Outcome(
            plan=plan,
            database=self._database,
            keys=self._keys,
            fan_out=fan_out.key,
            ledger=self._ledger.lines,
            began=began,
            ended=ended,
            kills=self._kills,
            deaths=self._deaths,
            ledger_at_last_death=self._ledger_at_last_death,
            lag=self._lag,
        )

    def clean_up(self) -> None:
        """End what the story started."""
        for process in self._processes:
            process.kill()
            process.join()
        self._module.close()

    def _events(self) -> list[tuple[int, Callable[[], None]]]:
        """What happens when the ledger has so many lines, in that order.

        Everything is reached: the fan-out alone writes a line per sub-task, and all together one per task.
        """
        plan = self._plan
        portions = [(plan.sub_tasks * number // (2 * PORTIONS), self._create) for number in range(PORTIONS)]
        lines = (plan.tasks + plan.sub_tasks) * 9 // 10
        kills = [(lines * (number + 1) // plan.kills, self._kill) for number in range(plan.kills)]
        return sorted([*portions, *kills], key=lambda event: event[0])

    def _create(self) -> None:
        """One portion more of the single tasks, so that they and the fan-out run side by side."""
        size = -(-self._plan.tasks // PORTIONS)
        numbers = range(len(self._keys), min(self._plan.tasks, len(self._keys) + size))
        new = [NewTask(tenant_code=TENANT, task_type=worker.type_of(number), input=number) for number in numbers]
        self._keys += [task.key for task in self._module.sync.task_service.create_tasks(new)]

    def _kill(self) -> None:
        self._wait(self._random.uniform(0, LONGEST_PAUSE))
        self._bury()  # whoever died by itself meanwhile was not killed here
        victim = self._random.choice(self._processes)
        victim.kill()
        victim.join()
        self._kills += 1
        self._bury(victim)

    def _bury(self, victim: BaseProcess | None = None) -> None:
        """Note who is dead, *victim* by our hand, and start others in their place."""
        for process in [process for process in self._processes if process.exitcode is not None]:
            assert process.exitcode == -signal.SIGKILL, f"a worker ended with {process.exitcode}"
            assert process.pid is not None
            self._processes.remove(process)
            self._deaths[process.pid] = self._clock.now()
            self._ledger_at_last_death = self._ledger.read()
            self._suicides += process is not victim
            assert self._suicides <= self._most_suicides, "poison is never given up"
        while len(self._processes) < self._plan.workers:
            self._processes.append(start(worker.run, self._database, self._ledger.path))

    def _live_through(self, events: list[tuple[int, Callable[[], None]]]) -> None:
        connection = sqlite3.connect(self._database, timeout=60, isolation_level=None)
        try:
            seen, since = (-1, -1), self._clock.now()
            while True:
                self._bury()
                lines = self._ledger.read()
                while events and events[0][0] <= lines:
                    events.pop(0)[1]()
                (left,) = connection.execute(_OPEN).fetchone()
                if not left and not events:
                    return
                if seen != (lines, left):
                    seen, since = (lines, left), self._clock.now()
                if self._clock.now() - since > timedelta(seconds=PATIENCE):
                    raise AssertionError(
                        f"nothing happens any more, but open are {connection.execute(_WHO).fetchall()}"
                    )
                self._wait(LOOK_EVERY)
        finally:
            connection.close()

    def _wait(self, seconds: float) -> None:
        before = self._clock.now()
        threading.Event().wait(seconds)
        self._lag += max(0.0, (self._clock.now() - before).total_seconds() - seconds)

    def _stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(PATIENCE)
            # By the signal itself: it had not come so far as to listen to it.
            assert process.exitcode in (0, -signal.SIGTERM), f"a worker ended with {process.exitcode}"
        self._processes.clear()
