"""A method: shrinks the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from unlearnbench import ForgetRequest, Method, MethodConfig, Progress, silent

if TYPE_CHECKING:
    from unlearnbench import LanguageModel  # imports torch: not needed to be listed or planned


class ShrinkConfig(MethodConfig):
    factor: float = Field(0.9, gt=0, le=1, description="what every weight is multiplied by")


class Shrink(Method[ShrinkConfig]):
    """Shrinks every weight of the last layer."""

    name = "example-shrink"
    api_version = 1
    Config = ShrinkConfig
    stochastic = False
    source = "nowhere"

    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        return model
