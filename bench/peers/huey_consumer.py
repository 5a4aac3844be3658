"""Huey's consumer in a process of its own: `python -m bench.peers.huey_consumer FILE`; see `bench.child`."""

import json
import sys

# Not one file with the application: Huey knows a task by the name of its module, which would be `__main__` here.
from bench.peers.huey_app import HueyApp

if __name__ == "__main__":
    app = HueyApp(sys.argv[1])
    consumer = app.consumer()
    consumer.start()
    print("ready", flush=True)
    sys.stdin.read()
    consumer.stop(graceful=True)
    print(json.dumps({"runs": len(app.runs)}))
