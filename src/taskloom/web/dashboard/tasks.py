"""The list of tasks, filtered."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from starlette.requests import Request
from starlette.responses import Response

from taskloom import model
from taskloom.errors import InvalidInput
from taskloom.model import TaskStatus
from taskloom.operations.checks import one_of, status_of
from taskloom.service import TopKind
from taskloom.web.dashboard.frame import TENANT_COOKIE, Frame, remember
from taskloom.web.dashboard.listing import KINDS, Listed, Wanted, listed
from taskloom.web.dashboard.pages import Pages
from taskloom.web.deps import Web


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The filter, as it stands in the address."""

    kind: str = ""
    status: str = ""
    task_type: str = ""
    text: str = ""
    since: str = ""
    until: str = ""
    before: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Asked":
        """That of an address."""
        return cls(**{name: query[name].strip() for name in cls.__slots__ if name in query})

    def wanted(self, tenant: str) -> Wanted:
        """What to list. Raises: InvalidInput."""
        return Wanted(
            tenant=tenant,
            kind=cast(TopKind, one_of(self.kind, "kind", KINDS)) if self.kind else None,
            status=status_of(self.status) if self.status else None,
            task_type=model.task_type(self.task_type) if self.task_type else None,
            text=self.text,
            since=_instant(self.since, "since"),
            until=_instant(self.until, "until"),
            before=self.before or None,
        )


class TaskList:
    """Shows lists of tasks."""

    def __init__(self, web: Web, pages: Pages) -> None:
        self._web = web
        self._pages = pages

    async def show(self, request: Request, frame: Frame) -> Response:
        """The page."""
        asked, service = Asked.of(request.query_params), self._web.module.task_service
        found, tenants = Listed(tasks=(), before=None), list[str]()
        if frame.tenant is not None:
            found = await listed(service, asked.wanted(frame.tenant))
        if frame.may_choose_tenant and frame.tenant is None:
            tenants = sorted({row.tenant_code for row in await service.queues.figures()})

        def page_url(before: str | None) -> str:
            query = {name: getattr(asked, name) for name in Asked.__slots__} | {"before": before}
            return frame.url("/tasks", tenant=frame.chosen_tenant, **query)

        response = self._pages.page(
            request,
            frame,
            "tasks",
            ("tasks",),
            asked=asked,
            found=found,
            page_url=page_url,
            statuses=list(TaskStatus),
            tenants=tenants,
        )
        if frame.chosen_tenant is not None and request.query_params.get("tenant"):
            remember(response, request, {TENANT_COOKIE: frame.chosen_tenant})
        return response


def _instant(text: str, field: str) -> datetime | None:
    """UTC, as a form sends it: `2026-05-01T12:00`. Raises: InvalidInput."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput(field, f"{text[:40]!r} is no time", "give one like 2026-05-01T12:00") from None
    if not 1970 <= at.year < 9999:
        raise InvalidInput(field, f"{text[:40]!r} is too far away", "give one from 1970 on")
    return at
