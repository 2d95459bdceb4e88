"""What is left after each of several requests, over the seeds of a row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from unlearnbench.results.pooling import mean
from unlearnbench_leaderboard.tables.rows import Row

#: What a row's details say of each step, by metric and split (docs/metrics.md).
_TOLD: Mapping[tuple[str, str], str] = {
    ("recall", "retain"): "retain recall",
    ("recall", "earlier"): "recall of earlier requests",
    ("relapse", "earlier"): "relapse of earlier requests",
    ("recall", "to_come"): "recall of those to come",
    ("recall", "unassigned"): "recall, requests not told apart",
}


def by_request(row: Row) -> list[tuple[str, Sequence[tuple[int, float]]]]:
    """For each of what is told: its name, and its mean over seeds after each request that has it.

    Empty where the forget set came in one request.
    """
    found: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in row.finished:
        sequence = run.result.sequence
        for number, step in enumerate(sequence.steps if sequence else [], 1):
            for metric in step.metrics:
                found[metric.name, metric.split][number].append(metric.value)
    return [
        (name, [(number, mean(values)) for number, values in sorted(found[key].items())])
        for key, name in _TOLD.items()
        if key in found
    ]
