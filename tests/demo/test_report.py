"""The report: what a sub-task found out comes back, whether it succeeded or failed."""

import asyncio
import json
import pickle
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from hypothesis import example, given, strategies

from taskloom.demo.application import NotFingerprinted
from taskloom.demo.fingerprint import MAX_ERROR, Fingerprint
from taskloom.demo.report import SHOWN, Summary, entry, write_report
from taskloom.execution.failures import failure
from taskloom.model import Failure, Kind, TaskAttributes, TaskEntity, TaskKey, TaskStatus
from tests.support.clock import FakeClock

whole = strategies.integers(min_value=0, max_value=10**15)
known = strategies.builds(
    Fingerprint,
    size=strategies.none() | whole,
    sha256=strategies.none() | strategies.text("0123456789abcdef", min_size=64, max_size=64),
    lines=strategies.none() | whole,
    functions=strategies.none() | whole,
    classes=strategies.none() | whole,
    seconds=strategies.floats(min_value=0, max_value=1e6),
    error=strategies.text(strategies.characters(exclude_categories=["Cs"]), min_size=1, max_size=MAX_ERROR),
)


@given(found=known)
@example(found=Fingerprint(error='SyntaxError: {"size": 1} {"lines": 2}', size=3))
@example(found=Fingerprint(error="{"))
def test_what_a_failed_sub_task_knows_survives_its_error(found: Fingerprint) -> None:
    """It goes through the stored error, which keeps nothing but the message, and not more than 2,000 characters."""
    stored = failure(NotFingerprinted(found), attempt=1, will_retry=False)
    assert NotFingerprinted.read(stored.message) == found


def test_an_error_of_another_kind_is_the_reason() -> None:
    for message in ("the attempt took longer than 120 s", "", "{", 'x {"size": 1, "nonsense": 2}', "x {}y", "x [1]"):
        assert NotFingerprinted.read(message) == Fingerprint(error=message)


def test_the_error_can_be_pickled() -> None:
    error = NotFingerprinted(Fingerprint(size=1, error="E"))
    copied = pickle.loads(pickle.dumps(error))
    assert (copied.known, str(copied)) == (error.known, str(error))


def sub_task(index: int, path: str, found: Fingerprint) -> TaskEntity[Any]:
    now = FakeClock().now()
    well = found.error is None
    error = Failure(type="NotFingerprinted", message=str(NotFingerprinted(found)))
    return TaskEntity(
        key=TaskKey.sub_task("demo", "fingerprint", "0" * 26, index),
        kind=Kind.SUB_TASK,
        code="0" * 26,
        task_type="fingerprint",
        name="x",
        tenant_code="demo",
        status=TaskStatus.COMPLETED if well else TaskStatus.FAILED,
        input={"root": "/r", "path": path},
        attributes=TaskAttributes(results=[[found.to_json()]]) if well else TaskAttributes(error=error),
        created_at=now,
        updated_at=now,
    )


async def each(*tasks: TaskEntity[Any]) -> AsyncIterator[TaskEntity[Any]]:
    for task in tasks:
        yield task


def test_the_report_has_an_entry_per_file_and_the_summary_its_sums(tmp_path: Path) -> None:
    files = [
        ("a.py", Fingerprint(size=10, sha256="aa", lines=2, functions=3, classes=1, seconds=0.5)),
        ("b.bin", Fingerprint(size=20, sha256="bb", lines=0, seconds=0.25)),
        ("c.py", Fingerprint(size=30, sha256="cc", lines=4, seconds=2.0, error="SyntaxError: bad")),
        ("d", Fingerprint(error="PermissionError: no")),
    ]
    target, seen = tmp_path / "report.json", list[int]()
    tasks = [sub_task(index, *file) for index, file in enumerate(files)]
    summary = asyncio.run(write_report(each(*tasks), target, seen.append))
    none = dict.fromkeys(("size", "sha256", "lines", "functions", "classes"))
    assert json.loads(target.read_text()) == [
        {"path": "a.py", "size": 10, "sha256": "aa", "lines": 2, "functions": 3, "classes": 1},
        none | {"path": "b.bin", "size": 20, "sha256": "bb", "lines": 0},
        none | {"path": "c.py", "size": 30, "sha256": "cc", "lines": 4, "error": "SyntaxError: bad"},
        none | {"path": "d", "error": "PermissionError: no"},
    ]
    assert summary == Summary(
        files=4,
        failed=2,
        bytes=60,
        lines=6,
        functions=3,
        classes=1,
        slowest=[(2.0, "c.py"), (0.5, "a.py"), (0.25, "b.bin"), (0.0, "d")],
        failures=[("c.py", "SyntaxError: bad"), ("d", "PermissionError: no")],
    )
    assert seen == [1, 2, 3, 4]


def test_a_report_without_files_is_an_empty_list(tmp_path: Path) -> None:
    summary = asyncio.run(write_report(each(), tmp_path / "report.json", lambda count: None))
    assert json.loads((tmp_path / "report.json").read_text()) == []
    assert summary == Summary()


def test_the_summary_stays_small() -> None:
    """A million failures must not be held in memory to be shown."""
    summary = Summary()
    for index in range(1000):
        summary.add(f"{index}", Fingerprint(error="E", seconds=index))
    assert summary.failed == 1000
    assert [path for path, _ in summary.failures] == [f"{index}" for index in range(SHOWN)]
    assert [path for _, path in summary.slowest] == ["999", "998", "997", "996", "995"]


def test_a_name_that_is_no_unicode_is_listed_with_its_bytes() -> None:
    file = {"root": "/r", "path": "caf\\xe9", "pathBase64": "Y2Fm6Q=="}
    assert list(entry(file, Fingerprint())) == [
        "path",
        "pathBase64",
        "size",
        "sha256",
        "lines",
        "functions",
        "classes",
    ]
