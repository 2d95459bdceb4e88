"""grad-ascent: raise the loss on the forget set, and nothing else (Jang et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence

from unlearnbench import ForgetRequest, LanguageModel, Method, Progress, silent
from unlearnbench_methods.training.losses import ascent
from unlearnbench_methods.training.trainer import TrainingConfig, train


class GradAscent(Method[TrainingConfig]):
    """F = -NLL(forget), no retain term. Forgets, and destroys the model when run for long."""

    name = "grad-ascent"
    Config = TrainingConfig
    guarantee = "knowledge-removal"
    source = "arXiv:2210.01504"

    def may_change(self, model: LanguageModel) -> Sequence[str]:
        return ("*",)

    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        return train(model, request, self.config, ascent, progress)
