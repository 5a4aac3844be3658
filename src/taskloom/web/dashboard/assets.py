"""Styles, scripts and pictures: those in the folder `static`, and no others."""

from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from taskloom.web.dashboard.pages import HEADERS

TYPES: Final[Mapping[str, str]] = {
    "dashboard.css": "text/css",
    "dashboard.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "vendor/htmx.min.js": "text/javascript",
    "vendor/htmx.LICENSE.txt": "text/plain",
}


async def asset(request: Request) -> Response:
    """The file; nothing when the browser has it already."""
    name = request.path_params["name"]
    if name not in TYPES:
        raise HTTPException(404)
    content, tag = _content(name)
    headers = {**HEADERS, "Cache-Control": "no-cache", "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=TYPES[name], headers=headers)


@cache
def _content(name: str) -> tuple[bytes, str]:
    content = files("taskloom.web.dashboard").joinpath("static", *name.split("/")).read_bytes()
    return content, f'"{sha256(content).hexdigest()[:20]}"'
