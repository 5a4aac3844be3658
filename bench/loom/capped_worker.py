"""A worker process with a limit: `python -m bench.loom.capped_worker DATABASE CONCURRENCY CAP` (0: none)."""

import asyncio
import json
import sys
from pathlib import Path

from bench.loom.turns import capped_module


async def _work(path: Path, concurrency: int, cap: int) -> None:
    module = capped_module(path, cap or None)
    async with module.worker(concurrency=concurrency) as worker:
        print("ready", flush=True)
        end = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        end.add_done_callback(lambda _: worker.stop())
        await worker.run()
    await module.aclose()
    print(json.dumps({}))


if __name__ == "__main__":
    asyncio.run(_work(Path(sys.argv[1]), *map(int, sys.argv[2:])))
