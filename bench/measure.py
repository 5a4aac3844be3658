"""One measurement in a process of its own: `python -m bench.measure CONTENDER WORKLOAD JOB`; prints its figures."""

import importlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bench.job import Job, Measurement

MODULES: Final = {
    "taskloom": ("bench.loom.create", "bench.loom.run", "bench.loom.fan_out", "bench.loom.growth", "bench.loom.turns"),
    "sqlite": ("bench.peers.bare_sqlite",),
    "huey": ("bench.peers.huey_sqlite",),
    "dramatiq": ("bench.peers.dramatiq_redis",),
}
"""What each contender can do."""
SOURCE: Final = "BENCH_SOURCE"
"""The environment variable with the folder that Taskloom must come from."""


def _measurements(contender: str) -> Mapping[str, Measurement]:
    known: dict[str, Measurement] = {}
    for module in MODULES[contender]:
        known.update(importlib.import_module(module).MEASUREMENTS)
    return known


def _check_source() -> None:
    import taskloom  # here, and not by a process that starts others: those stay small

    # An installed Taskloom must not be measured in place of another commit.
    assert Path(str(taskloom.__file__)).is_relative_to(os.environ[SOURCE]), taskloom.__file__


def main(contender: str, workload: str, job: str) -> None:
    """Measure and print."""
    _check_source()
    print(json.dumps(_measurements(contender)[workload](Job.parse(job))))


if __name__ == "__main__":
    main(*sys.argv[1:])
