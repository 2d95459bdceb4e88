"""MEMIT: Mass-Editing Memory in a Transformer (Meng et al. 2023, arXiv:2210.07229), as unlearning.

All facts "prompt -> answer" are rewritten to "prompt -> target" at once: a value z for each at the
last of a few layers, then one regularised least-squares change of each layer's MLP
down-projection, seen as a memory of keys and values (section 4). Unlearning sets the target to
something that is not the answer (Hossain and Kagal 2025, arXiv:2512.20794).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from pydantic import Field

from unlearnbench import ForgetRequest, LanguageModel, Method, Progress, silent
from unlearnbench_methods.editing.contexts import context_prefixes
from unlearnbench_methods.editing.covariance import (
    corpus_texts,
    factor,
    key_covariances,
    whiten,
)
from unlearnbench_methods.editing.growth import Growth
from unlearnbench_methods.editing.mass_edit import MassEditConfig, edit_facts, window
from unlearnbench_methods.editing.sequence import (
    Edit,
    Weights,
    edit_in_sequence,
    without_subject,
)
from unlearnbench_methods.editing.value_search import SearchSettings


class MemitConfig(MassEditConfig):
    cov_weight: float | None = Field(
        None, gt=0, description="lambda, the weight of C against the edits; default: the family's"
    )
    batch_size: int | None = Field(
        None, ge=1, description="edits made at once; default: all of the forget set"
    )


class Memit(Method[MemitConfig]):
    """Rewrites all forget facts together, over a window of layers."""

    name = "memit"
    version = "2"  # contexts are drawn otherwise since
    Config = MemitConfig
    guarantee = "knowledge-removal"
    source = "arXiv:2210.07229"

    def may_change(self, model: LanguageModel) -> Sequence[str]:
        layers = window(model, self.config)
        return [f"{model.modules.mlp_down_path(layer)}.weight" for layer in layers]

    def flags(self, request: ForgetRequest) -> list[str]:
        return [*super().flags(request), *without_subject(request)]

    def resolved(self, model: LanguageModel) -> dict[str, Any]:
        return {
            "layers": window(model, self.config),
            "cov_weight": covariance_weight(model, self.config),
            **asdict(search_settings(model, self.config)),
        }

    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        """Raises Diverged with the edit's number where norms explode or numbers end."""
        config, layers = self.config, window(model, self.config)
        settings, weight = search_settings(model, config), covariance_weight(model, config)
        contexts = context_prefixes(model, request.seed, config.contexts)
        texts = corpus_texts(config.corpus, model, request)
        covariances = key_covariances(model, layers, texts, progress)
        lowers = dict(zip(layers, map(factor, covariances), strict=True))
        downs = {model.modules.mlp_down_path(i): model.modules.mlp_down(i) for i in layers}
        growth = Growth(list(downs.values()))

        def directions(layer: int, K: torch.Tensor) -> torch.Tensor:
            return least_squares_directions(lowers[layer], K, weight)

        def apply(batch: Sequence[Edit]) -> list[dict[str, float]]:
            return edit_facts(
                model,
                layers,
                batch,
                contexts,
                settings,
                config.close_target,
                directions,
                growth,
                progress,
            )

        edit_in_sequence(
            model,
            request,
            request.targets(config.target),
            apply,
            Weights(downs),
            progress,
            batch_size=config.batch_size or len(request.forget),
            needs_subject=True,
            config=self.config,
        )
        return model


def least_squares_directions(lower: torch.Tensor, K: torch.Tensor, weight: float) -> torch.Tensor:
    """X = (lambda C + K K^T)^-1 K (equation 14) [d_mlp, facts], from C's Cholesky factor.

    By Woodbury's identity C^-1 K (lambda I + K^T C^-1 K)^-1: a system of the batch's size.
    """
    whitened = whiten(lower, K)  # C^-1 K
    inner = K.T @ whitened  # [facts, facts]
    inner.diagonal().add_(weight)
    X: torch.Tensor = torch.linalg.solve(inner, whitened.T).T
    return X


def covariance_weight(model: LanguageModel, config: MemitConfig) -> float:
    """lambda: 20,000 for GPT-2 and 15,000 for GPT-J and Llama as published.

    C is a mean over tokens: lambda is how many of them an edit weighs against. Models narrower than
    768 hold less, and forget nothing at such a weight.
    """
    if config.cov_weight is not None:
        return config.cov_weight
    if model.hf.config.hidden_size < 768:
        return 20.0
    return 20_000.0 if model.hf.config.model_type == "gpt2" else 15_000.0


def search_settings(model: LanguageModel, config: MemitConfig) -> SearchSettings:
    """The configured search, missing values from the family (Llama: EasyEdit's)."""
    if model.hf.config.hidden_size < 768:
        family = SearchSettings(steps=20, learning_rate=1.0, weight_decay=1e-3, clamp=4.0)
    elif model.hf.config.model_type == "llama":
        family = SearchSettings(steps=25, learning_rate=0.5, weight_decay=1e-3, clamp=4.0)
    elif model.hf.config.model_type == "gpt2":
        family = SearchSettings(steps=20, learning_rate=0.5, weight_decay=0.5, clamp=0.75)
    else:
        family = SearchSettings(steps=25, learning_rate=0.5, weight_decay=0.5, clamp=0.75)
    return config.search(family)
