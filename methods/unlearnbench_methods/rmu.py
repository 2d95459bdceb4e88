"""rmu: Representation Misdirection for Unlearning (Li et al. 2024, WMDP, section 4).

At one layer the hidden states of the forget set are steered to a random direction, those of the
retain set are held where they were. Nothing above the layer runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from unlearnbench import Around, ForgetRequest, LanguageModel
from unlearnbench_methods.training import losses
from unlearnbench_methods.training.method import TrainedMethod
from unlearnbench_methods.training.objective import Answers, Term, alone, forget_term
from unlearnbench_methods.training.settings import RetainingConfig
from unlearnbench_methods.training.trainer import Objective


class RmuConfig(RetainingConfig):
    """Defaults as used on TOFU. On WMDP with Zephyr-7B: layer 7, steering 6.5, alpha 1200,
    learning_rate 5e-5 and 150 batches of 4."""

    layer: int | None = Field(
        None, ge=0, description="l, whose block output is steered; default: 7 of 32, at least 2"
    )
    steering: Annotated[float, Around(4)] = Field(2.0, gt=0, description="c, the length steered to")


class Rmu(TrainedMethod[RmuConfig]):
    """gamma |h_l - c u|^2 on forget + alpha |h_l - h_l of the model before|^2 on retain.

    u: a random unit vector with entries uniform in [0, 1) before it is scaled. Means over the
    answers' tokens. Trains the MLP down-projections of layers l - 2 to l.
    """

    name = "rmu"
    reads_original = True
    Config = RmuConfig
    source = "arXiv:2403.03218"

    def resolved(self, model: LanguageModel) -> dict[str, Any]:
        return {"layer": self._layer(model)}

    def scope(self, model: LanguageModel) -> Sequence[str]:
        last = self._layer(model)
        paths = [model.modules.mlp_down_path(i) for i in range(max(0, last - 2), last + 1)]
        return [f"{path}.weight" for path in paths]

    def objective(self, model: LanguageModel, request: ForgetRequest) -> Objective:
        config, layer = self.config, self._layer(model)
        size = model.hf.config.get_text_config(decoder=True).hidden_size
        u = torch.rand(size, generator=torch.Generator().manual_seed(request.seed))
        wanted = (config.steering * u / u.norm()).to(model.device)  # [d]

        def misdirect(a: Answers) -> Tensor:
            return losses.distance(a.hidden(layer), wanted, a.mask)

        def hold(a: Answers) -> Tensor:
            return losses.distance(a.hidden(layer), a.original_hidden(layer), a.mask)

        return Objective(
            forget_term(request.forget, misdirect, config.gamma),
            Term("retain", alone(request.retain), hold, config.alpha, original=True),
        )

    def _layer(self, model: LanguageModel) -> int:
        if self.config.layer is not None:
            return model.modules.checked(self.config.layer)
        layers = len(model.modules)
        return min(layers - 1, max(2, round(layers * 7 / 32)))
