"""The time and the memory that a job may take, and the end of a process that takes more."""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress

import psutil

from unlearnbench.memory import family, in_memory
from unlearnbench.results.schema import Status
from unlearnbench.running.executors import Execution

#: Seconds between two looks at the memory.
_WEIGHING = 0.5


class Limits:
    """Looks whether the job that a process runs has gone over a limit.

    The clock runs from when the job has been named: loading torch and naming are not its time. It
    stands still while the job waits for what another process makes, for as long as the limit in
    all: a process that is stopped holds nobody up for ever.

    Args:
        how: the limits.
        process: runs the job.
    """

    def __init__(self, how: Execution, process: subprocess.Popen[str]) -> None:
        self._how, self._process = how, process
        self._left = self._patience = how.timeout or 0.0
        self._since: float | None = None  # when the clock was started
        self._waits_since: float | None = None
        self._weighed = float("-inf")

    def start(self) -> None:
        """Lets the clock run, on from where it was stopped."""
        if not self._how.timeout:
            return
        now = time.monotonic()
        if self._waits_since is not None:
            self._patience -= now - self._waits_since
            self._waits_since = None
        self._since = now

    def stop(self) -> None:
        """Stops the clock, where it runs: the job waits for another process."""
        if self._since is not None:
            self._waits_since = time.monotonic()
            self._left -= self._waits_since - self._since
            self._since = None

    def exceeded(self) -> tuple[Status, str] | None:
        """What to record of the job, if it is over a limit."""
        now = time.monotonic()
        if self._since is not None and now - self._since > self._left:
            return "timeout", "the time limit was reached."
        if self._waits_since is not None and now - self._waits_since > self._patience:
            return "timeout", "it waited for another process for as long as the time limit."
        if self._how.memory is None or now < self._weighed + _WEIGHING:
            return None
        self._weighed = now
        return _too_large(self._process.pid, self._how.memory)


def kill(process: subprocess.Popen[str]) -> None:
    """Kills a process, and all that it has started."""
    started = family(process.pid)[1:]
    process.kill()
    for member in started:
        with suppress(psutil.Error):
            member.kill()


def _too_large(pid: int, limit: float) -> tuple[Status, str] | None:
    """What is wrong where the process and its children have more than `limit` GiB in memory."""
    used = in_memory(family(pid))
    if used <= limit * 2**30:
        return None
    return "out_of_memory", (
        f"the job's processes had {used / 2**30:.2f} GiB in memory, and the limit is {limit:g} GiB."
    )
