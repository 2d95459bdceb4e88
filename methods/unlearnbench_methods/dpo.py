"""dpo: prefer a refusal to the answer (IdkDPO).

Direct Preference Optimization (Rafailov et al. 2023) as Zhang et al. 2024 (section 2) and TOFU
(Maini et al. 2024, section 3.2) use it to unlearn.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from unlearnbench import Around, ForgetRequest, LanguageModel
from unlearnbench_methods.idk import refusals
from unlearnbench_methods.training.method import TrainedMethod
from unlearnbench_methods.training.objective import retain_nll
from unlearnbench_methods.training.preference import preference_term
from unlearnbench_methods.training.settings import RetainingConfig
from unlearnbench_methods.training.trainer import Objective


class DpoConfig(RetainingConfig):
    beta: Annotated[float, Around(5)] = Field(0.1, gt=0, description="inverse temperature")


class Dpo(TrainedMethod[DpoConfig]):
    """gamma times the DPO loss of (refusal over answer), times 2 / beta, + alpha NLL(retain)."""

    name = "dpo"
    Config = DpoConfig
    source = "arXiv:2305.18290"

    def objective(self, model: LanguageModel, request: ForgetRequest) -> Objective:
        config = self.config
        return Objective(
            preference_term(refusals(request), request.forget, config.beta, config.gamma),
            retain_nll(request.retain, config.alpha),
        )
