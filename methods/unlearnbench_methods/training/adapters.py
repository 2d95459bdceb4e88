"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) on the linear layers of the blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from peft import LoraConfig, LoraModel
from torch import nn

from unlearnbench import LanguageModel


def adapted_layers(
    model: LanguageModel, which: Literal["all", "attention", "mlp"]
) -> dict[str, nn.Module]:
    """The linear layers that get an adapter, by dotted path."""
    paths = model.modules.paths
    found = {}
    for index, block in enumerate(model.modules.layers):
        for inner, module in block.named_modules():
            attends = f"{inner}.".startswith(f"{paths.attention}.")
            linear = isinstance(module, nn.Linear) or _is_transposed(module)
            if linear and which in ("all", "attention" if attends else "mlp"):
                found[f"{paths.layers}.{index}.{inner}"] = module
    return found


def attach(
    model: LanguageModel, linears: Mapping[str, nn.Module], rank: int, alpha: float, seed: int
) -> LoraModel:
    """Puts a fresh adapter on each layer, in place; B = 0, so no answer changes yet."""
    # peft draws A from the global generator, which is put back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        adapters = LoraModel(
            model.hf,
            LoraConfig(
                r=rank,
                lora_alpha=alpha,
                target_modules=list(linears),
                fan_in_fan_out=any(map(_is_transposed, linears.values())),
            ),
            "trained",
        )
    for parameter in model.hf.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # in bfloat16 most steps would round to nothing
    return adapters


@contextmanager
def disabled(adapters: LoraModel) -> Iterator[None]:
    """While open, the model answers as if it had no adapter."""
    adapters.disable_adapter_layers()
    try:
        yield
    finally:
        adapters.enable_adapter_layers()


def _is_transposed(module: nn.Module) -> bool:
    """GPT-2's Conv1D keeps its weight as [in, out]."""
    return type(module).__name__ == "Conv1D"
