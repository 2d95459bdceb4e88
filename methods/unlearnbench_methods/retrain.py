"""retrain: the oracle, a model trained on the retain set alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unlearnbench import ForgetRequest, Method, MethodConfig, Progress, UserError, silent

if TYPE_CHECKING:  # naming a job must not cost the import of torch
    from unlearnbench import LanguageModel


class Retrain(Method[MethodConfig]):
    """Gives the retrained oracle itself; its forget quality is 1 by definition."""

    name = "retrain"
    guarantee = "data-deletion"
    role = "reference"
    stochastic = False

    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        """Raises UserError where no oracle is known."""
        if request.retain_model is None:
            raise UserError("no retain model is known: give one with --retain-model.")
        del model  # before another needs its room
        return request.retain_model()
