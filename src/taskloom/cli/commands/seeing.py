"""Looking at tasks and queues."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, cast

import typer

from taskloom.cli import output, queue_views, session, views, watching
from taskloom.cli.exit_codes import OUTCOMES
from taskloom.cli.finding import find_key
from taskloom.cli.options import AsJson, Database, Key
from taskloom.errors import InvalidInput
from taskloom.model import LogLine, TaskKey
from taskloom.operations.queues import QueueFigures
from taskloom.policy import MAX_SECONDS, number, whole_number
from taskloom.ports import DeadLetter, Pause, PauseScope, WorkerFacts
from taskloom.record import to_item
from taskloom.service import TaskService


def show(
    key: Key,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Show one task or sub-task.

    Its status, progress, input, result, error and history.
    """
    task_key = find_key(key)
    task = session.ask(database, lambda service: service.get_task(task_key))
    console = output.console()
    if as_json:
        views.print_json(console, to_item(task))
    else:
        views.print_task(console, task)


def list_(
    tenant: Annotated[str, typer.Option(metavar="T", help="Whose tasks.")],
    type_: Annotated[
        str, typer.Option("--type", metavar="TASK|SFN_TASK", help="Single tasks, or the parents of fan-outs.")
    ] = "TASK",
    status: Annotated[
        str | None,
        typer.Option(metavar="STATUS", help="Only PENDING, IN_PROGRESS, COMPLETED, FAILED or CANCELLED ones."),
    ] = None,
    task_type: Annotated[str | None, typer.Option(metavar="T", help="Only tasks of this type.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", help="At most so many (1 to 1000).")] = 20,
    order: Annotated[str, typer.Option(metavar="asc|desc", help="Oldest or newest first.")] = "desc",
    cursor: Annotated[str | None, typer.Option(metavar="C", help="Go on where the page before ended.")] = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """List the tasks of a tenant, newest first."""
    page = session.ask(
        database,
        lambda service: service.list_tasks(
            tenant,
            type=cast(Literal["TASK", "SFN_TASK"], type_),
            status=status,
            task_type=task_type,
            limit=limit,
            order=cast(Literal["asc", "desc"], order),
            cursor=cursor,
        ),
    )
    console = output.console()
    if as_json:
        views.print_json(console, views.page_item(page))
    else:
        views.print_page(console, page)


def logs(
    key: Key,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with the lines that come, until the task has ended.")
    ] = False,
    database: Database = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object per line, for programs.")] = False,
) -> None:
    """Show what the handlers of a task logged.

    The oldest line first, of all runs and attempts.
    """
    task_key = find_key(key)
    console = output.console()

    def show_line(line: LogLine) -> None:
        if as_json:
            views.print_json_line(console, line)
        else:
            views.print_line(console, line)

    shown = session.ask(database, lambda service: _show_lines(service, task_key, follow, show_line))
    if not shown and not as_json:
        console.print("no lines")


async def _show_lines(service: TaskService, key: TaskKey, follow: bool, show_line: Callable[[LogLine], None]) -> int:
    """How many lines there were."""
    shown = 0
    if follow:
        async for line in service.follow_logs(key):
            show_line(line)
            shown += 1
        return shown
    page = await service.logs(key)
    while page.items:
        for line in page.items:
            show_line(line)
        shown += len(page.items)
        page = await service.logs(key, after=page.cursor)
    return shown


def watch(
    key: Key,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Wait at most so long. [default: for ever]")
    ] = None,
    database: Database = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the task as it is stored at the end.")] = False,
) -> None:
    """Watch a task until it has ended.

    A bar shows how far it is. The exit code tells how it ended: 0 COMPLETED, 5 FAILED, 6 CANCELLED, 7 not in time.
    """
    task_key = find_key(key)
    if timeout is not None:
        number(timeout, "timeout", low=0, high=MAX_SECONDS)
    with watching.observer(output.console(sys.stderr)) as observer:
        task = session.ask(database, lambda service: watching.watch(service, task_key, timeout, observer))
    console = output.console()
    if as_json:
        views.print_json(console, to_item(task))
    else:
        console.print(watching.outcome_text(task), style=views.STYLES[task.status], soft_wrap=True)
    if OUTCOMES[task.status]:
        raise typer.Exit(OUTCOMES[task.status])


def explain(key: Key, database: Database = None, as_json: AsJson = False) -> None:
    """Say where a task stands, and why."""
    task_key = find_key(key)
    explanation = session.ask(database, lambda service: service.explain(task_key))
    console = output.console()
    if as_json:
        views.print_json(console, queue_views.item(explanation))
    else:
        console.print(explanation.status, style=views.STYLES[explanation.status], end=" ")
        console.print(output.visible(f"({explanation.cause}): {explanation.text}"), soft_wrap=True)


def queues(
    tenant: Annotated[str | None, typer.Option(metavar="T", help="Only what this tenant has. [default: all]")] = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Show what there is to do, and who does it.

    How much waits, per tenant and type; which workers live; what is paused.
    """
    figures, workers, pauses = session.ask(database, lambda service: _queues(service, tenant))
    console = output.console()
    if as_json:
        views.print_json(console, queue_views.queues_item(figures, workers, pauses))
    else:
        queue_views.print_queues(console, figures, workers, pauses)


async def _queues(
    service: TaskService, tenant: str | None
) -> tuple[Sequence[QueueFigures], Sequence[WorkerFacts], Sequence[Pause]]:
    figures, workers, pauses = await asyncio.gather(
        service.queues.figures(tenant_code=tenant), service.queues.workers(), service.queues.pauses()
    )
    if tenant is not None:
        pauses = [pause for pause in pauses if pause.scope is PauseScope.TASK_TYPE or pause.name == tenant]
    return figures, workers, pauses


def dead_letters(
    id_: Annotated[
        int | None, typer.Argument(metavar="ID", help="Show this one. [default: all]", show_default=False)
    ] = None,
    tenant: Annotated[str | None, typer.Option(metavar="T", help="Only what this tenant has. [default: all]")] = None,
    limit: Annotated[int, typer.Option(metavar="N", help="At most so many (1 to 1000).")] = 100,
    cursor: Annotated[int, typer.Option(metavar="C", help="Go on where the list before ended.")] = 0,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """List what could not be handed to a worker.

    With the reason; or show one. `redrive` runs them again.
    """
    console = output.console()
    if id_ is not None:
        whole_number(id_, "ID", low=1, high=queue_views.MAX_LETTER)
        found = session.ask(
            database, lambda service: service.queues.dead_letters(tenant_code=tenant, after=id_ - 1, limit=1)
        )
        if not found or found[0].id != id_:
            raise InvalidInput("ID", f"there is no dead letter {id_}", "list them: taskloom dead-letters")
        if as_json:
            views.print_json(console, queue_views.item(found[0]))
        else:
            queue_views.print_dead_letter(console, found[0])
        return
    whole_number(limit, "limit", low=1, high=1000)
    whole_number(cursor, "cursor", low=0, high=queue_views.MAX_LETTER)

    async def page(service: TaskService) -> tuple[Sequence[DeadLetter], bool]:
        letters = await service.queues.dead_letters(tenant_code=tenant, after=cursor, limit=limit)
        more = len(letters) == limit and bool(
            await service.queues.dead_letters(tenant_code=tenant, after=letters[-1].id, limit=1)
        )
        return letters, more

    letters, more = session.ask(database, page)
    if as_json:
        items = list(map(queue_views.item, letters))
        views.print_json(console, {"items": items, "cursor": letters[-1].id if more else None})
    else:
        queue_views.print_dead_letters(console, letters, more=more)
