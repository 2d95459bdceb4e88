"""task-vector: learn the forget set by heart, then go the other way (Ilharco et al. 2023).

theta <- theta - a (theta_forget - theta), with theta_forget fine-tuned on the forget set (section
3, "forgetting via negation").
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field

from unlearnbench import Around, ForgetRequest, LanguageModel, Memory, Progress, silent
from unlearnbench_methods.training import losses
from unlearnbench_methods.training.method import TrainedMethod
from unlearnbench_methods.training.objective import forget_term
from unlearnbench_methods.training.settings import TrainingConfig
from unlearnbench_methods.training.trainer import Objective


class TaskVectorConfig(TrainingConfig):
    scale: Annotated[float, Around(4)] = Field(
        1.0, gt=0, description="a, how far to go against the task vector"
    )


class TaskVector(TrainedMethod[TaskVectorConfig]):
    """theta - a (theta_forget - theta)."""

    name = "task-vector"
    Config = TaskVectorConfig
    source = "arXiv:2212.04089"

    def objective(self, model: LanguageModel, request: ForgetRequest) -> Objective:
        """That of theta_forget."""
        return Objective(forget_term(request.forget, lambda a: losses.nll(a.logprobs, a.mask)))

    def memory(self) -> Memory:
        held = super().memory()
        return replace(held, copies=held.copies + 1)  # theta

    @torch.no_grad()
    def _negate(self, model: LanguageModel, before: dict[str, torch.Tensor]) -> None:
        for name, learned in model.hf.named_parameters():
            vector = learned.float() - before[name].float()
            learned.copy_(before[name].float() - self.config.scale * vector)

    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        before = {n: p.detach().clone() for n, p in model.hf.named_parameters()}
        model = super().unlearn(model, request, progress)
        self._negate(model, before)
        return model
