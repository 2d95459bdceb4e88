"""npo: Negative Preference Optimization (Zhang et al. 2024), the half of DPO that says no.

Its gradient is gradient ascent's times a weight that vanishes as the answer becomes less likely
than it was, so it forgets without running off (section 3).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from unlearnbench import Around, ForgetRequest, LanguageModel
from unlearnbench_methods.training import losses
from unlearnbench_methods.training.method import TrainedMethod
from unlearnbench_methods.training.objective import Answers, Term, alone, retain_kl, retain_nll
from unlearnbench_methods.training.settings import RetainingConfig
from unlearnbench_methods.training.trainer import Objective


class NpoConfig(RetainingConfig):
    beta: Annotated[float, Around(5)] = Field(
        0.1, gt=0, description="inverse temperature; towards 0 it is gradient ascent"
    )
    retain_loss: Literal["nll", "kl"] = Field(
        "nll", description="what holds the retain set: its NLL, or KL to the model before"
    )


class Npo(TrainedMethod[NpoConfig]):
    """gamma (-(2 / beta) mean log sigmoid(-beta log(p / p_original))) + alpha R (eq. 3)."""

    name = "npo"
    Config = NpoConfig
    source = "arXiv:2404.05868"

    def objective(self, model: LanguageModel, request: ForgetRequest) -> Objective:
        config = self.config

        def loss(a: Answers) -> Tensor:
            assert a.reference is not None
            return losses.npo(a.logprobs, a.reference, a.mask, config.beta)

        retain = {"nll": retain_nll, "kl": retain_kl}[config.retain_loss]
        return Objective(
            Term("forget", alone(request.forget), loss, config.gamma, reference=True),
            retain(request.retain, config.alpha),
        )
