"""What gets lost all the same is found and mended: nothing waits for ever."""

import asyncio
import logging
from collections import Counter
from datetime import timedelta
from typing import Final

from taskloom import lifecycle
from taskloom.errors import StoreError
from taskloom.execution.fan_out import FanOuts
from taskloom.execution.writes import patiently, write
from taskloom.lifecycle import Written
from taskloom.model import Kind, TaskEntity, TaskStatus
from taskloom.ports import Backend, ExecutionStatus
from taskloom.record import time_text
from taskloom.values import Json

DUTY: Final = "reconcile"
EVERY: Final = timedelta(seconds=60)
BATCH: Final = 100

log = logging.getLogger(__name__)


class Reconciler:
    """Looks once a minute, in one worker of all, for open tasks that nothing would ever bring back."""

    def __init__(self, backend: Backend, fan_outs: FanOuts, by: str) -> None:
        self._backend = backend
        self._fan_outs = fan_outs
        self._by = by

    async def run(self, stopping: asyncio.Event) -> None:
        """Look again and again, until *stopping*."""
        clock = self._backend.clock
        while not await clock.wait(stopping, clock.now() + EVERY):
            try:
                await self.look()
            except StoreError as error:
                log.warning("the reconciler could not look; it will again", extra={"error": str(error)})

    async def look(self) -> bool:
        """Mend what there is to mend; whether it was this worker's turn. Raises: StoreError."""
        now = self._backend.clock.now()
        if not await self._backend.admin.take_duty(DUTY, now, now + EVERY):
            return False
        done: Counter[str] = Counter()
        for task in await self._backend.store.list_stranded(BATCH):
            if lifecycle.may_be_repaired(task, now):
                what = await self._mend(task)
                done[what] += 1
                log.warning("a task was repaired", extra={"task": task.id, "done": what})
        facts: dict[str, Json] = {"at": time_text(now), "by": self._by, "repaired": {**done}}
        await self._backend.admin.report_duty(DUTY, facts)
        return True

    async def _mend(self, task: TaskEntity) -> str:
        if task.kind is Kind.SFN_TASK and task.status is TaskStatus.IN_PROGRESS:
            return await self._carry_on(task)
        return "dispatched" if await self._note(task, "it had no message") else "nothing"

    async def _carry_on(self, parent: TaskEntity) -> str:
        """Rule 3: the execution itself is asked."""
        machine = self._backend.machine
        execution = await machine.describe(parent.execution_arn or "")
        if execution is None or execution.status is ExecutionStatus.PENDING:
            if not self._fan_outs.serves(parent):
                return "nothing"
            await self._note(parent, "its execution was not started")
            await self._fan_outs.begin(parent)
            return "started"
        if execution.status is ExecutionStatus.RUNNING:
            if not await patiently(self._backend.clock, lambda: machine.revive(parent.key, parent.run)):
                return "nothing"
            await self._note(parent, "its execution stood still")
            return "revived"
        await self._note(parent, "its execution had ended")
        await self._fan_outs.begin(parent)
        return "finished"

    async def _note(self, task: TaskEntity, reason: str) -> bool:
        token = self._backend.ids.token
        change = lifecycle.repaired(
            task, reason, now=self._backend.clock.now(), by=self._by, dispatch=token(), claim_id=token()
        )
        return isinstance(await write(self._backend, change), Written)
