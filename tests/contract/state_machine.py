"""A task store against a dict, over any order of writes that workers can come up with.

Workers remember how a task stood when they last looked, and act on it, however old it is by then: that is where stale
claims, late finishes and repeated writes come from. The store must do what `Model` does, and the rules of the design
must hold of what it keeps.
"""

import asyncio
import itertools
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, TypeVar

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from taskloom import lifecycle
from taskloom.lifecycle import NEXT, Change, Claimant, Guard, Refused, Written
from taskloom.model import (
    NO_OPTIONS,
    Failure,
    FanOut,
    Kind,
    Progress,
    TaskEntity,
    TaskKey,
    TaskOptions,
    TaskStatus,
    TenantCode,
)
from taskloom.ports import Answer, Backend, ChunkRow, Idempotency, Known, NewTaskRow, Step, StepKind, TaskQuery
from taskloom.values import EncodedJson
from tests.contract.base import PATIENCE
from tests.contract.model import Model, patched
from tests.support.rows import Rows

ResultT = TypeVar("ResultT")

DEEDS: Final = ("complete", "fail", "retry", "give back", "progress", "renew", "save", "continue", "sleep", "wait")
CALLBACK: Final = "approval"
"""Of each task, for which it may wait."""
PENDING, IN_PROGRESS = TaskStatus.PENDING, TaskStatus.IN_PROGRESS
PLAN: Final = FanOut(chunk_size=1, tolerated_failure_percentage=50)
SUB_TASKS: Final = 2
MAX_TOPS: Final = 3
STATUS_CHANGES: Final = {(status, after) for (status, _), after in NEXT.items()}


def run_store_machine(
    backend: Backend, kind: "type[StoreMachine] | None" = None, *, runs: int = 80, is_proof: bool = False
) -> None:
    """Try *backend* with this *kind* of machine in this many runs of 40 steps.

    As a proof that a broken store is found, the runs are always the same, and the first failure will do.
    Raises: AssertionError; the steps are printed.
    """
    base = StoreMachine if kind is None else kind

    class Machine(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__(backend)

    chosen = settings(max_examples=runs, stateful_step_count=40, deadline=None)
    if is_proof:
        chosen = settings(chosen, derandomize=True, database=None, phases=(Phase.generate,))
    run_state_machine_as_test(Machine, settings=chosen)


class StoreMachine(RuleBasedStateMachine):
    """Rules act on the store of a backend and on the model. Time is the machine's own, so any backend will do."""

    sightings: "Bundle[TaskEntity]" = Bundle("sightings")
    """Tasks as somebody saw them once."""
    claims: "Bundle[TaskEntity]" = Bundle("claims")
    """Single tasks and sub-tasks as somebody claimed them; the claim may be lost by now."""
    parents: "Bundle[TaskKey]" = Bundle("parents")
    """Step function tasks."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.store = backend.store
        self.steps = backend.steps
        self.ids = backend.ids
        self.rows = Rows(backend)  # a tenant of its own: all runs of the machine share a backend
        self.now = backend.clock.now()
        self.model = Model()
        self.asked: list[Change] = []
        self.owners: dict[tuple[TaskKey, int], str | None] = {}
        self.tops = 0
        self.checked = False
        self.keys: dict[str, Known] = {}

    def teardown(self) -> None:
        self.runner.close()

    # --- creation ------------------------------------------------------------------------------------------------

    # Few tasks, so that there is much to do with each.
    @precondition(lambda self: self.tops < MAX_TOPS)
    @rule(target=sightings, other_type=st.booleans(), is_loud=st.booleans())
    def create_single(self, other_type: bool, is_loud: bool) -> TaskEntity:
        row = self.rows.single(
            {"v": 1},
            task_type=self.rows.task_type + ("s" if other_type else ""),
            dispatch=self.ids.token() if is_loud else None,
            options=TaskOptions(deadline=60.0) if is_loud else NO_OPTIONS,
            deadline_at=self.now + timedelta(seconds=60) if is_loud else None,
        )
        self.create(row)
        return row.entity

    @precondition(lambda self: self.tops < MAX_TOPS)
    @rule(target=sightings, key=st.sampled_from(["a", "b"]), fingerprint=st.sampled_from(["1", "2"]))
    def create_once(self, key: str, fingerprint: str) -> TaskEntity | MultipleResults[TaskEntity]:
        """Under an idempotency key that may be known, and never expires here."""
        row = self.rows.single()
        expires_at = self.rows.now + timedelta(days=999)
        row = replace(row, idempotency=Idempotency(key=key, fingerprint=fingerprint, expires_at=expires_at))
        (answer,) = self.run(self.store.create([row]))
        assert answer == self.keys.get(key)
        assert self.run(self.store.known(TenantCode(self.rows.tenant), key)) == self.keys.setdefault(
            key, Known(task=row.entity.key, fingerprint=fingerprint)
        )
        if answer is not None:
            return multiple()
        self.model.create([row])
        self.tops += 1
        self.checked = False
        return row.entity

    @precondition(lambda self: self.tops < MAX_TOPS)
    @rule(target=parents)
    def create_fan_out(self) -> TaskKey:
        row = self.rows.fan_out(SUB_TASKS)
        self.create(row, self.rows.single())
        return row.entity.key

    # --- claims --------------------------------------------------------------------------------------------------

    @rule(targets=(sightings, claims), seen=sightings, is_fresh=st.booleans(), lease=st.sampled_from([1, 60]))
    def claim(self, seen: TaskEntity, is_fresh: bool, lease: int) -> TaskEntity | MultipleResults[TaskEntity]:
        """As the task stands, or as it stood once."""
        change = self.claim_of(self.model.tasks[seen.key] if is_fresh else seen, lease)
        return multiple() if change is None else self.owner_of(change, self.carry_out(change))

    @rule(parent=parents)
    def claim_fan_out(self, parent: TaskKey) -> None:
        """Its execution owns it then."""
        change = self.claim_of(self.model.tasks[parent], 60)
        if change is not None:
            self.owner_of(change, self.carry_out(change))

    @rule(targets=(sightings, claims), parent=parents, seen=sightings, is_fresh=st.booleans())
    def claim_in_run(
        self, parent: TaskKey, seen: TaskEntity, is_fresh: bool
    ) -> TaskEntity | MultipleResults[TaskEntity]:
        """A sub-task that stands there already, in the run that its fan-out is in."""
        if seen.kind is not Kind.SUB_TASK or seen.key.parent != parent:
            return multiple()
        task = self.model.tasks[seen.key] if is_fresh else seen
        change = lifecycle.claim_in_run(task, self.model.tasks[parent], self.claimant(60))
        return self.owner_of(change, self.carry_out(change)) if isinstance(change, Change) else multiple()

    @rule(targets=(sightings, claims), parent=parents, index=st.integers(0, SUB_TASKS - 1))
    def first_claim(self, parent: TaskKey, index: int) -> TaskEntity | MultipleResults[TaskEntity]:
        change, _ = lifecycle.first_claim(self.model.tasks[parent], index, None, self.claimant(60))
        return self.owner_of(change, self.carry_out(change))

    # --- what the owner does, or who takes itself for it ---------------------------------------------------------

    @rule(target=sightings, claim=claims, deed=st.sampled_from(DEEDS))
    def act(self, claim: TaskEntity, deed: str) -> TaskEntity:
        """Rule 2: it counts exactly if the claim still holds."""
        task = self.model.tasks[claim.key]
        is_owner = (task.status, task.fence) == (IN_PROGRESS, claim.fence)
        callback = self.model.steps.get((claim.key, CALLBACK))
        waits_in_vain = deed == "wait" and callback is not None and callback.answer is not None
        change = self.deed_of(claim, deed)
        outcome = self.carry_out(change)
        assert isinstance(outcome, Written) == (is_owner and not waits_in_vain)
        if is_owner and change.otherwise is not None and waits_in_vain:
            assert isinstance(self.carry_out(change.otherwise), Written)
        return self.model.tasks[claim.key]

    @rule(targets=(sightings, claims), ended=claims, deed=st.sampled_from(DEEDS), seen=st.one_of(st.none(), sightings))
    def end_one_and_claim_another(
        self, ended: TaskEntity, deed: str, seen: TaskEntity | None
    ) -> TaskEntity | MultipleResults[TaskEntity]:
        """In one call; without another the same one, as the first write will leave it."""
        end = self.deed_of(ended, deed)
        standing = self.model.tasks[ended.key if seen is None else seen.key]
        if standing.key == end.key and self.model.allows(end, standing):
            standing = patched(standing, end)
        claim = self.claim_of(standing, 60)
        both = [end] if claim is None else [end, claim]
        outcomes = self.run(self.store.update_many(both))
        for change, outcome in zip(both, outcomes, strict=True):
            self.compare(change, outcome)
        return multiple() if claim is None else self.owner_of(claim, outcomes[-1])

    # --- what comes without a claim ------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 1, 60]))
    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(seen=sightings, hopeless=st.sampled_from([False, False, True]))
    def resume_or_reject(self, seen: TaskEntity, hopeless: bool) -> None:
        """A waiting task gets another message, or will never get one."""
        if seen.status is not PENDING or seen.kind is Kind.SUB_TASK:
            return
        if hopeless:
            failure = Failure(type="EventFactory", message="dropped")
            change = lifecycle.rejected(seen, failure, now=self.now, by="worker", claim_id=self.ids.token())
        else:
            patch: Any = {"dispatch": self.ids.token(), "updated_at": self.now}
            change = Change(key=seen.key, guard=Guard(status=frozenset({PENDING})), patch=patch)
        self.carry_out(change)

    @rule(target=sightings, seen=sightings, is_fresh=st.booleans(), late=st.booleans())
    def cancel(self, seen: TaskEntity, is_fresh: bool, late: bool) -> TaskEntity:
        """Or its deadline passes. Whoever runs it has lost its claim."""
        task = self.model.tasks[seen.key] if is_fresh else seen
        if not task.is_terminal and not (late and task.kind is Kind.SUB_TASK):
            who: Any = {"now": self.now, "by": "operator", "claim_id": self.ids.token()}
            change = lifecycle.overdue(task, **who) if late else lifecycle.cancelled(task, reason="why", **who)
            stands = self.model.tasks[task.key]
            is_now = (task.status, task.fence, task.run) == (stands.status, stands.fence, stands.run)
            assert isinstance(self.carry_out(change), Written) == is_now
        return self.model.tasks[seen.key]

    @rule(target=sightings, seen=sightings, is_fresh=st.booleans(), late=st.booleans())
    def call_back(self, seen: TaskEntity, is_fresh: bool, late: bool) -> TaskEntity:
        """Its handler asks for a token; then somebody answers, which wakes it if it waits. Both are one write."""
        task = self.model.tasks[seen.key] if is_fresh else seen
        standing = self.model.steps.get((task.key, CALLBACK))
        if task.is_terminal or task.kind is Kind.SFN_TASK:
            return self.model.tasks[seen.key]
        fresh = Step(
            key=task.key,
            kind=StepKind.CALLBACK,
            name=CALLBACK,
            version=1 if standing is None or late else standing.version + 1,
            write_id=self.ids.token(),
            run=task.run,
            at=self.now,
            token=self.ids.token(),
            answer=None if standing is None else Answer.RESUMED,
        )
        if standing is None:
            change = lifecycle.touched(task, now=self.now)
        else:
            who: Any = {"dispatch": self.ids.token(), "claim_id": self.ids.token()}
            change = lifecycle.answered(task, CALLBACK, now=self.now, by="ann", **who)
        outcome = self.run(self.steps.put(fresh, change))
        self.checked = False
        assert outcome == self.model.put(fresh, change) or (outcome == Written() and not change.returning)
        return self.model.tasks[seen.key]

    @rule(parent=parents)
    def cancel_fan_out(self, parent: TaskKey) -> None:
        """One that waits ends at once, one that runs is asked to end."""
        task = self.model.tasks[parent]
        if task.status is PENDING:
            who: Any = {"now": self.now, "by": "operator", "claim_id": self.ids.token()}
            self.carry_out(lifecycle.cancelled(task, reason=None, **who))
        elif task.status is IN_PROGRESS:
            self.carry_out(lifecycle.cancel_requested(task, reason="why", by="operator", now=self.now))

    @rule(target=sightings, seen=sightings, is_fresh=st.booleans())
    def retry(self, seen: TaskEntity, is_fresh: bool) -> TaskEntity:
        """A new run of a single task."""
        task = self.model.tasks[seen.key] if is_fresh else seen
        if task.is_terminal and task.kind is Kind.TASK:
            self.carry_out(self.retry_of(task))
        return self.model.tasks[seen.key]

    @rule(parent=parents)
    def retry_fan_out(self, parent: TaskKey) -> None:
        task = self.model.tasks[parent]
        if task.is_terminal:
            self.carry_out(self.retry_of(task))

    @precondition(lambda self: self.asked)
    @rule(position=st.integers(0, 20))
    def repeat(self, position: int) -> None:
        """Rule 4: a driver asks again, because the answer was lost or because nobody told it to stop."""
        change = self.asked[-1 - position % len(self.asked)]
        outcome = self.carry_out(change)
        owner = self.model.tasks[change.key].claim_id
        if isinstance(outcome, Refused) and change.patch.get("claim_id") is not None:
            assert lifecycle.is_mine(change, outcome) == (owner == change.patch["claim_id"])

    # --- chunks and the end of a fan-out -------------------------------------------------------------------------

    @rule(parent=parents, chunk=st.integers(0, SUB_TASKS - 1), failed=st.booleans(), earlier=st.booleans())
    def end_chunk(self, parent: TaskKey, chunk: int, failed: bool, earlier: bool) -> None:
        """Rule 4: only its first end counts. An ended fan-out gets no new ones, and an earlier run counts nothing."""
        task = self.model.tasks[parent]
        run = max(1, task.run - earlier)
        row = ChunkRow(parent=parent, run=run, chunk=chunk, succeeded=int(not failed), failed=int(failed))
        if task.status is IN_PROGRESS or (parent, run, chunk) in self.model.chunks:
            is_first = self.run(self.store.put_chunk(row))
            assert is_first == self.model.put_chunk(row)
            self.checked = False
            if is_first:
                counted = lifecycle.counted(parent, run, succeeded=row.succeeded, failed=row.failed, now=self.now)
                assert isinstance(self.carry_out(counted), Written) == (run == task.run)

    @rule(parent=parents)
    def finalize(self, parent: TaskKey) -> None:
        """When every chunk has ended, or it is to be cancelled, so that its sums stay right however late it comes."""
        task = self.model.tasks[parent]
        rows = self.run(self.store.list_chunks(parent, task.run))
        if len(rows) < SUB_TASKS and task.cancel_requested is None:
            return
        succeeded, failed = lifecycle.totals(rows)
        change = lifecycle.finalized(
            task, succeeded=succeeded, failed=failed, now=self.now, by="worker", claim_id=self.ids.token()
        )
        outcome = self.carry_out(change)
        assert isinstance(outcome, Written) == (task.status is IN_PROGRESS)

    # --- what must hold ------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.checked)
    @invariant()
    def store_is_model(self) -> None:
        self.run(self.compare_reads())
        self.checked = True

    @invariant()
    def rules_hold(self) -> None:
        for task in self.model.tasks.values():
            is_claimed = task.status is IN_PROGRESS
            # Rule 2; rule 3: a running fan-out has no lease.
            assert (task.lease_until is not None) == (is_claimed and task.kind is not Kind.SFN_TASK)
            if is_claimed:
                assert task.dispatch is None
                assert self.owners[task.key, task.fence] == task.claim_id
            assert task.fence >= max((fence for key, fence in self.owners if key == task.key), default=0)
            # Rule 4.
            if task.kind is Kind.SFN_TASK and task.is_terminal and task.started_at is not None:
                counters = (task.attributes.sub_task_succeed_count, task.attributes.sub_task_failed_count)
                assert counters == lifecycle.totals(self.model.list_chunks(task.key, task.run))
            # A run is left behind for good: nothing of it is on the task any more.
            assert task.history[-1].run == task.run == max(entry.run for entry in task.history)
            # Rule 5.
            statuses = [entry.status for entry in task.history]
            assert statuses[-1] is task.status
            assert {*itertools.pairwise(statuses)} <= STATUS_CHANGES

    # --- helpers -------------------------------------------------------------------------------------------------

    def run(self, call: Coroutine[Any, Any, ResultT]) -> ResultT:
        async def limited() -> ResultT:
            async with asyncio.timeout(PATIENCE):
                return await call

        return self.runner.run(limited())

    def create(self, *rows: NewTaskRow) -> None:
        self.run(self.store.create(rows))
        self.model.create(rows)
        self.tops += len(rows)
        self.checked = False

    def carry_out(self, change: Change) -> Written | Refused:
        outcome = self.run(self.store.update(change))
        self.compare(change, outcome)
        return outcome

    def compare(self, change: Change, outcome: Written | Refused) -> None:
        """Let the model do the same, and compare the answers."""
        self.asked.append(change)
        self.checked = False
        expected = self.model.update(change)
        if isinstance(expected, Refused):
            assert outcome == expected
            return
        assert isinstance(outcome, Written)
        if change.guard.absent:  # which version a new sub-task begins with is the store's business
            stored = self.run(self.store.get(change.key))
            assert stored is not None
            created = replace(self.model.tasks[change.key], version=stored.version)
            expected = Written(created)
            self.model.tasks[change.key] = created
        assert outcome == expected or (outcome.entity is None and not change.returning)

    def owner_of(self, claim: Change, outcome: Written | Refused) -> TaskEntity | MultipleResults[TaskEntity]:
        """The claimed task; nothing when the claim was refused, or was the end of the task."""
        task = self.model.tasks[claim.key]
        if isinstance(outcome, Refused) or task.status is not IN_PROGRESS:
            return multiple()
        assert (task.key, task.fence) not in self.owners  # rule 2: a fence has one owner, ever
        self.owners[task.key, task.fence] = task.claim_id
        return multiple() if task.kind is Kind.SFN_TASK else task

    def claimant(self, lease: int) -> Claimant:
        return Claimant(
            by="worker", claim_id=self.ids.token(), now=self.now, lease=timedelta(seconds=lease), max_lost=2
        )

    def retry_of(self, task: TaskEntity) -> Change:
        return lifecycle.retried(
            task,
            only_failed=True,
            execution_arn=None if task.kind is Kind.TASK else f"arn:{task.run + 1}",
            reason="why",
            by="operator",
            now=self.now,
            dispatch=self.ids.token(),
            claim_id=self.ids.token(),
        )

    def claim_of(self, seen: TaskEntity, lease: int) -> Change | None:
        plan = PLAN if seen.kind is Kind.SFN_TASK else None
        change = lifecycle.claim(seen.key, seen, seen.kind, self.claimant(lease), plan)
        return change if isinstance(change, Change) else None

    def deed_of(self, claim: TaskEntity, deed: str) -> Change:
        who: Any = {"now": self.now, "by": "worker", "claim_id": self.ids.token()}
        failure = Failure(type="ValueError", message="no", attempt=claim.attempt)
        match deed:
            case "complete":
                results = EncodedJson('[[{"n":1}]]')
                return lifecycle.completed(claim, results=results, result_ref=None, progress=Progress(done=1), **who)
            case "fail":
                return lifecycle.failed(claim, failure, progress=None, **who)
            case "retry":
                at = self.now + timedelta(seconds=30)
                return lifecycle.waits_for_retry(claim, failure, at=at, progress=Progress(done=2), **who)
            case "give back":
                return lifecycle.given_back(claim, "the worker stopped", **who)
            case "save":
                return lifecycle.checkpointed(claim, EncodedJson('{"page":1}'), now=self.now)
            case "continue":
                return lifecycle.continued(claim, state=EncodedJson("2"), progress=None, reason="goes on", **who)
            case "sleep" | "wait":
                reason = lifecycle.sleeps("then") if deed == "sleep" else lifecycle.waits(CALLBACK, None)
                return lifecycle.suspended(
                    claim,
                    until=self.now + timedelta(seconds=45),
                    callback=None if deed == "sleep" else CALLBACK,
                    state=None,
                    progress=Progress(done=2),
                    reason=reason,
                    **who,
                )
            case "progress":
                return lifecycle.progressed(claim, Progress(done=3, total=4, message="…"), now=self.now)
            case _:
                return lifecycle.renewed(claim, until=self.now + timedelta(seconds=60), now=self.now)

    async def compare_reads(self) -> None:
        """Everything that can be read of the store is what the model says."""
        for key, task in self.model.tasks.items():
            assert await self.store.get(key) == task
            callback = self.model.steps.get((key, CALLBACK))
            assert await self.steps.get(key, StepKind.CALLBACK, CALLBACK) == callback
            if callback is not None:
                assert await self.steps.find(callback.token or "") == callback
            if task.kind is Kind.SFN_TASK:
                indexes = range(SUB_TASKS)
                assert list(await self.store.list_sub_tasks(key, indexes)) == self.model.list_sub_tasks(key, indexes)
                for run in range(1, task.run + 1):
                    assert list(await self.store.list_chunks(key, run)) == self.model.list_chunks(key, run)
        query = TaskQuery(tenant_code=TenantCode(self.rows.tenant), kind=Kind.TASK, limit=2)
        for asked in (
            query,
            replace(query, kind=Kind.SFN_TASK, newest_first=False),
            replace(query, status=IN_PROGRESS, newest_first=False),
            replace(query, status=TaskStatus.FAILED, task_type=self.rows.task_type),
        ):
            assert await self.listed(asked) == self.model.list_tasks(asked)

    async def listed(self, query: TaskQuery) -> Sequence[TaskEntity]:
        found: list[TaskEntity] = []
        while True:
            page, after = await self.store.list_tasks(query)
            found += page
            if after is None:
                return found
            query = replace(query, after=after)
