"""A worker process: `python -m bench.loom.worker DATABASE CONCURRENCY`; see `bench.child`."""

import asyncio
import json
import sys
from pathlib import Path

from bench.figures import peak_memory
from bench.loom.app import application


async def _work(path: Path, concurrency: int) -> None:
    module, runs = application(path)
    async with module.worker(concurrency=concurrency) as worker:
        print("ready", flush=True)
        end = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        end.add_done_callback(lambda _: worker.stop())
        await worker.run()
    await module.aclose()
    print(json.dumps({"runs": runs.count, "peak_mb": peak_memory()}))


if __name__ == "__main__":
    asyncio.run(_work(Path(sys.argv[1]), int(sys.argv[2])))
