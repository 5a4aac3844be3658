"""`python -m bench`: measures, prints the table, writes the JSON."""

import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from bench import machine, options, plan, report, runner
from bench.options import Options
from bench.runner import ROOT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 1 when a measurement failed, else 0."""
    chosen = options.parse(arguments)
    workloads = plan.workloads(chosen)
    if chosen.list:
        for workload in workloads:
            print(f"{workload.name:24}{workload.title}{' (--large)' if workload.large else ''}")
        return 0
    if not workloads:
        print("nothing to measure: no workload of these contenders has such a name; see --list", file=sys.stderr)
        return 2
    # A short name: processes that share a database wake each other through sockets beside it, whose paths are limited.
    with tempfile.TemporaryDirectory(prefix="bench-", dir=chosen.folder) as folder:
        return _measure(chosen, workloads, Path(folder))


def _measure(chosen: Options, workloads: Sequence[plan.Workload], folder: Path) -> int:
    facts = machine.facts(folder, ROOT)
    left_out = _left_out(chosen)
    print(_heading(facts, left_out), flush=True)
    sources = {False: ROOT / "src"}
    if chosen.compare is not None:
        sources[True] = _source_of(chosen.compare, folder / "other")
    series = runner.run(workloads, chosen, sources, folder)
    rows = report.rows(series)
    print()
    print(report.table(rows, compared=chosen.compare))
    print()
    for note in report.NOTES:
        print(f"- {note.format(concurrency=chosen.concurrency)}")
    failures = list(report.failures(series))
    for failure in failures:
        print(f"- FAILED: {failure}")
    path = chosen.json or _default_path(chosen, facts["commit"])
    _write(path, report.document(rows, series, facts, _settings(chosen), left_out))
    print(f"\n{path}")
    return 1 if failures else 0


def _left_out(chosen: Options) -> list[str]:
    reasons = ((name, plan.missing(name)) for name in options.CONTENDERS if name in chosen.contenders)
    return [f"{plan.LABELS[name]} is left out: {reason}" for name, reason in reasons if reason is not None]


def _heading(facts: dict[str, Any], left_out: Sequence[str]) -> str:
    lines = [
        f"Taskloom {facts['commit']} on {facts['cores']} cores ({facts['processor']}), {facts['system']}",
        f"Python {facts['python']}, SQLite {facts['sqlite']}; {facts['file_system']}, fsync in {facts['fsync_ms']} ms",
    ]
    peers = [f"{name} {facts[key]}" for name, key in _PEERS if facts[key] is not None]
    if peers:
        lines.append(", ".join(peers))
    if facts["file_system"] == "tmpfs":
        lines.append("WARNING: the databases lie in memory, where durability costs nothing; give --folder on a disk")
    return "\n".join([*lines, *left_out])


_PEERS = (("Huey", "huey"), ("Dramatiq", "dramatiq"), ("Redis", "redis_server"))


def _source_of(commit: str, folder: Path) -> Path:
    """The `src` of another commit, taken out of the repository into *folder*."""
    # An archive, not a worktree: nothing is registered in the repository that a killed run would leave behind.
    packed = subprocess.run(
        ["git", "-C", str(ROOT), "archive", "--format=tar", commit, "src"], check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "src"


def _default_path(chosen: Options, commit: str) -> Path:
    words = [commit]
    words += [word for word, given in (("quick", chosen.quick), ("large", chosen.large)) if given]
    if chosen.compare is not None:
        words += ["to", machine.git(ROOT, "rev-parse", "--short", chosen.compare) or "other"]
    return ROOT / "bench-results" / f"{'-'.join(words)}.json"


def _settings(chosen: Options) -> dict[str, Any]:
    return {
        "repeat": chosen.repeat,
        "scale": chosen.scale,
        "large": chosen.large,
        "only": list(chosen.only),
        "concurrency": chosen.concurrency,
        "compare": chosen.compare,
    }


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
