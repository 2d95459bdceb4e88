"""A number with its interval, as every cell of a table has it."""

from __future__ import annotations

from dataclasses import dataclass

from unlearnbench.metrics import percentile_interval
from unlearnbench.results.pooling import Floats
from unlearnbench_leaderboard.tables.rules import LEVEL


@dataclass(frozen=True)
class Estimate:
    """A number and its interval, where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


def estimate(value: float, replicates: Floats | None) -> Estimate:
    """The value with the percentile interval of its replicates."""
    if replicates is None:
        return Estimate(value)
    low, high = percentile_interval(replicates, LEVEL)
    return Estimate(value, low, high)
