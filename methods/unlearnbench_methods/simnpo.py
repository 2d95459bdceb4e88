"""simnpo: NPO without a reference model, by length-normalised log-likelihood (Fan et al. 2024)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from unlearnbench import Around, ForgetRequest, LanguageModel
from unlearnbench_methods.training import losses
from unlearnbench_methods.training.method import TrainedMethod
from unlearnbench_methods.training.objective import forget_term, retain_nll
from unlearnbench_methods.training.settings import RetainingConfig
from unlearnbench_methods.training.trainer import Objective


class SimNpoConfig(RetainingConfig):
    beta: Annotated[float, Around(2)] = Field(4.5, gt=0, description="inverse temperature")
    delta: float = Field(0.0, description="mean NLL, in nats, that is forgotten enough: a margin")
    gamma: Annotated[float, Around(4)] = Field(0.125, ge=0, description="weight of forgetting")


class SimNpo(TrainedMethod[SimNpoConfig]):
    """gamma (-(2 / beta) mean log sigmoid(beta (mean NLL - delta))) + alpha NLL(retain)."""

    name = "simnpo"
    Config = SimNpoConfig
    source = "arXiv:2410.07163"

    def objective(self, model: LanguageModel, request: ForgetRequest) -> Objective:
        beta, delta = self.config.beta, self.config.delta
        return Objective(
            forget_term(
                request.forget,
                lambda a: losses.simnpo(a.logprobs, a.mask, beta, delta),
                self.config.gamma,
            ),
            retain_nll(request.retain, self.config.alpha),
        )
