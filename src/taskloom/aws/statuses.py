"""What subscribers of the topics are told: the original's fields, and an id that is the same for each repeat."""

from typing import Any, Final

from taskloom.model import TaskEntity, TaskStatus
from taskloom.record import to_item
from taskloom.values import Json

TASK_STATUS: Final = "task-status"
ALARM: Final = "sfn-alarm"


def status_message(task: TaskEntity[Any], table: str) -> dict[str, Json]:
    """How *task* ended, without the traceback of an error, which is not for outsiders."""
    attributes = dict(to_item(task).get("attributes") or {})
    if "error" in attributes:
        attributes["error"] = {name: value for name, value in attributes["error"].items() if name != "traceback"}
    return _message(TASK_STATUS, task, table, {"status": str(task.status), "attributes": attributes})


def alarm_message(task: TaskEntity[Any], table: str) -> dict[str, Json] | None:
    """That a fan-out FAILED, and why; None for any other end."""
    if task.status is not TaskStatus.FAILED:
        return None
    message = task.error.message if task.error is not None else "(no message was stored)"
    return _message(ALARM, task, table, {"errorMessage": message})


def _message(action: str, task: TaskEntity[Any], table: str, content: dict[str, Json]) -> dict[str, Json]:
    return {
        "action": action,
        "pk": task.pk,
        "sk": task.sk,
        "table": table,
        "id": task.id,
        "tenantCode": task.tenant_code,
        "content": content,
        "eventId": f"{task.id}#{task.version}" + ("#alarm" if action == ALARM else ""),
        "run": task.run,
    }
