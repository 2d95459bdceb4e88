"""Membership inference: can an attacker tell that the forget set was trained on?

Four attacks score one answer each (`mia_loss`, `mia_zlib`, `mia_min_k`, `mia_min_k_plus_plus`);
every score is higher the more the answer looks like one that was never seen. `auc` says how well a
score parts the forget set from a holdout that no model saw, `privleak` and `mia_closeness` how far
that is from what a model without the forget set gives away. Likelihoods count the closing EOS, the
Min-K scores do not, and the caller leaves it out.
"""

import zlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unlearnbench.metrics.aggregate import _scores, _unwrap, _weights
from unlearnbench.metrics.answer_tokens import nll

#: Share of an answer's tokens that the Min-K scores look at (MUSE, OpenUnlearning: 0.4).
K = 0.4

#: Below this a variance is that of a model that knows one token only (OpenUnlearning's floor).
_LEAST_DEVIATION = 1e-3
#: A reference of 0 is divided by as this (OpenUnlearning's floor).
_LEAST_REFERENCE = 1e-10


def mia_loss(logprobs: ArrayLike) -> float:
    """Nats a token of an answer, its closing EOS counted: `nll`, as an attack.

    Range [0, inf]; higher looks more like unseen. Yeom et al. 2018 (arXiv 1709.01604).
    ValueError as for `nll`.
    """
    return nll(logprobs)


def mia_zlib(logprobs: ArrayLike, text: str) -> float:
    """`nll` of an answer over the bytes that zlib packs its text into (UTF-8, default level).

    What is plain to a compressor is likely without having been seen. Range [0, inf]; higher looks
    more like unseen. Carlini et al. 2021 (arXiv 2012.07805), with the mean over
    tokens as OpenUnlearning (arXiv 2506.12618) takes it. ValueError as for `nll`.
    """
    return nll(logprobs) / len(zlib.compress(text.encode(errors="replace")))


def mia_min_k(logprobs: ArrayLike, k: float = K) -> float:
    """Minus the mean of the lowest share `k` of an answer's log-probabilities (no EOS).

    floor(k n) of n tokens, at least one. Range [0, inf]; higher looks more like unseen. Shi et al.
    2024 (arXiv 2310.16789); k as in MUSE (arXiv 2407.06460). ValueError for no tokens,
    numbers that are not log-probabilities, or a k outside (0, 1].
    """
    nll(logprobs)  # refuses what is no log-probability
    return max(0.0, -_lowest_mean(np.asarray(logprobs, dtype=np.float64), k))


def mia_min_k_plus_plus(
    logprobs: ArrayLike, means: ArrayLike, deviations: ArrayLike, k: float = K
) -> float:
    """`mia_min_k` of standardised log-probabilities (log p - mean) / deviation, each [n].

    `means` and `deviations` are those of log p over the vocabulary, each token weighed by its
    probability, at the same positions (no EOS). A deviation counts as at least 1e-3. Range
    (-inf, inf); higher looks more like unseen. Zhang et al. 2024 (arXiv 2404.02936). ValueError
    as for `mia_min_k`, and for other lengths or a negative deviation.
    """
    nll(logprobs)
    tokens, mean, deviation = (
        np.asarray(a, dtype=np.float64) for a in (logprobs, means, deviations)
    )
    if not (tokens.shape == mean.shape == deviation.shape):
        raise ValueError(
            f"logprobs has shape {tokens.shape}, means {mean.shape} and deviations "
            f"{deviation.shape}: pass one of each a token."
        )
    if not (np.isfinite(mean).all() and (deviation >= 0).all()):
        raise ValueError("means are finite and deviations at least 0, a token each.")
    return -_lowest_mean((tokens - mean) / np.maximum(deviation, _LEAST_DEVIATION), k)


def auc(
    forget_scores: ArrayLike,
    holdout_scores: ArrayLike,
    forget_weights: ArrayLike | None = None,
    holdout_weights: ArrayLike | None = None,
) -> float | NDArray[np.float64]:
    """How often a holdout item scores higher than a forget item; ties count half.

    `forget_scores` is [n], `holdout_scores` [m]; their weights [..., n] and [..., m] broadcast in
    the leading axes. Range [0, 1]: 1 where the attacker tells every forget item by its lower
    score, 0.5 where it guesses; better is what the retain model gives. For unit weights scikit-
    learn's `roc_auc_score` with label 0 for forget and 1 for holdout (OpenUnlearning's direction).
    ValueError as for `mean`, and for scores of more than one dimension.
    """
    forget = _scores("forget_scores", forget_scores, one_axis=True)
    holdout = _scores("holdout_scores", holdout_scores, one_axis=True)
    n, m = forget.size, holdout.size
    w = np.ones(n) if forget_weights is None else _weights("forget_weights", forget_weights, n)
    v = np.ones(m) if holdout_weights is None else _weights("holdout_weights", holdout_weights, m)
    order = np.argsort(holdout)
    below = np.cumsum(v[..., order], axis=-1)
    below = np.concatenate([np.zeros((*below.shape[:-1], 1)), below], axis=-1)  # [..., m + 1]
    total = below[..., -1:]
    # Holdout weight below, and at or below, each forget item's score: [..., n]
    under = below[..., np.searchsorted(holdout[order], forget, "left")]
    up_to = below[..., np.searchsorted(holdout[order], forget, "right")]
    above = total - (under + up_to) / 2
    return _unwrap((w * above).sum(axis=-1) / (w.sum(axis=-1) * total[..., 0]))


def privleak(model_auc: ArrayLike, retain_auc: ArrayLike) -> float | NDArray[np.float64]:
    """Privacy leakage in percent: (a - r) / r * 100, a and r being 1 - AUC of model and oracle.

    MUSE (arXiv 2407.06460) with the AUC of `mia_min_k`. Its code counts
    forget items as the ones that score high, so its AUC is 1 - `auc`. Range [-100, inf): 0 is best,
    below it the forget set is known too well, above it too badly (it stands out as unlearned).
    Elementwise over broadcast arrays; r counts as at least 1e-10. ValueError for an AUC outside
    [0, 1].
    """
    model, retain = 1 - _share("model_auc", model_auc), 1 - _share("retain_auc", retain_auc)
    return _unwrap((model - retain) / np.maximum(retain, _LEAST_REFERENCE) * 100)


def mia_closeness(model_auc: ArrayLike, retain_auc: ArrayLike) -> float | NDArray[np.float64]:
    """1 - |AUC_model - AUC_retain| / AUC_retain, at least 0: does the attacker find what he finds
    on a model that never saw the forget set?

    Range [0, 1]; higher is better; elementwise over broadcast arrays, AUC_retain counting as at
    least 1e-10. OpenUnlearning's privacy score (arXiv 2506.12618). ValueError for an AUC outside
    [0, 1].
    """
    model, retain = _share("model_auc", model_auc), _share("retain_auc", retain_auc)
    return _unwrap(np.clip(1 - np.abs(model - retain) / np.maximum(retain, _LEAST_REFERENCE), 0, 1))


def _lowest_mean(values: NDArray[np.float64], k: float) -> float:
    if not 0 < k <= 1:
        raise ValueError(f"k is {k}: pass a share of the tokens, above 0 and at most 1.")
    # 0.29 * 100 is a hair below 29 in floating point
    count = max(1, int(k * values.size + 1e-9))
    return float(np.sort(values)[:count].mean())


def _share(name: str, values: ArrayLike) -> NDArray[np.float64]:
    shares = np.asarray(values, dtype=np.float64)
    bad = ~((shares >= 0) & (shares <= 1))
    if bad.any():
        raise ValueError(f"{name} holds {shares[bad].flat[0]}: an AUC lies between 0 and 1.")
    return shares
