"""The benchmark of the web application at tiny sizes: it runs to its end. Nothing here looks at a time."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_it_gives_its_figures(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    sizes = ["--requests", "20", "--connections", "2", "--streams", "4", "--sub-tasks", "60"]
    with tempfile.TemporaryDirectory() as folder:  # a short path, as for the sockets of other benchmarks
        ended = subprocess.run(
            [sys.executable, "-m", "bench.web", *sizes, "--json", str(path), "--folder", folder],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert not list(Path(folder).iterdir()), "the database was left behind"
    assert ended.returncode == 0, ended.stdout + ended.stderr
    document = json.loads(path.read_text(encoding="utf-8"))
    assert {"commit", "cores", "python", "sqlite", "fsync_ms", "file_system"} <= document["machine"].keys()
    assert "sub-tasks a second, 4 streams" in {row["what"] for row in document["rows"]}
    for row in document["rows"]:
        assert row["figure"] in ended.stdout
