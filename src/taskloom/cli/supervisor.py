"""Several worker processes under one: it restarts what dies, forwards signals, and drains."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from taskloom.cli.working import Options
from taskloom.clock import SystemClock

FIRST_PAUSE: Final = timedelta(milliseconds=500)
LONGEST_PAUSE: Final = timedelta(seconds=30)
STEADY: Final = timedelta(seconds=10)
"""A process that lived so long was well: the next restart is at once again."""
MARGIN: Final = timedelta(seconds=10)
"""What a process has to give back its tasks when its grace time is over."""
MAX_PROCESSES: Final = 256
FINAL_CODES: Final = frozenset({2})
"""Exit codes that a restart would only repeat: the command is wrong."""

log = logging.getLogger(__name__)


class Supervisor:
    """Runs *command* in *count* processes until it gets SIGTERM or SIGINT.

    A process that ends by itself is started again, at once or after a growing pause when it hardly lived. At the end
    each gets SIGTERM and *grace* to finish; a second signal to the supervisor kills them. Should the supervisor itself
    be killed, its processes see the pipe close whose number follows the command as `--until-closed`, and stop.
    """

    def __init__(self, command: Sequence[str], count: int, *, grace: timedelta) -> None:
        self._command = command
        self._count = count
        self._grace = grace
        self._clock = SystemClock()
        self._running: set[asyncio.subprocess.Process] = set()
        self._stopping = asyncio.Event()
        self._code = 0

    async def run(self) -> int:
        """Work until a signal comes; the exit code: 0, or that of a process which was killed or could not start."""
        loop = asyncio.get_running_loop()
        for stop in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(stop, self._signalled)
        reading, writing = os.pipe()
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._count):
                    group.create_task(self._keep(number + 1, reading))
        finally:
            os.close(reading)
            os.close(writing)
            for stop in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(stop)
        return self._code

    def _signalled(self) -> None:
        again = self._stopping.is_set()
        self._stopping.set()
        for process in self._running:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL if again else signal.SIGTERM)

    async def _keep(self, number: int, reading: int) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            started = self._clock.now()
            process = await asyncio.create_subprocess_exec(
                *self._command,
                "--until-closed",
                str(reading),
                pass_fds=(reading,),
                # In a group of its own: a Ctrl-C at the terminal comes to the supervisor alone, which forwards it once.
                start_new_session=True,
            )
            self._running.add(process)
            if self._stopping.is_set():  # the signal came while it started
                process.terminate()
            code = await self._wait(process)
            self._running.discard(process)
            if self._stopping.is_set():
                if code != -signal.SIGTERM:  # so ends one that had not come so far as to handle the signal
                    self._code = self._code or _exit_code(code)
                return
            if code in FINAL_CODES:
                self._code = code
                self._signalled()
                return
            pause = FIRST_PAUSE if self._clock.now() - started > STEADY else min(pause * 2, LONGEST_PAUSE)
            log.warning("worker process %d ended with %d; starting it again", number, code)
            await self._clock.wait(self._stopping, self._clock.now() + pause)

    async def _wait(self, process: asyncio.subprocess.Process) -> int:
        ended = asyncio.create_task(process.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([ended, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await asyncio.wait([ended], timeout=(self._grace + MARGIN).total_seconds())
            if not ended.done():
                log.error("worker process %d does not end; killing it", process.pid)
                process.kill()
            return await ended
        finally:
            stopping.cancel()


def _exit_code(returned: int) -> int:
    """What a shell would say: 128 + the signal for a process that was killed."""
    return returned if returned >= 0 else 128 - returned


def worker_command(application: str, options: Options, log_level: str) -> list[str]:
    """The command that runs one worker of *application* in this Python."""
    command = [sys.executable, "-m", "taskloom.cli", "worker", application, "--concurrency", str(options.concurrency)]
    command += ["--log-level", log_level]
    if options.grace is not None:
        command += ["--grace", str(options.grace)]
    for task_type in options.task_types or ():
        command += ["--task-type", task_type]
    return command
