"""grad-ascent: raise the loss on the forget set, and nothing else (Jang et al. 2023)."""

from __future__ import annotations

from unlearnbench import ForgetRequest, LanguageModel
from unlearnbench_methods.training.method import TrainedMethod
from unlearnbench_methods.training.objective import forget_ascent
from unlearnbench_methods.training.settings import TrainingConfig
from unlearnbench_methods.training.trainer import Objective


class GradAscent(TrainedMethod[TrainingConfig]):
    """F = -NLL(forget), no retain term. Forgets, and destroys the model when run for long."""

    name = "grad-ascent"
    version = "2"
    Config = TrainingConfig
    source = "arXiv:2210.01504"

    def objective(self, model: LanguageModel, request: ForgetRequest) -> Objective:
        return Objective(forget_ascent(request.forget))
