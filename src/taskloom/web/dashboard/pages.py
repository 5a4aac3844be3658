"""Turning what a page knows into HTML, whole or in parts, with the headers that keep foreign code out."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache, partial
from hashlib import sha256
from typing import Any, Final, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from taskloom.record import time_text
from taskloom.web.dashboard import forgery
from taskloom.web.dashboard.durations import duration
from taskloom.web.dashboard.frame import Frame
from taskloom.web.dashboard.text import LANGUAGES, translator
from taskloom.web.deps import Web

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer: no code, style or picture from elsewhere or from within the page; nothing is kept."""


class Pages:
    """Renders the pages of one application."""

    def __init__(self, web: Web) -> None:
        self._web = web

    def page(
        self,
        request: Request,
        frame: Frame,
        template: str,
        regions: Sequence[str] = (),
        *,
        status: int = 200,
        **values: Any,
    ) -> Response:
        """The page *template*; of a page that is on the screen already, the region `part` alone, or nothing when it is
        the same as before (`seen`). *regions* are those that are asked for again and again."""
        context = self._context(request, frame, values)
        part = request.query_params.get("part")
        if part is not None and part in regions:
            html, digest = self._region(part, context)
            if digest == request.query_params.get("seen"):
                return Response(status_code=204, headers=HEADERS)
            return HTMLResponse(_live(frame, part, html, digest), headers=HEADERS)
        context["region"] = lambda name: _live(frame, name, *self._region(name, context))
        response = HTMLResponse(_environment().get_template(f"{template}.html").render(context), status, HEADERS)
        forgery.keep(request, response)
        return response

    def _region(self, name: str, context: Mapping[str, Any]) -> tuple[str, str]:
        html = _environment().get_template(f"parts/{name}.html").render(context)
        return html, sha256(html.encode()).hexdigest()[:16]

    def _context(self, request: Request, frame: Frame, values: Mapping[str, Any]) -> dict[str, Any]:
        t = translator(frame.language)
        token = forgery.token(request, self._web.signer)
        context = {
            "frame": frame,
            "t": t,
            "url": frame.url,
            "task_url": frame.task_url,
            "languages": LANGUAGES,
            "now": self._web.backend.clock.now(),
            "time": time_tag,
            "duration": partial(duration, t=t),
            "number": number,
            "json": partial(json.dumps, ensure_ascii=False),
            "forgery": lambda: Markup('<input type="hidden" name="{}" value="{}">').format(forgery.FIELD, token),
            "notices": notices(request, frame),
            "tenants": (),
            "events": None,
        }
        return context | dict(values)


def notices(request: Request, frame: Frame) -> list[str]:
    """What was just done, as the address says."""
    t, query = translator(frame.language), request.query_params
    done, count, left = query.get("done"), query.get("count", ""), query.get("left", "")
    if done not in DONE:
        return []
    said = [t(f"done.{done}", count=int(count) if count.isdecimal() and len(count) < 9 else 0)]
    if left.isdecimal() and len(left) < 9 and int(left):
        said.append(t("done.failed", count=int(left)))
    return said


DONE: Final = ("cancel", "retry", "pause", "resume", "redrive")


def time_tag(at: datetime, form: Literal["full", "clock"] = "full") -> Markup:
    """The instant *at* for people: UTC, which the browser turns into its own zone; UTC stays as the hover text."""
    text = time_text(at)
    utc = text.replace("T", " ").replace("Z", "")
    short = utc[11:19] if form == "clock" else utc[:19]
    return Markup('<time datetime="{}" title="{} UTC" data-form="{}">{}</time>').format(text, utc, form, short)


def number(value: float) -> str:
    """*value* for people: `1,234`, `0.25`."""
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:,.3g}"


def _live(frame: Frame, name: str, html: str, digest: str) -> Markup:
    """A region that asks for itself when it gets the event `refresh`."""
    joint = "&" if "?" in frame.here else "?"
    return Markup(
        '<div id="region-{name}" data-region hx-get="{here}{joint}part={name}&seen={digest}" hx-trigger="refresh" '
        'hx-swap="outerHTML">{html}</div>'
    ).format(name=name, here=frame.here, joint=joint, digest=digest, html=Markup(html))  # noqa: S704 - escaped when it was rendered


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("taskloom.web.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
