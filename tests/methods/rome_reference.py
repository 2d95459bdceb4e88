"""ROME's edit, the plain way: whole sequences, whole model, float64, one row at a time.

Written from the paper's equations (Meng et al. 2022, section 3.1), apart from the product's code.
Tests compare with it; the benchmark takes `usual_edit`, its batched sister, as "the usual loop".
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
        output = output.clone()
        output[list(rows), list(columns)] += delta
        return output

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
    site: str = "mlp",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """v*, v_0 and the keys [contexts, d_mlp]; the last row is the KL row (no targets). float64.

    With `site="block"` v is the block's output (MEMIT's z) instead of its MLP's.
    """
    hf = copy.deepcopy(model.hf).double()
    bound = model.modules.paths.bind(hf, hf.config.model_type)
    place = bound.layer(layer) if site == "block" else bound.mlp_down(layer)
    seen: dict[str, torch.Tensor] = {}
    probes = [
        bound.mlp_down(layer).register_forward_hook(lambda m, i, o: seen.update(key=i[0].detach())),
        place.register_forward_hook(lambda m, i, o: seen.update(value=o.detach())),
    ]
    keys, initial = [], torch.zeros(0)
    with torch.no_grad():
        for index, row in enumerate(ids):
            hf(input_ids=torch.tensor([row]))
            if index < len(ids) - 1:
                keys.append(seen["key"].reshape(1, len(row), -1)[0, subjects[index]])
            if index == 0:
                initial = seen["value"].reshape(1, len(row), -1)[0, subjects[0]]
        essence = hf(input_ids=torch.tensor([ids[-1]])).logits[0, -1].log_softmax(-1)
    for probe in probes:
        probe.remove()
    delta = torch.zeros_like(initial, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=learning_rate)
    for step in range(1, steps + 1):
        losses = []
        for index, row in enumerate(ids):
            handle = _with_delta(place, delta, [0], [subjects[index]])
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


def slow_update(
    model: LanguageModel,
    layer: int,
    value: torch.Tensor,
    keys: torch.Tensor,
    covariance: torch.Tensor | None,
    variant: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """u, and W' - W as [out, in], for what `slow_search` found: an explicit solve and equation 2.

    float64. Both variants' u is of the mean key; "rome" maps the clean prompt's key to the value.
    """
    mean = keys.mean(dim=0)
    u = mean if covariance is None else torch.linalg.solve(covariance, mean)
    u = u / u.norm()
    k = keys[0] if variant == "rome" else mean
    hf = copy.deepcopy(model.hf).double()
    down = model.modules.paths.bind(hf, hf.config.model_type).mlp_down(layer)
    with torch.no_grad():
        r = (value - down(k)) / k.dot(u)
    return u, torch.outer(r, u)


def slow_covariance(model: LanguageModel, layer: int, texts: Sequence[str]) -> torch.Tensor:
    """C = E[k k^T] over all tokens, one text at a time (no padding). float64."""
    hf = copy.deepcopy(model.hf).double()
    down = model.modules.paths.bind(hf, hf.config.model_type).mlp_down(layer)
    seen: list[torch.Tensor] = []
    probe = down.register_forward_hook(lambda m, i, o: seen.append(i[0][0].detach()))
    with torch.no_grad():
        for text in texts:
            hf(input_ids=torch.tensor([model.tokenizer(text)["input_ids"]]))
    probe.remove()
    keys = torch.cat(seen)  # [tokens, d_mlp]
    return keys.T @ keys / len(keys)


def usual_edit(
    model: LanguageModel,
    layer: int,
    ids: Sequence[Sequence[int]],
    subjects: Sequence[int],
    targets: Sequence[Sequence[int]],
    inverse: torch.Tensor,
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float,
    clamp: float,
) -> torch.Tensor:
    """W' - W [out, in] as editing toolkits find it, in the model's dtype, with C^-1 given.

    The keys, each step of the search and the clean prompt's key and value are passes of the padded
    batch through the whole model, with the head and the log-softmax at every position.
    """
    hf, down = model.hf, model.modules.mlp_down(layer)
    # The last token predicts nothing: toolkits leave it out too.
    shown = [row[:-1] if targets[r] else row for r, row in enumerate(ids)]
    width = max(map(len, shown))
    batch = torch.zeros(len(ids), width, dtype=torch.long)
    mask = torch.zeros_like(batch)
    for r, row in enumerate(shown):
        batch[r, : len(row)] = torch.tensor(row)
        mask[r, : len(row)] = 1
    seen: dict[str, torch.Tensor] = {}

    def look(rows: slice, columns: int) -> None:
        probe = down.register_forward_hook(
            lambda m, i, o: seen.update(key=i[0].detach(), value=o.detach())
        )
        with torch.no_grad():
            hf(input_ids=batch[rows, :columns], attention_mask=mask[rows, :columns])
        probe.remove()

    contexts = len(ids) - 1
    look(slice(0, contexts), max(subjects[:contexts]) + 1)
    mean = seen["key"][range(contexts), list(subjects[:contexts])].mean(dim=0)
    u = inverse @ mean
    u = u / u.norm()
    initial, essence = torch.zeros(0), torch.zeros(0)
    delta = torch.zeros(model.hf.config.hidden_size, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=learning_rate)

    def add(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        seen["value"] = output[0, subjects[0]].detach().clone()
        output = output.clone()
        output[range(len(ids)), list(subjects)] += delta
        return output

    for step in range(1, steps + 1):
        handle = down.register_forward_hook(add)
        logprobs = hf(input_ids=batch, attention_mask=mask).logits.log_softmax(-1)
        handle.remove()
        now = logprobs[-1, len(ids[-1]) - 1]
        if step == 1:
            initial, essence = seen["value"], now.detach()
        losses = []
        for r, row in enumerate(ids):
            if targets[r]:
                wanted = torch.tensor([row[t] for t in targets[r]])
                losses.append(-logprobs[r, torch.tensor(targets[r]) - 1, wanted].mean())
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
    look(slice(0, 1), subjects[0] + 1)
    value = initial + delta.detach()
    # R-ROME's one key: W k is of the mean key, which the clean prompt's pass does not give.
    r_vector = (value - down(mean)) / mean.dot(u)
    return torch.outer(r_vector, u)
