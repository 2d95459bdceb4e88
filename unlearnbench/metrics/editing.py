"""Scores of a forgotten or edited fact: is it recalled, how far did it fall, where does it rank?

Facts are short completions ("The mother tongue of Ann is" French). A fact is recalled where every
token of its object is the model's first choice; probabilities are per token, without a closing EOS.
metrics.md, section 5.
"""

import math
import re
from collections import Counter

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unlearnbench.metrics.aggregate import _scores, _unwrap, _weights

_WORD = re.compile(r"\w+|[^\w\s]")


def recalled(greedy: ArrayLike) -> bool:
    """Is every token of the object the model's first choice, given the object so far?

    `greedy` is bool [tokens], without EOS. True means the fact is known. ValueError for no tokens.
    """
    first_choices = np.asarray(greedy, dtype=np.bool_)
    if first_choices.ndim != 1 or not first_choices.size:
        raise ValueError(f"greedy has shape {first_choices.shape}: pass one value a token.")
    return bool(first_choices.all())


def probability_drop(before: ArrayLike, after: ArrayLike) -> NDArray[np.float64]:
    """Per item 1 - p_after / p_before, clipped to [0, 1]; higher is more forgotten.

    0 where the object is as probable as before or more so, and where it had no probability to lose.
    metrics.md, section 5. ValueError for probabilities outside [0, 1] or of unequal shapes.
    """
    old, new = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if old.shape != new.shape:
        raise ValueError(f"before has shape {old.shape} and after {new.shape}: pair the items.")
    for name, p in (("before", old), ("after", new)):
        if not ((p >= 0) & (p <= 1)).all():
            raise ValueError(f"{name} holds a number outside [0, 1]: pass probabilities.")
    share = np.divide(new, old, out=np.ones_like(new), where=old > 0)
    return np.clip(1.0 - share, 0.0, 1.0)


def prefers(wanted_nll: ArrayLike, other_nll: ArrayLike) -> NDArray[np.float64]:
    """Per item 1 where the wanted object is more probable per token than the other; a tie is 0.

    The classic editing scores are means of it (ROME, arXiv 2202.05262, section 3.3): efficacy and
    paraphrase of (new, true), neighborhood of (true, new). Both nlls are mean nats a token.
    """
    return (np.asarray(wanted_nll, np.float64) < np.asarray(other_nll, np.float64)).astype(float)


def share_kept(after: ArrayLike, before: ArrayLike) -> float | NDArray[np.float64]:
    """after / before, elementwise; 0 where before is 0 (nothing was there to keep).

    Above 1 where there is more than before. ValueError for negative numbers.
    """
    now, then = np.asarray(after, np.float64), np.asarray(before, np.float64)
    if (now < 0).any() or (then < 0).any():
        raise ValueError("share_kept got a negative number: pass accuracies.")
    now, then = np.broadcast_arrays(now, then)
    return _unwrap(np.divide(now, then, out=np.zeros(now.shape), where=then > 0))


def median(values: ArrayLike, weights: ArrayLike | None = None) -> float | NDArray[np.float64]:
    """Weighted median of `values` [n]: the middle of the items, each as often as it counts.

    `weights` are counts [..., n]; returns [...] (a float for one row). Of an even number of items
    it is the mean of the two in the middle. ValueError as for `mean`, and for weights that are no
    whole numbers.
    """
    scores = _scores("values", values, one_axis=True)
    n = scores.size
    w = np.ones(n) if weights is None else _weights("weights", weights, n)
    if (w != np.round(w)).any():
        raise ValueError("weights holds a broken number: a weight is how often an item counts.")
    order = np.argsort(scores, kind="stable")
    cumulated = np.cumsum(w[..., order], axis=-1)  # [..., n]
    total = cumulated[..., -1:]

    def item(place: NDArray[np.float64]) -> NDArray[np.float64]:
        """The value at a 1-based place among the repeated items, [...]."""
        found: NDArray[np.float64] = scores[order][(cumulated < place).sum(axis=-1)]
        return found

    lower, upper = np.floor((total + 1) / 2), np.ceil((total + 1) / 2)
    return _unwrap((item(lower) + item(upper)) / 2)


def generation_entropy(text: str) -> float:
    """Entropy of a text's 2-grams and 3-grams of words, in bits: (2/3 H_2 + 4/3 H_3) / 2.

    ROME's `n_gram_entropy` (arXiv 2202.05262, section 3.3, there called fluency and shown times
    100): low where a text repeats itself, and where it is short. Words are runs of letters and
    digits, and single other signs. 0 for a text with at most one 2-gram. Raises nothing.
    """
    words = _WORD.findall(text)
    two, three = (
        _entropy(Counter(zip(*(words[i:] for i in range(n)), strict=False))) for n in (2, 3)
    )
    return (2 / 3 * two + 4 / 3 * three) / 2


def _entropy(counts: Counter[tuple[str, ...]]) -> float:
    total = counts.total()
    return -math.fsum(c / total * math.log2(c / total) for c in counts.values()) + 0.0
