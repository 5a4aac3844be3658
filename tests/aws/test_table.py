"""The table as data: what stands in it is what was made, and nothing else lies where tasks are found."""

import asyncio
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import taskloom.aws
from taskloom import lifecycle
from taskloom.aws import table
from taskloom.aws.clients import Clients
from taskloom.aws.dynamo import Dynamo
from taskloom.aws.limits import PARTITION_KEY_BYTES, SORT_KEY_BYTES
from taskloom.model import MAX_SUB_TASKS, TaskKey
from taskloom.operations.checks import MAX_IDEMPOTENCY_KEY
from taskloom.ports import Backend, ChunkRow, LogBatch, Pause, PauseScope, Step, StepKind, WorkerFacts
from tests.aws.stream_pump import passes
from tests.contract.idempotency import keyed
from tests.contract.task_logs import _lines
from tests.support.rows import Rows


def test_the_table_is_what_the_definition_says(clients: Clients, make_table: Callable[[], dict[str, Any]]) -> None:
    name = make_table()["TableName"]
    clients.send("dynamodb", "update_time_to_live", TableName=name, TimeToLiveSpecification=table.TIME_TO_LIVE)
    clients.send(
        "dynamodb",
        "update_continuous_backups",
        TableName=name,
        PointInTimeRecoverySpecification=table.POINT_IN_TIME_RECOVERY,
    )
    made = clients.send("dynamodb", "describe_table", TableName=name)["Table"]
    assert made["KeySchema"] == table.DEFINITION["KeySchema"]
    assert made["StreamSpecification"] == {"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"}
    assert {index["IndexName"]: index["Projection"] for index in made["GlobalSecondaryIndexes"]} == {
        name: {"ProjectionType": "KEYS_ONLY"} for name in table.INDEXES
    }
    ttl = clients.send("dynamodb", "describe_time_to_live", TableName=name)["TimeToLiveDescription"]
    assert ttl == {"TimeToLiveStatus": "ENABLED", "AttributeName": table.TTL}


async def one_of_everything(backend: Backend) -> Rows:
    """Something under each prefix."""
    rows = Rows(backend)
    late = rows.now + timedelta(hours=1)
    await rows.create(keyed(rows.single(deadline_at=late)), rows.fan_out(1))
    await rows.carry_out(rows.failed(await rows.claimed()))
    await rows.carry_out(rows.completed(await rows.claimed()))
    parent = await rows.claimed(rows.fan_out(1))
    child = await rows.sub_task(0, parent)
    await rows.carry_out(rows.failed(child))
    await backend.store.put_chunk(ChunkRow(parent=parent.key, run=1, chunk=0, succeeded=0, failed=1))
    batch = LogBatch(key=child.key, run=1, fence=1, first=3, lines=_lines(rows.now, 2), dropped=3)
    await backend.logs.append([batch])
    admin = backend.admin
    await admin.pause(Pause(scope=PauseScope.TENANT, name=rows.tenant, at=rows.now, reason="r", by="b"))
    worker = WorkerFacts(
        name="w", host="h", pid=1, version="1", started_at=rows.now, seen_at=rows.now, concurrency=1, tasks=None,
        fan_outs=None, running=[],
    )  # fmt: skip
    claimed = await rows.claimed()
    step = Step(
        key=claimed.key, kind=StepKind.CALLBACK, name="a", write_id="w", run=1, at=rows.now, token=backend.ids.token()
    )
    await backend.steps.put(step, lifecycle.touched(claimed, now=rows.now))
    await admin.beat(worker)
    await admin.take_duty("duty", rows.now, late)
    await admin.report_duty("duty", {"a": 1})
    await admin.bury(child.key.parent, 1, "why")  # type: ignore[attr-defined]
    await admin.throughput(rows.now)
    return rows


def test_each_kind_of_thing_has_a_prefix_of_its_own(backend: Backend, dynamo: Dynamo) -> None:
    """And each prefix something, so that the list in the docs is whole."""
    asyncio.run(one_of_everything(backend))
    prefixes = {item["pk"]["S"].partition("#")[0] for item in dynamo.send("scan")["Items"]}
    assert prefixes == table.PREFIXES.keys()


def test_the_indexes_hold_top_level_tasks_only(backend: Backend, dynamo: Dynamo) -> None:
    """By their keys, so that an index costs something only when its keys change."""
    asyncio.run(one_of_everything(backend))
    for index, count in ((table.ALL_INDEX, 6), (table.OPEN_INDEX, 4), (table.MARK_INDEX, 2)):
        entries = dynamo.send("scan", IndexName=index)["Items"]
        assert len(entries) == count, index
        for entry in entries:
            assert entry.keys() == set(table.keys_of(index))
            assert re.fullmatch(r"(SFN_)?TASK#[^#]+", entry["pk"]["S"])


def test_only_tasks_that_need_a_message_pass_the_streams_filter(
    backend: Backend, dynamo: Dynamo, clients: Clients
) -> None:
    """It looks at `dispatch` alone: nothing else in the table ever has that."""
    asyncio.run(one_of_everything(backend))
    (shard,) = clients.send("dynamodbstreams", "describe_stream", StreamArn=backend.stream_arn)["StreamDescription"][
        "Shards"
    ]
    iterator = clients.send(
        "dynamodbstreams",
        "get_shard_iterator",
        StreamArn=backend.stream_arn,
        ShardId=shard["ShardId"],
        ShardIteratorType="TRIM_HORIZON",
    )["ShardIterator"]
    records = clients.send("dynamodbstreams", "get_records", ShardIterator=iterator, Limit=1000)["Records"]
    passed = [record for record in records if passes(record, table.STREAM_FILTER)]
    assert 5 <= len(passed) < len(records)
    for record in passed:
        assert re.fullmatch(r"(SFN_)?TASK#[^#]+", record["dynamodb"]["Keys"]["pk"]["S"])


def test_no_path_scans() -> None:
    """Neither the table nor an index: a scan costs as much as everything that is there."""
    for path in Path(taskloom.aws.__file__).parent.rglob("*.py"):
        assert not re.search(r"[\"'.]scan\b", path.read_text()), path


@pytest.mark.parametrize("code", ["01JX0000000000000000000000", "order-4711", "x", "y" * 64])
def test_buckets_and_places_are_told_by_the_code(code: str) -> None:
    """By everybody alike, in any process."""
    assert table.bucket(code) in table.buckets()
    assert len(table.buckets()) == table.BUCKETS == len(set(table.buckets()))
    early, late = table.looked_after_from(code, 1_000), table.looked_after_from(code, 1_001)
    assert early < late
    assert early < table.time_prefix(1_001) <= late


def test_buckets_are_used_alike() -> None:
    numbers = [table.bucket(f"01JX{number:022d}") for number in range(16_000)]
    assert all(800 < numbers.count(bucket) < 1200 for bucket in table.buckets())


def test_the_longest_keys_fit() -> None:
    """Whatever names the core lets through."""
    longest = TaskKey.sub_task("t" * 64, "y" * 128, "c" * 64, MAX_SUB_TASKS - 1)
    for pk in (longest.pk, table.log_pk(longest), table.idempotency_pk("t" * 64, "😀" * MAX_IDEMPOTENCY_KEY)):
        assert len(pk.encode()) <= PARTITION_KEY_BYTES
    assert len(longest.sk.encode()) <= SORT_KEY_BYTES
