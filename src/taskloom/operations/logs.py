"""Reading what handlers logged, and following it."""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from typing import Final

from taskloom.model import LogLine, Page, TaskKey
from taskloom.operations import cursors
from taskloom.operations.finding import LOOK_ANYWAY, MAX_PAGE, Finding
from taskloom.policy import whole_number
from taskloom.ports import Backend, LogPosition

_END: Final = 2**63
"""Above every number of a position."""


class Logs:
    """Reads the log lines of tasks."""

    def __init__(self, backend: Backend, finding: Finding) -> None:
        self._backend = backend
        self._finding = finding

    async def page(self, key: TaskKey, *, after: str | None, limit: int) -> Page[LogLine]:
        """See `TaskService.logs`."""
        position = None if after is None else LogPosition(*cursors.numbers(after, len(LogPosition._fields), _END))
        whole_number(limit, "limit", low=1, high=MAX_PAGE)
        await self._finding.stored(key)  # rule 7: through the task, which only its own tenant finds
        lines, position = await self._read(key, position, limit)
        return Page(items=lines, cursor=None if position is None else cursors.of(position))

    async def follow(self, key: TaskKey) -> AsyncIterator[LogLine]:
        """See `TaskService.follow_logs`."""
        await self._finding.stored(key)  # says what is wrong with the key
        position: LogPosition | None = None
        with self._finding.changes(key) as changed:
            while True:
                changed.clear()
                ended = (await self._finding.stored(key)).is_terminal  # before its lines: they are written by then
                while True:
                    lines, position = await self._read(key, position, MAX_PAGE)
                    if not lines:
                        break
                    for line in lines:
                        yield line
                if ended:
                    return
                await self._backend.clock.wait(changed, self._backend.clock.now() + LOOK_ANYWAY)

    async def _read(
        self, key: TaskKey, after: LogPosition | None, limit: int
    ) -> tuple[Sequence[LogLine], LogPosition | None]:
        """The next lines, and the position to go on behind."""
        found = await self._backend.logs.read(key, after, limit)
        return list(_counted(found, after)), found[-1][0] if found else after


def _counted(found: Sequence[tuple[LogPosition, LogLine]], before: LogPosition | None) -> Iterator[LogLine]:
    """The lines, each with the number of those that are missing before it."""
    for position, line in found:
        same = before is not None and (before.run, before.fence) == (position.run, position.fence)
        dropped = position.number - (before.number + 1 if same and before is not None else 0)
        yield replace(line, dropped=dropped) if dropped else line
        before = position
