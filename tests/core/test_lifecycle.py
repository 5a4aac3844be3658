"""The life of a task as a table and as changes: what can follow what, under which guard (rules 2, 3 and 5)."""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom import lifecycle
from taskloom.clock import EPOCH
from taskloom.lifecycle import MAX_REASON, NEXT, Change, Claimant, Come, Guard, Patch, Refused, Trigger, Verdict
from taskloom.lifecycle import changes as changes_
from taskloom.model import (
    OPEN,
    TERMINAL,
    CancelRequest,
    Failure,
    FanOut,
    HistoryEntry,
    Kind,
    Progress,
    RetryNumbers,
    TaskAttributes,
    TaskEntity,
    TaskOptions,
    TaskStatus,
)
from taskloom.ports import ChunkRow
from taskloom.values import EncodedJson
from tests.core.strategies import plain

PENDING, IN_PROGRESS = TaskStatus.PENDING, TaskStatus.IN_PROGRESS
COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED
OF_A_NEW_RUN: Final = {Trigger.RETRY_RUN, Trigger.CLAIM_IN_NEW_RUN}
NOW: Final = EPOCH + timedelta(days=20_000)
FAILURE: Final = Failure(type="ValueError", message="no", attempt=1)
PLAN: Final = FanOut(chunk_size=2, tolerated_failure_percentage=50)
PAIRS: Final = {(before, after) for (before, _), after in NEXT.items()}


def claimant(now: datetime = NOW, max_lost: int = 3, claim_id: str = "mine") -> Claimant:
    return Claimant(by="worker", claim_id=claim_id, now=now, lease=timedelta(seconds=60), max_lost=max_lost)


# --- the table -------------------------------------------------------------------------------------------------------


def test_an_ended_task_changes_by_an_explicit_retry_only() -> None:
    """Which is another run."""
    assert {trigger for before, trigger in NEXT if before in TERMINAL} == OF_A_NEW_RUN


def test_every_status_is_left_and_reached() -> None:
    assert {before for before, trigger in NEXT if trigger not in OF_A_NEW_RUN} == OPEN
    assert {before for before, _ in NEXT} == set(TaskStatus) == set(NEXT.values())


def test_every_trigger_is_in_the_table_and_leads_to_one_end() -> None:
    """From wherever it is pulled: a trigger means one thing."""
    ends: dict[Trigger, set[TaskStatus]] = {}
    for (_, trigger), after in NEXT.items():
        ends.setdefault(trigger, set()).add(after)
    assert set(ends) == set(Trigger)
    assert all(len(after) == 1 for after in ends.values())


def test_the_design_allows_each_row() -> None:
    """Design, section 1: PENDING → IN_PROGRESS → an end; IN_PROGRESS → PENDING is a retry or a suspension.

    And a task that nothing will ever run goes from PENDING to FAILED (rule 1); a reclaim stays IN_PROGRESS, a repair
    changes nothing.
    """
    assert {
        (PENDING, IN_PROGRESS),
        (PENDING, FAILED),
        (PENDING, PENDING),
        (IN_PROGRESS, IN_PROGRESS),
        (IN_PROGRESS, PENDING),
        (IN_PROGRESS, COMPLETED),
        (IN_PROGRESS, FAILED),
        (PENDING, CANCELLED),
        (IN_PROGRESS, CANCELLED),
    } == {(before, after) for (before, trigger), after in NEXT.items() if trigger not in OF_A_NEW_RUN}


# --- every change ----------------------------------------------------------------------------------------------------

Builder = Callable[[TaskEntity[Any]], Change]
_ends: Final[dict[str, Any]] = {"now": NOW, "by": "worker", "claim_id": "mine"}
_counted: Final = {"succeeded": 1, "failed": 1, "now": NOW}

OF_A_CLAIM: Final[Mapping[str, Builder]] = {
    "completed": lambda task: lifecycle.completed(
        task, results=EncodedJson("[[1]]"), result_ref=None, progress=Progress(done=1), **_ends
    ),
    "failed": lambda task: lifecycle.failed(task, FAILURE, progress=Progress(done=1), **_ends),
    "waits_for_retry": lambda task: lifecycle.waits_for_retry(
        task, FAILURE, at=NOW + timedelta(seconds=5), progress=None, **_ends
    ),
    "given_back": lambda task: lifecycle.given_back(task, "the worker stopped", **_ends),
    "continued": lambda task: lifecycle.continued(
        task, state=EncodedJson("1"), progress=Progress(done=1), reason="more", **_ends
    ),
    "suspended": lambda task: lifecycle.suspended(
        task,
        until=NOW + timedelta(seconds=60),
        callback=None,
        state=EncodedJson("1"),
        progress=Progress(done=1),
        reason="sleeps",
        **_ends,
    ),
    "suspended, for a callback": lambda task: lifecycle.suspended(
        task, until=NOW, callback="ok", state=None, progress=None, reason=lifecycle.waits("ok", None), **_ends
    ),
    "suspended, but answered": lambda task: _change(
        lifecycle.suspended(
            task, until=NOW, callback="ok", state=None, progress=None, reason=lifecycle.waits("ok", None), **_ends
        ).otherwise
    ),
    "touched": lambda task: lifecycle.touched(task, now=NOW),
    "checkpointed": lambda task: lifecycle.checkpointed(task, EncodedJson("1"), now=NOW),
    "renewed": lambda task: lifecycle.renewed(task, until=NOW + timedelta(seconds=60), now=NOW),
    "progressed": lambda task: lifecycle.progressed(task, Progress(done=1), now=NOW),
    "cancelled, by its worker": lambda task: lifecycle.cancelled(task, reason=None, worker=True, **_ends),
}
"""Changes that only the owner of a claim makes."""
OF_A_FAN_OUT: Final[Mapping[str, Builder]] = {
    "counted": lambda task: lifecycle.counted(task.key, task.run, **_counted),  # type: ignore[arg-type]
    "finalized": lambda task: lifecycle.finalized(task, succeeded=2, failed=0, **_ends),
    "finalized, cancelled": lambda task: lifecycle.finalized(task, succeeded=1, failed=0, **_ends),
    "cancel_requested": lambda task: lifecycle.cancel_requested(task, reason="why", by="me", now=NOW),
    "finalized badly": lambda task: lifecycle.finalized(task, succeeded=0, failed=2, **_ends),
    "rejected_fan_out": lambda task: lifecycle.rejected_fan_out(task, FAILURE, **_ends),
}
"""Changes of a claimed parent."""
OTHERS: Final[Mapping[str, Builder]] = {
    "claim": lambda task: _change(lifecycle.claim(task.key, task, task.kind, claimant())),
    "claim, for the last time": lambda task: _change(lifecycle.claim(task.key, task, task.kind, claimant(max_lost=1))),
    "first_claim": lambda task: lifecycle.first_claim(task, 3, None, claimant())[0],
    "rejected": lambda task: lifecycle.rejected(task, FAILURE, **_ends),
    "repaired": lambda task: lifecycle.repaired(task, "why", dispatch="new", **_ends),
    "answered": lambda task: lifecycle.answered(task, "ok", dispatch="new", **_ends),
    "overdue": lambda task: lifecycle.overdue(task, **_ends),
    "cancelled": lambda task: lifecycle.cancelled(task, reason="why", **_ends),
    "retried": lambda task: lifecycle.retried(
        task, only_failed=True, execution_arn="arn", reason="why", dispatch="new", **_ends
    ),
    "claim_in_run": lambda task: _change(lifecycle.claim_in_run(task, claimed(Kind.SFN_TASK, run=2), claimant())),
}


def _change(decision: object) -> Change:
    assert isinstance(decision, Change)
    return decision


def claimed(kind: Kind = Kind.TASK, **fields: Any) -> TaskEntity[Any]:
    """A task that somebody holds a claim on, or a parent that runs."""
    lease = None if kind is Kind.SFN_TASK else NOW + timedelta(seconds=30)
    given_ = {
        "attempt": 2,
        "fence": 5,
        "run": 1,
        "lease_until": lease,
        "started_at": NOW,
        "claim_id": "before",
    } | fields
    if kind is Kind.SFN_TASK:
        given_ = {"attributes": TaskAttributes(sub_task_count=2), "fan_out": PLAN} | given_
    return plain(kind, IN_PROGRESS, **given_)


def waiting(kind: Kind = Kind.TASK, name: str = "ok", until: str | None = None) -> TaskEntity[Any]:
    """A task that waits for its callback *name*."""
    reason = lifecycle.waits(name, until)
    last = HistoryEntry(at=NOW, status=PENDING, run=1, attempt=0, reason=reason)
    return plain(kind, PENDING, fence=5, next_attempt_at=NOW + timedelta(days=7), claim_id="before", history=(last,))


def changes() -> Iterator[tuple[str, TaskEntity[Any], Change]]:
    """Every change that there is, each on every kind of task that it is made for."""
    for kind in (Kind.TASK, Kind.SUB_TASK):
        for name, build in OF_A_CLAIM.items():
            yield f"{name}, {kind}", claimed(kind), build(claimed(kind))
        lost = claimed(kind, lease_until=NOW)
        for name in ("claim", "claim, for the last time"):
            yield f"{name}, lost {kind}", lost, OTHERS[name](lost)
    parent = claimed(Kind.SFN_TASK)
    for name, build in OF_A_FAN_OUT.items():
        yield name, parent, build(parent)
    late = claimed(Kind.SFN_TASK, deadline_at=NOW, options=TaskOptions(deadline=60))
    yield "finalized, late", late, OF_A_FAN_OUT["finalized"](late)
    for kind in Kind:
        pending = plain(kind, PENDING, fence=3, attempt=0, dispatch="d")
        yield f"claim, {kind}", pending, OTHERS["claim"](pending)
    for kind in (Kind.TASK, Kind.SFN_TASK):
        pending = plain(kind, PENDING, fence=3, attempt=0, dispatch="d")
        yield f"rejected, {kind}", pending, OTHERS["rejected"](pending)
    for kind in Kind:
        for status in OPEN if kind is not Kind.SFN_TASK else (PENDING,):
            task = plain(kind, PENDING, fence=3, dispatch="d") if status is PENDING else claimed(kind)
            yield f"cancelled, {status} {kind}", task, OTHERS["cancelled"](task)
            if kind is not Kind.SFN_TASK:
                yield f"answered, {status} {kind}", task, OTHERS["answered"](task)
            if kind is not Kind.SUB_TASK:
                yield f"repaired, {status} {kind}", task, OTHERS["repaired"](task)
                yield f"overdue, {status} {kind}", task, OTHERS["overdue"](task)
    for kind in (Kind.TASK, Kind.SUB_TASK):
        task = waiting(kind)
        yield f"answered, waiting {kind}", task, OTHERS["answered"](task)
    for status in TERMINAL:
        for kind in (Kind.TASK, Kind.SFN_TASK):
            task = plain(kind, status, fence=3, run=1)
            yield f"retried, {status} {kind}", task, OTHERS["retried"](task)
    for status in {FAILED, CANCELLED} | {PENDING}:
        task = plain(Kind.SUB_TASK, status, fence=3, run=1)
        yield f"claim_in_run, {status}", task, OTHERS["claim_in_run"](task)
    abandoned = claimed(Kind.SUB_TASK, lease_until=NOW)
    yield "claim_in_run, abandoned", abandoned, OTHERS["claim_in_run"](abandoned)
    yield "first_claim", plain(Kind.SUB_TASK, PENDING), OTHERS["first_claim"](parent)


ALL: Final = [pytest.param(task, change, id=name) for name, task, change in changes()]


def test_no_function_that_makes_changes_is_forgotten() -> None:
    makers = {
        name
        for name, function in vars(lifecycle).items()
        if inspect.isfunction(function)
        and not name.startswith("_")
        and "Change" in str(get_type_hints(function).get("return"))
    }
    tested = {name.split(",")[0] for name in {**OF_A_CLAIM, **OF_A_FAN_OUT, **OTHERS}} - {"finalized badly"}
    assert makers == tested


@pytest.mark.parametrize(("task", "change"), ALL)
def test_a_change_only_does_what_the_table_allows(task: TaskEntity[Any], change: Change) -> None:
    """From every status that its guard lets pass."""
    after = change.patch.get("status")
    before = frozenset({PENDING}) if change.guard.absent else change.guard.status
    assert before is not None, "a change that any status would let pass"
    assert not before & TERMINAL or change.patch["run"] == task.run + 1
    if after is not None:
        assert {(status, after) for status in before} <= PAIRS


@pytest.mark.parametrize(("task", "change"), ALL)
def test_a_status_and_its_history_entry_are_one_change(task: TaskEntity[Any], change: Change) -> None:
    """Rule 5: both, with the same status and the same attempt, or neither."""
    after = change.patch.get("status")
    assert (change.history is None) == (after is None)
    if change.history is not None:
        assert change.history.status is after
        assert change.history.at == NOW == change.patch["updated_at"]
        assert change.history.by == "worker"
        if after is IN_PROGRESS:
            assert change.history.attempt == change.patch.get("attempt", task.attempt)


@pytest.mark.parametrize(("task", "change"), ALL)
def test_a_change_of_status_can_be_recognised(task: TaskEntity[Any], change: Change) -> None:
    """Rule 2: its claim id tells that it happened although the answer was lost."""
    if change.history is None:
        return
    claim_id = change.patch["claim_id"]
    assert claim_id == "mine" != task.claim_id
    assert lifecycle.is_mine(change, Refused(replace(task, claim_id=claim_id)))
    assert not lifecycle.is_mine(change, Refused(task))
    assert not lifecycle.is_mine(change, Refused(None))


@pytest.mark.parametrize(("task", "change"), ALL)
def test_a_lease_is_held_by_claims_only(task: TaskEntity[Any], change: Change) -> None:
    """And never by a parent (rule 3). Nobody who is not IN_PROGRESS keeps one."""
    after = change.patch.get("status")
    if after is IN_PROGRESS and "fence" not in change.patch:
        assert "lease_until" not in change.patch, "a repair is no claim"
    elif after is IN_PROGRESS and task.kind is not Kind.SFN_TASK:
        assert change.patch["lease_until"] == NOW + timedelta(seconds=60)
    elif after is not None and task.lease_until is not None:
        assert change.patch["lease_until"] is None
    if task.kind is Kind.SFN_TASK:
        assert change.patch.get("lease_until") is None


@pytest.mark.parametrize(("task", "change"), ALL)
def test_what_ends_a_task_says_when(task: TaskEntity[Any], change: Change) -> None:
    after = change.patch.get("status")
    assert (change.patch.get("finished_at") == NOW) == (after in TERMINAL)
    if after is FAILED:
        assert change.patch["error"] is not None
    if after is COMPLETED and task.kind is not Kind.SFN_TASK:
        assert change.patch["error"] is None


@pytest.mark.parametrize("kind", [Kind.TASK, Kind.SUB_TASK])
@pytest.mark.parametrize("name", OF_A_CLAIM)
def test_whoever_writes_for_a_claimed_task_shows_the_fence(name: str, kind: Kind) -> None:
    """Rule 2. IN_PROGRESS and the very fence of its claim."""
    task = claimed(kind)
    guard = OF_A_CLAIM[name](task).guard
    assert guard.status == frozenset({IN_PROGRESS})
    assert guard.fence == task.fence


@pytest.mark.parametrize("name", OF_A_FAN_OUT)
def test_a_running_parent_is_guarded_by_its_run(name: str) -> None:
    """Rule 3: there is no lease on it, and no fence to show; but an older run must not touch it."""
    parent = claimed(Kind.SFN_TASK, run=4)
    guard = OF_A_FAN_OUT[name](parent).guard
    assert guard.run == 4
    assert guard.status is not None
    assert guard.status <= OPEN
    assert guard.status == frozenset({IN_PROGRESS}) or name == "rejected_fan_out"


@pytest.mark.parametrize("kind", Kind)
def test_a_claim_raises_the_fence_and_removes_dispatch(kind: Kind) -> None:
    pending = plain(kind, PENDING, fence=7, attempt=1, dispatch="d", next_attempt_at=NOW)
    change = OTHERS["claim"](pending)
    assert change.guard == Guard(status=frozenset({PENDING}), fence=7)
    assert change.patch["fence"] == 8
    assert change.patch["attempt"] == 2
    assert change.patch.get("dispatch", "absent") is None or kind is Kind.SUB_TASK
    assert change.patch["next_attempt_at"] is None


def test_a_reclaim_demands_that_the_lease_has_ended() -> None:
    """Rule 2: the fence alone would let it overwrite a lease that was renewed meanwhile."""
    lost = claimed(lease_until=NOW - timedelta(seconds=1))
    for name in ("claim", "claim, for the last time"):
        guard = OTHERS[name](lost).guard
        assert guard.lease_ended_by == NOW
        assert guard.fence == lost.fence


# --- suspensions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.TASK, Kind.SUB_TASK])
def test_an_answer_wakes_whoever_waits_for_it(kind: Kind) -> None:
    """A single task gets a message; a sub-task has a chunk. The fence stays: nobody's claim is taken."""
    for task in (waiting(kind), waiting(kind, until="2026-01-01T00:00:00.000Z")):
        change = OTHERS["answered"](task)
        assert change.guard == Guard(status=frozenset({PENDING}), fence=5, run=1)
        assert change.patch["next_attempt_at"] == NOW
        assert change.patch.get("dispatch") == ("new" if kind is Kind.TASK else None)
        assert "fence" not in change.patch


@pytest.mark.parametrize(
    "task",
    [
        waiting(name="ok2"),
        waiting(name="o"),
        waiting(name='ok" until x'),
        claimed(),
        plain(status=PENDING, next_attempt_at=NOW),
    ],
)
def test_an_answer_leaves_alone_whoever_waits_for_something_else(task: TaskEntity[Any]) -> None:
    """A task in its backoff does not start sooner because its callback was answered."""
    change = OTHERS["answered"](task)
    assert dict(change.patch) == {"updated_at": NOW}
    assert change.guard == Guard(status=frozenset({task.status}), fence=task.fence, run=task.run)


@pytest.mark.parametrize("name", ["ok", "ä", 'a"b', 'a" until c', "\\"])
@pytest.mark.parametrize("until", [None, "2026-01-01T00:00:00.000Z"])
def test_the_callback_is_found_in_the_reason(name: str, until: str | None) -> None:
    task = waiting(name=name, until=until)
    reason = lifecycle.suspension(task)
    assert reason is not None
    assert lifecycle.callback_of(reason) == name
    assert lifecycle.waits_for(task, name)
    assert not lifecycle.waits_for(task, name + " ")


def test_a_sleep_is_no_wait() -> None:
    last = HistoryEntry(at=NOW, status=PENDING, run=1, attempt=0, reason=lifecycle.sleeps("then"))
    asleep = plain(status=PENDING, history=(last,))
    assert lifecycle.suspension(asleep) == "sleeps until then"
    assert lifecycle.callback_of("sleeps until then") is None
    assert lifecycle.suspension(replace(asleep, status=IN_PROGRESS)) is None
    assert lifecycle.suspension(replace(asleep, history=())) is None


def test_a_wait_is_refused_once_the_answer_is_there() -> None:
    """And its owner goes on at once instead."""
    change = OF_A_CLAIM["suspended, for a callback"](claimed())
    assert change.guard.unanswered == "ok"
    assert change.otherwise is not None
    assert change.otherwise.guard.unanswered is None
    assert "next_attempt_at" not in change.otherwise.patch
    asleep = OF_A_CLAIM["suspended"](claimed())
    assert (asleep.guard.unanswered, asleep.otherwise) == (None, None)
    assert asleep.patch["attempt"] == 1  # no attempt is counted: the next claim adds one again


# --- who may claim ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", sorted(TERMINAL))
@pytest.mark.parametrize("kind", Kind)
def test_an_ended_task_is_not_claimed(status: TaskStatus, kind: Kind) -> None:
    task = plain(kind, status)
    assert lifecycle.claim(task.key, task, kind, claimant()) is Verdict.ENDED


def test_a_task_that_is_gone_is_not_claimed() -> None:
    assert lifecycle.claim(plain().key, None, Kind.TASK, claimant()) is Verdict.ENDED


def test_a_task_that_waits_is_claimed_when_its_time_has_come() -> None:
    waiting = plain(next_attempt_at=NOW)
    second = timedelta(seconds=1)
    assert lifecycle.claim(waiting.key, waiting, Kind.TASK, claimant(NOW - second)) == Come(NOW)
    assert isinstance(lifecycle.claim(waiting.key, waiting, Kind.TASK, claimant(NOW)), Change)


def test_a_live_lease_is_respected_until_it_ends() -> None:
    task = claimed(lease_until=NOW)
    second = timedelta(seconds=1)
    assert lifecycle.claim(task.key, task, Kind.TASK, claimant(NOW - second)) == Come(NOW)
    assert isinstance(lifecycle.claim(task.key, task, Kind.TASK, claimant(NOW)), Change)


def test_a_running_parent_is_never_reclaimed() -> None:
    """Rule 3: however long it runs."""
    parent = claimed(Kind.SFN_TASK)
    years = claimant(NOW + timedelta(days=5000))
    assert lifecycle.claim(parent.key, parent, Kind.SFN_TASK, years) is Verdict.RUNS_BY_ITSELF


@pytest.mark.parametrize(
    ("attempt", "lost", "max_lost", "message"),
    [
        (1, 0, 1, "the worker died 1 time"),
        (2, 1, 2, "the worker died 2 times"),
        (3, 2, 3, "the worker died 3 times"),
        (3, 0, 3, "the worker died 1 time, in 3 attempts"),
        (4, 2, 4, "the worker died 3 times, in 4 attempts"),
    ],
)
def test_a_task_whose_workers_die_is_given_up(attempt: int, lost: int, max_lost: int, message: str) -> None:
    """The reason tells attempts that failed from those whose worker died."""
    lost_ = claimed(attempt=attempt, lost=lost, lease_until=NOW)
    change = _change(lifecycle.claim(lost_.key, lost_, Kind.TASK, claimant(max_lost=max_lost)))
    assert change.patch["status"] is FAILED
    assert change.patch["error"] == Failure(type="WorkerDied", message=message, attempt=attempt)
    assert change.history is not None
    assert change.history.reason == message
    again = _change(lifecycle.claim(lost_.key, lost_, Kind.TASK, claimant(max_lost=max_lost + 1)))
    assert again.patch["status"] is IN_PROGRESS
    assert again.patch["lost"] == lost + 1
    assert lifecycle.is_last_chance(again, max_lost + 1)
    assert not lifecycle.is_last_chance(again, max_lost + 2)


def test_the_claim_of_a_fan_out_fixes_its_plan() -> None:
    parent = plain(Kind.SFN_TASK)
    change = _change(lifecycle.claim(parent.key, parent, Kind.SFN_TASK, claimant(), PLAN))
    assert change.patch["fan_out"] == PLAN


def test_a_given_back_attempt_does_not_count() -> None:
    task = claimed(attempt=2)
    assert OF_A_CLAIM["given_back"](task).patch["attempt"] == 1


def test_a_sub_task_begins_with_its_claim() -> None:
    """Rule 6: nothing is written before it; and the sub-task that is handed to the handler is the one stored."""
    parent = claimed(Kind.SFN_TASK, run=2)
    change, task = lifecycle.first_claim(parent, 3, {"a": 1}, claimant())
    assert change.guard == Guard(absent=True)
    assert apply(change, None) == replace(task, input=None, version=0)
    assert task.input == {"a": 1}
    assert task.run == 2


@pytest.mark.parametrize(("failed", "status"), [(0, COMPLETED), (1, COMPLETED), (2, FAILED)])
def test_the_end_of_a_fan_out(failed: int, status: TaskStatus) -> None:
    change = lifecycle.finalized(claimed(Kind.SFN_TASK), succeeded=2 - failed, failed=failed, **_ends)
    assert change.patch["status"] is status
    assert change.patch["sub_task_succeed_count"] == 2 - failed
    assert change.patch["sub_task_failed_count"] == failed
    assert change.patch["fence"] == 6


# --- whole changes ---------------------------------------------------------------------------------------------------
# What a change writes is spelt out where a forgotten or additional value would be seen late: in another run, say.


@pytest.mark.parametrize("status", [PENDING, FAILED, CANCELLED, COMPLETED])
def test_a_sub_task_of_an_earlier_run_begins_anew(status: TaskStatus) -> None:
    """Nothing that it was remains, and its fence grows on (rule 2)."""
    task = plain(Kind.SUB_TASK, status, fence=7, run=1, attempt=4, lost=2)
    parent = claimed(Kind.SFN_TASK, run=3, fan_out=replace(PLAN, only_failed=False))
    assert lifecycle.claim_in_run(task, parent, claimant()) == Change(
        key=task.key,
        guard=Guard(status=frozenset({status}), fence=7, run=1),
        patch={
            "status": IN_PROGRESS,
            "run": 3,
            "attempt": 1,
            "lost": 0,
            "state": None,
            "fence": 8,
            "claim_id": "mine",
            "lease_until": NOW + timedelta(seconds=60),
            "next_attempt_at": None,
            "results": None,
            "result_ref": None,
            "error": None,
            "progress": None,
            "started_at": NOW,
            "finished_at": None,
            "updated_at": NOW,
        },
        history=HistoryEntry(at=NOW, status=IN_PROGRESS, run=3, attempt=1, by="worker"),
    )


def test_a_sub_task_that_an_earlier_run_left_running_is_claimed_when_its_lease_ends() -> None:
    """Its worker may live; rule 2: the lease must have ended in the store too."""
    parent = claimed(Kind.SFN_TASK, run=2)
    task = claimed(Kind.SUB_TASK, lease_until=NOW)
    assert lifecycle.claim_in_run(task, parent, claimant(NOW - timedelta(seconds=1))) == Come(NOW)
    change = _change(lifecycle.claim_in_run(task, parent, claimant()))
    assert change.guard == Guard(status=frozenset({IN_PROGRESS}), fence=5, run=1, lease_ended_by=NOW)


@pytest.mark.parametrize(("plan", "again"), [(PLAN, False), (None, False), (replace(PLAN, only_failed=False), True)])
def test_what_an_earlier_run_completed_stays_unless_all_is_to_run_again(plan: FanOut | None, again: bool) -> None:
    task = plain(Kind.SUB_TASK, COMPLETED, run=1)
    decision = lifecycle.claim_in_run(task, claimed(Kind.SFN_TASK, run=2, fan_out=plan), claimant())
    assert isinstance(decision, Change) if again else decision is Verdict.ENDED


def test_a_sub_task_of_this_run_is_claimed_like_any_other() -> None:
    """It is not begun anew: its attempts count on."""
    parent = claimed(Kind.SFN_TASK, run=2)
    task = claimed(Kind.SUB_TASK, run=2, attempt=1, lease_until=NOW)
    change = _change(lifecycle.claim_in_run(task, parent, claimant()))
    assert change.patch["attempt"] == 2
    assert "run" not in change.patch
    assert lifecycle.claim_in_run(replace(task, status=FAILED), parent, claimant()) is Verdict.ENDED


def test_a_sub_task_has_from_its_parent_what_its_handler_may_ask_for() -> None:
    options = TaskOptions(
        retry=RetryNumbers(max_attempts=2, initial=1, multiplier=1, maximum=1, jitter=False), deadline=60
    )
    parent = claimed(
        Kind.SFN_TASK,
        request_id="request",
        created_by="me",
        created_ip="::1",
        deadline_at=NOW + timedelta(seconds=60),
        priority=9,
        options=options,
    )
    change, task = lifecycle.first_claim(parent, 3, None, claimant())
    for name in ("request_id", "created_by", "created_ip", "deadline_at", "priority", "options"):
        assert getattr(task, name) == getattr(parent, name), name
    assert task.attributes == TaskAttributes()
    assert not change.returning, "a read more for each sub-task (rule 6)"


def test_a_claim_keeps_when_the_task_was_started_first() -> None:
    again = plain(started_at=EPOCH, attempt=1)
    assert _change(OTHERS["claim"](again)).patch["started_at"] == EPOCH
    assert _change(OTHERS["claim"](plain())).patch["started_at"] == NOW


def test_a_claim_counts_the_workers_that_died_and_no_others() -> None:
    assert "lost" not in OTHERS["claim"](plain()).patch
    assert OTHERS["claim"](plain(attempt=2, lost=1)).patch["lost"] == 1
    lost = claimed(lost=1, lease_until=NOW)
    change = OTHERS["claim"](lost)
    assert change.patch["lost"] == 2
    assert change.history is not None
    assert change.history.reason == "the lease of the attempt before ended"


def test_the_claim_of_a_fan_out_counts_anew() -> None:
    """An earlier run has left its counters."""
    parent = plain(Kind.SFN_TASK)
    change = _change(lifecycle.claim(parent.key, parent, Kind.SFN_TASK, claimant(), PLAN))
    assert (change.patch["sub_task_succeed_count"], change.patch["sub_task_failed_count"]) == (0, 0)


@pytest.mark.parametrize("status", sorted(OPEN))
def test_a_message_of_an_overdue_task_ends_it(status: TaskStatus) -> None:
    """At its very deadline, not a moment before; whoever runs it has lost its claim (rule 2)."""
    task = replace(claimed(lease_until=None, deadline_at=NOW, options=TaskOptions(deadline=60)), status=status)
    change = _change(OTHERS["claim"](task))
    message = "it did not end within 60 s of its creation"
    assert change == Change(
        key=task.key,
        guard=Guard(status=frozenset({status}), fence=5, run=1),
        patch={
            "status": FAILED,
            "claim_id": "mine",
            "lease_until": None,
            "next_attempt_at": None,
            "error": Failure(type="DeadlineExceeded", message=message, attempt=2),
            "updated_at": NOW,
            "finished_at": NOW,
            "fence": 6,
            "dispatch": None,
        },
        history=HistoryEntry(at=NOW, status=FAILED, run=1, attempt=2, reason=message, by="worker"),
    )
    in_time = _change(lifecycle.claim(task.key, task, Kind.TASK, claimant(NOW - timedelta(milliseconds=1))))
    assert in_time.patch["status"] is IN_PROGRESS


def test_an_overdue_fan_out_that_runs_is_left_to_its_execution() -> None:
    """Rule 3."""
    parent = claimed(Kind.SFN_TASK, deadline_at=NOW, options=TaskOptions(deadline=60))
    assert lifecycle.claim(parent.key, parent, Kind.SFN_TASK, claimant()) is Verdict.RUNS_BY_ITSELF


def test_the_ends_of_an_attempt_say_all_that_is_known() -> None:
    task, later = claimed(), NOW + timedelta(seconds=5)
    progress, results = Progress(done=1), EncodedJson("[[1]]")
    done = lifecycle.completed(task, results=results, result_ref=None, progress=progress, **_ends)
    assert done.patch == {
        "status": COMPLETED,
        "claim_id": "mine",
        "lease_until": None,
        "results": results,
        "result_ref": None,
        "error": None,
        "updated_at": NOW,
        "finished_at": NOW,
        "progress": progress,
    }
    far = lifecycle.completed(task, results=None, result_ref="ref", progress=None, **_ends)
    assert (far.patch["results"], far.patch["result_ref"]) == (None, "ref")
    failed = lifecycle.failed(task, FAILURE, progress=progress, **_ends)
    assert failed.patch["progress"] == progress
    waiting = lifecycle.waits_for_retry(task, FAILURE, at=later, progress=progress, **_ends)
    assert waiting.patch == {
        "status": PENDING,
        "claim_id": "mine",
        "lease_until": None,
        "next_attempt_at": later,
        "error": FAILURE,
        "updated_at": NOW,
        "progress": progress,
    }
    assert waiting.history is not None
    assert waiting.history.reason == FAILURE.message
    for change in (
        far,
        lifecycle.failed(task, FAILURE, progress=None, **_ends),
        lifecycle.waits_for_retry(task, FAILURE, at=later, progress=None, **_ends),
    ):
        assert "progress" not in change.patch, "what was written before is kept"


def test_what_was_saved_goes_with_a_good_end_only() -> None:
    task = claimed()
    for has_state in (True, False):
        done = lifecycle.completed(task, results=None, result_ref="ref", progress=None, has_state=has_state, **_ends)
        assert done.patch.get("state", "kept") == (None if has_state else "kept")
    assert "state" not in OF_A_CLAIM["failed"](task).patch, "a retry goes on with it"


@pytest.mark.parametrize("state", [EncodedJson("1"), None])
@pytest.mark.parametrize("progress", [Progress(done=1), None])
def test_a_task_that_goes_on_in_another_slice(state: EncodedJson | None, progress: Progress | None) -> None:
    """The attempt is the same one; what it does not give stays as it was."""
    change = lifecycle.continued(claimed(), state=state, progress=progress, reason="more", **_ends)
    expected: Patch = {
        "status": PENDING,
        "attempt": 1,
        "claim_id": "mine",
        "lease_until": None,
        "updated_at": NOW,
    }
    if state is not None:
        expected["state"] = state
    if progress is not None:
        expected["progress"] = progress
    assert change.patch == expected
    assert change.history is not None
    assert change.history.reason == "more"


def test_what_is_saved_and_shown_meanwhile() -> None:
    task, later = claimed(), NOW + timedelta(seconds=60)
    state, progress = EncodedJson("1"), Progress(done=1)
    assert lifecycle.checkpointed(task, state, now=NOW).patch == {"state": state, "updated_at": NOW}
    assert lifecycle.progressed(task, progress, now=NOW).patch == {"progress": progress, "updated_at": NOW}
    assert lifecycle.renewed(task, until=later, now=NOW).patch == {"lease_until": later, "updated_at": NOW}


@pytest.mark.parametrize("kind", [Kind.TASK, Kind.SFN_TASK])
@pytest.mark.parametrize("status", sorted(OPEN))
def test_a_repair_brings_another_message_and_nothing_else(status: TaskStatus, kind: Kind) -> None:
    """A running fan-out gets none (rule 3); of the others no lease may be live, not even by now."""
    task = replace(claimed(kind, run=3), status=status)
    runs_by_itself = kind is Kind.SFN_TASK and status is IN_PROGRESS
    patch: Patch = {"status": status, "claim_id": "mine", "updated_at": NOW}
    if not runs_by_itself:
        patch["dispatch"] = "new"
    assert lifecycle.repaired(task, "why", dispatch="new", **_ends) == Change(
        key=task.key,
        guard=Guard(status=frozenset({status}), fence=5, run=3, lease_ended_by=None if runs_by_itself else NOW),
        patch=patch,
        history=HistoryEntry(at=NOW, status=status, run=3, attempt=2, reason="repaired: why", by="worker"),
    )


@pytest.mark.parametrize(("repairs", "minutes"), [(1, 1), (2, 2), (3, 4), (21, 2**20), (30, 2**20)])
def test_repairs_of_a_task_are_made_ever_more_rarely(repairs: int, minutes: int) -> None:
    """Those of its run, and nothing else that stands in its history."""

    def entry(reason: str | None, run: int = 2) -> HistoryEntry:
        return HistoryEntry(at=EPOCH, status=PENDING, run=run, attempt=0, reason=reason)

    first = plain(run=2, history=(entry("repaired: why", run=1), entry("not repaired: why"), entry(None)))
    assert lifecycle.may_be_repaired(first, EPOCH)
    again = replace(first, history=(*first.history, *[entry("repaired: why")] * repairs, entry(None)))
    due = EPOCH + timedelta(minutes=minutes)
    assert not lifecycle.may_be_repaired(again, due - timedelta(milliseconds=1))
    assert lifecycle.may_be_repaired(again, due)


def test_the_pause_before_the_next_repair_counts_from_the_last_one() -> None:
    """They come later than they may: whoever looks does so once a minute, or was away for a day."""
    made = [EPOCH, EPOCH + timedelta(days=1)]
    history = tuple(HistoryEntry(at=at, status=PENDING, run=1, attempt=0, reason="repaired: why") for at in made)
    task = plain(run=1, history=history)
    assert not lifecycle.may_be_repaired(task, made[-1] + timedelta(minutes=2) - timedelta(milliseconds=1))
    assert lifecycle.may_be_repaired(task, made[-1] + timedelta(minutes=2))


def test_a_given_back_task_says_why() -> None:
    entry = OF_A_CLAIM["given_back"](claimed()).history
    assert entry is not None
    assert entry.reason == "the worker stopped"


@pytest.mark.parametrize("kind", [Kind.TASK, Kind.SFN_TASK])
def test_what_ends_before_it_was_claimed_is_not_dispatched_any_more(kind: Kind) -> None:
    task = plain(kind, PENDING, fence=3, dispatch="d", next_attempt_at=NOW)
    for name in ("rejected", "cancelled", "overdue"):
        patch = OTHERS[name](task).patch
        assert (patch.get("dispatch", "kept"), patch.get("next_attempt_at", "kept")) == (None, None), name
    assert OTHERS["rejected"](task).guard == Guard(status=frozenset({PENDING}), fence=3)


@pytest.mark.parametrize("kind", [Kind.TASK, Kind.SUB_TASK])
@pytest.mark.parametrize("status", sorted(OPEN))
def test_a_cancelled_task_has_lost_its_claim(status: TaskStatus, kind: Kind) -> None:
    task = replace(claimed(kind, run=3), status=status)
    change = lifecycle.cancelled(task, reason="why", **_ends)
    assert change.guard == Guard(status=frozenset({status}), fence=5, run=3)
    assert change.patch["fence"] == 6
    assert ("dispatch" in change.patch) == (kind is Kind.TASK)
    assert [lifecycle.cancelled(task, reason=reason, **_ends).history for reason in ("why", None)] == [
        HistoryEntry(at=NOW, status=CANCELLED, run=3, attempt=2, reason=reason, by="worker")
        for reason in ("cancelled: why", "cancelled")
    ]


@pytest.mark.parametrize("kind", [Kind.TASK, Kind.SFN_TASK])
@pytest.mark.parametrize("only_failed", [True, False])
def test_a_new_run_forgets_the_one_before(kind: Kind, only_failed: bool) -> None:
    """All but the fence, which grows on, and the plan of a fan-out, by which its chunks are known."""
    plan = PLAN if kind is Kind.SFN_TASK else None
    task = plain(kind, FAILED, fence=7, run=2, attempt=3, lost=1, fan_out=plan)
    change = lifecycle.retried(
        task, only_failed=only_failed, execution_arn="arn", reason="why", dispatch="new", **_ends
    )
    fan_out: Patch = {"execution_arn": "arn", "fan_out": replace(PLAN, only_failed=only_failed)}
    patch: Patch = {
        "status": PENDING,
        "run": 3,
        "attempt": 0,
        "lost": 0,
        "state": None,
        "fence": 8,
        "claim_id": "mine",
        "dispatch": "new",
        "next_attempt_at": None,
        "results": None,
        "result_ref": None,
        "error": None,
        "progress": None,
        "started_at": None,
        "finished_at": None,
        "ttl": None,
        "cancel_requested": None,
        "updated_at": NOW,
    }
    assert change == Change(
        key=task.key,
        guard=Guard(status=frozenset({FAILED}), fence=7, run=2),
        patch=patch | fan_out if kind is Kind.SFN_TASK else patch,
        history=HistoryEntry(at=NOW, status=PENDING, run=3, attempt=0, reason="retried: why", by="worker"),
    )


def test_a_retry_without_a_reason_or_a_plan() -> None:
    """A fan-out that no worker took has no plan yet."""
    change = lifecycle.retried(
        plain(Kind.SFN_TASK, CANCELLED), only_failed=True, execution_arn="arn", reason=None, dispatch="new", **_ends
    )
    assert change.history is not None
    assert change.history.reason == "retried"
    assert "fan_out" not in change.patch


@pytest.mark.parametrize("length", [0, 1, MAX_REASON - 1, MAX_REASON, MAX_REASON + 1, 10 * MAX_REASON])
def test_a_reason_in_the_history_is_bounded(length: int) -> None:
    """However long it is; one that fits stands there as it is."""
    reason = "x" * length
    entry = lifecycle.given_back(claimed(), reason, **_ends).history
    assert entry is not None
    assert MAX_REASON == 500
    assert entry.reason == (reason if length <= MAX_REASON else "x" * MAX_REASON + " …")


def test_only_changes_whose_task_is_needed_give_it_back() -> None:
    """Each costs a read."""
    assert {name for name, build in OF_A_CLAIM.items() if not build(claimed()).returning} == {
        "completed",
        "checkpointed",
        "renewed",
        "progressed",
        "touched",
    }
    parent = claimed(Kind.SFN_TASK)
    assert {name for name, build in OF_A_FAN_OUT.items() if not build(parent).returning} == {"counted"}


def test_a_fan_out_counts_by_adding() -> None:
    """Only while this run of it lasts."""
    parent = claimed(Kind.SFN_TASK, run=4)
    assert lifecycle.counted(parent.key, 4, succeeded=3, failed=2, now=NOW) == Change(
        key=parent.key,
        guard=Guard(status=frozenset({IN_PROGRESS}), run=4),
        patch={"updated_at": NOW},
        add={"sub_task_succeed_count": 3, "sub_task_failed_count": 2},
        returning=False,
    )


def test_a_fan_out_is_asked_to_end() -> None:
    parent = claimed(Kind.SFN_TASK, run=4)
    assert lifecycle.cancel_requested(parent, reason="why", by="me", now=NOW) == Change(
        key=parent.key,
        guard=Guard(status=frozenset({IN_PROGRESS}), run=4),
        patch={"cancel_requested": CancelRequest(at=NOW, reason="why", by="me"), "updated_at": NOW},
    )


@pytest.mark.parametrize(
    ("request_", "succeeded", "failed", "status", "reason", "by", "error"),
    [
        (None, 2, 0, COMPLETED, None, "worker", None),
        (None, 1, 1, COMPLETED, "1 of 2 sub-tasks failed; tolerated are 50 %", "worker", None),
        (None, 0, 2, FAILED, "2 of 2 sub-tasks failed; tolerated are 50 %", "worker", "SubTasksFailed"),
        (CancelRequest(at=NOW, reason="why", by="me"), 1, 0, CANCELLED, "cancelled: why", "me", None),
        (CancelRequest(at=NOW), 1, 0, CANCELLED, "cancelled", "worker", None),
        (None, 1, 0, CANCELLED, "cancelled", "worker", None),
    ],
)
def test_how_a_fan_out_ends(
    request_: CancelRequest | None,
    succeeded: int,
    failed: int,
    status: TaskStatus,
    reason: str | None,
    by: str,
    error: str | None,
) -> None:
    """Whoever cancelled it stands in the history; else the worker that finished it."""
    parent = claimed(Kind.SFN_TASK, cancel_requested=request_)
    change = lifecycle.finalized(parent, succeeded=succeeded, failed=failed, **_ends)
    patch: Patch = {
        "status": status,
        "fence": 6,
        "claim_id": "mine",
        "sub_task_succeed_count": succeeded,
        "sub_task_failed_count": failed,
        "updated_at": NOW,
        "finished_at": NOW,
    }
    if error is not None:
        patch["error"] = Failure(type=error, message=str(reason), attempt=2)
    assert change == Change(
        key=parent.key,
        guard=Guard(status=frozenset({IN_PROGRESS}), run=1),
        patch=patch,
        history=HistoryEntry(at=NOW, status=status, run=1, attempt=2, reason=reason, by=by),
    )


def test_without_a_plan_a_fan_out_tolerates_nothing() -> None:
    parent = claimed(Kind.SFN_TASK, fan_out=None, attributes=TaskAttributes(sub_task_count=1000))
    assert lifecycle.finalized(parent, succeeded=1000, failed=0, **_ends).patch["status"] is COMPLETED
    assert lifecycle.finalized(parent, succeeded=999, failed=1, **_ends).patch["status"] is FAILED
    empty = claimed(Kind.SFN_TASK, attributes=TaskAttributes(), fan_out=None)
    assert lifecycle.finalized(empty, succeeded=0, failed=0, **_ends).patch["status"] is COMPLETED


def test_a_fan_out_that_nothing_can_run_is_guarded_by_its_fence_too() -> None:
    """It need not run: the fence tells a claim that came in between."""
    parent = claimed(Kind.SFN_TASK, run=4)
    assert OF_A_FAN_OUT["rejected_fan_out"](parent).guard == Guard(status=OPEN, run=4, fence=5)


def test_totals_are_summed_over_the_chunks() -> None:
    parent = plain(Kind.SFN_TASK).key
    rows = [ChunkRow(parent=parent, run=1, chunk=chunk, succeeded=chunk + 1, failed=10 * chunk) for chunk in range(3)]
    assert lifecycle.totals(rows) == (6, 30)
    assert lifecycle.totals([]) == (0, 0)


# --- a store of one task, in memory ----------------------------------------------------------------------------------


def holds(guard: Guard, task: TaskEntity[Any] | None) -> bool:
    """Whether a store would carry out a change with this guard."""
    if task is None:
        return guard.absent
    return (
        not guard.absent
        and (guard.status is None or task.status in guard.status)
        and (guard.fence is None or task.fence == guard.fence)
        and (guard.run is None or task.run == guard.run)
        and (guard.lease_ended_by is None or task.lease_until is None or task.lease_until <= guard.lease_ended_by)
    )


def apply(change: Change, task: TaskEntity[Any] | None) -> TaskEntity[Any]:
    """The task after the change, as `ports.TaskStore.update` leaves it."""
    base = task if task is not None else plain(Kind.SUB_TASK, version=-1)
    patch: Patch = change.patch
    own = {name: value for name, value in patch.items() if name in TaskEntity.__dataclass_fields__}
    inner = {name: value for name, value in patch.items() if name in {"error", "result_ref"}}
    if patch.get("results") is not None:
        inner["results"] = [[1]]
    history = (*base.history, change.history) if change.history is not None else base.history
    attributes = replace(base.attributes, **inner) if inner else base.attributes  # type: ignore[arg-type]
    return replace(base, **own, attributes=attributes, history=history, version=base.version + 1)  # type: ignore[arg-type]


@given(st.data())
def test_whoever_lost_its_claim_can_write_nothing_any_more(data: st.DataObject) -> None:
    """Rule 2, for every pair of workers: after the second claim each change of the first one is refused."""
    kind = data.draw(st.sampled_from([Kind.TASK, Kind.SUB_TASK]))
    first = apply(OTHERS["claim"](plain(kind, PENDING)), plain(kind, PENDING))
    later = (first.lease_until or NOW) + timedelta(milliseconds=data.draw(st.integers(0, 10**6)))
    reclaim = lifecycle.claim(first.key, first, kind, claimant(later, claim_id="other"))
    second = apply(_change(reclaim), first)
    assert second.fence > first.fence
    name = data.draw(st.sampled_from(sorted(OF_A_CLAIM)))
    assert not holds(OF_A_CLAIM[name](first).guard, second)
    assert holds(OF_A_CLAIM[name](second).guard, second)


@given(st.lists(st.sampled_from([*OF_A_CLAIM, "claim", "claim", "late claim", "late write"]), max_size=25), st.data())
def test_a_life_of_any_length(steps: list[str], data: st.DataObject) -> None:
    """Any steps in any order, also by workers of the past: the fence only grows, ends are ends, history tells all."""
    task = plain(Kind.TASK, PENDING)
    past = [task]
    for step in steps:
        stale = data.draw(st.sampled_from(past)) if step.startswith("late") else task
        if step == "late write":
            step = data.draw(st.sampled_from(sorted(OF_A_CLAIM)))
        if step.endswith("claim"):
            decision = lifecycle.claim(stale.key, stale, Kind.TASK, claimant(NOW + timedelta(days=len(past))))
            if not isinstance(decision, Change):
                assert decision is Verdict.ENDED
                continue
            change = decision
        elif stale.status is not IN_PROGRESS:
            continue  # nobody has a claim to write under
        else:
            change = OF_A_CLAIM[step](stale)
        if not holds(change.guard, task):
            continue
        before, task = task, apply(change, task)
        past.append(task)
        assert not before.is_terminal
        assert task.fence >= before.fence
        assert (task.status is IN_PROGRESS) == (task.lease_until is not None)
        assert task.attempt >= before.attempt or step.startswith(("given_back", "continued", "suspended"))
        if task.status is not before.status:
            assert (before.status, task.status) in PAIRS
            assert task.history[-1].status is task.status


# --- deadlines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "asked_at", "succeeded", "status", "kind"),
    [
        (NOW - timedelta(milliseconds=1), None, 2, COMPLETED, None),
        (NOW, None, 2, FAILED, "DeadlineExceeded"),
        (NOW, NOW, 1, FAILED, "DeadlineExceeded"),
        (NOW, NOW - timedelta(milliseconds=1), 1, CANCELLED, None),
        (NOW, NOW - timedelta(milliseconds=1), 2, COMPLETED, None),
    ],
)
def test_a_fan_out_that_ends_behind_its_deadline_is_failed(
    now: datetime, asked_at: datetime | None, succeeded: int, status: TaskStatus, kind: str | None
) -> None:
    """However its sub-tasks ended; but not when somebody cancelled it in time."""
    request = None if asked_at is None else CancelRequest(at=asked_at)
    options = TaskOptions(deadline=60)
    parent = claimed(Kind.SFN_TASK, deadline_at=NOW, options=options, cancel_requested=request)
    change = lifecycle.finalized(parent, succeeded=succeeded, failed=0, now=now, by="worker", claim_id="mine")
    error = change.patch.get("error")
    assert (change.patch["status"], error and error.type) == (status, kind)
    if error is not None:
        assert error.message == "it did not end within 60 s of its creation"


def test_a_retry_sets_the_deadline_anew() -> None:
    task = plain(Kind.TASK, FAILED, fence=3, options=TaskOptions(deadline=60), deadline_at=NOW)
    change = OTHERS["retried"](task)
    assert change.patch["deadline_at"] == NOW + timedelta(seconds=60)
    assert "2 s of its retry" in lifecycle.too_late(replace(task, run=2, options=TaskOptions(deadline=2)))
    assert "deadline_at" not in OTHERS["retried"](plain(Kind.TASK, FAILED, fence=3)).patch


@pytest.mark.parametrize("reason", ["\0" * 2000, "é" * 2000, "\U0001f600" * 2000, "\x1b[0m" * 500, "x" * 2000])
def test_a_reason_is_bounded_as_it_is_stored(reason: str) -> None:
    """A control character takes six bytes of JSON; as much stays as there is room for."""
    kept = changes_.entry(claimed(), FAILED, NOW, "worker", reason).reason
    assert kept is not None
    text = kept.removesuffix(" …")
    assert text != kept
    assert reason.startswith(text)
    size = len(json.dumps(text, ensure_ascii=False).encode()) - 2
    assert size <= changes_.MAX_REASON_BYTES
    assert len(text) == lifecycle.MAX_REASON or size > changes_.MAX_REASON_BYTES - 2 * 6 * 6
