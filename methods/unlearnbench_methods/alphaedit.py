"""AlphaEdit: null-space constrained editing (Fang et al. 2025, arXiv:2410.02355), as unlearning.

MEMIT with another change of each layer: it is projected onto the null space of what the layer's
memory keeps, so that the outputs of preserved keys stay as they are (section 3.2), and it also
leaves the keys of earlier edits alone (section 3.3, equation 14). Edits go on in batches for as
long as one likes. Unlearning sets the target to something that is not the answer (Hossain and Kagal
2025, arXiv:2512.20794).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from pydantic import Field

from unlearnbench import (
    ForgetRequest,
    LanguageModel,
    Method,
    Progress,
    UserError,
    silent,
)
from unlearnbench_methods.editing.contexts import context_prefixes
from unlearnbench_methods.editing.covariance import corpus_texts, key_covariances
from unlearnbench_methods.editing.growth import Growth
from unlearnbench_methods.editing.mass_edit import MassEditConfig, edit_facts, window
from unlearnbench_methods.editing.sequence import (
    Edit,
    Weights,
    edit_in_sequence,
    without_subject,
)
from unlearnbench_methods.editing.value_search import SearchSettings

#: Eigenvalues of C below it count as zero (Fang et al. 2025, section 3.2).
PUBLISHED_THRESHOLD = 0.02
#: Share of the keys' second moment that may lie in the null space of a narrow model.
NULL_SHARE = 0.05


class AlphaEditConfig(MassEditConfig):
    nullspace_threshold: float | None = Field(
        None, gt=0, description="eigenvalues of C below it span the null space; default: family's"
    )
    l2: float | None = Field(
        None, gt=0, description="weight of |change|^2 (L2 in the paper's code); default: family's"
    )
    batch_size: int = Field(100, ge=1, description="edits made at once")


class AlphaEdit(Method[AlphaEditConfig]):
    """Rewrites forget facts in batches, in the null space of what is to be kept."""

    name = "alphaedit"
    version = "3"  # the null space begins between two eigenvalues since
    Config = AlphaEditConfig
    guarantee = "knowledge-removal"
    source = "arXiv:2410.02355"

    def may_change(self, model: LanguageModel) -> Sequence[str]:
        layers = window(model, self.config)
        return [f"{model.modules.mlp_down_path(layer)}.weight" for layer in layers]

    def flags(self, request: ForgetRequest) -> list[str]:
        return [*super().flags(request), *without_subject(request)]

    def resolved(self, model: LanguageModel) -> dict[str, Any]:
        return {
            "layers": window(model, self.config),
            "l2": change_weight(model, self.config),
            **asdict(search_settings(model, self.config)),
        }

    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        """Raises Diverged with the edit's number where norms explode or numbers end."""
        config, layers = self.config, window(model, self.config)
        settings, l2 = search_settings(model, config), change_weight(model, config)
        contexts = context_prefixes(model, request.seed, config.contexts)
        texts = corpus_texts(config.corpus, model, request)
        covariances = key_covariances(model, layers, texts, progress)
        thresholds = {
            layer: threshold_for(model, C, config)
            for layer, C in zip(layers, covariances, strict=True)
        }
        bases = {
            layer: null_space(C, thresholds[layer], layer)
            for layer, C in zip(layers, covariances, strict=True)
        }
        noted = {f"nullspace_threshold_{layer}": value for layer, value in thresholds.items()}
        downs = {model.modules.mlp_down_path(i): model.modules.mlp_down(i) for i in layers}
        state = PastKeys(Weights(downs), {i: U.new_zeros(len(U), 0) for i, U in bases.items()})
        growth = Growth(list(downs.values()))

        def directions(layer: int, K: torch.Tensor) -> torch.Tensor:
            X = null_space_directions(bases[layer], state.past[layer], K, l2)
            # K holds for the whole batch: the layers edited after this one do not change it.
            state.past[layer] = torch.cat([state.past[layer], K], dim=1)
            return X

        def apply(batch: Sequence[Edit]) -> list[dict[str, float]]:
            scores = edit_facts(
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
            return [{**score, **noted} for score in scores]

        edit_in_sequence(
            model,
            request,
            request.targets(config.target),
            apply,
            state,
            progress,
            batch_size=config.batch_size,
            needs_subject=True,
            config=self.config,
        )
        return model


class PastKeys:
    """The editor's state: the weights, and for each layer the keys of all edits so far.

    The paper's sum K_p K_p^T is made of these; they are smaller as long as edits are fewer than
    d_mlp.
    """

    def __init__(self, weights: Weights, past: Mapping[int, torch.Tensor]) -> None:
        self._weights = weights
        self.past = dict(past)  # [d_mlp, edits], float64

    def tensors(self) -> Mapping[str, torch.Tensor]:
        past = {f"past.{layer}": keys for layer, keys in self.past.items()}
        return {**self._weights.tensors(), **past}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._weights.load(tensors)
        for layer, keys in self.past.items():
            self.past[layer] = tensors[f"past.{layer}"].to(keys.device)


def threshold_for(model: LanguageModel, covariance: torch.Tensor, config: AlphaEditConfig) -> float:
    """The eigenvalue of C below which nothing is kept: the configured one, else 0.02 as published.

    Keys of models narrower than 768 fill their space, on a scale of their own. Theirs is the
    eigenvalue below which the directions hold `NULL_SHARE` of the keys' second moment.
    """
    if config.nullspace_threshold is not None:
        return config.nullspace_threshold
    if model.hf.config.hidden_size >= 768:
        return PUBLISHED_THRESHOLD
    values = torch.linalg.eigvalsh(covariance)  # ascending
    held = values.cumsum(dim=0) / values.sum()
    count = int((held <= NULL_SHARE).sum())
    # Halfway to the next one: an eigenvalue itself would be above or below by its rounding alone.
    return float((values[max(count - 1, 0)] + values[count]) / 2)


def null_space(covariance: torch.Tensor, threshold: float, layer: int) -> torch.Tensor:
    """U [d_mlp, p]: the eigenvectors of C whose eigenvalue is below the threshold; P = U U^T.

    Raises:
        UserError: there are none.
    """
    values, vectors = torch.linalg.eigh(covariance)  # ascending
    count = int((values < threshold).sum())
    if not count:
        raise UserError(
            f"layer {layer} has no null space: alphaedit.nullspace_threshold is {threshold:g}, the "
            f"smallest eigenvalue of its key covariance {float(values[0]):.3g}. Set it above that."
        )
    basis: torch.Tensor = vectors[:, :count].contiguous()
    return basis


def null_space_directions(
    U: torch.Tensor, past: torch.Tensor, K: torch.Tensor, l2: float
) -> torch.Tensor:
    """X = (P (K K^T + K_p K_p^T) + L2 I)^-1 P K (equation 14) [d_mlp, facts].

    X lies in the span of U, so X = U Y with (A A^T + L2 I) Y = U^T K for A = U^T [K_p K]. That is
    Y = A (A^T A + L2 I)^-1 at the columns of K: a symmetric system of all edits' size.
    """
    A = U.T @ torch.cat([past, K], dim=1)  # [p, edits]
    inner = A.T @ A
    inner.diagonal().add_(l2)
    chosen = torch.zeros_like(inner)[:, past.shape[1] :]  # [edits, facts]
    chosen[past.shape[1] :].fill_diagonal_(1.0)
    return U @ (A @ torch.cholesky_solve(chosen, torch.linalg.cholesky(inner)))


def change_weight(model: LanguageModel, config: AlphaEditConfig) -> float:
    """L2: 10 for GPT-2 and GPT-J, 1 for Llama, as published; 1 too where keys are short.

    That is in models narrower than 768: the part of a key in the null space has a norm near 1.
    """
    if config.l2 is not None:
        return config.l2
    narrow = model.hf.config.hidden_size < 768
    return 1.0 if narrow or model.hf.config.model_type == "llama" else 10.0


def search_settings(model: LanguageModel, config: AlphaEditConfig) -> SearchSettings:
    """The configured search, missing values from the family."""
    if model.hf.config.hidden_size < 768:
        family = SearchSettings(steps=20, learning_rate=1.0, weight_decay=1e-3, clamp=4.0)
    elif model.hf.config.model_type == "llama":
        family = SearchSettings(steps=25, learning_rate=0.1, weight_decay=0.5, clamp=0.75)
    elif model.hf.config.model_type == "gpt2":
        family = SearchSettings(steps=20, learning_rate=0.5, weight_decay=0.5, clamp=0.75)
    else:
        family = SearchSettings(steps=25, learning_rate=0.5, weight_decay=0.5, clamp=0.75)
    return config.search(family)
