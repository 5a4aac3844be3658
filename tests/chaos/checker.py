"""What must hold at the end of the chaos story, and its figures."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Final, NamedTuple

from taskloom import TaskEntity, TaskModule, TaskStatus
from taskloom.model import HistoryEntry, Kind
from taskloom.policy import is_tolerated
from tests.chaos import worker
from tests.chaos.story import Outcome
from tests.chaos.worker import LEASE, LIMIT, PLAIN, THREAD, Nature
from tests.support.rules import check_rules
from tests.support.scenarios import check_counters, check_history

IN_PROGRESS, COMPLETED, FAILED = TaskStatus.IN_PROGRESS, TaskStatus.COMPLETED, TaskStatus.FAILED

SLACK: Final = 10.0
"""Seconds from the end of a lease to whatever must follow, on a machine that is not overloaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the story was like."""

    tasks: int
    sub_tasks: int
    kills: int
    """By the killer."""
    suicides: int
    """Workers that poisonous tasks killed."""
    attempts_lost: int
    lost_alive: int
    """Those of them whose worker was alive when its lease ended, because the machine was slow."""
    ran_more_than_once: int
    """Tasks and sub-tasks whose handler was called again."""
    completed: int
    failed: int
    worker_died: int
    """Those that were given up because their workers died too often."""
    longest_wait: float
    """Seconds from the death of a worker to the next attempt at a single task that it ran, or its end; its turn in the
    queue is part of it."""
    longest_wait_of_sub_tasks: float
    """The same of sub-tasks, which wait until the state machine comes again to their chunk."""
    longest_wait_after_last_kill: float
    """Seconds from the last death to the last attempt or end of what had lost its worker."""
    longest_silence: float
    """Seconds in which nothing changed its status although something was open."""
    tail: float
    """Seconds from the last death to the last end."""
    seconds: float
    lag: float

    def __str__(self) -> str:
        rows = [
            ("tasks, sub-tasks", f"{self.tasks:,}, {self.sub_tasks:,}"),
            ("completed, failed", f"{self.completed:,}, {self.failed:,}"),
            ("workers killed", f"{self.kills} by the killer, {self.suicides} by poisonous tasks"),
            ("attempts lost", f"{self.attempts_lost:,} ({self.lost_alive} of workers that were alive)"),
            ("ran more than once", f"{self.ran_more_than_once:,}"),
            ("given up, worker died", f"{self.worker_died:,}"),
            (
                "longest waits",
                f"{self.longest_wait:.1f} s (sub-tasks: {self.longest_wait_of_sub_tasks:.1f} s) from a kill to the "
                "next attempt, queues included",
            ),
            ("… after the last kill", f"{self.longest_wait_after_last_kill:.1f} s (lease: {LEASE:g} s)"),
            ("longest silence", f"{self.longest_silence:.1f} s"),
            ("last kill to the end", f"{self.tail:.1f} s"),
            ("duration", f"{self.seconds:.1f} s (the machine lagged for {self.lag:.1f} s of them)"),
        ]
        return "\n".join(f"{name:<24}{value}" for name, value in rows)


class _Lost(NamedTuple):
    """An attempt that did not come to its end."""

    kind: Kind
    pid: int
    next_at: datetime
    """When the next one began, or the task was given up."""


def check(outcome: Outcome) -> Figures:
    """Assert that the story ended as it must; its figures."""
    check_rules(outcome.database)
    singles, parent, subs = asyncio.run(_read(outcome))
    assert len(singles) == outcome.plan.tasks
    assert len(subs) == outcome.plan.sub_tasks
    _check_fan_out(parent, subs)
    began, done = _attempts(outcome.ledger)
    lost: list[_Lost] = []
    for task in [*singles, *subs]:
        _check_once(task)
        of_task = _lost(task)
        _check_end(task, len(of_task))
        if task.status is COMPLETED:
            _check_result(task, done)
        lost += of_task
    figures = _figures(outcome, [*singles, *subs], parent, began, lost)
    _check_waits(outcome, figures)
    return figures


async def _read(outcome: Outcome) -> tuple[list[TaskEntity], TaskEntity, list[TaskEntity]]:
    module = TaskModule.register(settings=worker.settings(outcome.database))
    service = module.task_service
    try:
        singles = {task.key: task async for task in service.iter_tasks(outcome.fan_out.tenant_code)}
        return (
            [singles[key] for key in outcome.keys],
            await service.get_task(outcome.fan_out),
            [sub async for sub in service.iter_sub_tasks(outcome.fan_out)],
        )
    finally:
        await module.aclose()


def _attempts(ledger: Sequence[str]) -> tuple[Counter[str], Counter[tuple[str, int, int]]]:
    """Calls of each task's handler; and how often each attempt, in its process, came to its last line."""
    began: Counter[str] = Counter()
    done: Counter[tuple[str, int, int]] = Counter()
    for line in ledger:
        moment, attempt, pid, task = line.split(" ", 3)
        if moment == "began":
            began[task] += 1
        else:
            done[task, int(attempt), int(pid)] += 1
    return began, done


def _check_fan_out(parent: TaskEntity, subs: Sequence[TaskEntity]) -> None:
    _check_once(parent)
    check_counters(parent, subs)
    failed = sum(sub.status is FAILED for sub in subs)
    well = is_tolerated(failed, len(subs), worker.TOLERATED)
    assert parent.status is (COMPLETED if well else FAILED), parent.id


def _check_once(task: TaskEntity) -> None:
    """The task has ended, once, and its history says how."""
    assert task.is_terminal, f"{task.id} is {task.status}"
    check_history(task)
    ends = [entry for entry in task.history if entry.status.is_terminal]
    assert len(ends) == 1, f"{task.id} ended {len(ends)} times in one run"
    assert task.run == 1
    assert (ends[0].run, ends[0].attempt) == (task.run, task.attempt), task.id


def _lost(task: TaskEntity) -> list[_Lost]:
    """The attempts of *task* whose lease ended."""
    given_up = task.error is not None and task.error.type == "WorkerDied"
    return [
        _Lost(task.kind, _pid(before), after.at)
        for before, after in pairwise(task.history)
        if before.status is IN_PROGRESS and (after.status is IN_PROGRESS or (after is task.history[-1] and given_up))
    ]


def _pid(entry: HistoryEntry) -> int:
    assert entry.by is not None
    return int(entry.by.split("/")[1])  # host/process/token, see Worker.name


def _check_end(task: TaskEntity, lost: int) -> None:
    """The task ended as its handler does, or because its workers died too often."""
    nature, error = worker.nature_of(task.input), task.error
    if error is not None and error.type == "WorkerDied":
        assert task.status is FAILED
        assert task.attempt == LIMIT, f"{task.id} was given up after attempt {task.attempt}"
        times = f"the worker died {lost} time" + "s" * (lost > 1)
        assert error.message == (times if lost == LIMIT else f"{times}, in {LIMIT} attempts")
        # Who also fails by itself has had fewer dead workers than attempts.
        assert lost >= 1 if nature in (Nature.FLAKY, Nature.BROKEN) else lost == LIMIT, f"{task.id} lost {lost}"
        return
    assert lost < LIMIT, f"{task.id} lost {lost} attempts"
    assert nature is not Nature.POISON, f"{task.id} lived"
    if nature is Nature.BROKEN:
        assert task.status is FAILED
        assert error is not None
        assert (error.type, error.will_retry) == ("ValueError", False)
        assert task.attempt == (lost + 1 if task.task_type in (PLAIN, THREAD) else LIMIT)
    else:
        assert task.status is COMPLETED, f"{task.id}: {error}"


def _check_result(task: TaskEntity, done: Counter[tuple[str, int, int]]) -> None:
    """The stored result is from the attempt that the history names, and that one was run once."""
    end = task.history[-1]
    expected: Any = {"number": task.input, "attempt": end.attempt, "pid": _pid(end)}
    assert task.result == expected, f"{task.id}: {task.result} is not from {end}"
    (claim,) = (e for e in task.history if e.status is IN_PROGRESS and e.attempt == end.attempt)
    assert claim.by == end.by, f"{task.id} was claimed by {claim.by} and ended by {end.by}"
    assert done[task.id, end.attempt, _pid(end)] == 1, task.id


def _figures(
    outcome: Outcome, tasks: Sequence[TaskEntity], parent: TaskEntity, began: Counter[str], lost: Sequence[_Lost]
) -> Figures:
    deaths = outcome.deaths
    last_death = max(deaths.values(), default=outcome.began)
    changes = sorted(entry.at for task in [parent, *tasks] for entry in task.history)
    statuses = Counter(task.status for task in tasks)

    def seconds(span: timedelta) -> float:
        return max(0.0, span.total_seconds())

    def longest(kind: Kind) -> float:
        waits = (a.next_at - deaths[a.pid] for a in lost if a.kind is kind and a.pid in deaths)
        return max(map(seconds, waits), default=0.0)

    return Figures(
        tasks=outcome.plan.tasks,
        sub_tasks=outcome.plan.sub_tasks,
        kills=outcome.kills,
        suicides=len(deaths) - outcome.kills,
        attempts_lost=len(lost),
        lost_alive=sum(attempt.pid not in deaths or attempt.next_at < deaths[attempt.pid] for attempt in lost),
        ran_more_than_once=sum(calls > 1 for calls in began.values()),
        completed=statuses[COMPLETED],
        failed=statuses[FAILED],
        worker_died=sum(task.error is not None and task.error.type == "WorkerDied" for task in tasks),
        longest_wait=longest(Kind.TASK),
        longest_wait_of_sub_tasks=longest(Kind.SUB_TASK),
        longest_wait_after_last_kill=max((seconds(a.next_at - last_death) for a in lost), default=0.0),
        longest_silence=max(seconds(after - before) for before, after in pairwise(changes)),
        tail=seconds(changes[-1] - last_death),
        seconds=seconds(outcome.ended - outcome.began),
        lag=outcome.lag,
    )


def _check_waits(outcome: Outcome, figures: Figures) -> None:
    """Nothing waits longer than one lease, but for its turn.

    While something is open, something happens at least once per lease; and after the last death it takes one lease
    until all that was lost goes on, beside the work that was still to be done then. How long that takes is learned
    from the story itself, and an overloaded machine gets the time that it kept everybody waiting.
    """
    allowed = LEASE + SLACK + outcome.lag
    assert figures.longest_silence <= allowed, f"nothing happened for {figures.longest_silence} s"
    before = figures.seconds - figures.tail
    work = before * (len(outcome.ledger) - outcome.ledger_at_last_death) / max(1, outcome.ledger_at_last_death)
    assert figures.longest_wait_after_last_kill <= allowed + work, f"waited {figures.longest_wait_after_last_kill} s"
    assert figures.tail <= allowed + work, f"ended {figures.tail} s after the last death"
