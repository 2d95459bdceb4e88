"""kl-min: raise the loss on the forget set, hold the retain set's distributions where they were.

KL Minimization of TOFU (Maini et al. 2024, section 3.2).
"""

from __future__ import annotations

from unlearnbench import ForgetRequest, LanguageModel
from unlearnbench_methods.training.method import TrainedMethod
from unlearnbench_methods.training.objective import forget_ascent, retain_kl
from unlearnbench_methods.training.settings import RetainingConfig
from unlearnbench_methods.training.trainer import Objective


class KlMin(TrainedMethod[RetainingConfig]):
    """gamma (-NLL(forget)) + alpha KL(p_original || p) over the retain answers' tokens."""

    name = "kl-min"
    reads_original = True
    Config = RetainingConfig
    source = "arXiv:2401.06121"

    def objective(self, model: LanguageModel, request: ForgetRequest) -> Objective:
        return Objective(
            forget_ascent(request.forget, self.config.gamma),
            retain_kl(request.retain, self.config.alpha),
        )
