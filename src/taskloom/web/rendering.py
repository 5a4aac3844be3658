"""Answers: tasks and pages as JSON, with their headers."""

import json
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from taskloom.model import TaskEntity, TaskKey
from taskloom.record import to_item

LOOK_AGAIN_SECONDS: Final = 1
"""What `Retry-After` says of a task that has not ended."""

UNSHOWN: Final = ("input", "history", "state", "options", "claimId", "dispatch", "leaseUntil")
"""What changes seldom, or concerns nobody: `GET` the task for it."""


def path_of(request: Request, key: TaskKey) -> str:
    """The address of the task *key*."""
    prefix = request.scope.get("root_path", "").rstrip("/")
    return f"{prefix}/tasks/{quote(key.pk, safe='')}/{quote(key.sk, safe='')}"


def etag_of(task: TaskEntity[Any]) -> str:
    """What changes whenever the task does. The status beside the version: that of a sub-task which nobody has claimed
    follows from its parent."""
    return f'"{task.run}-{task.version}-{task.status.lower()}"'


def task_answer(request: Request, task: TaskEntity[Any], status: int = 200) -> Response:
    """*task* with its headers."""
    headers = {"ETag": etag_of(task), "Cache-Control": "private, no-cache"}
    if not task.is_terminal:
        headers["Retry-After"] = str(LOOK_AGAIN_SECONDS)
    if status == 202:
        headers["Location"] = path_of(request, task.key)
    return JSONResponse(to_item(task), status, headers)


def is_fresh(request: Request, task: TaskEntity[Any]) -> bool:
    """Whether the caller has *task* as it stands, by `If-None-Match`."""
    tags = request.headers.get("if-none-match", "")
    return any(tag.strip().removeprefix("W/") in ("*", etag_of(task)) for tag in tags.split(",") if tag.strip())


def page_answer(items: Sequence[Any], cursor: str | None, **more: Any) -> Response:
    """A page of what is JSON already."""
    return JSONResponse({"items": list(items), "cursor": cursor, **more})


def summary(task: TaskEntity[Any]) -> dict[str, Any]:
    """How *task* stands: its stored form without what is large, and how fast it goes on."""
    item = {name: value for name, value in to_item(task).items() if name not in UNSHOWN}
    if "attributes" in item:
        item["attributes"] = {name: value for name, value in item["attributes"].items() if name != "result"}
    if task.rate is not None:
        item["rate"] = task.rate
    if task.seconds_left is not None:
        item["secondsLeft"] = task.seconds_left
    return item


def compact(value: Any) -> str:
    """*value* as JSON in one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
