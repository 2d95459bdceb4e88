"""lm-evaluation-harness: `results_*.json`, with the `samples_*.jsonl` of its tasks where given.

Layout: github.com/EleutherAI/lm-evaluation-harness, lm_eval/loggers/evaluation_tracker.py, version
0.4. Which task samples are of says the results' `task_hashes`: the sha256 of their hashes in order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from unlearnbench.metrics import correct_choices, mean
from unlearnbench_leaderboard.importers.log import (
    MAX_FIGURES,
    UNFIT,
    Fault,
    Figure,
    Imported,
    Recomputed,
    number,
    reported,
)

FORMAT = "lm-evaluation-harness"

#: The metrics whose aggregate is the mean over items where a task does not say how it is made.
_MEANS = ("acc", "acc_norm", "acc_mutual_info", "exact_match", "mc1", "mc2")
_HASHES = ("doc_hash", "prompt_hash", "target_hash")

Samples = Sequence[Mapping[str, Any]]


def recognises(document: object) -> bool:
    """Whether the document is a results file."""
    return (
        isinstance(document, dict)
        and isinstance(document.get("results"), dict)
        and isinstance(document.get("configs"), dict)
        and isinstance(document.get("versions"), dict)
    )


def recognises_samples(document: object) -> bool:
    """Whether the document is the samples of one task."""
    return (
        isinstance(document, list)
        and bool(document)
        and all(isinstance(s, dict) and "doc_id" in s and "filtered_resps" in s for s in document)
    )


def task_hash(samples: Samples) -> str | None:
    """What a results file calls these samples; None where they carry no hashes."""
    parts = [str(s.get(name, "")) for s in samples for name in _HASHES]
    if not all(parts):
        return None
    return hashlib.sha256("".join(parts).encode("utf-8", "replace")).hexdigest()


def task_of(document: Mapping[str, Any], samples: Samples) -> str | None:
    """The task of a results file that these samples are of."""
    hashes, own = _object(document, "task_hashes"), task_hash(samples)
    return next((str(task) for task, value in hashes.items() if own and value == own), None)


def read(
    document: Mapping[str, Any], files: tuple[str, ...], samples: Mapping[str, Samples]
) -> Imported:
    """The figures of a results file, recomputed from the samples of its tasks.

    A figure that cannot be recomputed says why. Raises nothing for a document that is recognised.
    """
    figures: dict[tuple[str, str], Figure] = {}
    for task, entry in document["results"].items():
        if not isinstance(entry, dict):
            continue
        for name in entry:
            if len(figures) == MAX_FIGURES:
                break
            if _is_metric(name):
                figures[task, name] = _figure(document, task, name, samples.get(task))
    for key, figure in figures.items():
        if key[0] in _object(document, "group_subtasks") and figure.recomputed is None:
            figures[key] = _group(document, key, figures)
    note = "" if samples else "give the run's samples_*.jsonl too, to recompute from its items"
    return Imported(FORMAT, files, tuple(figures.values()), _model(document), note)


def _figure(document: Mapping[str, Any], task: str, name: str, samples: Samples | None) -> Figure:
    metric, _, kept = name.partition(",")
    of_error = metric.endswith("_stderr")
    stated, note = reported(
        None if document["results"][task][name] == "N/A" else document["results"][task][name]
    )
    recomputed = None
    if samples is not None:
        try:
            own = [s for s in samples if s.get("filter", kept) == kept]
            recomputed = _recompute(document, task, metric.removesuffix("_stderr"), own, of_error)
        except UNFIT as fault:
            note = "; ".join(filter(None, [note, str(fault)]))
    direction = _object(_object(document, "higher_is_better"), task).get(metric)
    return Figure(
        name=name,
        split=task,
        reported=stated,
        recomputed=recomputed,
        note="; ".join(filter(None, [note, recomputed.note if recomputed else ""])),
        better=direction if isinstance(direction, bool) else None,
        main=not of_error,
    )


def _recompute(
    document: Mapping[str, Any], task: str, metric: str, samples: Samples, of_error: bool
) -> Recomputed:
    config = _object(_object(document, "configs"), task)
    how = _aggregation(config, metric)
    if how != "mean":
        raise Fault(f"its aggregate is {how}, not the mean over items")
    note = ""
    logged = [number(s.get(metric), f"{metric} of item {s.get('doc_id')}") for s in samples]
    values, by = logged, "mean of items"
    if metric == "acc" and _is_plain_choice(config):
        values = [float(v) for v in correct_choices(*_choices(samples))]
        by = "correct_choices"
        off = sum(a != b for a, b in zip(values, logged, strict=True))
        note = f"{off} items are ties or scored otherwise there" if off else ""
    if not values:
        raise Fault("no item is of this filter")
    if not of_error:
        return Recomputed(float(mean(values)), len(values), by, note)
    if len(values) < 2:
        raise Fault("one item has no standard error")
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Recomputed(error, len(values), "sample deviation / sqrt(n)", note)


def _choices(samples: Samples) -> tuple[list[list[float]], list[int]]:
    """Log-likelihoods of the choices and the right one, of every item."""
    scores: list[list[float]] = []
    gold: list[int] = []
    for sample in samples:
        where = f"item {sample.get('doc_id')}"
        answers, target = sample["filtered_resps"], sample.get("target")
        if not isinstance(answers, list) or not all(
            isinstance(a, list) and len(a) == 2 for a in answers
        ):
            raise Fault(f"filtered_resps of {where} is not [log-likelihood, is greedy] by choice")
        try:
            scores.append([_logged(a[0], f"a log-likelihood of {where}") for a in answers])
            gold.append(int(str(target)))
        except (TypeError, ValueError) as error:
            raise Fault(f"{where}: {error}") from error
        if len(scores[-1]) != len(scores[0]):
            raise Fault(f"{where} has {len(scores[-1])} choices, and the first {len(scores[0])}")
    return scores, gold


def _logged(value: object, where: str) -> float:
    """A number of a sample, which the harness writes as text."""
    return number(float(value) if isinstance(value, str) else value, where)


def _is_plain_choice(config: Mapping[str, Any]) -> bool:
    metrics = [m.get("metric") for m in _list(config, "metric_list") if isinstance(m, dict)]
    # Mutual information doubles the requests of an item.
    return config.get("output_type") == "multiple_choice" and "acc_mutual_info" not in metrics


def _aggregation(config: Mapping[str, Any], metric: str) -> str:
    for entry in _list(config, "metric_list"):
        if isinstance(entry, dict) and entry.get("metric") == metric and "aggregation" in entry:
            return str(entry["aggregation"])[:40]
    return "mean" if metric in _MEANS else "not told"


def _group(
    document: Mapping[str, Any],
    key: tuple[str, str],
    figures: Mapping[tuple[str, str], Figure],
) -> Figure:
    """A group's mean as the mean of its tasks weighed by their items, as the harness makes it."""
    group, name = key
    figure = figures[key]
    if name.partition(",")[0].endswith("_stderr"):
        return figure
    try:
        made = _weighed(document, key, figures)
    except UNFIT:
        made = None
    if made is None:
        return figure
    return Figure(
        name, group, figure.reported, made, figure.note, better=figure.better, main=figure.main
    )


def _weighed(
    document: Mapping[str, Any],
    key: tuple[str, str],
    figures: Mapping[tuple[str, str], Figure],
) -> Recomputed | None:
    """The mean over a group's tasks; None where a part of it is not there."""
    group, name = key
    total, weight = 0.0, 0
    for task in _leaves(_object(document, "group_subtasks"), group):
        part = figures.get((task, name))
        count = _object(_object(document, "n-samples"), task).get("effective")
        if part is None or part.value is None or type(count) is not int or count < 1:
            return None
        total += count * part.value
        weight += count
    return Recomputed(total / weight, weight, "tasks weighed by size") if weight else None


def _leaves(children: Mapping[str, Any], group: str) -> Iterator[str]:
    waiting, seen = [group], {group}
    while waiting:
        own = children.get(waiting.pop())
        for child in own if isinstance(own, list) else []:
            if not isinstance(child, str) or child in seen:
                continue
            seen.add(child)
            if children.get(child):
                waiting.append(child)
            else:
                yield child


def _is_metric(name: str) -> bool:
    return "," in name and not name.startswith(("alias", " "))


def _model(document: Mapping[str, Any]) -> str:
    named = document.get("model_name") or _object(document, "config").get("model")
    return named if isinstance(named, str) else ""


def _object(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    found = document.get(name)
    return found if isinstance(found, list) else []
