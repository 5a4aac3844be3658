"""Task stores that are wrong in one way each: proof that the contract suite bites.

Each wraps a real store and reaches it through the ports alone, so it breaks every backend in the same way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from taskloom.lifecycle import Change, Guard, Patch, Refused, Written
from taskloom.model import Kind, TaskCode, TaskEntity, TaskKey, TaskStatus, TenantCode
from taskloom.ports import Backend, ChunkRow, Known, NewTaskRow, TaskQuery, TaskStore
from tests.contract.model import holds

Outcome = Written | Refused


class Faithful:
    """`ports.TaskStore` that passes everything on; the broken ones override what they break."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._real: TaskStore = backend.store

    def before(self, change: Change) -> Change:
        """The change that is really carried out."""
        return change

    def after(self, change: Change, outcome: Outcome) -> Outcome:
        """The answer that is really given."""
        return outcome

    async def create(self, rows: Sequence[NewTaskRow]) -> Sequence[Known | None]:
        return await self._real.create(rows)

    async def known(self, tenant: TenantCode, key: str) -> Known | None:
        return await self._real.known(tenant, key)

    async def list_overdue(self, limit: int) -> Sequence[TaskEntity]:
        return await self._real.list_overdue(limit)

    async def list_stranded(self, limit: int) -> Sequence[TaskEntity]:
        return await self._real.list_stranded(limit)

    async def next_deadline(self) -> datetime | None:
        return await self._real.next_deadline()

    async def update(self, change: Change) -> Outcome:
        return self.after(change, await self._real.update(self.before(change)))

    async def update_many(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        outcomes = await self._real.update_many([self.before(change) for change in changes])
        return [self.after(change, outcome) for change, outcome in zip(changes, outcomes, strict=True)]

    async def get(self, key: TaskKey) -> TaskEntity | None:
        return await self._real.get(key)

    async def expired_at(self, key: TaskKey) -> datetime | None:
        return await self._real.expired_at(key)

    async def list_tasks(self, query: TaskQuery) -> tuple[Sequence[TaskEntity], TaskCode | None]:
        return await self._real.list_tasks(query)

    async def list_sub_tasks(self, parent: TaskKey, indexes: range) -> Sequence[TaskEntity]:
        return await self._real.list_sub_tasks(parent, indexes)

    async def put_chunk(self, row: ChunkRow) -> bool:
        return await self._real.put_chunk(row)

    async def list_chunks(self, parent: TaskKey, run: int) -> Sequence[ChunkRow]:
        return await self._real.list_chunks(parent, run)


class OneByOne(Faithful):
    """A faithful store whose `update_many` is nothing but `update` again and again."""

    async def update_many(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        return [await self.update(change) for change in changes]


# --- rule 2: one owner at a time -------------------------------------------------------------------------------------


class NoFencing(Faithful):
    """Whoever lost its claim still writes."""

    def before(self, change: Change) -> Change:
        return replace(change, guard=change.guard._replace(fence=None))


class AnyStatus(Faithful):
    """An ended task can be claimed, and ended again."""

    def before(self, change: Change) -> Change:
        return replace(change, guard=change.guard._replace(status=None))


class AnyRun(Faithful):
    """What an earlier run of a fan-out sends still counts (rule 3)."""

    def before(self, change: Change) -> Change:
        return replace(change, guard=change.guard._replace(run=None))


class AnyLease(Faithful):
    """A claim is taken from its owner although the lease was renewed."""

    def before(self, change: Change) -> Change:
        return replace(change, guard=change.guard._replace(lease_ended_by=None))


class LateLease(Faithful):
    """A lease that ends right now holds a little longer."""

    def before(self, change: Change) -> Change:
        ended = change.guard.lease_ended_by
        if ended is None:
            return change
        return replace(change, guard=change.guard._replace(lease_ended_by=ended - timedelta(milliseconds=1)))


class DoubleClaim(Faithful):
    """A claim needs nothing."""

    def before(self, change: Change) -> Change:
        is_claim = change.patch.get("status") is TaskStatus.IN_PROGRESS and not change.guard.absent
        return replace(change, guard=Guard()) if is_claim else change


class ClaimByReading(OneByOne):
    """First looks whether a change may be carried out, then carries it out."""

    async def update(self, change: Change) -> Outcome:
        task = await self._real.get(change.key)
        if not holds(change.guard, task):
            return Refused(task)
        return await self._real.update(change if task is None else replace(change, guard=Guard()))


class RefusedIsWritten(Faithful):
    """Tells the second of two claimants that it has the task, too."""

    def after(self, change: Change, outcome: Outcome) -> Outcome:
        return Written(outcome.current) if isinstance(outcome, Refused) else outcome


class WritesWhatItRefuses(OneByOne):
    """Says no and does it all the same."""

    async def update(self, change: Change) -> Outcome:
        outcome = await self._real.update(change)
        if isinstance(outcome, Refused) and not change.guard.absent:
            await self._real.update(replace(change, guard=Guard()))
        return outcome


class CreatesAgain(OneByOne):
    """A sub-task that is there already is begun anew."""

    async def update(self, change: Change) -> Outcome:
        outcome = await self._real.update(change)
        if isinstance(outcome, Refused) and change.guard.absent:
            outcome = await self._real.update(replace(change, guard=Guard()))
        return outcome


class RefusedWithoutCurrent(Faithful):
    """Leaves the loser in the dark, so that nobody ever finds its own claim id."""

    def after(self, change: Change, outcome: Outcome) -> Outcome:
        return Refused(None) if isinstance(outcome, Refused) else outcome


class RefusedWithYesterday(Faithful):
    """Tells the loser how the task stood at its creation."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self._first: dict[TaskKey, TaskEntity] = {}

    async def get(self, key: TaskKey) -> TaskEntity | None:
        task = await super().get(key)
        return task if task is None else self._seen(task)

    def _seen(self, task: TaskEntity) -> TaskEntity:
        self._first.setdefault(task.key, task)
        return task

    def after(self, change: Change, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Refused) and outcome.current is not None:
            return Refused(self._first.get(change.key, outcome.current))
        return outcome


# --- rule 5: a status change and its history entry are the same write ------------------------------------------------


class HistoryInASecondWrite(OneByOne):
    """Status first, history later; not at all when its caller gives up in between."""

    async def update(self, change: Change) -> Outcome:
        if change.history is None or change.guard.absent:
            return await self._real.update(change)
        outcome = await self._real.update(replace(change, history=None))
        if isinstance(outcome, Refused):
            return outcome
        return await self._real.update(Change(key=change.key, guard=Guard(), patch={}, history=change.history))


class NoHistory(Faithful):
    """Forgets what happened."""

    def before(self, change: Change) -> Change:
        return replace(change, history=None)


# --- rule 1: nothing is lost -----------------------------------------------------------------------------------------


class _Lossy(OneByOne):
    async def _lose(self, keys: set[TaskKey]) -> None:
        """Take the records of these tasks from the stream, and send nothing."""
        stream = self._backend.stream
        records = await stream.take(1000, again_at=self._backend.clock.now())
        await stream.settle([(record.sequence, None) for record in records if record.image.key in keys], [])


class LostCreation(_Lossy):
    """The task is there, and nobody will ever run it."""

    async def create(self, rows: Sequence[NewTaskRow]) -> Sequence[Known | None]:
        answers = await self._real.create(rows)
        await self._lose({row.entity.key for row in rows})
        return answers


class LostDispatch(_Lossy):
    """A change sets `dispatch`, and the stream never hears of it."""

    async def update(self, change: Change) -> Outcome:
        outcome = await self._real.update(change)
        if change.patch.get("dispatch") is not None:
            await self._lose({change.key})
        return outcome


class DispatchInASecondWrite(_Lossy):
    """First the values, then `dispatch` and its record; not at all when its caller gives up in between."""

    async def create(self, rows: Sequence[NewTaskRow]) -> Sequence[Known | None]:
        answers = await self._real.create([replace(row, entity=replace(row.entity, dispatch=None)) for row in rows])
        for row in rows:
            patch: Patch = {"dispatch": row.entity.dispatch}
            await self._real.update(Change(key=row.entity.key, guard=Guard(), patch=patch))
        return answers


class ShoutingDispatch(OneByOne):
    """Every write asks for a message."""

    async def update(self, change: Change) -> Outcome:
        outcome = await self._real.update(change)
        if isinstance(outcome, Written) and change.key.kind is not Kind.SUB_TASK:
            await self._real.update(Change(key=change.key, guard=Guard(), patch={"dispatch": "again"}))
        return outcome


# --- rule 4: effects are recorded once -------------------------------------------------------------------------------


class CounterDrift(Faithful):
    """Counts double."""

    def before(self, change: Change) -> Change:
        add: Mapping[str, int] = {name: amount * 2 for name, amount in (change.add or {}).items()}
        return replace(change, add=add)


class CountersByReading(OneByOne):
    """Reads a counter to write it, so that neighbours get lost."""

    async def update(self, change: Change) -> Outcome:
        if change.add is None:
            return await self._real.update(change)
        task = await self._real.get(change.key)
        if task is None:
            return Refused(None)
        sums: Any = {name: getattr(task.attributes, name) + amount for name, amount in change.add.items()}
        return await self._real.update(replace(change, patch=change.patch | sums, add=None))


class ChunksAlwaysNew(Faithful):
    """Every repeat of the end of a chunk counts as its first."""

    async def put_chunk(self, row: ChunkRow) -> bool:
        await self._real.put_chunk(row)
        return True


class ChunksOfEveryRun(Faithful):
    """Takes the chunks of one run for those of all."""

    async def list_chunks(self, parent: TaskKey, run: int) -> Sequence[ChunkRow]:
        return [row for n in range(1, run + 1) for row in await self._real.list_chunks(parent, n)]


class ChunksByName(Faithful):
    """10 comes before 2."""

    async def list_chunks(self, parent: TaskKey, run: int) -> Sequence[ChunkRow]:
        return sorted(await self._real.list_chunks(parent, run), key=lambda row: str(row.chunk))


# --- rule 7: a tenant sees only its own tasks ------------------------------------------------------------------------


class _Leaky(Faithful):
    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self._tenants: set[str] = set()

    async def create(self, rows: Sequence[NewTaskRow]) -> Sequence[Known | None]:
        self._tenants |= {row.entity.tenant_code for row in rows}
        return await super().create(rows)


class LeakyList(_Leaky):
    """Lists everybody's tasks."""

    async def list_tasks(self, query: TaskQuery) -> tuple[Sequence[TaskEntity], TaskCode | None]:
        found: list[TaskEntity] = []
        more = False
        for tenant in self._tenants | {query.tenant_code}:
            page, after = await self._real.list_tasks(replace(query, tenant_code=TenantCode(tenant)))
            found += page
            more |= after is not None
        found.sort(key=lambda task: task.code, reverse=query.newest_first)
        page = found[: query.limit]
        return page, TaskCode(page[-1].code) if more or len(found) > query.limit else None


class LeakyGet(_Leaky):
    """Finds a task by its code, whoever asks."""

    async def get(self, key: TaskKey) -> TaskEntity | None:
        for tenant in (key.tenant_code, *self._tenants):
            task = await self._real.get(TaskKey(key.pk.replace(key.tenant_code, tenant), key.sk))
            if task is not None:
                return task
        return None


# --- the rest of the contract ----------------------------------------------------------------------------------------


class StandingVersion(Faithful):
    """Different tasks, one version: whoever compares versions takes them for the same."""

    def after(self, change: Change, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Written):
            return Written(_old(outcome.entity))
        return Refused(_old(outcome.current))

    async def get(self, key: TaskKey) -> TaskEntity | None:
        return _old(await super().get(key))


class HalfAPatch(Faithful):
    """Loses one value of many."""

    def before(self, change: Change) -> Change:
        patch = change.patch.copy()
        if len(patch) > 1:
            patch.pop("error", None)
        return replace(change, patch=patch)


class Backwards(Faithful):
    """Carries out the last change first."""

    async def update_many(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        return (await super().update_many(changes[::-1]))[::-1]


class LastChangeFirstSeen(OneByOne):
    """Gives the right answers, yet the last change is on disk before the others."""

    async def update_many(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        if len({change.key for change in changes}) < len(changes):
            return await super().update_many(changes)
        return [await self.update(change) for change in changes[::-1]][::-1]


class AllOrNothing(Faithful):
    """Gives up at the first change that is refused."""

    async def update_many(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        outcomes: list[Outcome] = []
        for change in changes:
            if outcomes and isinstance(outcomes[-1], Refused):
                outcomes.append(Refused(await self.get(change.key)))
            else:
                outcomes.append(await self.update(change))
        return outcomes


class StaleGet(Faithful):
    """Remembers a task as it was first read."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self._seen: dict[TaskKey, TaskEntity] = {}

    async def get(self, key: TaskKey) -> TaskEntity | None:
        task = await super().get(key)
        return task if task is None else self._seen.setdefault(key, task)


class KnowingSubTasks(Faithful):
    """Copies to the sub-task what only its parent knows."""

    async def get(self, key: TaskKey) -> TaskEntity | None:
        task = await super().get(key)
        if task is None or task.kind is not Kind.SUB_TASK:
            return task
        parent = await super().get(key.parent)
        return task if parent is None else replace(task, created_by=parent.created_by, name=parent.name)


class OnlyNewestFirst(Faithful):
    """Lists in one order only."""

    async def list_tasks(self, query: TaskQuery) -> tuple[Sequence[TaskEntity], TaskCode | None]:
        return await super().list_tasks(replace(query, newest_first=True))


class NoCursor(Faithful):
    """Ends every list after its first page."""

    async def list_tasks(self, query: TaskQuery) -> tuple[Sequence[TaskEntity], TaskCode | None]:
        page, _ = await super().list_tasks(query)
        return page, None


class UnfilteredList(Faithful):
    """Lists tasks of any status and type."""

    async def list_tasks(self, query: TaskQuery) -> tuple[Sequence[TaskEntity], TaskCode | None]:
        return await super().list_tasks(replace(query, status=None, task_type=None))


class FilterAfterLimit(Faithful):
    """Takes a page of everything, filters it, and calls an empty one the end."""

    async def list_tasks(self, query: TaskQuery) -> tuple[Sequence[TaskEntity], TaskCode | None]:
        page, after = await super().list_tasks(replace(query, status=None))
        found = [task for task in page if query.status in (None, task.status)]
        return found, after if found else None


class ShardsApart(Faithful):
    """Reads the shard of the first index only."""

    async def list_sub_tasks(self, parent: TaskKey, indexes: range) -> Sequence[TaskEntity]:
        end = (indexes.start // 1000 + 1) * 1000
        return await super().list_sub_tasks(parent, range(indexes.start, min(indexes.stop, end)))


def broken(backend: Backend, fault: type[Faithful]) -> Backend:
    """*backend* with a store that has this fault."""
    return replace(backend, store=fault(backend))


def _old(task: TaskEntity | None) -> TaskEntity | None:
    return None if task is None else replace(task, version=1)
