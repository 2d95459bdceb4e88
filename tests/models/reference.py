"""The slow way: one sequence at a time, the network's own logits, no cache, no padding."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@torch.no_grad()
def token_scores(
    hf: Any, ids: Sequence[int], start: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Log-probability of each of `ids[start:]`, in float64 from the logits on; and argmax hits."""
    logits = hf(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].double()
    targets = torch.tensor(list(ids[start:]))
    before = logits[start - 1 : len(ids) - 1]  # position p predicts token p + 1
    logprobs = before.log_softmax(dim=1).gather(1, targets[:, None])[:, 0]
    return logprobs.numpy(), (before.argmax(dim=1) == targets).numpy()


@torch.no_grad()
def greedy(hf: Any, prompt: Sequence[int], count: int, eos: Collection[int]) -> list[int]:
    """At most `count` tokens, each from a forward pass over all before it; EOS is left out."""
    ids = list(prompt)
    for _ in range(count):
        logits = hf(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        token = int(logits.argmax())
        if token in eos:
            break
        ids.append(token)
    return ids[len(prompt) :]


@torch.no_grad()
def layer_outputs(hf: Any, ids: Sequence[int]) -> tuple[torch.Tensor, ...]:
    """transformers' own hidden states: the embedding, each block; the last after the final norm."""
    output = hf(input_ids=torch.tensor([list(ids)]), output_hidden_states=True, use_cache=False)
    return tuple(state[0] for state in output.hidden_states)
