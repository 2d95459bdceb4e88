"""Trees of tokens: the continuations of a prompt as one row that holds what they share once.

A token attends to its ancestors alone and stands at its depth, so each path from the root is read
as if it were the only one (tree attention; Miao et al. 2024, arXiv 2305.09781, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from unlearnbench.models.prompt_formats import Encoded
from unlearnbench.models.steering import UNSTEERED, Steering

if TYPE_CHECKING:
    from unlearnbench.models.language_model import LanguageModel

#: Architectures that read nothing but `position_ids` and the mask, tested one by one. Others have
#: positions in the mask that they make themselves (ALiBi) or layers that are no attention.
ARCHITECTURES = frozenset(
    {
        "gpt2",
        "gptj",
        "gpt_neox",
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "gemma",
        "gemma2",
        "gemma3_text",
        "phi3",
        "phi",
        "opt",
        "granite",
        "cohere",
        "mixtral",
    }
)

#: Implementations of attention that take a mask of every pair of tokens.
_TAKE_A_MASK = ("sdpa", "eager")


@dataclass(frozen=True)
class Tree:
    """Continuations that begin alike, joined at what they begin with.

    `ids`, `parents` [nodes]: each token and the node before it, -1 at the root; a parent stands
    before its children. `predicting`: for each continuation the nodes that predict its tokens.
    """

    ids: tuple[int, ...]
    parents: tuple[int, ...]
    predicting: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, answers: Sequence[Encoded]) -> Tree:
        """Each continuation without its last token, which predicts nothing that is asked."""
        known: dict[tuple[int, int], int] = {}
        ids: list[int] = []
        parents: list[int] = []
        predicting = []
        for answer in answers:
            node, path = -1, []
            for token in answer.ids[:-1]:
                place = known.setdefault((node, token), len(ids))
                if place == len(ids):
                    ids.append(token)
                    parents.append(node)
                node = place
                path.append(node)
            predicting.append(tuple(path[answer.start - 1 :]))
        return cls(tuple(ids), tuple(parents), tuple(predicting))


def takes_trees(model: LanguageModel, answers: Sequence[Encoded], steering: Steering) -> bool:
    """Whether the network reads every path of the answers' tree as it would read it alone.

    Not where a wrapped model steers by the prompt's last token and that is not one node for all.
    """
    config, network = model.hf.config, type(model.hf.base_model)
    return (
        config.model_type in ARCHITECTURES
        and network.__module__.startswith("transformers.")  # not code that a model brings
        and config._attn_implementation in _TAKE_A_MASK
        and (steering is UNSTEERED or _one_end(answers))
    )


def _one_end(answers: Sequence[Encoded]) -> bool:
    first = answers[0]
    return all(a.ids[: a.start] == first.ids[: first.start] for a in answers)


def fits_windows(model: LanguageModel, nodes: int) -> bool:
    """Whether no layer's window is shorter than a row of `nodes`: it is counted in columns."""
    window = getattr(model.hf.config, "sliding_window", None)
    return window is None or window >= nodes


def forward_trees(model: LanguageModel, trees: Sequence[Tree]) -> torch.Tensor:
    """The hidden states [trees, nodes, d] after the final norm, right-padded."""
    width = max(len(t.ids) for t in trees)
    ids = torch.zeros(len(trees), width, dtype=torch.long)
    depths = torch.zeros(len(trees), width, dtype=torch.long)
    sees = np.zeros((len(trees), width, width), dtype=bool)
    # Padding too: a token that attends to nothing has no number.
    sees[:, range(width), range(width)] = True
    for row, tree in enumerate(trees):
        depth: list[int] = []
        for node, parent in enumerate(tree.parents):
            depth.append(depth[parent] + 1 if parent >= 0 else 0)
            if parent >= 0:
                sees[row, node, :node] = sees[row, parent, :node]
        ids[row, : len(depth)] = torch.tensor(tree.ids)
        depths[row, : len(depth)] = torch.tensor(depth)
    mask = torch.from_numpy(sees)[:, None].to(model.device)  # [trees, 1, nodes, nodes]
    if model.hf.config._attn_implementation == "eager":  # it adds the mask to the scores
        scores = torch.zeros(mask.shape, dtype=model.dtype, device=model.device)
        mask = scores.masked_fill(~mask, torch.finfo(model.dtype).min)
    model.forward_tokens += ids.numel()
    output: torch.Tensor = model.hf.base_model(
        input_ids=ids.to(model.device),
        attention_mask=mask,
        position_ids=depths.to(model.device),
        use_cache=False,
    ).last_hidden_state
    return output
