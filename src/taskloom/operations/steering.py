"""Cancelling tasks, and running them again."""

from typing import Any

from taskloom import lifecycle
from taskloom.errors import InvalidInput, TaskEnded, TaskOpen
from taskloom.execution.writes import write
from taskloom.lifecycle import Refused, Written
from taskloom.model import Kind, TaskEntity, TaskKey, TaskStatus
from taskloom.operations.checks import short
from taskloom.operations.finding import Finding
from taskloom.ports import Backend


class Steering:
    """What an operator does with tasks."""

    def __init__(self, backend: Backend, finding: Finding) -> None:
        self._backend = backend
        self._finding = finding

    async def cancel(self, key: TaskKey, *, reason: str | None, by: str | None) -> TaskEntity[Any]:
        """See `TaskService.cancel_task`."""
        short(reason, "reason")
        short(by, "by")
        task = await self._top_level(key)
        while not task.is_terminal:
            now, running = self._backend.clock.now(), task.status is TaskStatus.IN_PROGRESS
            if task.kind is Kind.SFN_TASK and running:
                if task.cancel_requested is None:
                    change = lifecycle.cancel_requested(task, reason=reason, by=by, now=now)
                    outcome = await write(self._backend, change)
                    if isinstance(outcome, Refused):
                        task = await self._top_level(key)
                        continue
                    task = outcome.entity or task
                await self._backend.machine.hurry(key, task.run)
                return task
            change = lifecycle.cancelled(task, reason=reason, by=by, now=now, claim_id=self._backend.ids.token())
            if isinstance(await write(self._backend, change), Written):
                return await self._finding.whole(key)
            task = await self._top_level(key)
        raise TaskEnded(key, task.status)

    async def retry(self, key: TaskKey, *, only_failed: bool, reason: str | None, by: str | None) -> TaskEntity[Any]:
        """See `TaskService.retry_task`."""
        short(reason, "reason")
        short(by, "by")
        while True:
            task = await self._top_level(key)
            if not task.is_terminal:
                raise TaskOpen(key, task.status)
            if task.status is TaskStatus.COMPLETED and only_failed and not task.attributes.sub_task_failed_count:
                raise InvalidInput("key", f"{key} is COMPLETED, nothing of it failed", "pass only_failed=False")
            arn = None
            if task.kind is Kind.SFN_TASK:
                arn = self._backend.machine.arn(f"{task.code}-{task.run + 1}")
            change = lifecycle.retried(
                task,
                only_failed=only_failed,
                execution_arn=arn,
                reason=reason,
                by=by,
                now=self._backend.clock.now(),
                dispatch=self._backend.ids.token(),
                claim_id=self._backend.ids.token(),
            )
            if isinstance(await write(self._backend, change), Written):
                return await self._finding.whole(key)

    async def _top_level(self, key: TaskKey) -> TaskEntity[Any]:
        task = await self._finding.stored(key)
        if task.kind is Kind.SUB_TASK:
            raise InvalidInput("key", f"{key} is a sub-task", "give the key of its fan-out: key.parent")
        return task
