"""grad-diff: raise the loss on the forget set while lowering it on the retain set.

GradDiff of Maini et al. 2024 (TOFU, section 3.2), after Liu et al. 2022.
"""

from __future__ import annotations

from unlearnbench import ForgetRequest, LanguageModel
from unlearnbench_methods.training.method import TrainedMethod
from unlearnbench_methods.training.objective import forget_ascent, retain_nll
from unlearnbench_methods.training.settings import RetainingConfig
from unlearnbench_methods.training.trainer import Objective


class GradDiff(TrainedMethod[RetainingConfig]):
    """gamma (-NLL(forget)) + alpha NLL(retain)."""

    name = "grad-diff"
    version = "2"
    Config = RetainingConfig
    source = "arXiv:2401.06121"

    def objective(self, model: LanguageModel, request: ForgetRequest) -> Objective:
        return Objective(
            forget_ascent(request.forget, self.config.gamma),
            retain_nll(request.retain, self.config.alpha),
        )
