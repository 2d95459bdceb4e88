"""The smallest job that the suite can run, with a plugin under trial in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unlearnbench.results.schema import Result
from unlearnbench.task import Task
from unlearnbench.testing.conformance import failure_of, hold

#: Task and model: the smallest that the suite brings.
TASK, MODEL = "nano", "nano"
#: What keeps the job small, where the task has such options.
SMALL = {"limit": 2, "facts": 4, "max_new_tokens": 4}


def small_task() -> Task[Any]:
    """The task of the job."""
    from unlearnbench.running.plan import load_task

    return load_task(TASK).configured(**_options())


def small_job(folder: Path, **named: Any) -> Result:
    """The result of the job, which must be valid; `named` are fields of a `Job`.

    Raises:
        Broken: it fails, or its result is not valid.
    """
    from unlearnbench.results.store import ResultStore
    from unlearnbench.results.verification import verify
    from unlearnbench.running.job import JobRunner
    from unlearnbench.running.plan import Job, ModelSpec
    from unlearnbench.running.saving import FINAL

    model = ModelSpec(name=MODEL, device="cpu")
    job = Job(task=TASK, task_config=_options(), model=model, seed=0, **named)
    store = ResultStore(folder)
    runner = JobRunner(store)
    result = runner.run(job, runner.identify(job), lambda done, total, note="": None)
    hold(
        result.status in FINAL,
        f"a job on {TASK} ends as {result.status}: {failure_of(result)}",
    )
    for path in store.folder.rglob("*.json"):
        faults = verify(path)
        hold(
            not faults, f"the result of a job on {TASK} is not valid: {faults[0] if faults else ''}"
        )
    return result


def _options() -> dict[str, Any]:
    from unlearnbench.running.plan import load_task

    return {k: v for k, v in SMALL.items() if k in load_task(TASK).Config.model_fields}
