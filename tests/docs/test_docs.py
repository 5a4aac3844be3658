"""What the documentation says is tried, word for word."""

import dataclasses
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from taskloom import Settings, TaskKey, TaskModule
from taskloom.aws import table
from taskloom.capabilities import CAPABILITIES, Feature
from taskloom.embedded import schema
from taskloom.lifecycle import NEXT
from taskloom.model import Kind
from tests.cli.program import Program
from tests.cli.test_serving import address_of

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


def test_the_page_about_aws_is_one_program_that_runs(tmp_path: Path) -> None:
    """As far as it goes without AWS: everything is wired."""
    shown = "print(type(handler).__name__)\n"
    assert run("\n".join([*blocks(ROOT / "docs" / "aws.md"), shown]), tmp_path) == "LambdaEntry\n"


def test_the_page_on_notifications_is_one_program_that_runs(tmp_path: Path) -> None:
    output = run("\n".join(blocks(ROOT / "docs" / "notifications.md")), tmp_path).splitlines()
    assert output[0] == "cat COMPLETED"
    assert "posted: COMPLETED IN_PROGRESS PENDING" in output
    assert any(line.startswith("notify_url ") for line in output)


def test_the_program_of_the_dashboard_serves_it(tmp_path: Path) -> None:
    (program,) = blocks(ROOT / "docs" / "dashboard.md")
    ask = """
import asyncio, httpx

async def ask():
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        await report.create(tenant_code="acme", input={"customer": "Tama"})
        async with module.worker() as worker:
            await worker.drain()
        page = await client.get("/dashboard/tasks?tenant=acme&status=COMPLETED")
        print(page.status_code, page.text.count('class="status s-COMPLETED"'))

asyncio.run(ask())
"""
    assert run(program + ask, tmp_path) == "200 1\n"


def test_the_session_with_curl_is_what_a_shell_says(tmp_path: Path) -> None:
    """Word for word, but for the port."""
    (session,) = re.findall(
        r"^```console\n(\$ tasks=.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    typed = re.findall(r"^\$ (.*?(?:\\\n.*?)*)$", session, re.MULTILINE)
    shown = re.sub(r"^\$ .*?(?:\\\n.*?)*\n", "", session, flags=re.MULTILINE)
    program = blocks(ROOT / "README.md")[0].replace(
        "TaskModule.register()", "TaskModule.register(enable_controller=True)"
    )
    (tmp_path / "cats.py").write_text(program)
    with Program(tmp_path, "serve", "cats:module", "--port", "0") as server:
        address = address_of(server)
        script = "set -e\n" + "\n".join(typed).replace("http://127.0.0.1:8000", address)
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == shown
    assert "event: task" in (tmp_path / "events.txt").read_text()


def test_the_programs_of_the_page_on_rest_work_together(tmp_path: Path) -> None:
    application, client = blocks(ROOT / "docs" / "rest.md")
    (tmp_path / "feeding.py").write_text(application)
    with Program(tmp_path, "serve", "feeding:module", "--port", "0") as server:
        output = run(client.replace("http://127.0.0.1:8000", address_of(server)), tmp_path)
    assert output == "COMPLETED fed Tama\n"


def test_the_table_of_addresses_is_the_document(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "rest.md").read_text()
    app: Any = TaskModule.register(enable_controller=True, settings=Settings(database=tmp_path / "tasks.db")).asgi_app()
    known = {
        (method.upper(), re.sub(r"^/tasks/(\{pk\}/\{sk\}|by-code/\{code\})", "…", path))
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }
    documented = set()
    for cell in re.findall(r"^\| (`(?:GET|POST) .+?) \|", text, re.MULTILINE):
        method, folder = "", ""
        for name in re.findall(r"`(.+?)`", cell):
            method, _, path = name.rpartition(" ") if " " in name else (method, "", name)
            alone = path.count("/") == 1 and bool(folder) and " " not in name
            documented.add((method, folder + path if alone else path))
            folder = folder if alone else path.rpartition("/")[0] if path.startswith("/") else ""
    assert documented == known


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
    text = text.partition("On AWS")[0]
    documented = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", text, re.MULTILINE))
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        schema.prepare(connection)
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in tables:
            if not name.startswith("sqlite_"):
                keys = [
                    row[1]
                    for row in sorted(connection.execute(f"PRAGMA table_info({name})"), key=lambda row: int(row[5]))
                    if row[5]
                ]
                assert re.findall(r"`(\w+)`", documented.pop(name)) == keys
    finally:
        connection.close()
    assert not documented


def test_the_keys_on_aws_are_those_of_the_table() -> None:
    """Each beginning that the table knows, and the indexes with their keys."""
    text = (ROOT / "docs" / "keys.md").read_text().partition("On AWS")[2]
    keys = re.findall(r"^\| [^|`]+ \| `([A-Z_]+)[#`]", text, re.MULTILINE)
    assert set(keys) == table.PREFIXES.keys()
    indexes = re.findall(r"^\| `(\w+)` \| `(\w+)`[^|]* \| `(\w+)`[^|]* \|", text, re.MULTILINE)
    assert {name: (hash_, range_) for name, hash_, range_ in indexes} == table.INDEXES
    parent = TaskKey.step_function("<tenant>", "<type>", "<ULID>")
    assert f"`{table.chunk_pk(parent, 1).removesuffix('1')}<run>`" in text
    assert f"`{table.idempotency_pk('<tenant>', '<key>')}`" in text
    assert f"`{table.failed_mark('<pk>')}`" in text
    assert f"`{table.due_mark('<bucket>')}`" in text


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
