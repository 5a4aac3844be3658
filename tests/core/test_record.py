"""The stored form of a task: reading it back gives the task, and what the TypeScript original stored is read too."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings

from taskloom.errors import InvalidInput
from taskloom.model import Failure, FanOut, Kind, Progress, TaskEntity, TaskKey, TaskStatus
from taskloom.record import (
    entry_text,
    failure_item,
    failure_of,
    fan_out_item,
    fan_out_of,
    foreign_spellings,
    from_item,
    parse_time,
    progress_item,
    progress_of,
    time_text,
    to_item,
)
from tests.core.strategies import entities, failures, fan_outs, instants, plain, progresses

CODE = "01J0000000000000000000000A"


@settings(max_examples=50)
@given(entities())
def test_a_task_is_read_back_from_its_item(task: TaskEntity[Any]) -> None:
    assert from_item(to_item(task)) == task


@settings(max_examples=50)
@given(entities())
def test_an_item_is_json(task: TaskEntity[Any]) -> None:
    item = to_item(task)
    assert from_item(json.loads(json.dumps(item, allow_nan=False))) == task
    assert None not in {name: value for name, value in item.items() if name != "input"}.values(), "absent, not null"


@settings(max_examples=50)
@given(entities())
def test_names_in_an_item_are_the_originals(task: TaskEntity[Any]) -> None:
    """The table of design.md section 1, in camelCase; nothing else gets in."""
    originals = (
        "id pk sk version code type name tenantCode status input attributes requestId createdAt updatedAt createdBy "
        "updatedBy createdIp updatedIp"
    )
    ours = (
        "run attempt fence claimId leaseUntil dispatch nextAttemptAt startedAt finishedAt progress executionArn "
        "history historyDropped inputRef fanOut cancelRequested deadlineAt options lost priority state"
    )
    assert set(to_item(task)) <= {*originals.split(), *ours.split()}


def test_the_item_of_a_step_function_task() -> None:
    task = plain(Kind.SFN_TASK, input=[1, 2])
    item = to_item(task)
    assert (item["id"], item["pk"], item["sk"]) == (f"SFN_TASK#acme#cat#{CODE}", "SFN_TASK#acme", f"cat#{CODE}")
    assert (item["tenantCode"], item["type"], item["status"]) == ("acme", "cat", "PENDING")
    assert item["createdAt"] == "1970-01-01T00:00:00.000Z"


@given(instants)
def test_times(instant: datetime) -> None:
    text = time_text(instant)
    assert parse_time(text) == instant
    assert parse_time(text).tzinfo is UTC
    assert text.endswith("Z")
    assert len(text) == len("2026-05-01T12:00:00.123Z")


def test_times_of_other_zones_and_precisions() -> None:
    instant = datetime(2026, 5, 1, 12, 0, 0, 123_999, tzinfo=UTC)
    assert time_text(instant) == "2026-05-01T12:00:00.123Z"
    assert time_text(instant.astimezone(timezone(timedelta(hours=9)))) == "2026-05-01T12:00:00.123Z"
    assert parse_time("2026-05-01T21:00:00.123456+09:00") == instant.replace(microsecond=123_000)
    assert parse_time("2026-05-01T12:00:00Z") == instant.replace(microsecond=0)


@given(progresses, failures, fan_outs)
def test_the_parts_are_read_back(progress: Progress, failure: Failure, plan: FanOut) -> None:
    assert progress_of(progress_item(progress)) == progress
    assert failure_of(failure_item(failure)) == failure
    assert fan_out_of(fan_out_item(plan)) == plan
    assert progress_of(None) is None
    assert failure_of(None) is None
    assert fan_out_of(None) is None


@pytest.mark.parametrize(
    ("stored", "status"),
    [
        ("CREATED", TaskStatus.PENDING),
        ("QUEUED", TaskStatus.PENDING),
        ("PENDING", TaskStatus.PENDING),
        ("PROCESSING", TaskStatus.IN_PROGRESS),
        ("STARTED", TaskStatus.IN_PROGRESS),
        ("IN_PROGRESS", TaskStatus.IN_PROGRESS),
        ("FINISHED", TaskStatus.COMPLETED),
        ("COMPLETED", TaskStatus.COMPLETED),
        ("ERRORED", TaskStatus.FAILED),
        ("FAILED", TaskStatus.FAILED),
        ("CANCELLED", TaskStatus.CANCELLED),
    ],
)
def test_an_item_of_the_original(stored: str, status: TaskStatus) -> None:
    """It has none of our names; what it lacks has a sensible value."""
    item = {
        "id": f"TASK#acme#cat#{CODE}",
        "pk": "TASK#acme",
        "sk": f"cat#{CODE}",
        "version": 3,
        "code": CODE,
        "type": "cat",
        "name": "Cat",
        "tenantCode": "acme",
        "status": stored,
        "input": {"key": "v"},
        "attributes": {"result": "a bare value", "error": "a bare text"},
        "createdAt": "2026-05-01T21:00:00.000+09:00",
        "updatedAt": "2026-05-01T12:00:01.000Z",
        "createdBy": "somebody",
        "unknown": "ignored",
    }
    task = from_item(item)
    assert task.key == TaskKey.single("acme", "cat", CODE)
    assert task.status is status
    assert task.created_at == datetime(2026, 5, 1, 12, tzinfo=UTC)
    assert task.result == "a bare value"
    assert task.error is not None
    assert task.error.message == "a bare text"
    assert (task.run, task.attempt, task.fence, task.history) == (1, 0, 0, ())


def test_an_item_with_next_to_nothing() -> None:
    item = {"pk": "TASK#acme", "sk": f"cat#{CODE}", "status": "PENDING", "createdAt": "2026-05-01T12:00:00Z"}
    task = from_item(item)
    assert (task.code, task.task_type, task.name, task.tenant_code) == (CODE, "cat", "cat", "acme")
    assert task.updated_at == task.created_at
    assert task.input is None


GOOD = {"pk": "TASK#acme", "sk": f"cat#{CODE}", "status": "PENDING", "createdAt": "2026-05-01T12:00:00Z"}


@pytest.mark.parametrize("missing", list(GOOD))
def test_an_item_without_what_it_needs(missing: str) -> None:
    item = {name: value for name, value in GOOD.items() if name != missing}
    with pytest.raises(InvalidInput, match="is no stored task"):
        from_item(item)


@pytest.mark.parametrize(
    "damage",
    [
        {"status": "LOST"},
        {"status": None},
        {"pk": "CHUNK#acme"},
        {"pk": None},
        {"sk": "cat"},
        {"createdAt": "yesterday"},
        {"createdAt": 5},
        {"version": "many"},
        {"attributes": "none"},
        {"history": [{"at": "2026-05-01T12:00:00Z"}]},
        {"history": 5},
        {"fanOut": {}},
        {"progress": {}},
        {"leaseUntil": "soon"},
    ],
    ids=str,
)
def test_a_damaged_item(damage: dict[str, object]) -> None:
    """One error for all of it, so that whoever reads a stream catches one."""
    with pytest.raises(InvalidInput, match="is no stored task"):
        from_item(GOOD | damage)


@settings(max_examples=50)
@given(entities())
def test_short_entries_are_read_like_long_ones(task: TaskEntity[Any]) -> None:
    """A table that is paid for by the byte keeps the history in short."""
    item = to_item(task)
    short = item | {"history": [entry_text(entry) for entry in task.history]}
    assert from_item(short) == from_item(item)


def test_values_may_be_kept_as_text() -> None:
    """Where the table cannot hold them as they are."""
    item = {
        "pk": "TASK#acme",
        "sk": "cat#01JX",
        "status": "COMPLETED",
        "createdAt": "2026-05-01T12:00:00.000Z",
        "inputJson": '{"":1}',
        "stateJson": "[[[]]]",
        "attributes": {"resultJson": '[[{"":null}]]'},
    }
    task = from_item(item)
    assert (task.input, task.state, task.result) == ({"": 1}, [[[]]], {"": None})


@pytest.mark.parametrize("status", TaskStatus)
def test_what_the_original_wrote_for_a_status(status: TaskStatus) -> None:
    for spelling in foreign_spellings(status):
        assert TaskStatus(spelling) is status
    assert foreign_spellings(TaskStatus.PENDING) == ["CREATED", "QUEUED"]
