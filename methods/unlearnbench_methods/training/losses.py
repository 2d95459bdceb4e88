"""Unlearning losses: pure functions of what a model makes of the answers' tokens.

Shapes: `logprobs` and `reference` [rows, tokens] are the natural log-probabilities of the answers'
tokens, right-padded, under the model and under the model before unlearning; `mask` [rows, tokens]
is 1 at real tokens; `logits` and `original` [rows, tokens, vocab] are what predicts them; `tokens`
[rows, tokens] their ids. `l = -logprobs`, s = the sum of a row's log-probabilities.

A loss of tokens returns [rows, tokens], 0 at padding: its mean is over all answer tokens of a step.
A loss of sequences returns [rows]: its mean is over the rows of a step. Nobody averages over a
micro-batch, so the mean does not depend on how a step is cut into batches or spread over devices.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def mean_nll(logprobs: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy over the answer tokens of one batch, in nats: a scalar."""
    return nll(logprobs, mask).sum() / mask.sum()


def nll(logprobs: Tensor, mask: Tensor) -> Tensor:
    """l, the cross-entropy of each answer token in nats: [rows, tokens]."""
    return -logprobs * mask


def ascent(logprobs: Tensor, mask: Tensor) -> Tensor:
    """-l: GradAscent (Jang et al. 2023, eq. 1; TOFU, Maini et al. 2024, section 3.2)."""
    return -nll(logprobs, mask)


def kl_to_original(logits: Tensor, original: Tensor, mask: Tensor) -> Tensor:
    """KL(p_original || p) of each answer token's distribution in nats: [rows, tokens].

    TOFU (Maini et al. 2024, section 3.2), where the sum runs over the vocabulary.
    """
    log_p, log_q = original.log_softmax(-1), logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1) * mask


def npo(logprobs: Tensor, reference: Tensor, mask: Tensor, beta: float) -> Tensor:
    """-(2 / beta) log sigmoid(-beta (s - s_ref)): [rows] (NPO, Zhang et al. 2024, eq. 3)."""
    ratio = ((logprobs - reference) * mask).sum(-1)
    return -2 / beta * logsigmoid(-beta * ratio)


def simnpo(logprobs: Tensor, mask: Tensor, beta: float, delta: float) -> Tensor:
    """-(2 / beta) log sigmoid(-beta s / n - delta): [rows] (SimNPO, Fan et al. 2024, eq. 4).

    The paper's eq. 4 subtracts gamma outside of the product with beta; published code (and so every
    published number) subtracts `delta` inside of it, as done here: beta (-s / n - delta). At the
    default of 0 the two are one.
    """
    mean_loss = nll(logprobs, mask).sum(-1) / mask.sum(-1)
    return -2 / beta * logsigmoid(beta * (mean_loss - delta))


def dpo(
    preferred: Tensor,
    preferred_reference: Tensor,
    preferred_mask: Tensor,
    refused: Tensor,
    refused_reference: Tensor,
    refused_mask: Tensor,
    beta: float,
) -> Tensor:
    """-(2 / beta) log sigmoid(beta (ratio of the preferred - ratio of the refused)): [rows].

    DPO (Rafailov et al. 2023, eq. 7) with NPO's factor 2 / beta (Zhang et al. 2024, section 2).
    """
    won = ((preferred - preferred_reference) * preferred_mask).sum(-1)
    lost = ((refused - refused_reference) * refused_mask).sum(-1)
    return -2 / beta * logsigmoid(beta * (won - lost))


def wga(logprobs: Tensor, mask: Tensor, beta: float) -> Tensor:
    """-p^beta l, the weight a constant: [rows, tokens] (Wang et al. 2025, arXiv:2502.19301)."""
    return logprobs.exp().detach() ** beta * ascent(logprobs, mask)


def satimp(logprobs: Tensor, mask: Tensor, beta1: float, beta2: float) -> Tensor:
    """-p^beta1 (1 - p)^beta2 l, the weight a constant: [rows, tokens].

    SatImp (Yang et al. 2025, arXiv:2505.11953): saturation times importance.
    """
    p = logprobs.exp().detach()
    return p**beta1 * (1 - p) ** beta2 * ascent(logprobs, mask)


def undial(
    logits: Tensor, original: Tensor, tokens: Tensor, mask: Tensor, strength: float
) -> Tensor:
    """Cross-entropy to softmax(z_original - strength onehot(token)): [rows, tokens].

    UNDIAL (Dong et al. 2024, arXiv:2402.10052): the teacher is the model before unlearning, with
    the memorised token's logit lowered.
    """
    lowered = original.scatter_add(
        -1, tokens[..., None], torch.full_like(original[..., :1], -strength)
    )
    return _cross_entropy(logits, lowered) * mask


def ce_u(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy to the model's own distribution without the true token: [rows, tokens].

    CE-U (Yang 2025, arXiv:2503.01224): the target is a constant, its logit at the token -inf.
    """
    barred = logits.detach().scatter(-1, tokens[..., None], float("-inf"))
    return _cross_entropy(logits, barred) * mask


def logit_margin(logits: Tensor, mask: Tensor) -> Tensor:
    """(max logit - mean logit)^2: [rows, tokens]; 0 where the distribution is uniform.

    Logit-margin flattening (Entesari et al. 2025, arXiv:2506.05314, the forgetting loss of PDU).
    """
    return (logits.amax(-1) - logits.mean(-1)) ** 2 * mask


def distance(states: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """|h - wanted|^2 of each answer token's hidden state [rows, tokens, d]: [rows, tokens].

    Both losses of RMU (Li et al. 2024, arXiv:2403.03218, section 4.2).
    """
    return ((states - wanted) ** 2).sum(-1) * mask


def _cross_entropy(logits: Tensor, target_logits: Tensor) -> Tensor:
    return -(target_logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)
