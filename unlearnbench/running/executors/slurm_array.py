"""A job array: submitted, read from its files, and left behind."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlearnbench.errors import UserError
from unlearnbench.results.schema import Status
from unlearnbench.running.executors import ENDINGS, Event, Execution
from unlearnbench.running.executors.notes import Notes, run_and_note
from unlearnbench.running.plan import Job

#: Jobs of one array (Slurm's own limit is 1001 where nobody has changed it); more make several.
_ARRAY = 1000
#: Seconds in which the last notes of a job arrive that has ended.
_ARRIVAL = 10.0
#: What Slurm calls an end, in a result's words.
_STATES: dict[str, Status] = {"TIMEOUT": "timeout", "OUT_OF_MEMORY": "out_of_memory"}


@dataclass
class _Submitted:
    """A job of the array. `end`: one of `ENDINGS`, once it has been told of."""

    job: Job
    handle: Any
    notes: Notes
    identity: dict[str, Any] = field(default_factory=dict)
    end: str | None = None
    begun: bool = False
    #: When it was first seen to have ended without saying so.
    gone: float | None = None

    def news(self, ask: bool) -> Iterator[Event]:
        for kind, fields in self.notes.new():
            self.begun = True
            self.identity = fields if kind == "identified" else self.identity
            self.end = kind if kind in ENDINGS else None
            yield Event(kind, self.job, fields)
        if self.end is None and self.gone is None and ask and self.handle.done():
            self.gone = time.monotonic()
        if self.end is None and self.gone and time.monotonic() - self.gone >= _ARRIVAL:
            state = str(self.handle.state).split(" ")[0]
            status = _STATES.get(state, "failed")
            message = f"Slurm ended it ({state}), and it had not finished."
            self.end = "lost"
            fields = {"status": status, "message": message, "identity": self.identity}
            yield Event("lost", self.job, fields)


class Array:
    """The jobs of a run in one array of Slurm's, or in several where there are very many.

    Args:
        submitit: the library.
        cluster: what submitit is to submit to.
        folder: for what submitit writes and the notes of the jobs; every machine sees it.
    """

    def __init__(self, submitit: Any, cluster: str, folder: Path) -> None:
        self._submitit, self._cluster, self._folder = submitit, cluster, folder
        #: As Slurm knows the arrays of this run, and of no other.
        self._name = f"unlearnbench-{folder.name}"
        self._jobs: list[_Submitted] = []

    @property
    def running(self) -> list[_Submitted]:
        """The jobs that have not ended."""
        return [one for one in self._jobs if one.end is None]

    @property
    def lost(self) -> bool:
        """Whether the worker or the machine of a job has died."""
        return any(one.end == "lost" for one in self._jobs)

    def submit(self, jobs: Sequence[Job], how: Execution, asked: Mapping[str, Any]) -> None:
        """Submits the jobs, each of which asks for as much.

        Raises:
            UserError: this is no Slurm cluster, or it refuses them.
        """
        try:
            executor = self._submitit.AutoExecutor(folder=self._folder, cluster=self._cluster)
            executor.update_parameters(name=self._name, **asked)
            for start in range(0, len(jobs), _ARRAY):
                part = jobs[start : start + _ARRAY]
                files = [self._folder / f"{start + n}.jsonl" for n in range(len(part))]
                with executor.batch():
                    handles = [
                        executor.submit(run_and_note, job.model_dump_json(), how, file)
                        for job, file in zip(part, files, strict=True)
                    ]
                self._jobs += map(_Submitted, part, handles, map(Notes, files))
        except (RuntimeError, OSError, self._submitit.core.utils.FailedSubmissionError) as error:
            said = str(error).strip().rpartition("\n")[2] or type(error).__name__
            raise UserError(f"Slurm does not take the jobs: {said}") from error

    def news(self, ask: bool) -> Iterator[Event]:
        """What has happened since. `ask`: Slurm is asked too what has ended, once for all."""
        running = self.running
        if ask and running:
            running[0].handle.done(force_check=True)
        for one in running:
            yield from one.news(ask)

    def give_out_no_more(self) -> None:
        """Cancels what has not begun; what runs may still find room."""
        waiting = [one for one in self.running if not one.begun]
        self._jobs = [one for one in self._jobs if one not in waiting]
        self._cancel(waiting)

    def _cancel(self, jobs: Sequence[_Submitted]) -> None:
        if self._cluster == "local":
            for one in jobs:
                one.handle.cancel(check=False)
        elif jobs:
            self._scancel(*sorted(str(one.handle.job_id) for one in jobs))

    def _scancel(self, *what: str) -> None:
        with suppress(OSError):  # no Slurm here
            # A second Ctrl-C is for this process and its group, not for what clears up.
            subprocess.run(
                ["scancel", *what], capture_output=True, check=False, start_new_session=True
            )

    def leave(self) -> None:
        """Cancels what has not ended, and waits a little for the files of what has."""
        if self._cluster == "local":
            self._cancel(self.running)
        elif self.running or not self._jobs:  # an array may be there that nobody has told of yet
            self._scancel(f"--name={self._name}")
        until = time.monotonic() + _ARRIVAL
        awaited = [one for one in self._jobs if one.end or self._cluster == "local"]
        while time.monotonic() < until and not all(one.handle.done() for one in awaited):
            time.sleep(0.2)
