"""The demonstration from beginning to end."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any, Final, Protocol

from taskloom.demo import names
from taskloom.demo.application import TENANT, Application, application, sub_task_inputs
from taskloom.demo.readers import Readers, cores
from taskloom.demo.report import Summary, write_report
from taskloom.errors import InvalidInput, TaskloomError
from taskloom.model import TaskEntity, TaskKey, TaskStatus
from taskloom.operations.checks import MAX_NAME
from taskloom.service import TaskService

DATABASE: Final = "demo.db"
REPORT: Final = "report.json"
MARK: Final = "demo.lock"
"""Held while a demonstration runs in the folder; later it says that the database there is from one."""
CONCURRENCY: Final = 8
"""Handlers at a time: enough to keep every reading process busy while the ends of others are stored."""
EVERY: Final = 0.2
"""Seconds between two looks at a running task."""
GRACE: Final = 0.0
"""Seconds. Whoever presses Ctrl-C need not wait for a large file: the next run begins anew."""

try:
    import fcntl
except ImportError:  # not on Windows: two demonstrations in one folder then get in each other's way
    fcntl = None  # type: ignore[assignment]


class DemoFailed(TaskloomError):
    """The demonstration could not come to its end."""


class Observer(Protocol):
    """Is told how far the demonstration is."""

    def inventory(self, task: TaskEntity[Any]) -> None:
        """The single task stands like this."""

    def fingerprints(self, task: TaskEntity[Any]) -> None:
        """The fan-out stands like this."""

    def report(self, done: int, total: int) -> None:
        """So many entries of the report are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it."""

    inventory: TaskEntity[Any]
    fingerprints: TaskEntity[Any]
    summary: Summary
    report: Path
    database: Path


async def run(folder: Path, out: Path, observer: Observer) -> Outcome:
    """Fingerprint every file below *folder*; the report, the inventory and the database lie in *out* then.

    *out* is made when missing and never fingerprinted itself; what an earlier run left there is replaced. Files that
    cannot be read or parsed are entries of the report with an error.
    Raises: InvalidInput (*folder* is none, or is *out*; *out* is in use), DemoFailed, StoreError.
    """
    root, target = _checked(folder, out)
    try:
        with _reserved(target):
            return await _run(root, target, observer)
    except OSError as error:
        raise DemoFailed(f"{type(error).__name__}: {error}") from error


def _checked(folder: Path, out: Path) -> tuple[Path, Path]:
    root, out = Path(os.path.abspath(folder)), Path(os.path.abspath(out))
    if not root.is_dir():
        problem = "is no folder" if root.exists() else "does not exist"
        raise InvalidInput("FOLDER", f"{names.shown(str(root))} {problem}", "give the folder that holds the files")
    if out.exists() and not out.is_dir():
        raise InvalidInput("--out", f"{names.shown(str(out))} is no folder", "give another one")
    if out.exists() and out.samefile(root):
        raise InvalidInput("--out", "is FOLDER itself, and would be fingerprinted", "give another folder")
    return root, out


@contextmanager
def _reserved(out: Path) -> Iterator[None]:
    """*out* is ours alone, and what an earlier run left there is gone. Raises: InvalidInput."""
    mark = out / MARK
    out.mkdir(parents=True, exist_ok=True)
    for name in (DATABASE, REPORT):
        if (out / name).exists() and not mark.exists():
            raise InvalidInput("--out", f"the file {name} there is not from a demo", "give another folder")
    with mark.open("a") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InvalidInput("--out", "another demo works in this folder", "wait, or give another one") from None
            except OSError:  # the file system knows no locks
                pass
        for name in (REPORT, DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"):
            (out / name).unlink(missing_ok=True)
        rmtree(out / f"{DATABASE}-wake", ignore_errors=True)
        yield


async def _run(root: Path, out: Path, observer: Observer) -> Outcome:
    async with Readers(cores()) as readers:
        app = application(out, out / DATABASE, readers.fingerprint)
        try:
            async with app.module.worker(concurrency=CONCURRENCY, grace=GRACE) as worker:
                working = asyncio.create_task(worker.run())
                try:
                    inventory, fingerprints = await _tasks(app, root, out, observer, working)
                    await worker.drain()  # the last messages: their tasks have ended, but nobody interrupts them
                finally:
                    worker.stop()
                    with suppress(asyncio.CancelledError):
                        await working
            service = app.module.task_service
            count = fingerprints.attributes.sub_task_count or 0
            summary = await write_report(
                service.iter_sub_tasks(fingerprints.key), out / REPORT, lambda done: observer.report(done, count)
            )
        finally:
            await app.module.aclose()
    return Outcome(
        inventory=inventory,
        fingerprints=fingerprints,
        summary=summary,
        report=out / REPORT,
        database=out / DATABASE,
    )


async def _tasks(
    app: Application, root: Path, out: Path, observer: Observer, working: asyncio.Task[None]
) -> tuple[TaskEntity[Any], TaskEntity[Any]]:
    """The inventory, and the fan-out that its result starts; both ended well."""
    service, shown = app.module.task_service, names.shown(str(root))
    name = shown if len(shown) <= MAX_NAME else f"…{shown[1 - MAX_NAME :]}"
    created = await app.inventory.create(tenant_code=TENANT, input=names.to_json("root", str(root)), name=name)
    inventory = await _follow(service, created.key, working, observer.inventory)
    counts: Any = inventory.result
    files = sub_task_inputs(str(root), out / counts["list"])
    created = await app.fingerprint.create(tenant_code=TENANT, input=files, name=name)
    return inventory, await _follow(service, created.key, working, observer.fingerprints)


async def _follow(
    service: TaskService, key: TaskKey, working: asyncio.Task[None], tell: Callable[[TaskEntity[Any]], None]
) -> TaskEntity[Any]:
    """The task *key* once it has ended well; *tell* hears of it until then. Raises: DemoFailed."""
    ended = asyncio.create_task(service.wait(key))
    try:
        while not ended.done():
            seen = await service.get_task(key)
            if not seen.is_terminal:  # its end is told once, below
                tell(seen)
            await asyncio.wait((ended, working), timeout=EVERY, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
                raise DemoFailed("the worker stopped before the task ended")
        task = ended.result()
    finally:
        ended.cancel()
    tell(task)
    if task.status is not TaskStatus.COMPLETED:
        reason = "" if task.error is None else f": {task.error.type}: {task.error.message}"
        raise DemoFailed(f"the task {task.id} ended {task.status}{reason}")
    return task
