"""The Dramatiq application, for the measuring process and for `dramatiq bench.peers.dramatiq_app`."""

import importlib
import os
import time
from typing import Any, Final

URL: Final = "BENCH_REDIS_URL"
"""The environment variable that names the server."""

# By name: the extra `bench` is not installed for development, and types must not depend on it.
dramatiq: Any = importlib.import_module("dramatiq")
_brokers: Any = importlib.import_module("dramatiq.brokers.redis")
_results: Any = importlib.import_module("dramatiq.results")
_backends: Any = importlib.import_module("dramatiq.results.backends")


def _noop(number: int) -> int:
    return number


def _stamp() -> int:
    return time.monotonic_ns()


results: Any = _backends.RedisBackend(url=os.environ[URL])
broker: Any = _brokers.RedisBroker(url=os.environ[URL])
broker.add_middleware(_results.Results(backend=results))
dramatiq.set_broker(broker)
noop: Any = dramatiq.actor(_noop, actor_name="noop", store_results=True)
stamp: Any = dramatiq.actor(_stamp, actor_name="stamp", store_results=True)
