"""Unlearning losses: pure functions of answer-token log-probabilities and their mask."""

from __future__ import annotations

import torch


def mean_nll(logprobs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the answer tokens of a batch, in nats.

    `logprobs` [rows, tokens] of the actual tokens, `mask` [rows, tokens] 1 at answer tokens.
    """
    return -(logprobs * mask).sum() / mask.sum()


def ascent(logprobs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """GradAscent: -NLL(forget) (Maini et al. 2024, section 3.2; Jang et al. 2023)."""
    return -mean_nll(logprobs, mask)
