"""The Slurm executor: a job array, submitted with submitit and watched through its files."""

from __future__ import annotations

import dataclasses
import math
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from unlearnbench.errors import UserError
from unlearnbench.results.schema import Status
from unlearnbench.running.executors import ENDINGS, Event, Execution, extra
from unlearnbench.running.executors.notes import Notes, run_and_note
from unlearnbench.running.plan import Job

#: Seconds between two looks at the files, and at the states (each asks Slurm).
_LOOK, _ASK = 1.0, 30.0
#: Seconds in which the last words of a job arrive that has ended.
_ARRIVAL = 10.0
#: Jobs of one array (Slurm's own limit is 1001 where nobody has changed it).
_ARRAY = 1000
#: Minutes that a job has beside its time limit, to be started, to load and to be named.
_MARGIN = 15
#: What Slurm calls an end, in a result's words.
_STATES: dict[str, Status] = {"TIMEOUT": "timeout", "OUT_OF_MEMORY": "out_of_memory"}


class Options(BaseModel):
    """What a job of the array asks for. Every other option of sbatch is handed on as it is."""

    model_config = ConfigDict(extra="allow")

    partition: str | None = None
    #: Minutes. Default: `--timeout` and a quarter of an hour.
    time: Annotated[int | None, Field(ge=1)] = None
    gpus: Annotated[int, Field(ge=0)] = 0
    cpus: Annotated[int | None, Field(ge=1)] = None
    #: GiB. Default: `--memory` and a little more, so that its message comes before Slurm's.
    memory: Annotated[float | None, Field(gt=0)] = None
    #: `local`: processes on this machine, all at once, as a rehearsal.
    cluster: Literal["slurm", "local"] = "slurm"


@dataclass
class _Submitted:
    """A job of the array."""

    job: Job
    handle: Any
    notes: Notes
    identity: dict[str, Any] = field(default_factory=dict)
    #: When it was first seen to have ended without saying so.
    gone: float | None = None


def execute(
    jobs: Sequence[Job], how: Execution, options: Options, on_event: Callable[[Event], None]
) -> None:
    """Runs the jobs; see the contract of executors."""
    submitit = extra("submitit", "slurm")
    how = dataclasses.replace(how, out=how.out.absolute())
    (how.out / ".slurm").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=how.out / ".slurm", prefix="run-"))
    running: list[_Submitted] = []
    lost = False

    def listen(event: Event) -> None:
        nonlocal lost
        lost = lost or event.kind == "lost"
        on_event(event)

    try:
        running += _submit(submitit, jobs, how, options, folder)
        asked, every = time.monotonic(), _ASK if options.cluster == "slurm" else _LOOK
        while running:
            time.sleep(_LOOK)
            if ask := time.monotonic() - asked >= every:
                asked = time.monotonic()
                running[0].handle.done(force_check=True)  # learns the states of all
            running = [one for one in running if not _ended(one, ask, listen)]
    finally:
        _cancel(running, options)
    if not lost:  # the logs tell of what was lost
        shutil.rmtree(folder, ignore_errors=True)


def _submit(
    submitit: Any, jobs: Sequence[Job], how: Execution, options: Options, folder: Path
) -> list[_Submitted]:
    minutes = options.time or (how.timeout and math.ceil(how.timeout / 60) + _MARGIN)
    if not minutes:
        raise UserError(
            "Slurm has to know how long a job may take: give --executor-option time=MINUTES, or "
            "--timeout."
        )
    memory = options.memory or (how.memory and how.memory * 1.1 + 0.5)
    submitted: list[_Submitted] = []
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=options.cluster)
        executor.update_parameters(
            name="unlearnbench",
            timeout_min=int(minutes),
            cpus_per_task=options.cpus or max(how.threads, 1) * how.ranks,
            gpus_per_node=options.gpus or None,
            mem_gb=memory,
            slurm_partition=options.partition,
            slurm_array_parallelism=how.workers or len(jobs),
            slurm_additional_parameters=options.model_extra or None,
        )
        for start in range(0, len(jobs), _ARRAY):
            part = jobs[start : start + _ARRAY]
            files = [folder / f"{start + number}.jsonl" for number in range(len(part))]
            with executor.batch():
                handles = [
                    executor.submit(run_and_note, job.model_dump_json(), how, file)
                    for job, file in zip(part, files, strict=True)
                ]
            submitted += map(_Submitted, part, handles, map(Notes, files))
    except (RuntimeError, OSError, submitit.core.utils.FailedSubmissionError) as error:
        _cancel(submitted, options)
        said = str(error).strip().splitlines()[-1]
        raise UserError(f"Slurm does not take the jobs: {said}") from error
    return submitted


def _ended(one: _Submitted, ask: bool, on_event: Callable[[Event], None]) -> bool:
    """Tells what is new of a job; whether it has ended."""
    for kind, fields in one.notes.new():
        one.identity = fields if kind == "identified" else one.identity
        on_event(Event(kind, one.job, fields))
        if kind in ENDINGS:
            return True
    if one.gone is None and ask and one.handle.done():
        one.gone = time.monotonic()
    if one.gone is None or time.monotonic() - one.gone < _ARRIVAL:
        return False
    state = str(one.handle.state).split(" ")[0]
    message = f"Slurm ended it ({state}) and it had not finished."
    status = _STATES.get(state, "failed")
    fields = {"status": status, "message": message, "identity": one.identity}
    on_event(Event("lost", one.job, fields))
    return True


def _cancel(running: Sequence[_Submitted], options: Options) -> None:
    if options.cluster == "slurm":
        arrays = sorted({str(one.handle.job_id).split("_")[0] for one in running})
        if arrays:
            subprocess.run(["scancel", *arrays], capture_output=True, check=False)
        return
    for one in running:
        one.handle.cancel(check=False)
    until = time.monotonic() + _ARRIVAL
    while time.monotonic() < until and not all(one.handle.done() for one in running):
        time.sleep(0.1)
