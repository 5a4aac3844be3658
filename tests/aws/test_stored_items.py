"""What stands in the table: how large rows get, what they hold as it is, and what other writers left there."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from taskloom import lifecycle
from taskloom.aws import changes, table
from taskloom.aws.dynamo import Dynamo, Query
from taskloom.aws.items import key_item
from taskloom.aws.limits import ITEM_BYTES
from taskloom.aws.sizes import item_bytes
from taskloom.clock import to_milliseconds
from taskloom.errors import InvalidInput
from taskloom.lifecycle import Change, Guard, Refused, Written
from taskloom.model import FanOut, HistoryEntry, Kind, LogLine, TaskEntity, TaskKey, TaskStatus, TenantCode
from taskloom.ports import Backend, ChunkRow, Idempotency, LogBatch, Pause, PauseScope, TaskQuery
from taskloom.values import EncodedJson, Json, encode
from tests.support.clock import FakeClock
from tests.support.rows import Rows

VALUE: dict[str, Json] = {"text": "x" * 52, "n": [1, 2.5, None, True], "o": {"a": "b"}}
"""As JSON about 100 bytes."""


class Named(Rows):
    """Names as long as applications have them."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.tenant, self.task_type = "acme-corp", "send-report"


def stored(dynamo: Dynamo, key: TaskKey) -> Any:
    item = dynamo.get(key_item(key))
    assert item is not None
    return item


def ended(rows: Rows, task: TaskEntity, results: Json = None) -> Change:
    text = EncodedJson(json.dumps([[VALUE if results is None else results]], separators=(",", ":")))
    who: Any = {"now": rows.now, "by": "host-4711-a1b2c3", "claim_id": rows.backend.ids.token()}
    return lifecycle.completed(task, results=text, result_ref=None, progress=None, **who)


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_rows_at_their_end_cost_one_write_unit(backend: Backend, dynamo: Dynamo) -> None:
    """At most 1,024 bytes with an input and a result of 100 bytes, of both kinds; sub-tasks far less."""
    assert 95 <= len(encode(VALUE, "input")) <= 105

    async def main() -> None:
        rows = Named(backend)
        people = {"created_by": "auth0|5f7c8ec7c33c6c004bbafe82", "created_ip": "203.0.113.195"}
        task = await rows.claimed(rows.single(VALUE, request_id="f81d4fae-7dec-11d0-a765-00a0c91e6bf6", **people))
        done = await rows.carry_out(ended(rows, task))
        assert done.result == done.input == VALUE
        assert item_bytes(stored(dynamo, task.key)) <= 1024
        parent = await rows.claimed(rows.fan_out(1))
        child = await rows.sub_task(0, parent)
        child = await rows.carry_out(ended(rows, child))
        assert child.result == VALUE
        item = stored(dynamo, child.key)
        assert item_bytes(item) <= 768
        of_the_parent = {"id", "code", "type", "name", "tenantCode", "input", "createdBy", "requestId"}
        assert not item.keys() & (of_the_parent | {table.OPEN, table.MARK, "dispatch"})

    asyncio.run(main())


def test_a_parent_stays_small_however_many_sub_tasks_it_has(backend: Backend, dynamo: Dynamo) -> None:
    """Rule 6: nothing of it grows with their number."""

    async def main() -> None:
        rows = Named(backend)
        sizes = []
        for count in (10_000, 10_000_000):
            row = rows.fan_out(0, input_ref="s3://bucket/prefix/items/1")
            entity = replace(row.entity, attributes=replace(row.entity.attributes, sub_task_count=count))
            (task,) = await rows.create(replace(row, entity=entity))
            plan = FanOut(chunk_size=max(1, count // 1000))
            claimed = await rows.carry_out(rows.claim(task, plan=plan))
            assert claimed.fan_out == plan
            await rows.carry_out(lifecycle.counted(claimed.key, 1, succeeded=count, failed=0, now=rows.now))
            item = stored(dynamo, task.key)
            assert item["fanOut"]["M"].keys() == {"chunkSize"}
            sizes.append(item_bytes(item))
        assert max(sizes) <= 1024
        assert max(sizes) - min(sizes) < 16

    asyncio.run(main())


def test_an_item_that_cannot_be_kept_is_refused_before_the_call(backend: Backend) -> None:
    async def main() -> None:
        rows = Rows(backend)
        with pytest.raises(InvalidInput, match=f"item of {ITEM_BYTES + 1}|item of 4[0-9]{{5}} bytes"):
            await rows.create(rows.single("x" * ITEM_BYTES))
        task = await rows.claimed()
        state = encode("x" * ITEM_BYTES, "state")
        with pytest.raises(InvalidInput, match=r"item of 4[0-9]{5} bytes"):
            await backend.store.update(lifecycle.checkpointed(task, state, now=rows.now))
        assert await rows.stored(task.key) == task


def test_an_item_that_would_outgrow_its_limit_stays_as_it_is(backend: Backend) -> None:
    """Only DynamoDB knows what is there already."""

    async def main() -> None:
        rows = Rows(backend)
        task = await rows.claimed(rows.single("x" * (ITEM_BYTES // 2)))
        state = encode("x" * (ITEM_BYTES // 2), "state")
        with pytest.raises(InvalidInput, match="has outgrown"):
            await backend.store.update(lifecycle.checkpointed(task, state, now=rows.now))
        assert await rows.stored(task.key) == task

    asyncio.run(main())


# --- values ----------------------------------------------------------------------------------------------------------


def deep(levels: int) -> Json:
    value: Json = "x"
    for level in range(levels):
        value = {"a": value} if level % 2 else [value]
    return value


@pytest.mark.parametrize(
    ("value", "is_native"),
    [
        (VALUE, True),
        ("\0 plain text, also {}", True),
        (None, True),
        ([], True),
        ({"": 1}, False),
        ({"a": [{"": {}}]}, False),
        (deep(24), True),  # a result has two lists around it
        (deep(27), False),
        (deep(32), False),
        ([10**38 - 1, 1e30, 1e125, -1e-130, 0.1, 2**53 + 1], True),
    ],
    ids=lambda value: str(value)[:30],
)
def test_values_are_objects_of_the_item_where_it_can_hold_them(
    backend: Backend, dynamo: Dynamo, value: Json, is_native: bool
) -> None:
    """Whoever looks into the table sees them; and what it cannot hold comes back all the same."""

    async def main() -> None:
        rows = Rows(backend)
        task = await rows.claimed(rows.single(value))
        state = lifecycle.checkpointed(task, encode(value, "state"), now=rows.now)
        saved = await rows.carry_out(state)
        assert saved.state == value
        item = stored(dynamo, task.key)
        assert ("inputJson" in item, "stateJson" in item) == (not is_native, not is_native)
        done = await rows.carry_out(ended(rows, task, value))
        assert done.input == value
        assert done.attributes.results == [[VALUE if value is None else value]]
        item = stored(dynamo, task.key)
        assert ("resultJson" in item["attributes"]["M"]) == (not is_native)

    asyncio.run(main())


def test_a_value_may_change_its_form(backend: Backend, dynamo: Dynamo) -> None:
    """From one that an item holds to one that it does not, and back: there is always one of the two."""

    async def main() -> None:
        rows = Rows(backend)
        task = await rows.claimed()
        for value in ({"": 1}, {"a": 1}, {"": 2}, None, {"": 3}):
            await rows.carry_out(lifecycle.checkpointed(task, encode(value, "state"), now=rows.now))
            assert (await rows.stored(task.key)).state == value
            assert len(stored(dynamo, task.key).keys() & {"state", "stateJson"}) == 1

    asyncio.run(main())


# --- history ---------------------------------------------------------------------------------------------------------


def test_a_long_history_makes_room_for_its_newest(backend: Backend, dynamo: Dynamo) -> None:
    """Rule 5 holds when it is shortened, too: it is the same write. The creation stays, and what went is counted."""

    async def main() -> None:
        rows = Rows(backend)
        task = await rows.claimed()
        entries = list(task.history)
        for number in range(2 * changes.MAX_HISTORY + 10):
            entry = HistoryEntry(at=rows.now, status=task.status, run=1, attempt=1, reason=f"{number} " + "é" * 80)
            change = Change(key=task.key, guard=Guard(fence=task.fence), patch={"claim_id": f"{number}"}, history=entry)
            outcome = await backend.store.update(change)
            assert isinstance(outcome, Written)
            assert outcome.entity is not None
            seen = outcome.entity
            entries.append(entry)
            kept = list(seen.history)
            assert (seen.claim_id, seen.version) == (f"{number}", task.version + number + 1)
            assert len(kept) <= changes.MAX_HISTORY
            assert kept[0] == entries[0]
            assert kept[1:] == entries[-len(kept) + 1 :]
            assert len(kept) + seen.history_dropped == len(entries)
        assert seen.history_dropped
        assert item_bytes(stored(dynamo, task.key)) < 30_000

    asyncio.run(main())


def test_a_refused_change_of_a_long_history_is_refused(backend: Backend) -> None:
    """Not taken for one that lacked room."""

    async def main() -> None:
        rows = Rows(backend)
        task = await rows.claimed()
        entry = HistoryEntry(at=rows.now, status=task.status, run=1, attempt=1)
        change = Change(key=task.key, guard=Guard(), patch={}, history=entry)
        await backend.store.update_many([change] * (changes.MAX_HISTORY - len(task.history)))
        full = await rows.stored(task.key)
        assert len(full.history) == changes.MAX_HISTORY
        late = replace(change, guard=Guard(fence=task.fence - 1))
        assert await backend.store.update(late) == Refused(full)

    asyncio.run(main())


def test_many_write_into_a_full_history_at_once(backend: Backend) -> None:
    """Each change is carried out once, and none of the new entries is lost."""

    async def main() -> None:
        rows = Rows(backend)
        task = await rows.claimed()
        entry = HistoryEntry(at=rows.now, status=task.status, run=1, attempt=1)
        change = Change(key=task.key, guard=Guard(), patch={}, history=entry)
        await backend.store.update_many([change] * (changes.MAX_HISTORY - len(task.history)))
        more = [replace(change, history=entry._replace(reason=f"{number}")) for number in range(10)]
        outcomes = await asyncio.gather(*map(backend.store.update, more))
        assert all(isinstance(outcome, Written) for outcome in outcomes)
        seen = await rows.stored(task.key)
        assert {item.reason for item in list(seen.history)[-10:]} == {f"{number}" for number in range(10)}

    asyncio.run(main())


# --- what counts as absent -------------------------------------------------------------------------------------------


def test_what_has_expired_is_not_there(backend: Backend, dynamo: Dynamo, clock: FakeClock) -> None:
    """Long before DynamoDB removes it: in every read, list and condition."""

    async def main() -> None:
        rows = Rows(backend)
        late = rows.now - timedelta(hours=1)
        task = await rows.claimed(rows.single(deadline_at=late))
        parent = await rows.claimed(rows.fan_out(2, deadline_at=late))
        child = await rows.sub_task(0, parent)
        failed = await rows.carry_out(rows.failed(await rows.claimed()))
        await backend.store.put_chunk(ChunkRow(parent=parent.key, run=1, chunk=0, succeeded=1, failed=0))
        line = LogLine(at=rows.now, level="INFO", logger="a", run=1, attempt=1, message="m", fields={})
        await backend.logs.append([LogBatch(key=task.key, run=1, fence=1, first=0, lines=[line], dropped=0)])
        await backend.admin.pause(Pause(scope=PauseScope.TENANT, name=rows.tenant, at=rows.now))
        expire_all(dynamo, to_milliseconds(clock.now()) // 1000 + 60)
        assert await backend.store.get(task.key) == replace(task, ttl=rows.now + timedelta(seconds=60))
        clock.advance(60)
        for gone in (task, parent, child, failed):
            assert await backend.store.get(gone.key) is None
            for guard in (Guard(), Guard(fence=gone.fence), Guard(status=frozenset(TaskStatus))):
                assert await backend.store.update(Change(key=gone.key, guard=guard, patch={})) == Refused(None)
        for kind in (Kind.TASK, Kind.SFN_TASK):
            for more in ({}, {"status": TaskStatus.FAILED}, {"task_type": rows.task_type}):
                query = TaskQuery(tenant_code=TenantCode(rows.tenant), kind=kind, limit=10, **more)
                assert await backend.store.list_tasks(query) == ([], None)
        assert list(await backend.store.list_sub_tasks(parent.key, range(2))) == []
        assert list(await backend.store.list_chunks(parent.key, 1)) == []
        assert list(await backend.store.list_overdue(10)) == []
        assert list(await backend.store.list_stranded(10)) == []
        assert list(await backend.logs.read(task.key, None, 10)) == []
        assert list(await backend.admin.pauses()) == []
        assert await backend.store.put_chunk(ChunkRow(parent=parent.key, run=1, chunk=0, succeeded=0, failed=1)) is True
        again = replace(line, message="again")
        await backend.logs.append([LogBatch(key=task.key, run=1, fence=1, first=0, lines=[again], dropped=0)])
        assert [found for _, found in await backend.logs.read(task.key, None, 10)] == [again]
        assert isinstance(await backend.store.update(rows.first_claim(parent, 0)), Written)
        assert await backend.store.get(child.key) is not None

    asyncio.run(main())


def expire_all(dynamo: Dynamo, seconds: int) -> None:
    """Let every item of the table expire then, as retention would."""
    for item in dynamo.send("scan")["Items"]:
        dynamo.send(
            "update_item",
            Key={"pk": item["pk"], "sk": item["sk"]},
            UpdateExpression="SET #ttl = :ttl",
            ExpressionAttributeNames={"#ttl": table.TTL},
            ExpressionAttributeValues={":ttl": {"N": str(seconds)}},
        )


def test_idempotency_keys_expire_in_the_table_too(backend: Backend, dynamo: Dynamo) -> None:
    """At the whole second after their time, never before."""

    async def main() -> None:
        rows = Rows(backend)
        expires_at = rows.now + timedelta(seconds=5, milliseconds=1)
        idempotency = Idempotency(key="key", fingerprint="print", expires_at=expires_at)
        await rows.create(replace(rows.single(), idempotency=idempotency))
        (item,) = dynamo.all(Query(("pk", table.idempotency_pk(rows.tenant, "key"))))
        assert item["ttl"] == {"N": str(to_milliseconds(rows.now) // 1000 + 6)}

    asyncio.run(main())


# --- what the TypeScript original stored -----------------------------------------------------------------------------


def foreign(dynamo: Dynamo, tenant: str, code: str, **values: Any) -> TaskKey:
    """An item with the fields and types that the original writes."""
    key = TaskKey.single(tenant, "cat", code)
    item = {
        **key_item(key),
        "id": {"S": key.id},
        "version": {"N": "0"},
        "code": {"S": code},
        "type": {"S": "cat"},
        "name": {"S": "cat"},
        "tenantCode": {"S": tenant},
        "status": {"S": "CREATED"},
        "input": {"M": {"key": {"S": "v"}}},
        "requestId": {"S": "r"},
        "createdAt": {"S": "2026-05-01T10:00:00+02:00"},
        "updatedAt": {"S": "2026-05-01T10:00:00+02:00"},
        "createdBy": {"S": "u"},
        "createdIp": {"S": "192.0.2.1"},
        "somethingElse": {"SS": ["a"]},
    }
    dynamo.send("put_item", Item=item | values)
    return key


@pytest.mark.parametrize("status", ["CREATED", "QUEUED"])
def test_a_task_of_the_original_is_run_in_place(backend: Backend, dynamo: Dynamo, status: str) -> None:
    """Read, claimed, ended and listed like any other, though it lacks most of what ours have."""

    async def main() -> None:
        rows = Rows(backend)
        key = foreign(dynamo, rows.tenant, backend.ids.code(rows.now), status={"S": status})
        task = await rows.stored(key)
        assert (task.status, task.input, task.run, task.fence) == (TaskStatus.PENDING, {"key": "v"}, 1, 0)
        claimed = await rows.carry_out(rows.claim(task))
        assert (claimed.status, claimed.attempt, claimed.fence) == (TaskStatus.IN_PROGRESS, 1, 1)
        done = await rows.carry_out(ended(rows, claimed))
        assert (done.status, done.result, done.version) == (TaskStatus.COMPLETED, VALUE, 2)
        assert [entry.status for entry in done.history] == [TaskStatus.IN_PROGRESS, TaskStatus.COMPLETED]
        query = TaskQuery(tenant_code=TenantCode(rows.tenant), kind=Kind.TASK, task_type="cat", limit=10)
        assert (await backend.store.list_tasks(query))[0] == [done]
        assert stored(dynamo, key)["somethingElse"] == {"SS": ["a"]}

    asyncio.run(main())


def test_the_ends_that_the_original_wrote(backend: Backend, dynamo: Dynamo) -> None:
    """Results in lists, errors of any shape; and its sub-tasks, which lie beside their parents, are no tasks here."""

    async def main() -> None:
        rows = Rows(backend)
        codes = [backend.ids.code(rows.now) for _ in range(3)]
        results = {"M": {"result": {"L": [{"L": [{"S": "a"}, {"S": "b"}]}]}}}
        well = foreign(dynamo, rows.tenant, codes[0], status={"S": "FINISHED"}, attributes=results)
        badly = foreign(dynamo, rows.tenant, codes[1], status={"S": "ERRORED"}, attributes={"M": {"error": {"M": {}}}})
        child = foreign(dynamo, rows.tenant, codes[2])
        item = stored(dynamo, child) | {"sk": {"S": f"cat#{codes[2]}#0"}}
        dynamo.send("put_item", Item=item)
        done, failed = await rows.stored(well), await rows.stored(badly)
        assert (done.status, done.attributes.results) == (TaskStatus.COMPLETED, [["a", "b"]])
        assert failed.status is TaskStatus.FAILED
        assert failed.error is not None
        for task_type in ("cat", None):
            query = TaskQuery(tenant_code=TenantCode(rows.tenant), kind=Kind.TASK, task_type=task_type, limit=10)
            found, _ = await backend.store.list_tasks(query)
            assert [task.code for task in found] == codes[::-1]

    asyncio.run(main())
