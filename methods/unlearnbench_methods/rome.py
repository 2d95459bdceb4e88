"""ROME: Rank-One Model Editing (Meng et al. 2022, arXiv:2202.05262), as unlearning.

One fact "prompt -> answer" is rewritten to "prompt -> target" by a rank-one change of one MLP
down-projection W, seen as a memory with keys k and values v = W k. Unlearning sets the target to
something that is not the answer (Hossain and Kagal 2025, arXiv:2512.20794).

`variant="rome"` is the paper; `variant="r-rome"` uses one averaged key throughout (Gupta et al.
2024, arXiv:2403.07175), which keeps sequential edits from collapsing the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch
from pydantic import Field

from unlearnbench import (
    ForgetRequest,
    LanguageModel,
    Method,
    Progress,
    silent,
    weight_as_matrix,
)
from unlearnbench_methods.editing.contexts import context_prefixes
from unlearnbench_methods.editing.covariance import (
    corpus_texts,
    exact,
    factor,
    key_covariance,
    whiten,
)
from unlearnbench_methods.editing.growth import Growth
from unlearnbench_methods.editing.sequence import (
    Edit,
    Weights,
    edit_in_sequence,
    without_subject,
)
from unlearnbench_methods.editing.value_search import (
    SearchConfig,
    SearchSettings,
    find_value,
    rows_for,
)


class RomeConfig(SearchConfig):
    variant: Literal["r-rome", "rome"] = Field("r-rome", description="averaged key, or the paper")
    mom2: bool = Field(True, description="u = C^-1 k; false: u = k")
    layer: int | None = Field(None, ge=0, description="l*; default: the family's")
    contexts: int = Field(21, ge=1, le=21, description="how many contexts, the empty one first")


class Rome(Method[RomeConfig]):
    """Rewrites each forget fact by a rank-one update, one after the other."""

    name = "rome"
    version = "2"  # contexts are drawn otherwise since
    Config = RomeConfig
    guarantee = "knowledge-removal"
    source = "arXiv:2202.05262"

    def may_change(self, model: LanguageModel) -> Sequence[str]:
        return (f"{model.modules.mlp_down_path(edited_layer(model, self.config))}.weight",)

    def flags(self, request: ForgetRequest) -> list[str]:
        return [*super().flags(request), *without_subject(request)]

    def resolved(self, model: LanguageModel) -> dict[str, Any]:
        return {
            "layer": edited_layer(model, self.config),
            **asdict(search_settings(model, self.config)),
        }

    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        """Raises Diverged with the edit's number where norms explode or numbers end."""
        layer = edited_layer(model, self.config)
        settings = search_settings(model, self.config)
        contexts = context_prefixes(model, request.seed, self.config.contexts)
        lower = None
        if self.config.mom2:
            texts = corpus_texts(self.config.corpus, model, request)
            lower = factor(key_covariance(model, layer, texts, progress))
        down = model.modules.mlp_down(layer)
        growth = Growth([down])

        def apply(batch: Sequence[Edit]) -> list[dict[str, float]]:
            (edit,) = batch
            return [self._edit(model, layer, edit, contexts, lower, settings, growth)]

        edit_in_sequence(
            model,
            request,
            request.targets(self.config.target),
            apply,
            Weights({model.modules.mlp_down_path(layer): down}),
            progress,
            needs_subject=True,
            config=self.config,
        )
        return model

    def _edit(
        self,
        model: LanguageModel,
        layer: int,
        edit: Edit,
        contexts: Sequence[str],
        lower: torch.Tensor | None,
        settings: SearchSettings,
        growth: Growth,
    ) -> dict[str, float]:
        """One fact: find v*, then W <- W + r u^T with r = (v* - W k*) / (k* . u)."""
        rows = rows_for(
            model,
            edit.item.prompt,
            edit.subject,
            edit.target,
            contexts,
            close=self.config.close_target,
        )
        found = find_value(model, layer, rows, settings)
        k_mean = exact(found.keys).mean(dim=0)  # k_bar [d_mlp]
        k_clean = exact(found.keys[0])
        u = update_direction(k_mean, lower)
        k = k_clean if self.config.variant == "rome" else k_mean
        down = model.modules.mlp_down(layer)
        change = insert(down, k, exact(found.value), u)
        return {
            "loss": found.loss,
            "steps": found.steps,
            "change_norm": change,
            "weight_norm": growth.check(),
        }


def update_direction(key: torch.Tensor, lower: torch.Tensor | None) -> torch.Tensor:
    """u = C^-1 k / |C^-1 k|, or k / |k| without second-moment statistics. float64 [d_mlp]."""
    u = exact(key) if lower is None else whiten(lower, key)
    return u.div(u.norm())


@torch.no_grad()
def insert(linear: torch.nn.Module, k: torch.Tensor, v: torch.Tensor, u: torch.Tensor) -> float:
    """The rank-one update after which the layer maps k to v (ROME, equation 2). In float64.

    Returns its norm |r| |u|.
    """
    W = weight_as_matrix(linear)
    bias = getattr(linear, "bias", None)
    k, v, u = (t.to(exact(W).device) for t in (k, v, u))
    now = exact(W) @ k + (exact(bias) if bias is not None else 0.0)
    r = (v - now) / (k @ u)
    W += torch.outer(r, u).to(W.device, W.dtype)
    return float(r.norm() * u.norm())


def edited_layer(model: LanguageModel, config: RomeConfig) -> int:
    """l*: the configured one, else the family's, else at 30 % depth."""
    if config.layer is not None:
        return model.modules.checked(config.layer)
    published = {  # (architecture, layers): l* of Meng et al. 2022 and EasyEdit's settings
        ("gpt2", 24): 8,
        ("gpt2", 36): 12,
        ("gpt2", 48): 17,
        ("gptj", 28): 5,
        ("llama", 32): 5,
        ("llama", 28): 5,
    }
    count = len(model.modules)
    return published.get((str(model.hf.config.model_type), count), round(0.3 * count))


def search_settings(model: LanguageModel, config: RomeConfig) -> SearchSettings:
    """The configured search, missing values from the family.

    Models narrower than 768 have small v_0 and sharp losses: they need a larger rate and clamp.
    """
    if model.hf.config.hidden_size < 768:
        steps, rate, decay, clamp = 20, 1.0, 1e-3, 20.0
    elif model.hf.config.model_type == "llama":
        steps, rate, decay, clamp = 25, 0.5, 1e-3, 4.0
    else:
        steps, rate, decay, clamp = 20, 0.5, 0.5, 4.0
    return config.search(SearchSettings(steps, rate, decay, clamp))
