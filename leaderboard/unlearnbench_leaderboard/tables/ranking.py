"""Who is ranked, and where: layers, ranks, their intervals and ties. Rules: `rules.SENTENCES`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unlearnbench.metrics import harmonic_mean, percentile_interval
from unlearnbench.results.pooling import Floats
from unlearnbench_leaderboard.tables.intervals import Estimate, estimate
from unlearnbench_leaderboard.tables.rules import LEVEL

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Contender:
    """A row as the ranking sees it: a point with its paired replicates, each [B]."""

    name: str
    forget: float
    utility: float
    forget_replicates: Floats
    utility_replicates: Floats


@dataclass(frozen=True)
class Place:
    """Where a contender stands among those of its tag."""

    rank: int
    low: int
    high: int
    #: Pareto layer, 1 for the front.
    layer: int
    #: Harmonic mean of forget and utility.
    score: Estimate

    @property
    def on_front(self) -> bool:
        return self.layer == 1


def place(contenders: Sequence[Contender]) -> list[Place]:
    """The place of each contender, in the order given."""
    if not contenders:
        return []
    points = np.array([[c.forget, c.utility] for c in contenders])  # [n, 2]
    replicates = np.array(
        [[c.forget_replicates, c.utility_replicates] for c in contenders]
    )  # [n, 2, B]
    scores = _score(points[:, 0], points[:, 1])  # [n]
    score_replicates = _score(replicates[:, 0], replicates[:, 1])  # [n, B]
    layers = pareto_layers(points[:, 0], points[:, 1])

    names = [c.name for c in contenders]
    order = sorted(range(len(names)), key=lambda i: (layers[i], -scores[i], names[i]))
    ranks = _shared_ranks(order, score_replicates)
    lows, highs = _rank_replicates(replicates, score_replicates)
    places = []
    for i, rank in enumerate(ranks):
        low, high = _quantile(lows[i], (1 - LEVEL) / 2), _quantile(highs[i], (1 + LEVEL) / 2)
        places.append(
            Place(
                rank=rank,
                low=min(rank, low),
                high=max(rank, high),
                layer=int(layers[i]),
                score=estimate(float(scores[i]), score_replicates[i]),
            )
        )
    return places


def pareto_layers(first: Floats, second: Floats) -> Ints:
    """The layer of each point when both coordinates are maximised.

    Layer 1 holds the points that no other dominates (at least as good in both, better in one);
    layer 2 those that only layer 1 dominates, and so on. Equal points share a layer.

    Args:
        first: a coordinate of each point, [n], or [n, B] for B sets of n points.
        second: the other, of the same shape.
    """
    x, y = (np.atleast_2d(np.asarray(c, dtype=np.float64).T).T for c in (first, second))
    n, sets = x.shape
    # By the first coordinate, then the second, falling: whatever dominates a point comes before it.
    order = np.lexsort((-y, -x), axis=0)  # [n, B]
    x, y = np.take_along_axis(x, order, 0), np.take_along_axis(y, order, 0)
    ceilings = np.full((n, sets), -np.inf)  # the greatest second coordinate in each layer: falling
    found = np.zeros((n, sets), dtype=np.int64)  # layers from 0 on, in that order
    for i in range(n):
        # The first layer in which nobody reaches this point's second coordinate.
        found[i] = (ceilings[: i + 1] >= y[i]).sum(axis=0)
        if i:
            equal = (x[i] == x[i - 1]) & (y[i] == y[i - 1])
            found[i] = np.where(equal, found[i - 1], found[i])
        np.put_along_axis(ceilings, found[i][None], y[i][None], 0)
    layers = np.empty((n, sets), dtype=np.int64)
    np.put_along_axis(layers, order, found + 1, 0)
    return layers.reshape(np.shape(first))


def _score(forget: Floats, utility: Floats) -> Floats:
    return np.asarray(harmonic_mean(forget, utility))


def _shared_ranks(order: Sequence[int], score_replicates: Floats) -> list[int]:
    """Competition ranks (1, 1, 3): a group is its first row and those that tie with it."""
    ranks = [0] * len(order)
    leader, leader_rank = order[0], 1
    for position, i in enumerate(order, start=1):
        low, high = percentile_interval(score_replicates[leader] - score_replicates[i], LEVEL)
        if not low <= 0 <= high:
            leader, leader_rank = i, position
        ranks[i] = leader_rank
    return ranks


def _rank_replicates(replicates: Floats, score_replicates: Floats) -> tuple[Ints, Ints]:
    """The best and the worst rank of each contender in each replicate, [n, B] both.

    They differ where contenders are equal in a replicate.
    """
    n = len(score_replicates)
    layers = pareto_layers(replicates[:, 0], replicates[:, 1])  # [n, B]
    order = np.lexsort((-score_replicates, layers), axis=0)
    # A block is a run of equals in that order: it starts where layer or score changes.
    layer, score = (np.take_along_axis(v, order, 0) for v in (layers, score_replicates))
    changes = (layer[1:] != layer[:-1]) | (score[1:] != score[:-1])
    every = np.ones((1, order.shape[1]), dtype=np.bool_)
    starts, ends = np.vstack([every, changes]), np.vstack([changes, every])
    place = np.arange(1, n + 1)[:, None]
    first = np.maximum.accumulate(np.where(starts, place, 1), axis=0)
    last = np.minimum.accumulate(np.where(ends, place, n)[::-1], axis=0)[::-1]
    lows, highs = np.empty_like(order), np.empty_like(order)
    np.put_along_axis(lows, order, first, 0)
    np.put_along_axis(highs, order, last, 0)
    return lows, highs


def _quantile(ranks: Ints, level: float) -> int:
    """The smallest rank whose share of replicates at or below it reaches the level."""
    return int(np.quantile(ranks, level, method="inverted_cdf"))
