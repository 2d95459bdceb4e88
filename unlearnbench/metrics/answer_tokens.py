"""Scores of one answer from its tokens: likelihood, exact memorization, extraction strength.

The model layer gives one log-probability and one greedy match a token. Likelihoods count the
closing EOS (TOFU, Maini et al. 2024, arXiv 2401.06121); the two memorization scores do not, and
the caller leaves it out.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

# log-softmax in float32 may put the log-probability of a certain token this far above 0
_ROUNDING = 1e-3


def nll(logprobs: ArrayLike) -> float:
    """Mean negative log-probability (nats a token) of an answer, its closing EOS counted.

    Range [0, inf]; lower means better known; inf if a token has probability zero.
    TOFU, section 2.2. ValueError for no tokens, NaN, or a value above 0.
    """
    tokens = np.asarray(logprobs, dtype=np.float64)
    if tokens.ndim != 1 or tokens.size == 0:
        raise ValueError(
            f"logprobs has shape {tokens.shape}: pass one log-probability a token of one answer, "
            "at least one (the EOS counts)."
        )
    if not (tokens <= _ROUNDING).all():
        bad = int(np.argmin(tokens <= _ROUNDING))
        raise ValueError(
            f"logprobs[{bad}] is {tokens[bad]}: a log-probability is a number of at most 0."
        )
    return max(0.0, -float(tokens.mean()))


def probability(logprobs: ArrayLike) -> float:
    """Length-normalised probability of an answer, exp(-nll) = P(answer | prompt)^(1/n).

    Range [0, 1]; higher means better known. TOFU, section 2.2. ValueError as for `nll`.
    """
    return float(np.exp(-nll(logprobs)))


def exact_memorization(greedy_matches: ArrayLike) -> float:
    """EM: share of the answer's tokens (no EOS) that are the argmax under teacher forcing.

    Range [0, 1]; higher means better memorized; 0 for no tokens. Tirumala et al. 2022
    (arXiv 2205.10770); as an unlearning metric OpenUnlearning (arXiv 2506.12618).
    ValueError unless one-dimensional.
    """
    matches = _matches(greedy_matches)
    return float(matches.mean()) if matches.size else 0.0


def extraction_strength(greedy_matches: ArrayLike) -> float:
    """ES: 1 - k/m, with k the shortest prefix of the m answer tokens (no EOS) after which every
    further token is the argmax.

    Range [0, 1]; higher means easier to extract; 1 if no prefix is needed, 0 if the last token is
    wrong and 0 for no tokens. Carlini et al. 2021 (arXiv 2012.07805); as an unlearning metric
    Wang et al. 2025 (arXiv 2406.09179). ValueError unless one-dimensional.
    """
    matches = _matches(greedy_matches)
    return 1.0 - _shortest_prefix(matches) / matches.size if matches.size else 0.0


def extraction_strength_ou(greedy_matches: ArrayLike) -> float:
    """ES as OpenUnlearning computes it: its search stops at k = m - 1, right or wrong.

    So 1/m where the last token is wrong (1.0 for a wrong one-token answer), elsewhere equal to
    `extraction_strength`. For comparison with published figures only; range and errors as there.
    """
    matches = _matches(greedy_matches)
    if not matches.size:
        return 0.0
    return 1.0 - min(_shortest_prefix(matches), matches.size - 1) / matches.size


def _matches(greedy_matches: ArrayLike) -> NDArray[np.bool_]:
    matches = np.asarray(greedy_matches, dtype=np.bool_)
    if matches.ndim != 1:
        raise ValueError(
            f"greedy_matches has shape {matches.shape}: pass the matches of one answer's tokens."
        )
    return matches


def _shortest_prefix(matches: NDArray[np.bool_]) -> int:
    wrong = np.flatnonzero(~matches)
    return int(wrong[-1]) + 1 if wrong.size else 0
