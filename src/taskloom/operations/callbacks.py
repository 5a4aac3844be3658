"""Answering the callbacks for which tasks wait."""

from dataclasses import replace
from typing import Any, Final

from taskloom import lifecycle
from taskloom.errors import InvalidInput, InvalidType, TaskTokenNotFound, TaskTokenUsed
from taskloom.execution.saving import stored
from taskloom.execution.writes import patiently
from taskloom.lifecycle import Change, Written
from taskloom.model import Kind, TaskEntity
from taskloom.ports import Answer, Backend, Step
from taskloom.values import EncodedJson, check_text, encode

MAX_ERROR: Final = 2000
"""Characters."""


class Callbacks:
    """Hands answers to tasks."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def resume(self, token: str, output: object, *, tenant_code: str | None = None) -> None:
        """See `TaskService.resume`."""
        await self._answer(token, Answer.RESUMED, encode(output, "output"), tenant_code)

    async def fail(self, token: str, error: str, *, tenant_code: str | None = None) -> None:
        """See `TaskService.fail`."""
        if not isinstance(error, str):
            raise InvalidType("error", f"{error!r} is no string", "say in words what is wrong")
        if not 0 < len(error) <= MAX_ERROR:
            raise InvalidInput("error", f"has {len(error)} characters", f"give 1 to {MAX_ERROR}")
        check_text(error, "error")
        await self._answer(token, Answer.FAILED, encode(error, "error"), tenant_code)

    async def _answer(self, token: str, answer: Answer, text: EncodedJson, tenant_code: str | None) -> None:
        if not isinstance(token, str):
            raise InvalidType("task_token", f"{token!r} is no string", "give what event.callback returned")
        backend, write_id = self._backend, self._backend.ids.token()
        while True:
            step = await patiently(backend.clock, lambda: backend.steps.find(token))
            if step is None or tenant_code not in (None, step.key.tenant_code):  # rule 7
                raise TaskTokenNotFound("nobody waits for this task token (any more)")
            if step.write_id == write_id:  # carried out, though the reply was lost
                return
            now = backend.clock.now()
            if step.answer is not None:
                raise TaskTokenUsed(f"this task token was used before: {step.answer}")
            if step.until is not None and step.until <= now:
                raise TaskTokenUsed("the time in which this task token could be used is over")
            task = await self._waiting(step)
            chunk = await self._chunk(task, step)
            fresh = replace(step, version=step.version + 1, write_id=write_id, answer=answer, result=text)
            fresh = await stored(backend, fresh, "answer")
            token_ = backend.ids.token
            change = lifecycle.answered(task, step.name, now=now, by=None, dispatch=token_(), claim_id=token_())
            if await self._put(fresh, change, chunk):
                return

    async def _put(self, step: Step, change: Change, chunk: int | None) -> bool:
        steps = self._backend.steps
        outcome = await patiently(self._backend.clock, lambda: steps.put(step, change, chunk=chunk))
        return isinstance(outcome, Written)  # else the task went on meanwhile: look again

    async def _waiting(self, step: Step) -> TaskEntity[Any]:
        """The task that waits. Raises: TaskTokenNotFound when it does not any more."""
        task = await self._backend.store.get(step.key)
        if task is None or task.is_terminal or task.run != step.run:
            raise TaskTokenNotFound("nobody waits for this task token any more: its task has ended, or began anew")
        return task

    async def _chunk(self, task: TaskEntity[Any], step: Step) -> int | None:
        """The chunk of a sub-task that is to go on."""
        if task.kind is not Kind.SUB_TASK:
            return None
        parent = await self._backend.store.get(task.key.parent)
        is_over = parent is None or parent.is_terminal or parent.cancel_requested is not None
        if parent is None or is_over or parent.run != step.run:
            raise TaskTokenNotFound("nobody waits for this task token any more: its fan-out ends, or began anew")
        if parent.fan_out is None or task.index is None or not lifecycle.waits_for(task, step.name):
            return None
        return task.index // parent.fan_out.chunk_size
