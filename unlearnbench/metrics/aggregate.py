"""Numbers over items: mean, harmonic mean, KS statistic, forget quality, model utility.

Aggregates over items take `weights` [..., n] and return [...] (a float for one row of weights). A
weight is how often an item counts, so one call with the weights [B, n] of
`bootstrap.cluster_weights` gives the B bootstrap replicates.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unlearnbench.metrics._smirnov import log10_p_value

#: Numbers of a block that a sum over many rows of weights holds at a time.
_BLOCK = 32_768
#: Sums of whole weights below it are exact in either kind of number.
_EXACT = 2**31


def mean(values: ArrayLike, weights: ArrayLike | None = None) -> float | NDArray[np.float64]:
    """Weighted mean over the last axis: sum_i w_i v_i / sum_i w_i.

    `values` is [..., n], usually [n]; leading axes broadcast with those of `weights`. Range and
    direction are those of the values. ValueError for no items, values that are not finite, and
    weights that are negative, of another n, or all zero.
    """
    scores = _scores("values", values)
    if weights is None:
        return _unwrap(scores.mean(axis=-1))
    w = _weights("weights", weights, scores.shape[-1])
    return _unwrap(_weighted_sum(w, scores) / w.sum(axis=-1))


def harmonic_mean(*components: ArrayLike) -> float | NDArray[np.float64]:
    """k / sum_j 1/x_j of k components, elementwise over broadcast arrays; 0 where one is 0.

    Lies between the least and the greatest component, close to the least: one bad component
    cannot be made up for. ValueError for no components, or one that is negative or not finite.
    """
    if not components:
        raise ValueError("harmonic_mean got no components: pass at least one number or array.")
    stacked = np.stack(np.broadcast_arrays(*[np.asarray(c, np.float64) for c in components]))
    bad = ~((stacked >= 0) & np.isfinite(stacked))
    if bad.any():
        raise ValueError(
            f"harmonic_mean component {int(np.argwhere(bad)[0][0])} holds {stacked[bad][0]}: "
            "components are finite and at least 0."
        )
    with np.errstate(divide="ignore", over="ignore"):  # 1/0 = inf gives the 0 that is wanted
        return _unwrap(len(components) / (1.0 / stacked).sum(axis=0))


def ks_statistic(
    sample: ArrayLike,
    reference: ArrayLike,
    sample_weights: ArrayLike | None = None,
    reference_weights: ArrayLike | None = None,
) -> float | NDArray[np.float64]:
    """Two-sample Kolmogorov-Smirnov D: the largest distance of the two weighted ECDFs.

    `sample` is [n], `reference` [m]; their weights [..., n] and [..., m] broadcast in the leading
    axes. Range [0, 1]; 0 means equal distributions (better, where the reference never saw the
    forget set). `scipy.stats.ks_2samp(...).statistic` for unit weights. ValueError as for `mean`,
    and for values of more than one dimension.
    """
    x = _scores("sample", sample, one_axis=True)
    y = _scores("reference", reference, one_axis=True)
    grid = np.union1d(x, y)  # [g]: the points where a step can be
    x_ecdf = _ecdf("sample", x, sample_weights, grid)  # [..., g]
    y_ecdf = _ecdf("reference", y, reference_weights, grid)
    return _unwrap(np.abs(x_ecdf - y_ecdf).max(axis=-1))


@dataclass(frozen=True)
class ForgetQuality:
    """A p-value and what is needed to read it: it saturates, and depends on the sample sizes.

    Compare `statistic` (or `log10_p` at equal n), never `p_value` across split sizes.
    """

    p_value: float
    log10_p: float
    statistic: float
    n: int
    n_reference: int


def forget_quality(sample_ratios: ArrayLike, reference_ratios: ArrayLike) -> ForgetQuality:
    """p-value of the two-sided KS test between the truth ratios of a model and the retain model.

    Range [0, 1]; higher is better: the forget items look as they do to a model that never saw
    them. p from `scipy.stats.ks_2samp`; TOFU (arXiv 2401.06121, section 2.2.2). `log10_p` stays
    finite: near and below the smallest float it is computed from the exact null distribution in
    log space (no ties assumed, as in scipy). ValueError for empty, nested or non-finite input.
    """
    from scipy.stats import ks_2samp  # slow to import

    sample = _scores("sample_ratios", sample_ratios, one_axis=True)
    reference = _scores("reference_ratios", reference_ratios, one_axis=True)
    with warnings.catch_warnings():
        # where rounding lifts the exact p of two like samples above 1, scipy takes the asymptotic
        # one, which is as close to 1, and says so: nothing that a reader could act upon
        warnings.filterwarnings("ignore", "ks_2samp: Exact calculation unsuccessful")
        test = ks_2samp(sample, reference)
    p_value, statistic = float(test.pvalue), float(test.statistic)
    if p_value > 1e-300:
        log10_p = math.log10(p_value)
    else:  # scipy's p loses its digits (subnormal floats) and then underflows to 0
        log10_p = log10_p_value(statistic, sample.size, reference.size)
    return ForgetQuality(p_value, log10_p, statistic, sample.size, reference.size)


def model_utility(components: Sequence[ArrayLike]) -> float | NDArray[np.float64]:
    """Harmonic mean of TOFU's nine: {probability, ROUGE-L recall, truth ratio} on the retain set,
    the real authors and the world facts.

    Range [0, 1]; higher is better; 0 if one is 0. TOFU (arXiv 2401.06121, section 2.2.1).
    ValueError unless there are exactly nine, and as for `harmonic_mean`.
    """
    if len(components) != 9:
        raise ValueError(
            f"model_utility got {len(components)} components: it needs nine (probability, ROUGE-L "
            "recall and truth ratio on retain, real authors and world facts)."
        )
    return harmonic_mean(*components)


def _ecdf(
    name: str, values: NDArray[np.float64], weights: ArrayLike | None, grid: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Share of the weight at or below each point of the grid, [..., g]."""
    n = values.size
    w = np.ones(n) if weights is None else _weights(f"{name}_weights", weights, n)
    order = np.argsort(values)
    cumulated = np.cumsum(w[..., order], axis=-1)  # [..., n]
    cumulated = np.concatenate([np.zeros((*cumulated.shape[:-1], 1)), cumulated], axis=-1)
    # side="right" passes all the ties of a value at once
    reached = cumulated[..., np.searchsorted(values[order], grid, "right")]
    return np.asarray(reached / cumulated[..., -1:])


def _scores(name: str, values: ArrayLike, one_axis: bool = False) -> NDArray[np.float64]:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim == 0 or scores.shape[-1] == 0 or (one_axis and scores.ndim > 1):
        raise ValueError(f"{name} has shape {scores.shape}: pass one score an item, at least one.")
    if not np.isfinite(scores).all():
        bad = tuple(int(i) for i in np.argwhere(~np.isfinite(scores))[0])
        raise ValueError(f"{name}{list(bad)} is {scores[bad]}: scores are finite.")
    return scores


def _weighted_sum(w: NDArray[Any], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """sum_i w_i v_i over the last axis; many rows of weights a few at a time, within the cache."""
    if w.ndim != 2 or scores.ndim != 1:
        return np.asarray((w * scores).sum(axis=-1))
    step = max(1, _BLOCK // scores.size)
    sums = np.empty(len(w))
    for start in range(0, len(w), step):
        sums[start : start + step] = (w[start : start + step] * scores).sum(axis=-1)
    return sums


def _weights(name: str, weights: ArrayLike, n: int) -> NDArray[Any]:
    """The weights, float64 or, where they are whole numbers, as they came: a copy costs time."""
    w = np.asarray(weights)
    if w.dtype.kind not in "iu" or (w.size and abs(int(w.max())) >= _EXACT):
        w = np.asarray(w, dtype=np.float64)
    if w.ndim == 0 or w.shape[-1] != n:
        raise ValueError(f"{name} has shape {w.shape} for {n} items: its last axis must be {n}.")
    if w.size and not (w.min() >= 0 and w.max() < np.inf):  # NaN is neither
        raise ValueError(f"{name} holds a negative or non-finite number: a weight is a count.")
    if not (w.sum(axis=-1) > 0).all():
        raise ValueError(f"{name} has a row that is all zero: no item counts in it.")
    return w


def _unwrap(result: NDArray[np.float64]) -> float | NDArray[np.float64]:
    return float(result) if np.ndim(result) == 0 else result
