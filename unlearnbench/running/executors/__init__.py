"""Where jobs run: on this machine, on a Ray cluster, or through Slurm. Imports neither until asked.

The contract of an executor is a module with two things:

* `Options`: a pydantic class of what `--executor-option KEY=VALUE` may say to it;
* `execute(jobs, how, options, on_event)`: tells of each job, from the thread that called it, what
  happened in the order it happened: `started`, what the worker says, and one of `ENDINGS` once.
  A job whose worker dies, or whose machine does, is `lost`: that costs this job and no other. One
  that another run is at (`busy`) comes again when nothing else waits. After an `unsaved` one no
  more are given out: the next would meet the same full disk. When
  `execute` returns or raises (Ctrl-C included), nothing that it has started runs on.

Every executor runs a job in a `WorkerProcess`, so that limits, messages and results are the same.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from unlearnbench.errors import UserError, unknown_name
from unlearnbench.options import checked_options
from unlearnbench.running.plan import Job

#: The executors, and where each is.
EXECUTORS = {name: f"unlearnbench.running.executors.{name}" for name in ("local", "ray", "slurm")}

#: What ends a job: its result is there (made, or made before), it cannot be run as it is asked for,
#: it could not be named, its worker died, its result could not be written.
ENDINGS = ("finished", "skipped", "refused", "broken", "lost", "unsaved")

#: Seconds that a worker waits for a job that another run is at, before it says so again.
PATIENCE = 5.0


@dataclass(frozen=True)
class Event:
    """Something that happened to a job. `kind`: started, identified, warning, progress, busy
    (another run is at it; it comes again), or one of `ENDINGS`."""

    kind: str
    job: Job
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Execution:
    """How jobs are run, wherever that is. It decides nothing of what they come to.

    Attributes:
        out: the results folder.
        workers: jobs at a time; None: the executor's choice.
        threads: torch threads of each process; 0: torch's choice.
        ranks: processes of each job whose method can use several.
        timeout: seconds that a job may take, from when it has been named; those in which it waits
            for what another process makes do not count, up to as many again.
        memory: GiB that the processes of a job may have in memory together.
    """

    out: Path
    workers: int | None = None
    threads: int = 0
    ranks: int = 1
    timeout: float | None = None
    memory: float | None = None


def execute(
    jobs: Sequence[Job],
    how: Execution,
    executor: str,
    options: Mapping[str, Any],
    on_event: Callable[[Event], None],
) -> None:
    """Runs the jobs on the executor of this name.

    Raises:
        UserError: no such executor or option, or one that cannot work here.
    """
    module, chosen = _chosen(executor, options)
    if jobs:
        module.execute(jobs, how, chosen, on_event)


def check_executor(executor: str, options: Mapping[str, Any]) -> None:
    """Raises UserError for a name or an option that `execute` would refuse."""
    _chosen(executor, options)


def _chosen(executor: str, options: Mapping[str, Any]) -> tuple[ModuleType, Any]:
    if executor not in EXECUTORS:
        raise UserError(unknown_name("executor", executor, EXECUTORS))
    module = importlib.import_module(EXECUTORS[executor])
    kind, prefix = f"option of executor {executor}", "--executor-option "
    return module, checked_options(module.Options, options, kind, prefix)


def extra(module: str, name: str) -> Any:
    """The library that an executor needs, which an extra of this package installs.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"--executor {name} needs {module}, and it cannot be imported ({error}): "
            f'pip install "unlearnbench[{name}]".'
        ) from error
