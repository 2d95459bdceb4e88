"""grad-diff: raise the loss on the forget set while lowering it on the retain set.

GradDiff of Maini et al. 2024 (TOFU, section 3.2), after Liu et al. 2022.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from unlearnbench import ForgetRequest, LanguageModel, Method, Progress, silent
from unlearnbench_methods.training.losses import ascent, mean_nll
from unlearnbench_methods.training.trainer import TrainingConfig, train


class GradDiffConfig(TrainingConfig):
    gamma: float = Field(1.0, ge=0, description="weight of the forget term")
    alpha: float = Field(1.0, ge=0, description="weight of the retain term")


class GradDiff(Method[GradDiffConfig]):
    """gamma (-NLL(forget)) + alpha NLL(retain)."""

    name = "grad-diff"
    Config = GradDiffConfig
    guarantee = "knowledge-removal"
    source = "arXiv:2401.06121"

    def may_change(self, model: LanguageModel) -> Sequence[str]:
        return ("*",)

    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        return train(
            model,
            request,
            self.config,
            ascent,
            progress,
            retain_loss=mean_nll,
            gamma=self.config.gamma,
            alpha=self.config.alpha,
        )
