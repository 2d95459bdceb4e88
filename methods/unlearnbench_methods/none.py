"""none: the model before unlearning, the reference that every row is read against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unlearnbench import ForgetRequest, Method, MethodConfig, Progress, silent

if TYPE_CHECKING:  # naming a job must not cost the import of torch
    from unlearnbench import LanguageModel


class NoUnlearning(Method[MethodConfig]):
    """Does nothing: the model before unlearning."""

    name = "none"
    guarantee = "suppression"
    role = "reference"
    stochastic = False

    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        return model
