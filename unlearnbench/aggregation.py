"""From a task's values to its metrics: points, intervals, directions, headlines.

A task says once how each number comes from the records under given item weights; that function is
called with unit weights for the value and with bootstrap resamples for its interval. Imports no
torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unlearnbench import metrics
from unlearnbench.results.records import Record
from unlearnbench.results.schema import Metric

#: Bootstrap replicates behind every interval.
REPLICATES = 1000

#: Resampling fewer clusters than this gives intervals that miss the truth half of the time, and
#: none is given (two clusters: 49 % coverage where 95 % is promised; three: 73 %).
MIN_CLUSTERS = 5

#: The weights of at most so many items are kept for the next result: 8 MB a split.
REMEMBERED_ITEMS = 1000

#: How often each item of a split counts: one row a resample, or None where each counts once.
Weights = Mapping[str, "NDArray[np.int64] | None"]
#: A number, or one a resample, by (name, split).
Values = dict[tuple[str, str], "float | NDArray[np.float64]"]
#: Weighs the items of one model, split by split.
Weigh = Callable[[Sequence[Record]], Weights]
Headline = Literal["forget", "utility", "privacy", "robustness"]

#: Whether whoever asks now wants the replicates of every metric.
_every: ContextVar[bool] = ContextVar("every", default=False)


@contextmanager
def every_replicate() -> Iterator[None]:
    """Within it `summarise` keeps the replicates of all metrics, for whoever compares two models.

    Result files have those of headlines alone: all of them would be most of a file. It holds for
    the thread (or the task) that asks, and for what it calls.
    """
    token = _every.set(True)
    try:
        yield
    finally:
        _every.reset(token)


def summarise(
    task: str,
    records: Sequence[Record],
    values: Callable[[Weigh], Values],
    *,
    splits: Sequence[str],
    better: Mapping[object, bool],
    headlines: Mapping[str, Headline],
    also: Mapping[str, Sequence[str]] | None = None,
) -> list[Metric]:
    """A metric for each of `values`, with a 95 % interval and, for headlines, the replicates.

    Within `every_replicate` all of them have their replicates.

    Args:
        task: seeds the resamples, with the clusters' names: replicate b is the same resample for
            every model on the same items, so differences are paired.
        records: of the evaluated model; n and the clusters are theirs.
        values: the numbers by (name, split) for items so weighed; split `all` spans several. It
            weighs each model's records by themselves, so that no order of records matters.
        splits: the splits that are resampled.
        better: whether higher is, by (name, split) or by name; neither where a number only
            describes.
        headlines: the headline that a metric is, by name.
        also: splits that a metric depends on beside its own, by name.
    """
    counts = {s: sum(r.split == s for r in records) for s in splits}
    few = {s for s in splits if len({r.cluster for r in records if r.split == s}) < MIN_CLUSTERS}

    def resamples(items: Sequence[Record]) -> Weights:
        clusters: dict[str, list[str]] = {split: [] for split in splits}
        for record in items:
            if record.split in clusters:
                clusters[record.split].append(record.cluster)
        return {split: _resampled(task, split, tuple(c)) for split, c in clusters.items() if c}

    points = values(lambda _: dict.fromkeys(splits))
    spread = values(resamples)
    made = []
    for (name, split), point in points.items():
        headline = headlines.get(name)
        known = not few & {split, *(also or {}).get(name, ())}
        low, high = metrics.percentile_interval(spread[name, split]) if known else (None, None)
        made.append(
            Metric(
                name=name,
                split=split,
                value=float(point),
                ci_low=low,
                ci_high=high,
                n=counts.get(split, sum(counts.values())),
                higher_is_better=better.get((name, split), better.get(name)),
                headline=headline,
                replicates=(
                    [round(float(v), 6) for v in np.asarray(spread[name, split])]
                    if known and (headline or _every.get())
                    else None
                ),
            )
        )
    return made


def _resampled(task: str, split: str, clusters: tuple[str, ...]) -> NDArray[np.int64]:
    """The weights of a split's items in each resample, [REPLICATES, items]; not to be written to.

    The models of a task have the same items: what is small is drawn once.
    """
    if len(clusters) > REMEMBERED_ITEMS:
        return _drawn(task, split, clusters)
    return _drawn_once(task, split, clusters)


def _drawn(task: str, split: str, clusters: tuple[str, ...]) -> NDArray[np.int64]:
    generator = metrics.seeded_generator(task, split, *sorted(set(clusters)))
    weights = metrics.cluster_weights(clusters, REPLICATES, generator)
    weights.flags.writeable = False
    return weights


_drawn_once = lru_cache(maxsize=16)(_drawn)


def without_replicates(metrics: Sequence[Metric]) -> list[Metric]:
    """The metrics of a reference: its own row, where it has one, carries the replicates."""
    return [m.model_copy(update={"replicates": None}) for m in metrics]


def column(records: Sequence[Record], split: str, name: str) -> NDArray[np.float64]:
    """One score of every item of a split, in the records' order, float64 [n]."""
    return np.array([r.scores[name] for r in records if r.split == split], dtype=np.float64)
