"""Clients and threads of one process: made when needed, given back, made again after a fork."""

import asyncio
import os
import subprocess
import sys
import threading

from taskloom.aws.clients import THREADS, Clients
from tests.aws.emulator import Emulator


def test_a_client_is_made_once(emulator: Emulator) -> None:
    """Whoever asks first, and however many ask at once."""
    clients = Clients(emulator.arguments)
    found = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait(30)
        found.append(clients.client("dynamodb"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8
    assert len({id(client) for client in found}) == 1
    clients.close()


def test_closed_clients_open_again(emulator: Emulator) -> None:
    clients = Clients(emulator.arguments)
    clients.close()
    for _ in range(2):
        asyncio.run(clients.call("dynamodb", "list_tables"))
        first = clients.client("dynamodb")
        clients.close()
        assert clients.client("dynamodb") is not first
    clients.close()


def test_calls_wait_in_a_bounded_number_of_threads(emulator: Emulator) -> None:
    clients = Clients(emulator.arguments)
    names: set[str] = set()

    async def main() -> None:
        await asyncio.gather(*(clients.run(lambda: names.add(threading.current_thread().name)) for _ in range(500)))

    asyncio.run(main())
    assert 1 <= len(names) <= THREADS
    assert all(name.startswith("taskloom-aws") for name in names)
    clients.close()


def test_nothing_is_made_before_its_first_use() -> None:
    """Neither threads nor connections: the import of a module costs no call."""
    before = threading.active_count()
    clients = Clients()
    assert threading.active_count() == before
    clients.close()


FORKING = """
import asyncio, os, sys
from taskloom.aws.clients import Clients
clients = Clients({arguments!r})
asyncio.run(clients.call("dynamodb", "list_tables"))
mine = clients.client("dynamodb")
child = os.fork()
if child == 0:
    asyncio.run(clients.call("dynamodb", "list_tables"))
    os._exit(17 if clients.client("dynamodb") is not mine else 1)
_, status = os.waitpid(child, 0)
assert clients.client("dynamodb") is mine
asyncio.run(clients.call("dynamodb", "list_tables"))
print(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_process_has_its_own(emulator: Emulator) -> None:
    script = FORKING.format(arguments=dict(emulator.arguments))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env={**os.environ}
    )
    assert (done.returncode, done.stdout.strip()) == (0, "17"), done.stderr


def test_nothing_keeps_a_process_alive(emulator: Emulator) -> None:
    """Whoever forgets to close ends all the same."""
    script = FORKING.format(arguments=dict(emulator.arguments)).partition("mine =")[0]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
