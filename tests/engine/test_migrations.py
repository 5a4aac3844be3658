"""A file of an older version becomes one of this version, with what it holds."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from taskloom.embedded import schema
from tests.support.clock import FakeClock
from tests.support.scenarios import SINGLE, check_end, open_backend, tell


def _columns(connection: sqlite3.Connection) -> dict[str, list[tuple[object, ...]]]:
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {table: [row[1:] for row in connection.execute(f"PRAGMA table_info({table})")] for table in tables}


@pytest.mark.parametrize("version", range(1, len(schema.MIGRATIONS)))
def test_a_file_of_an_older_version_goes_on(
    version: int, tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "older.db"
    with monkeypatch.context() as older:
        older.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:version])
        connection = sqlite3.connect(path, isolation_level=None)
        schema.prepare(connection)
        assert connection.execute("PRAGMA user_version").fetchone() == (version,)
        connection.execute(
            "INSERT INTO tasks (pk, code, type, status, input, created_at, updated_at, history) "
            "VALUES ('TASK#old', '01JTZ3', 'old', 'C', 'null', 0, 0, '[0,\"C\",1,1,null,null]')"
        )
        connection.close()
    backend = open_backend(path, clock)

    async def main() -> None:
        await tell(SINGLE, backend, clock)
        await check_end(SINGLE, backend)

    asyncio.run(main())
    backend.close()
    connection = sqlite3.connect(path)
    fresh = sqlite3.connect(":memory:", isolation_level=None)
    schema.prepare(fresh)
    assert connection.execute("SELECT status FROM tasks WHERE code = '01JTZ3'").fetchone() == ("C",)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(schema.MIGRATIONS),)
    assert _columns(connection) == _columns(fresh)
    connection.close()
    fresh.close()
