"""wga: gradient ascent weighed by confidence (Weighted Gradient Ascent, Wang et al. 2025).

A token that is unlikely already is left alone: its weight is its own probability, to a power.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from unlearnbench import Around, ForgetRequest, LanguageModel
from unlearnbench_methods.training import losses
from unlearnbench_methods.training.method import TrainedMethod
from unlearnbench_methods.training.objective import forget_term, retain_nll
from unlearnbench_methods.training.settings import RetainingConfig
from unlearnbench_methods.training.trainer import Objective


class WgaConfig(RetainingConfig):
    beta: Annotated[float, Around(3)] = Field(1.0, ge=0, description="power of the probability")
    epochs: int = Field(5, ge=1, description="passes over the forget set")


class Wga(TrainedMethod[WgaConfig]):
    """gamma (-mean p^beta l) + alpha NLL(retain), the weights constants."""

    name = "wga"
    Config = WgaConfig
    source = "arXiv:2502.19301"

    def objective(self, model: LanguageModel, request: ForgetRequest) -> Objective:
        beta = self.config.beta
        return Objective(
            forget_term(
                request.forget, lambda a: losses.wga(a.logprobs, a.mask, beta), self.config.gamma
            ),
            retain_nll(request.retain, self.config.alpha),
        )
