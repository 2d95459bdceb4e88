"""The Slurm executor: a job array, submitted with submitit and watched through its files."""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from unlearnbench.errors import UserError
from unlearnbench.running.executors import Event, Execution, extra
from unlearnbench.running.executors.slurm_array import Array
from unlearnbench.running.plan import Job

#: Seconds between two looks at the files, and at the states (each asks Slurm).
_LOOK, _ASK = 1.0, 30.0
#: Minutes that a job has beside its time limit, to be started, to load and to be named.
_MARGIN = 15


class Options(BaseModel):
    """What a job of the array asks for. Every other option of sbatch is handed on as it is."""

    model_config = ConfigDict(extra="allow")

    partition: str | None = None
    #: Minutes. Default: `--timeout` and a quarter of an hour.
    time: Annotated[int | None, Field(ge=1)] = None
    gpus: Annotated[int, Field(ge=0)] = 0
    cpus: Annotated[int | None, Field(ge=1)] = None
    #: GiB. Default: `--memory` and a little more, so that its message comes before Slurm's.
    memory: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    #: `local`: processes on this machine, all at once, as a rehearsal.
    cluster: Literal["slurm", "local"] = "slurm"


def execute(
    jobs: Sequence[Job], how: Execution, options: Options, on_event: Callable[[Event], None]
) -> None:
    """Runs the jobs; see the contract of executors. Ctrl-C cancels the array."""
    submitit = extra("submitit", "slurm")
    how = dataclasses.replace(how, out=how.out.absolute())
    asked = _asked(how, options, len(jobs))
    (how.out / ".slurm").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=how.out / ".slurm", prefix="run-"))
    array = Array(submitit, options.cluster, folder)
    try:
        array.submit(jobs, how, asked)
        _watch(array, _ASK if options.cluster == "slurm" else _LOOK, on_event)
    finally:
        array.leave()
        if not array.lost:  # the logs tell of what was lost
            shutil.rmtree(folder, ignore_errors=True)


def _asked(how: Execution, options: Options, jobs: int) -> dict[str, Any]:
    """What a job asks of Slurm, in submitit's words."""
    # As long again it may wait for what another job makes.
    minutes = options.time or (how.timeout and math.ceil(2 * how.timeout / 60) + _MARGIN)
    if not minutes:
        raise UserError(
            "Slurm has to know how long a job may take: give --executor-option time=MINUTES, or "
            "--timeout."
        )
    return {
        "timeout_min": int(minutes),
        "cpus_per_task": options.cpus or max(how.threads, 1) * how.ranks,
        "gpus_per_node": options.gpus or None,
        "mem_gb": options.memory or (how.memory and how.memory * 1.1 + 0.5),
        "slurm_partition": options.partition,
        "slurm_array_parallelism": how.workers or jobs,
        "slurm_additional_parameters": options.model_extra or None,
    }


def _watch(array: Array, pause: float, on_event: Callable[[Event], None]) -> None:
    """Tells what happens until all jobs have ended; `pause` seconds between looks at states."""
    asked = time.monotonic()
    while array.running:
        time.sleep(_LOOK)
        if ask := time.monotonic() - asked >= pause:
            asked = time.monotonic()
        events = list(array.news(ask))
        for event in events:
            on_event(event)
        if any(event.kind == "unsaved" for event in events):
            array.give_out_no_more()
