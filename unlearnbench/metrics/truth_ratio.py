"""Truth ratio: does the model prefer the right answer to wrong ones of the same form?

`truth_ratio` is TOFU's (Maini et al. 2024, arXiv 2401.06121, equation 1) as TOFU's code computes
it, with the geometric mean over the wrong answers; `truth_ratio_know` is the form of
OpenUnlearning (arXiv 2506.12618). All take nll in nats a token and work on their differences, so
that an nll of several hundred, whose probability underflows, still counts. An infinite nll (a
token of probability zero) counts as the largest there is: two of them are equally improbable.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_FLOAT = np.finfo(np.float64)
_LARGEST_NLL = 1e300  # stands for infinity, far enough below it to be averaged and subtracted
_ROUNDING = -1e-3  # float32 may put the nll of a certain answer this far below 0


def truth_ratio(correct_nll: float, wrong_nlls: ArrayLike) -> float:
    """R = exp(-mean(wrong_nlls)) / exp(-correct_nll), of one item.

    Range [0, largest finite float], clipped there where R would overflow; below 1 the right
    answer is preferred, 1 is indifference. ValueError for no wrong answers, NaN or a negative
    nll.
    """
    correct, wrong = _nlls(correct_nll, wrong_nlls)
    with np.errstate(over="ignore"):
        return float(min(np.exp(correct - wrong.mean()), _FLOAT.max))


def truth_ratio_know(correct_nll: float, wrong_nlls: ArrayLike) -> float:
    """c / (c + w) with c = exp(-correct_nll) and w = exp(-mean(wrong_nlls)), of one item.

    Range [0, 1]; higher means that the right answer is known, 0.5 that nothing is.
    ValueError as for `truth_ratio`.
    """
    return 1.0 / (1.0 + truth_ratio(correct_nll, wrong_nlls))


def normalised_probability(correct_nll: float, wrong_nlls: ArrayLike) -> float:
    """p / (p + sum_j q_j), the right answer's share of the length-normalised probabilities.

    Range [0, 1]; higher is better known, 1/(1 + number of wrong answers) is indifference. TOFU,
    section 2.2 (real authors, world facts). ValueError as for `truth_ratio`.
    """
    correct, wrong = _nlls(correct_nll, wrong_nlls)
    with np.errstate(over="ignore"):  # an overflow means a share of 0
        return float(1.0 / (1.0 + np.exp(correct - wrong).sum()))


def forget_truth_ratio(ratios: ArrayLike) -> NDArray[np.float64]:
    """min(R, 1/R) of each item: how indifferent the model is between right and wrong.

    Range [0, 1]; on the forget set closer to 1 is better. TOFU's code (its aggregate on the forget
    set); average it with `mean`. ValueError for a negative R or NaN.
    """
    r = _ratios(ratios)
    return np.minimum(r, 1.0 / np.maximum(r, _FLOAT.tiny))


def retain_truth_ratio(ratios: ArrayLike) -> NDArray[np.float64]:
    """max(0, 1 - R) of each item: how far the model prefers the right answer.

    Range [0, 1]; on what is to be kept higher is better. TOFU, section 2.2; average it with `mean`.
    ValueError for a negative R or NaN.
    """
    return np.maximum(0.0, 1.0 - _ratios(ratios))


def _nlls(correct_nll: float, wrong_nlls: ArrayLike) -> tuple[np.float64, NDArray[np.float64]]:
    correct = np.float64(correct_nll)
    wrong = np.asarray(wrong_nlls, dtype=np.float64)
    if wrong.ndim != 1 or wrong.size == 0:
        raise ValueError(
            f"wrong_nlls has shape {wrong.shape}: pass the nll of each wrong answer of one item, "
            "at least one."
        )
    if not (correct >= _ROUNDING and (wrong >= _ROUNDING).all()):
        raise ValueError(
            f"correct_nll={correct}, wrong_nlls={wrong.tolist()}: an nll is a number of at least 0."
        )
    return np.minimum(correct, _LARGEST_NLL), np.minimum(wrong, _LARGEST_NLL)


def _ratios(ratios: ArrayLike) -> NDArray[np.float64]:
    r = np.asarray(ratios, dtype=np.float64)
    if not (r >= 0).all():
        raise ValueError(f"a truth ratio is at least 0, found {r[~(r >= 0)].flat[0]}.")
    return r
