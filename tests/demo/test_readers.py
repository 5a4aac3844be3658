"""The processes that read: their number, their crashes, their end."""

import asyncio
import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from taskloom.demo import fingerprint
from taskloom.demo.fingerprint import Fingerprint
from taskloom.demo.readers import Readers, cores

FRAGILE = f"""
import json, os, runpy, signal, sys, time
sys.argv = [{fingerprint.__file__!r}]
names = runpy.run_path(sys.argv[0])
real = names["fingerprint"]
def fingerprint(path, *, parse=True):
    name = os.path.basename(path)
    if name == "crash.py" and parse:
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "always.py":
        os._exit(3)
    if name == "hang":
        time.sleep(600)
    if name == "pid":
        return names["Fingerprint"](size=os.getpid())
    return real(path, parse=parse)
names["serve"].__globals__["fingerprint"] = fingerprint
names["main"]()
"""
"""The real script with a parser that crashes, or hangs, at files of certain names."""


def fragile(count: int) -> Readers:
    return Readers(count, (sys.executable, "-c", FRAGILE))


def test_files_are_read_by_other_processes_that_end_with_the_block(tmp_path: Path) -> None:
    """As many as asked for, however many files there are at a time."""

    async def pids() -> list[int | None]:
        async with fragile(2) as readers:
            return [found.size for found in await asyncio.gather(*(readers.fingerprint("pid") for _ in range(20)))]

    found = set(asyncio.run(pids()))
    assert 1 <= len(found) <= 2
    assert os.getpid() not in found
    for pid in found:
        assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_file_that_crashes_the_parser_fails_alone(tmp_path: Path) -> None:
    """The reason is told, what can be told without the parser too, and the neighbours do not notice."""
    content = b"def f(): ...\n"
    paths = [tmp_path / name for name in ("a.py", "crash.py", "b.py", "always.py", "c.py")]
    for path in paths:
        path.write_bytes(content)

    async def take() -> list[Fingerprint]:
        async with fragile(2) as readers:
            return await asyncio.gather(*(readers.fingerprint(str(path)) for path in paths))

    a, crash, b, always, c = asyncio.run(take())
    assert [found.functions for found in (a, b, c)] == [1, 1, 1]
    assert crash.error == "ReaderCrashed: the reading process was ended by SIGSEGV while it looked at the file"
    assert (crash.size, crash.sha256) == (13, hashlib.sha256(content).hexdigest())
    assert crash.functions is None
    assert always.error == "ReaderCrashed: the reading process ended with code 3 while it looked at the file"
    assert always.sha256 is None


def test_a_reader_whose_caller_is_cancelled_is_replaced(tmp_path: Path) -> None:
    """Its answer would otherwise come to the next file."""
    good = tmp_path / "good.txt"
    good.write_text("good\n")

    async def take() -> Fingerprint:
        async with fragile(1) as readers:
            before = await readers.fingerprint("pid")
            hanging = asyncio.create_task(readers.fingerprint("hang"))
            waiting = asyncio.create_task(readers.fingerprint("pid"))
            done, _ = await asyncio.wait((hanging, waiting), timeout=0.05)
            assert not done
            hanging.cancel()
            with suppress(asyncio.CancelledError):
                await hanging
            assert (await waiting).size != before.size
            return await readers.fingerprint(str(good))

    assert asyncio.run(take()).size == 5


def test_at_least_one_process_can_work_here() -> None:
    assert cores() >= 1
