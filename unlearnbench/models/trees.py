"""Trees of tokens: the continuations of a prompt as one row that holds what they share once.

A token attends to its ancestors alone and stands at its depth, so each path from the root is read
as if it were the only one (tree attention; Miao et al. 2024, arXiv 2305.09781, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unlearnbench.models.batching import sent
from unlearnbench.models.path_attention import PathAttention, segments
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
    before its children. For each continuation `paths` has its nodes from the root on, and `starts`
    where its answer starts in it.
    """

    ids: tuple[int, ...]
    parents: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]

    @classmethod
    def of(cls, answers: Sequence[Encoded]) -> Tree:
        """Each continuation without its last token, which predicts nothing that is asked."""
        ids: list[int] = []
        parents: list[int] = []
        paths: list[tuple[int, ...]] = []
        for number, answer in enumerate(answers):
            # It leaves the earlier ones where it leaves the one that it is longest like.
            shared, like = 0, 0
            for earlier in range(number):
                alike = _alike(answers[earlier].ids[:-1], answer.ids[:-1], shared)
                if alike > shared:
                    shared, like = alike, earlier
            beginning = paths[like][:shared] if shared else ()
            new = range(len(ids), len(ids) + len(answer.ids) - 1 - shared)
            parents += [beginning[-1] if shared else -1, *new[:-1]][: len(new)]
            ids += answer.ids[shared:-1]
            paths.append((*beginning, *new))
        return cls(tuple(ids), tuple(parents), tuple(paths), tuple(a.start for a in answers))

    @property
    def predicting(self) -> list[tuple[int, ...]]:
        """For each continuation the nodes that predict its tokens."""
        return [path[start - 1 :] for path, start in zip(self.paths, self.starts, strict=True)]


def _alike(one: tuple[int, ...], other: tuple[int, ...], known: int) -> int:
    """How many tokens both begin with; `known` where these are no more."""
    most = min(len(one), len(other))
    if most <= known or one[: known + 1] != other[: known + 1]:
        return known
    least = known + 1
    while least < most:
        middle = (least + most + 1) // 2
        if one[least:middle] == other[least:middle]:
            least = middle
        else:
            most = middle - 1
    return least


def takes_trees(model: LanguageModel, answers: Sequence[Encoded], steering: Steering) -> bool:
    """Whether the network reads every path of the answers' tree as it would read it alone.

    Not where a wrapped model steers by the prompt's last token and that is not one node for all.
    """
    return reads_causally(model) and (steering is UNSTEERED or _one_end(answers))


def reads_causally(model: LanguageModel) -> bool:
    """Whether nothing but `position_ids` and the mask tells the network what precedes a token."""
    config, network = model.hf.config, type(model.hf.base_model)
    return (
        config.model_type in ARCHITECTURES
        and network.__module__.startswith("transformers.")  # not code that a model brings
        and config._attn_implementation in _TAKE_A_MASK
        and not getattr(config, "use_bidirectional_attention", False)  # Gemma 3 as an encoder
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
    ids = np.zeros((len(trees), width), dtype=np.int64)
    depths = np.zeros((len(trees), width), dtype=np.int64)
    sees = np.zeros((len(trees), width, width), dtype=bool)
    # Padding too: a token that attends to nothing has no number.
    sees[:, range(width), range(width)] = True
    for row, tree in enumerate(trees):
        ids[row, : len(tree.ids)] = tree.ids
    below = np.tri(width, dtype=bool)
    found = segments(trees)
    for s in found:
        own = slice(s.path[-s.own], s.path[-1] + 1)
        sees[s.tree, own, list(s.path[: -s.own])] = True
        sees[s.tree, own, own] = below[: s.own, : s.own]
        depths[s.tree, own] = range(len(s.path) - s.own, len(s.path))
    mask = sent(sees[:, None], model.device)  # [trees, 1, nodes, nodes]
    if model.hf.config._attn_implementation == "eager":  # it adds the mask to the scores
        scores = torch.zeros(mask.shape, dtype=model.dtype, device=model.device)
        mask = scores.masked_fill(~mask, torch.finfo(model.dtype).min)
    by_paths: AbstractContextManager[Any] = nullcontext()
    if model.device.type == "cpu":
        attention = PathAttention(found, mask)
        if attention.pairs < 0.5 * sees.size:
            by_paths = attention
    model.forward_tokens += ids.size
    with by_paths:
        output: torch.Tensor = model.hf.base_model(
            input_ids=sent(ids, model.device),
            attention_mask=mask,
            position_ids=sent(depths, model.device),
            use_cache=False,
        ).last_hidden_state
    return output
