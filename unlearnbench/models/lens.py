"""The logit lens: what each block's output already says of the next token.

A block's output goes through the final norm and the head as if it were the last one's
(nostalgebraist 2020). Patil et al. 2023 (arXiv 2309.17410, section 4.1) attack with it: a fact that
is no longer spoken is searched for among a budget of candidates, the likeliest tokens of several
layers (head projection), or those that rise and fall most from one layer to the next (probability
delta).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from unlearnbench.errors import Diverged, UserError
from unlearnbench.models.scoring import head_logits

if TYPE_CHECKING:
    from unlearnbench.models.language_model import LanguageModel
    from unlearnbench.models.prompt_formats import PromptFormat

#: Prompts whose states are held at once.
_CHUNK = 256
#: Blocks that an attack with a budget looks at. The paper chooses its layers by how well the attack
#: does on a development set.
ATTACKED_LAYERS = 5


@dataclass(frozen=True)
class Lens:
    """Token ids that the layers hold most and least likely at a prompt's last token.

    Attributes:
        top: int64 [layers, k], the likeliest first.
        bottom: int64 [layers, k], the least likely first.
    """

    top: NDArray[np.int64]
    bottom: NDArray[np.int64]


def logit_lens(
    model: LanguageModel,
    prompts: Sequence[str],
    layers: Sequence[int],
    k: int = 10,
    *,
    begun: Sequence[str] | None = None,
    format: PromptFormat | None = None,
) -> list[Lens]:
    """The candidates of each prompt at the outputs of the given blocks.

    The states are the model's own `hidden_states`, so that a wrapped model is seen with what it
    does to a prompt. At the last block, `top` is what the model would say next.

    Args:
        model: any whose architecture has a module map.
        prompts: one question each, before formatting.
        layers: indices of blocks, each one row of the result.
        k: candidates a layer.
        begun: for each prompt the beginning of an answer, whose last token the lens looks at; ""
            for the prompt's own.
        format: another prompt format than the model's own.

    Raises:
        UserError: no layer, or `k` is not between 1 and the size of the vocabulary.
        ModelError: a layer that it does not have, or an architecture without a module map.
        Diverged: a logit is no number.
    """
    _check(model, layers, k)
    return [_extremes(logits, k) for logits in _lens_logits(model, prompts, layers, begun, format)]


@dataclass(frozen=True)
class LensAttack:
    """The candidates for a prompt's next token that each attack of the lens has, ids [layers, k].

    Attributes:
        head_projection: the likeliest tokens of each layer.
        head_projection_bottom: half as many, and as many least likely ones: where a deletion that
            overshoots leaves its trace.
        probability_delta: the tokens whose probability rises, and falls, most from the output of
            the block before; no rows where no block has one before it.
    """

    head_projection: NDArray[np.int64]
    head_projection_bottom: NDArray[np.int64]
    probability_delta: NDArray[np.int64]


def lens_attack(model: LanguageModel, prompts: Sequence[str], budget: int = 20) -> list[LensAttack]:
    """What the attacks of Patil et al. find at each prompt's last token, in `budget` candidates.

    The layers are `ATTACKED_LAYERS` evenly spaced ones (Probability Delta: without the first
    block), and each has an equal share of the candidates.

    Raises:
        UserError: the budget has fewer than two candidates for a layer.
        ModelError: an architecture without a module map.
        Diverged: a logit is no number.
    """
    layers = lens_layers(len(model.modules))
    after = [place for place, layer in enumerate(layers) if layer > 0]
    each = budget // len(layers)
    if each < 2:
        raise UserError(
            f"a budget of {budget} candidates leaves {each} for each of {len(layers)} layers: "
            f"it needs at least {2 * len(layers)}."
        )
    before = [layers[place] - 1 for place in after]
    _check(model, [*layers, *before], each)
    delta = budget // len(after) // 2 if after else 0
    found = []
    for logits in _lens_logits(model, prompts, [*layers, *before], None, None):
        own = _extremes(logits[: len(layers)], each)
        p = logits.softmax(dim=1)
        moved = _extremes(p[after] - p[len(layers) :], delta)
        found.append(LensAttack(own.top, _both(own, each // 2), _both(moved, delta)))
    return found


def lens_layers(depth: int) -> list[int]:
    """Blocks that an attack with a budget looks at: evenly spaced ones, the last among them."""
    count = min(ATTACKED_LAYERS, depth)
    return [depth * (i + 1) // count - 1 for i in range(count)]


def _both(lens: Lens, k: int) -> NDArray[np.int64]:
    return np.concatenate([lens.top[:, :k], lens.bottom[:, :k]], axis=1)


def _check(model: LanguageModel, layers: Sequence[int], k: int) -> None:
    vocabulary = int(model.hf.get_output_embeddings().weight.shape[0])
    if not layers or not 1 <= k <= vocabulary:
        raise UserError(
            f"logit_lens got {len(layers)} layers and k = {k}: it needs a layer, and a k from 1 "
            f"to {vocabulary}."
        )


def _lens_logits(
    model: LanguageModel,
    prompts: Sequence[str],
    layers: Sequence[int],
    begun: Sequence[str] | None,
    format: PromptFormat | None,
) -> Iterator[torch.Tensor]:
    """For each prompt the layers' logits at the last token, float32 [layers, vocab]."""
    for start in range(0, len(prompts), _CHUNK):
        own = slice(start, start + _CHUNK)
        said = None if begun is None else begun[own]
        states = model.hidden_states(prompts[own], layers, begun=said, last=True, format=format)
        for state in states:
            with torch.inference_mode():
                final = state[:, -1].to(model.device, model.dtype)  # [layers, d]
                logits = head_logits(model, model.modules.before_head(final))  # [layers, vocab]
            if logits.isnan().any():
                raise Diverged(f"{model.name}: a layer's logits are no numbers.")
            yield logits


def _extremes(values: torch.Tensor, k: int) -> Lens:
    """The k largest and smallest of each row of [layers, vocab]."""
    top, bottom = (values.topk(k, dim=1, largest=most).indices for most in (True, False))
    return Lens(top.cpu().numpy(), bottom.cpu().numpy())
