"""The bootstrap of items nested in seeds.

Each run brings B replicates of a headline score: replicate b is the score on the b-th resample of
the item clusters, the same resample for every run on the same data. Seeds are resampled here, so
that an interval holds both sources of chance, and the b-th numbers of two methods stay paired.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unlearnbench.metrics import percentile_interval, seeded_generator
from unlearnbench_leaderboard.tables.rules import LEVEL

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number and its interval, where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


def nested_replicates(by_seed: Sequence[Sequence[float]], *identity: str) -> Floats:
    """B numbers: for each replicate, the mean over seeds that were drawn with replacement.

    Args:
        by_seed: for each seed, its B replicates.
        identity: who the seeds belong to. Two methods' seeds are two chances: they are drawn by
            two generators. The scores of one method share its draws, and so stay paired.
    """
    replicates: Floats = np.asarray(by_seed, dtype=np.float64)  # [seeds, B]
    seeds, length = replicates.shape
    if seeds == 1:
        return np.asarray(replicates[0])
    generator = seeded_generator("leaderboard", "seeds", *identity)
    drawn = generator.integers(seeds, size=(length, seeds))  # [B, seeds]
    return np.asarray(replicates[drawn, np.arange(length)[:, None]].mean(axis=1))


def estimate(value: float, replicates: Floats | None) -> Estimate:
    """The value with the percentile interval of its replicates."""
    if replicates is None:
        return Estimate(value)
    low, high = percentile_interval(replicates, LEVEL)
    return Estimate(value, low, high)


def mean(values: Sequence[float]) -> float:
    """The mean: rounded once, whatever the order, and finite for all that is finite."""
    try:
        return math.fsum(values) / len(values)
    except OverflowError:
        return sum(v / len(values) for v in values)
