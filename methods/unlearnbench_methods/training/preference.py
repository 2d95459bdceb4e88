"""The forget term that prefers one answer to another."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from unlearnbench import Example
from unlearnbench_methods.training import losses
from unlearnbench_methods.training.objective import Answers, Term


def preference_term(
    preferred: Sequence[Example], refused: Sequence[Example], beta: float, weight: float
) -> Term:
    """DPO on pairs of answers to the same prompts, in order."""

    def loss(won: Answers, lost: Answers) -> Tensor:
        assert won.reference is not None
        assert lost.reference is not None
        return losses.dpo(
            won.logprobs,
            won.reference,
            won.mask,
            lost.logprobs,
            lost.reference,
            lost.mask,
            beta,
        )

    pairs = list(zip(preferred, refused, strict=True))
    return Term("forget", pairs, loss, weight, reference=True)
