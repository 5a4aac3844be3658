"""Tasks and changes for tests that talk to the ports themselves."""

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from taskloom import lifecycle
from taskloom.lifecycle import Change, Claimant, Written
from taskloom.model import (
    Failure,
    FanOut,
    HistoryEntry,
    Kind,
    Progress,
    TaskAttributes,
    TaskEntity,
    TaskKey,
    TaskStatus,
)
from taskloom.ports import Backend, NewTaskRow
from taskloom.values import EncodedJson, Json

LEASE: Final = timedelta(seconds=60)


class Rows:
    """Tasks of one fresh tenant and one fresh task type, so that tests may share a backend."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        mark = backend.ids.token()[:20]
        self.tenant = f"t-{mark}"
        self.task_type = f"cat-{mark}"

    @property
    def now(self) -> datetime:
        """The backend's time."""
        return self.backend.clock.now()

    def single(self, input: Json = None, **fields: Any) -> NewTaskRow:
        """A new single task; *fields* replace those of its entity."""
        return self._row(Kind.TASK, input, TaskAttributes(), fields)

    def fan_out(self, count: int = 3, **fields: Any) -> NewTaskRow:
        """A new step function task with *count* inputs; *fields* replace those of its entity."""
        return self._row(Kind.SFN_TASK, list(range(count)), TaskAttributes(sub_task_count=count), fields)

    def _row(self, kind: Kind, input: Json, attributes: TaskAttributes, fields: dict[str, Any]) -> NewTaskRow:
        tenant = fields.pop("tenant_code", self.tenant)
        task_type = fields.pop("task_type", self.task_type)
        code = fields.pop("code", None) or self.backend.ids.code(self.now)
        name_of = TaskKey.single if kind is Kind.TASK else TaskKey.step_function
        values: dict[str, Any] = {
            "name": task_type,
            "dispatch": self.backend.ids.token(),
            "execution_arn": self.backend.machine.arn(code) if kind is Kind.SFN_TASK else None,
            "history": (HistoryEntry(at=self.now, status=TaskStatus.PENDING, run=1, attempt=0, by="ann"),),
        }
        entity: TaskEntity = TaskEntity(
            key=name_of(tenant, task_type, code),
            kind=kind,
            code=code,
            task_type=task_type,
            tenant_code=tenant,
            status=TaskStatus.PENDING,
            input=input,
            attributes=attributes,
            created_at=self.now,
            updated_at=self.now,
            **(values | fields),
        )
        if entity.input_ref is not None:
            return NewTaskRow(entity=replace(entity, input=None), input=None)
        return NewTaskRow(
            entity=entity, input=EncodedJson(json.dumps(input, ensure_ascii=False, separators=(",", ":")))
        )

    async def create(self, *rows: NewTaskRow) -> list[TaskEntity]:
        """The entities of *rows*, which are stored now."""
        await self.backend.store.create(rows)
        return [row.entity for row in rows]

    async def stored(self, key: TaskKey) -> TaskEntity:
        """The task *key*, which must be there."""
        task = await self.backend.store.get(key)
        assert task is not None
        return task

    def claimant(self, *, now: datetime | None = None, lease: timedelta = LEASE, max_lost: int = 3) -> Claimant:
        """A worker with a claim id of its own."""
        return Claimant(
            by="worker", claim_id=self.backend.ids.token(), now=now or self.now, lease=lease, max_lost=max_lost
        )

    def claim(self, task: TaskEntity, *, plan: FanOut | None = None, who: Claimant | None = None) -> Change:
        """The change by which a worker claims *task* as it stands; before its deadline, if it has one."""
        now = self.now
        if task.deadline_at is not None:
            now = min(now, task.deadline_at - timedelta(milliseconds=1))
        change = lifecycle.claim(task.key, task, task.kind, who or self.claimant(now=now), plan)
        assert isinstance(change, Change)
        return change

    def first_claim(self, parent: TaskEntity, index: int) -> Change:
        """The change that creates the sub-task *index* of *parent*."""
        return lifecycle.first_claim(parent, index, None, self.claimant())[0]

    def progressed(self, task: TaskEntity, done: float) -> Change:
        """The change by which the claimed *task* tells how far it is."""
        return lifecycle.progressed(task, Progress(done=done), now=self.now)

    def completed(self, task: TaskEntity) -> Change:
        """The change that ends the claimed *task* well."""
        results = EncodedJson('[["done"]]')
        return lifecycle.completed(
            task,
            results=results,
            result_ref=None,
            progress=None,
            now=self.now,
            by="worker",
            claim_id=self.backend.ids.token(),
        )

    def failed(self, task: TaskEntity) -> Change:
        """The change that ends the claimed *task* badly."""
        failure = Failure(type="ValueError", message="no", attempt=task.attempt)
        return lifecycle.failed(
            task, failure, progress=None, now=self.now, by="worker", claim_id=self.backend.ids.token()
        )

    def given_back(self, task: TaskEntity) -> Change:
        """The change by which the worker of *task* steps back."""
        return lifecycle.given_back(
            task, "the worker stopped", now=self.now, by="worker", claim_id=self.backend.ids.token()
        )

    def waits_for_retry(self, task: TaskEntity) -> Change:
        """The change after which the claimed *task* waits a minute for its next attempt."""
        failure = Failure(type="ValueError", message="no", attempt=task.attempt, will_retry=True)
        return lifecycle.waits_for_retry(
            task,
            failure,
            at=self.now + LEASE,
            progress=None,
            now=self.now,
            by="worker",
            claim_id=self.backend.ids.token(),
        )

    def rejected(self, task: TaskEntity) -> Change:
        """The change that ends *task*, which nobody has claimed, badly."""
        failure = Failure(type="EventFactory", message="dropped")
        return lifecycle.rejected(task, failure, now=self.now, by="worker", claim_id=self.backend.ids.token())

    async def carry_out(self, change: Change) -> TaskEntity:
        """The task after *change*, which must not be refused."""
        outcome = await self.backend.store.update(change)
        assert isinstance(outcome, Written), outcome
        return await self.stored(change.key)

    async def claimed(self, row: NewTaskRow | None = None) -> TaskEntity:
        """A task that a worker has claimed; a single one unless *row* says otherwise."""
        (task,) = await self.create(row or self.single())
        return await self.carry_out(self.claim(task))

    async def sub_task(self, index: int = 0, parent: TaskEntity | None = None) -> TaskEntity:
        """A sub-task that a worker has claimed."""
        parent = parent or await self.claimed(self.fan_out(index + 1))
        return await self.carry_out(self.first_claim(parent, index))
