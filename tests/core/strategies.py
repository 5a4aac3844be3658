"""Hypothesis strategies for the values of the core."""

from dataclasses import replace
from datetime import datetime
from typing import Any

from hypothesis import strategies as st

from taskloom.clock import EPOCH, from_milliseconds, to_milliseconds
from taskloom.model import (
    NO_OPTIONS,
    CancelRequest,
    Failure,
    FanOut,
    HistoryEntry,
    Kind,
    Progress,
    RetryNumbers,
    TaskAttributes,
    TaskEntity,
    TaskKey,
    TaskOptions,
    TaskStatus,
)
from taskloom.values import MAX_FLOAT, MAX_INTEGER, MIN_FLOAT, Json

_NAME = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
"""Anything that UTF-8 can say: control characters and zeros included."""
tenants = st.text(_NAME, min_size=1, max_size=64)
task_types = st.text(_NAME + ".", min_size=1, max_size=128)
codes = st.text("0123456789ABCDEFGHJKMNPQRSTVWXYZ", min_size=26, max_size=26)
indexes = st.integers(0, 10**7 - 1)
instants = st.integers(0, to_milliseconds(datetime.fromisoformat("9999-12-31T23:59:59+00:00"))).map(from_milliseconds)
floats = st.floats(-MAX_FLOAT, MAX_FLOAT, allow_nan=False, allow_infinity=False).filter(
    lambda value: value == 0 or abs(value) >= MIN_FLOAT
)
numbers = st.integers(-MAX_INTEGER, MAX_INTEGER) | floats
json_values: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)

top_keys = st.builds(TaskKey.single, tenants, task_types, codes) | st.builds(
    TaskKey.step_function, tenants, task_types, codes
)
sub_keys = st.builds(TaskKey.sub_task, tenants, task_types, codes, indexes)
keys = top_keys | sub_keys

_counts = st.integers(0, 10**7)
statuses = st.sampled_from(TaskStatus)
histories = st.lists(
    st.builds(
        HistoryEntry,
        at=instants,
        status=statuses,
        run=st.integers(1, 9),
        attempt=st.integers(0, 9),
        reason=st.none() | texts,
        by=st.none() | texts,
    ),
    max_size=3,
).map(tuple)
progresses = st.builds(
    Progress, done=st.floats(0, 1e15), total=st.none() | st.floats(0, 1e15), message=st.none() | texts
)
failures = st.builds(
    Failure,
    type=texts.filter(bool),
    message=texts.filter(bool),
    traceback=st.none() | texts,
    attempt=st.integers(0, 9),
    will_retry=st.booleans(),
)
fan_outs = st.builds(
    FanOut,
    chunk_size=st.integers(1, 1000),
    chunk_concurrency=st.integers(1, 100),
    max_concurrency=st.integers(1, 10_000),
    tolerated_failure_percentage=st.floats(0, 100),
    only_failed=st.booleans(),
)
cancel_requests = st.builds(
    CancelRequest, at=instants, reason=st.none() | texts.filter(bool), by=st.none() | texts.filter(bool)
)
retry_numbers = st.builds(
    RetryNumbers,
    max_attempts=st.integers(1, 1000),
    initial=st.floats(0, 1e6),
    multiplier=st.floats(1, 1e6),
    maximum=st.floats(0, 1e6),
    jitter=st.booleans(),
)
options = st.just(NO_OPTIONS) | st.builds(
    TaskOptions, retry=st.none() | retry_numbers, deadline=st.none() | st.floats(0.001, 1e6)
)
_results = st.lists(st.lists(json_values, max_size=2), max_size=2)


@st.composite
def entities(draw: st.DrawFn, kind: Kind | None = None) -> TaskEntity[Any]:
    """A task as it might be stored: what goes together in a store goes together here."""
    key = draw({Kind.SUB_TASK: sub_keys, None: keys}.get(kind, top_keys.filter(lambda key: kind in (None, key.kind))))
    parts = key.parts
    fan_out = parts.kind is Kind.SFN_TASK
    results = draw(st.none() | _results)
    attributes = TaskAttributes(
        results=results,
        result_ref=draw(texts.filter(bool)) if results is None and draw(st.booleans()) else None,
        error=draw(st.none() | failures),
    )
    if fan_out:
        attributes = replace(
            attributes,
            sub_task_count=draw(_counts),
            sub_task_succeed_count=draw(_counts),
            sub_task_failed_count=draw(_counts),
        )
    input_ref = draw(st.none() | texts.filter(bool))
    input = None if input_ref is not None else draw(st.lists(json_values, max_size=3) if fan_out else json_values)
    optional_texts = st.none() | texts.filter(bool)
    optional_times = st.none() | instants
    return TaskEntity(
        key=key,
        kind=parts.kind,
        code=parts.code,
        task_type=parts.task_type,
        name=draw(texts.filter(bool)),
        tenant_code=parts.tenant_code,
        status=draw(statuses),
        version=draw(_counts),
        input=input,
        input_ref=input_ref,
        index=parts.index,
        attributes=attributes,
        request_id=draw(optional_texts),
        created_at=draw(instants),
        updated_at=draw(instants),
        created_by=draw(optional_texts),
        updated_by=draw(optional_texts),
        created_ip=draw(optional_texts),
        updated_ip=draw(optional_texts),
        run=draw(st.integers(1, 9)),
        attempt=draw(st.integers(0, 9)),
        fence=draw(_counts),
        claim_id=draw(optional_texts),
        lease_until=draw(optional_times),
        dispatch=draw(optional_texts),
        next_attempt_at=draw(optional_times),
        started_at=draw(optional_times),
        finished_at=draw(optional_times),
        progress=draw(st.none() | progresses),
        execution_arn=draw(optional_texts),
        deadline_at=draw(optional_times),
        lost=draw(st.integers(0, 9)),
        state=draw(json_values),
        options=draw(options),
        history_dropped=draw(_counts),
        fan_out=draw(fan_outs) if fan_out and draw(st.booleans()) else None,
        cancel_requested=draw(cancel_requests) if fan_out and draw(st.booleans()) else None,
        history=draw(histories),
    )


def plain(kind: Kind = Kind.TASK, status: TaskStatus = TaskStatus.PENDING, **fields: Any) -> TaskEntity[Any]:
    """A task with little to say."""
    make = {
        Kind.TASK: TaskKey.single("acme", "cat", "01J0000000000000000000000A"),
        Kind.SFN_TASK: TaskKey.step_function("acme", "cat", "01J0000000000000000000000A"),
        Kind.SUB_TASK: TaskKey.sub_task("acme", "cat", "01J0000000000000000000000A", 3),
    }
    key = make[kind]
    task = TaskEntity(
        key=key,
        kind=kind,
        code=key.parts.code,
        task_type="cat",
        name="cat",
        tenant_code="acme",
        status=status,
        input=None,
        index=key.parts.index,
        created_at=EPOCH,
        updated_at=EPOCH,
    )
    return replace(task, **fields)
