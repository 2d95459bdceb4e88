"""A method that is an objective and a training of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, TypeVar

from unlearnbench import ForgetRequest, LanguageModel, Memory, Method, Progress, silent
from unlearnbench_methods.training.adapters import adapted_layers
from unlearnbench_methods.training.settings import TrainingConfig
from unlearnbench_methods.training.trainer import Objective, train

C = TypeVar("C", bound=TrainingConfig)


class TrainedMethod(Method[C]):
    """Says what is minimised (`objective`); the trainer that all share does the rest."""

    guarantee = "knowledge-removal"
    parallel = True
    #: Whether a term reads the model before unlearning in training, so that a copy stays.
    reads_original: ClassVar[bool] = False

    @abstractmethod
    def objective(self, model: LanguageModel, request: ForgetRequest) -> Objective:
        """What is minimised. `model` is the one before unlearning, not yet touched."""

    def scope(self, model: LanguageModel) -> Sequence[str]:
        """Shell patterns of the parameters that full fine-tuning moves; default: all."""
        return ("*",)

    def memory(self) -> Memory:
        config = self.config
        moments = 8 if config.optimizer == "adamw" else 2
        if config.adapter == "lora":  # a few weights in a thousand, and no copy
            return Memory(trained=0.01, moment_bytes=moments, changed=1.0)
        return Memory(trained=1.0, moment_bytes=moments, copies=int(self.reads_original))

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
