"""What a job names, built and loaded: its method, its model, the oracle, its request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from unlearnbench.cache import cache_folder
from unlearnbench.errors import UserError
from unlearnbench.method import Method
from unlearnbench.models import LanguageModel, load_model, resolve_entry
from unlearnbench.models.entry import ModelEntry
from unlearnbench.request import ForgetRequest
from unlearnbench.running.plan import Job, load_method
from unlearnbench.running.requests import Requests
from unlearnbench.task import Task


def method_of(job: Job) -> Method[Any]:
    defaults = dict(entry_of(job).method_defaults.get(job.method, {}))
    return load_method(job.method).configured(**{**defaults, **job.config})


def entry_of(job: Job) -> ModelEntry:
    entry = resolve_entry(job.model.name)
    return replace(entry, name=job.model.label) if job.model.label else entry


def oracle_of(
    job: Job,
    entry: ModelEntry,
    task: Task[Any],
    load: Callable[[ModelEntry, dict[str, Any]], LanguageModel],
) -> LanguageModel | None:
    """The retrained oracle, given by `load`; None where none is known."""
    location = job.model.retain_model or task.oracle_location(entry)
    if location is None:
        return None
    options = {**job.model.load_options(), "revision": None}
    options["prompt_format"] = options["prompt_format"] or entry.prompt_format
    retained = resolve_entry(location)
    if Path(location).is_absolute():
        retained = ModelEntry(name=f"{entry.name}-{task.retain_split}", location=retained.location)
    return load(retained, options)


def loaded(entry: ModelEntry, options: dict[str, Any]) -> LanguageModel:
    return load_model(entry, **options)


def requests_of(
    job: Job,
    task: Task[Any],
    run_id: str,
    load: Callable[[ModelEntry, dict[str, Any]], LanguageModel] = loaded,
) -> Requests:
    """What is asked to be forgotten: one request, or several in order.

    `load` gives the oracle to a method that asks for it.

    Raises:
        UserError: there are fewer clusters of facts than requests.
    """
    entry = entry_of(job)

    def retain_model() -> LanguageModel:
        oracle = oracle_of(job, entry, task, load)
        if oracle is None:
            raise UserError(
                f'no oracle of "{entry.name}" for {task.retain_split} is known: give one with '
                "--retain-model, or train a pair with unlearnbench reference train."
            )
        return oracle

    def make(seed: int) -> ForgetRequest:
        workspace = workspace_of(run_id)
        return replace(task.request(seed), retain_model=retain_model, workspace=workspace)

    return Requests(make, job.requests, job.seed, f"{task.name}:{task.split}")


def workspace_of(run_id: str) -> Path:
    """What an unfinished job keeps for its next attempt."""
    return cache_folder() / "workspaces" / run_id
