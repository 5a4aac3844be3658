"""Rows of the embedded tables: what is written is read back."""

from dataclasses import replace
from typing import Any, Final, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.embedded import rows
from taskloom.lifecycle import Patch
from taskloom.model import HistoryEntry, Kind, TaskAttributes, TaskEntity, TaskStatus
from taskloom.values import Json, encode
from tests.core.strategies import (
    cancel_requests,
    entities,
    failures,
    fan_outs,
    histories,
    instants,
    plain,
    progresses,
    texts,
)

TASK_COLUMNS = rows.TASK_COLUMNS.split(", ")
SUB_TASK_COLUMNS = rows.SUB_TASK_COLUMNS.split(", ")

RESULTS: Final[Json] = [[1, None], [{"a": "ä\0"}]]

optional_texts = st.none() | texts.filter(bool)
_FIELDS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "status": st.sampled_from(TaskStatus),
    "run": st.integers(1, 9),
    "attempt": st.integers(0, 9),
    "fence": st.integers(0, 99),
    "claim_id": optional_texts,
    "lease_until": st.none() | instants,
    "next_attempt_at": st.none() | instants,
    "created_at": instants,
    "updated_at": instants,
    "started_at": st.none() | instants,
    "finished_at": st.none() | instants,
    "progress": st.none() | progresses,
    "results": st.none() | st.just(encode(RESULTS, "result")),
    "result_ref": optional_texts,
    "error": st.none() | failures,
    "lost": st.integers(0, 9),
    "state": st.none() | st.just(encode(RESULTS, "state")),
}
_TOP_LEVEL_FIELDS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "dispatch": optional_texts,
    "execution_arn": optional_texts,
    "sub_task_succeed_count": st.integers(0, 10**7),
    "sub_task_failed_count": st.integers(0, 10**7),
    "fan_out": st.none() | fan_outs,
    "cancel_requested": st.none() | cancel_requests,
    "deadline_at": st.none() | instants,
    "ttl": st.none() | instants.map(lambda at: at.replace(microsecond=0)),
}


def patches(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Patch]:
    """Any selection of these fields."""
    return cast("st.SearchStrategy[Patch]", st.fixed_dictionaries({}, optional=fields))


def test_every_field_of_a_patch_is_tried_here() -> None:
    """Whoever adds one meets this test first."""
    assert {*_FIELDS, *_TOP_LEVEL_FIELDS} == set(Patch.__annotations__)


@st.composite
def new_tasks(draw: st.DrawFn) -> TaskEntity[Any]:
    """A top-level task as it is created: nobody has claimed it yet."""
    task = draw(entities(draw(st.sampled_from([Kind.TASK, Kind.SFN_TASK]))))
    return replace(
        task,
        attributes=TaskAttributes(sub_task_count=task.attributes.sub_task_count),
        claim_id=None,
        cancel_requested=None,
        lease_until=None,
        next_attempt_at=None,
        started_at=None,
        finished_at=None,
        progress=None,
        fan_out=None,
        lost=0,
        state=None,
        history_dropped=0,
        history=task.history or (HistoryEntry(at=task.created_at, status=task.status, run=1, attempt=0),),
    )


def values_of(task: TaskEntity[Any]) -> tuple[Any, ...]:
    return rows.task_values(task, None if task.input_ref is not None else encode(task.input, "input"))


@settings(max_examples=50)
@given(new_tasks())
def test_a_new_task_is_read_back_from_its_row(task: TaskEntity[Any]) -> None:
    values = values_of(task)
    assert len(values) == len(TASK_COLUMNS)
    assert rows.task_of(values) == task


@settings(max_examples=50)
@given(new_tasks(), patches(_FIELDS | _TOP_LEVEL_FIELDS))
def test_a_patch_is_read_back_from_the_row(task: TaskEntity[Any], patch: Patch) -> None:
    """Each value goes into the column of its name, and comes out as the field of its name."""
    row = dict(zip(TASK_COLUMNS, values_of(task), strict=True))
    row |= zip(patch, rows.patch_values(patch), strict=True)
    assert rows.task_of(list(row.values())) == patched(task, patch)


@settings(max_examples=50)
@given(patches(_FIELDS), histories.filter(bool))
def test_a_patch_is_read_back_from_the_row_of_a_sub_task(patch: Patch, history: tuple[HistoryEntry, ...]) -> None:
    task = plain(Kind.SUB_TASK, TaskStatus.IN_PROGRESS, attempt=1, fence=1, history=history)
    row = dict.fromkeys(SUB_TASK_COLUMNS)
    parts = task.key.parts
    fixed = {
        "parent": parts.code,
        "idx": parts.index,
        "tenant": parts.tenant_code,
        "type": parts.task_type,
        "version": 0,
        "lost": 0,
    }
    entity: Patch = {
        "status": task.status, "created_at": task.created_at, "updated_at": task.updated_at, "run": 1, "attempt": 1,
        "fence": 1,
    }  # fmt: skip
    row |= fixed | {"history": ",".join(map(rows.history_text, history))}
    row |= zip(entity, rows.patch_values(entity), strict=True)
    row |= zip(patch, rows.patch_values(patch), strict=True)
    assert list(row) == SUB_TASK_COLUMNS
    assert rows.sub_task_of(list(row.values())) == patched(task, patch)


def patched(task: TaskEntity[Any], patch: Patch) -> TaskEntity[Any]:
    own = {name: value for name, value in patch.items() if name in TaskEntity.__dataclass_fields__}
    inner = {name: value for name, value in patch.items() if name not in own}
    if inner.get("results") is not None:
        inner["results"] = RESULTS
    if own.get("state") is not None:
        own["state"] = RESULTS
    return replace(task, **own, attributes=replace(task.attributes, **inner))  # type: ignore[arg-type]


@given(histories)
def test_a_history_is_read_back(history: tuple[HistoryEntry, ...]) -> None:
    """Entry by entry, as the column grows: reasons and names may hold anything."""
    assert rows.History(",".join(map(rows.history_text, history))) == history
    assert all("\n" not in rows.history_text(entry) for entry in history)


def test_every_status_has_a_letter_of_its_own() -> None:
    assert set(rows.STATUS_LETTER) == set(TaskStatus)
    assert len(set(rows.STATUS_LETTER.values())) == len(TaskStatus)
