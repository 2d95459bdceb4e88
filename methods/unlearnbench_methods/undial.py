"""undial: self-distillation from a teacher that knows the memorised token less (Dong et al. 2024).

The teacher is the model before unlearning with the true token's logit lowered, so the student
learns a whole distribution, and cannot run off as gradient ascent does.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from unlearnbench import Around, ForgetRequest, LanguageModel
from unlearnbench_methods.training import losses
from unlearnbench_methods.training.method import TrainedMethod
from unlearnbench_methods.training.objective import Answers, Term, alone, retain_nll
from unlearnbench_methods.training.settings import RetainingConfig
from unlearnbench_methods.training.trainer import Objective


class UndialConfig(RetainingConfig):
    learning_rate: Annotated[float, Around(8)] = Field(1e-4, gt=0, description="of AdamW")
    beta: Annotated[float, Around(3)] = Field(
        10.0, ge=0, description="what the logit is lowered by"
    )
    alpha: Annotated[float, Around(5)] = Field(0.0, ge=0, description="weight of the retain term")


class Undial(TrainedMethod[UndialConfig]):
    """gamma CE(softmax(z_original - beta onehot(answer)), p) + alpha NLL(retain)."""

    name = "undial"
    reads_original = True
    Config = UndialConfig
    source = "arXiv:2402.10052"

    def objective(self, model: LanguageModel, request: ForgetRequest) -> Objective:
        config = self.config

        def loss(a: Answers) -> Tensor:
            return losses.undial(a.logits, a.original_logits, a.tokens, a.mask, config.beta)

        return Objective(
            Term("forget", alone(request.forget), loss, config.gamma, original=True),
            retain_nll(request.retain, config.alpha),
        )
