"""ROME: Rank-One Model Editing (Meng et al. 2022, arXiv:2202.05262), as unlearning.

One fact "prompt -> answer" is rewritten to "prompt -> target" by a rank-one change of one MLP
down-projection W, seen as a memory with keys k and values v = W k. Unlearning sets the target to
something that is not the answer (Hossain and Kagal 2025, arXiv:2512.20794).

`variant="rome"` is the paper; `variant="r-rome"` uses one averaged key throughout (Gupta et al.
2024, arXiv:2403.07175), which keeps sequential edits from collapsing the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from unlearnbench import (
    Diverged,
    Example,
    ForgetRequest,
    LanguageModel,
    Method,
    MethodConfig,
    Progress,
    UserError,
    silent,
    weight_as_matrix,
)
from unlearnbench_methods.editing.contexts import context_prefixes
from unlearnbench_methods.editing.covariance import exact, factor, key_covariance, whiten
from unlearnbench_methods.editing.value_search import SearchSettings, find_value, rows_for

#: A norm of W this many times its first one is an exploded edit, not an edit.
EXPLOSION = 1e3


class RomeConfig(MethodConfig):
    target: Literal["dummy", "incorrect", "avoidant", "idk"] = Field(
        "dummy", description="what the model shall say instead"
    )
    variant: Literal["r-rome", "rome"] = Field("r-rome", description="averaged key, or the paper")
    mom2: bool = Field(True, description="u = C^-1 k; false: u = k")
    corpus: Path | None = Field(
        None, description="text file, a text a line, to measure C on; default: what is retained"
    )
    layer: int | None = Field(None, ge=0, description="l*; default: the family's")
    contexts: int = Field(21, ge=1, le=21, description="how many contexts, the empty one first")
    steps: int | None = Field(None, ge=1, description="steps of the search for v*")
    learning_rate: float | None = Field(None, gt=0, description="of Adam on delta")
    weight_decay: float | None = Field(None, ge=0)
    clamp: float | None = Field(None, gt=0, description="bound on |delta| / |v_0|")
    kl_factor: float = Field(0.0625, ge=0, description="weight of the essence KL term")
    close_target: bool = Field(True, description="the target ends with EOS, as an answer does")


class Rome(Method[RomeConfig]):
    """Rewrites each forget fact by a rank-one update, one after the other."""

    name = "rome"
    Config = RomeConfig
    guarantee = "knowledge-removal"
    source = "arXiv:2202.05262"

    def may_change(self, model: LanguageModel) -> Sequence[str]:
        return (f"{model.modules.mlp_down_path(edited_layer(model, self.config))}.weight",)

    def flags(self, request: ForgetRequest) -> list[str]:
        without = sum(e.subject is None or e.subject not in e.prompt for e in request.forget)
        noted = [f"no_subject: {without} of {len(request.forget)} skipped"] if without else []
        return [*super().flags(request), *noted]

    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        """Raises Diverged with the edit's number where norms explode or numbers end."""
        layer = edited_layer(model, self.config)
        settings = search_settings(model, self.config)
        contexts = context_prefixes(model, request.seed, self.config.contexts)
        lower = None
        if self.config.mom2:
            texts = _corpus(self.config.corpus, model, request)
            lower = factor(key_covariance(model, layer, texts, progress))
        W = weight_as_matrix(model.modules.mlp_down(layer))
        first_norm = W.norm()
        targets = request.targets(self.config.target)
        for number, (item, target) in enumerate(zip(request.forget, targets, strict=True), start=1):
            if item.subject is None or item.subject not in item.prompt:
                continue
            try:
                loss = self._edit(model, layer, item, target, contexts, lower, settings)
            except Diverged as error:
                raise Diverged(f"edit {number} of {len(targets)}: {error}") from error
            if not torch.isfinite(W).all() or W.norm() > EXPLOSION * first_norm:
                raise Diverged(
                    f"edit {number} of {len(targets)}: |W| went from {first_norm:.3g} to "
                    f"{W.norm():.3g}."
                )
            progress(number, len(targets), f"editing, loss {loss:.3f}")
        return model

    def _edit(
        self,
        model: LanguageModel,
        layer: int,
        item: Example,
        target: str,
        contexts: Sequence[str],
        lower: torch.Tensor | None,
        settings: SearchSettings,
    ) -> float:
        """One fact: find v*, then W <- W + r u^T with r = (v* - W k*) / (k* . u)."""
        assert item.subject is not None
        rows = rows_for(
            model, item.prompt, item.subject, target, contexts, close=self.config.close_target
        )
        found = find_value(model, layer, rows, settings)
        k_mean = exact(found.keys).mean(dim=0)  # k_bar [d_mlp]
        k_clean = exact(found.keys[0])
        u = update_direction(k_mean, lower)
        k = k_clean if self.config.variant == "rome" else k_mean
        insert(model.modules.mlp_down(layer), k, exact(found.value), u)
        return found.loss


def update_direction(key: torch.Tensor, lower: torch.Tensor | None) -> torch.Tensor:
    """u = C^-1 k / |C^-1 k|, or k / |k| without second-moment statistics. float64 [d_mlp]."""
    u = exact(key) if lower is None else whiten(lower, key)
    return u.div(u.norm())


@torch.no_grad()
def insert(linear: torch.nn.Module, k: torch.Tensor, v: torch.Tensor, u: torch.Tensor) -> None:
    """The rank-one update after which the layer maps k to v (ROME, equation 2). In float64."""
    W = weight_as_matrix(linear)
    bias = getattr(linear, "bias", None)
    now = exact(W) @ k + (exact(bias) if bias is not None else 0.0)
    r = (v - now) / (k @ u)
    W += torch.outer(r, u).to(W.device, W.dtype)


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
    return SearchSettings(
        steps=config.steps or steps,
        learning_rate=config.learning_rate or rate,
        weight_decay=decay if config.weight_decay is None else config.weight_decay,
        clamp=config.clamp or clamp,
        kl_factor=config.kl_factor,
    )


def _corpus(path: Path | None, model: LanguageModel, request: ForgetRequest) -> list[str]:
    """The texts that C is measured on."""
    if path is None:
        format, tokenizer = model.prompt_format, model.tokenizer
        known = (*request.retain, *request.general)
        return [format.joint(tokenizer, e.prompt, e.answer) for e in known]
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'rome.corpus "{path}" cannot be read as UTF-8 text ({error}).') from error
    return [line for line in lines if line.strip()]
