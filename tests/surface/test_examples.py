"""The examples run as a user runs them: from a shell, in a folder of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.rules import check_rules

EXAMPLES = Path(__file__).parents[2] / "examples"
RESULT = {"cat_long.py": "Result after process", "cat_short.py": "Result after process of v"}


def run_example(name: str, *arguments: str, home: Path) -> str:
    environment = {**os.environ, "TMPDIR": str(home), "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("name", sorted(RESULT))
def test_the_example_runs_both_kinds_of_task(name: str, tmp_path: Path) -> None:
    created, *lines = run_example(name, str(tmp_path / "new" / "folder"), home=tmp_path).splitlines()
    assert created.startswith("created: TASK#mbc#cat#")
    assert " and SFN_TASK#mbc#cat#" in created
    assert created.endswith("both PENDING")
    assert lines == [
        f"single task: COMPLETED, result '{RESULT[name]}'",
        "step function task: COMPLETED, 6 of 6 succeeded",
        *(f"  sub-task {index}: COMPLETED, result 'value{index + 1}'" for index in range(6)),
        f"database: {tmp_path / 'new' / 'folder' / 'tasks.db'}",
    ]
    check_rules(tmp_path / "new" / "folder" / "tasks.db")


@pytest.mark.parametrize("name", sorted(RESULT))
def test_the_example_takes_a_temporary_folder_by_itself(name: str, tmp_path: Path) -> None:
    last = run_example(name, home=tmp_path).splitlines()[-1]
    database = Path(last.removeprefix("database: "))
    assert database.is_file()
    assert database.parent.parent == tmp_path
