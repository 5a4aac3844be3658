"""Claims that are lost by real changes of a real store, and the writes that come too late then (rules 2 and 3).

A *scene* is a task as somebody has read it. A *loss* is what others do with that task afterwards, step by step; a *late
write* is what the one who knows nothing of it still wants to write.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from taskloom import lifecycle
from taskloom.lifecycle import Change, Claimant
from taskloom.model import Failure, FanOut, Kind, TaskEntity, TaskOptions, TaskStatus
from taskloom.ports import Backend, ChunkRow
from taskloom.values import EncodedJson
from tests.support.clock import FakeClock
from tests.support.rows import LEASE, Rows

PENDING, IN_PROGRESS = TaskStatus.PENDING, TaskStatus.IN_PROGRESS
COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED
PLAN: Final = FanOut(chunk_size=1, tolerated_failure_percentage=40)
LIFETIME: Final = timedelta(hours=1)
SUB_TASKS: Final = 3
"""Of the running parent; the first two have ended, and nobody has claimed the last one."""


@dataclass(slots=True, kw_only=True)
class Scene:
    """A task, and how it stood when the one who will come too late read it."""

    rows: Rows
    seen: TaskEntity[Any]
    parent: TaskEntity[Any]
    """Of a sub-task; a top-level task is its own."""

    async def now(self) -> TaskEntity[Any]:
        """The task as it stands."""
        return await self.rows.stored(self.seen.key)

    async def takes(self, change: Change) -> TaskEntity[Any]:
        """Carry out a claim, a cancellation or a retry: each raises the fence."""
        before = await self.rows.backend.store.get(change.key)
        after = await self.rows.carry_out(change)
        assert before is None or after.fence > before.fence, "the fence was not raised"
        return after


Stage = Callable[[Backend], Awaitable[Scene]]
Step = Callable[[Scene], Awaitable[object]]
Write = Callable[[Scene], Change | ChunkRow]


# --- how it stands when it is read ------------------------------------------------------------------------------------


async def _waiting(backend: Backend, kind: Kind, count: int = SUB_TASKS) -> Scene:
    rows = Rows(backend)
    fields: dict[str, Any] = {
        "options": TaskOptions(deadline=LIFETIME.total_seconds()),
        "deadline_at": rows.now + LIFETIME,
    }
    (task,) = await rows.create(rows.single(**fields) if kind is Kind.TASK else rows.fan_out(count, **fields))
    await backend.stream.forward(10)  # rule 1: whoever is open has a message
    return Scene(rows=rows, seen=task, parent=task)


async def _claimed(backend: Backend, kind: Kind, count: int = SUB_TASKS) -> Scene:
    scene = await _waiting(backend, kind, count)
    scene.seen = scene.parent = await scene.takes(_claim(scene.rows, scene.seen))
    return scene


async def _claimed_sub_task(backend: Backend) -> Scene:
    scene = await _claimed(backend, Kind.SFN_TASK, 1)
    scene.seen = await scene.rows.sub_task(0, scene.parent)
    return scene


async def _running_parent(backend: Backend) -> Scene:
    """The second chunk has ended, and the one who reads is about to say so."""
    scene = await _claimed(backend, Kind.SFN_TASK)
    for index in range(2):
        await scene.rows.carry_out(scene.rows.completed(await scene.rows.sub_task(index, scene.parent)))
    await backend.store.put_chunk(_chunk(scene.parent, 0))
    counted = lifecycle.counted(scene.parent.key, 1, succeeded=1, failed=0, now=scene.rows.now)
    scene.seen = scene.parent = await scene.rows.carry_out(counted)
    return scene


async def _ended(backend: Backend, kind: Kind) -> Scene:
    scene = await _waiting(backend, kind)
    await _cancel(scene)
    scene.seen = scene.parent = await scene.now()
    return scene


async def _failed_in_an_earlier_run(backend: Backend) -> Scene:
    """A sub-task that failed; its fan-out runs anew and comes to it."""
    scene = await _claimed_sub_task(backend)
    await _fail(scene)
    await _retry(scene)
    parent = await scene.rows.stored(scene.parent.key)
    scene.parent = await scene.takes(_claim(scene.rows, parent))
    scene.seen = await scene.now()
    return scene


async def _left_open_by_an_earlier_run(backend: Backend) -> Scene:
    """A sub-task that was overlooked when its fan-out was cancelled, and whose worker may still be alive."""
    scene = await _claimed_sub_task(backend)
    await _retry(scene)
    parent = await scene.rows.stored(scene.parent.key)
    scene.parent = await scene.takes(_claim(scene.rows, parent))
    await _lease_over(scene)
    return scene


async def _suspended_task(backend: Backend) -> Scene:
    """It waits for an answer, and the one who will answer too late has looked how it stands."""
    scene = await _claimed(backend, Kind.TASK)
    scene.seen = scene.parent = await scene.rows.carry_out(_suspended(scene))
    return scene


STAGES: Final[Mapping[str, Stage]] = {
    "claimed task": lambda backend: _claimed(backend, Kind.TASK),
    "claimed sub-task": _claimed_sub_task,
    "running parent": _running_parent,
    "waiting task": lambda backend: _waiting(backend, Kind.TASK),
    "suspended task": _suspended_task,
    "waiting parent": lambda backend: _waiting(backend, Kind.SFN_TASK),
    "ended task": lambda backend: _ended(backend, Kind.TASK),
    "ended parent": lambda backend: _ended(backend, Kind.SFN_TASK),
    "failed sub-task of an earlier run": _failed_in_an_earlier_run,
    "open sub-task of an earlier run": _left_open_by_an_earlier_run,
}


# --- what others do meanwhile -----------------------------------------------------------------------------------------


async def _lease_over(scene: Scene) -> None:
    _advance(scene, LEASE)


def _advance(scene: Scene, time: timedelta) -> None:
    clock = scene.rows.backend.clock
    assert isinstance(clock, FakeClock)
    clock.advance(time.total_seconds())


async def _expire(scene: Scene) -> None:
    """Its deadline passes, and a worker finds it. A running fan-out is ended by its execution."""
    _advance(scene, LIFETIME)
    (task,) = [task for task in await scene.rows.backend.store.list_overdue(1000) if task.key == scene.seen.key]
    if task.kind is Kind.SFN_TASK and task.status is IN_PROGRESS:
        await _finalize(scene, await _request(scene, task), SUB_TASKS)
    else:
        await scene.takes(_overdue(scene.rows, task))


async def _next_claim(scene: Scene, max_lost: int) -> Change:
    rows, task = scene.rows, await scene.now()
    who = rows.claimant(max_lost=max_lost)
    if task.kind is not Kind.SUB_TASK:
        return _claim(rows, task, who)
    parent = await rows.stored(task.key.parent)
    if parent.status is PENDING:
        parent = await scene.takes(_claim(rows, parent))
    return _in_run(task, parent, who)


async def _claim_it(scene: Scene) -> None:
    await scene.takes(await _next_claim(scene, 99))


async def _give_up(scene: Scene) -> None:
    await scene.rows.carry_out(await _next_claim(scene, 1))


async def _renew(scene: Scene) -> None:
    rows, task = scene.rows, await scene.now()
    await rows.carry_out(lifecycle.renewed(task, until=rows.now + 2 * LEASE, now=rows.now))


async def _complete(scene: Scene) -> None:
    task = await scene.now()
    if task.kind is Kind.SFN_TASK:
        await _finalize(scene, task, SUB_TASKS)
    else:
        await scene.rows.carry_out(scene.rows.completed(task))


async def _fail(scene: Scene) -> None:
    await scene.rows.carry_out(scene.rows.failed(await scene.now()))


async def _wait(scene: Scene) -> None:
    await scene.rows.carry_out(scene.rows.waits_for_retry(await scene.now()))


async def _give_back(scene: Scene) -> None:
    await scene.rows.carry_out(scene.rows.given_back(await scene.now()))


async def _reject(scene: Scene) -> None:
    task = await scene.now()
    change = scene.rows.rejected(task) if task.status is PENDING else _rejected_fan_out(scene.rows, task)
    await scene.rows.carry_out(change)


async def _cancel(scene: Scene) -> None:
    task = await scene.now()
    if task.kind is Kind.SUB_TASK:
        await _request(scene, await scene.rows.stored(task.key.parent))
    if task.kind is Kind.SFN_TASK and task.status is IN_PROGRESS:
        await _finalize(scene, await _request(scene, task), SUB_TASKS - 1)
    else:
        await scene.takes(_cancelled(scene.rows, task))


async def _retry(scene: Scene) -> None:
    """A sub-task is not retried itself: its fan-out is, as soon as it has ended."""
    task = await scene.now()
    top = await scene.rows.stored(task.key.parent)
    if not top.is_terminal:
        top = await _end_around(scene, task, top)
    await scene.takes(_retried(scene.rows, top))


async def _end_around(scene: Scene, task: TaskEntity[Any], parent: TaskEntity[Any]) -> TaskEntity[Any]:
    """The end of *parent*, whose only sub-task is *task*; one that is open is overlooked, as when it came too late."""
    succeeded, failed = int(task.status is COMPLETED), int(task.status is FAILED)
    if succeeded or failed:
        await scene.rows.backend.store.put_chunk(_chunk(parent, 0, succeeded=succeeded, failed=failed))
    elif parent.cancel_requested is None:
        parent = await _request(scene, parent)
    return await scene.takes(_finalized(scene.rows, parent, succeeded, failed))


async def _finalize(scene: Scene, parent: TaskEntity[Any], count: int) -> None:
    """Its first *count* sub-tasks end well, if they have not, and then it ends."""
    store = scene.rows.backend.store
    for index in range(count):
        if not await store.list_sub_tasks(parent.key, range(index, index + 1)):
            await scene.rows.carry_out(scene.rows.completed(await scene.rows.sub_task(index, parent)))
        await store.put_chunk(_chunk(parent, index))
    await scene.takes(_finalized(scene.rows, parent, count, 0))


async def _request(scene: Scene, parent: TaskEntity[Any]) -> TaskEntity[Any]:
    return await scene.rows.carry_out(_cancel_requested(scene.rows, parent))


async def _wake(scene: Scene) -> None:
    await scene.rows.carry_out(_answered(scene.rows, await scene.now()))


STEPS: Final[Mapping[str, Step]] = {
    "wake": _wake,
    "lease over": _lease_over,
    "claim": _claim_it,
    "give up": _give_up,
    "renew": _renew,
    "complete": _complete,
    "fail": _fail,
    "wait": _wait,
    "give back": _give_back,
    "reject": _reject,
    "expire": _expire,
    "cancel": _cancel,
    "retry": _retry,
}


async def lose(scene: Scene, loss: str) -> None:
    """Let the steps of *loss* happen, one after the other."""
    for step in loss.split(", "):
        await STEPS[step](scene)


# --- changes ----------------------------------------------------------------------------------------------------------


def _change(decision: object) -> Change:
    assert isinstance(decision, Change), decision
    return decision


def _claim(rows: Rows, task: TaskEntity[Any], who: Claimant | None = None) -> Change:
    return rows.claim(task, plan=task.fan_out or PLAN if task.kind is Kind.SFN_TASK else None, who=who)


def _in_run(task: TaskEntity[Any], parent: TaskEntity[Any], who: Claimant) -> Change:
    return _change(lifecycle.claim_in_run(task, parent, who))


def _cancelled(rows: Rows, task: TaskEntity[Any], *, worker: bool = False) -> Change:
    return lifecycle.cancelled(
        task, reason="enough", by="operator", now=rows.now, claim_id=rows.backend.ids.token(), worker=worker
    )


def _suspended(scene: Scene) -> Change:
    return lifecycle.suspended(
        scene.seen,
        until=scene.rows.now + timedelta(days=7),
        callback="approval",
        state=None,
        progress=None,
        reason=lifecycle.waits("approval", None),
        **_who(scene),
    )


def _answered(rows: Rows, task: TaskEntity[Any]) -> Change:
    token = rows.backend.ids.token
    return lifecycle.answered(task, "approval", now=rows.now, by="ann", dispatch=token(), claim_id=token())


def _overdue(rows: Rows, task: TaskEntity[Any]) -> Change:
    return lifecycle.overdue(task, now=rows.now, by="another worker", claim_id=rows.backend.ids.token())


def _retried(rows: Rows, task: TaskEntity[Any]) -> Change:
    return lifecycle.retried(
        task,
        only_failed=task.status is not COMPLETED,
        execution_arn=None if task.execution_arn is None else rows.backend.machine.arn(f"{task.code}-{task.run + 1}"),
        reason=None,
        by="operator",
        now=rows.now,
        dispatch=rows.backend.ids.token(),
        claim_id=rows.backend.ids.token(),
    )


def _cancel_requested(rows: Rows, parent: TaskEntity[Any]) -> Change:
    return lifecycle.cancel_requested(parent, reason="enough", by="operator", now=rows.now)


def _finalized(rows: Rows, parent: TaskEntity[Any], succeeded: int, failed: int) -> Change:
    return lifecycle.finalized(
        parent, succeeded=succeeded, failed=failed, now=rows.now, by="worker", claim_id=rows.backend.ids.token()
    )


def _rejected_fan_out(rows: Rows, parent: TaskEntity[Any]) -> Change:
    failure = Failure(type="NoHandler", message="nobody runs it")
    return lifecycle.rejected_fan_out(parent, failure, now=rows.now, by="worker", claim_id=rows.backend.ids.token())


def _chunk(parent: TaskEntity[Any], chunk: int, *, succeeded: int = 1, failed: int = 0) -> ChunkRow:
    return ChunkRow(parent=parent.key, run=parent.run, chunk=chunk, succeeded=succeeded, failed=failed)


def _by_reference(scene: Scene) -> Change:
    return lifecycle.completed(
        scene.seen,
        results=None,
        result_ref="where the zombie put it",
        progress=None,
        now=scene.rows.now,
        by="zombie",
        claim_id=scene.rows.backend.ids.token(),
    )


def _reclaim(scene: Scene, max_lost: int) -> Change:
    who = scene.rows.claimant(now=scene.seen.lease_until, max_lost=max_lost)
    return _claim(scene.rows, scene.seen, who)


def _reclaim_in_run(scene: Scene, max_lost: int) -> Change:
    who = scene.rows.claimant(now=scene.seen.lease_until, max_lost=max_lost)
    return _in_run(scene.seen, scene.parent, who)


def _who(scene: Scene) -> dict[str, Any]:
    return {"now": scene.rows.now, "by": "zombie", "claim_id": scene.rows.backend.ids.token()}


# --- what comes too late ----------------------------------------------------------------------------------------------

OF_A_CLAIM: Final[Mapping[str, Write]] = {
    "completed": lambda scene: scene.rows.completed(scene.seen),
    "completed, its result elsewhere": _by_reference,
    "failed": lambda scene: scene.rows.failed(scene.seen),
    "waits_for_retry": lambda scene: scene.rows.waits_for_retry(scene.seen),
    "given_back": lambda scene: scene.rows.given_back(scene.seen),
    "continued": lambda scene: lifecycle.continued(
        scene.seen, state=EncodedJson("1"), progress=None, reason="more", **_who(scene)
    ),
    "suspended": _suspended,
    "touched": lambda scene: lifecycle.touched(scene.seen, now=scene.rows.now),
    "answered, while it ran": lambda scene: _answered(scene.rows, scene.seen),
    "checkpointed": lambda scene: lifecycle.checkpointed(scene.seen, EncodedJson("1"), now=scene.rows.now),
    "renewed": lambda scene: lifecycle.renewed(scene.seen, until=scene.rows.now + 2 * LEASE, now=scene.rows.now),
    "progressed": lambda scene: scene.rows.progressed(scene.seen, 7),
    "cancelled, by its worker": lambda scene: _cancelled(scene.rows, scene.seen, worker=True),
}
"""What only the owner of a claim writes."""
OF_A_PARENT: Final[Mapping[str, Write]] = {
    "counted": lambda scene: lifecycle.counted(
        scene.seen.key, scene.seen.run, succeeded=1, failed=0, now=scene.rows.now
    ),
    # Other figures than those that the other one has found: the first row stands.
    "put_chunk": lambda scene: _chunk(scene.seen, 1, succeeded=0, failed=1),
    "finalized": lambda scene: _finalized(scene.rows, scene.seen, 3, 0),
    "finalized, badly": lambda scene: _finalized(scene.rows, scene.seen, 1, 2),
    "finalized, cancelled": lambda scene: _finalized(scene.rows, scene.seen, 2, 0),
    "cancel_requested": lambda scene: _cancel_requested(scene.rows, scene.seen),
    "rejected_fan_out": lambda scene: _rejected_fan_out(scene.rows, scene.seen),
}
"""What the execution of a running parent writes, and whoever claimed it or wants it to end."""
OF_A_TAKER: Final[Mapping[str, Write]] = {
    "claim": lambda scene: _reclaim(scene, 99),
    "claim, for the last time": lambda scene: _reclaim(scene, 1),
}
"""What they write who find that a lease is over."""
OF_A_TAKER_OF_SUB_TASKS: Final[Mapping[str, Write]] = {
    "claim_in_run": lambda scene: _reclaim_in_run(scene, 99),
    "claim_in_run, for the last time": lambda scene: _reclaim_in_run(scene, 1),
}
CANCELLED_BY_SOMEBODY: Final[Mapping[str, Write]] = {"cancelled": lambda scene: _cancelled(scene.rows, scene.seen)}
OF_SOMEBODY: Final[Mapping[str, Write]] = {
    **CANCELLED_BY_SOMEBODY,
    "overdue": lambda scene: _overdue(scene.rows, scene.seen),
}
"""What they write who need no claim."""
FIRST_CLAIM: Final[Mapping[str, Write]] = {
    "first_claim": lambda scene: scene.rows.first_claim(scene.parent, scene.seen.index or 0)
}
OF_A_DISPATCHER: Final[Mapping[str, Write]] = {
    "claim, the first": lambda scene: _claim(scene.rows, scene.seen),
    "rejected": lambda scene: scene.rows.rejected(scene.seen),
    "repaired": lambda scene: lifecycle.repaired(scene.seen, "lost", dispatch="another", **_who(scene)),
}
"""What they write who find a waiting task."""
OF_WHOEVER_ANSWERS: Final[Mapping[str, Write]] = {
    "answered": lambda scene: _answered(scene.rows, scene.seen),
}
RETRIED: Final[Mapping[str, Write]] = {"retried": lambda scene: _retried(scene.rows, scene.seen)}
CLAIM_IN_RUN: Final[Mapping[str, Write]] = {
    "claim_in_run, of an earlier run": lambda scene: _in_run(scene.seen, scene.parent, scene.rows.claimant())
}

_CLAIM_LOST: Final = (
    "lease over, claim",
    "lease over, claim, complete",
    "lease over, claim, fail",
    "lease over, claim, wait",
    "lease over, claim, give back",
    "lease over, give up",
    "lease over, give up, retry",
    "lease over, give up, retry, claim",
    "lease over, claim, complete, retry, claim",
    "cancel",
    "cancel, retry",
    "cancel, retry, claim",
    "cancel, retry, claim, complete",
    # By its own write, which this one comes behind: the fence is the same, and the status alone tells.
    "complete",
    "fail",
    "wait",
    "give back",
    "give back, claim",
    "fail, retry, claim",
)
_TASK_LOST: Final = (*_CLAIM_LOST, "expire", "expire, retry", "expire, retry, claim")
_SUB_TASK_LOST: Final = (*_CLAIM_LOST, "retry, lease over, claim", "retry, lease over, claim, complete")
_PARENT_ENDED: Final = (
    "complete",
    "complete, retry",
    "complete, retry, claim",
    "complete, retry, claim, complete",
    "cancel",
    "cancel, retry",
    "cancel, retry, claim",
    "cancel, retry, claim, complete",
    "expire",
    "expire, retry, claim",
)
_TAKEN: Final = (
    "claim",
    "claim, complete",
    "cancel",
    "cancel, retry",
    "cancel, retry, claim",
    "reject",
    "reject, retry",
    "expire",
    "expire, retry",
)
_CLAIMED_IN_RUN: Final = ("claim", "claim, give back", "claim, fail", "claim, complete")
_RETRIED: Final = ("retry", "retry, cancel", "retry, claim", "retry, claim, complete")

_TABLE: Final[Sequence[tuple[str, Mapping[str, Write], Sequence[str]]]] = (
    ("claimed task", {**OF_A_CLAIM, **OF_SOMEBODY, **OF_A_TAKER}, _TASK_LOST),
    ("claimed task", OF_A_TAKER, ("renew",)),
    (
        "claimed sub-task",
        {**OF_A_CLAIM, **CANCELLED_BY_SOMEBODY, **OF_A_TAKER_OF_SUB_TASKS, **FIRST_CLAIM},
        _SUB_TASK_LOST,
    ),
    ("claimed sub-task", OF_A_TAKER_OF_SUB_TASKS, ("renew",)),
    ("running parent", OF_A_PARENT, _PARENT_ENDED),
    ("waiting task", {**OF_A_DISPATCHER, **OF_SOMEBODY}, (*_TAKEN, "claim, give back", "claim, wait")),
    (
        "suspended task",
        {**OF_WHOEVER_ANSWERS, **OF_SOMEBODY},
        (
            *(loss for loss in _TAKEN if loss[:5] != "claim" and loss[:6] != "reject"),
            "wake, claim",
            "wake, claim, complete",
            "wake, claim, give back",
            "wake, cancel, retry",
        ),
    ),
    ("waiting parent", {**OF_A_DISPATCHER, **OF_SOMEBODY}, (*_TAKEN, "claim, reject", "claim, cancel, retry")),
    ("ended task", RETRIED, _RETRIED),
    ("ended parent", RETRIED, _RETRIED),
    ("failed sub-task of an earlier run", CLAIM_IN_RUN, _CLAIMED_IN_RUN),
    (
        "open sub-task of an earlier run",
        CLAIM_IN_RUN,
        (*_CLAIMED_IN_RUN, "renew", "complete", "fail", "wait", "give back", "cancel"),
    ),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One loss, and every write that comes too late after it."""

    stage: str
    loss: str
    late: Mapping[str, Write]

    def __str__(self) -> str:
        return f"{self.stage}: {self.loss}"


CASES: Final = [Case(stage, loss, late) for stage, late, losses in _TABLE for loss in losses]
