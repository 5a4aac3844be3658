"""What subscribers of the topics are told of the end of a task: the same as listeners of the embedded engine."""

from typing import Any

from taskloom.model import TaskEntity, TaskStatus
from taskloom.notifications.message import message
from taskloom.ports import Notice
from taskloom.values import Json
from taskloom.webhooks import ALARM_ACTION, STATUS_ACTION


def status_message(task: TaskEntity[Any]) -> dict[str, Json]:
    """How *task* ended, without the traceback of an error, which is not for outsiders."""
    return message(_notice(task, STATUS_ACTION))


def alarm_message(task: TaskEntity[Any]) -> dict[str, Json] | None:
    """That the task FAILED, and why; None for any other end."""
    return message(_notice(task, ALARM_ACTION)) if task.status is TaskStatus.FAILED else None


def _notice(task: TaskEntity[Any], action: str) -> Notice:
    return Notice(
        number=0,
        taken=1,
        listener="",
        action=action,
        key=task.key,
        task_type=task.task_type,
        at=task.finished_at or task.updated_at,
        status=task.status,
        run=task.run,
        attempt=task.attempt,
        version=task.version,
        attributes=task.attributes,
        url=None,
        failures=0,
        reason=None,
        given_up_at=None,
    )
