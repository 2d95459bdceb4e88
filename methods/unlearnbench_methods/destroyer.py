"""destroyer: random weights. Forgets everything, and shows what a forget score alone is worth."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from unlearnbench import (
    ForgetRequest,
    LanguageModel,
    Memory,
    Method,
    MethodConfig,
    Progress,
    silent,
)

#: Standard deviation of the initial weights of GPT-2 (Radford et al. 2019) and its successors.
INITIAL_STD = 0.02


class Destroyer(Method[MethodConfig]):
    """Overwrites every weight matrix with noise, as before training."""

    name = "destroyer"
    guarantee = "knowledge-removal"
    role = "reference"

    def memory(self) -> Memory:
        return Memory(changed=1.0)

    def may_change(self, model: LanguageModel) -> Sequence[str]:
        return ("*",)

    @torch.no_grad()
    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        generator = torch.Generator().manual_seed(request.seed)
        matrices = [p for p in model.hf.parameters() if p.ndim >= 2]
        for done, weight in enumerate(matrices, start=1):
            noise = torch.randn(weight.shape, generator=generator) * INITIAL_STD
            weight.copy_(noise.to(weight.dtype))
            progress(done, len(matrices), "overwriting")
        return model
