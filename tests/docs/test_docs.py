"""What the documentation says is tried, word for word."""

import dataclasses
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from taskloom import Settings, TaskKey
from taskloom.capabilities import CAPABILITIES, Feature
from taskloom.embedded import schema
from taskloom.lifecycle import NEXT
from taskloom.model import Kind

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def run(program: str, folder: Path) -> str:
    path = folder / "program.py"
    path.write_text(program)
    done = subprocess.run([sys.executable, path.name], cwd=folder, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("number", range(3))
def test_each_program_of_the_readme_runs(number: int, tmp_path: Path) -> None:
    outputs = (
        [
            "COMPLETED fed Tama",
            "COMPLETED 6 of 6",
            *(f"{index} COMPLETED {index}" for index in range(6)),
        ],
        ["Result after process", "6"],
        ["PENDING"],
    )
    programs = blocks(ROOT / "README.md")
    assert len(programs) == len(outputs)
    assert run(programs[number], tmp_path).splitlines() == outputs[number]


def test_the_guide_is_one_program_that_runs(tmp_path: Path) -> None:
    output = run("\n".join(blocks(ROOT / "docs" / "guide.md")), tmp_path)
    assert "COMPLETED 250 0" in output
    assert "there is nothing" not in output


def test_the_page_on_notifications_is_one_program_that_runs(tmp_path: Path) -> None:
    output = run("\n".join(blocks(ROOT / "docs" / "notifications.md")), tmp_path).splitlines()
    assert output[0] == "cat COMPLETED"
    assert "posted: COMPLETED IN_PROGRESS PENDING" in output
    assert any(line.startswith("notify_url ") for line in output)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_the_diagram_of_statuses_is_the_table_of_the_code() -> None:
    text = (ROOT / "docs" / "how-it-works.md").read_text()
    drawn = set(re.findall(r"^    ([A-Z_]+) --> ([A-Z_]+): (.+)$", text, re.MULTILINE))
    assert drawn == {(str(source), str(target), trigger.value) for (source, trigger), target in NEXT.items()}


def test_the_table_of_keys_is_what_the_code_makes() -> None:
    text = (ROOT / "docs" / "keys.md").read_text()
    keys = {
        "single task": TaskKey.single("<tenant>", "<type>", "<ULID>"),
        "step function task": TaskKey.step_function("<tenant>", "<type>", "<ULID>"),
    }
    for name, key in keys.items():
        assert f"| {name} | `{key.pk}` | `{key.sk}` |" in text
    key = TaskKey.sub_task("t", "y", "01JTZ3", 12345)
    assert (key.pk, key.sk) == ("SFN_TASK#t#01JTZ3#12", "y#01JTZ3#0012345")
    assert key.kind is Kind.SUB_TASK


def test_the_table_of_tables_is_the_schema() -> None:
    text = (ROOT / "docs" / "keys.md").read_text()
    documented = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", text, re.MULTILINE))
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        schema.prepare(connection)
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            if not table.startswith("sqlite_"):
                keys = [
                    row[1]
                    for row in sorted(connection.execute(f"PRAGMA table_info({table})"), key=lambda row: int(row[5]))
                    if row[5]
                ]
                assert re.findall(r"`(\w+)`", documented.pop(table)) == keys
    finally:
        connection.close()
    assert not documented


def test_the_table_of_backends_is_the_one_that_is_enforced() -> None:
    text = (ROOT / "docs" / "backends.md").read_text()
    expected = [
        f"| {feature} | " + " | ".join(f"**{line[feature].level}**: {line[feature].why}" for line in lines) + " |"
        for lines in [CAPABILITIES.values()]
        for feature in Feature
    ]
    assert "| feature | " + " | ".join(CAPABILITIES) + " |" in text
    assert re.findall(r"^\| .+ \| \*\*.+ \|$", text, re.MULTILINE) == expected


def test_the_table_of_settings_names_each_field_its_variable_and_default() -> None:
    text = (ROOT / "docs" / "guide.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(TASKLOOM_\w+)` \| (.+?) \|", text, re.MULTILINE)
    settings = Settings()
    expected = []
    for field in dataclasses.fields(Settings):
        value = getattr(settings, field.name)
        default = "none" if value is None else f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
        expected.append((field.name, f"TASKLOOM_{field.name.upper()}", default))
    assert rows == expected
