"""Webhooks and subscriptions for people: tables. For machines: the same as JSON."""

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from taskloom.cli.output import cell, print_columns
from taskloom.cli.queue_views import item
from taskloom.cli.views import head
from taskloom.notifications.message import message
from taskloom.ports import ListenerFigures, Notice
from taskloom.record import time_text


def listeners_item(listeners: Sequence[ListenerFigures]) -> dict[str, Any]:
    """All that `print_listeners` shows as JSON."""
    return {"listeners": [item(listener) for listener in listeners]}


def delivery_item(notice: Notice) -> dict[str, Any]:
    """*notice* as JSON, with the message that is delivered."""
    return {
        "number": notice.number,
        "listener": notice.listener,
        "url": notice.url,
        "failures": notice.failures,
        "reason": notice.reason,
        "givenUpAt": None if notice.given_up_at is None else time_text(notice.given_up_at),
        "message": message(notice),
    }


def print_listeners(console: Console, listeners: Sequence[ListenerFigures]) -> None:
    """A line for each."""
    if not listeners:
        console.print("nobody is told of anything")
        return
    rows = [
        [
            cell(listener.name),
            cell(listener.action),
            cell(f"{listener.waiting:,}"),
            cell("" if listener.oldest_at is None else time_text(listener.oldest_at)),
            cell(f"{listener.given_up:,}", "bold red" if listener.given_up else ""),
            cell(time_text(listener.until)),
        ]
        for listener in listeners
    ]
    print_columns(console, [head("LISTENER", "ACTION", "WAITING", "OLDEST", "GIVEN UP", "KEPT UNTIL"), *rows])


def print_deliveries(console: Console, notices: Sequence[Notice], *, more: bool) -> None:
    """A line for each; the reason comes last, since it may be long."""
    if not notices:
        console.print("no delivery was given up")
        return
    rows = [
        [
            cell(notice.number),
            cell("" if notice.given_up_at is None else time_text(notice.given_up_at)),
            cell(notice.listener),
            cell(notice.failures),
            cell(notice.status),
            cell(notice.key.id),
            cell(notice.reason or ""),
        ]
        for notice in notices
    ]
    print_columns(console, [head("ID", "GIVEN UP", "LISTENER", "TRIES", "STATUS", "TASK", "REASON"), *rows])
    if more:
        console.print(f"more: --cursor {notices[-1].number}", soft_wrap=True)


def print_delivery(console: Console, notice: Notice) -> None:
    """Everything about *notice*."""
    rows = {
        "id": notice.number,
        "event": notice.event_id,
        "listener": notice.listener,
        "address": notice.url or "",
        "tries": notice.failures,
        "reason": notice.reason or "",
        "message": json.dumps(message(notice), ensure_ascii=False),
    }
    print_columns(console, [[cell(name, "bold"), cell(value)] for name, value in rows.items()])
