"""Many facts at once, over a window of layers: what MEMIT and AlphaEdit share.

Meng et al. 2023 (arXiv:2210.07229), section 4.3 and algorithm 1: a value z is found for every fact
at the window's last layer L; then each layer in turn takes its part of what the block's output h_L
still lacks. The methods differ in how a layer is changed for its keys K and residuals R.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from pydantic import Field

from unlearnbench import Diverged, LanguageModel, Progress, UserError, weight_as_matrix
from unlearnbench_methods.editing.covariance import exact
from unlearnbench_methods.editing.growth import Growth
from unlearnbench_methods.editing.sequence import Edit
from unlearnbench_methods.editing.value_search import (
    Row,
    SearchConfig,
    SearchSettings,
    at_subjects,
    find_values,
    rows_for,
)

#: For a layer of the window and its keys K [d_mlp, facts]: X [d_mlp, facts], float64. The layer's
#: change is R X^T for the facts' residuals R [d, facts].
Directions = Callable[[int, torch.Tensor], torch.Tensor]


class MassEditConfig(SearchConfig):
    layers: tuple[int, ...] | None = Field(
        None, min_length=1, description="the window, ascending; default: the family's"
    )
    contexts: int = Field(6, ge=1, le=21, description="how many contexts, the empty one first")


def window(model: LanguageModel, config: MassEditConfig) -> list[int]:
    """The edited layers, ascending: the configured ones, else the family's.

    Published: GPT-2-XL 13-17, GPT-J 3-8, Llama of 32 layers 4-8. Others: one layer of six, two to
    five of them, up to 35 % depth, where the
    deepest of the published ones ends.

    Raises:
        UserError: the configured ones do not ascend.
        ModelError: the model lacks one.
    """
    if config.layers is not None:
        if list(config.layers) != sorted(set(config.layers)):
            raise UserError(f"layers = {list(config.layers)}: name each once, in ascending order.")
        return [model.modules.checked(layer) for layer in config.layers]
    count = len(model.modules)
    published = {("gpt2", 48): (13, 17), ("gptj", 28): (3, 8), ("llama", 32): (4, 8)}
    last = int(0.35 * count)
    size = min(5, max(2, round(count / 6)))
    near = max(0, last - size + 1), last
    first, last = published.get((str(model.hf.config.model_type), count), near)
    return list(range(first, last + 1))


def edit_facts(
    model: LanguageModel,
    layers: Sequence[int],
    edits: Sequence[Edit],
    contexts: Sequence[str],
    settings: SearchSettings,
    close_target: bool,
    directions: Directions,
    growth: Growth,
    progress: Progress,
) -> list[dict[str, float]]:
    """Changes the layers so that the facts' subjects come out as their z; the scores of each edit.

    `change_norm` is of the edit's own part, over all layers; `missing` what is left of |z - h_L|,
    relative to its start.
    """
    facts = [
        rows_for(model, e.item.prompt, e.subject, e.target, contexts, close=close_target)
        for e in edits
    ]
    found = find_values(model, layers[-1], facts, settings, "block", progress)
    z = exact(torch.stack([f.value for f in found])).T  # [d, facts]
    try:
        norms = insert_values(model, layers, facts, z, directions)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise Diverged(f"the least-squares system of the batch is singular ({error}).") from error
    weight_norm = growth.check()
    wanted = (z - exact(torch.stack([f.initial for f in found])).T).norm(dim=0)
    # A fact that was true already moves nowhere, and nothing of that is missing.
    missing = residuals(model, layers[-1], facts, z).norm(dim=0) / wanted
    missing = torch.where(wanted > 0, missing, 0.0)
    return [
        {
            "loss": f.loss,
            "steps": f.steps,
            "change_norm": norm,
            "weight_norm": weight_norm,
            "missing": rest,
        }
        for f, norm, rest in zip(found, norms.tolist(), missing.tolist(), strict=True)
    ]


@torch.no_grad()
def insert_values(
    model: LanguageModel,
    layers: Sequence[int],
    facts: Sequence[Sequence[Row]],
    z: torch.Tensor,
    directions: Directions,
) -> torch.Tensor:
    """The edit of the window for given z [d, facts]; each fact's |change| over all layers [facts].

    K and R are measured anew for every layer, on the model with the layers below it edited.
    """
    squares = torch.zeros(z.shape[1], dtype=z.dtype, device=z.device)
    for index, layer in enumerate(layers):
        K = mean_keys(model, layer, facts)
        R = residuals(model, layers[-1], facts, z) / (len(layers) - index)  # equation 20
        X = directions(layer, K)
        W = weight_as_matrix(model.modules.mlp_down(layer))
        W += (R @ X.T).to(W.device, W.dtype)
        squares += (R.norm(dim=0) * X.norm(dim=0)) ** 2
    return squares.sqrt()


def mean_keys(model: LanguageModel, layer: int, facts: Sequence[Sequence[Row]]) -> torch.Tensor:
    """K [d_mlp, facts], float64: the mean of the clean prompt's key and of the others' mean."""
    rows = [[row for row in fact if row.targets] for fact in facts]
    keys = exact(at_subjects(model, layer, [row for fact in rows for row in fact], "key"))
    means = []
    for own in keys.split([len(fact) for fact in rows]):  # [contexts, d_mlp]
        means.append((own[0] + own[1:].mean(dim=0)) / 2 if len(own) > 1 else own[0])
    return torch.stack(means, dim=1)


def residuals(
    model: LanguageModel, layer: int, facts: Sequence[Sequence[Row]], z: torch.Tensor
) -> torch.Tensor:
    """z - h_L [d, facts] with h_L as the model gives it now, on the clean prompts. float64."""
    return z - exact(at_subjects(model, layer, [fact[0] for fact in facts], "block")).T
