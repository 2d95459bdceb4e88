"""A hyperparameter search: the same number of trials for every method, and one rule to choose.

Trials are ordinary jobs. What they scored, which was chosen and the plan that runs the chosen ones
are functions of their results. Imports no torch.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

from unlearnbench import plain_yaml
from unlearnbench.errors import UserError
from unlearnbench.experiment import seen_from
from unlearnbench.models import resolve_entry
from unlearnbench.results.schema import Result
from unlearnbench.running.plan import Job, load_method, setting_name
from unlearnbench.running.plan_file import DEFAULT_SEEDS, PlanFile, TunedMethod
from unlearnbench.search import SEQUENCE, Dimension, search_space, trials

#: Of the trials that have both headline scores, the one with the highest harmonic mean of forget
#: and utility; of equals the earliest. No oracle is read (docs/metrics.md).
RULE = "forget-utility-harmonic-1"


@dataclass(frozen=True)
class Search:
    """One method's search: its space, and a job for each configuration that is tried."""

    method: str
    space: tuple[Dimension, ...]
    jobs: tuple[Job, ...]

    @property
    def title(self) -> str:
        """The method with what the user has set, which every trial has: `rome target=dummy`."""
        given = (f"{k}={v}" for k, v in self.jobs[0].config.items())
        return " ".join((setting_name(self.method), *given))


@dataclass(frozen=True)
class Trial:
    """One configuration and what became of it. `status` is a result's, or `refused`."""

    number: int
    config: Mapping[str, Any]
    status: str
    forget: float | None = None
    utility: float | None = None
    run_id: str = ""

    @property
    def score(self) -> float | None:
        """Harmonic mean of the two; None for a trial that scores nothing."""
        if self.status != "ok" or self.forget is None or self.utility is None:
            return None
        return harmonic_mean([max(self.forget, 0.0), max(self.utility, 0.0)])


@dataclass(frozen=True)
class Chosen:
    """A search that has ended: every trial in order, and the one that the rule takes, if any."""

    search: Search
    trials: tuple[Trial, ...]
    trial: Trial | None


def searches(jobs: Sequence[Job], count: int) -> list[Search]:
    """The search of each method of these jobs, which are their configurations as given.

    Raises:
        UserError: the jobs are of several tasks, models or seeds (of which would the choice be?).
    """
    for word in ("task", "model", "seed"):
        settings = {
            json.dumps(j.model_dump(mode="json", include={word, f"{word}_config"}), sort_keys=True)
            for j in jobs
        }
        if len(settings) > 1:
            raise UserError(
                f"{len(settings)} {word}s: a sweep tunes on one. Give one with --{word}."
            )
    # Nothing is chosen by what a utility or a probe measures: the chosen meet them, trials do not.
    bare: dict[str, Any] = {"tuning": None, "utilities": (), "utility_config": {}}
    bare |= {"probes": (), "probe_config": {}}
    return [_search(job.model_copy(update=bare), count) for job in jobs]


def _search(given: Job, count: int) -> Search:
    method = load_method(given.method)
    on_model = resolve_entry(given.model.name).method_defaults.get(given.method, {})
    return Search(
        given.method,
        tuple(search_space(method, given.config, on_model)),
        tuple(
            given.model_copy(update={"config": config})
            for config in trials(method, given.config, on_model, count, given.seed)
        ),
    )


def trial_of(number: int, job: Job, status: str, result: Result | None) -> Trial:
    """A trial as its result tells it; None: it could not even be named."""
    if result is None:
        return Trial(number, job.config, status)
    forget, utility = (result.headline(name) for name in ("forget", "utility"))
    return Trial(
        number,
        job.config,
        result.status,
        forget.value if forget else None,
        utility.value if utility else None,
        result.run_id,
    )


def choose(tried: Sequence[Trial]) -> Trial | None:
    """The trial that `RULE` takes; None where none scores."""
    scored = [(t.score, -t.number, t) for t in tried if t.score is not None]
    return max(scored, key=lambda entry: entry[:2])[2] if scored else None


def chosen_plan(
    ended: Sequence[Chosen],
    tasks: Sequence[Any],
    models: Sequence[Any],
    setting: Result,
    utilities: Sequence[Any] = (),
    probes: Sequence[Any] = (),
    folder: Path = Path(),
    requests: int = 1,
) -> bytes:
    """A plan that runs each method as chosen, as YAML; it says how each was tuned.

    Args:
        folder: where the plan will lie; files of methods are named from there.
        tasks, models, utilities, probes: as in a plan, with local paths as the user gave them.
        requests: of the trials, and of the plan.
        setting: a result of any trial: its task and its model are what all were tuned on.
    """
    tuned = [
        TunedMethod(
            method=seen_from(c.search.method, folder),
            config=dict(c.trial.config),
            rule=RULE,
            search=SEQUENCE,
            seed=c.search.jobs[0].seed,
            trials=len(c.trials),
            trial=c.trial.number,
            task=setting.task.name,
            task_config=setting.task.config,
            model=setting.model.name,
            space={d.name: d.document() for d in c.search.space},
            requests=requests,
        )
        for c in ended
        if c.trial is not None
    ]
    plan = PlanFile(
        tasks=list(tasks),
        models=list(models),
        seeds=list(DEFAULT_SEEDS),
        methods=[{t.method: t.config} if t.config else t.method for t in tuned],
        utilities=list(utilities),
        probes=list(probes),
        requests=requests,
        tuning=tuned,
    )
    document = plan.model_dump(mode="json")
    fields = {
        **{name: document[name] for name in ("tasks", "models", "seeds", "methods")},
        **{name: document[name] for name in ("utilities", "probes") if document[name]},
        **({"requests": requests} if requests > 1 else {}),
        "tuning": [{"method": t["method"], "config": t["config"], **t} for t in document["tuning"]],
    }
    text = plain_yaml.dump(fields, width=100)
    return f"# Chosen by unlearnbench sweep; run it with unlearnbench run --plan.\n{text}".encode()


def trials_table(ended: Sequence[Chosen]) -> bytes:
    """Every trial with its configuration and its score, as CSV."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["method", "trial", "chosen", "status", "score", "forget", "utility", "run_id", "config"]
    )
    for c in ended:
        for trial in c.trials:
            scores = ("" if s is None else f"{s:.6g}" for s in _scores(trial))
            writer.writerow(
                [
                    setting_name(c.search.method),
                    trial.number,
                    int(trial is c.trial),
                    trial.status,
                    *scores,
                    trial.run_id,
                    json.dumps(dict(trial.config), sort_keys=True),
                ]
            )
    return stream.getvalue().encode()


def _scores(trial: Trial) -> tuple[float | None, float | None, float | None]:
    return trial.score, trial.forget, trial.utility
