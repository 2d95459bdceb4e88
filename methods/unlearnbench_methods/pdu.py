"""pdu: primal-dual unlearning: forget under a bound on the retain loss (Entesari et al. 2025).

Minimise F subject to NLL(retain) <= epsilon. F flattens the logits: (max - mean)^2. The retain
term's weight is the constraint's multiplier, moved by dual ascent after each step:
lambda <- max(0, lambda + step (NLL(retain) - epsilon)).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from unlearnbench import Around, ForgetRequest, LanguageModel
from unlearnbench_methods.training import losses
from unlearnbench_methods.training.method import TrainedMethod
from unlearnbench_methods.training.objective import forget_term, retain_nll
from unlearnbench_methods.training.settings import RetainingConfig
from unlearnbench_methods.training.trainer import Objective


class PduConfig(RetainingConfig):
    """Defaults as published for TOFU (the authors' scripts)."""

    alpha: Annotated[float, Around(5)] = Field(
        100.0, ge=0, description="lambda at the start, the weight of the retain term"
    )
    epsilon: Annotated[float, Around(3)] = Field(
        0.3, ge=0, description="bound on NLL(retain), nats a token"
    )
    dual_step: float = Field(5.0, ge=0, description="step size of lambda")
    dual_warmup_epochs: int = Field(5, ge=0, description="epochs before lambda moves")


class Pdu(TrainedMethod[PduConfig]):
    """gamma mean (max logit - mean logit)^2 on forget + lambda (NLL(retain) - epsilon)."""

    name = "pdu"
    Config = PduConfig
    source = "arXiv:2506.05314"

    def objective(self, model: LanguageModel, request: ForgetRequest) -> Objective:
        config = self.config

        def ascend(
            epoch: int, weights: Mapping[str, float], losses_: Mapping[str, float]
        ) -> dict[str, float]:
            if epoch < config.dual_warmup_epochs or "retain" not in losses_:
                return dict(weights)
            excess = losses_["retain"] - config.epsilon
            moved = max(0.0, weights["retain"] + config.dual_step * excess)
            return {**weights, "retain": moved}

        return Objective(
            forget_term(
                request.forget, lambda a: losses.logit_margin(a.logits, a.mask), config.gamma
            ),
            retain_nll(request.retain, config.alpha),
            reweigh=ascend,
        )
