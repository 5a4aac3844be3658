"""Steering tasks and queues."""

import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from taskloom.cli import output, queue_views, session, views
from taskloom.cli.exit_codes import FAILED, OK, exit_code
from taskloom.cli.finding import find_key
from taskloom.cli.options import By, Database, Keys, OfTenant, OfType, Reason, who
from taskloom.errors import InvalidInput, TaskEnded, TaskNotFound, TaskOpen
from taskloom.model import TaskEntity, TaskKey
from taskloom.policy import whole_number
from taskloom.service import TaskService


def cancel(keys: Keys, reason: Reason = None, by: By = None, database: Database = None) -> None:
    """Cancel tasks that have not ended.

    Each is tried, and a line says how it stands then. A fan-out that runs ends a little later: `watch` sees it.
    """
    _each(database, keys, lambda service, key: service.cancel_task(key, reason=reason, by=who(by)))


def retry(
    keys: Keys,
    everything: Annotated[
        bool, typer.Option("--all", help="Run again what is COMPLETED too, not only what failed.")
    ] = False,
    reason: Reason = None,
    by: By = None,
    database: Database = None,
) -> None:
    """Run tasks again that have ended.

    Of a fan-out only what failed, was cancelled or never started runs again. Each is tried, and a line says how it
    stands then.
    """
    _each(
        database,
        keys,
        lambda service, key: service.retry_task(key, only_failed=not everything, reason=reason, by=who(by)),
    )


def pause(
    task_type: OfType = None,
    tenant: OfTenant = None,
    reason: Reason = None,
    by: By = None,
    database: Database = None,
) -> None:
    """Start no more tasks of a type, or of a tenant.

    Until `resume`; what runs goes on.
    """
    _check_one(task_type, tenant)
    name = who(by)
    session.ask(
        database,
        lambda service: service.queues.pause(task_type=task_type, tenant_code=tenant, reason=reason, by=name),
    )
    output.say(f"paused: {_what(task_type, tenant)}")


def resume(task_type: OfType = None, tenant: OfTenant = None, database: Database = None) -> None:
    """End a pause."""
    _check_one(task_type, tenant)
    was = session.ask(database, lambda service: service.queues.resume(task_type=task_type, tenant_code=tenant))
    output.say(f"{'resumed' if was else 'was not paused'}: {_what(task_type, tenant)}")


def purge(
    task_type: OfType = None,
    tenant: OfTenant = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; needed where nobody can be asked.")] = False,
    reason: Reason = None,
    by: By = None,
    database: Database = None,
) -> None:
    """Cancel all tasks that wait.

    Those of a type, of a tenant, or a tenant's of a type. They end CANCELLED; `retry` runs them again. What
    runs goes on.
    """
    if task_type is None and tenant is None:
        raise InvalidInput("--type", "is not given, and neither is --tenant", "say what is to be purged")
    what, name = _what(task_type, tenant), who(by)
    if not yes:
        if sys.stdin is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise InvalidInput("--yes", "is missing, and nobody can be asked", f"give it to cancel all of {what}")
        waiting = session.ask(database, lambda service: _waiting(service, task_type, tenant))
        if not _confirmed(f"Cancel all tasks that wait of {what} ({waiting:,} in the queue)?"):
            output.say("nothing was changed")
            raise typer.Exit(FAILED)
    purged = session.ask(
        database,
        lambda service: service.queues.purge(task_type=task_type, tenant_code=tenant, reason=reason, by=name),
    )
    output.say(f"cancelled: {purged}")


def redrive(
    id_: Annotated[int | None, typer.Argument(metavar="ID", help="The dead letter.", show_default=False)] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them, or with --tenant all of its own.")] = False,
    tenant: OfTenant = None,
    per_second: Annotated[
        float | None, typer.Option(metavar="R", help="At most so many per second. [default: at once]")
    ] = None,
    by: By = None,
    database: Database = None,
) -> None:
    """Run the tasks of dead letters again.

    Each begins a new run, and its letter goes. What runs again already is left alone.
    """
    if (id_ is None) != everything:
        raise InvalidInput("ID", "or --all must be given, and only one of them", "say what is meant")
    if id_ is not None:
        whole_number(id_, "ID", low=1, high=queue_views.MAX_LETTER)
    name = who(by)
    with output.counting("redriven") as count:
        redriven = session.ask(
            database,
            lambda service: service.queues.redrive(
                id_, tenant_code=tenant, per_second=per_second, by=name, progress=count
            ),
        )
    output.say(f"redriven: {redriven}")


def _each(
    database: Path | None,
    keys: Sequence[str],
    act: Callable[[TaskService, TaskKey], Coroutine[Any, Any, TaskEntity[Any]]],
) -> None:
    """Do it to each; whoever cannot have it keeps nobody else from it. The first refusal is the exit code."""
    parsed = [find_key(key) for key in dict.fromkeys(keys)]

    async def act_on_each(service: TaskService) -> int:
        code = OK
        console = output.console()
        for key in parsed:
            try:
                task = await act(service, key)
            except (InvalidInput, TaskEnded, TaskNotFound, TaskOpen) as error:
                output.complain(error)
                code = code or exit_code(error)
            else:
                console.print(task.status, style=views.STYLES[task.status], end=" ")
                console.print(task.id, soft_wrap=True)
        return code

    if code := session.ask(database, act_on_each):
        raise typer.Exit(code)


def _check_one(task_type: str | None, tenant: str | None) -> None:
    if (task_type is None) == (tenant is None):
        raise InvalidInput("--type", "or --tenant must be given, and only one of them", "say what is meant")


async def _waiting(service: TaskService, task_type: str | None, tenant: str | None) -> int:
    figures = await service.queues.figures(tenant_code=tenant)
    return sum(row.waiting + row.delayed for row in figures if task_type in (None, row.task_type))


def _confirmed(question: str) -> bool:
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _what(task_type: str | None, tenant: str | None) -> str:
    parts = [("task type", task_type), ("tenant", tenant)]
    return " and ".join(f"{name} {value!r}" for name, value in parts if value is not None)
