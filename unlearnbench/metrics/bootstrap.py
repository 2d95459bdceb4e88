"""Bootstrap over clusters of items: weights to draw once, replicates from any aggregate.

Items about one author, or of one seed, are not independent; so whole clusters are resampled
(Davison and Hinkley 1997, section 3.8). The generator depends on the task's data only, so that
replicate b is the same resample for every method, and differences between methods are paired:

    weights = cluster_weights(authors, 1000, seeded_generator("tofu", data_hash))
    low, high = percentile_interval(mean(scores, weights))
"""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def seeded_generator(*parts: str | int) -> np.random.Generator:
    """A generator whose seed is the SHA-256 of the parts: equal parts, equal numbers, anywhere.

    The order, the bounds and the types of the parts count: ("ab", "c"), ("a", "bc") and 1, "1"
    differ. TypeError for a part that is neither text nor an integer.
    """
    for part in parts:
        if not isinstance(part, str | int):
            raise TypeError(f"a seed is made of str and int, got {part!r} ({type(part).__name__}).")
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def cluster_weights(
    clusters: Sequence[str], n_resamples: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """How often each item counts in each resample, [n_resamples, n_items].

    `clusters` names the cluster of each item, in the items' order. A resample draws as many
    clusters as there are, with replacement; an item's weight is how often its cluster was drawn.
    Clusters are drawn in the order of their names: reordering the items reorders the columns and
    changes nothing else. With a single cluster all weights are 1, and an interval has no width.
    ValueError for no items or no resamples.
    """
    if len(clusters) == 0 or n_resamples < 1:
        raise ValueError(
            f"cluster_weights got {len(clusters)} items and n_resamples={n_resamples}: "
            "both must be at least 1."
        )
    names, cluster_of_item = np.unique(np.asarray(clusters), return_inverse=True)
    k = names.size
    drawn = generator.integers(k, size=(n_resamples, k))
    drawn += k * np.arange(n_resamples)[:, None]  # one range of bins a resample
    counts = np.bincount(drawn.ravel(), minlength=n_resamples * k).reshape(n_resamples, k)
    return counts[:, cluster_of_item].astype(np.int64, copy=False)


def percentile_interval(replicates: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """The percentile bootstrap interval: the (1 - level)/2 and (1 + level)/2 quantiles.

    Bounds lie within the replicates (Efron 1979). ValueError for no replicates, NaN, more than
    one axis, or a level outside (0, 1).
    """
    values = np.asarray(replicates, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or np.isnan(values).any():
        raise ValueError(
            f"replicates has shape {values.shape} and {int(np.isnan(values).sum())} NaN: "
            "pass the numbers of one metric, one a resample."
        )
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: pass a share between 0 and 1, such as 0.95.")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
