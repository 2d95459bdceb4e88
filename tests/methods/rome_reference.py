"""ROME's search for v*, the plain way: whole sequences, whole model, float64, one row at a time.

Written from the paper's equations (Meng et al. 2022, section 3.1), apart from the product's code.
Tests compare with it; the benchmark takes its batched sister as "the usual loop".
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from unlearnbench import LanguageModel


def _with_delta(
    module: Any, delta: torch.Tensor, rows: Sequence[int], columns: Sequence[int]
) -> Any:
    """A hook that adds delta to the module's output at (row, column)."""

    def hook(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        change = torch.zeros_like(output)
        change[list(rows), list(columns)] = 1.0
        return output + change * delta

    return module.register_forward_hook(hook)


def slow_search(
    model: LanguageModel,
    layer: int,
    ids: Sequence[Sequence[int]],
    subjects: Sequence[int],
    targets: Sequence[Sequence[int]],
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float,
    clamp: float,
    kl_factor: float = 0.0625,
    stop_below: float = 0.05,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """v*, v_0 and the keys [contexts, d_mlp]; the last row is the KL row (no targets). float64."""
    hf = copy.deepcopy(model.hf).double()
    paths = model.modules.paths
    down = paths.bind(hf, hf.config.model_type).mlp_down(layer)
    seen: dict[str, torch.Tensor] = {}
    probe = down.register_forward_hook(
        lambda m, i, o: seen.update(key=i[0].detach(), value=o.detach())
    )
    keys, initial = [], torch.zeros(0)
    with torch.no_grad():
        for index, row in enumerate(ids):
            hf(input_ids=torch.tensor([row]))
            if index < len(ids) - 1:
                keys.append(seen["key"].reshape(1, len(row), -1)[0, subjects[index]])
            if index == 0:
                initial = seen["value"].reshape(1, len(row), -1)[0, subjects[0]]
        essence = hf(input_ids=torch.tensor([ids[-1]])).logits[0, -1].log_softmax(-1)
    probe.remove()
    delta = torch.zeros_like(initial, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=learning_rate)
    for step in range(1, steps + 1):
        losses = []
        for index, row in enumerate(ids):
            handle = _with_delta(down, delta, [0], [subjects[index]])
            logprobs = hf(input_ids=torch.tensor([row])).logits[0].log_softmax(-1)
            handle.remove()
            if targets[index]:
                wanted = torch.tensor([row[t] for t in targets[index]])
                at = torch.tensor(targets[index]) - 1
                losses.append(-logprobs[at, wanted].mean())
            else:
                kl = (logprobs[-1].exp() * (logprobs[-1] - essence)).sum()
        loss = torch.stack(losses).mean() + kl_factor * kl
        loss = loss + weight_decay * delta.norm() / initial.norm() ** 2
        if loss < stop_below or step == steps:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            if delta.norm() > clamp * initial.norm():
                delta.mul_(clamp * initial.norm() / delta.norm())
    return initial + delta.detach(), initial, torch.stack(keys)


def usual_loop(
    model: LanguageModel,
    layer: int,
    ids: Sequence[Sequence[int]],
    subjects: Sequence[int],
    targets: Sequence[Sequence[int]],
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float,
    clamp: float,
) -> torch.Tensor:
    """v* as editing toolkits find it: every step runs the whole model on the padded batch."""
    hf, down = model.hf, model.modules.mlp_down(layer)
    width = max(map(len, ids))
    batch = torch.zeros(len(ids), width, dtype=torch.long)
    mask = torch.zeros_like(batch)
    for r, row in enumerate(ids):
        batch[r, : len(row)] = torch.tensor(row)
        mask[r, : len(row)] = 1
    seen: dict[str, torch.Tensor] = {}
    probe = down.register_forward_hook(lambda m, i, o: seen.update(value=o.detach()))
    with torch.no_grad():
        logits = hf(input_ids=batch, attention_mask=mask).logits
    probe.remove()
    initial = seen["value"].reshape(len(ids), width, -1)[0, subjects[0]].clone()
    essence = logits[-1, len(ids[-1]) - 1].log_softmax(-1)
    delta = torch.zeros_like(initial, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=learning_rate)
    for step in range(1, steps + 1):
        handle = _with_delta(down, delta, range(len(ids)), subjects)
        logprobs = hf(input_ids=batch, attention_mask=mask).logits.log_softmax(-1)
        handle.remove()
        losses = []
        for r, row in enumerate(ids):
            if targets[r]:
                wanted = torch.tensor([row[t] for t in targets[r]])
                losses.append(-logprobs[r, torch.tensor(targets[r]) - 1, wanted].mean())
        now = logprobs[-1, len(ids[-1]) - 1]
        loss = torch.stack(losses).mean() + 0.0625 * (now.exp() * (now - essence)).sum()
        loss = loss + weight_decay * delta.norm() / initial.norm() ** 2
        if loss < 0.05 or step == steps:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            if delta.norm() > clamp * initial.norm():
                delta.mul_(clamp * initial.norm() / delta.norm())
    return initial + delta.detach()
