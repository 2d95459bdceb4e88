"""The contract of a task, rule by rule.

What `unlearnbench.task` and docs/metrics.md ask of every task, tried on one that is configured:
small data and, with a model, a small `limit` make it quick. Nothing is trained, and the model is
not changed.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest import mock

from unlearnbench.task import Task
from unlearnbench.testing import task_claims, task_data, task_records
from unlearnbench.testing.conformance import Rule, Verdict, examine, require
from unlearnbench.testing.task_trial import Trial

if TYPE_CHECKING:
    from unlearnbench.models import LanguageModel


def check_task(
    task: Task[Any], model: LanguageModel | None = None, *, without: Collection[str] = ()
) -> None:
    """Tries every rule of a task's contract. For a test.

    Args:
        task: as configured for the check.
        model: any that the task can evaluate. Without one the rules about records and metrics are
            not tried.
        without: names of rules that are left out.

    Raises:
        AssertionError: a line for each rule that is broken: what failed, and what to do.
    """
    require(f"task {task.name}", examine_task(task, model, without=without))


def examine_task(
    task: Task[Any], model: LanguageModel | None = None, *, without: Collection[str] = ()
) -> Iterator[Verdict]:
    """The verdict of each rule, as it is tried. Caches go into a folder that is deleted after."""
    with TemporaryDirectory(prefix="unlearnbench-check-") as folder:
        cache = {"UNLEARNBENCH_CACHE": str(Path(folder, "cache"))}
        with mock.patch.dict(os.environ, cache):
            yield from examine(TASK_RULES, Trial(task, model, Path(folder)), without, plugin=task)


#: In the order in which they are tried: what it says of itself, what it asks, what it measures.
TASK_RULES: tuple[Rule[Trial], ...] = (
    task_claims.attributes,
    task_claims.registered,
    task_claims.config_round_trip,
    task_claims.config_strict,
    task_data.seed,
    task_data.ids,
    task_data.subjects,
    task_data.targets,
    task_data.data,
    task_data.oracle,
    task_records.records_as_described,
    task_records.model_untouched,
    task_records.repeats,
    task_records.progress,
    task_records.metrics,
    task_records.aggregate,
    task_records.light,
    task_records.end_to_end,
)
