"""Tasks whose deadline has passed are ended, whether a worker ever took them or not."""

import logging
from typing import Final

from taskloom import lifecycle
from taskloom.execution.writes import write
from taskloom.model import Kind, TaskEntity, TaskStatus
from taskloom.ports import Backend

BATCH: Final = 100

log = logging.getLogger(__name__)


class Deadlines:
    """Ends overdue tasks, of whatever type: it takes no handler."""

    def __init__(self, backend: Backend, by: str) -> None:
        self._backend = backend
        self._by = by

    async def end_overdue(self) -> bool:
        """End what is overdue; whether there may be more. Raises: StoreError."""
        tasks = await self._backend.store.list_overdue(BATCH)
        for task in tasks:
            log.info("the deadline of a task has passed", extra={"task": task.id})
            if task.kind is Kind.SFN_TASK and task.status is TaskStatus.IN_PROGRESS:
                await self._stop(task)
                continue
            now, claim_id = self._backend.clock.now(), self._backend.ids.token()
            await write(self._backend, lifecycle.overdue(task, now=now, by=self._by, claim_id=claim_id))
        return len(tasks) == BATCH

    async def _stop(self, parent: TaskEntity) -> None:
        """Its execution ends it (rule 3)."""
        reason = lifecycle.too_late(parent)
        now = self._backend.clock.now()
        await write(self._backend, lifecycle.cancel_requested(parent, reason=reason, by=self._by, now=now))
        await self._backend.machine.hurry(parent.key, parent.run)
