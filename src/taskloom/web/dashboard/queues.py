"""The queues: depths, workers, pauses, dead letters."""

from collections.abc import Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from taskloom.errors import InvalidInput, NotPermitted
from taskloom.operations.queues import MAX_ID, QueueFigures
from taskloom.ports import Pause, PauseScope
from taskloom.web.dashboard.frame import Frame
from taskloom.web.dashboard.overview import worker_rows
from taskloom.web.dashboard.pages import Pages
from taskloom.web.deps import Web

LETTERS: Final = 50


class QueuePage:
    """Shows the queues: all of them to whoever may choose tenants, else the tenant's own."""

    def __init__(self, web: Web, pages: Pages) -> None:
        self._web = web
        self._pages = pages

    async def show(self, request: Request, frame: Frame) -> Response:
        """The page."""
        queues = self._web.module.task_service.queues
        tenant = own_tenant(frame)
        after = _after(request.query_params.get("after"))
        letters = await queues.dead_letters(tenant_code=tenant, after=after, limit=LETTERS + 1)
        shown = letters[:LETTERS]
        more = None
        if len(letters) > LETTERS:
            more = frame.url("/queues", tenant=frame.chosen_tenant, after=shown[-1].id)
        figures = await queues.figures(tenant_code=tenant)
        return self._pages.page(
            request,
            frame,
            "queues",
            ("queues", "letters"),
            figures=figures,
            is_everything=tenant is None,
            workers=worker_rows(await queues.workers(), frame),
            pauses=[pause for pause in await queues.pauses() if tenant is None or _concerns(pause, tenant, figures)],
            letters=shown,
            more_letters=more,
            tenants=sorted({row.tenant_code for row in figures}) if frame.may_choose_tenant else (),
        )


def own_tenant(frame: Frame) -> str | None:
    """The tenant whose queues *frame* may show; None: those of all. Raises: NotPermitted."""
    if frame.may_choose_tenant:
        return None
    if frame.tenant is None:
        raise NotPermitted("the caller has no tenant")
    return frame.tenant


def _concerns(pause: Pause, tenant: str, figures: Sequence[QueueFigures]) -> bool:
    """Whether the *pause* holds up something of *tenant*; the names of others' types are nobody's business (rule 7)."""
    if pause.scope is PauseScope.TENANT:
        return pause.name == tenant
    return any(row.task_type == pause.name for row in figures)


def _after(text: str | None) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= MAX_ID):
        raise InvalidInput("after", f"{text[:40]!r} is no number of a letter", "follow the link")
    return int(text)
