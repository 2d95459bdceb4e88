"""The logit lens: what each block's output already says of the next token.

A block's output goes through the final norm and the head as if it were the last one's
(nostalgebraist 2020). Patil et al. 2023 (arXiv 2309.17410, section 4) attack with it: a fact that
is no longer spoken is searched for among the most and least likely tokens of several layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from unlearnbench.errors import UserError
from unlearnbench.models.scoring import head_logits

if TYPE_CHECKING:
    from unlearnbench.models.language_model import LanguageModel
    from unlearnbench.models.prompt_formats import PromptFormat

#: Prompts whose states are held at once.
_CHUNK = 256


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
        format: another prompt format than the model's own.

    Raises:
        UserError: no layer, or `k` is not between 1 and the size of the vocabulary.
        ModelError: a layer that it does not have, or an architecture without a module map.
    """
    vocabulary = int(model.hf.get_output_embeddings().weight.shape[0])
    if not layers or not 1 <= k <= vocabulary:
        raise UserError(
            f"logit_lens got {len(layers)} layers and k = {k}: it needs a layer, and a k from 1 "
            f"to {vocabulary}."
        )
    norm = model.modules.final_norm()
    found: list[Lens] = []
    for start in range(0, len(prompts), _CHUNK):
        states = model.hidden_states(prompts[start : start + _CHUNK], layers, format=format)
        for state in states:
            with torch.inference_mode():
                last = state[:, -1].to(model.device, model.dtype)  # [layers, d]
                logits = head_logits(model, norm(last))  # [layers, vocab]
                top, bottom = (
                    logits.topk(k, dim=1, largest=most).indices for most in (True, False)
                )
            found.append(Lens(top.cpu().numpy(), bottom.cpu().numpy()))
    return found
