"""Sampled answers: how much the best of k samples gives away, and bounds on it.

A model whose likeliest answer is harmless may still tell the truth now and then. `leak_at_k` is
what somebody finds who samples k answers and can tell the best.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray


def leak_at_k(scores: ArrayLike, k: int) -> float | NDArray[np.float64]:
    """The expected best score of k samples, estimated without bias from n: [..., n] to [...].

    sum_i C(i-1, k-1) / C(n, k) s_(i) over the sorted scores s_(1) <= ... <= s_(n): the mean of the
    maximum over all subsets of k samples. Range of the scores; k = 1 is their mean, k = n their
    maximum, and it never falls with k. Higher means more is given away. For scores of 0 and 1 it is
    pass@k (Chen et al. 2021, arXiv 2107.03374, equation 1). leak@k: Reisizadeh et al. 2025, arXiv
    2511.04934. ValueError for no samples, a score that is not finite, or k outside 1 to n.
    """
    samples = _finite("scores", scores)
    n = samples.shape[-1]
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}: the best of k samples needs k from 1 to {n}, their number.")
    ordered = np.sort(samples, axis=-1)
    # Rounding must not carry it past the scores that it lies between.
    leak = np.clip(ordered @ _weights(n, k), ordered[..., 0], ordered[..., -1])
    return float(leak) if leak.ndim == 0 else leak


@lru_cache(maxsize=64)
def _weights(n: int, k: int) -> NDArray[np.float64]:
    """[n], how likely the i-th smallest of n is the largest of k that are drawn from them."""
    total = math.comb(n, k)
    return np.array([math.comb(i, k - 1) / total for i in range(n)])


def expected_leak_bound(scores: ArrayLike, confidence: float = 0.95) -> float:
    """The most that one more sample is expected to give away, with this confidence: from [n].

    The one-sided bound on the mean of scores in [0, 1] from the band of Dvoretzky, Kiefer and
    Wolfowitz around their distribution: e = sqrt(ln(1 / (1 - confidence)) / 2n) of the mass, the
    lowest, may as well lie at 1. Range [0, 1], never below the mean, and 0.31 for sixteen samples
    that all give nothing. Scholten et al. 2024, arXiv 2410.03523 (expectation bound), integrated
    exactly. ValueError for no samples, scores outside [0, 1], or a confidence outside [0.5, 1).
    """
    samples = np.sort(_share("scores", scores))
    band = _band(len(samples), confidence)
    # Each sample holds 1/n of the mass; the band takes it from the lowest ones up.
    taken = np.clip(band * len(samples) - np.arange(len(samples)), 0.0, 1.0) / len(samples)
    kept = float(samples @ (1.0 / len(samples) - taken))
    return min(1.0, max(float(samples.mean()), kept + float(taken.sum())))


def leak_upper_bound(
    leaks: ArrayLike, samples: ArrayLike, k: int, confidence: float = 0.95
) -> float:
    """The most that the mean leak@k of these items is expected to be, with this confidence.

    `leaks` [items] are their `leak_at_k` of scores in [0, 1], `samples` [items] how many samples
    each is of. Hoeffding's bound for averages over subsets (Hoeffding 1963, section 5): n samples
    hold b = n // k sets of k that share none, so the mean leak + sqrt(ln(1 / (1 - confidence))
    sum_i 1/b_i / 2) / items, at most 1. It is about the luck of sampling, for these items and no
    others. ValueError for no items, a leak outside [0, 1], fewer than k samples, or a confidence
    outside [0.5, 1).
    """
    found = _share("leaks", leaks)
    blocks = np.asarray(samples, dtype=np.int64) // k
    if blocks.shape != found.shape or (blocks < 1).any():
        raise ValueError(f"samples needs a number of at least k = {k} for each of {len(found)}.")
    band = _band(1, confidence) * math.sqrt(float((1.0 / blocks).sum())) / len(found)
    return min(1.0, float(found.mean()) + band)


def _band(n: int, confidence: float) -> float:
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence is {confidence}: it must be at least 0.5 and below 1.")
    return math.sqrt(-math.log(1 - confidence) / (2 * n))


def _finite(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"{name} needs at least one number, all of them finite.")
    return array


def _share(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = _finite(name, values)
    if array.ndim != 1 or ((array < 0) | (array > 1)).any():
        raise ValueError(f"{name} must be one row of numbers from 0 to 1.")
    return array
