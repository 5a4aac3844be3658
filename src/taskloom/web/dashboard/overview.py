"""The overview: what ended, what waits, who works."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from taskloom.errors import InvalidInput
from taskloom.model import TaskEntity, TaskKey
from taskloom.ports import WorkerFacts
from taskloom.web.dashboard import chart
from taskloom.web.dashboard.frame import Frame
from taskloom.web.dashboard.listing import Wanted, listed
from taskloom.web.dashboard.pages import Pages
from taskloom.web.dashboard.text import Translate, translator
from taskloom.web.deps import Web

NEWEST: Final = 10
SHOWN: Final = 10
OWN: Final = 300
"""Newest tasks of a tenant that its chart counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """A worker as a page shows it."""

    name: str
    version: str
    started_at: datetime
    concurrency: int
    serves: str
    count: int
    """What it runs."""
    running: Sequence[TaskKey]
    """At most ten of them."""


class Overview:
    """Shows the overview."""

    def __init__(self, web: Web, pages: Pages) -> None:
        self._web = web
        self._pages = pages

    async def show(self, request: Request, frame: Frame) -> Response:
        """The page."""
        service, now = self._web.module.task_service, self._web.backend.clock.now()
        tenant = None if frame.may_choose_tenant else frame.tenant
        figures = (
            [] if tenant is None and not frame.may_choose_tenant else await service.queues.figures(tenant_code=tenant)
        )
        workers = await service.queues.workers()
        newest: Sequence[TaskEntity[Any]] = ()
        if frame.tenant is not None:
            limit = NEWEST if frame.may_choose_tenant else OWN
            newest = (await listed(service, Wanted(tenant=frame.tenant), limit=limit)).tasks
        if frame.may_choose_tenant:
            counts, own = chart.of_throughput(await service.queues.throughput(chart.MINUTES)), None
        else:  # the figures of all tenants are nobody's business
            counts, own = chart.of_tasks(newest), len(newest)
        return self._pages.page(
            request,
            frame,
            "overview",
            ("overview",),
            chart=chart.chart(counts, now),
            chart_size=(chart.WIDTH, chart.HEIGHT),
            chart_left=chart.LEFT,
            own_count=own,
            waiting=sum(row.waiting for row in figures),
            delayed=sum(row.delayed for row in figures),
            in_flight=sum(row.in_flight for row in figures),
            oldest=max((row.oldest_age for row in figures), default=0.0),
            letters=sum(row.dead_letters for row in figures),
            workers=worker_rows(workers, frame),
            worker_count=len(workers),
            newest=newest[:NEWEST],
            tenants=sorted({row.tenant_code for row in figures}),
        )


def worker_rows(workers: Sequence[WorkerFacts], frame: Frame) -> list[WorkerRow]:
    """The workers that live; none for those who see one tenant only, for workers serve all (rule 7)."""
    t = translator(frame.language)
    return [_row(worker, t) for worker in workers] if frame.may_choose_tenant else []


def _row(worker: WorkerFacts, t: Translate) -> WorkerRow:
    return WorkerRow(
        name=worker.name,
        version=worker.version,
        started_at=worker.started_at,
        concurrency=worker.concurrency,
        serves=_serves(worker, t),
        count=len(worker.running),
        running=[key for key in map(_key, worker.running) if key is not None][:SHOWN],
    )


def _serves(worker: WorkerFacts, t: Translate) -> str:
    if worker.tasks is None or worker.fan_outs is None:
        return t("all_types")
    return ", ".join(sorted({*worker.tasks, *worker.fan_outs})) or t("nothing")


def _key(text: str) -> TaskKey | None:
    try:
        return TaskKey.parse(text)
    except InvalidInput:
        return None
