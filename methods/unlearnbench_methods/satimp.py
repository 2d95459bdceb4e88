"""satimp: gradient ascent weighed by saturation and importance (Yang et al. 2025).

Saturation p^beta1 favours tokens that are known well, importance (1 - p)^beta2 those that are not
known by heart.
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


class SatImpConfig(RetainingConfig):
    beta1: Annotated[float, Around(3)] = Field(5.0, ge=0, description="power of p")
    beta2: Annotated[float, Around(3)] = Field(1.0, ge=0, description="power of 1 - p")
    gamma: Annotated[float, Around(10)] = Field(0.1, ge=0, description="weight of forgetting")


class SatImp(TrainedMethod[SatImpConfig]):
    """gamma (-mean p^beta1 (1 - p)^beta2 l) + alpha NLL(retain), the weights constants."""

    name = "satimp"
    Config = SatImpConfig
    source = "arXiv:2505.11953"

    def objective(self, model: LanguageModel, request: ForgetRequest) -> Objective:
        config = self.config
        return Objective(
            forget_term(
                request.forget,
                lambda a: losses.satimp(a.logprobs, a.mask, config.beta1, config.beta2),
                config.gamma,
            ),
            retain_nll(request.retain, config.alpha),
        )
