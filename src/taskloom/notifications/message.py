"""What listeners are told."""

from typing import Any, Final

from taskloom.ports import Notice
from taskloom.record import attributes_item, time_text
from taskloom.webhooks import ALARM_ACTION

TABLE: Final = "tasks"
"""As the table of tasks is called in notifications, on every backend."""


def message(notice: Notice) -> dict[str, Any]:
    """*notice* as it is published: JSON values only. Without the traceback of an error, which is not for outsiders."""
    key = notice.key
    attributes = attributes_item(notice.attributes)
    attributes.get("error", {}).pop("traceback", None)
    content: dict[str, Any] = {"status": str(notice.status), "attributes": attributes}
    if notice.action == ALARM_ACTION:
        error = notice.attributes.error
        content = {"errorMessage": error.message if error is not None else "(no message was stored)"}
    return {
        "action": notice.action,
        "pk": key.pk,
        "sk": key.sk,
        "table": TABLE,
        "id": key.id,
        "tenantCode": key.tenant_code,
        "content": content,
        "eventId": notice.event_id,
        "type": notice.task_type,
        "version": notice.version,
        "run": notice.run,
        "attempt": notice.attempt,
        "at": time_text(notice.at),
    }
