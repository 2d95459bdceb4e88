"""ce-u: cross-entropy unlearning (Yang 2025): towards what the model would say without the token.

The target is the model's own distribution with the true token barred, so the gradient neither
vanishes where the model is sure nor grows where it is not. No retain term in the paper: alpha is 0.
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


class CeUConfig(RetainingConfig):
    alpha: Annotated[float, Around(5)] = Field(0.0, ge=0, description="weight of the retain term")


class CeU(TrainedMethod[CeUConfig]):
    """gamma CE(softmax(z with the answer's logit at -inf), p) + alpha NLL(retain)."""

    name = "ce-u"
    Config = CeUConfig
    source = "arXiv:2503.01224"

    def objective(self, model: LanguageModel, request: ForgetRequest) -> Objective:
        return Objective(
            forget_term(
                request.forget,
                lambda a: losses.ce_u(a.logits, a.tokens, a.mask),
                self.config.gamma,
            ),
            retain_nll(request.retain, self.config.alpha),
        )
