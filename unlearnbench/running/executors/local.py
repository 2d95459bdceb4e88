"""The local executor: worker processes on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile

from pydantic import BaseModel

from unlearnbench.cache import check_cache
from unlearnbench.models.devices import BALANCED
from unlearnbench.running.executors import Event, Execution
from unlearnbench.running.executors.crew import serve
from unlearnbench.running.executors.worker_process import WorkerProcess
from unlearnbench.running.plan import Job

#: What CUDA reads, and what it shows to a process.
_VISIBLE = "CUDA_VISIBLE_DEVICES"


class Options(BaseModel):
    """None: `--workers` and the limits say it all."""


def execute(
    jobs: Sequence[Job], how: Execution, options: Options, on_event: Callable[[Event], None]
) -> None:
    """Runs the jobs; see the contract of executors."""
    check_cache()
    count = min(how.workers or 1, len(jobs))
    # Whoever has named a GPU wants that one, or all.
    named = any(":" in d or d == BALANCED for d in (job.model.device for job in jobs))
    shared = count > 1 and not named
    gpus = visible_gpus(os.environ) if shared else []
    seats = [WorkerProcess(how, n, own_gpus(gpus, n, how.ranks)) for n in range(count)]
    serve(jobs, seats, on_event)


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that CUDA would show to a process of this environment, found without torch."""
    told = environment.get(_VISIBLE)
    if told is not None:
        names = (name.strip() for name in told.split(","))
        return list(takewhile(lambda name: name and name != "-1", names))  # as CUDA reads it
    asking = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if asking is None:
        return []
    try:
        answer = subprocess.run(
            [asking, "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return answer.stdout.split() if answer.returncode == 0 else []


def own_gpus(gpus: Sequence[str], worker: int, ranks: int) -> dict[str, str]:
    """The environment of a worker that sees its own GPUs and no others: one for each of its ranks.

    Workers take turns where there are more of them. With one GPU, or none, nothing is said.
    """
    if len(gpus) < 2:
        return {}
    own = [gpus[(worker * ranks + rank) % len(gpus)] for rank in range(min(ranks, len(gpus)))]
    return {_VISIBLE: ",".join(own)}
