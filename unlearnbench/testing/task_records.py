"""The contract of a task: what it measures, and what it costs to look at results."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any, get_args

from unlearnbench.method import silent
from unlearnbench.results.records import dump_records, parse_records
from unlearnbench.results.schema import Headline, Metric
from unlearnbench.task import Task
from unlearnbench.testing.claims import plugin_of
from unlearnbench.testing.conformance import (
    NotTried,
    failure_of,
    goes_forward,
    hold,
    no_duplicates,
    rule,
)
from unlearnbench.testing.looking import imports_no_torch, same_metrics
from unlearnbench.testing.task_trial import Trial

# --- records and metrics --------------------------------------------------------------------------


@rule("records", "the records are finite, and as many as described")
def records_as_described(trial: Trial) -> None:
    task, records = trial.task, trial.records
    no_duplicates("records", (f"{r.split}/{r.id}" for r in records))
    counts = Counter(r.split for r in records)
    stated = {split: n for split, n in task.describe_data().n_eval.items() if n}
    hold(
        counts == stated,
        f"describe_data() counts {stated}, and evaluate() gives {dict(counts)}",
    )
    for record in records:
        for name, value in record.scores.items():
            hold(math.isfinite(value), f'record "{record.id}" has {name} = {value}')
        hold(
            task.text_in_records or not record.holds_text,
            f'record "{record.id}" of {record.split} holds text, and text_in_records is False',
        )


@rule("model", "evaluate() leaves the model as it was")
def model_untouched(trial: Trial) -> None:
    hold(bool(trial.records), "evaluate() gives no record")
    rest = len(trial.changed) - 1
    hold(
        not trial.changed,
        f"evaluate() changes {trial.changed[0] if trial.changed else ''}"
        + (f" and {rest} more" if rest > 0 else "")
        + ": others measure the same model after it, so leave it as it was",
    )


@rule("repeats", "the same model gives the same records again")
def repeats(trial: Trial) -> None:
    first, model = trial.records, trial.model
    again = trial.task.assess_generations(trial.task.evaluate(model), model)
    other = [a.id for a, b in zip(first, again, strict=False) if a != b]
    hold(
        again == first,
        f"evaluate() twice gives other records ({len(other)} of {len(first)} differ): draw from "
        "generators with a fixed seed, and keep the items in one order",
    )


@rule("progress", "progress goes forward and ends at its total")
def progress(trial: Trial) -> None:
    hold(bool(trial.records), "evaluate() gives no record")
    goes_forward(trial.calls)


@rule("metrics", "metrics are finite; headlines lie in [0, 1], higher is better")
def metrics(trial: Trial) -> None:
    task, records = trial.task, trial.records
    for before, retain in ((None, None), (records, None), (None, records), (records, records)):
        made = task.aggregate(records, before, retain)
        no_duplicates("metrics", (f"{m.name} of {m.split}" for m in made))
        no_duplicates("headlines", (m.headline for m in made if m.headline))
        for metric in made:
            _metric_is_sound(task, metric)


def _metric_is_sound(task: Task[Any], metric: Metric) -> None:
    what = f"metric {metric.name} of {metric.split}"
    hold(math.isfinite(metric.value), f"{what} is {metric.value}")
    for end in (metric.ci_low, metric.ci_high):
        hold(end is None or math.isfinite(end), f"{what} has an interval that ends at {end}")
    hold(metric.n > 0, f"{what} is over {metric.n} items")
    if metric.headline is None:
        return
    allowed = get_args(Headline)
    hold(
        metric.headline in allowed,
        f'{what} is the headline "{metric.headline}": allowed are {", ".join(allowed)}',
    )
    hold(bool(task.headline_rule), f"{what} is a headline, and the task has no headline_rule")
    hold(
        0 <= metric.value <= 1 and metric.higher_is_better is True,
        f"{what} is a headline: those lie between 0 and 1 and higher is better",
    )


@rule("aggregate", "metrics follow from stored records in any order")
def aggregate(trial: Trial) -> None:
    task, records = trial.task, trial.records
    made = task.aggregate(records, records, records)
    again = task.aggregate(records, records, records)
    hold(again == made, "aggregate() called twice gives other metrics")
    stored = parse_records(dump_records(records), "records")
    hold(
        same_metrics(task.aggregate(stored, stored, stored), made),
        "aggregate() gives other metrics from records that were stored and read",
    )
    for seed in range(2):
        mixed = random.Random(seed).sample(records, len(records))
        hold(
            same_metrics(task.aggregate(mixed, mixed, mixed), made),
            "aggregate() gives other metrics from the same records in another order",
        )


# --- what it costs to look at results -------------------------------------------------------------


@rule("light", "importing it and calling aggregate() needs no torch")
def light(trial: Trial) -> None:
    """Importing the task, and `aggregate` where there are records, in a process of their own."""
    records = [] if trial.given_model is None else trial.records
    imports_no_torch(type(trial.task), "evaluate()", records, trial.folder)


# --- a job ----------------------------------------------------------------------------------------


@rule("end-to-end", "a job of the method none on a tiny model gives a valid result")
def end_to_end(trial: Trial) -> None:
    from unlearnbench.results.store import ResultStore
    from unlearnbench.results.verification import verify
    from unlearnbench.running.job import JobRunner
    from unlearnbench.running.plan import Job, ModelSpec

    task, model = trial.task, trial.model
    if plugin_of(type(task), "task") is None:
        raise NotTried("a job cannot name a task that is not registered")
    model.save(trial.folder / "model")
    job = Job(
        method="none",
        task=task.name,
        task_config=task.config.model_dump(mode="json", exclude_unset=True),
        model=ModelSpec(name=str(trial.folder / "model"), device="cpu", label="tiny"),
        seed=0,
    )
    store = ResultStore(trial.folder / "results")
    runner = JobRunner(store)
    result = runner.run(job, runner.identify(job), silent)
    hold(result.status == "ok", f"the job ends as {result.status}: {failure_of(result)}")
    for path in store.folder.rglob("*.json"):
        faults = verify(path)
        hold(not faults, f"its result is not valid: {faults[0] if faults else ''}")
