"""none: the model before unlearning, the reference that every row is read against."""

from __future__ import annotations

from unlearnbench import ForgetRequest, LanguageModel, Method, MethodConfig, Progress, silent


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
