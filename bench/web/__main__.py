"""`python -m bench.web`: requests a second, and what open streams cost."""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench import machine
from bench.runner import ROOT
from bench.web.calling import Connection, Request, once, times
from bench.web.server import Server

TENANT: Final = "bench"
LOOK: Final = 0.05
"""Seconds between two looks at a fan-out that runs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    chosen = _options(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=chosen.folder) as name:
        folder = Path(name)
        facts = machine.facts(folder, ROOT)
        print(f"{facts['processor']}, {facts['cores']} cores, Python {facts['python']}, {facts['commit']}", flush=True)
        with Server(folder) as server:
            rows = asyncio.run(_measure(server, chosen))
    print()
    for row in rows:
        print(f"{row['what']:44}{row['figure']}")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps({"machine": facts, "rows": rows}, indent=2) + "\n")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.web", description=__doc__)
    parser.add_argument("--requests", type=int, default=2000, help="of each kind (default: 2000)")
    parser.add_argument("--connections", type=int, default=16, help="that ask at the same time (default: 16)")
    parser.add_argument("--streams", type=int, default=500, help="open event streams (default: 500)")
    parser.add_argument("--sub-tasks", type=int, default=5000, help="that the worker runs meanwhile (default: 5000)")
    parser.add_argument("--folder", type=Path, help="where the database lies (default: the folder for temporary files)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser.parse_args(arguments)


async def _measure(server: Server, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    new = {"tenantCode": TENANT, "taskType": "nobody", "input": {"name": "Tama"}}

    async def requests(what: str, request: Request, ok: int) -> None:
        whole, taken = await times(server.port, chosen.connections, chosen.requests, request, ok)
        rows.append(_row(what, whole, taken))
        print(".", end="", flush=True)

    await requests("POST /tasks", ("POST", "/tasks", new, {}), 202)
    _, headers, _ = await once(server.port, ("POST", "/tasks", new, {}), 202)
    where, tag = headers["location"], headers["etag"]
    await requests("GET of a task", ("GET", where, None, {}), 200)
    await requests("GET of a task that stands as it did", ("GET", where, None, {"If_None_Match": tag}), 304)
    await requests("GET of a list of 20", ("GET", f"/tasks/{TENANT}", None, {}), 200)
    rows += await _streams(server, chosen)
    return rows


async def _streams(server: Server, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """What streams cost: half of them watch the fan-out that runs, half the list that it is in."""
    await _finished(server.port, await _fan_out(server.port, chosen.sub_tasks))  # warm
    alone = await _finished(server.port, await _fan_out(server.port, chosen.sub_tasks))
    before = server.memory()
    watched = await _fan_out(server.port, chosen.sub_tasks, paused=True)
    streams = [await Connection.to(server.port) for _ in range(chosen.streams)]
    paths = [f"{watched}/events", f"/tasks/{TENANT}/events?type=SFN_TASK"]
    await asyncio.gather(*(stream.listen(paths[number % 2]) for number, stream in enumerate(streams)))
    opened = server.memory()
    heard = [asyncio.create_task(stream.drain()) for stream in streams]
    await once(server.port, ("POST", "/queues/resume", {"tenantCode": TENANT}, {}), 200)
    beside = await _finished(server.port, watched)
    after = server.memory()
    for stream in streams:
        stream.close()
    for task in heard:
        task.cancel()
    await asyncio.gather(*heard, return_exceptions=True)
    count = chosen.sub_tasks
    rows = [
        {"what": "sub-tasks a second, nobody looks", "figure": f"{count / alone:,.0f}", "value": count / alone},
        {
            "what": f"sub-tasks a second, {chosen.streams} streams",
            "figure": f"{count / beside:,.0f}",
            "value": count / beside,
        },
    ]
    if before is not None and opened is not None and after is not None:
        rows += [
            {"what": "memory without streams", "figure": f"{before / 2**20:.1f} MB", "value": before},
            {"what": f"memory with {chosen.streams} streams", "figure": f"{opened / 2**20:.1f} MB", "value": opened},
            {"what": "memory after the fan-out was watched", "figure": f"{after / 2**20:.1f} MB", "value": after},
        ]
    return rows


async def _fan_out(port: int, count: int, *, paused: bool = False) -> str:
    """The address of a new fan-out; *paused*: it does not begin yet."""
    if paused:
        await once(port, ("POST", "/queues/pause", {"tenantCode": TENANT}, {}), 204)
    body = {"tenantCode": TENANT, "taskType": "work", "input": list(range(count))}
    _, headers, _ = await once(port, ("POST", "/tasks/step-function-task", body, {}), 202)
    return headers["location"]


async def _finished(port: int, where: str) -> float:
    """Seconds until the fan-out has ended."""
    began = time.perf_counter()
    while True:
        _, _, answer = await once(port, ("GET", where, None, {}), 200)
        task = json.loads(answer)
        if task["status"] == "COMPLETED":
            return time.perf_counter() - began
        assert task["status"] in ("PENDING", "IN_PROGRESS"), task
        await asyncio.sleep(LOOK)


def _row(what: str, whole: float, taken: Sequence[float]) -> dict[str, Any]:
    cuts = statistics.quantiles(taken, n=100, method="inclusive")
    a_second, median, most = len(taken) / whole, cuts[49] * 1000, cuts[98] * 1000
    figure = f"{a_second:,.0f} a second, p50 {median:.1f} ms, p99 {most:.1f} ms"
    return {"what": what, "figure": figure, "a_second": a_second, "p50_ms": median, "p99_ms": most}


if __name__ == "__main__":
    sys.exit(main())
