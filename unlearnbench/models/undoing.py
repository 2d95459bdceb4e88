"""Weights that are changed for a while and then are what they were, without loading them again."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from unlearnbench.errors import ModelError
from unlearnbench.models.placement import offloaded

if TYPE_CHECKING:
    from unlearnbench.models.language_model import LanguageModel


@contextmanager
def restored(model: LanguageModel, changing: Collection[str] | None = None) -> Iterator[None]:
    """Parameters and buffers are bit for bit what they were when the context ends.

    Also whether each takes gradients (none are left), and the mode of every module. A tensor may be
    written to, or its `data` replaced, also by data of another dtype (`hf.float()`); modules and
    parameters themselves must stay. Tied weights stay tied.

    Args:
        model: its network may be changed within the context.
        changing: the parameters and buffers that may be written to, by name; only of these a copy
            is kept, on their device. None: all. Replacing `data` needs no copy.

    Raises:
        KeyError: a name that the network does not have.
        ModelError: some weights are kept off the device (`--device balanced`).
    """
    network = model.hf
    if kept_off := offloaded(network):
        raise ModelError(
            f"{len(kept_off)} weights of {model.name} are kept off the device, where they cannot "
            "be changed. Use more or larger GPUs, or --dtype bfloat16."
        )
    buffers = [
        (module, name, buffer)
        for module in network.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    named: dict[str, torch.Tensor] = dict(network.named_parameters(remove_duplicate=False))
    named |= dict(network.named_buffers(remove_duplicate=False))
    takes = [(p, p.requires_grad) for p in network.parameters()]
    modes = [(module, module.training) for module in network.modules()]
    # A tied weight has several names and is one tensor.
    tensors = {id(t): t for t in named.values()}
    written = tensors if changing is None else {id(named[n]): named[n] for n in changing}
    # The storages themselves, as views of them may be held elsewhere.
    data = {key: tensor.data for key, tensor in tensors.items()}
    kept = {key: tensor.detach().clone() for key, tensor in written.items()}
    try:
        yield
    finally:
        for parameter, _ in takes:
            parameter.grad = None
        for key, tensor in tensors.items():
            tensor.data = data[key]
            if key in kept:
                tensor.data.copy_(kept.pop(key))
        for module, name, buffer in buffers:
            module._buffers[name] = buffer
        for parameter, took in takes:
            parameter.requires_grad_(took)
        for module, training in modes:
            module.training = training
