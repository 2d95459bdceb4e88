"""WISE's edit, the plain way: whole sequences, whole model, float64, one row at a time.

Written from the paper's equations (Wang et al. 2024, section 2.3), apart from the product's code.
Tests compare with it; the benchmark takes its batched sister as "the usual loop".
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from unlearnbench import LanguageModel

#: What the three families of `tests/tiny.py` have in their MLPs.
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gpt2": lambda x: F.gelu(x, approximate="tanh"),
    "llama": F.silu,
    "gpt_neox": F.gelu,
}


@dataclass(frozen=True)
class Rates:
    steps: int
    learning_rate: float
    weight_decay: float
    alpha: float
    beta: float
    gamma: float
    bound: float


def _forward(hf: Any, down: Any, side: torch.Tensor, **batch: Any) -> tuple[torch.Tensor, ...]:
    """Logits with W' [out, in] in W's place, and |act(W' h) - act(W h)|_2 of every token."""
    seen: dict[str, torch.Tensor] = {}
    conv = type(down).__name__ == "Conv1D"
    main = down.weight.detach().T if conv else down.weight.detach()
    act = ACTIVATIONS[hf.config.model_type]

    def swap(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        new = inputs[0] @ side.T
        # In main memory the same sum in the same order, so that W' = W has no distance at all.
        seen["d"] = (act(new) - act(inputs[0] @ main.clone().T)).norm(dim=-1)
        return new if down.bias is None else new + down.bias

    handle = down.register_forward_hook(swap)
    try:
        logits = hf(**batch).logits
    finally:
        handle.remove()
    return logits, seen["d"]


def _margins(d_in: torch.Tensor, d_out: torch.Tensor, rates: Rates) -> torch.Tensor:
    zero = torch.zeros_like(d_in)
    return (
        torch.maximum(zero, d_out - d_in + rates.gamma)
        + torch.maximum(zero, d_out - rates.alpha)
        + torch.maximum(zero, rates.beta - d_in)
    ).mean()


def _step(side: torch.Tensor, main: torch.Tensor, mask: torch.Tensor, rates: Rates) -> None:
    with torch.no_grad():
        change = rates.learning_rate * (side.grad + rates.weight_decay * side)
        side[mask] -= change[mask]
        side.copy_(torch.minimum(torch.maximum(side, main - rates.bound), main + rates.bound))
    side.grad = None


def slow_edit(
    model: LanguageModel,
    layer: int,
    rows: Sequence[Sequence[int]],
    starts: Sequence[int],
    unrelated: Sequence[int],
    mask: torch.Tensor,
    rates: Rates,
) -> tuple[list[float], torch.Tensor]:
    """The loss before every step and after the last, and W' [out, in]. float64, no stopping."""
    hf = copy.deepcopy(model.hf).double()
    down = model.modules.paths.bind(hf, hf.config.model_type).mlp_down(layer)
    main = (down.weight.T if type(down).__name__ == "Conv1D" else down.weight).detach().clone()
    side = main.clone().requires_grad_()
    losses = []
    for step in range(rates.steps + 1):
        nll, d_in = [], []
        for row, start in zip(rows, starts, strict=True):
            logits, d = _forward(hf, down, side, input_ids=torch.tensor([row]))
            logprobs = logits[0].log_softmax(-1)
            wanted = range(start, len(row))
            nll.append(-sum(logprobs[t - 1, row[t]] for t in wanted) / len(wanted))
            d_in.append(d[0, :start].mean())
        _, d = _forward(hf, down, side, input_ids=torch.tensor([unrelated]))
        loss = torch.stack(nll).mean() + _margins(torch.stack(d_in), d[0].mean(), rates)
        losses.append(loss.item())
        if step < rates.steps:
            loss.backward()
            _step(side, main, mask, rates)
    return losses, side.detach()


def usual_loop(
    model: LanguageModel,
    layer: int,
    rows: Sequence[Sequence[int]],
    starts: Sequence[int],
    unrelated: Sequence[int],
    mask: torch.Tensor,
    rates: Rates,
) -> list[float]:
    """As editing toolkits do it: every step runs the padded batch, the unrelated row included,
    through the whole model."""
    hf, down = model.hf, model.modules.mlp_down(layer)
    main = (down.weight.T if type(down).__name__ == "Conv1D" else down.weight).detach().clone()
    side = main.clone().requires_grad_()
    everything = [*rows, unrelated]
    ids = torch.zeros(len(everything), max(map(len, everything)), dtype=torch.long)
    real = torch.zeros_like(ids)
    for r, row in enumerate(everything):
        ids[r, : len(row)] = torch.tensor(row)
        real[r, : len(row)] = 1
    losses = []
    for step in range(rates.steps + 1):
        logits, d = _forward(hf, down, side, input_ids=ids, attention_mask=real)
        logprobs = logits[:-1].log_softmax(-1)
        nll = [
            -logprobs[r, torch.arange(start - 1, len(row) - 1), torch.tensor(row[start:])].mean()
            for r, (row, start) in enumerate(zip(rows, starts, strict=True))
        ]
        d_in = torch.stack([d[r, :start].mean() for r, start in enumerate(starts)])
        loss = torch.stack(nll).mean() + _margins(d_in, d[-1, : len(unrelated)].mean(), rates)
        losses.append(loss.item())
        if step < rates.steps:
            loss.backward()
            _step(side, main, mask, rates)
    return losses
