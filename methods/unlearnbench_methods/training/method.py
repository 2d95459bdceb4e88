"""A method that is an objective and a training of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar

from unlearnbench import ForgetRequest, LanguageModel, Method, Progress, silent
from unlearnbench_methods.training.adapters import adapted_layers
from unlearnbench_methods.training.settings import TrainingConfig
from unlearnbench_methods.training.trainer import Objective, train

C = TypeVar("C", bound=TrainingConfig)


class TrainedMethod(Method[C]):
    """Says what is minimised (`objective`); the trainer that all share does the rest."""

    guarantee = "knowledge-removal"
    parallel = True

    @abstractmethod
    def objective(self, model: LanguageModel, request: ForgetRequest) -> Objective:
        """What is minimised. `model` is the one before unlearning, not yet touched."""

    def scope(self, model: LanguageModel) -> Sequence[str]:
        """Shell patterns of the parameters that full fine-tuning moves; default: all."""
        return ("*",)

    def may_change(self, model: LanguageModel) -> Sequence[str]:
        if self.config.adapter == "lora":
            return [f"{path}.weight" for path in adapted_layers(model, "all")]
        return self.scope(model)

    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        """Raises Diverged where a loss, the gradient or a weight leaves the numbers."""
        objective = self.objective(model, request)
        return train(model, request, self.config, objective, progress, scope=self.scope(model))
