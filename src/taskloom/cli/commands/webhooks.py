"""Who is told of status changes, and what could not be delivered."""

from typing import Annotated

import typer

from taskloom.cli import output, session, views, webhook_views
from taskloom.cli.exit_codes import FAILED
from taskloom.cli.options import AsJson, Database
from taskloom.errors import InvalidInput
from taskloom.operations.webhooks import MAX_ID, MAX_PAGE
from taskloom.policy import whole_number


def webhooks(
    id_: Annotated[
        int | None, typer.Argument(metavar="ID", help="Show this delivery that was given up.", show_default=False)
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="List the deliveries that were given up.")] = False,
    replay: Annotated[int | None, typer.Option(metavar="ID", help="Deliver this one again.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Deliver all again that were given up, or with --listener all of its own.")
    ] = False,
    listener: Annotated[str | None, typer.Option(metavar="NAME", help="Only what is for this listener.")] = None,
    forget: Annotated[
        str | None, typer.Option(metavar="NAME", help="Drop this listener, with all that waits for it.")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", help="At most so many (1 to 1000).")] = 100,
    cursor: Annotated[int, typer.Option(metavar="C", help="Go on where the list before ended.")] = 0,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """List who is told of status changes.

    Webhooks and subscriptions, what waits for them, and what was given up; or deliver that again.
    """
    if sum((id_ is not None, failed, replay is not None, everything, forget is not None)) > 1:
        raise InvalidInput("ID", "--failed, --replay, --all and --forget exclude each other", "give one of them")
    console = output.console()
    if replay is not None or everything:
        if replay is not None:
            whole_number(replay, "--replay", low=1, high=MAX_ID)
        replayed = session.ask(database, lambda service: service.webhooks.replay(replay, listener=listener))
        output.say(f"to be delivered again: {replayed}")
    elif forget is not None:
        was = session.ask(database, lambda service: service.webhooks.forget(forget))
        output.say(f"{'forgotten' if was else 'was not there'}: {forget}")
        if not was:
            raise typer.Exit(FAILED)
    elif id_ is not None:
        whole_number(id_, "ID", low=1, high=MAX_ID)
        one = session.ask(
            database, lambda service: service.webhooks.deliveries(listener=listener, after=id_ - 1, limit=1)
        )
        if not one or one[0].number != id_:
            raise InvalidInput("ID", f"no delivery {id_} was given up", "list them: taskloom webhooks --failed")
        if as_json:
            views.print_json(console, webhook_views.delivery_item(one[0]))
        else:
            webhook_views.print_delivery(console, one[0])
    elif failed:
        whole_number(limit, "limit", low=1, high=MAX_PAGE)
        whole_number(cursor, "cursor", low=0, high=MAX_ID)
        wanted = min(limit + 1, MAX_PAGE)
        found = session.ask(
            database, lambda service: service.webhooks.deliveries(listener=listener, after=cursor, limit=wanted)
        )
        shown, more = found[:limit], len(found) > limit or len(found) == MAX_PAGE
        if as_json:
            items = list(map(webhook_views.delivery_item, shown))
            views.print_json(console, {"items": items, "cursor": shown[-1].number if more else None})
        else:
            webhook_views.print_deliveries(console, shown, more=more)
    else:
        listeners = session.ask(database, lambda service: service.webhooks.listeners())
        chosen = [item for item in listeners if listener in (None, item.name)]
        if as_json:
            views.print_json(console, webhook_views.listeners_item(chosen))
        else:
            webhook_views.print_listeners(console, chosen)
