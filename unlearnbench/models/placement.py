"""A network over several devices, as accelerate lays it out, and what it keeps off them.

What is kept off (in the CPU's memory beside a GPU, on disk beside a CPU) is fetched for as long as
its module runs; in between, the parameter is a `meta` tensor without content, and accelerate's hook
on the module knows where the content is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def run_device(hf: Any) -> torch.device:
    """Where token ids go: the device on which the embedding runs."""
    embedding = hf.get_input_embeddings()
    for hook in _hooks(embedding):
        if getattr(hook, "execution_device", None) is not None:
            return _device(hook.execution_device)
    device: torch.device = next(hf.parameters()).device
    return device


def devices_of(hf: Any) -> list[torch.device]:
    """Every device on which a part of the network runs, the first one first."""
    found = [run_device(hf), *(p.device for p in hf.parameters() if not p.is_meta)]
    return list(dict.fromkeys(found))


def offloaded(hf: nn.Module) -> list[str]:
    """The parameters that are kept off the devices, by name."""
    return [name for name, parameter in hf.named_parameters() if parameter.is_meta]


def give_back(hf: Any) -> None:
    """Has the network without its head answer where its inputs are, as accelerate has the whole.

    Its last block may be on another device; who picks states by index needs both on one.
    """
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    base, skipped = hf.base_model, getattr(hf, "_skip_keys_device_placement", None)
    if base is hf:  # accelerate has seen to it
        return
    # The cache (`skipped`) stays where its layers are.
    hook = AlignDevicesHook(run_device(hf), io_same_device=True, skip_keys=skipped)
    add_hook_to_module(base, hook, append=True)


def weights(hf: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """As `named_parameters`, with the content of what is kept elsewhere, one at a time."""
    modules = dict(hf.named_modules())
    for name, parameter in hf.named_parameters():
        if not parameter.is_meta:
            yield name, parameter
            continue
        path, _, leaf = name.rpartition(".")
        yield name, _content(modules[path], leaf).to(parameter.dtype)


def _content(module: nn.Module, name: str) -> torch.Tensor:
    for hook in _hooks(module):
        if getattr(hook, "weights_map", None) is not None:
            kept: torch.Tensor = hook.weights_map[name]
            return kept
    raise RuntimeError(f'nobody knows the content of "{name}".')


def _hooks(module: nn.Module) -> list[Any]:
    hook = getattr(module, "_hf_hook", None)
    return [] if hook is None else list(getattr(hook, "hooks", [hook]))


def _device(told: Any) -> torch.device:
    return torch.device("cuda", told) if isinstance(told, int) else torch.device(told)
