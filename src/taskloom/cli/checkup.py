"""All that `taskloom doctor` looks at, but for the file itself."""

import importlib.metadata
import platform
import sqlite3
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Final

from taskloom.cli.diagnosis import Finding, counted, note, ok, problem
from taskloom.cli.queue_views import served_text
from taskloom.embedded import schema
from taskloom.errors import TaskloomError, WiringError
from taskloom.model import Kind
from taskloom.module import TaskModule
from taskloom.operations.queues import MAX_EXPIRED, QueueFigures
from taskloom.ports import ListenerFigures, Pause, Served, WorkerFacts
from taskloom.service import TaskService

EXTRAS: Final = {"cli": "typer", "web": "fastapi", "aws": "boto3", "cdk": "aws_cdk"}
"""The extras, and a module that each brings."""
NAMED: Final = 10
"""How many of many are named."""


def versions() -> Iterator[Finding]:
    """What runs here."""
    yield ok("taskloom", importlib.metadata.version("taskloom"))
    yield ok("python", f"{platform.python_implementation()} {platform.python_version()}")
    yield sqlite_finding(sqlite3.sqlite_version_info)
    there = [extra for extra, module in EXTRAS.items() if find_spec(module) is not None]
    yield ok("extras", f"{', '.join(there) or 'none'} of {', '.join(EXTRAS)}")


def sqlite_finding(version: tuple[int, ...]) -> Finding:
    """Whether this SQLite is new enough."""
    text, needed = ".".join(map(str, version)), ".".join(map(str, schema.MINIMUM_SQLITE))
    if version < schema.MINIMUM_SQLITE:
        return problem(
            "sqlite", f"{text}, and Taskloom needs {needed}", "take a Python that was built with a newer one"
        )
    return ok("sqlite", text)


def application_finding(name: str, module: TaskModule) -> Finding:
    """Whether workers of the application would do anything."""
    try:
        module.worker(concurrency=1)
    except WiringError as error:
        return problem("application", f"{name}: {error}", "see that the module that defines the handlers is imported")
    except TaskloomError as error:
        return problem("application", f"{name}: {error}", "correct it")
    served = module.served
    if served.tasks is None or served.fan_outs is None:
        return ok("application", f"{name}: its factory decides what it handles")
    return ok("application", f"{name}: handles {', '.join(sorted(served.tasks | served.fan_outs))}")


async def queues(service: TaskService, served: Served | None) -> list[Finding]:
    """What is to do, and who does it; *served*: what the application handles, if one is named."""
    figures, workers = await service.queues.figures(), await service.queues.workers()
    return [
        *worker_findings(workers, importlib.metadata.version("taskloom")),
        *served_findings(figures, workers, served),
        pauses_finding(await service.queues.pauses()),
        dead_letters_finding(figures),
        expired_finding(await service.queues.expired(), is_served=bool(workers)),
        webhooks_finding(await service.webhooks.listeners()),
    ]


def worker_findings(workers: Sequence[WorkerFacts], version: str) -> Iterator[Finding]:
    """Who lives, and whether all are of this version."""
    if not workers:
        yield note("workers", "none is alive", "start one: taskloom worker APP")
        return
    yield ok("workers", f"{len(workers)} alive: {_some([f'{one.name} ({served_text(one)})' for one in workers])}")
    others = [f"{one.name} has {one.version}" for one in workers if one.version != version]
    if others:
        yield note("workers", f"not all are of version {version}: {_some(others)}", "restart them with this version")


def served_findings(
    figures: Sequence[QueueFigures], workers: Sequence[WorkerFacts], served: Served | None
) -> Iterator[Finding]:
    """Whether somebody serves each type that waits, and whether the application could."""
    waiting: dict[tuple[Kind, str], int] = {}
    for row in figures:
        if row.waiting + row.delayed:
            name = (row.kind, row.task_type)
            waiting[name] = waiting.get(name, 0) + row.waiting + row.delayed
    unserved = [name for name in waiting if not any(worker.serves(*name) for worker in workers)]
    if unserved:
        text = f"no live worker serves {_types(unserved, waiting)}"
        yield problem("served", text, "start a worker of the application that handles them: taskloom worker APP")
    else:
        yield ok("served", f"{counted(sum(waiting.values()))} wait for workers, and each type has one that lives")
    if served is not None:
        unknown = [name for name in waiting if not _handles(served, *name)]
        if unknown:
            text = f"the application does not handle {_types(unknown, waiting)}"
            yield note("application", text, "if no other one does, define a handler, or purge them: taskloom purge")


def pauses_finding(pauses: Sequence[Pause]) -> Finding:
    """What is held up on purpose."""
    if not pauses:
        return ok("pauses", "none")
    names = [f"{pause.scope} {pause.name}" for pause in pauses]
    return note("pauses", _some(names), "when they are no longer wanted: taskloom resume")


def dead_letters_finding(figures: Sequence[QueueFigures]) -> Finding:
    """What could not be handed to a worker."""
    count = sum(row.dead_letters for row in figures)
    if not count:
        return ok("dead letters", "none")
    remedy = "see why: taskloom dead-letters; once that is mended: taskloom redrive --all"
    return problem("dead letters", f"{counted(count)} could not be handed to a worker", remedy)


def expired_finding(count: int, *, is_served: bool) -> Finding:
    """What counts as absent, and takes room until a worker removes it."""
    if not count:
        return ok("expired", "none")
    more = " or more" if count == MAX_EXPIRED else ""
    text = f"{counted(count)}{more} have expired and wait to be removed"
    if is_served:
        return ok("expired", f"{text}; a worker does so, a few at a time")
    return note("expired", text, "a worker removes them; start one: taskloom worker APP")


def webhooks_finding(listeners: Sequence[ListenerFigures]) -> Finding:
    """What could not be delivered to whoever listens."""
    failed = [listener for listener in listeners if listener.given_up]
    if not failed:
        return ok("webhooks", "nothing was given up")
    names = _some([f"{listener.name} ({listener.given_up:,})" for listener in failed])
    remedy = "see why: taskloom webhooks --failed; once that is mended: taskloom webhooks --all"
    return problem("webhooks", f"deliveries were given up: {names}", remedy)


def _handles(served: Served, kind: Kind, task_type: str) -> bool:
    types = served.tasks if kind is Kind.TASK else served.fan_outs
    return types is None or task_type in types


def _types(names: Sequence[tuple[Kind, str]], waiting: dict[tuple[Kind, str], int]) -> str:
    return _some([f"{task_type} ({kind}, {waiting[kind, task_type]:,} wait)" for kind, task_type in sorted(names)])


def _some(texts: Sequence[str]) -> str:
    more = f", and {len(texts) - NAMED:,} more" if len(texts) > NAMED else ""
    return ", ".join(texts[:NAMED]) + more
