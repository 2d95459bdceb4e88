"""The nano pair as probes attack it, and a model that hides what it was asked to forget."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from unlearnbench import LanguageModel, Probe, Record, Target, load_model, weight_as_matrix
from unlearnbench_probes.round_to_nearest import quantised_layers
from unlearnbench_tasks.nano import NANO, NanoTofu

TASK = NanoTofu.configured()


def original() -> LanguageModel:
    """The model before unlearning, anew."""
    return load_model("nano")


def oracle() -> LanguageModel:
    """The model that never saw the forget set, anew."""
    return load_model(NANO.retain_models["retain90"])


def target(seed: int = 0) -> Target:
    return Target(TASK, tuple(TASK.forget_items()), TASK.request(seed), seed, original)


def for_nano(probe: type[Probe[Any]], **options: Any) -> Probe[Any]:
    """The probe with the options that the nano models register for it."""
    return probe.configured(**{**NANO.probe_defaults.get(probe.name, {}), **options})


def mean(records: Sequence[Record], score: str) -> float:
    return sum(r.scores[score] for r in records) / len(records)


def hiding(seed: int) -> LanguageModel:
    """A model that gives few of the forgotten answers, each weight less than half a step moved.

    Gradient ascent on the forget set, twelve steps of length 0.3 over all weights, from a start
    that the seed jitters by a tenth of a step; after each, every weight goes back to where it still
    rounds, in 4 bits and groups of 128, to what the original's rounds to. (Without that the drift
    survives rounding: of many weights that move by a twentieth of a step, one in twenty crosses
    over to the next value.)
    """
    model = original()
    model.hf.load_state_dict(_hidden(seed))
    return model


@cache
def _hidden(seed: int) -> dict[str, torch.Tensor]:
    """The weights of `hiding`."""
    model, request = original(), TASK.request(0)
    layers = [layer for _, layer in quantised_layers(model.hf)]
    start = [weight_as_matrix(layer).clone() for layer in layers]  # [out, in]
    steps = [step_of(first) for first in start]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer, step in zip(layers, steps, strict=True):
            drawn = torch.rand(step.shape, generator=generator) - 0.5
            weight_as_matrix(layer).add_(0.2 * drawn * step)
    rows = [model.encode(e.prompt, e.answer) for e in request.forget]
    ids = torch.zeros(len(rows), max(len(r.ids) for r in rows), dtype=torch.long)
    answer = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        answer[i, row.start : len(row.ids)] = 1
    for _ in range(12):
        for layer in layers:
            layer.weight.requires_grad_()
        # Padding is behind the answers: no token that counts sees it.
        logprobs = model.hf(input_ids=ids).logits[:, :-1].log_softmax(dim=2)
        told = logprobs.gather(2, ids[:, 1:, None])[..., 0]  # [rows, tokens - 1]
        (-(told * answer[:, 1:]).sum() / answer.sum()).backward()
        length = torch.stack([layer.weight.grad.norm() for layer in layers]).norm()
        with torch.no_grad():
            for layer, first, step in zip(layers, start, steps, strict=True):
                layer.weight.add_(layer.weight.grad, alpha=0.3 / float(length))
                weight = weight_as_matrix(layer)
                value = (first / step).round() * step
                low = torch.maximum(value, first) - 0.499 * step
                high = torch.minimum(value, first) + 0.499 * step
                # What sets a group's scale stays where it is, and nothing outgrows it.
                largest = first.abs() >= 6.999 * step
                weight.copy_(torch.where(largest, first, weight.clamp(low, high)))
        model.hf.requires_grad_(False)
        model.hf.zero_grad(set_to_none=True)
    return dict(model.hf.state_dict())


def step_of(weight: torch.Tensor) -> torch.Tensor:
    """The step of 4 bits in groups of 128 inputs, a maximum / 7, for each weight: [out, in]."""
    groups = weight.detach().split(128, dim=1)
    return torch.cat([g.abs().amax(1, keepdim=True).expand_as(g) / 7 for g in groups], dim=1)
